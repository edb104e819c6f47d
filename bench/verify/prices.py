"""Proofs by prices, for `time` sharing and objectives that are sums: every task pays for what it holds, agents earn it.

Lagrangian relaxation of a time-indexed model (Sousa and Wolsey 1992, doi:10.1007/BF01585718): whatever the prices, a schedule
costs no less than what every task costs and pays where that is least, less the most that agents and quotas can earn.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from fractions import Fraction

from bench.verify.fields import Proof, ProofError, listed, optional, scale_of, table
from bench.verify.knapsack import Knapsacks
from bench.verify.problem import Costs, Number, Problem, dot

Row = list[int]  # (K,) a price in each interval of the grid


def capacity_prices(problem: Problem, costs: Costs, proof: Proof) -> Number:
    """S * bound = sum_j min over (a, t) of [S f_j(t + p) + what j pays over [t, t + p)] - what all could earn at most.

    On agent a and in [grid_k, grid_k+1) a unit of resource r costs `prices[a][r][k]` a tick, a unit of tenant u's quota
    `quota_prices[u][r][k]`, and running at all `slot_prices[a][k]`, where a runs at most `Problem.slots` tasks at once (if the
    proof names `slots`, they must not be fewer). Agents earn nothing while they are away: nobody runs there then, for j's start
    t must leave [t, t + p) clear of outages. Pieces lost to an outage only take capacity from others, and are left out.
    """
    return _bound(Prices, problem, costs, proof)


def packing_prices(problem: Problem, costs: Costs, proof: Proof) -> Number:
    """Likewise, where j also pays `rents[j][pool[a]][k]` a tick while it runs on a; `pool` (M) is the agent's column of rents.

    At any tick those that run on a fit it together and are released before the interval ends. So a earns no more rents than the
    best such set pays, a knapsack: Lagrangian decomposition (Guignard and Kim 1987, doi:10.1007/BF02592954).
    """
    return _bound(Rents, problem, costs, proof)


def _bound(kind: type[Prices], problem: Problem, costs: Costs, proof: Proof) -> Number:
    if problem.budget or costs.worst:
        raise ProofError(
            f"proof.kind: {proof['kind']} needs `time` sharing and an objective that is a sum"
        )
    prices = kind(problem, proof)
    return Fraction(
        sum(prices.cheapest(costs, j) for j in range(problem.n)) - prices.income(), prices.scale
    )


class Prices:
    """Prices per tick, piecewise constant on a grid of ticks, and 0 outside it."""

    def __init__(self, problem: Problem, proof: Proof) -> None:
        self.problem, self.scale = problem, scale_of(proof)
        self.grid: list[int] = table(proof, "grid", (len(listed(proof, "grid")),))
        if len(self.grid) < 2 or any(x >= y for x, y in itertools.pairwise(self.grid)):
            raise ProofError("proof.grid: at least two increasing ticks are needed")
        k = len(self.grid) - 1
        self.ticks = [end - start for start, end in itertools.pairwise(self.grid)]  # (K,)
        one: dict[
            tuple[int, ...], Row
        ] = {}  # equal rows become the same, so that what is paid by them is added up once
        rows: list[list[Row]] = table(proof, "prices", (problem.m, problem.r, k), 0)
        self.unit = [[one.setdefault(tuple(row), row) for row in each] for each in rows]
        self.quota: list[list[Row]] = (
            optional(proof, "quota_prices", (len(problem.quota), problem.r, k)) or []
        )
        self.slot: list[Row] = [
            one.setdefault(tuple(row), row)
            for row in optional(proof, "slot_prices", (problem.m, k)) or ()
        ]
        for a, slots in enumerate(optional(proof, "slots", (problem.m,)) or ()):
            if slots < problem.slots[a]:
                raise ProofError(
                    f"proof.slots[{a}]: {slots}, but {problem.slots[a]} tasks may fit on the agent at once"
                )
        self._paid: dict[
            tuple[tuple[int, ...], ...], Row
        ] = {}  # what one task pays up to each grid point, by its rates

    # -- what is earned ----------------------------------------------------------------------------------------------

    def income(self) -> int:
        """What agents and quotas earn where they are full at all times at which an agent is there."""
        total = 0
        for a, capacity in enumerate(self.problem.capacity):
            there = self.present(a)
            total += sum(
                units * dot(row, there) for units, row in zip(capacity, self.unit[a], strict=True)
            )
            total += self.problem.slots[a] * dot(self.slot[a], there) if self.slot else 0
        for limit, rows in zip(self.problem.quota, self.quota, strict=bool(self.quota)):
            total += sum(
                units * dot(row, self.ticks) for units, row in zip(limit, rows, strict=True)
            )
        return total

    def present(self, a: int) -> Row:
        """(K,) ticks of each interval at which agent a is there."""
        away = self.problem.away[a]
        return [
            e - s - sum(max(0, min(e, y) - max(s, x)) for x, y in away)
            for s, e in itertools.pairwise(self.grid)
        ]

    # -- what is paid ------------------------------------------------------------------------------------------------

    def cheapest(self, costs: Costs, j: int) -> Number:
        """The least that task j costs and pays anywhere: S f_j(t + p) + paid(t + p) - paid(t), over agents a and starts t.

        All three terms are piecewise linear in t, so some breakpoint attains it. No later start is better once S f_j alone
        costs more, since f_j never falls and prices are not negative.
        """
        best: Number | None = None
        seen = set()
        for a, p in self.problem.length[j].items():
            paid = self._paid_by(j, a)
            place = (p, id(paid), tuple(self.problem.away[a]))
            if place in seen:
                continue
            seen.add(place)
            for t in self._starts(costs, j, a, p):
                cost = self.scale * costs.of(j, t + p)
                if best is not None and cost >= best:
                    break
                value = cost + self._at(paid, t + p) - self._at(paid, t)
                best = value if best is None else min(best, value)
        assert best is not None  # every task has an agent, and may start there after everything
        return best

    def _starts(self, costs: Costs, j: int, a: int, p: int) -> list[int]:
        """The breakpoints in t that are starts of j on a, sorted: the last of them is clear of everything."""
        away = self.problem.away[a]
        kink = costs.origin[j] + costs.floor[j] - p
        points = {self.problem.release[j], math.floor(kink), math.ceil(kink)}
        points |= {x for tick in self.grid for x in (tick, tick - p)} | {
            x for s, e in away for x in (e, s - p)
        }
        first = self.problem.release[j]
        return sorted(
            t
            for t in points
            if t >= first and all(t + p <= start or t >= end for start, end in away)
        )

    def _paid_by(self, j: int, a: int) -> Row:
        """(K + 1,) what a task like j pays if it runs on a from the first grid point to each."""
        charged = self.charged(j, a)
        key = tuple((units, id(row)) for units, row in charged)
        if key not in self._paid:
            rate = [0] * len(self.ticks)
            for units, row in charged:
                rate = [x + units * y for x, y in zip(rate, row, strict=True)]
            steps = (x * ticks for x, ticks in zip(rate, self.ticks, strict=True))
            self._paid[key] = list(itertools.accumulate(steps, initial=0))
        return self._paid[key]

    def charged(self, j: int, a: int) -> list[tuple[int, Row]]:
        """What task j pays for on agent a: (units, price of one in each interval)."""
        demand = self.problem.demand(j, a)
        tables = [self.unit[a], *([self.quota[self.problem.tenant[j]]] if self.quota else [])]
        rows = [(units, rows[r]) for rows in tables for r, units in enumerate(demand) if units]
        return rows + ([(1, self.slot[a])] if self.slot else [])

    def _at(self, paid: Row, tick: int) -> int:
        """What is paid up to `tick`: linear between grid points (whole at whole ticks), constant outside."""
        k = bisect_right(self.grid, tick) - 1
        if k < 0:
            return 0
        if k == len(self.grid) - 1:
            return paid[-1]
        return paid[k] + (paid[k + 1] - paid[k]) // self.ticks[k] * (tick - self.grid[k])


class Rents(Prices):
    """Prices, and per tick rents of each task on the agents of each pool."""

    def __init__(self, problem: Problem, proof: Proof) -> None:
        super().__init__(problem, proof)
        self.pool: list[int] = table(proof, "pool", (problem.m,), 0)
        rows = listed(proof, "rents")
        pools = len(rows[0]) if rows and isinstance(rows[0], list) else 1
        self.rents: list[list[Row]] = table(proof, "rents", (problem.n, pools, len(self.ticks)), 0)
        for a, pool in enumerate(self.pool):
            if pool >= pools:
                raise ProofError(
                    f"proof.pool[{a}]: {pool} is not a pool of `rents` (0 to {pools - 1})"
                )

    def charged(self, j: int, a: int) -> list[tuple[int, Row]]:
        """Also j's own rent."""
        return [*super().charged(j, a), (1, self.rents[j][self.pool[a]])]

    def income(self) -> int:
        """Also the most that agents earn of rents."""
        knapsacks, total = Knapsacks(), super().income()
        for a, capacity in enumerate(self.problem.capacity):
            able = [(self.problem.release[j], tuple(self.problem.demand(j, a)), self.rents[j][self.pool[a]])
                    for j in self.problem.runners(a)]  # fmt: skip
            for k, ticks in enumerate(self.present(a)):
                items = [
                    (demand, rent[k])
                    for release, demand, rent in able
                    if rent[k] and release < self.grid[k + 1]
                ]
                total += ticks * knapsacks.most(items, capacity) if ticks and items else 0
        return total
