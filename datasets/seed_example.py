"""The worked example: three tasks, three agents, p = compute / GPUs, under the readings of it that differ.

`time`: one task at a time per agent. `budget`: static assignment, with and without data counted against memory, and with
at most one task per agent. Values by enumeration are in tests/datasets/test_seed_example.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike

from bench.errors import UserError
from bench.instance import Instance
from datasets._random import generator

COMPUTE, DATA = (500, 200, 800), (10, 5, 20)
GPUS, MEMORY = (1, 2, 4), (16, 32, 64)
READINGS: dict[
    str, dict[str, tuple[int, bool]]
] = {  # sharing -> name -> (tasks an agent takes, is memory counted)
    "time": {"one at a time": (1, False)},
    "budget": {
        "free": (3, False),
        "memory": (3, True),
        "one each": (1, False),
        "one each, memory": (1, True),
    },
}


class SeedExample:
    """The example's readings of one sharing as test split; variants with other compute and data for training.

    Raises:
        UserError: for a reading other than `time` and `budget`.
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
            raise UserError(f"dataset.reading: {reading!r} must be one of {', '.join(READINGS)}")
        self.name, self.reading, self.hashes = name, reading, dict(hashes or {})
        self.sizes = {"train": train, "validation": validation}

    def instances(self, split: str) -> Iterator[Instance]:
        """`test`: one instance per reading. `train`, `validation`: that many variants, none equal to the example."""
        readings = list(READINGS[self.reading].items())
        if split == "test":
            for name, (slots, memory) in readings:
                yield build(COMPUTE, DATA, self.reading, slots, memory, name)
            return
        for i in range(self.sizes[split]):
            name, (slots, memory) = readings[i % len(readings)]
            rng = generator(split, i, 0)
            compute = 100 * rng.integers(1, 10, size=3) + (40 if split == "train" else 20)
            yield build(
                compute,
                rng.integers(2, 17, size=3),
                self.reading,
                slots,
                memory,
                f"{split} {i}, {name}",
            )


def build(
    compute: ArrayLike, data: ArrayLike, sharing: str, slots: int, memory: bool, name: str
) -> Instance:
    """Tasks of `compute` (3,) and `data` (3,) on the example's agents: `slots` tasks each and, where counted, `memory`."""
    demand = np.stack([np.ones(3, dtype=np.int64), np.asarray(data)], axis=1)[
        :, : 1 + memory
    ]  # (3, R)
    capacity = np.stack([np.full(3, slots), np.asarray(MEMORY)], axis=1)[:, : 1 + memory]  # (3, R)
    return Instance(
        duration=np.asarray(compute)[:, None] // np.asarray(GPUS)[None, :],  # (3, 3)
        demand=np.repeat(demand[:, None, :], 3, axis=1),
        capacity=capacity,
        agent_type=np.arange(3),
        sharing=sharing,
        resources=("slot", "memory")[: 1 + memory],
        name=name,
    )
