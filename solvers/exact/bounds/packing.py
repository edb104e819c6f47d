"""Which tasks can run together on an agent: knapsacks over its resources, for the bound of `solvers.exact.bounds.time_indexed`.

At any tick the tasks that run on an agent fit it. If each pays a rent, the agent earns no more than the best set that fits: a
knapsack with as many sizes as resources. Sizes are counted in whole steps, rounded down, so that dynamic programming is short;
a set that fits still fits then, so the knapsack only gets larger and a bound built on it stays valid.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.instance import Instance, Ints
from solvers.exact.bounds.time_indexed_kernel import best_sets
from solvers.exact.schedule_model import identical_agents

STATES = 1200  # entries of a knapsack's table; steps are as fine as this allows


class Pool(NamedTuple):
    """Identical agents (type, capacity, no outages), or one agent with outages; they share their prices."""

    agents: tuple[int, ...]
    kind: int  # agent type


def same_agents(instance: Instance) -> tuple[Pool, ...]:
    """The pools of an instance."""
    return tuple(
        Pool(tuple(agents), int(instance.agent_type[agents[0]]))
        for agents in identical_agents(instance)
    )


class Knapsacks:
    """One knapsack per pool over the two resources that its tasks need the largest shares of."""

    def __init__(self, duration: Ints, demand: Ints, capacity: Ints) -> None:
        """`duration` (N, G), -1 where a task can not run; `demand` (N, G, R); `capacity` (G, R) of one agent."""
        n, pools, resources = demand.shape
        self.duration = duration
        self.packs = np.zeros((pools, resources), dtype=bool)  # which resources the knapsacks see
        self.pieces = np.zeros(
            (n, pools, 2), dtype=np.int64
        )  # steps that a task holds of the first and second of them
        self.room = np.zeros((pools, 2), dtype=np.int64)  # steps an agent has
        for g in range(pools):
            able = duration[:, g] > 0
            share = (
                (demand[able, g] / np.maximum(capacity[g], 1)).mean(axis=0)
                if able.any()
                else np.zeros(resources)
            )
            seen = [r for r in np.argsort(-share, kind="stable")[:2] if share[r] > 0]
            steps = _steps(demand[able, g][:, seen], capacity[g, seen])
            self.packs[g, seen] = True
            self.pieces[:, g, : len(seen)] = demand[:, g, seen] // steps
            self.room[g, : len(seen)] = capacity[g, seen] // steps

    def worth(
        self, grid: Ints, rents: NDArray, release: Ints, ticks: NDArray, present: Ints
    ) -> NDArray:
        """(G, K) the most that tasks running together on one agent can pay per tick, of rents (N, G, K).

        Takes `present` (G, K) ticks of each task in the best set off `ticks` (N, G, K).
        """
        worth = np.zeros(rents.shape[1:], rents.dtype)
        best_sets(
            grid, rents, self.pieces, self.room, release, self.duration, ticks, worth, present
        )
        return worth


def _steps(demand: Ints, capacity: Ints) -> Ints:
    """(R,) the units in one step: those that divide all demands (n, R), or more where the table would exceed STATES."""
    steps = np.maximum(np.gcd.reduce(demand, axis=0), 1)
    while np.prod((capacity // steps + 1).astype(float)) > STATES:
        steps[np.argmax(capacity // steps)] *= 2
    return steps
