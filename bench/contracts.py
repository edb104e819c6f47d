"""The roles that a plug-in can play, and the values that pass between plug-ins and the suite.

A `Solver` plans a whole instance, a `Policy` decides one step, a `Learner` turns instances into a
policy, a `Dataset` yields instances, a `LoggedDataset` logged decisions. A plug-in derives from one
of these classes. What it may declare beside its one required method stands in the class, with its
default, so that no caller tests whether an attribute exists. `bench.rollout.as_solver` turns a
policy into a solver by rolling it out, so the runner only meets solvers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bench.capabilities import CAPABILITIES, capability_problem
from bench.errors import UserError
from bench.instance import Instance
from bench.observation import Observation
from bench.queue_order import QueueOrder
from bench.schedule import Schedule
from bench.setting import TRACKS, Setting

if TYPE_CHECKING:  # needs torch
    from torch import Tensor

    from bench.logs.episodes import EpisodeRecorder, LoggedEpisodes
    from bench.simulator.view import BatchView

SPLITS = ("train", "validation", "test")
STATUSES = ("optimal", "feasible", "infeasible", "unknown")


@dataclass(frozen=True)
class Budget:
    """What a solver may spend.

    Attributes
    ----------
    seconds
        Wall-clock limit of one `solve`, for solvers that can stop any time.
    decisions
        Simulator decisions that a learner may train on: a count, so that a resumed run is the same.
    threads
        Threads that one solver may use.

    Raises
    ------
    UserError
        For a value that is not positive.
    """

    seconds: float = 60.0
    decisions: int = 1_000_000
    threads: int = 2

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
    """What a solver returns for one instance.

    No number in it is trusted: the suite verifies the schedule and recomputes. Bounds and
    objectives are internal (minimised) values; `Instance.original` maps them to the instance's own
    scale.

    Attributes
    ----------
    schedule
        The schedule, possibly empty.
    status
        `optimal`, `feasible`, `infeasible` or `unknown`.
    lower_bound
        A proven lower bound on the objective; -inf: none.
    trajectory
        (seconds, objective, bound) of the search over time, seconds not decreasing.
    latency
        Seconds that each decision took, for solvers that decide online.
    info
        Small JSON values worth keeping: names of bounds, proofs, counts.

    Raises
    ------
    TypeError
        For a schedule that is no `Schedule`.
    ValueError
        For a malformed status or trajectory.
    """

    schedule: Schedule
    status: str = "feasible"
    lower_bound: float = -math.inf
    trajectory: tuple[tuple[float, float, float], ...] = ()
    latency: tuple[float, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"schedule: must be a Schedule, got {type(self.schedule).__name__}")
        if self.status not in STATUSES:
            raise ValueError(f"status: {self.status!r} must be one of {', '.join(STATUSES)}")
        if math.isnan(self.lower_bound):
            raise ValueError("lower_bound: must not be NaN")
        for i, point in enumerate(self.trajectory):
            if len(point) != 3 or (i and point[0] < self.trajectory[i - 1][0]):
                raise ValueError(
                    f"trajectory[{i}]: needs (seconds, objective, bound), seconds not decreasing"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values (infinities as null); `from_dict` is its inverse."""
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
        """Build the result that `to_dict` wrote; a newer schema is a ValueError."""
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


_KNOWS_THE_FUTURE = (
    "clairvoyant: a Solver is given the whole instance and may not declare that it does not need "
    "the future; derive from Policy, which is given observations"
)
Progress = Callable[[str, int, int, str], None]  # (label, done, total, note)


def no_progress(label: str, done: int, total: int, note: str) -> None:
    """Ignore progress: the default wherever a `Progress` may be given."""


