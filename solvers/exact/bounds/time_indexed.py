"""Lower bound of a `time` sharing instance: Lagrangian relaxation of the capacities in the time-indexed formulation.

Every unit of every resource has a price per tick, piecewise constant on a grid. Each task alone then chooses the agent and the
start that cost it least, its own term of the objective and its rent together; their sum less the rent of all there is to let is
a lower bound for any prices (Pritsker, Watters & Wolfe 1969; Christofides, Alvarez-Valdes & Tamarit 1987; Mohring, Schulz,
Stork & Uetz 2003). The best prices give the bound of the linear programme (Dyer & Wolsey 1990).

That programme lets fractions of tasks share an agent. So in a second step each task gets rents of its own, per agent and
interval, and an agent earns the most that any set of tasks which fit together can pay: Lagrangian decomposition (Guignard &
Kim, Math. Programming 39, 1987), whose best rents give the bound over the convex hull of those sets (`solvers.exact.bounds.packing`).

Prices are sought in floating point and then rounded to integers, with which the bound is computed exactly.
"""

from __future__ import annotations

import time
from fractions import Fraction
from math import floor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.instance import Instance, Ints
from bench.left_shift import fits_alone
from solvers.exact.bounds.packing import Knapsacks, Pool, same_agents
from solvers.exact.bounds.time_indexed_kernel import FAR, cheapest, occupied, running
from solvers.exact.bounds.volume import ascend
from solvers.exact.objective_terms import Terms
from solvers.exact.schedule_model import Windows

FINEST = 1024  # intervals of the finest grid where the horizon has more ticks
COARSEST = 32  # intervals the ascent begins with; every next grid has four times as many
MOST_RENTS = 200_000  # numbers of rents; the grid is as fine as this and FINEST_RENTS allow
COARSEST_RENTS, FINEST_RENTS = 128, 512  # intervals; with fewer rents are not worth their time
LARGEST_VALUE = 2.0**59  # what a scaled value may reach, inside int64
WIDEST_SLACK = 2**60  # no scaled value is this far above another
ROUNDING = 1e-6  # what rounding the prices may take off the bound, about, relative

Floats = NDArray[np.float64]


class Prices(NamedTuple):
    """Per tick of each interval of a grid; floats while they are sought, integers in a proof."""

    grid: Ints  # (K + 1,) ticks
    units: NDArray  # (G, R, K) of a unit of an agent of a pool
    quotas: NDArray  # (U, R, K) of a unit of a tenant's quota
    rents: NDArray  # (N, G, K) of a task on an agent of a pool, on top of these; (0, G, K) without packing

    def on(self, grid: Ints) -> Prices:
        """The same prices on another grid, where each interval has the price of its first tick."""
        row = np.clip(
            np.searchsorted(self.grid, grid[:-1], side="right") - 1, 0, len(self.grid) - 2
        )
        return Prices(grid, self.units[..., row], self.quotas[..., row], self.rents[..., row])


class PricedBound(NamedTuple):
    """Integer prices, counted in 1 / scale, and the bound they prove."""

    value: Fraction
    scale: int
    prices: Prices
    pools: tuple[Pool, ...]

    def proof(self) -> dict[str, Any]:
        """Ready for JSON; `solvers.exact.bounds` says how to check it."""
        row = np.empty(sum(len(pool.agents) for pool in self.pools), dtype=np.int64)
        for g, pool in enumerate(self.pools):
            row[list(pool.agents)] = g
        proof: dict[str, Any] = {
            "kind": "capacity_prices",
            "scale": self.scale,
            "grid": self.prices.grid.tolist(),
            "prices": self.prices.units[row].tolist(),
            "quota_prices": self.prices.quotas.tolist() if len(self.prices.quotas) else None,
        }
        if len(self.prices.rents):
            proof |= {
                "kind": "packing_prices",
                "pool": row.tolist(),
                "rents": self.prices.rents.tolist(),
            }
        return proof


