"""Scores finished runs again, so that all rows of a table have the same references.

A run is scored when it ends, against what is known then; later runs may improve the references. So
before a table is printed every run in it is scored against what is known now, and its files and its
run in the tracker are brought up to date.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from bench.analysis.anytime import MEASURES
from bench.instance import Instance
from bench.references import RandomPlay, Reference, References
from bench.run.evaluation import anytime_columns, evaluate_entry, reference_columns, summarise
from bench.run.job import Job
from bench.run.publish import tracked_run
from bench.run.record import Record, Row
from bench.run.run_folder import LOCK, RECORD, TABLE, RunFolder
from bench.setting import Setting


def rescore(
    job: Job, runs: Path, references: References, tracker: Any, parent: Any = None
) -> Record | None:
    """Score the stored run of a job; return its record, None where it has no rows.

    Parameters
    ----------
    runs, tracker, parent
        As of `bench.run.runner.run`.
    """
    folder = RunFolder(job.folder(runs))
    with FileLock(folder.path / LOCK):
        record = folder.stored_record()
        if record is None or "random_mean" not in record or not (folder.path / TABLE).exists():
            return None
        return rescored(record, folder, job, references, tracker, parent)


def rescored(
    record: Record,
    folder: RunFolder,
    job: Job,
    references: References,
    tracker: Any,
    parent: Any = None,
) -> Record:
    """Return a stored record, compared with what is known of its instances now.

    Where that differs from what is stored, the record, its table and the tracker's run are updated.
    """
    objective = job.setting.objective
    rows = folder.rows()
    changed = False
    entries = None
    for i, (row, instance) in enumerate(zip(rows, job.instances, strict=True)):
        known, random = known_of(instance, job.setting, references)
        columns = reference_columns(instance, row["objective"], known, random)
        if _holds(row, columns):
            continue
        changed = True
        entries = entries or folder.stored_entries()
        evaluation = evaluate_entry(instance, entries[i], objective)
        row.update(columns)
        row.update(anytime_columns(instance, evaluation, known, job.budget.seconds))
    if not changed:
        return record
    kept = {
        key: value
        for key, value in record.items()
        if key.startswith("decision_latency") or key in ("error", "errors", "solve_seconds")
    }
    found = cast("Record", {**record, **summarise(rows), **kept})
    # The tracker's run is opened first: if this is killed, the same command publishes the rest.
    with tracked_run(tracker, job, folder, parent, sample=False) as tracked:
        folder.write_rows(found, rows)
        tracked.summary(found)
        for name in (TABLE, RECORD):
            tracked.artifact(folder.path / name)
        tracked.finish(found["status"], found["error"])
    return found


def known_of(
    instance: Instance, setting: Setting, references: References
) -> tuple[Reference, RandomPlay]:
    """Return what is known of an instance, and its random baseline."""
    return references.known(instance, setting.objective), references.random(instance, setting)


def _holds(row: Row, columns: Row) -> bool:
    """Return whether a row has these numbers already, and all that depends on them."""
    stored = cast("Mapping[str, Any]", row)
    return all(name in stored for name in MEASURES) and all(
        stored.get(name) == value or (_is_missing(stored.get(name)) and _is_missing(value))
        for name, value in cast("Mapping[str, Any]", columns).items()
    )


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
