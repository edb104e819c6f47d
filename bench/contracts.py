"""The roles a plug-in can play, and the few values that pass between plug-ins and the suite.

A solver plans a whole instance, a policy decides one step, a learner turns instances into a policy, a dataset yields instances.
`bench.rollout.as_solver` turns a policy into a solver, so the runner only ever meets solvers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from bench.errors import UserError
from bench.instance import Instance
from bench.observation import Observation
from bench.schedule import Schedule
from bench.setting import Setting

if TYPE_CHECKING:  # needs torch
    from bench.logs.episodes import Episodes

SPLITS = ("train", "validation", "test")
STATUSES = ("optimal", "feasible", "infeasible", "unknown")


@dataclass(frozen=True)
class Budget:
    """What a solver may spend.

    Raises:
        UserError: for a value that is not positive.
    """

    seconds: float = 60.0  # wall-clock limit of one `solve`, for solvers that can stop any time
    decisions: int = 1_000_000  # simulator decisions a learner may train on (a count, so that a resumed run is the same)
    threads: int = 2  # threads one solver may use

    def __post_init__(self) -> None:
        for name in ("seconds", "decisions", "threads"):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not value > 0
                or math.isinf(value)
            ):
                raise UserError(f"budget.{name}: a positive number is needed, got {value!r}")


@dataclass(frozen=True, eq=False)
class Result:
    """What a solver hands back for one instance. No number in it is trusted: the suite verifies and recomputes.

    Bounds and objectives are internal (minimised) values; `Instance.original` maps them to the instance's own scale.

    Raises:
        ValueError: for a status or trajectory that is malformed.
    """

    schedule: Schedule
    status: str = "feasible"  # optimal | feasible | infeasible | unknown
    lower_bound: float = -math.inf  # proved lower bound on the objective; -inf = none
    trajectory: tuple[
        tuple[float, float, float], ...
    ] = ()  # (seconds, objective, bound), seconds not decreasing
    latency: tuple[float, ...] = ()  # seconds each decision took, for solvers that decide online
    info: Mapping[str, Any] = field(
        default_factory=dict
    )  # small JSON values worth keeping (names of bounds, counts, ...)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status: {self.status!r} must be one of {', '.join(STATUSES)}")
        if math.isnan(self.lower_bound):
            raise ValueError("lower_bound: must not be NaN")
        for i, point in enumerate(self.trajectory):
            if len(point) != 3 or (i and point[0] < self.trajectory[i - 1][0]):
                raise ValueError(
                    f"trajectory[{i}]: needs (seconds, objective, bound) with seconds not decreasing"
                )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON (infinities as null); `from_dict` is its inverse."""
        return {
            "schema": 1,
            "schedule": self.schedule.to_dict(),
            "status": self.status,
            "lower_bound": _finite(self.lower_bound),
            "trajectory": [[_finite(x) for x in point] for point in self.trajectory],
            "latency": list(self.latency),
            "info": dict(self.info),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """Inverse of `to_dict`. Raises ValueError for a newer schema."""
        if data["schema"] > 1:
            raise ValueError(
                f"schema: {data['schema']} is newer than 1, the newest this version reads; upgrade"
            )
        bound = data["lower_bound"]
        points = tuple(
            (p[0], math.inf if p[1] is None else p[1], -math.inf if p[2] is None else p[2])
            for p in data["trajectory"]
        )
        schedule = Schedule.from_dict(data["schedule"])
        return cls(
            schedule,
            data["status"],
            -math.inf if bound is None else bound,
            points,
            tuple(data["latency"]),
            data["info"],
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@runtime_checkable
class Solver(Protocol):
    """Plans a whole instance.

    May define `tracks`, where it does not solve every track; `certifies = True`: its bounds and proofs are kept as references
    (anyone's schedules are, they can be checked); and `warm_up()`, called before any clock starts: what it compiles costs no
    instance its seconds.
    """

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """A schedule for `instance` under `setting` within `budget`; all randomness comes from `rng`."""


@runtime_checkable
class Policy(Protocol):
    """Decides one step.

    May also define `distribution(view)`, where it draws its actions: their probabilities (B, K * M + 1), for the B decisions of
    a `bench.simulator.view.View` (logs record them); `reset()`, called before each episode; `facts()`, small JSON values about
    the episode just played, which go into `Result.info`; and `window` (see Simulator).
    """

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """A legal flat action k * M + a (queue position k, agent a), or K * M = wait."""


@runtime_checkable
class Learner(Protocol):
    """Turns training instances into a policy, or into a solver that plans with one."""

    def fit(
        self, data: Dataset, setting: Setting, budget: Budget, rng: np.random.Generator, log: Log
    ) -> Policy | Solver:
        """Train on data's train split, choose on its validation split, never touch its test split."""


@runtime_checkable
class Dataset(Protocol):
    """A named source of instances with disjoint splits."""

    name: str

    def instances(self, split: str) -> Iterator[Instance]:
        """The instances of `split` (train | validation | test), the same ones in the same order at every call."""


class Logs(Protocol):
    """Logged decisions on the instances of some data set."""

    name: str
    setting: Setting  # how they were played
    cache: Path | None  # where recorded logs are kept, None: the user's cache
    command: str | None  # what makes the log again, for its card
    rejected: Sequence[tuple[int, str]]  # rows of a user's own log that were left out, and why

    def episodes(self, progress: Callable[[int, int, str], None] = ...) -> Episodes:
        """The log; it may have to be recorded first."""

    def instances(self) -> Iterable[Instance]:
        """The instances that its episodes may have been played on."""


class Log(Protocol):
    """What a learner may tell while it trains, and where it may keep its state."""

    folder: Path  # the run's own folder: checkpoints go here and survive a kill

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Step metrics for the tracker, named like `losses/policy` or `charts/decisions_per_second`."""

    def summary(self, facts: Mapping[str, Any]) -> None:
        """Facts about the whole training for the run's record, named like `learning/cpu_seconds`."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """For the progress bar: `done` of `total` decisions."""
