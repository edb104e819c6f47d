"""Proofs by Lagrangian relaxation of a time-indexed model.

They are for `time` sharing and objectives that are sums. The model is that of Sousa and Wolsey
(1992, doi:10.1007/BF01585718). Its capacity constraints are relaxed with dual values (Lagrange
multipliers) that are not negative. Whatever they are, no schedule costs less than

    sum over tasks j of min over (agent, start) of [cost of j + dual cost of what j holds]
    - the dual value of all capacity.

In shapes N is the number of tasks, M of agents, R of resources, U of tenants, K of intervals
between the grid points. All dual values are multiplied by the integer S (`scale`).
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from fractions import Fraction

from bench.verify.fields import (
    Proof,
    ProofError,
    read_list,
    read_optional_table,
    read_scale,
    read_table,
)
from bench.verify.knapsack import KnapsackSolver
from bench.verify.problem import ExactObjective, ExactProblem, Number, dot

Row = list[int]  # (K,) a dual value per tick in each interval of the grid


def capacity_dual_bound(problem: ExactProblem, objective: ExactObjective, proof: Proof) -> Number:
    """Return the bound of a proof of kind `capacity_prices`.

    In [grid_k, grid_k+1) a unit of resource r of agent a has the dual value `prices[a][r][k]` a
    tick, and a unit of resource r of tenant u's quota `quota_prices[u][r][k]`. Running on agent a
    at all has `slot_prices[a][k]`: a runs at most `ExactProblem.slots` tasks at once (if the proof
    names `slots`, they must not be fewer).

    An agent has no capacity during its outages, and no task runs there then: [t, t + p) of a task
    that starts at t must not overlap them. Pieces lost to an outage only take capacity from other
    pieces, and are left out.
    """
    return _bound(CapacityDuals, problem, objective, proof)


def packing_dual_bound(problem: ExactProblem, objective: ExactObjective, proof: Proof) -> Number:
    """Return the bound of a proof of kind `packing_prices`.

    In addition to `capacity_prices`, each task has dual values of its own: running task j on agent
    a has `rents[j][pool[a]][k]` a tick, where `pool` (M,) names the agent's column of `rents`.

    At any tick the tasks that run on an agent fit it together, and they are released before the
    interval ends. So the dual values of the tasks that run on it sum to at most the optimum of a
    knapsack: Lagrangian decomposition (Guignard and Kim 1987, doi:10.1007/BF02592954).
    """
    return _bound(PackingDuals, problem, objective, proof)


def _bound(
    kind: type[CapacityDuals], problem: ExactProblem, objective: ExactObjective, proof: Proof
) -> Number:
    if problem.budget or objective.is_maximum:
        raise ProofError(
            f"proof.kind: {proof['kind']} needs `time` sharing and an objective that is a sum"
        )
    duals = kind(problem, proof)
    least = sum(duals.min_task_cost(objective, j) for j in range(problem.n))
    return Fraction(least - duals.capacity_value(), duals.scale)


class CapacityDuals:
    """Dual values per tick, constant in each interval of a grid of ticks, and 0 outside it."""

    def __init__(self, problem: ExactProblem, proof: Proof) -> None:
        self.problem = problem
        self.scale = read_scale(proof)
        self.grid: list[int] = read_table(proof, "grid", (len(read_list(proof, "grid")),))
        if len(self.grid) < 2 or any(x >= y for x, y in itertools.pairwise(self.grid)):
            raise ProofError("proof.grid: at least two increasing ticks are needed")
        k = len(self.grid) - 1
        self.ticks: Row = [end - start for start, end in itertools.pairwise(self.grid)]  # (K,)
        # Equal rows become one object, so that the dual costs along it are added up once.
        shared: dict[tuple[int, ...], Row] = {}
        tables: list[list[Row]] = read_table(proof, "prices", (problem.m, problem.r, k), 0)
        self.unit = [[shared.setdefault(tuple(row), row) for row in rows] for rows in tables]
        quota_shape = (len(problem.quota), problem.r, k)
        self.quota: list[list[Row]] = read_optional_table(proof, "quota_prices", quota_shape) or []
        self.slot: list[Row] = [
            shared.setdefault(tuple(row), row)
            for row in read_optional_table(proof, "slot_prices", (problem.m, k)) or ()
        ]
        for a, slots in enumerate(read_optional_table(proof, "slots", (problem.m,)) or ()):
            if slots < problem.slots[a]:
                raise ProofError(
                    f"proof.slots[{a}]: {slots}, "
                    f"but {problem.slots[a]} tasks may fit on the agent at once"
                )
        # (units, row) of all that a task holds -> its dual cost up to each grid point
        self._cumulative: dict[tuple[tuple[int, ...], ...], Row] = {}

    # -- the dual value of all capacity ------------------------------------------------------------

    def capacity_value(self) -> int:
        """Return the dual value of all capacity and quotas over the ticks at which they exist."""
        total = 0
        for a, capacity in enumerate(self.problem.capacity):
            available = self.available_ticks(a)
            total += sum(
                units * dot(row, available)
                for units, row in zip(capacity, self.unit[a], strict=True)
            )
            total += self.problem.slots[a] * dot(self.slot[a], available) if self.slot else 0
        for limit, rows in zip(self.problem.quota, self.quota, strict=bool(self.quota)):
            total += sum(
                units * dot(row, self.ticks) for units, row in zip(limit, rows, strict=True)
            )
        return total

    def available_ticks(self, a: int) -> Row:
        """Return (K,) ticks of each interval at which agent a has no outage."""
        outages = self.problem.outages[a]
        return [
            e - s - sum(max(0, min(e, y) - max(s, x)) for x, y in outages)
            for s, e in itertools.pairwise(self.grid)
        ]

    # -- the cheapest place of a task --------------------------------------------------------------

    def min_task_cost(self, objective: ExactObjective, j: int) -> Number:
        """Return the least S * cost + dual cost of task j, over all agents and starts.

        On agent a from t on it is S f_j(t + p) + D(t + p) - D(t), where f_j is the cost of j and
        D(t) the dual cost up to t. All three terms are piecewise linear in t, so a breakpoint
        attains the minimum. No later start is better once S f_j alone costs more, since f_j never
        falls and dual values are not negative.
        """
        best: Number | None = None
        seen = set()
        for a, p in self.problem.durations[j].items():
            cumulative = self._cumulative_cost(j, a)
            place = (p, id(cumulative), tuple(self.problem.outages[a]))
            if place in seen:
                continue
            seen.add(place)
            for t in self._breakpoints(objective, j, a, p):
                cost = self.scale * objective.task_cost(j, t + p)
                if best is not None and cost >= best:
                    break
                value = cost + self._cost_until(cumulative, t + p) - self._cost_until(cumulative, t)
                best = value if best is None else min(best, value)
        assert best is not None  # every task has an agent, and may start there after all outages
        return best

    def _breakpoints(self, objective: ExactObjective, j: int, a: int, p: int) -> list[int]:
        """Return the sorted breakpoints in t that are feasible starts of task j alone on agent a.

        The last one is later than all outages, so there is always one.
        """
        outages = self.problem.outages[a]
        release = self.problem.release[j]
        kink = objective.origin[j] + objective.minimum[j] - p
        points = {release, math.floor(kink), math.ceil(kink)}
        points |= {x for tick in self.grid for x in (tick, tick - p)}
        points |= {x for start, end in outages for x in (end, start - p)}
        return sorted(
            t
            for t in points
            if t >= release and all(t + p <= start or t >= end for start, end in outages)
        )

    def _cumulative_cost(self, j: int, a: int) -> Row:
        """Return (K + 1,) the dual cost of running j on a from the first grid point to each."""
        held = self.held(j, a)
        key = tuple((units, id(row)) for units, row in held)
        if key not in self._cumulative:
            rate = [0] * len(self.ticks)
            for units, row in held:
                rate = [x + units * y for x, y in zip(rate, row, strict=True)]
            steps = (x * ticks for x, ticks in zip(rate, self.ticks, strict=True))
            self._cumulative[key] = list(itertools.accumulate(steps, initial=0))
        return self._cumulative[key]

    def held(self, j: int, a: int) -> list[tuple[int, Row]]:
        """Return what task j holds on agent a: (units, dual value of one in each interval)."""
        demand = self.problem.demand(j, a)
        tables = [self.unit[a]]
        if self.quota:
            tables.append(self.quota[self.problem.tenant[j]])
        held = [(units, rows[r]) for rows in tables for r, units in enumerate(demand) if units]
        return held + ([(1, self.slot[a])] if self.slot else [])

    def _cost_until(self, cumulative: Row, tick: int) -> int:
        """Return the dual cost up to `tick`: linear between grid points, constant outside.

        It is exact: the cost of an interval is a multiple of its ticks.
        """
        k = bisect_right(self.grid, tick) - 1
        if k < 0:
            return 0
        if k == len(self.grid) - 1:
            return cumulative[-1]
        rate: int = (cumulative[k + 1] - cumulative[k]) // self.ticks[k]
        return cumulative[k] + rate * (tick - self.grid[k])


class PackingDuals(CapacityDuals):
    """Capacity duals, and dual values of each task on the agents of each pool."""

    def __init__(self, problem: ExactProblem, proof: Proof) -> None:
        super().__init__(problem, proof)
        self.pool: list[int] = read_table(proof, "pool", (problem.m,), 0)
        rows = read_list(proof, "rents")
        pools = len(rows[0]) if rows and isinstance(rows[0], list) else 1
        shape = (problem.n, pools, len(self.ticks))
        self.task: list[list[Row]] = read_table(proof, "rents", shape, 0)
        for a, pool in enumerate(self.pool):
            if pool >= pools:
                raise ProofError(
                    f"proof.pool[{a}]: {pool} is not a pool of `rents` (0 to {pools - 1})"
                )

    def held(self, j: int, a: int) -> list[tuple[int, Row]]:
        """Return what task j holds on agent a, with j's own dual value."""
        return [*super().held(j, a), (1, self.task[j][self.pool[a]])]

    def capacity_value(self) -> int:
        """Return the value of all capacity, with the best set of tasks on each agent."""
        knapsacks = KnapsackSolver()
        total = super().capacity_value()
        for a, capacity in enumerate(self.problem.capacity):
            tasks = self.problem.tasks_of(a)
            demand = {j: tuple(self.problem.demand(j, a)) for j in tasks}
            value = {j: self.task[j][self.pool[a]] for j in tasks}
            for k, ticks in enumerate(self.available_ticks(a)):
                items = [
                    (demand[j], value[j][k])
                    for j in tasks
                    if value[j][k] and self.problem.release[j] < self.grid[k + 1]
                ]
                if ticks and items:
                    total += ticks * knapsacks.max_profit(items, capacity)
        return total
