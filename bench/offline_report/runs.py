"""The runs of the offline evaluation report: collected from run folders, merged and labelled.

A run is a flat mapping: fields of its record (`bench.run.record.Record`), the hash of its settings,
when it finished, its instances by their hashes, and the objective of each. `with_gaps` computes
the gaps from these against the references that are shipped now.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.instance import read_json
from bench.references import shipped_file
from bench.references.stored_gaps import shipped_gaps
from bench.renamed import SOLVERS, current_plugin, current_setting
from bench.row_labels import label, natural_order
from bench.run.record import PROBLEM_FIELDS, selection
from bench.run.run_folder import CONFIG, RECORD, TABLE
from bench.settings_hash import settings_hash
from bench.tracking.values import flatten

PROBLEM = (*PROBLEM_FIELDS, "observe")  # runs that differ in one of these have separate sections
CONFIGURATION = (*PROBLEM, "solver", "seed", "logs/name", "settings")
IDENTITY = (*CONFIGURATION, "logs/hash", "learning/selection", "learning/steps")
KEPT_FIELDS = (*PROBLEM, "solver", "seed", "status")
KEPT_PREFIXES = ("logs/", "ope/", "learning/", "offline/")

RunFacts = dict[str, Any]


def collect(folder: Path) -> list[RunFacts]:
    """Read the finished and failed runs below a folder of run folders."""
    return [_read_run(path) for path in sorted(folder.glob(f"*/*/{RECORD}"))]


def _read_run(path: Path) -> RunFacts:
    """Read what the report needs of one run."""
    import pandas
    import yaml

    record = under_current_names(read_json(path))
    config = yaml.safe_load(path.with_name(CONFIG).read_text())
    run = {
        key: record[key] for key in record if key in KEPT_FIELDS or key.startswith(KEPT_PREFIXES)
    }
    run["settings"] = settings_of(config)
    run["options"] = {
        name: value
        for name, value in flatten(current_plugin(_settings(config))).items()
        if not name.endswith("_target_")
    }
    run["finished"] = path.stat().st_mtime
    run |= {"instances": [], "objectives": []}
    if record["status"] == "finished":
        table = pandas.read_parquet(path.with_name(TABLE))
        run["instances"] = table["instance_hash"].tolist()
        run["objectives"] = [_finite(value) for value in table["objective"].tolist()]
        if not all(map(shipped_file, run["instances"])):
            run["gaps"] = [_finite(value) for value in table["gap"].tolist()]
    elif name := _name_of_log(config):
        run["logs/name"] = name
    if policy := _given_policy(config):
        run["policy"] = policy
    return run


def with_gaps(run: RunFacts) -> RunFacts:
    """Return a run with the gaps to the bounds that are shipped now.

    Where an instance is in no shipped file, or the run was stored by a version that kept no
    objectives, the gap is the one that was known when the run ended.
    """
    if not run.get("objectives"):
        return {"gaps": [], **run}
    hashes = run["instances"]
    found = shipped_gaps(run["objectives"], hashes, run["objective"]).tolist()
    former = run.get("gaps") or [None] * len(hashes)
    today = zip(hashes, found, former, strict=True)
    return {**run, "gaps": [_finite(new) if shipped_file(one) else old for one, new, old in today]}


def under_current_names(record: Mapping[str, Any]) -> RunFacts:
    """Return a stored run under the current names of its keys, values and solver."""
    current = current_setting(record)
    if "solver" in current:
        current["solver"] = SOLVERS.get(current["solver"], current["solver"])
    return current


def settings_of(config: Mapping[str, Any]) -> str:
    """Return a short hash of the settings of a run's solver and budget, without log and dataset."""
    return settings_hash(list(_settings(config).values()), 8)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run's solver, without its log, and its budget."""

    def without_logs_key(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: without_logs_key(inner) for key, inner in value.items() if key != "logs"}

    return {"solver": without_logs_key(config.get("solver")), "budget": config.get("budget")}


def _name_of_log(config: Mapping[str, Any]) -> str | None:
    """Return the name of the log that a run's solver was given."""
    solver = config.get("solver", {})
    logs = (solver.get("offline") or solver).get("logs") or {}
    name: str | None = logs.get("name")
    return name


