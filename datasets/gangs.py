"""Gangs of GPUs with release dates on unrelated agents: R | r_j, size_j | sum w_j F_j.

The sizes are those at which exact solvers begin to fail. Every agent is its own type. The duration
of a task is log-uniform over one order of magnitude, times a log-uniform factor for each agent. The
distribution of GPU demands is that of `datasets.cluster` (multi-GPU traces of Gavel). Speeds,
memory and eligibility are assumed; memory is about as scarce as the GPUs, from 0.8 to 1.6 times.
Every number comes from `Generator.random` and plain arithmetic, so a set of instances is the same
on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from bench.errors import UserError
from bench.instance import NOT_ELIGIBLE, Instance, Ints
from bench.workload import interpolate
from datasets._random import DrawnInstances, instance_generator
from datasets.cluster import GPU_SHARE, pick

# quantile -> ticks on an average agent, log-uniform
TICKS = {0.0: 20, 0.25: 36, 0.5: 63, 0.75: 112, 1.0: 200}
# quantile -> factor of those ticks on one agent, log-uniform
FACTOR = {0.0: 0.5, 0.25: 0.707, 0.5: 1.0, 0.75: 1.414, 1.0: 2.0}
MEMORY = {0.0: 8, 0.5: 32, 0.9: 96, 1.0: 128}  # quantile -> GiB per GPU that a task holds
AGENT_MEMORY = 32  # GiB per GPU that an agent has
INELIGIBLE_SHARE = 0.2  # probability that a task is not eligible on an agent
WEIGHT_SHARE = {1: 0.7, 2: 0.2, 4: 0.1}  # weight -> fraction of the tasks


class Gangs(DrawnInstances):
    """Instances of one size; instance i of a split has load loads[i % len(loads)].

    The name of an instance states its size and load. A gang is limited to the GPUs of the largest
    agent and its memory to what that agent has; every task is eligible on the largest agent, so
    that each task can run.

    Parameters
    ----------
    tasks
        Number of tasks.
    gpus
        Number of GPUs of each agent, shape (M,).
    loads
        Sum of the GPU ticks of the tasks, each on its fastest agent, divided by the number of GPUs
        and by the time over which the tasks arrive (Poisson).
    train, validation, test, seed, hashes
        See `DrawnInstances`.

    Raises
    ------
    UserError
        When a size or a load has no valid meaning.
    """

    def __init__(
        self,
        name: str,
        tasks: int,
        gpus: Sequence[int],
        loads: Sequence[float] = (1.05, 0.25),
        train: int | Literal["endless"] = 256,
        validation: int = 10,
        test: int = 10,
        seed: int = 0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, train, validation, test, seed, hashes)
        self.tasks = tasks
        self.gpus = tuple(gpus)
        self.loads = tuple(loads)
        if tasks < 1:
            raise UserError(f"dataset.tasks: value {tasks}: must be at least 1")
        if not self.gpus or min(self.gpus) < 1:
            raise UserError(
                f"dataset.gpus: value {list(self.gpus)}: must list the GPUs of each agent, "
                "all at least 1"
            )
        if not self.loads or min(self.loads) <= 0:
            raise UserError(
                f"dataset.loads: value {list(self.loads)}: must list at least one load, "
                "all positive"
            )

    def draw(self, split: str, i: int) -> Instance:
        """Draw instance i of the split."""
        load = self.loads[i % len(self.loads)]
        rng = instance_generator(split, i, self.seed)
        return self._draw(rng, load, f"{self.name}-{split}-{i}-load{load}")

    def _draw(self, rng: np.random.Generator, load: float, name: str) -> Instance:
        most_gpus = max(self.gpus)
        gang: list[int] = []
        duration: list[list[int]] = []
        memory: list[int] = []
        weight: list[int] = []
        for u in rng.random((self.tasks, 4)).tolist():
            gang.append(min(pick(GPU_SHARE, u[0]), most_gpus))
            duration.append(self._durations(rng, interpolate(TICKS, u[1])))
            memory.append(min(gang[-1] * int(interpolate(MEMORY, u[2])), most_gpus * AGENT_MEMORY))
            weight.append(pick(WEIGHT_SHARE, u[3]))
        per_task = np.stack([gang, memory], axis=1)  # (N, 2)
        demand = np.repeat(per_task[:, None], len(self.gpus), axis=1)  # (N, M, 2)
        capacity = np.array([(gpus, gpus * AGENT_MEMORY) for gpus in self.gpus])  # (M, 2)
        fits = (demand <= capacity).all(axis=2) & (np.array(duration) != NOT_ELIGIBLE)
        shortest = np.where(fits, duration, np.iinfo(np.int64).max).min(axis=1)
        span = int(shortest @ np.array(gang)) / sum(self.gpus) / load  # ticks
        return Instance(
            duration=duration,  # type: ignore[arg-type]
            demand=demand,
            capacity=capacity,
            agent_type=np.arange(len(self.gpus)),
            release=_arrivals(rng, self.tasks, span),
            weight=weight,  # type: ignore[arg-type]
            resources=("gpu", "memory"),
            tick_seconds=60.0,
            name=name,
        )

    def _durations(self, rng: np.random.Generator, ticks: float) -> list[int]:
        """Return the duration on each agent of a task that takes `ticks` on an average agent."""
        largest = self.gpus.index(max(self.gpus))
        draws = rng.random((len(self.gpus), 2)).tolist()
        return [
            NOT_ELIGIBLE
            if ineligible < INELIGIBLE_SHARE and a != largest
            else max(1, round(ticks * interpolate(FACTOR, u)))
            for a, (ineligible, u) in enumerate(draws)
        ]


def _arrivals(rng: np.random.Generator, n: int, span: float) -> Ints:
    """Return (N,) ascending ticks in [0, span): sorted uniforms, which is Poisson given n."""
    at = np.sort(rng.random(n))
    ticks: Ints = np.floor((at - at[0]) * span).astype(np.int64)
    return ticks
