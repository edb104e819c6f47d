"""Lagrangian relaxation of the capacities in the time-indexed formulation: a lower bound.

Every unit of every resource has a multiplier per tick, piecewise constant on a grid. Each task
alone then chooses the agent and the start of least cost: its own term of the objective plus the
multipliers of the units it holds. The sum of these costs less the multipliers of all available
units is a lower bound for any multipliers >= 0 (Pritsker, Watters & Wolfe 1969; Christofides,
Alvarez-Valdes & Tamarit 1987; Mohring, Schulz, Stork & Uetz, Management Science 49, 2003). The best
multipliers give the bound of the linear programme (Dyer & Wolsey 1990).

That programme lets fractions of tasks share an agent. So in a second step each task gets
multipliers of its own, per pool of agents and interval, and subtracted is the largest total of any
set of tasks that fit an agent together: Lagrangian decomposition (Guignard & Kim, Mathematical
Programming 39, 1987). The best multipliers give the bound over the convex hull of those sets
(`solvers.exact.bounds.packing`).

Multipliers are sought in floating point and then rounded to integers, with which the bound is
computed exactly.
"""

from __future__ import annotations

import time
from fractions import Fraction
from math import floor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.compiled import kernel_array
from bench.instance import Instance, Ints
from bench.left_shift import fits_alone
from solvers.exact.agent_pools import AgentPool, StartWindows, agent_pools, pool_of_agent
from solvers.exact.bounds.packing import AgentKnapsacks
from solvers.exact.bounds.time_indexed_kernel import (
    FAR,
    add_task_ticks,
    add_usage,
    solve_subproblems,
)
from solvers.exact.bounds.volume import maximise_concave
from solvers.exact.objective_terms import Terms

FINEST = 1024  # intervals of the finest grid where the horizon has more ticks
COARSEST = 32  # intervals of the first grid; every next grid has four times as many
MAX_TASK_MULTIPLIERS = 200_000  # the grid is as fine as this and FINEST_PACKING allow
COARSEST_PACKING = 128  # intervals; with fewer the packing bound gains too little for its time
FINEST_PACKING = 512  # intervals
LARGEST_VALUE = 2.0**59  # limit of a scaled value, inside int64
LARGEST_SLACK = 2**60  # no scaled value is this far above another
ROUNDING = 1e-6  # relative loss of the bound by rounding the multipliers, approximately

Floats = NDArray[np.float64]


class TimeIndexedMultipliers(NamedTuple):
    """Dual multipliers per tick of each interval of a grid.

    They are floats while the best are sought and integers in a proof.
    """

    grid: Ints  # (K + 1,) ticks
    capacity: NDArray  # (G, R, K) per unit of an agent of a pool
    quota: NDArray  # (U, R, K) per unit of a tenant's quota
    task: NDArray  # (N, G, K) per task on an agent of a pool, on top; (0, G, K) without packing

    def on_grid(self, grid: Ints) -> TimeIndexedMultipliers:
        """Return the multipliers on another grid; each interval takes those of its first tick."""
        at = np.searchsorted(self.grid, grid[:-1], side="right") - 1
        row = np.clip(at, 0, len(self.grid) - 2)
        return TimeIndexedMultipliers(
            grid, self.capacity[..., row], self.quota[..., row], self.task[..., row]
        )


class MultiplierBound(NamedTuple):
    """Integer multipliers, counted in 1 / scale, and the bound that they prove."""

    value: Fraction
    scale: int
    multipliers: TimeIndexedMultipliers
    pools: tuple[AgentPool, ...]

    def proof(self) -> dict[str, Any]:
        """Return the proof, ready for JSON, in the form that `solvers.exact.bounds` documents."""
        pool = pool_of_agent(self.pools)
        quota = self.multipliers.quota
        proof: dict[str, Any] = {
            "kind": "capacity_prices",
            "scale": self.scale,
            "grid": self.multipliers.grid.tolist(),
            "prices": self.multipliers.capacity[pool].tolist(),
            "quota_prices": quota.tolist() if len(quota) else None,
        }
        if len(self.multipliers.task):
            proof |= {
                "kind": "packing_prices",
                "pool": pool.tolist(),
                "rents": self.multipliers.task.tolist(),
            }
        return proof