def _given_policy(config: Mapping[str, Any]) -> str | None:
    """Return the file of another run's policy that a run plays or starts from."""
    solver = current_plugin(config.get("solver", {}))
    parts = [solver, *(solver.get(part) or {} for part in ("offline", "online"))]
    given = [part.get(key) for part in parts for key in ("checkpoint", "init_policy")]
    return next((str(path) for path in given if path), None)


def merge(known: Iterable[RunFacts], new: Iterable[RunFacts]) -> list[RunFacts]:
    """Return one run of each identity, the one that finished last.

    A failed run is dropped where the same configuration has a finished run.
    """
    runs = sorted([*known, *new], key=lambda run: run["finished"])
    finished = {_key(run, CONFIGURATION) for run in runs if not is_failed(run)}
    kept = {
        _key(run, IDENTITY): run
        for run in runs
        if not is_failed(run) or _key(run, CONFIGURATION) not in finished
    }
    return [kept[key] for key in sorted(kept)]


def _key(run: RunFacts, fields: Sequence[str]) -> str:
    return json.dumps([run.get(field) for field in fields])


def _finite(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(value)


def group_by(runs: Iterable[RunFacts], *keys: str) -> dict[tuple[Any, ...], list[RunFacts]]:
    """Return the runs by their values of `keys`, in the order of their first appearance."""
    groups: dict[tuple[Any, ...], list[RunFacts]] = {}
    for run in runs:
        groups.setdefault(tuple(run.get(key) for key in keys), []).append(run)
    return groups


def group_cells(runs: Iterable[RunFacts]) -> dict[tuple[str, str], list[RunFacts]]:
    """Return the runs of each (log, learner), by their labels: one run per seed."""
    return {(log, label): cell for (log, label), cell in group_by(runs, "log", "label").items()}


def is_offline(run: RunFacts) -> bool:
    """Return whether a run was trained on a log only."""
    return "logs/name" in run and not any(key.startswith("offline/") for key in run)


def is_failed(run: RunFacts) -> bool:
    """Return whether a run failed."""
    return run.get("status") == "failed"


def without_logs(runs: Iterable[RunFacts]) -> list[RunFacts]:
    """Return the runs that used no log: dispatch rules, and learners trained from scratch."""
    return [run for run in runs if "logs/name" not in run]


def add_labels(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """Return copies of the runs of one problem with the names of their row and column, by rows.

    Added keys: `label`, the solver, marked where its policy was selected by true return, and where
    it ran with several settings with the options that differ, or with the hash of its settings if
    the runs were stored by a version that kept no options; `grade`, the kind of its log (mixed of
    cluster-small-mixed-v0); `log`, the grade where a single log has it, else the name of the log,
    with the hash of its content where it was recorded several times (the held-out instances of
    these recordings differ).
    """
    by_solver = group_by(runs, "solver")
    several = {
        solver: own for (solver,), own in by_solver.items() if len(group_by(own, "settings")) > 1
    }
    by_log = group_by((run for run in runs if "logs/name" in run), "logs/name")
    recordings = {
        name: {run["logs/hash"] for run in own if "logs/hash" in run}
        for (name,), own in by_log.items()
    }
    grades = [_grade(name) for name in recordings]
    labelled = []
    for run in runs:
        labels = {"label": _label(run, several.get(run["solver"], []))}
        if name := run.get("logs/name"):
            shown = name if grades.count(_grade(name)) > 1 else _grade(name)
            is_marked = len(recordings[name]) > 1 and "logs/hash" in run
            mark = f" #{run['logs/hash'][:8]}" if is_marked else ""
            labels |= {"grade": _grade(name), "log": f"{shown}{mark}"}
        labelled.append({**run, **labels})
    return sorted(labelled, key=lambda run: natural_order(run["label"]))


def _label(run: RunFacts, rivals: Sequence[RunFacts]) -> str:
    """Return the name of a run's solver, told apart from `rivals`, its runs with other settings."""
    name = f"{run['solver']} (oracle)" if selection(run) == "oracle" else str(run["solver"])
    options = [one["options"] for one in rivals if "options" in one]
    names = {label(name, one, options) for one in options}
    if len(options) < len(rivals) or len(names) < len(group_by(rivals, "settings")):
        return f"{name} #{run.get('settings')}"
    return label(name, run.get("options", {}), options)


def _grade(name: str) -> str:
    """Return the kind of a log from its name: cluster-small-mixed-v0 -> mixed."""
    parts = name.split("-")
    return parts[-2] if len(parts) > 2 else name
