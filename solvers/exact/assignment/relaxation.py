"""The relaxation behind the exact assignment solver: LP duals by GLOP, then the Lagrangian dual over knapsacks, in integers.

Each agent keeps the capacity whose LP dual weighs most as its knapsack; every other capacity and all quotas are priced at
their LP duals. With one resource and no quotas nothing is lost by that, and the knapsacks are the whole problem (`exact`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt

from bench.instance import Instance, Ints
from bench.left_shift import fits_alone
from solvers.exact.assignment import pair_costs
from solvers.exact.assignment.dual import Core, Work, bound, maximise, pair_bounds

FINEST = 1000  # multipliers are whole multiples of 1 / FINEST, coarser only where costs are huge
LARGEST = (
    2**50
)  # what all scaled costs, and all prices, together may reach: floats hold their sums exactly
WIDEST = 30_000  # units of capacity in a knapsack's table; wider ones are rounded, and the relaxation is not exact
REACH = 0.003  # first reach of the dual ascent, as a share of the LP's value
STEPS, STRETCH = 5000, 50  # of the dual ascent, at most; and between two looks at the clock

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Relaxation:
    """min sum_j u_j + sum_a (knapsack of a at cost - u) - constant, all times scale, over the pairs that are possible."""

    cost: Ints  # (N, M) scaled, with the prices of what is not in the knapsack
    use: Ints  # (N, M) of the knapsack's units
    capacity: Ints  # (M,)
    possible: Mask  # (N, M)
    scale: int
    constant: int  # scaled value of all that is priced
    exact: bool  # the knapsacks are the whole problem
    multipliers: Ints  # (N,) scaled
    resource: Ints  # (M,) the one in the knapsack
    price: Ints  # (M, R) scaled, 0 for the resource in the knapsack
    quota_price: Ints | None  # (U, R)

    @classmethod
    def of(cls, instance: Instance) -> Relaxation | None:
        """At the optimal duals of the LP relaxation; None where that finds no solution."""
        cost, demand = pair_costs(instance), instance.demand[:, instance.agent_type]
        possible = np.array([fits_alone(instance, j) for j in range(instance.n_tasks)])
        most = int(np.where(possible, cost, 0).max(axis=1).sum())
        duals = (
            _lp_duals(instance, cost, demand, possible)
            if most <= LARGEST and instance.n_resources
            else None
        )
        if duals is None:
            return None
        scale = min(FINEST, LARGEST // max(1, most))
        price, quota_price = (np.rint(scale * part).astype(np.int64) for part in duals[1:])
        load = (demand * possible[:, :, None]).sum(axis=0) / np.maximum(instance.capacity, 1)
        resource = np.lexsort((load, price * instance.capacity.astype(float)))[:, -1]
        agents = np.arange(instance.n_agents)
        use, capacity, rounded = _units(
            demand[:, agents, resource], instance.capacity[agents, resource], possible
        )
        exact = not rounded and not _others_bind(instance, demand, possible, resource)
        price[agents, resource] = 0
        if exact:  # nothing else can bind: worth nothing, whatever the LP says of what is just met
            price[:], quota_price[:] = 0, 0
        if (
            _worth(price, instance.capacity)
            + _worth(quota_price, instance.quota)
            + _dearest(demand, price)
            > LARGEST
        ):
            return None
        scaled = scale * cost + (demand * price).sum(axis=2)
        constant = int((price * instance.capacity).sum())
        if instance.quota is not None:
            scaled += (demand * quota_price[instance.tenant][:, None]).sum(axis=2)
            constant += int((quota_price * instance.quota).sum())
        u = np.rint(np.clip(scale * duals[0], -LARGEST / len(cost), LARGEST / len(cost))).astype(
            np.int64
        )
        quotas = None if instance.quota is None else quota_price
        return cls(
            scaled, use, capacity, possible, scale, constant, exact, u, resource, price, quotas
        )

    def limit(self, cost: int) -> int:
        """The scaled value of a relaxed solution that costs `cost`, at most."""
        return self.scale * cost + self.constant

    def least_cost(self, value: int) -> int:
        """The least whole cost that a bound of `value` leaves possible."""
        return -((self.constant - value) // self.scale)

    def maximise(self, seconds: float = math.inf) -> tuple[int, Ints, Ints]:
        """The dual's value, its multipliers (N,) and the bound (N, M) of every task on every agent, all scaled.

        Ends after about `seconds` at the latest. Pairs that are not possible have a bound no limit reaches.
        """
        deadline = time.perf_counter() + seconds
        core = Core.of(self.cost, self.use, self.capacity, self.possible)
        work, u = Work.of(core), self.multipliers.copy()
        alive, count = np.ones(len(core.task), np.uint8), self.possible.sum(axis=1)
        start = int(bound(core, u, alive, count, work))
        value, reach, smallest = (
            start,
            max(self.scale, int(REACH * abs(start))),
            max(1, self.scale // 100),
        )
        for _ in range(STEPS // STRETCH):
            value, reach = maximise(core, u, alive, count, work, reach, smallest, STRETCH)
            if reach < smallest or time.perf_counter() > deadline:
                break
        bound(core, u, alive, count, work)
        pair_bounds(core, u, alive, count, work, value)
        bounds = np.full(self.possible.shape, np.iinfo(np.int64).max)
        bounds[core.task, core.agent] = work.bound
        return int(value), u, bounds

    def core(self, keep: Mask) -> Core:
        """The pairs in `keep` (N, M)."""
        return Core.of(self.cost, self.use, self.capacity, keep)

    def proof(self, u: Ints) -> dict[str, Any]:
        """How anyone can check the bound at multipliers u (N,): see bench.verify."""
        forced = np.where(self.possible, self.cost, 0).sum(axis=1) + int(
            np.maximum(u, 0).sum()
        )  # no knapsack leaves it out
        u = np.where(self.possible.sum(axis=1) == 1, forced, u)
        proof: dict[str, Any] = {
            "kind": "knapsack_multipliers",
            "scale": self.scale,
            "multipliers": u.tolist(),
        }
        proof["resource"] = self.resource.tolist()
        if self.price.any():
            proof["prices"] = self.price.tolist()
        if self.quota_price is not None and self.quota_price.any():
            proof["quota_prices"] = self.quota_price.tolist()
        return proof


def _units(use: Ints, capacity: Ints, possible: Mask) -> tuple[Ints, Ints, bool]:
    """Uses (N, M) and capacities (M,) in the coarsest units that lose nothing, coarser where wide; whether that rounded.

    Rounding both down keeps every feasible set feasible: sum floor(use / k) <= floor(sum use / k) <= floor(capacity / k).
    """
    unit = np.maximum(1, np.gcd.reduce(np.where(possible, use, 0), axis=0))
    use, capacity = use // unit, capacity // unit
    most = np.where(possible, use, 0).sum(axis=0)
    capacity = np.minimum(capacity, most)
    wide = np.maximum(1, -(-capacity // WIDEST))
    return use // wide, capacity // wide, bool((wide > 1).any())


def _others_bind(instance: Instance, demand: Ints, possible: Mask, resource: Ints) -> bool:
    """Whether a capacity that is not the knapsack's, or a quota, can be exceeded at all."""
    total = (demand * possible[:, :, None]).sum(axis=0)  # (M, R)
    beyond = total > instance.capacity
    beyond[np.arange(len(resource)), resource] = False
    if instance.quota is None or instance.tenant is None:
        return bool(beyond.any())
    most = (demand * possible[:, :, None]).max(axis=1)  # (N, R)
    held = np.zeros(instance.quota.shape, dtype=np.int64)
    np.add.at(held, instance.tenant, most)
    return bool(beyond.any() or (held > instance.quota).any())


