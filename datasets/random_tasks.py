"""Five to ten tasks at once, from a generator of tasks that a configuration can replace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench.errors import UserError
from bench.instance import Instance
from bench.workload import Agent, AgentType, Task, Workload
from datasets._random import generator

Generate = Callable[[np.random.Generator, int], Sequence[Task]]
TYPES = (AgentType("slow", 500.0), AgentType("fast", 2000.0))
RATE = {"net": {"slow": 0.5, "fast": 1.0}}
SPEEDUP = {1: 1.0, 2: 1.8, 4: 3.0}


def uniform_tasks(
    rng: np.random.Generator,
    n: int,
    compute: Sequence[float] = (60, 1800),
    data: Sequence[float] = (0, 20_000),
    gpus: Sequence[int] = (1, 1, 1, 2),
    memory: Sequence[int] = (4_096, 32_768),
) -> list[Task]:
    """n tasks of model `net`; compute (s), data (MB) and memory (MiB) uniform between two ends, GPUs one of a list."""

    def between(ends: Sequence[float], u: float) -> float:
        return ends[0] + (ends[1] - ends[0]) * u

    return [
        Task(
            "net",
            round(between(compute, a), 3),
            round(between(data, b), 3),
            gpus[int(c * len(gpus))],
            1,
            int(between(memory, d)),
        )
        for a, b, c, d in rng.random((n, 4)).tolist()
    ]


class RandomTasks:
    """All tasks are there at tick 0. `generate(rng, n)` gives the n tasks of an instance (models: `RATE`).

    `agents`: mappings of type (slow | fast), gpus, cpus, memory (MiB). `tasks`: smallest and largest N.

    Raises:
        UserError: for a generator that does not give n tasks, or sizes that mean nothing.
    """

    def __init__(
        self,
        agents: Sequence[Mapping[str, Any]],
        generate: Generate = uniform_tasks,
        name: str = "random",
        tasks: Sequence[int] = (5, 10),
        tick_seconds: float = 60.0,
        train: int = 1024,
        validation: int = 32,
        test: int = 32,
        seed: int = 0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self.agents = [
            Agent(row["type"], row["gpus"], row["cpus"], row["memory"]) for row in agents
        ]
        self.generate, self.name, self.tasks, self.tick_seconds, self.seed = (
            generate,
            name,
            tuple(tasks),
            tick_seconds,
            seed,
        )
        self.sizes = {"train": train, "validation": validation, "test": test}
        self.hashes = dict(hashes or {})
        if len(self.tasks) != 2 or not 1 <= self.tasks[0] <= self.tasks[1]:
            raise UserError(
                f"dataset.tasks: {self.tasks} must be smallest and largest N, 1 <= smallest <= largest"
            )

    def instances(self, split: str) -> Iterator[Instance]:
        """Lazily; instance i depends on (split, i, seed) alone."""
        low, high = self.tasks
        for i in range(self.sizes[split]):
            rng = generator(split, i, self.seed)
            n = low + int(rng.random() * (high - low + 1))
            tasks = self.generate(rng, n)
            if len(tasks) != n or any(task.release for task in tasks):
                raise UserError(
                    f"dataset.generate: gave {len(tasks)} tasks; {n} are needed, all released at 0"
                )
            name = f"{self.name}-{split}-{i}"
            yield Workload(
                tasks, self.agents, TYPES, RATE, SPEEDUP, tick_seconds=self.tick_seconds, name=name
            ).compile()
