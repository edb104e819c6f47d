"""The worked example: three tasks, three agents, p = compute / GPUs, under several readings.

`time`: one task at a time per agent. `budget`: static assignment, with and without the data
volume counted against memory, and with at most one task per agent. The optimal values, found by
enumeration, are in tests/datasets/test_seed_example.py; see bench/docs/problem.md section 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike

from bench.contracts import Dataset
from bench.errors import UserError
from bench.instance import Instance
from datasets._random import instance_generator

COMPUTE = (500, 200, 800)  # of each task
DATA = (10, 5, 20)  # of each task, in the unit of MEMORY
GPUS = (1, 2, 4)  # of each agent
MEMORY = (16, 32, 64)  # of each agent
# sharing -> name of the reading -> (tasks that an agent can take, whether memory is a resource)
READINGS: dict[str, dict[str, tuple[int, bool]]] = {
    "time": {"one at a time": (1, False)},
    "budget": {
        "free": (3, False),
        "memory": (3, True),
        "one each": (1, False),
        "one each, memory": (1, True),
    },
}


class SeedExample(Dataset):
    """The worked example as test split; variants with other compute and data for training.

    Parameters
    ----------
    reading
        The sharing: `time` or `budget`.
    train, validation
        Number of variants in these splits; the test split has one instance per reading.

    Raises
    ------
    UserError
        When `reading` is unknown.
    """

    def __init__(
        self,
        name: str = "seed_example",
        reading: str = "time",
        train: int = 256,
        validation: int = 16,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        if reading not in READINGS:
            raise UserError(
                f"dataset.reading: value {reading!r}: must be one of {', '.join(READINGS)}"
            )
        self.name = name
        self.reading = reading
        self.sizes = {"train": train, "validation": validation}
        self.hashes = dict(hashes or {})

    def instances(self, split: str) -> Iterator[Instance]:
        """Yield one instance per reading (test) or variants that differ from the example."""
        readings = list(READINGS[self.reading].items())
        if split == "test":
            for name, (slots, memory) in readings:
                yield build(COMPUTE, DATA, self.reading, slots, memory, name)
            return
        for i in range(self.sizes[split]):
            name, (slots, memory) = readings[i % len(readings)]
            rng = instance_generator(split, i, 0)
            compute = 100 * rng.integers(1, 10, size=3) + (40 if split == "train" else 20)
            data = rng.integers(2, 17, size=3)
            yield build(compute, data, self.reading, slots, memory, f"{split} {i}, {name}")


def build(
    compute: ArrayLike, data: ArrayLike, sharing: str, slots: int, memory: bool, name: str
) -> Instance:
    """Return the instance of three tasks on the agents of the example.

    Parameters
    ----------
    compute, data
        Compute and data volume of each task, shape (3,).
    sharing
        `time` or `budget`.
    slots
        Number of tasks that each agent can take.
    memory
        Whether the data of the tasks counts against the memory of their agent.
    """
    resources = 1 + memory
    demand = np.stack([np.ones(3, dtype=np.int64), np.asarray(data)], axis=1)  # (3, 2)
    capacity = np.stack([np.full(3, slots), np.asarray(MEMORY)], axis=1)  # (3, 2)
    return Instance(
        duration=np.asarray(compute)[:, None] // np.asarray(GPUS)[None, :],  # (3, 3)
        demand=np.repeat(demand[:, None, :resources], 3, axis=1),  # (3, 3, R)
        capacity=capacity[:, :resources],  # (3, R)
        agent_type=np.arange(3),
        sharing=sharing,
        resources=("slot", "memory")[:resources],
        name=name,
    )
