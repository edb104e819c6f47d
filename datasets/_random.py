"""What drawn instances have in common: their random-number generator and the list of agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np

from bench.contracts import SPLITS
from bench.errors import UserError
from bench.workload import Agent


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
