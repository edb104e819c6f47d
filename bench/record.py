"""What a run leaves behind, computed from (instance, what the solver handed back, what is known) alone.

`result.json`, one flat object (numbers in the instances' own sense and scale; missing ones are null):

| key | meaning |
|---|---|
| schema | version of this form |
| solver, dataset, split, seed | what ran on what |
| track, objective, mode, backfill, observe, events | the setting it was played under |
| information | `clairvoyant` or `online`: what the solver could see |
| status, error | `finished` or `failed`; the first error in one line |
| n_instances, feasible, errors, optimal | count; share without violations; rows with an error; share that claims an optimum |
| objective_mean | mean objective; an infeasible schedule costs at least the penalty of an unassigned task |
| reference_mean, bound_mean, reference_proved | mean best known objective and bound; share of certified optima |
| random_mean, random_dead_ends | mean of random legal play, and the share of plays that dead-ended |
| gap_mean, score | mean of (objective - bound) / objective; 0 = random play, 100 = reference (`bench.stats`) |
| every metric of `bench.metrics` | mean over the instances that have it |
| decision_latency_p50, _p99 | seconds, over all decisions of the run |
| train_seconds, solve_seconds, wall_seconds | training; sum over instances; all; kills included |
| set_hash, key | identity of the instance set; of (configuration, seed, instance set) |
| git_commit, started, versions, hardware | where and when |

`instances.parquet`: one row per instance, see `row` and `standing`. In the same order, `instances.json.gz`: a list of
Instance.to_dict; `schedules.json.gz`: a list of {instance_hash, result (Result.to_dict) or null, error or null, solve_seconds}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import metrics, stats
from bench.contracts import Result
from bench.instance import Instance
from bench.references import RandomPlay, Reference
from bench.schedule import Schedule
from bench.verify import verify

SCHEMA = 1
EMPTY = Schedule([], [], [], [])  # type: ignore[arg-type]
MEANS = {  # record key: column of the table it is the mean of
    "objective_mean": "objective", "gap_mean": "gap", "score": "score", "feasible": "feasible",
    "reference_mean": "reference", "bound_mean": "reference_bound", "reference_proved": "reference_proved",
    "random_mean": "random", "random_dead_ends": "random_dead_ends",
}  # fmt: skip
NAMED = 3  # violations given in words

Entry = dict[str, Any]  # {instance_hash, result, error, solve_seconds}
Row = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What an entry is worth: the judge's view of a solver's result."""

    result: Result  # an empty schedule where the solver crashed
    violations: list[str]
    value: float  # internal objective, penalised where the schedule is infeasible

    @property
    def feasible(self) -> bool:
        """No rule is broken."""
        return not self.violations


def judge(instance: Instance, entry: Entry, objective: str) -> Verdict:
    """Verify and score what a solver handed back; a crash leaves every task out."""
    result = Result.from_dict(entry["result"]) if entry["result"] else Result(EMPTY, "unknown")
    violations = verify(instance, result.schedule)
    value = metrics.objective(instance, result.schedule, objective)
    return Verdict(result, violations, max(value, metrics.penalty(instance, objective)) if violations else value)


def row(instance: Instance, entry: Entry, verdict: Verdict) -> Row:
    """One row of the table, without what is known of the instance (`standing`)."""
    more = len(verdict.violations) - NAMED
    words = "; ".join(verdict.violations[:NAMED]) + (f"; and {more} more" if more > 0 else "")
    return {
        "instance_hash": entry["instance_hash"],
        "name": instance.name,
        "status": "error" if entry["error"] else verdict.result.status,
        "feasible": float(verdict.feasible),
        "violations": words,
        "error": entry["error"] or "",
        "objective": instance.original(verdict.value),
        "lower_bound": _own(instance, verdict.result.lower_bound),
        "solve_seconds": entry["solve_seconds"],
        **metrics.metrics(instance, verdict.result.schedule),
        **metrics.latency_metrics(verdict.result.latency),
    }


def standing(instance: Instance, objective: float, known: Reference, random: RandomPlay) -> Row:
    """Columns that compare an objective (in the instance's own sense) with what is known of the instance."""
    best, bound, zero = (_own(instance, value) for value in (known.objective, known.bound, random.mean))
    return {
        "reference": best,
        "reference_bound": bound,
        "reference_proved": float(known.proved),
        "random": zero,
        "random_dead_ends": random.dead_ends,
        "gap": float(stats.gap(objective, bound, instance.sense)),
        "score": float(stats.score(objective, zero, best)),
    }


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """The record's numbers from the rows: means over the instances that have the number, None where none has it."""
    columns = {name: [one[name] for one in rows] for name in rows[0]}
    taken = {"instance_hash", "name", "status", "violations", "error", "lower_bound", "solve_seconds", *MEANS.values()}
    errors = [error for error in columns["error"] if error]
    return {
        "n_instances": len(rows),
        "errors": len(errors),
        "error": errors[0] if errors else None,
        "optimal": float(np.mean([status == "optimal" for status in columns["status"]])),
        **{key: mean(columns[column]) for key, column in MEANS.items()},
        "solve_seconds": float(sum(columns["solve_seconds"])),
        **{name: mean(values) for name, values in columns.items() if name not in taken},
    }


def pooled_latency(entries: Sequence[Entry]) -> dict[str, float | None]:
    """Median and 99th percentile of the seconds per decision, over all decisions of a run."""
    values = [seconds for entry in entries if entry["result"] for seconds in entry["result"]["latency"]]
    return {key: mean([value]) for key, value in metrics.latency_metrics(values).items()}


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the finite values, None without any."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None


def _own(instance: Instance, value: float) -> float:
    """In the instance's own sense and scale; NaN where there is none."""
    return instance.original(value) if math.isfinite(value) else math.nan


def identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Records that are equal in this were measured on the same problem and may stand in one table."""
    keys = ("dataset", "set_hash", "split", "track", "objective", "mode", "backfill", "events")
    return tuple(record.get(key) for key in keys)