class Plugin:
    """The capabilities that every plug-in may declare, with their defaults.

    A subclass overrides what differs, as a class attribute, an attribute set in `__init__`, a
    property or a method. A name that looks like a misspelt capability, or a class attribute of the
    wrong type, is a `TypeError` when the class is made; `check_plugin` tests the instance.

    Attributes
    ----------
    tracks
        The tracks it solves, of `bench.setting.TRACKS`.
    observe
        `all` or `arrived`: what is observed where the configuration says `observe=auto`; None: what
        the track says.
    clairvoyant
        Whether it needs the future. Then it may not enter `track=online` or `observe=arrived`. A
        `Solver` always does.
    baseline
        Whether it is a dispatch rule that stands beside every run, in `best_rule` and in the
        training cost of learners (`bench.plugins.rules`).
    certifies
        Whether its bounds are kept as references: those that a checked proof shows, or that one of
        the suite's own exact solvers found. (Schedules of every solver are: they can be verified.)
    logs
        The logged dataset that it learns from, None where it needs none.
    uses_rules
        Whether results depend on which dispatch rules `bench.plugins.rules` finds. They are part of
        a run's identity then.
    """

    tracks: Sequence[str] = TRACKS
    observe: str | None = None
    clairvoyant: bool = False
    certifies: bool = False
    baseline: bool = False
    logs: LoggedDataset | None = None
    uses_rules: bool = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if wrong := capability_problem(cls.__name__, vars(cls)):
            raise TypeError(wrong)

    def warm_up(self) -> None:
        """Compile what is compiled late, before any clock starts, so that it costs no seconds."""

    def hashed_settings(self) -> dict[str, Any]:
        """Return the settings that decide what the plug-in computes, for the hash of a log.

        The default: its attributes. Private ones (`_name`) do not count.
        """
        return dict(vars(self))


