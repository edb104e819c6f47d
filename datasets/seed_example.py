"""The worked example: three tasks, three agents, p = compute / GPUs, under the readings of it that differ.

`time`: one task at a time per agent. `budget`: static assignment, with and without data counted against memory, and with
at most one task per agent. Values by enumeration are in tests/datasets/test_seed_example.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from bench.contracts import SPLITS, UserError
from bench.instance import Instance

COMPUTE, DATA = (500, 200, 800), (10, 5, 20)
GPUS, MEMORY = (1, 2, 4), (16, 32, 64)
READINGS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {  # name -> (sharing, resources that bind)
    "time": {"one at a time": ("time", ("slot",))},
    "budget": {
        "free": ("budget", ()),
        "memory": ("budget", ("memory",)),
        "one each": ("budget", ("slot",)),
        "one each, memory": ("budget", ("slot", "memory")),
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
        readings = READINGS[self.reading]
        if split == "test":
            for name, (sharing, binding) in readings.items():
                yield build(COMPUTE, DATA, sharing, binding, name)
            return
        for i in range(self.sizes[split]):
            name, (sharing, binding) = list(readings.items())[i % len(readings)]
            rng = np.random.default_rng([SPLITS.index(split), i])
            compute = 100 * rng.integers(1, 10, size=3) + (40 if split == "train" else 20)
            yield build(compute, rng.integers(2, 17, size=3), sharing, binding, f"{split} {i}, {name}")


def build(
    compute: np.typing.ArrayLike, data: np.typing.ArrayLike, sharing: str, binding: tuple[str, ...], name: str
) -> Instance:
    """Tasks of `compute` (3,) and `data` (3,) on the example's agents, where only the `binding` resources are counted."""
    units = {"slot": np.ones(3, dtype=np.int64), "memory": np.asarray(data)}
    capacity = {"slot": np.ones(3, dtype=np.int64), "memory": np.asarray(MEMORY)}
    demand = np.array([units[r] for r in binding], dtype=np.int64).reshape(len(binding), 3).T  # (3, R)
    return Instance(
        duration=np.asarray(compute)[:, None] // np.asarray(GPUS)[None, :],  # (3, 3)
        demand=np.repeat(demand[:, None, :], 3, axis=1),
        capacity=np.array([capacity[r] for r in binding], dtype=np.int64).reshape(len(binding), 3).T,
        agent_type=np.arange(3),
        sharing=sharing,
        resources=binding,
        name=name,
    )
