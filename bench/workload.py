"""Tasks and agents in physical units, and their conversion to an `Instance`.

The duration of task j on an agent of type t (bench/docs/problem.md section 1) is, in ticks,

    p_jt = max(1, ceil((data_j / bandwidth_t
                        + compute_j / (rate[model_j, t] * speedup(gpus_j))) / tick))

Compute is in seconds of the reference accelerator, data in MB, bandwidth in MB/s, memory in MiB,
and times are in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from bench.instance import KINDS, Instance, InstanceError, Outage
from bench.ticks import duration_to_ticks, time_to_ticks

RESOURCES = ("gpu", "cpu", "memory")


class Task(NamedTuple):
    """The requirements of one task, on any agent."""

    model: str  # family of models: the row of `Workload.rate`
    compute: float  # reference-accelerator seconds on one GPU (on a CPU-only type: of one worker)
    data: float = 0.0  # MB moved to the agent before computing
    gpus: int = 1  # GPUs held at the same time (a gang); on a CPU-only type: none, one worker
    cpus: int = 1  # CPU cores
    memory: int = 0  # MiB of host memory
    kind: str = "train"
    release: float = 0.0  # seconds
    due: float | None = None  # seconds
    weight: int = 1
    tenant: int = 0
    estimate_ratio: float = 1.0  # estimated duration / true duration


class AgentType(NamedTuple):
    """The properties that agents of one type share."""

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
    """The physical description of one problem.

    Attributes
    ----------
    rate
        rate[model][type]: throughput relative to the reference accelerator. A model is not
        eligible on a type that is absent.
    speedup
        Number of GPUs -> speedup over one GPU, ascending; linear in between.
    quota
        Units of `RESOURCES` that each tenant may hold, shape (U, 3); None: no quotas.
    outages
        (agent, start, end) in seconds of each announced outage.
    """

    tasks: Sequence[Task]
    agents: Sequence[Agent]
    types: Sequence[AgentType]
    rate: Mapping[str, Mapping[str, float]]
    speedup: Mapping[int, float] = field(default_factory=lambda: {1: 1.0})
    quota: Sequence[Sequence[int]] | None = None
    outages: Sequence[tuple[int, float, float]] = ()
    tick_seconds: float = 60.0
    name: str = ""
    _speedups: dict[int, float] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # found so far

    def compile(self) -> Instance:
        """Return the instance in matrix form, with T = len(types) and resources `RESOURCES`.

        Raises
        ------
        InstanceError
            When a name is unknown or a quantity has no valid meaning.
        """
        self._check()
        tick = self.tick_seconds
        index = {agent_type.name: t for t, agent_type in enumerate(self.types)}
        seconds = np.array(  # (N, T), NaN = not eligible
            [[self.seconds(task, t) for t in self.types] for task in self.tasks], dtype=np.float64
        )
        ratio = np.array([task.estimate_ratio for task in self.tasks])
        due = np.array([task.due for task in self.tasks], dtype=np.float64)  # NaN = none
        columns: dict[str, Any] = {
            "duration": duration_to_ticks(seconds, tick),
            "estimate": duration_to_ticks(seconds * ratio[:, None], tick, "estimate"),
            "demand": [
                [(task.gpus if t.accelerated else 0, task.cpus, task.memory) for t in self.types]
                for task in self.tasks
            ],
            "capacity": [agent[1:] for agent in self.agents],
            "agent_type": [index[agent.type] for agent in self.agents],
            "release": time_to_ticks([task.release for task in self.tasks], tick, "release"),
            "weight": [task.weight for task in self.tasks],
            "due": None if np.isnan(due).any() else time_to_ticks(due, tick, "due"),
            "tenant": [task.tenant for task in self.tasks],
            "quota": self.quota,
            "kind": [KINDS.index(task.kind) for task in self.tasks],
            "outages": tuple(
                Outage(agent, *time_to_ticks((start, end), tick, f"outages[{i}]").tolist())
                for i, (agent, start, end) in enumerate(self.outages)
            ),
            "resources": RESOURCES,
            "tick_seconds": tick,
            "name": self.name,
        }
        return Instance(**columns)

    def seconds(self, task: Task, agent_type: AgentType) -> float | None:
        """Return the seconds `task` takes on an agent of `agent_type`; None: not eligible."""
        rate = self.rate[task.model].get(agent_type.name)
        if rate is None:
            return None
        workers = max(task.gpus, 1) if agent_type.accelerated else 1
        if workers not in self._speedups:
            self._speedups[workers] = interpolate(self.speedup, workers)
        return task.data / agent_type.bandwidth + task.compute / (rate * self._speedups[workers])

    def _check(self) -> None:
        _require_positive("tick_seconds", self.tick_seconds)
        names = [agent_type.name for agent_type in self.types]
        for i, agent in enumerate(self.agents):
            if agent.type not in names:
                raise InstanceError(
                    f"agents[{i}].type: value {agent.type!r}: must be one of {', '.join(names)}"
                )
        for agent_type in self.types:
            _require_positive(f"types[{agent_type.name}].bandwidth", agent_type.bandwidth)
        for model, row in self.rate.items():
            for name, rate in row.items():
                _require_positive(f"rate[{model}][{name}]", rate)
        for gpus, speedup in self.speedup.items():
            _require_positive(f"speedup[{gpus}]", speedup)
        for i, task in enumerate(self.tasks):
            self._check_task(i, task)

    def _check_task(self, i: int, task: Task) -> None:
        if (task.due is None) != (self.tasks[0].due is None):
            raise InstanceError(
                f"tasks[{i}].due: value {task.due}: either every task has a due date or none has; "
                "give all tasks a due date, or no task"
            )
        if task.model not in self.rate:
            raise InstanceError(
                f"tasks[{i}].model: value {task.model!r}: has no row in `rate`; add one"
            )
        if task.kind not in KINDS:
            raise InstanceError(
                f"tasks[{i}].kind: value {task.kind!r}: must be one of {', '.join(KINDS)}"
            )
        _require_positive(f"tasks[{i}].estimate_ratio", task.estimate_ratio)
        for quantity in ("compute", "data"):
            value = getattr(task, quantity)
            if not (math.isfinite(value) and value >= 0):
                raise InstanceError(
                    f"tasks[{i}].{quantity}: value {value}: must be a number of at least 0"
                )


def interpolate(points: Mapping[Any, float], x: float) -> float:
    """Return the piecewise linear function through `points` at x.

    `points` maps ascending arguments to values; outside of them the function is constant. Only
    plain arithmetic is used, so the result is equal on every machine.
    """
    below: tuple[float, float] | None = None
    for point in points.items():
        if x <= point[0]:
            if below is None:
                return point[1]
            share: float = (x - below[0]) / (point[0] - below[0])
            return below[1] + share * (point[1] - below[1])
        below = point
    if below is None:
        raise ValueError("interpolate: points: must not be empty")
    return below[1]


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InstanceError(f"{name}: value {value}: must be a positive number")
