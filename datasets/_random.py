"""What drawn instances have in common: the splits, the random numbers, the list of agents."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NotRequired, TypedDict

import numpy as np

from bench.contracts import SPLITS, Dataset
from bench.errors import UserError
from bench.instance import Instance
from bench.workload import Agent

POOL = 512  # instances of an endless train split that `instances` yields


class AgentSpec(TypedDict):
    """`count` equal agents (1 where it is left out), memory in MiB."""

    type: str
    gpus: int
    cpus: int
    memory: int
    count: NotRequired[int]


def agents_of(specs: Sequence[AgentSpec]) -> list[Agent]:
    """Return the agents that a configuration lists.

    Raises
    ------
    UserError
        For an empty list, a negative number or a count below 1.
    """
    if not specs:
        raise UserError("dataset.agents: must not be empty; list at least one agent")
    agents = []
    for i, one in enumerate(specs):
        amounts = {"gpus": one["gpus"], "cpus": one["cpus"], "memory": one["memory"]}
        count = one.get("count", 1)
        for field, value in amounts.items():
            if value < 0:
                raise UserError(f"dataset.agents[{i}].{field}: value {value}: must not be negative")
        if count < 1:
            raise UserError(f"dataset.agents[{i}].count: value {count}: must be at least 1")
        agents += [Agent(one["type"], *amounts.values())] * count
    return agents


def instance_generator(split: str, i: int, seed: int) -> np.random.Generator:
    """Return the generator of instance i of `split`, which depends on (split, i, seed) alone."""
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([SPLITS.index(split), i, seed]))
    )


class DrawnInstances(Dataset):
    """Instances that are drawn: instance i of a split depends on (split, i, seed) alone.

    Parameters
    ----------
    train
        Number of train instances, or `endless`: a learner then draws new ones while it trains,
        beginning with the POOL instances that the split holds. They are those of any number.
    validation, test
        Number of instances of these splits.
    hashes
        See `bench.contracts.Dataset`; of an endless train split none is checked.

    Raises
    ------
    UserError
        For a negative number of instances, or another word.
    """

    def __init__(
        self,
        name: str,
        train: int | Literal["endless"],
        validation: int,
        test: int,
        seed: int,
        hashes: Mapping[str, str] | None,
    ) -> None:
        self.name = name
        self.seed = seed
        self.hashes = dict(hashes or {})
        self.endless = train == "endless"
        if isinstance(train, str) and not self.endless:
            raise UserError(f"dataset.train: value {train!r}: must be a number or endless")
        if self.endless:
            self.hashes.pop("train", None)
        size = POOL if isinstance(train, str) else train
        self.sizes = {"train": size, "validation": validation, "test": test}
        for split, count in self.sizes.items():
            if count < 0:
                raise UserError(f"dataset.{split}: value {count}: must not be negative")

    def instances(self, split: str) -> Iterator[Instance]:
        """Draw the instances of the split lazily."""
        return (self.draw(split, i) for i in range(self.sizes[split]))

    def training_instance(self, index: int) -> Instance:
        """Draw instance `index` of the train split, however large."""
        return self.draw("train", index)

    @abstractmethod
    def draw(self, split: str, i: int) -> Instance:
        """Draw instance i of the split."""
