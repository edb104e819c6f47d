"""Five to ten tasks at tick 0, drawn by a function that the configuration can replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from bench.errors import UserError
from bench.instance import Instance
from bench.workload import AgentType, Task, Workload
from datasets._random import AgentSpec, DrawnInstances, agents_of, instance_generator

TaskGenerator = Callable[[np.random.Generator, int], Sequence[Task]]
TYPES = (AgentType("slow", 500.0), AgentType("fast", 2000.0))  # bandwidth in MB/s
RATE = {"net": {"slow": 0.5, "fast": 1.0}}  # model -> agent type -> relative throughput
SPEEDUP = {1: 1.0, 2: 1.8, 4: 3.0}  # number of GPUs -> speedup


def uniform_tasks(
    rng: np.random.Generator,
    n: int,
    compute: Sequence[float] = (60, 1800),
    data: Sequence[float] = (0, 20_000),
    gpus: Sequence[int] = (1, 1, 1, 2),
    memory: Sequence[int] = (4_096, 32_768),
) -> list[Task]:
    """Draw n tasks of model `net`.

    Parameters
    ----------
    compute, data, memory
        Smallest and largest value of a uniform distribution, in seconds, MB and MiB.
    gpus
        The numbers of GPUs from which each task takes one at random.
    """

    def between(ends: Sequence[float], u: float) -> float:
        return ends[0] + (ends[1] - ends[0]) * u

    return [
        Task(
            model="net",
            compute=round(between(compute, a), 3),
            data=round(between(data, b), 3),
            gpus=gpus[int(c * len(gpus))],
            cpus=1,
            memory=int(between(memory, d)),
        )
        for a, b, c, d in rng.random((n, 4)).tolist()
    ]


class RandomTasks(DrawnInstances):
    """Instances of a few tasks that are all released at tick 0.

    Parameters
    ----------
    agents
        For each agent a mapping of type (slow or fast), gpus, cpus, memory (MiB) and, optionally,
        count.
    generate
        Function (generator, n) that returns the n tasks of an instance; its models are the keys
        of `RATE`.
    tasks
        Smallest and largest number of tasks of an instance.
    tick_seconds
        Length of a tick.
    train, validation, test, seed, hashes
        See `DrawnInstances`.

    Raises
    ------
    UserError
        When `generate` does not return n tasks released at 0, or `tasks` is not a valid range.
    """

    def __init__(
        self,
        agents: Sequence[AgentSpec],
        generate: TaskGenerator = uniform_tasks,
        name: str = "random",
        tasks: Sequence[int] = (5, 10),
        tick_seconds: float = 60.0,
        train: int | Literal["endless"] = 1024,
        validation: int = 32,
        test: int = 32,
        seed: int = 0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, train, validation, test, seed, hashes)
        self.agents = agents_of(agents)
        self.generate = generate
        self.tasks = tuple(tasks)
        self.tick_seconds = tick_seconds
        if len(self.tasks) != 2 or not 1 <= self.tasks[0] <= self.tasks[1]:
            raise UserError(
                f"dataset.tasks: value {list(self.tasks)}: must be the smallest and the largest "
                "number of tasks; give [SMALLEST, LARGEST] with 1 <= SMALLEST <= LARGEST"
            )

    def draw(self, split: str, i: int) -> Instance:
        """Draw instance i of the split."""
        low, high = self.tasks
        rng = instance_generator(split, i, self.seed)
        n = low + int(rng.random() * (high - low + 1))
        tasks = self.generate(rng, n)
        if len(tasks) != n or any(task.release for task in tasks):
            raise UserError(
                f"dataset.generate: returned {len(tasks)} tasks; "
                f"it must return {n} tasks, all with release 0"
            )
        name = f"{self.name}-{split}-{i}"
        return Workload(
            tasks, self.agents, TYPES, RATE, SPEEDUP, tick_seconds=self.tick_seconds, name=name
        ).compile()
