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
| gap_mean, score | mean of (objective - bound) / objective; 0 = random play, 100 = reference (`bench.analysis.stats`) |
| every metric of `bench.metrics` | mean over the instances that have it |
| primal_integral, primal_dual_integral | seconds, means; small where good plans or proofs came early (`bench.analysis.anytime`) |
| time_to_first, _best, _proof | seconds until the first plan, the best one, the proof; means over instances that have it |
| rollouts, decisions | episodes played to find a schedule, and decisions in all of them; means, of policies and planners |
| decision_latency_p50, _p99 | seconds, over all decisions of the run |
| train_seconds, solve_seconds, wall_seconds | training; sum over instances; all; kills included |
| learning/... | what training had cost, in all and until the policy beat a rule (`solvers.rl.learning_cost`); learned runs only |
| set_hash, key | identity of the instance set; of (configuration, seed, instance set) |
| git_commit, started, versions, hardware | where and when |

`instances.parquet`: one row per instance, see `row`, `standing` and `pace`. In the same order, `instances.json.gz`: a list of
Instance.to_dict; `schedules.json.gz`: a list of {instance_hash, result (Result.to_dict) or null, error or null, solve_seconds},
without the proofs, which are written once: into the certificates.

`certificates.json.gz`, where the solver proved bounds and said how: a list, one per such instance. Each stands alone in a file
of its own too, and `python -m bench.verify FILE` checks it, without a solver where that can be done:

| key | meaning |
|---|---|
| schema, kind | version of this form; `certificate` |
| instance, objective_name | Instance.to_dict; what is minimised |
| schedule, objective, objective_internal | feasible, and its cost in the instance's own sense and minimised; or null |
| bound, bound_internal | what no schedule beats, likewise |
| status | `optimal` where the solver claims that both meet |
| proof, bound_name | why the bound holds (forms in `bench.verify.proofs`), and the solver's name for it |
| solver, seed, threads, budget_seconds, seconds | who found it and how; seconds it took |
| versions, git_commit | of the packages and of this code |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import metrics
from bench.analysis import anytime, stats
from bench.contracts import Result
from bench.instance import Instance
from bench.references import RandomPlay, Reference
from bench.schedule import Schedule
from bench.verify import verify
from bench.verify.certificate import SCHEMA as CERTIFICATE_SCHEMA

SCHEMA = 1
MEANS = {  # record key: column of the table it is the mean of
    "objective_mean": "objective", "gap_mean": "gap", "score": "score", "feasible": "feasible",
    "reference_mean": "reference", "bound_mean": "reference_bound", "reference_proved": "reference_proved",
    "random_mean": "random", "random_dead_ends": "random_dead_ends",
}  # fmt: skip
NAMED = 3  # violations given in words

Entry = dict[str, Any]  # {instance_hash, result, error, solve_seconds}
Row = dict[str, Any]
Certificate = dict[str, Any]


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
    result = (
        Result.from_dict(entry["result"])
        if entry["result"]
        else Result(Schedule.empty(), "unknown")
    )
    violations = verify(instance, result.schedule)
    value = metrics.objective(instance, result.schedule, objective)
    return Verdict(
        result,
        violations,
        max(value, metrics.penalty(instance, objective)) if violations else value,
    )


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
        "bound_name": str(verdict.result.info.get("bound", "")),
        "solve_seconds": entry["solve_seconds"],
        "rollouts": verdict.result.info.get("played", math.nan),
        "decisions": verdict.result.info.get("decisions", math.nan),
        **metrics.metrics(instance, verdict.result.schedule),
        **metrics.latency_metrics(verdict.result.latency),
    }


def standing(instance: Instance, objective: float, known: Reference, random: RandomPlay) -> Row:
    """Columns that compare an objective (in the instance's own sense) with what is known of the instance."""
    best, bound, zero = (
        _own(instance, value) for value in (known.objective, known.bound, random.mean)
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


def own_trajectory(instance: Instance, verdict: Verdict) -> list[tuple[float, float, float]]:
    """(P, 3) seconds, best objective and best bound so far, in the instance's own sense and scale.

    The solver's own account, except that no objective better than that of its verified schedule is believed, and none at all
    where that one is infeasible.
    """
    best = verdict.value if verdict.feasible else math.inf
    points, value, bound = [], math.inf, -math.inf
    for seconds, new_value, new_bound in verdict.result.trajectory:
        value, bound = min(value, max(new_value, best)), max(bound, new_bound)
        points.append((seconds, instance.original(value), instance.original(bound)))
    return points


def pace(instance: Instance, verdict: Verdict, known: Reference, limit: float) -> Row:
    """Columns that say how fast the solver was within `limit` seconds, its time budget, against the best known objective.

    All are seconds, and missing for a solver that keeps no trajectory (`bench.analysis.anytime.measures`).
    """
    return anytime.measures(
        own_trajectory(instance, verdict), _own(instance, known.objective), limit
    )


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """The record's numbers from the rows: means over the instances that have the number, None where none has it."""
    columns = {name: [one[name] for one in rows] for name in rows[0]}
    taken = {
        "instance_hash",
        "name",
        "status",
        "violations",
        "error",
        "lower_bound",
        "bound_name",
        "solve_seconds",
        *MEANS.values(),
    }
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
    values = [
        seconds for entry in entries if entry["result"] for seconds in entry["result"]["latency"]
    ]
    return {key: mean([value]) for key, value in metrics.latency_metrics(values).items()}


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the finite values, None without any."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None


def _own(instance: Instance, value: float) -> float:
    """In the instance's own sense and scale; NaN where there is none."""
    return instance.original(value) if math.isfinite(value) else math.nan


def certificate(
    instance: Instance, entry: Entry, verdict: Verdict, objective: str, made: Mapping[str, Any]
) -> Certificate | None:
    """What can be checked of an instance whose bound came with a proof; none for any other.

    Args:
        made: solver, seed, threads, budget_seconds, versions and git_commit.
    """
    result = verdict.result
    if not math.isfinite(result.lower_bound) or not result.info.get("proof"):
        return None
    return {
        "schema": CERTIFICATE_SCHEMA,
        "kind": "certificate",
        "instance": instance.to_dict(),
        "objective_name": objective,
        "schedule": result.schedule.to_dict() if verdict.feasible else None,
        "objective": instance.original(verdict.value) if verdict.feasible else None,
        "objective_internal": verdict.value if verdict.feasible else None,
        "bound": instance.original(result.lower_bound),
        "bound_internal": result.lower_bound,
        "status": result.status if verdict.feasible else "unknown",
        "bound_name": result.info.get("bound"),
        "proof": result.info["proof"],
        "seconds": entry["solve_seconds"],
        **made,
    }


def without_proof(entry: Entry) -> Entry:
    """An entry as `schedules.json.gz` holds it."""
    if not entry["result"] or "proof" not in entry["result"]["info"]:
        return entry
    info = {key: value for key, value in entry["result"]["info"].items() if key != "proof"}
    return {**entry, "result": {**entry["result"], "info": info}}


def selection(record: Mapping[str, Any]) -> Any:
    """What a policy learnt from a log was chosen by, also where it went on learning; `oracle`: by true return."""
    return record.get("learning/selection") or record.get("offline/learning/selection")


def identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Records that are equal in this were measured on the same problem and may stand in one table."""
    keys = ("dataset", "set_hash", "split", "track", "objective", "mode", "backfill", "events")
    return tuple(record.get(key) for key in keys)
