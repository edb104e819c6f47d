"""Recomputes a stored run from its instances and schedules, independently of its record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis import stats
from bench.errors import one_line
from bench.instance import Instance, read_json
from bench.references import shipped_reference
from bench.renamed import current_setting
from bench.run.evaluation import Entry, evaluate_entry
from bench.run.instance_set import set_hash
from bench.setting import Setting
from bench.settings_hash import settings_hash
from bench.tracking import StoredRun

FILES = ("instances.json.gz", "schedules.json.gz", "instances.parquet")
# the parameters that count, by their first parts
CONFIGURATION = ("solver", "dataset", "budget", *(field.name for field in fields(Setting)))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RecomputedRun:
    """One run: its record, and what is recomputed from its stored schedules.

    Arrays are (I,), one value per instance, in the instances' own sense and scale.
    """

    record: Mapping[str, Any]  # result.json; for a run that left none, its tags
    configuration: str
    run: str  # MLflow's id
    hardware: str = ""
    objective: Floats = field(default_factory=lambda: np.zeros(0))
    gap: Floats = field(default_factory=lambda: np.zeros(0))
    score: Floats = field(default_factory=lambda: np.zeros(0))
    feasible: Floats = field(default_factory=lambda: np.zeros(0))  # 0 or 1
    proved: Floats = field(default_factory=lambda: np.zeros(0))  # 1: the reference is an optimum
    mismatches: tuple[str, ...] = ()
    error: str = ""  # why nothing could be recomputed


def recompute_run(run: StoredRun, folder: Path) -> RecomputedRun:
    """Download the files of a run to `folder` and recompute it.

    Whatever cannot be read becomes the row's error.
    """
    known: dict[str, Any] = {
        "configuration": configuration(run.params),
        "run": run.id,
        "hardware": run.tags.get("hardware", ""),
    }
    record: Mapping[str, Any] = current_setting(run.tags)
    try:
        record = current_setting(read_json(run.artifact("result.json", folder)))
        if "failed" in (run.status, record["status"]):
            error = record.get("error") or run.tags.get("error") or "failed"
            return RecomputedRun(record, error=error, **known)
        files = [run.artifact(name, folder) for name in FILES]
        return RecomputedRun(record, **known, **recompute_schedules(record, *files))
    except Exception as error:  # whatever a missing or damaged file raises
        reason = run.tags.get("error") or f"cannot be recomputed: {one_line(error, 300)}"
        return RecomputedRun(record, error=reason, **known)


def recompute_schedules(
    record: Mapping[str, Any], instances: Path, schedules: Path, table: Path
) -> dict[str, Any]:
    """Verify and score every stored schedule.

    Returns
    -------
    dict
        The array fields and mismatches of `RecomputedRun`.

    Raises
    ------
    ValueError
        For files that do not belong together; a damaged one raises what its reader raises.
    """
    import pandas

    held = [Instance.from_dict(data) for data in read_json(instances)]
    entries = [Entry.from_dict(data) for data in read_json(schedules)]
    recorded = pandas.read_parquet(table)
    if not len(held) == len(entries) == len(recorded) > 0:
        raise ValueError(
            f"{len(held)} instances, {len(entries)} schedules, {len(recorded)} rows: "
            "must be equally many"
        )
    name = record["objective"]
    evaluated = [_evaluate(one, entry, name) for one, entry in zip(held, entries, strict=True)]
    objective = np.array([value for value, _ in evaluated])
    hashes = [one.hash() for one in held]
    columns = recorded[["reference", "reference_bound", "reference_proved"]]
    known = columns.to_numpy(dtype=float, na_value=math.nan)  # (I, 3)
    for i, one in enumerate(held):  # a stored reference counts before one that a run recorded
        best = shipped_reference(hashes[i], name)
        if math.isfinite(best.objective):
            known[i] = one.original(best.objective), one.original(best.bound), best.proved
    reference, bounds, proved = known.T
    gaps = [
        float(stats.gap(value, bound, one.sense))
        for value, bound, one in zip(objective, bounds, held, strict=True)
    ]
    found: dict[str, Floats] = {
        "objective": objective,
        "gap": np.array(gaps),
        "score": stats.score(objective, recorded["random"], reference),
        "feasible": np.array([float(feasible) for _, feasible in evaluated]),
        "proved": np.nan_to_num(proved),
    }
    mismatches = tuple(_mismatches(record, recorded, found, hashes, set_hash(held)))
    return {**found, "mismatches": mismatches}


def configuration(params: Mapping[str, str]) -> str:
    """Return a short hash of the settings that make runs comparable as seeds of one another.

    All settings count but seeds and paths. `params` are MLflow's: dotted option -> value.
    """
    nested: dict[str, Any] = {}
    for key, value in current_setting(params).items():
        *above, name = key.split(".")
        if [*above, name][0] in CONFIGURATION and name not in ("seed", "path"):
            part = nested
            for step in above:
                part = part.setdefault(step, {})
            part[name] = value
    return settings_hash(nested, 8)


def _evaluate(instance: Instance, entry: Entry, objective: str) -> tuple[float, bool]:
    """Return the objective of a stored schedule, in the instance's own sense, and feasibility."""
    if entry.instance_hash != instance.hash():
        raise ValueError(
            f"schedule of instance {entry.instance_hash[:8]} stored beside instance "
            f"{instance.hash()[:8]}"
        )
    evaluation = evaluate_entry(instance, entry, objective)
    return instance.original(evaluation.value), evaluation.feasible


def _mismatches(
    record: Mapping[str, Any],
    recorded: Any,
    found: Mapping[str, Floats],
    hashes: Sequence[str],
    digest: str,
) -> Iterator[str]:
    """Yield, in words, every difference between what a run recorded and what is recomputed."""
    if record.get("set_hash") != digest:
        yield f"set_hash {record.get('set_hash')} recorded, the stored instances have {digest}"
    if list(recorded["instance_hash"]) != list(hashes):
        yield "instance_hash of the table and of the stored instances differ"
    for column in ("objective", "feasible"):
        stated = recorded[column].to_numpy(dtype=float)
        differs = np.isfinite(stated) & ~np.isclose(stated, found[column], rtol=1e-9, atol=1e-9)
        for i in np.flatnonzero(differs).tolist():
            yield (
                f"{column} {stated[i]:g} recorded on instance {i} ({hashes[i][:8]}), "
                f"recomputed {found[column][i]:g}"
            )
    for name, column in (("objective_mean", "objective"), ("feasible", "feasible")):
        stated = record.get(name)
        mean = recorded[column].astype(float).mean()  # crashed instances are left out
        if stated is not None and not math.isclose(stated, mean, rel_tol=1e-9, abs_tol=1e-9):
            yield f"{name} {stated:g} recorded, its own table has {mean:g}"
    if (found["gap"] < -1e-9).any():
        i = int(np.nanargmin(found["gap"]))
        yield f"objective beyond the recorded bound on instance {i}: the bound is invalid"