class TimeIndexed:
    """The relaxation of one instance and one objective that is a sum of terms."""

    def __init__(self, instance: Instance, terms: Terms, end: int) -> None:
        """`end`: the tick after which nothing has a price, best the end of a good schedule."""
        self.instance, self.terms, self.pools = instance, terms, same_agents(instance)
        n, r = instance.n_tasks, instance.n_resources
        alone = np.array([fits_alone(instance, j) for j in range(n)])
        kinds, first = [pool.kind for pool in self.pools], [pool.agents[0] for pool in self.pools]
        self.duration = np.where(alone[:, first], instance.duration[:, kinds], -1)  # (N, G)
        self.demand = np.ascontiguousarray(instance.demand[:, kinds])  # (N, G, R)
        self.capacity = instance.capacity[first]  # (G, R) of one agent
        self.size = np.array([len(pool.agents) for pool in self.pools])  # (G,) agents
        self.tenant = np.zeros(n, dtype=np.int64) if instance.quota is None else instance.tenant
        self.quota = (
            np.zeros((0, r), dtype=np.int64) if instance.quota is None else instance.quota
        )  # (U, R)
        self.away = self._away()
        self.knapsacks = Knapsacks(self.duration, self.demand, self.capacity)
        self.start = int(instance.release.min())
        self.end = max(end, self.start + 1)
        self.costs = np.array(
            [
                [float(c), float(c * low)]
                for c, low in zip(terms.coefficient, terms.floor, strict=True)
            ]
        )
        self.origin = np.array(terms.origin, dtype=np.int64)

    def _away(self) -> Ints:
        """(G, O, 2) ticks [start, end) of each pool's outages in order, then FAR for the end of time."""
        spans = [
            [(o.start, o.end) for o in self.instance.outages if o.agent in pool.agents]
            for pool in self.pools
        ]
        out = np.full((len(spans), max(map(len, spans)) + 1, 2), FAR, dtype=np.int64)
        for g, rows in enumerate(spans):
            out[g, : len(rows)] = np.array(rows, dtype=np.int64).reshape(-1, 2)
        return out

    def grid(self, intervals: int) -> Ints:
        """(K + 1,) ticks from the first release to `end`, at most `intervals` of nearly the same length."""
        k = min(intervals, self.end - self.start)
        return self.start + np.arange(k + 1) * (self.end - self.start) // k

    def present(self, grid: Ints) -> Ints:
        """(G, K) ticks of each interval, summed over the agents of a pool while they are there."""
        ticks = np.tile(np.diff(grid), (len(self.pools), 1))
        for g in range(len(self.pools)):
            for begin, end in self.away[g]:
                ticks[g] -= np.maximum(0, np.minimum(grid[1:], end) - np.maximum(grid[:-1], begin))
        return ticks * self.size[:, None]

    def choose(self, prices: Prices, costs: NDArray, room: NDArray) -> tuple[NDArray, ...]:
        """Each task's least cost, its pool and start (N,); the first and last starts (N, G) that cost at most `room`."""
        tasks = self.duration, self.demand, self.instance.release, self.tenant
        return cheapest(*prices, *tasks, self.away, costs, self.origin, room)

    # -- the search for prices, in floating point ------------------------------------------------------------------

    def priced(self, target: float, seconds: float) -> Prices:
        """The best prices of units and quotas found; `target`: the objective of the incumbent.

        Coarse grids come first; their prices are a start on the finer ones.
        """
        deadline, intervals = time.perf_counter() + seconds, COARSEST
        grid = self.grid(min(intervals, FINEST))
        shape = (len(grid) - 1,)
        prices = Prices(
            grid,
            np.zeros(self.capacity.shape + shape),
            np.zeros(self.quota.shape + shape),
            np.zeros((0, len(self.pools), *shape)),
        )
        while True:
            prices = self._ascend(prices, self.capacity > 0, target, deadline)
            intervals *= 4
            finer = self.grid(min(intervals, FINEST))
            if len(finer) == len(prices.grid) or time.perf_counter() > deadline:
                return prices
            prices = prices.on(finer)

    @property
    def packs(self) -> bool:
        """Whether the instance is small enough for rents."""
        return COARSEST_RENTS * self.instance.n_tasks * len(self.pools) <= MOST_RENTS

    def packed(self, prices: Prices, target: float, seconds: float) -> Prices:
        """The best rents found, from the prices of units: those of packed resources become rents."""
        deadline, packs = time.perf_counter() + seconds, self.knapsacks.packs  # (G, R)
        finest = max(1, min(FINEST_RENTS, MOST_RENTS // (self.instance.n_tasks * len(self.pools))))
        if len(prices.grid) - 1 > finest:
            prices = prices.on(self.grid(finest))
        rents = (
            np.einsum("jgr,grk->jgk", self.demand * packs, prices.units)
            * (self.duration > 0)[:, :, None]
        )
        prices = prices._replace(units=prices.units * ~packs[:, :, None], rents=rents)
        return self._ascend(prices, (self.capacity > 0) & ~packs, target, deadline)

    def _ascend(
        self, prices: Prices, priced: NDArray[np.bool_], target: float, deadline: float
    ) -> Prices:
        """The volume algorithm on the prices of units where `priced` (G, R), of quotas and, if there are any, of rents.

        Steps are per full capacity of a pool or quota, so that a GPU and a MiB count alike.
        """
        full = np.maximum(self.capacity * self.size[:, None], 1)[:, :, None].astype(float)
        quota = np.maximum(self.quota, 1)[:, :, None].astype(float)
        ends = np.cumsum([prices.units.size, prices.quotas.size])
        present = self.present(prices.grid)

        def unpack(x: Floats) -> Prices:
            units, quotas, rents = (
                part.reshape(old.shape)
                for part, old in zip(np.split(x, ends), prices[1:], strict=True)
            )
            return Prices(prices.grid, units / full, quotas / quota, rents)

        def value(x: Floats) -> tuple[float, Floats]:
            bound, units, quotas, rents = self._value(unpack(x), present)
            return bound, np.concatenate(
                [
                    (units / full * priced[:, :, None]).ravel(),
                    (quotas / quota).ravel(),
                    rents.ravel(),
                ]
            )

        start = np.concatenate(
            [(prices.units * full).ravel(), (prices.quotas * quota).ravel(), prices.rents.ravel()]
        )
        return unpack(ascend(value, start, target, deadline))

    def _value(self, prices: Prices, present: Ints) -> tuple[float, Floats, Floats, Floats]:
        """The bound at these prices and its subgradient, shaped like them."""
        grid, nothing = prices.grid, np.full(self.instance.n_tasks, -np.inf)
        least, pool, start, _, _ = self.choose(prices, self.costs, nothing)
        units = -self.capacity[:, :, None] * present[:, None].astype(float)
        quotas = -self.quota[:, :, None] * np.diff(grid).astype(float)
        bound = float(least.sum() + (units * prices.units).sum() + (quotas * prices.quotas).sum())
        occupied(grid, self.duration, self.demand, self.tenant, pool, start, units, quotas)
        rents = np.zeros(prices.rents.shape)
        if len(rents):
            running(grid, self.duration, pool, start, rents)
            worth = self.knapsacks.worth(grid, prices.rents, self.instance.release, rents, present)
            bound -= float((worth * present).sum())
        return bound, units, quotas, rents

    # -- the proof, in integers --------------------------------------------------------------------------------------

    def prove(self, prices: Prices) -> PricedBound:
        """The exact bound of these prices, rounded down to whole multiples of 1 / scale."""
        scale = self._scale(prices)
        whole = Prices(prices.grid, *(np.floor(scale * x).astype(np.int64) for x in prices[1:]))
        least = self.choose(whole, self._whole_costs(scale), np.full(self.instance.n_tasks, -1))[0]
        present = self.present(prices.grid)
        total = sum(least.tolist())
        total -= int(
            (self.capacity[:, :, None].astype(object) * present[:, None] * whole.units).sum()
        )
        total -= int(
            (self.quota[:, :, None].astype(object) * np.diff(prices.grid) * whole.quotas).sum()
        )
        if len(whole.rents):
            ticks = np.zeros(whole.rents.shape)
            worth = self.knapsacks.worth(
                prices.grid, whole.rents, self.instance.release, ticks, present
            )
            total -= int((worth.astype(object) * present).sum())
        return PricedBound(Fraction(total, scale), scale, whole, self.pools)

    def windows(self, bound: PricedBound, value: Fraction) -> Windows:
        """The starts that a schedule with an objective of at most `value` can have: variable fixing by reduced costs.

        A schedule in which j starts at t in pool a costs at least bound - (j's least cost) + (j's cost of that choice).
        """
        costs, n = self._whole_costs(bound.scale), self.instance.n_tasks
        least = self.choose(bound.prices, costs, np.full(n, -1))[0]
        slack = min(max(floor((value - bound.value) * bound.scale), -1), WIDEST_SLACK)
        *_, first, last = self.choose(bound.prices, costs, least + slack)
        return Windows(tuple(pool.agents for pool in self.pools), first, last)

    def _whole_costs(self, scale: int) -> Ints:
        """(N, 2) coefficient and least value of each term in 1 / scale, rounded down as the model's are."""
        terms = zip(self.terms.coefficient, self.terms.floor, strict=True)
        return np.array(
            [[floor(scale * c), floor(scale * c * low)] for c, low in terms], dtype=np.int64
        )

    def _scale(self, prices: Prices) -> int:
        """Fine enough for ROUNDING and coarse enough for 64 bits: no task costs LARGEST_VALUE / scale, with all its rent."""
        ticks = np.diff(prices.grid)
        rent = float(
            np.einsum("jgr,grk,k->jg", self.demand.astype(float), prices.units, ticks).max()
        )
        if len(prices.quotas):
            rent += float(
                np.einsum(
                    "jgr,jrk,k->jg", self.demand.astype(float), prices.quotas[self.tenant], ticks
                ).max()
            )
        if len(prices.rents):
            rent += float(
                np.einsum("jgk,k->g", prices.rents, ticks).max()
            )  # all tasks together, as knapsacks add them up
        settled = max((outage.end for outage in self.instance.outages), default=0)
        latest = max(int(prices.grid[-1]), settled) + int(self.duration.max())
        off = np.maximum(abs(latest - self.origin), self.origin)  # (N,) C_j - origin_j, either way
        most = max(1.0, float(np.maximum(self.costs[:, 0] * off, self.costs[:, 1]).max())) + rent
        alone = self.terms.value(self.instance.release + self.instance.shortest())
        value = max(float(alone), float(self.costs[:, 0].max()), 1e-9)
        held = (
            self.demand.sum(axis=2) if prices.units.any() or prices.quotas.any() else 0
        )  # (N, G) prices a task pays per tick
        paid = float(
            (self.duration * (held + len(prices.rents[:1]) + 1.0)).max(axis=1).sum()
        )  # what prices of 1 would come to
        return max(1, int(min(LARGEST_VALUE / most, paid / (ROUNDING * value))))
