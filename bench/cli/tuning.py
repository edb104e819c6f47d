"""A search over hyperparameters: what it minimises, and what it leaves behind.

`trials.json`, in the sweep's folder and, shipped, `bench/results/tuning-NAME.json`:

| key | meaning |
|---|---|
| schema, date, command, hardware, versions | version of this form; when, how and where the search ended |
| problem | solver, dataset, split, seed, track, objective, information and set_hash that every trial shares, and its budget |
| space, sampler | parameter -> the values it may take; how they were suggested |
| fixed | the solver's other values, the same in every trial |
| value | what is minimised: `gap_mean` or `objective_mean` (negated where more is better), over the validation instances |
| default | the solver's own values, under the same budget |
| trials | in the order of suggestion: number, parameters, value (null: failed), seconds (wall), error; key, started and |
| | git_commit of the run, which is that of an earlier session where the search was continued |
| best | the trial with the smallest value, null where all failed |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.contracts import Budget
from bench.run import provenance

SCHEMA = 1
RESULTS = Path(__file__).parents[1] / "results"
PROBLEM = ("solver", "dataset", "split", "seed", "track", "objective", "information", "set_hash")

Record = Mapping[str, Any]
Trial = dict[str, Any]


def value(record: Record, sense: str) -> float | None:
    """What a search minimises: the mean gap where bounds are known, else the mean objective; none for a run that failed."""
    if record["status"] == "failed" or record["errors"]:
        return None
    if record["gap_mean"] is not None:
        return record["gap_mean"]
    return record["objective_mean"] if sense == "min" else -record["objective_mean"]


def trial(record: Record, sense: str, parameters: Iterable[str]) -> Trial:
    """A run as a row; `record["values"]` holds the configuration, dotted key -> value."""
    return {
        "parameters": {name: record["values"][name] for name in parameters},
        "value": value(record, sense),
        "seconds": record.get("wall_seconds"),
        "error": record.get("error"),
        **{key: record.get(key) for key in ("key", "started", "git_commit")},
    }


def best(trials: Sequence[Trial]) -> Trial | None:
    """The one with the smallest value, the first of equals."""
    return min(
        (one for one in trials if one["value"] is not None),
        key=lambda one: one["value"],
        default=None,
    )


def report(
    default: Record, records: Mapping[int, Record], sense: str, space: Mapping[str, str], sampler: Mapping[str, Any],
    budget: Budget, command: str,
) -> dict[str, Any]:  # fmt: skip
    """The content of `trials.json`.

    Args:
        default: the run with the solver's own values.
        records: number of the trial -> its run.
        space: parameter -> the values it may take, in words.
    """
    trials = [
        {"number": number, **trial(record, sense, space)}
        for number, record in sorted(records.items())
    ]
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "problem": {**{key: default[key] for key in PROBLEM}, "budget": asdict(budget)},
        "space": dict(space),
        "sampler": dict(sampler),
        "fixed": {name: value for name, value in default["values"].items() if name not in space},
        "value": "gap_mean" if default.get("gap_mean") is not None else "objective_mean",
        "default": trial(default, sense, space),
        "trials": trials,
        "best": best(trials),
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Readable, and whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def ship(name: str, content: Mapping[str, Any]) -> Path:
    """Write it beside the other results of this suite."""
    path = RESULTS / f"tuning-{name}.json"
    write(path, content)
    return path
