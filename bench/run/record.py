"""The forms of what a run writes: its record, the rows of its table, its certificates.

All numbers are in the instances' own sense and scale; missing ones are null. The files of a run:

| file | content |
|---|---|
| `result.json` | one `Record` |
| `instances.parquet` | one `Row` per instance |
| `instances.json.gz` | list of `Instance.to_dict`, in the order of the rows |
| `schedules.json.gz` | list of `bench.run.evaluation.Entry.to_dict`, without proofs |
| `certificates.json.gz` | list of `StoredCertificate`, one per instance whose bound has a proof |

Each certificate stands alone in a file of its own too: `python -m bench.verify FILE` checks it,
without a solver where that can be done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from bench.errors import UserError
from bench.renamed import current_setting

SCHEMA = 2  # part of every run's key, so results of older versions are computed again
PROBLEM_FIELDS = (
    "dataset",
    "set_hash",
    "split",
    "track",
    "objective",
    "mode",
    "backfill",
    "event_order",
)


class Record(TypedDict, total=False):
    """One run, flat. Beside the keys below:

    every metric of `bench.metrics` (mean over the instances that have it); `learning/...`, the
    training cost in all and until the policy was better than a rule (`solvers.rl.learning_cost`),
    for learned runs; `logs/...` and `ope/...`, the logged dataset and off-policy evaluation, for
    runs that learn from logs; `primal_integral`, `primal_dual_integral`, `time_to_first`,
    `time_to_best`, `time_to_proof`, in seconds (`bench.analysis.anytime`).
    """

    schema: int  # version of this form
    solver: str
    dataset: str
    split: str
    seed: int
    track: str  # this and the next five: `bench.setting.Setting`
    objective: str
    mode: str
    backfill: str
    observe: str
    event_order: str
    information: str  # clairvoyant | online: what the solver knew
    isolated: bool  # whether it decided in a process of its own that received observations only
    # checked | not reproducible | not applicable | failed: whether decisions depend on the future
    # (`bench.non_anticipation`)
    non_anticipation: str
    set_hash: str  # identity of the instances (`bench.instance_set`)
    key: str  # identity of (configuration, seed, instances)
    status: str  # finished | failed
    error: str | None  # the first error, in one line
    n_instances: int
    errors: int  # instances with an error
    feasible: float | None  # share of schedules without violations
    optimal: float  # share of instances whose solver has proven an optimum
    objective_mean: float | None  # an infeasible schedule costs at least `metrics.penalty`
    reference_mean: float | None  # of the best known objectives
    bound_mean: float | None  # of the best known lower bounds
    reference_proved: float | None  # share of proven optima
    random_mean: float | None  # of random legal play
    random_dead_ends: float | None  # share of random plays that ended in a dead end
    gap_mean: float | None  # of (objective - bound) / objective
    score: float | None  # 0 = random legal play, 100 = reference (`bench.analysis.stats`)
    rollouts: float | None  # episodes played to find a schedule, mean over instances
    decisions: float | None  # in all of them, mean over instances
    decision_latency_p50: float | None  # seconds, over all decisions of the run
    decision_latency_p99: float | None
    # interrupted sessions included, as in the next two; where a checkpoint is deployed, what its
    # training took without validation, None where the file does not say it
    train_seconds: float | None
    solve_seconds: float  # sum over instances
    wall_seconds: float
    git_commit: str | None
    started: str  # ISO 8601, UTC
    versions: dict[str, str]
    hardware: dict[str, str | int | float]


class Row(TypedDict, total=False):
    """One instance of a run. Beside the keys below, every metric of `bench.metrics`, and the

    anytime measures as in `Record`.
    """

    instance_hash: str
    name: str
    status: str  # of `Result`, `optimal` only where it is proven; or `error`
    feasible: float  # 1 or 0
    violations: str  # the first few, in words
    error: str
    objective: float
    lower_bound: float  # the solver's own; NaN: none
    bound_name: str
    solve_seconds: float
    rollouts: float
    decisions: float
    reference: float  # best known objective
    reference_bound: float  # best known lower bound
    reference_proved: float  # 1: they agree
    random: float  # mean objective of random legal play
    random_dead_ends: float
    gap: float
    score: float


class StoredCertificate(TypedDict):
    """A bound with its proof, and the schedule that goes with it."""

    schema: int
    kind: str  # certificate
    instance: dict[str, Any]  # Instance.to_dict
    objective_name: str  # what is minimised
    schedule: dict[str, Any] | None  # feasible; None where the solver has none
    objective: float | None  # of the schedule, in the instance's own sense and scale
    objective_internal: float | None  # the same, minimised
    bound: float  # no schedule is better, in the instance's own sense and scale
    bound_internal: float
    status: str  # optimal where the solver claims that both meet
    bound_name: str | None
    proof: dict[str, Any]  # forms in `bench.verify.proofs`
    seconds: float  # that the solver took
    solver: str
    seed: int
    threads: int
    budget_seconds: float
    versions: dict[str, str]
    git_commit: str | None


def check_facts(facts: Mapping[str, Any]) -> None:
    """Check that facts about a training have names that no field of a record can have.

    Raises
    ------
    UserError
        For a name without a group, which could overwrite what the suite has measured.
    """
    for name in facts:
        if not is_fact(name):
            raise UserError(
                f"log.summary[{str(name)[:60]!r}]: a name of the form GROUP/NAME is needed, "
                "because others are fields of the record; rename it, such as learning/NAME"
            )


def is_fact(name: object) -> bool:
    """Return whether a name is that of a fact about a training: GROUP/NAME."""
    return isinstance(name, str) and name.isprintable() and all(name.partition("/"))


def problem(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what two records must share to have been measured on the same problem.

    Only such records may stand in one table.
    """
    current = current_setting(record)
    return tuple(current.get(name) for name in PROBLEM_FIELDS)


def selection(record: Mapping[str, Any]) -> Any:
    """Return how a policy trained on logs was selected, also where online training followed.

    `oracle` means by true return, which a log alone does not determine.
    """
    return record.get("learning/selection") or record.get("offline/learning/selection")
