"""Recomputes a stored run from its instances and schedules, independently of its record."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import one_line, plain_text
from bench.instance import Instance, read_json
from bench.instance_set import set_hash
from bench.plugins import pinned_hashes
from bench.renamed import current_setting
from bench.run.evaluation import Entry, evaluate_entry
from bench.run.record import problem
from bench.run.record_schema import valid_claims
from bench.run.run_folder import INSTANCES, RECORD, SCHEDULES, TABLE
from bench.setting import Setting
from bench.settings_hash import settings_hash
from bench.tracking import StoredRun

FILES = (INSTANCES, SCHEDULES, TABLE)
# the parameters that count, by their first parts
CONFIGURATION = ("solver", "dataset", "budget", *(field.name for field in fields(Setting)))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RecomputedRun:
    """One run: what it claims, and what is recomputed from its stored schedules.

    Attributes
    ----------
    record
        The claims of the right form (`bench.run.record_schema`), with the hash of the stored
        instances; of a run without a readable record its tags.
    configuration
        Short hash of the settings that make runs comparable as seeds of one another.
    run, started
        MLflow's id, and when it began (ms since 1970).
    origin
        Who ran it, where, with which code.
    instances, objective, feasible
        (I,) instances, internal objectives (penalised where infeasible), 0 or 1.
    schedules
        Hash of the schedules; equal ones are copies.
    mismatches
        What is wrong with the claims; such a run is not ranked.
    error
        Why nothing could be recomputed.
    """

    record: Mapping[str, Any]
    configuration: str
    run: str
    started: int = 0
    hardware: str = ""
    origin: str = ""
    instances: tuple[Instance, ...] = ()
    objective: Floats = field(default_factory=lambda: np.zeros(0))
    feasible: Floats = field(default_factory=lambda: np.zeros(0))
    schedules: str = ""
    mismatches: tuple[str, ...] = ()
    error: str = ""

    @cached_property
    def group(self) -> tuple[Any, ...]:
        """What the seeds of one row share, recomputed from the run's own content.

        Solver, problem, configuration, whether it decided in a process of its own, and origin: the
        user of the store, code version, hardware.
        """
        record = self.record
        played = (record.get("solver"), record.get("information"), record.get("isolated"))
        return (*played, *problem(record), self.configuration, self.origin)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """What a newer run must share with an older one to replace it: the group and the seed."""
        return (*self.group, self.record.get("seed"))


def recompute_run(run: StoredRun, folder: Path) -> RecomputedRun:
    """Download the files of a run to `folder` and recompute it.

    Whatever cannot be read becomes the row's error.
    """
    known: dict[str, Any] = {"configuration": "", "run": run.id, "started": run.started}
    record: dict[str, Any] = {}
    said = ""
    try:
        tags = {str(name): str(value) for name, value in run.tags.items()}
        said = plain_text(tags.get("error", ""), 300)
        record = _of_tags(tags)
        known |= {
            "configuration": configuration(run.params),
            "hardware": plain_text(tags.get("hardware", ""), 100),
        }
        stored = read_json(run.artifact(RECORD, folder))
        claims, wrong = valid_claims(_renamed(stored))
        record = {**record, **claims}
        known["origin"] = origin(tags, record, known["hardware"])
        if "failed" in (run.status, record.get("status")):
            error = record.get("error") or said or "failed"
            return RecomputedRun(record, error="; ".join([error, *wrong]), **known)
        if "objective" not in claims:
            raise ValueError("; ".join(wrong))
        files = [run.artifact(name, folder) for name in FILES]
        found = recompute_schedules(record, *files)
        mismatches = (*wrong, *found.pop("mismatches"))
        record["set_hash"] = set_hash(found["instances"])
        return RecomputedRun(record, mismatches=mismatches, **known, **found)
    except Exception as error:  # whatever a missing, damaged or hostile file raises
        reason = said or f"cannot be recomputed: {plain_text(one_line(error), 300)}"
        return RecomputedRun(record, error=reason, **known)


def recompute_schedules(
    record: Mapping[str, Any], instances: Path, schedules: Path, table: Path
) -> dict[str, Any]:
    """Verify and score every stored schedule.

    Returns
    -------
    dict
        instances, objective, feasible, schedules and mismatches of `RecomputedRun`.

    Raises
    ------
    ValueError
        For files that do not belong together; a damaged one raises what its reader raises.
    """
    import pandas

    held = tuple(Instance.from_dict(data) for data in read_json(instances))
    entries = [Entry.from_dict(data) for data in read_json(schedules)]
    recorded = pandas.read_parquet(table)
    if not len(held) == len(entries) == len(recorded) > 0:
        raise ValueError(
            f"{len(held)} instances, {len(entries)} schedules, {len(recorded)} rows: "
            "must be equally many"
        )
    name = record["objective"]
    evaluated = [_evaluate(one, entry, name) for one, entry in zip(held, entries, strict=True)]
    found: dict[str, Any] = {
        "instances": held,
        "objective": np.array([value for value, _ in evaluated]),
        "feasible": np.array([float(feasible) for _, feasible in evaluated]),
        "schedules": _schedules_hash(entries),
    }
    mismatches = tuple(_mismatches(record, recorded, found))
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


def origin(tags: Mapping[str, str], record: Mapping[str, Any], hardware: str) -> str:
    """Return who made a run: the user of the store, the code version, the hardware."""
    return "|".join([tags.get("mlflow.user", ""), str(record.get("git_commit")), hardware])


def _renamed(stored: Any) -> Any:
    return current_setting(stored) if isinstance(stored, Mapping) else stored


def _of_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the claims in a run's tags, for a run that left no record."""
    text = dict(current_setting(tags))
    seed = str(text.pop("seed", ""))
    seeds = {"seed": int(seed)} if seed.isdecimal() and len(seed) < 19 else {}
    return valid_claims({**text, **seeds})[0]


