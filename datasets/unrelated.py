"""Unrelated agents, one task at a time on each: R || C_max.

Every duration is a uniform integer. With 100 tasks, 20 agents, durations of 1 to 100 and the
objective makespan these are the instances on which neural results exist (GOAL, Drakulic, Michel &
Andreoli, ICLR 2025, arXiv:2406.15079, "unrelated machine scheduling problem"); the instances
themselves are drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from bench.errors import UserError
from bench.instance import Instance
from datasets._random import DrawnInstances, instance_generator


class Unrelated(DrawnInstances):
    """Instances of one size, in which all tasks are there from the start.

    Parameters
    ----------
    tasks, agents
        N and M.
    duration
        Smallest and largest duration in ticks.
    train, validation, test, seed, hashes
        See `DrawnInstances`.

    Raises
    ------
    UserError
        When a parameter has no valid meaning; the message names it.
    """

    def __init__(
        self,
        name: str,
        tasks: int,
        agents: int,
        duration: Sequence[int] = (1, 100),
        train: int | Literal["endless"] = 1024,
        validation: int = 32,
        test: int = 128,
        seed: int = 0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, train, validation, test, seed, hashes)
        for field, value in (("tasks", tasks), ("agents", agents)):
            if value < 1:
                raise UserError(f"dataset.{field}: value {value}: must be at least 1")
        if len(duration) != 2 or not 1 <= duration[0] <= duration[1]:
            raise UserError(
                f"dataset.duration: value {list(duration)}: must be the smallest and the largest "
                "number of ticks; give [SMALLEST, LARGEST] with 1 <= SMALLEST <= LARGEST"
            )
        self.tasks = tasks
        self.agents = agents
        self.duration = tuple(duration)

    def draw(self, split: str, i: int) -> Instance:
        """Draw instance i of the split."""
        low, high = self.duration
        u = instance_generator(split, i, self.seed).random((self.tasks, self.agents))
        return Instance(
            duration=low + (u * (high - low + 1)).astype(np.int64),
            demand=np.ones((self.tasks, self.agents, 1), dtype=np.int64),
            capacity=np.ones((self.agents, 1), dtype=np.int64),
            agent_type=np.arange(self.agents),
            resources=("slot",),
            tick_seconds=1.0,
            name=f"{self.name}-{split}-{i}",
        )