class TimeIndexedRelaxation:
    """The relaxation of an instance and an objective that is a sum of terms.

    Parameters
    ----------
    instance
        N tasks, G pools of identical agents, R resources, U tenants.
    terms
        The objective.
    end
        The last tick of the grids, after which multipliers are 0; best the end of a good schedule.
    """

    def __init__(self, instance: Instance, terms: Terms, end: int) -> None:
        self.instance = instance
        self.terms = terms
        self.pools = agent_pools(instance)
        n, r = instance.n_tasks, instance.n_resources
        alone = np.array([fits_alone(instance, j) for j in range(n)])
        types = [pool.agent_type for pool in self.pools]
        first = [pool.agents[0] for pool in self.pools]
        duration = np.where(alone[:, first], instance.duration[:, types], -1)
        self.duration = kernel_array(duration)  # (N, G)
        self.release = kernel_array(instance.release)  # (N,)
        self.demand = kernel_array(instance.demand[:, types])  # (N, G, R)
        self.capacity = instance.capacity[first]  # (G, R) of one agent
        self.pool_size = np.array([len(pool.agents) for pool in self.pools])  # (G,)
        self.tenant = np.zeros(n, dtype=np.int64)
        self.quota = np.zeros((0, r), dtype=np.int64)  # (U, R)
        if instance.quota is not None and instance.tenant is not None:
            self.tenant = kernel_array(instance.tenant)
            self.quota = instance.quota
        self.outages = self._outages()
        self.knapsacks = AgentKnapsacks(self.duration, self.demand, self.capacity)
        self.start = int(instance.release.min())
        self.end = max(end, self.start + 1)
        rows = zip(terms.coefficient, terms.lower_limit, strict=True)
        self.costs = np.array([[float(c), float(c * limit)] for c, limit in rows])  # (N, 2)
        last_outage = max((outage.end for outage in instance.outages), default=0)
        # no completion that is considered lies later, so no later due date counts
        self.latest = max(self.end, last_outage) + int(self.duration.max())
        self.origin = np.minimum(np.array(terms.origin, dtype=np.int64), self.latest)

    def _outages(self) -> Ints:
        """Return the ticks [start, end) of each pool's outages in order, then FAR (G, O, 2)."""
        spans = [
            [(o.start, o.end) for o in self.instance.outages if o.agent in pool.agents]
            for pool in self.pools
        ]
        out = np.full((len(spans), max(map(len, spans)) + 1, 2), FAR, dtype=np.int64)
        for g, rows in enumerate(spans):
            out[g, : len(rows)] = np.array(rows, dtype=np.int64).reshape(-1, 2)
        return out

    def grid(self, intervals: int) -> Ints:
        """Return ticks (K + 1,) from the first release to `end`.

        They make at most `intervals` intervals of nearly the same length.
        """
        k = min(intervals, self.end - self.start)
        return self.start + np.arange(k + 1) * (self.end - self.start) // k

    def available_ticks(self, grid: Ints) -> Ints:
        """Return the ticks (G, K) of each interval without outage, summed over a pool."""
        ticks = np.tile(np.diff(grid), (len(self.pools), 1))
        for g in range(len(self.pools)):
            for begin, end in self.outages[g]:
                ticks[g] -= np.maximum(0, np.minimum(grid[1:], end) - np.maximum(grid[:-1], begin))
        return ticks * self.pool_size[:, None]

    def solve_subproblems(
        self, multipliers: TimeIndexedMultipliers, costs: NDArray, limit: NDArray
    ) -> tuple[NDArray, ...]:
        """Return each task's least cost, its pool and start, and the starts that cost <= `limit`.

        Parameters
        ----------
        multipliers
            Floats or integers, like `costs`.
        costs
            (N, 2) coefficient and least value of each term.
        limit
            (N,) per task.

        Returns
        -------
        Least cost, pool, start, each (N,), and first and last start that cost at most `limit`, each
        (N, G).
        """
        tasks = self.duration, self.demand, self.release, self.tenant
        return solve_subproblems(*multipliers, *tasks, self.outages, costs, self.origin, limit)

    # -- the best multipliers, in floating point --------------------------------------------------

    def capacity_multipliers(self, target: float, seconds: float) -> TimeIndexedMultipliers:
        """Return the best multipliers of capacities and quotas found.

        Coarse grids come first; the search on each finer grid starts from their multipliers.

        Parameters
        ----------
        target
            The objective of the incumbent.
        seconds
            The time limit.
        """
        deadline = time.perf_counter() + seconds
        intervals = COARSEST
        grid = self.grid(min(intervals, FINEST))
        shape = (len(grid) - 1,)
        multipliers = TimeIndexedMultipliers(
            grid,
            np.zeros(self.capacity.shape + shape),
            np.zeros(self.quota.shape + shape),
            np.zeros((0, len(self.pools), *shape)),
        )
        while True:
            multipliers = self._maximise(multipliers, self.capacity > 0, target, deadline)
            intervals *= 4
            finer = self.grid(min(intervals, FINEST))
            if len(finer) == len(multipliers.grid) or time.perf_counter() > deadline:
                return multipliers
            multipliers = multipliers.on_grid(finer)

    @property
    def allows_packing(self) -> bool:
        """Whether the instance is small enough for multipliers of its tasks."""
        numbers = COARSEST_PACKING * self.instance.n_tasks * len(self.pools)
        return numbers <= MAX_TASK_MULTIPLIERS

    def task_multipliers(
        self, multipliers: TimeIndexedMultipliers, target: float, seconds: float
    ) -> TimeIndexedMultipliers:
        """Return the best multipliers with those of tasks, found from `multipliers`.

        The capacity multipliers of the resources that the knapsacks count become multipliers of
        tasks. `target` and `seconds` as in `capacity_multipliers`.
        """
        deadline = time.perf_counter() + seconds
        covers = self.knapsacks.covers  # (G, R)
        numbers = self.instance.n_tasks * len(self.pools)
        finest = max(1, min(FINEST_PACKING, MAX_TASK_MULTIPLIERS // numbers))
        if len(multipliers.grid) - 1 > finest:
            multipliers = multipliers.on_grid(self.grid(finest))
        held = np.einsum("jgr,grk->jgk", self.demand * covers, multipliers.capacity)
        task = held * (self.duration > 0)[:, :, None]
        capacity = multipliers.capacity * ~covers[:, :, None]
        multipliers = multipliers._replace(capacity=capacity, task=task)
        return self._maximise(multipliers, (self.capacity > 0) & ~covers, target, deadline)

    def _maximise(
        self,
        multipliers: TimeIndexedMultipliers,
        free: NDArray[np.bool_],
        target: float,
        deadline: float,
    ) -> TimeIndexedMultipliers:
        """Maximise the bound from `multipliers` by the volume algorithm.

        Capacity multipliers change where `free` (G, R), quota and task multipliers everywhere.
        Steps are per full capacity of a pool or quota, so that a GPU and a MiB count alike.
        """
        capacity = np.maximum(self.capacity * self.pool_size[:, None], 1)[:, :, None].astype(float)
        quota = np.maximum(self.quota, 1)[:, :, None].astype(float)
        ends = np.cumsum([multipliers.capacity.size, multipliers.quota.size])
        available = self.available_ticks(multipliers.grid)

        def unpack(x: Floats) -> TimeIndexedMultipliers:
            per_capacity, per_quota, task = (
                part.reshape(old.shape)
                for part, old in zip(np.split(x, ends), multipliers[1:], strict=True)
            )
            return TimeIndexedMultipliers(
                multipliers.grid, per_capacity / capacity, per_quota / quota, task
            )

        def bound(x: Floats) -> tuple[float, Floats]:
            value, by_capacity, by_quota, by_task = self._bound(unpack(x), available)
            by_capacity = by_capacity / capacity * free[:, :, None]
            parts = [by_capacity.ravel(), (by_quota / quota).ravel(), by_task.ravel()]
            return value, np.concatenate(parts)

        parts = [
            (multipliers.capacity * capacity).ravel(),
            (multipliers.quota * quota).ravel(),
            multipliers.task.ravel(),
        ]
        return unpack(maximise_concave(bound, np.concatenate(parts), target, deadline))

    def _bound(
        self, multipliers: TimeIndexedMultipliers, available: Ints
    ) -> tuple[float, Floats, Floats, Floats]:
        """Return the bound and its subgradient by capacity, quota and task multipliers."""
        grid = multipliers.grid
        no_limit = np.full(self.instance.n_tasks, -np.inf)
        least, pool, start, _, _ = self.solve_subproblems(multipliers, self.costs, no_limit)
        capacity = kernel_array(-self.capacity[:, :, None] * available[:, None].astype(float))
        quota = kernel_array(-self.quota[:, :, None] * np.diff(grid).astype(float))
        value = float(
            least.sum()
            + (capacity * multipliers.capacity).sum()
            + (quota * multipliers.quota).sum()
        )
        add_usage(grid, self.duration, self.demand, self.tenant, pool, start, capacity, quota)
        task = np.zeros(multipliers.task.shape)
        if len(task):
            add_task_ticks(grid, self.duration, pool, start, task)
            packed = self.knapsacks.best_values(
                grid, multipliers.task, self.release, task, available
            )
            value -= float((packed * available).sum())
        return value, capacity, quota, task

    # -- the proof, in integers -------------------------------------------------------------------

    def exact_bound(self, multipliers: TimeIndexedMultipliers) -> MultiplierBound:
        """Return the exact bound of the multipliers, rounded down to multiples of 1 / scale.

        Multipliers too large for 64 bits are replaced by 0.
        """
        if self._largest_multiplier_cost(multipliers) > LARGEST_VALUE / 2:
            zeros = (np.zeros_like(x) for x in multipliers[1:])
            multipliers = TimeIndexedMultipliers(multipliers.grid, *zeros)
        scale = self._scale(multipliers)
        grid = multipliers.grid
        rounded = (np.floor(scale * x).astype(np.int64) for x in multipliers[1:])
        integers = TimeIndexedMultipliers(grid, *rounded)
        no_limit = np.full(self.instance.n_tasks, -1)
        least = self.solve_subproblems(integers, self._integer_costs(scale), no_limit)[0]
        available = self.available_ticks(grid)
        capacity = self.capacity[:, :, None].astype(object)
        quota = self.quota[:, :, None].astype(object)
        total = sum(least.tolist())
        total -= int((capacity * available[:, None] * integers.capacity).sum())
        total -= int((quota * np.diff(grid) * integers.quota).sum())
        if len(integers.task):
            ticks = np.zeros(integers.task.shape)
            packed = self.knapsacks.best_values(grid, integers.task, self.release, ticks, available)
            total -= int((packed.astype(object) * available).sum())
        return MultiplierBound(Fraction(total, scale), scale, integers, self.pools)

    def start_windows(self, bound: MultiplierBound, value: Fraction) -> StartWindows:
        """Return the starts of schedules whose objective is at most `value`: variable fixing.

        By reduced costs: a schedule in which j starts at t in a pool costs at least bound - (the
        least cost of j) + (the cost of j at that start in that pool).
        """
        costs = self._integer_costs(bound.scale)
        no_limit = np.full(self.instance.n_tasks, -1)
        least = self.solve_subproblems(bound.multipliers, costs, no_limit)[0]
        slack = min(max(floor((value - bound.value) * bound.scale), -1), LARGEST_SLACK)
        *_, first, last = self.solve_subproblems(bound.multipliers, costs, least + slack)
        return StartWindows(tuple(pool.agents for pool in self.pools), first, last)

    def _integer_costs(self, scale: int) -> Ints:
        """Return coefficient and least value (N, 2) of each term in 1 / scale.

        They are rounded down like those of `ScheduleModel`.
        """
        terms = zip(self.terms.coefficient, self.terms.lower_limit, strict=True)
        rows = [[floor(scale * c), floor(scale * c * limit)] for c, limit in terms]
        return np.array(rows, dtype=np.int64)

    def _scale(self, multipliers: TimeIndexedMultipliers) -> int:
        """Return a scale fine enough for ROUNDING and coarse enough for 64 bits.

        No cost of a task, with all multipliers, reaches LARGEST_VALUE / scale.
        """
        per_task = self._largest_multiplier_cost(multipliers)
        # (N,) the largest C_j - origin_j, either way
        distance = np.maximum(abs(self.latest - self.origin), self.origin)
        terms = np.maximum(self.costs[:, 0] * distance, self.costs[:, 1])
        largest = max(1.0, float(terms.max())) + per_task
        alone = self.terms.value(self.instance.release + self.instance.shortest())
        value = max(float(alone), float(self.costs[:, 0].max()), 1e-9)
        # (N, G) multipliers that are added to a task's cost per tick
        count: Ints | int = 0
        if multipliers.capacity.any() or multipliers.quota.any():
            count = self.demand.sum(axis=2)
        # the cost of multipliers that are all 1
        per_unit = self.duration * (count + len(multipliers.task[:1]) + 1.0)
        ones = float(per_unit.max(axis=1).sum())
        return max(1, int(min(LARGEST_VALUE / largest, ones / (ROUNDING * value))))

    def _largest_multiplier_cost(self, multipliers: TimeIndexedMultipliers) -> float:
        """Return an upper bound on what the multipliers add to the cost of any task."""
        ticks = np.diff(multipliers.grid)
        demand = self.demand.astype(float)
        cost = float(np.einsum("jgr,grk,k->jg", demand, multipliers.capacity, ticks).max())
        if len(multipliers.quota):
            own = multipliers.quota[self.tenant]
            cost += float(np.einsum("jgr,jrk,k->jg", demand, own, ticks).max())
        if len(multipliers.task):  # all tasks together, as the knapsacks add them up
            cost += float(np.einsum("jgk,k->g", multipliers.task, ticks).max())
        return cost
