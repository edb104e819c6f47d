"""Tasks and agents in physical units, and how they compile into an `Instance` (SPEC section 1).

p_jt = ceil((data_j / bandwidth_t + compute_j / (rate[model_j, t] * speedup(gpus_j))) / tick), at least 1.
Compute is in reference-accelerator seconds, data in MB, bandwidth in MB/s, memory in MiB, times in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench.instance import KINDS, NOT_ELIGIBLE, Instance, InstanceError, Outage

RESOURCES = ("gpu", "cpu", "memory")


class Task(NamedTuple):
    """What one task needs, wherever it runs."""

    model: str  # family, the row of `rate`
    compute: float  # reference-accelerator seconds on one GPU (on a CPU-only type: of one worker)
    data: float = 0.0  # MB moved to the agent before computing
    gpus: int = 1  # parallelism: GPUs held together (a gang); types without GPUs hold none and run one worker
    cpus: int = 1  # CPU cores
    memory: int = 0  # MiB of host memory
    kind: str = "train"
    release: float = 0.0  # seconds
    due: float | None = None  # seconds
    weight: int = 1
    tenant: int = 0
    misjudged: float = 1.0  # estimate / true duration


class AgentType(NamedTuple):
    """What agents of one type share."""

    name: str
    bandwidth: float  # MB/s into the agent
    accelerated: bool = True  # False: CPU only


class Agent(NamedTuple):
    """One machine."""

    type: str
    gpus: int
    cpus: int
    memory: int  # MiB


@dataclass(frozen=True)
class Workload:
    """A physical description of one problem.

    Raises:
        InstanceError: at `compile`, for a name that does not exist or a quantity that means nothing.
    """

    tasks: Sequence[Task]
    agents: Sequence[Agent]
    types: Sequence[AgentType]
    rate: Mapping[
        str, Mapping[str, float]
    ]  # rate[model][type]: throughput over the reference's; absent = not eligible
    speedup: Mapping[int, float] = field(
        default_factory=lambda: {1: 1.0}
    )  # GPUs -> speedup, linear in between
    quota: Sequence[Sequence[int]] | None = None  # (U, 3) units of RESOURCES
    outages: Sequence[tuple[int, float, float]] = ()  # (agent, start, end) in seconds, announced
    tick_seconds: float = 60.0
    name: str = ""

    def compile(self) -> Instance:
        """The instance in matrix form, T = len(types), resources gpu, cpu, memory."""
        self._check()
        tick, index = self.tick_seconds, {kind.name: t for t, kind in enumerate(self.types)}
        seconds = [[self.seconds(task, kind) for kind in self.types] for task in self.tasks]
        due = [task.due for task in self.tasks]
        columns: dict[str, Any] = {
            "duration": [[ticks(p, tick) for p in row] for row in seconds],
            "estimate": [
                [ticks(p if p is None else p * task.misjudged, tick) for p in row]
                for task, row in zip(self.tasks, seconds, strict=True)
            ],
            "demand": [
                [
                    (task.gpus if kind.accelerated else 0, task.cpus, task.memory)
                    for kind in self.types
                ]
                for task in self.tasks
            ],
            "capacity": [agent[1:] for agent in self.agents],
            "agent_type": [index[agent.type] for agent in self.agents],
            "release": [_up(task.release, tick) for task in self.tasks],
            "weight": [task.weight for task in self.tasks],
            "due": None if None in due else [_up(d, tick) for d in due],
            "tenant": [task.tenant for task in self.tasks],
            "quota": self.quota,
            "kind": [KINDS.index(task.kind) for task in self.tasks],
            "outages": tuple(
                Outage(agent, _up(start, tick), _up(end, tick))
                for agent, start, end in self.outages
            ),
            "resources": RESOURCES,
            "tick_seconds": tick,
            "name": self.name,
        }
        return Instance(**columns)

    def seconds(self, task: Task, kind: AgentType) -> float | None:
        """Seconds that `task` takes on an agent of `kind`; None = not eligible."""
        rate = self.rate[task.model].get(kind.name)
        if rate is None:
            return None
        workers = task.gpus if kind.accelerated else 1
        return task.data / kind.bandwidth + task.compute / (
            rate * interpolate(self.speedup, max(workers, 1))
        )

    def _check(self) -> None:
        names = [kind.name for kind in self.types]
        for i, agent in enumerate(self.agents):
            if agent.type not in names:
                raise InstanceError(
                    f"agents[{i}].type: {agent.type!r} is not one of {', '.join(names)}"
                )
        for kind in self.types:
            _positive(f"types[{kind.name}].bandwidth", kind.bandwidth)
        for model, row in self.rate.items():
            for name, rate in row.items():
                _positive(f"rate[{model}][{name}]", rate)
        for gpus, speedup in self.speedup.items():
            _positive(f"speedup[{gpus}]", speedup)
        for i, task in enumerate(self.tasks):
            if (task.due is None) != (self.tasks[0].due is None):
                raise InstanceError(f"tasks[{i}].due: either every task has a due date or none has")
            if task.model not in self.rate:
                raise InstanceError(f"tasks[{i}].model: {task.model!r} has no row in `rate`")
            if task.kind not in KINDS:
                raise InstanceError(
                    f"tasks[{i}].kind: {task.kind!r} must be one of {', '.join(KINDS)}"
                )
            _positive(f"tasks[{i}].misjudged", task.misjudged)
            for quantity in ("compute", "data"):
                value = getattr(task, quantity)
                if not (math.isfinite(value) and value >= 0):
                    raise InstanceError(
                        f"tasks[{i}].{quantity}: {value} must be a number of at least 0"
                    )


def ticks(seconds: float | None, tick_seconds: float) -> int:
    """Whole ticks that cover `seconds`, at least 1; -1 for None (not eligible)."""
    return NOT_ELIGIBLE if seconds is None else max(1, _up(seconds, tick_seconds))


def interpolate(points: Mapping[Any, float], x: float) -> float:
    """Piecewise linear through `points` (x ascending), constant outside. Plain arithmetic: equal on every machine."""
    below: tuple[float, float] | None = None
    for point in points.items():
        if x <= point[0]:
            if below is None:
                return point[1]
            share = (x - below[0]) / (point[0] - below[0])
            return below[1] + share * (point[1] - below[1])
        below = point
    if below is None:
        raise ValueError("interpolate: no points")
    return below[1]


def _up(seconds: float | None, tick: float) -> int:
    return math.ceil(
        round((seconds or 0.0) / tick, 9)
    )  # 9 digits: 0.3 / 0.1 is three ticks, not four


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InstanceError(f"{name}: {value} must be a positive number")
