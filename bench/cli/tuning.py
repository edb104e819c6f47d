"""A search over hyperparameters: what it minimises, and the file that it writes.

`trials.json`, in the sweep's folder and, with `update_references=true`, as
`bench/results/tuning-NAME.json`:

| key | meaning |
|---|---|
| schema, date, command, hardware, versions | version of this form; when, how and where it ended |
| problem | what every trial shares: solver, dataset, split, seed, track, ... and its budget |
| space, sampler | parameter -> the values it may take; how they were suggested |
| fixed | the solver's other values, the same in every trial |
| value | what is minimised over the validation instances: `gap_mean`, or `objective_mean` |
| | (negated where more is better) |
| default | the solver's own values, under the same budget |
| trials | in the order of suggestion: number, parameters, value (null: failed), value_when_ended, |
| | seconds (wall), error; key, started and git_commit of the run, which is that of an earlier |
| | session where the search was resumed |
| best | the trial with the smallest value, null where all failed |

All values are against the references known when the file is written. `value_when_ended` is against
those known when the trial ended: Optuna has that one, and suggested the later trials by it. In
files of schema 1, which do not have it, it is the `value`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.contracts import Budget
from bench.files import write_text
from bench.paths import path_component
from bench.run import provenance
from bench.run.record import PROBLEM_FIELDS

SCHEMA = 2
RESULTS = Path(__file__).parents[1] / "results"
PROBLEM = ("solver", "seed", "information", *PROBLEM_FIELDS)

Trial = dict[str, Any]


def value(record: Mapping[str, Any], sense: str) -> float | None:
    """Return what a search minimises: the mean gap, or the mean objective without bounds.

    None for a run that failed.
    """
    if record["status"] == "failed" or record["errors"]:
        return None
    if record["gap_mean"] is not None:
        return float(record["gap_mean"])
    objective = float(record["objective_mean"])
    return objective if sense == "min" else -objective


def trial(
    record: Mapping[str, Any], ended: Mapping[str, Any], sense: str, parameters: Iterable[str]
) -> Trial:
    """Return a run as a row; `record["values"]` is its configuration, dotted option -> value.

    `ended` is the record as it was when the trial ended.
    """
    return {
        "parameters": {name: record["values"][name] for name in parameters},
        "value": value(record, sense),
        "value_when_ended": value(ended, sense),
        "seconds": record.get("wall_seconds"),
        "error": record.get("error"),
        **{key: record.get(key) for key in ("key", "started", "git_commit")},
    }


def changed(trials: Sequence[Trial]) -> int:
    """Return how many trials have another value than when they ended."""
    return sum(one["value"] != one["value_when_ended"] for one in trials)


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the smallest value, the first of equals."""
    return min(
        (one for one in trials if one["value"] is not None),
        key=lambda one: one["value"],
        default=None,
    )


def report(
    default: Mapping[str, Any],
    records: Mapping[int, Mapping[str, Any]],
    ended: Mapping[int, Mapping[str, Any]],
    sense: str,
    space: Mapping[str, str],
    sampler: Mapping[str, Any],
    budget: Budget,
    command: str,
) -> dict[str, Any]:
    """Return the content of `trials.json`.

    Parameters
    ----------
    default
        The run with the solver's own values.
    records
        Number of the trial -> its run, compared with the references known now, as `default` is.
    ended
        The same with the records as they were when the trials ended.
    sense
        `min` or `max`: the instances' own sense.
    space
        Parameter -> the values it may take, in words.
    """
    trials = [
        {"number": number, **trial(record, ended[number], sense, space)}
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
        "default": {**trial(default, default, sense, space), "value_when_ended": None},
        "trials": trials,
        "best": best(trials),
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON, the whole file or nothing."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def store(name: str, content: Mapping[str, Any]) -> Path:
    """Write it beside the other results of this suite; return the path."""
    path = RESULTS / f"tuning-{path_component('tuning', name)}.json"
    write(path, content)
    return path
