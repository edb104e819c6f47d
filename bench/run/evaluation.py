"""From what a solver returned for an instance to the row of its table and its certificate.

Everything here is computed from (instance, entry, references) alone: schedules are verified,
objectives and metrics recomputed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from bench import metrics
from bench.analysis import anytime, stats
from bench.contracts import Result
from bench.errors import printable
from bench.instance import Instance
from bench.references import RandomPlay, Reference
from bench.rounding import is_integral, least_integer
from bench.run.record import Record, Row, StoredCertificate
from bench.schedule import Schedule
from bench.verify import verify
from bench.verify.certificate import SCHEMA as CERTIFICATE_SCHEMA

MEANS = {  # key of the record -> column of the table that it is the mean of
    "objective_mean": "objective",
    "gap_mean": "gap",
    "score": "score",
    "feasible": "feasible",
    "reference_mean": "reference",
    "bound_mean": "reference_bound",
    "reference_proved": "reference_proved",
    "random_mean": "random",
    "random_dead_ends": "random_dead_ends",
}
NOT_AVERAGED = (
    "instance_hash",
    "name",
    "status",
    "violations",
    "error",
    "lower_bound",
    "bound_name",
    "solve_seconds",
    *MEANS.values(),
)
LISTED_VIOLATIONS = 3


@dataclass(frozen=True)
class Entry:
    """What a solver returned for one instance, or how it failed."""

    instance_hash: str
    result: Result | None  # None where the solver crashed
    error: str | None
    solve_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON values; `from_dict` is its inverse."""
        return {
            "instance_hash": self.instance_hash,
            "result": None if self.result is None else self.result.to_dict(),
            "error": self.error,
            "solve_seconds": self.solve_seconds,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Entry:
        """Build the entry that `to_dict` wrote."""
        result = None if data["result"] is None else Result.from_dict(data["result"])
        return cls(data["instance_hash"], result, data["error"], data["solve_seconds"])

    def without_proof(self) -> Entry:
        """Return the entry as `schedules.json.gz` holds it: proofs stand in the certificates."""
        if self.result is None or "proof" not in self.result.info:
            return self
        info = {key: value for key, value in self.result.info.items() if key != "proof"}
        return replace(self, result=replace(self.result, info=info))


@dataclass(frozen=True)
class Evaluation:
    """A verified and scored entry."""

    result: Result  # an empty schedule where the solver crashed
    violations: list[str]
    value: float  # internal objective, penalised where the schedule is infeasible

    @property
    def feasible(self) -> bool:
        """Whether no constraint is violated."""
        return not self.violations


def evaluate_entry(instance: Instance, entry: Entry, objective: str) -> Evaluation:
    """Verify and score an entry; a crash counts as a schedule that leaves every task out."""
    result = _with_integral_bounds(entry.result or Result(Schedule.empty(), "unknown"), objective)
    violations = verify(instance, result.schedule)
    value = metrics.objective(instance, result.schedule, objective)
    if violations:
        value = max(value, metrics.penalty(instance, objective))
    return Evaluation(result, violations, value)


def _with_integral_bounds(result: Result, objective: str) -> Result:
    """Return a result whose bounds are integers where every objective is: solvers return floats."""
    if not is_integral(objective):
        return result

    def rounded(bound: float) -> float:
        return float(least_integer(bound)) if math.isfinite(bound) else bound

    points = tuple((second, value, rounded(bound)) for second, value, bound in result.trajectory)
    return replace(result, lower_bound=rounded(result.lower_bound), trajectory=points)


# -- rows ----------------------------------------------------------------------------------------


def table_row(instance: Instance, entry: Entry, evaluation: Evaluation) -> Row:
    """Return the row of one instance, without what compares it with references."""
    result = evaluation.result
    listed = "; ".join(evaluation.violations[:LISTED_VIOLATIONS])
    more = len(evaluation.violations) - LISTED_VIOLATIONS
    row = {
        "instance_hash": entry.instance_hash,
        "name": str(instance.name),
        "status": "error" if entry.error else result.status,
        "feasible": float(evaluation.feasible),
        "violations": f"{listed}; and {more} more" if more > 0 else listed,
        "error": entry.error or "",
        "objective": instance.original(evaluation.value),
        "lower_bound": _original(instance, result.lower_bound),
        "bound_name": str(result.info.get("bound", "")),
        "solve_seconds": entry.solve_seconds,
        "rollouts": result.info.get("played", math.nan),
        "decisions": result.info.get("decisions", math.nan),
        **metrics.metrics(instance, result.schedule),
        **metrics.latency_metrics(result.latency),
    }
    # names of instances and resources, which Parquet must be able to encode
    plain = {
        printable(key): printable(value) if isinstance(value, str) else value
        for key, value in row.items()
    }
    return cast("Row", plain)


def reference_columns(
    instance: Instance, objective: float, known: Reference, random: RandomPlay
) -> Row:
    """Return the columns that compare `objective` with what is known of the instance.

    `objective` is in the instance's own sense and scale.
    """
    best, bound, zero = (
        _original(instance, value) for value in (known.objective, known.bound, random.mean)
    )
    return {
        "reference": best,
        "reference_bound": bound,
        "reference_proved": float(known.proved),
        "random": zero,
        "random_dead_ends": random.dead_ends,
        "gap": float(stats.gap(objective, bound, instance.sense)),
        "score": float(stats.score(objective, zero, best)),
    }


def verified_trajectory(
    instance: Instance, evaluation: Evaluation
) -> list[tuple[float, float, float]]:
    """Return (seconds, best objective, best bound) so far, in the instance's own sense and scale.

    It is the solver's own account, except that no objective is better than that of its verified
    schedule, and there is none at all where that schedule is infeasible.
    """
    best = evaluation.value if evaluation.feasible else math.inf
    points = []
    value = math.inf
    bound = -math.inf
    for seconds, new_value, new_bound in evaluation.result.trajectory:
        value = min(value, max(new_value, best))
        bound = max(bound, new_bound)
        points.append((seconds, instance.original(value), instance.original(bound)))
    return points


def anytime_columns(
    instance: Instance, evaluation: Evaluation, known: Reference, limit: float
) -> Row:
    """Return the columns that say how fast the solver was within `limit` seconds, its budget.

    All are seconds, against the best known objective, and NaN for a solver that keeps no
    trajectory (`bench.analysis.anytime.measures`).
    """
    trajectory = verified_trajectory(instance, evaluation)
    return cast("Row", anytime.measures(trajectory, _original(instance, known.objective), limit))


# -- the record ----------------------------------------------------------------------------------


def summarise(rows: Sequence[Row]) -> Record:
    """Return the record's numbers: means over the rows that have the number, None without any."""
    names = dict.fromkeys(name for row in rows for name in row)  # resources may differ
    columns: dict[str, list[Any]] = {
        name: [cast("dict[str, Any]", row).get(name) for row in rows] for name in names
    }
    errors = [error for error in columns["error"] if error]
    numbers = {
        "n_instances": len(rows),
        "errors": len(errors),
        "error": errors[0] if errors else None,
        "optimal": float(np.mean([status == "optimal" for status in columns["status"]])),
        **{key: _mean(columns[column]) for key, column in MEANS.items()},
        "solve_seconds": float(sum(columns["solve_seconds"])),
        **{name: _mean(column) for name, column in columns.items() if name not in NOT_AVERAGED},
    }
    return cast("Record", numbers)


def pooled_latency(entries: Sequence[Entry]) -> Record:
    """Return median and 99th percentile of the seconds per decision, over all decisions."""
    values = [seconds for entry in entries if entry.result for seconds in entry.result.latency]
    found = {key: _mean([value]) for key, value in metrics.latency_metrics(values).items()}
    return cast("Record", found)


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the finite values, None without any."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None


def _original(instance: Instance, value: float) -> float:
    """Return `value` in the instance's own sense and scale; NaN where it is not finite."""
    return instance.original(value) if math.isfinite(value) else math.nan


# -- certificates --------------------------------------------------------------------------------


def certificate(
    instance: Instance,
    entry: Entry,
    evaluation: Evaluation,
    objective: str,
    origin: Mapping[str, Any],
) -> StoredCertificate | None:
    """Return the certificate of an instance whose bound came with a proof, else None.

    Parameters
    ----------
    origin
        solver, seed, threads, budget_seconds, versions and git_commit of the run.
    """
    result = evaluation.result
    if not math.isfinite(result.lower_bound) or not result.info.get("proof"):
        return None
    feasible = evaluation.feasible
    found = {
        "schema": CERTIFICATE_SCHEMA,
        "kind": "certificate",
        "instance": instance.to_dict(),
        "objective_name": objective,
        "schedule": result.schedule.to_dict() if feasible else None,
        "objective": instance.original(evaluation.value) if feasible else None,
        "objective_internal": evaluation.value if feasible else None,
        "bound": instance.original(result.lower_bound),
        "bound_internal": result.lower_bound,
        "status": result.status if feasible else "unknown",
        "bound_name": result.info.get("bound"),
        "proof": result.info["proof"],
        "seconds": entry.solve_seconds,
        **origin,
    }
    return cast("StoredCertificate", found)
