"""Which tasks can run together on an agent: knapsacks for the time-indexed packing bound.

At any tick the tasks that run on an agent fit it. If each contributes a multiplier, together they
contribute no more than the best set that fits: a knapsack with as many sizes as resources. Two
resources are counted in whole steps, rounded down, so that dynamic programming is short. A set that
fits the agent fits the knapsack too, so the knapsack is a relaxation and a bound built on it stays
valid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.instance import Ints
from solvers.exact.bounds.time_indexed_kernel import solve_knapsacks

MAX_TABLE_SIZE = 1200  # entries of a knapsack's table; steps are as fine as this allows
MAX_RESOURCES = 2


class AgentKnapsacks:
    """One knapsack per pool of agents, over the two resources that its tasks need most of.

    Parameters
    ----------
    duration
        (N, G) ticks of N tasks on G pools, -1 where a task cannot run.
    demand
        (N, G, R) units.
    capacity
        (G, R) units of one agent.

    Attributes
    ----------
    covers
        (G, R) whether the knapsack of a pool counts a resource.
    sizes
        (N, G, 2) steps that a task holds of the first and second such resource.
    capacity_steps
        (G, 2) steps that an agent has of them.
    """

    def __init__(self, duration: Ints, demand: Ints, capacity: Ints) -> None:
        n, pools, resources = demand.shape
        self.duration = duration
        self.covers = np.zeros((pools, resources), dtype=bool)
        self.sizes = np.zeros((n, pools, MAX_RESOURCES), dtype=np.int64)
        self.capacity_steps = np.zeros((pools, MAX_RESOURCES), dtype=np.int64)
        for g in range(pools):
            able = duration[:, g] > 0
            share = np.zeros(resources)
            if able.any():
                share = (demand[able, g] / np.maximum(capacity[g], 1)).mean(axis=0)
            largest = np.argsort(-share, kind="stable")[:MAX_RESOURCES]
            covered = [r for r in largest if share[r] > 0]
            steps = _step_sizes(demand[able, g][:, covered], capacity[g, covered])
            self.covers[g, covered] = True
            self.sizes[:, g, : len(covered)] = demand[:, g, covered] // steps
            self.capacity_steps[g, : len(covered)] = capacity[g, covered] // steps

    def best_values(
        self, grid: Ints, multipliers: NDArray, release: Ints, ticks: NDArray, available: Ints
    ) -> NDArray:
        """Return the largest total of multipliers (G, K) of tasks that run on an agent together.

        Parameters
        ----------
        grid
            (K + 1,) ticks.
        multipliers
            (N, G, K) per tick.
        release
            (N,) ticks; only tasks released before an interval ends run in it.
        ticks
            (N, G, K) For each task in the best set, `available` is subtracted from it in place.
        available
            (G, K) ticks.
        """
        values = np.zeros(multipliers.shape[1:], multipliers.dtype)
        solve_knapsacks(
            grid,
            multipliers,
            self.sizes,
            self.capacity_steps,
            release,
            self.duration,
            ticks,
            values,
            available,
        )
        return values


def _step_sizes(demand: Ints, capacity: Ints) -> Ints:
    """Return the units (R,) of one step: a common divisor of all demands (n, R) of a resource.

    Steps are larger where the table would exceed MAX_TABLE_SIZE.
    """
    steps = np.maximum(np.gcd.reduce(demand, axis=0), 1)
    while np.prod((capacity // steps + 1).astype(float)) > MAX_TABLE_SIZE:
        steps[np.argmax(capacity // steps)] *= 2
    return steps