class Solver(Plugin, ABC):
    """Plans a whole instance, so it knows the future: it is always `clairvoyant`.

    A planner of the visible queue is a `Policy`: it is given observations, not the instance
    (`solvers.dispatch.plan.ReplanningPolicy`).
    """

    clairvoyant: bool = True

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.clairvoyant is not True:
            raise TypeError(f"{cls.__name__}.{_KNOWS_THE_FUTURE}")

    @abstractmethod
    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Return a schedule of `instance` under `setting`, found within `budget`.

        All randomness comes from `rng`.
        """


class Policy(Plugin, ABC):
    """Decides one step."""

    # K: how many pending tasks its observation shows, the first in (release, index) order
    window: int | None = None  # None: all

    @abstractmethod
    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """Return a legal flat action: k * M + a (queue position k, agent a), or K * M = wait."""

    def reset(self) -> None:
        """Discard what is left of the last episode; called before each one."""

    def facts(self) -> dict[str, Any]:
        """Return small JSON values about the episode just played, for `Result.info`."""
        return {}

    def queue_order(self) -> QueueOrder | None:
        """Return how a rule orders the queue, for replays; None, the default: `act` decides."""
        return None

    def distribution(self, view: BatchView) -> Tensor | None:
        """Return the probabilities (B, K * M + 1) of the actions of B decisions, for logs.

        None, the default: the policy does not draw its actions.
        """
        return None

    @property
    def draws_actions(self) -> bool:
        """Whether the policy draws its actions, that is, defines `distribution`."""
        return type(self).distribution is not Policy.distribution


class Learner(Plugin, ABC):
    """Turns training instances into a policy, or into a solver that plans with one.

    Where information is online it must return a policy.

    Attributes
    ----------
    shaped
        Whether it trains on shaped rewards, which are paid at assignment.
    """

    shaped: bool = False

    @abstractmethod
    def fit(
        self,
        data: Dataset,
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        logger: TrainingLogger,
    ) -> Policy | Solver:
        """Train on the train split, select on the validation split, never touch the test split."""

    def record_episodes(self, recorder: EpisodeRecorder) -> None:
        """Record all episodes that the training plays with `recorder`, for a logged dataset.

        Raises
        ------
        UserError
            The default: the learner plays no episodes.
        """
        raise UserError(
            f"logs.behaviours: {type(self).__name__} plays no episodes that could be recorded; "
            "name a learner that trains by playing, such as PPO"
        )


class Dataset(ABC):
    """A named source of instances with disjoint splits.

    Attributes
    ----------
    name
        Names the dataset in records and folders.
    hashes
        split -> the `set_hash` that its instances must have; a split that is not named passes.
    endless
        Whether `training_instance` gives more training instances than the train split holds.
    """

    name: str
    hashes: Mapping[str, str] = MappingProxyType({})
    endless: bool = False

    @abstractmethod
    def instances(self, split: str) -> Iterator[Instance]:
        """Yield the instances of `split`, the same ones in the same order at every call."""

    def training_instance(self, index: int) -> Instance:
        """Return training instance `index` >= 0, always the same one; in no other split.

        The first ones are those that the train split holds. Only where `endless` is true.
        """
        raise NotImplementedError(f"{type(self).__name__} has no endless train split")


class LoggedDataset(ABC):
    """Logged decisions on the instances of some dataset.

    Attributes
    ----------
    name
        Names the log in records and in the cache.
    setting
        How its episodes were played.
    cache
        Folder that keeps recorded logs; None: the user's cache.
    command
        The command that makes the log again, for its data card.
    rejected
        (row, reason) of each row of a user's own log that was left out.
    """

    name: str
    setting: Setting
    cache: Path | None = None
    command: str | None = None
    rejected: Sequence[tuple[int, str]] = ()

    @abstractmethod
    def episodes(self, progress: Progress = no_progress) -> LoggedEpisodes:
        """Return the log; it may have to be recorded first."""

    @abstractmethod
    def instances(self) -> Iterable[Instance]:
        """Return the instances that its episodes may have been played on."""

    def content(self) -> Any:
        """Return JSON values that change with the content of the log, without recording it.

        They are part of the identity of a run that learns from the log. The default, None: the log
        depends on its configuration alone, and on the files that this names.
        """
        return None


CHECKPOINT = "learning/checkpoint"  # the fact of a run that trains nothing: hash of its policy file


class TrainingLogger(Protocol):
    """Where a learner reports its training, and keeps its state."""

    # The run's own folder: checkpoints are written here and survive a kill. `rerun=true` deletes
    # training.pt and policy.pt; files of other names are left alone.
    folder: Path

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log step metrics, named like `losses/policy` or `charts/SPS`."""

    def summary(self, facts: Mapping[str, Any]) -> None:
        """Log facts about the whole training for the record, named like `learning/cpu_seconds`.

        A name without a group is a `UserError`: the record's own fields cannot be overwritten.
        """

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Report progress: `done` of `total` decisions."""


def check_plugin(name: str, plugin: Any) -> None:
    """Check that `plugin` has one role, and that what it declares is spelt and typed as it must be.

    Raises
    ------
    UserError
        Naming the attribute and the right name or type.
    """
    roles = [role for role in (Solver, Policy, Learner) if issubclass(type(plugin), role)]
    if not roles:
        raise UserError(
            f"{name}: {type(plugin).__name__} is no plug-in; derive it from Solver, Policy or "
            "Learner of bench.contracts"
        )
    if len(roles) > 1:
        named = " and ".join(role.__name__ for role in roles)
        raise UserError(
            f"{name}: {type(plugin).__name__} is {named} at once; derive it from one of them"
        )
    if roles == [Solver] and plugin.clairvoyant is not True:
        raise UserError(f"{name}: {type(plugin).__name__}.{_KNOWS_THE_FUTURE}")
    if plugin.logs is not None and not isinstance(plugin.logs, LoggedDataset):
        raise UserError(
            f"{name}.logs: {type(plugin.logs).__name__} is no log; derive it from LoggedDataset of "
            "bench.contracts"
        )
    values = {key: getattr(plugin, key) for key in CAPABILITIES if hasattr(type(plugin), key)}
    if wrong := capability_problem(type(plugin).__name__, {**vars(plugin), **values}):
        raise UserError(f"{name}: {wrong}")