def _evaluate(instance: Instance, entry: Entry, objective: str) -> tuple[float, bool]:
    """Return the internal objective of a stored schedule, and whether it is feasible."""
    if entry.instance_hash != instance.hash():
        raise ValueError(
            f"schedule of instance {str(entry.instance_hash)[:8]} stored beside instance "
            f"{instance.hash()[:8]}"
        )
    evaluation = evaluate_entry(instance, entry, objective)
    if not math.isfinite(evaluation.value):
        raise ValueError(f"the objective of instance {instance.hash()[:8]} is not finite")
    return evaluation.value, evaluation.feasible


def _schedules_hash(entries: Sequence[Entry]) -> str:
    """Return a hash of all schedules, whatever the order of their pieces."""
    plain = [
        sorted(zip(*(data[name] for name in ("task", "agent", "start", "end")), strict=True))
        for data in (entry.result.schedule.to_dict() if entry.result else None for entry in entries)
        if data is not None
    ]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def _mismatches(
    record: Mapping[str, Any], recorded: Any, found: Mapping[str, Any]
) -> Iterator[str]:
    """Yield, in words, every difference between what a run claims and what is recomputed."""
    held: Sequence[Instance] = found["instances"]
    hashes = [one.hash() for one in held]
    digest = set_hash(held)
    if record.get("set_hash") != digest:
        yield f"set_hash {record.get('set_hash')} recorded, the stored instances have {digest}"
    yield from _set_problems(record, held, digest)
    if list(recorded["instance_hash"]) != hashes:
        yield "instance_hash of the table and of the stored instances differ"
    values = [one.original(x) for one, x in zip(held, found["objective"].tolist(), strict=True)]
    for column, exact in (("objective", np.array(values)), ("feasible", found["feasible"])):
        stated = recorded[column].to_numpy(dtype=float)
        differs = np.isfinite(stated) & ~np.isclose(stated, exact, rtol=1e-9, atol=1e-9)
        for i in np.flatnonzero(differs).tolist():
            yield (
                f"{column} {stated[i]:g} recorded on instance {i} ({hashes[i][:8]}), "
                f"recomputed {exact[i]:g}"
            )
    for name, column in (("objective_mean", "objective"), ("feasible", "feasible")):
        claimed = record.get(name)
        mean = recorded[column].astype(float).mean()  # crashed instances are left out
        if claimed is not None and not math.isclose(claimed, mean, rel_tol=1e-9, abs_tol=1e-9):
            yield f"{name} {claimed:g} recorded, its own table has {mean:g}"


def _set_problems(
    record: Mapping[str, Any], held: Sequence[Instance], digest: str
) -> Iterator[str]:
    """Yield why the instances are not those that the record names.

    The suite knows the instances of every data set whose file in conf/dataset pins their hash.
    """
    name, split = record.get("dataset", ""), record.get("split", "test")
    pinned = pinned_hashes(name).get(split)
    if pinned not in (None, digest):
        yield (
            f"these are not the instances of {name}, split {split} (set hash {digest[:8]}, pinned "
            f"{pinned[:8]}); a set of one's own needs a name of its own (dataset.name=NAME)"
        )
    budget = {one.sharing == "budget" for one in held}
    if budget != {record.get("track") == "assign"}:
        yield f"track {record.get('track')} claimed, which the instances do not have"
