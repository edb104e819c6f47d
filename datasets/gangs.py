"""Gangs of GPUs with release dates on unrelated agents: R | r_j, size_j | sum w_j F_j at the sizes where exact solvers fail.

Every agent is its own type. A task's ticks are log-uniform over one order of magnitude, times a log-uniform factor for each
agent; shares of GPU demands are those of `datasets.cluster` (Gavel's multi-GPU traces). Speeds, memory and eligibility are
assumed; memory is about as scarce as the GPUs, from 0.8 to 1.6 times. Every number comes from `Generator.random` and plain
arithmetic, so a set is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bench.errors import UserError
from bench.instance import NOT_ELIGIBLE, Instance, Ints
from bench.workload import interpolate
from datasets._random import generator
from datasets.cluster import GPU_SHARE, pick

TICKS = {
    0.0: 20,
    0.25: 36,
    0.5: 63,
    0.75: 112,
    1.0: 200,
}  # quantile -> ticks on an average agent, log-uniform
FACTOR = {
    0.0: 0.5,
    0.25: 0.707,
    0.5: 1.0,
    0.75: 1.414,
    1.0: 2.0,
}  # quantile -> of those ticks on one agent, log-uniform
MEMORY = {0.0: 8, 0.5: 32, 0.9: 96, 1.0: 128}  # quantile -> GiB per GPU that a task holds
ROOM = 32  # GiB per GPU that an agent has
NOT_THERE = 0.2  # how often a task is not eligible on an agent
WEIGHT_SHARE = {1: 0.7, 2: 0.2, 4: 0.1}


class Gangs:
    """Instance i of a split has load loads[i % len(loads)]; its name says size and load.

    `gpus`: of each agent. `loads`: GPU ticks of the tasks, each on its fastest agent, over all GPUs and the span of the
    arrivals (Poisson). A gang is cut to the largest agent and its memory to what that agent has; the largest agent is
    eligible for every task, so that each can run.

    Raises:
        UserError: for sizes or loads that mean nothing.
    """

    def __init__(
        self,
        name: str,
        tasks: int,
        gpus: Sequence[int],
        loads: Sequence[float] = (1.05, 0.25),
        train: int = 256,
        validation: int = 10,
        test: int = 10,
        seed: int = 0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.tasks, self.gpus, self.loads, self.seed = (
            name,
            tasks,
            tuple(gpus),
            tuple(loads),
            seed,
        )
        self.sizes = {"train": train, "validation": validation, "test": test}
        self.hashes = dict(hashes or {})
        if tasks < 1:
            raise UserError(f"dataset.tasks: {tasks} must be at least 1")
        if not self.gpus or min(self.gpus) < 1:
            raise UserError(
                f"dataset.gpus: {list(self.gpus)} must be the GPUs of each agent, at least 1"
            )
        if not self.loads or min(self.loads) <= 0:
            raise UserError(f"dataset.loads: {list(self.loads)} must be positive")

    def instances(self, split: str) -> Iterator[Instance]:
        """Lazily; instance i depends on (split, i, seed) alone."""
        for i in range(self.sizes[split]):
            load = self.loads[i % len(self.loads)]
            yield self._draw(
                generator(split, i, self.seed), load, f"{self.name}-{split}-{i}-load{load}"
            )

    def _draw(self, rng: np.random.Generator, load: float, name: str) -> Instance:
        widest = max(self.gpus)
        gang, duration, memory, weight = [], [], [], []
        for u in rng.random((self.tasks, 4)).tolist():
            gang.append(min(pick(GPU_SHARE, u[0]), widest))
            duration.append(self._ticks(rng, interpolate(TICKS, u[1])))
            memory.append(min(gang[-1] * int(interpolate(MEMORY, u[2])), widest * ROOM))
            weight.append(pick(WEIGHT_SHARE, u[3]))
        demand = np.repeat(
            np.stack([gang, memory], axis=1)[:, None], len(self.gpus), axis=1
        )  # (N, M, 2)
        capacity = np.array([(gpus, gpus * ROOM) for gpus in self.gpus])
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

    def _ticks(self, rng: np.random.Generator, ticks: float) -> list[int]:
        """(M,) durations of a task that takes `ticks` on an average agent."""
        safe = self.gpus.index(max(self.gpus))
        draws = rng.random((len(self.gpus), 2)).tolist()
        return [
            NOT_ELIGIBLE
            if absent < NOT_THERE and a != safe
            else max(1, round(ticks * interpolate(FACTOR, u)))
            for a, (absent, u) in enumerate(draws)
        ]


def _arrivals(rng: np.random.Generator, n: int, span: float) -> Ints:
    """(N,) ticks in [0, span), ascending from 0: sorted uniforms, which is Poisson given n."""
    at = np.sort(rng.random(n))
    return np.floor((at - at[0]) * span).astype(np.int64)