def _worth(price: Ints, units: Ints | None) -> float:
    """What all units cost together."""
    return 0.0 if units is None else float((price.astype(float) * units).sum())


def _dearest(demand: Ints, price: Ints) -> float:
    """The largest rents of the tasks (N, M, R) at prices (M, R), summed."""
    return float((demand.astype(float) * price).sum(axis=2).max(axis=1).sum())


def _lp_duals(
    instance: Instance, cost: Ints, demand: Ints, possible: Mask
) -> tuple[Any, Any, Any] | None:
    """LP duals: of tasks (N,), prices >= 0 of capacities (M, R) and of quotas (U, R); None where the LP has no solution."""
    n, m, r = demand.shape
    task, agent = np.nonzero(possible)
    v, quotas = np.arange(len(task)), instance.n_tenants * r
    tenant = None if instance.quota is None else instance.tenant
    rows, columns, values = [task], [v], [np.ones(len(v))]
    upper = [np.ones(n), instance.capacity.astype(float).ravel()]
    for k in range(r):
        rows.append(n + agent * r + k)
        columns.append(v)
        values.append(demand[task, agent, k].astype(float))
        if tenant is not None:
            rows.append(n + m * r + tenant[task] * r + k)
            columns.append(v)
            values.append(demand[task, agent, k].astype(float))
    if instance.quota is not None:
        upper.append(instance.quota.astype(float).ravel())
    lower = np.concatenate([np.ones(n), np.full(m * r + quotas, -math.inf)])
    row, column, value = np.concatenate(rows), np.concatenate(columns), np.concatenate(values)
    dual = _solve_lp(
        cost[task, agent].astype(float), lower, np.concatenate(upper), row, column, value
    )
    if dual is None:
        return None
    price = np.maximum(0.0, -dual[n:])
    return dual[:n], price[: m * r].reshape(m, r), price[m * r :].reshape(-1, r)


def _solve_lp(
    cost: Any, lower: Any, upper: Any, row: Ints, column: Ints, value: Any
) -> NDArray[np.float64] | None:
    """Duals of min cost x, lower <= A x <= upper, 0 <= x <= 1, A given by entries; GLOP."""
    proto = model_pb2.ModelProto()
    proto.variables.ids.extend(range(len(cost)))
    proto.variables.lower_bounds.extend(np.zeros(len(cost)))
    proto.variables.upper_bounds.extend(np.ones(len(cost)))
    proto.variables.integers.extend([False] * len(cost))
    proto.objective.linear_coefficients.ids.extend(range(len(cost)))
    proto.objective.linear_coefficients.values.extend(cost)
    proto.linear_constraints.ids.extend(range(len(lower)))
    proto.linear_constraints.lower_bounds.extend(lower)
    proto.linear_constraints.upper_bounds.extend(upper)
    order = np.lexsort((column, row))
    proto.linear_constraint_matrix.row_ids.extend(row[order])
    proto.linear_constraint_matrix.column_ids.extend(column[order])
    proto.linear_constraint_matrix.coefficients.extend(value[order])
    model = mathopt.Model.from_model_proto(proto)
    found = mathopt.solve(model, mathopt.SolverType.GLOP)
    if found.termination.reason != mathopt.TerminationReason.OPTIMAL:
        return None
    return np.array([found.dual_values()[constraint] for constraint in model.linear_constraints()])
