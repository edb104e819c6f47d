"""Lagrangian relaxation of the generalised assignment problem to one knapsack per agent.

First the LP relaxation is solved by GLOP. Its dual values are the starting multipliers of the
tasks. Then the Lagrangian dual over the knapsacks is maximised in exact integers.

An agent's knapsack has one resource: the one whose capacity has the largest LP dual value times
capacity. Every other capacity, and every quota, is relaxed too, with its LP dual value as its
multiplier. With one resource and no quotas nothing more is relaxed, and a feasible solution of the
relaxed problem is a solution of the instance (`exact`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt

from bench.instance import Instance, Ints
from bench.left_shift import fits_alone
from solvers.exact.assignment import pair_costs
from solvers.exact.assignment.dual import (
    CandidatePairs,
    DualWorkspace,
    lagrangian_bound,
    maximise_dual,
    pair_bounds,
)

FINEST_SCALE = 1000  # multipliers are multiples of 1 / FINEST_SCALE, coarser for huge costs
# Limit of the sum of all scaled costs and of all multipliers times capacities: floats are exact.
LARGEST_SUM = 2**50
# Largest capacity of a knapsack table. Larger ones are rounded; then the relaxation is not exact.
LARGEST_CAPACITY = 30_000
FIRST_GAP = 0.003  # first target gap of the dual ascent, as a share of the first bound
DUAL_STEPS = 5000  # most subgradient steps of the dual ascent
STEPS_PER_CALL = 50  # most subgradient steps between two readings of the clock
CALL_SHARE = 0.1  # of the time, for the steps between two readings of the clock

# Without so many seconds for the pairs of the LP, not even building its model would end in time.
LP_PAIRS_PER_SECOND = 200_000
STOPPED = (mathopt.TerminationReason.FEASIBLE, mathopt.TerminationReason.NO_SOLUTION_FOUND)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class KnapsackRelaxation:
    """The relaxed problem at given multipliers of the capacities and quotas outside the knapsacks.

    Its value at task multipliers u is sum_j u_j + sum_a (knapsack of a at cost - u) - constant. All
    numbers are integers: the real ones times `scale`.
    """

    cost: Ints  # (N, M) scaled, plus the multipliers times the demand outside the knapsack
    use: Ints  # (N, M) units of the knapsack's capacity
    capacity: Ints  # (M,) of the knapsacks
    possible: Mask  # (N, M) pairs whose task fits the agent alone
    scale: int
    constant: int  # scaled sum of multiplier times capacity or quota
    exact: bool  # the knapsacks are the whole problem
    multipliers: Ints  # (N,) scaled, of the tasks
    resource: Ints  # (M,) the resource of each agent's knapsack
    capacity_multipliers: Ints  # (M, R) scaled, 0 for the resource of the knapsack
    quota_multipliers: Ints | None  # (U, R) scaled

    @classmethod
    def from_instance(
        cls, instance: Instance, seconds: float = math.inf
    ) -> KnapsackRelaxation | None:
        """Build the relaxation at the optimal dual values of the LP relaxation.

        Where the LP takes more than `seconds`, each task's multiplier is its least cost and all
        others are 0. Return None where the LP has no solution or the numbers are too large for
        exact sums.
        """
        cost = pair_costs(instance)
        demand = instance.demand[:, instance.agent_type]
        possible = np.array([fits_alone(instance, j) for j in range(instance.n_tasks)])
        most = int(np.where(possible, cost, 0).max(axis=1).sum())
        if most > LARGEST_SUM or not instance.n_resources:
            return None
        duals = _lp_duals(instance, cost, demand, possible, seconds)
        if duals is None:
            return None
        scale = min(FINEST_SCALE, LARGEST_SUM // max(1, most))
        multiplier = np.rint(scale * duals[1]).astype(np.int64)
        quota_multiplier = np.rint(scale * duals[2]).astype(np.int64)
        load = (demand * possible[:, :, None]).sum(axis=0) / np.maximum(instance.capacity, 1)
        resource = np.lexsort((load, multiplier * instance.capacity.astype(float)))[:, -1]
        agents = np.arange(instance.n_agents)
        use, capacity, rounded = _in_units(
            demand[:, agents, resource], instance.capacity[agents, resource], possible
        )
        exact = not rounded and not _others_bind(instance, demand, possible, resource)
        multiplier[agents, resource] = 0
        if exact:  # no other constraint can bind, even where the LP dual value is positive
            multiplier[:] = 0
            quota_multiplier[:] = 0
        if (
            _total(multiplier, instance.capacity)
            + _total(quota_multiplier, instance.quota)
            + _largest_relaxed_cost(demand, multiplier)
            > LARGEST_SUM
        ):
            return None
        scaled = scale * cost + (demand * multiplier).sum(axis=2)
        constant = int((multiplier * instance.capacity).sum())
        if instance.quota is not None:
            scaled += (demand * quota_multiplier[instance.tenant][:, None]).sum(axis=2)
            constant += int((quota_multiplier * instance.quota).sum())
        most_each = LARGEST_SUM / len(cost)
        u = np.rint(np.clip(scale * duals[0], -most_each, most_each)).astype(np.int64)
        return cls(
            cost=scaled,
            use=use,
            capacity=capacity,
            possible=possible,
            scale=scale,
            constant=constant,
            exact=exact,
            multipliers=u,
            resource=resource,
            capacity_multipliers=multiplier,
            quota_multipliers=None if instance.quota is None else quota_multiplier,
        )

    def limit(self, cost: int) -> int:
        """Return the largest scaled value of a relaxed solution whose cost is at most `cost`."""
        return self.scale * cost + self.constant

    def least_cost(self, value: int) -> int:
        """Return the least integer cost that a scaled lower bound of `value` leaves possible."""
        return -((self.constant - value) // self.scale)

    def maximise_dual(self, seconds: float = math.inf) -> tuple[int, Ints, Ints]:
        """Maximise the Lagrangian dual by subgradient steps, for at most about `seconds`.

        Returns
        -------
        value : int
            The scaled lower bound at the multipliers.
        multipliers : Ints
            Scaled multipliers (N,) of the tasks.
        bounds : Ints
            Scaled lower bounds (N, M) with each task on each agent; the largest 64-bit integer,
            above every limit, where the pair is not possible.
        """
        began = time.perf_counter()
        pairs = self.candidate_pairs(self.possible)
        work = DualWorkspace.for_pairs(pairs)
        u = self.multipliers.copy()
        active = np.ones(len(pairs.task), np.uint8)
        count = self.possible.sum(axis=1)
        began_step = time.perf_counter()
        value = int(lagrangian_bound(pairs, u, active, count, work))
        # The longest steps, those of large knapsacks, may take seconds.
        per_step = time.perf_counter() - began_step
        steps = int(min(STEPS_PER_CALL, max(1.0, CALL_SHARE * seconds / max(per_step, 1e-9))))
        gap = max(self.scale, int(FIRST_GAP * abs(value)))
        smallest_gap = max(1, self.scale // 100)
        for _ in range(DUAL_STEPS // steps):
            value, gap = maximise_dual(pairs, u, active, count, work, gap, smallest_gap, steps)
            if gap < smallest_gap or time.perf_counter() > began + seconds:
                break
        lagrangian_bound(pairs, u, active, count, work)
        pair_bounds(pairs, u, active, count, work, value)
        bounds = np.full(self.possible.shape, np.iinfo(np.int64).max)
        bounds[pairs.task, pairs.agent] = work.pair_bound
        return int(value), u, bounds

    def candidate_pairs(self, candidates: Mask) -> CandidatePairs:
        """Return the pairs for which `candidates` (N, M) is true, in compiled form."""
        return CandidatePairs.from_mask(self.cost, self.use, self.capacity, candidates)

    def proof(self, u: Ints) -> dict[str, Any]:
        """Return the multipliers that prove the bound at u (N,), for `bench.verify` to check."""
        # A task with one possible agent: its multiplier is so large that every optimal knapsack of
        # that agent contains the task.
        forced = np.where(self.possible, self.cost, 0).sum(axis=1) + int(np.maximum(u, 0).sum())
        u = np.where(self.possible.sum(axis=1) == 1, forced, u)
        proof: dict[str, Any] = {
            "kind": "knapsack_multipliers",
            "scale": self.scale,
            "multipliers": u.tolist(),
            "resource": self.resource.tolist(),
        }
        if self.capacity_multipliers.any():
            proof["prices"] = self.capacity_multipliers.tolist()
        if self.quota_multipliers is not None and self.quota_multipliers.any():
            proof["quota_prices"] = self.quota_multipliers.tolist()
        return proof


def _in_units(use: Ints, capacity: Ints, possible: Mask) -> tuple[Ints, Ints, bool]:
    """Return uses (N, M) and capacities (M,) in larger units, and whether they were rounded.

    The units are the largest that divide all uses; they are larger still, with rounding, where a
    capacity exceeds LARGEST_CAPACITY. Rounding both down keeps every feasible set feasible:
    sum floor(use / k) <= floor(sum use / k) <= floor(capacity / k).
    """
    unit = np.maximum(1, np.gcd.reduce(np.where(possible, use, 0), axis=0))
    use = use // unit
    capacity = capacity // unit
    most = np.where(possible, use, 0).sum(axis=0)
    capacity = np.minimum(capacity, most)
    divisor = np.maximum(1, -(-capacity // LARGEST_CAPACITY))
    return use // divisor, capacity // divisor, bool((divisor > 1).any())


def _others_bind(instance: Instance, demand: Ints, possible: Mask, resource: Ints) -> bool:
    """Return whether a quota, or a capacity outside the knapsacks, can be exceeded at all."""
    total = (demand * possible[:, :, None]).sum(axis=0)  # (M, R)
    beyond = total > instance.capacity
    beyond[np.arange(len(resource)), resource] = False
    if instance.quota is None or instance.tenant is None:
        return bool(beyond.any())
    most = (demand * possible[:, :, None]).max(axis=1)  # (N, R)
    held = np.zeros(instance.quota.shape, dtype=np.int64)
    np.add.at(held, instance.tenant, most)
    return bool(beyond.any() or (held > instance.quota).any())


def _total(multiplier: Ints, units: Ints | None) -> float:
    """Return the sum of multiplier times capacity or quota."""
    return 0.0 if units is None else float((multiplier.astype(float) * units).sum())


def _largest_relaxed_cost(demand: Ints, multiplier: Ints) -> float:
    """Return the sum over tasks of the largest, over agents, multiplier times demand (N, M, R)."""
    return float((demand.astype(float) * multiplier).sum(axis=2).max(axis=1).sum())


def _lp_duals(
    instance: Instance, cost: Ints, demand: Ints, possible: Mask, seconds: float
) -> tuple[Any, Any, Any] | None:
    """Return the dual values of the LP relaxation, or None where it has no solution.

    Where it takes more than `seconds` they are those of the problem without limits.
    They are those of the tasks (N,), and, all >= 0, of capacities (M, R) and of quotas (U, R).
    """
    deadline = time.perf_counter() + seconds
    n, m, r = demand.shape
    task, agent = np.nonzero(possible)
    v = np.arange(len(task))
    quotas = instance.n_tenants * r
    tenant = None if instance.quota is None else instance.tenant
    rows = [task]
    columns = [v]
    values = [np.ones(len(v))]
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
    no_limits = (
        np.where(possible, cost, cost.max()).min(axis=1).astype(float),
        np.zeros((m, r)),
        np.zeros((instance.n_tenants, r)),
    )
    if len(task) > LP_PAIRS_PER_SECOND * seconds:
        return no_limits
    dual = _solve_lp(
        cost[task, agent].astype(float),
        lower,
        np.concatenate(upper),
        np.concatenate(rows),
        np.concatenate(columns),
        np.concatenate(values),
        deadline,
    )
    if dual is None:
        return None
    if not len(dual):
        return no_limits
    limits = np.maximum(0.0, -dual[n:])
    return dual[:n], limits[: m * r].reshape(m, r), limits[m * r :].reshape(-1, r)


def _solve_lp(
    cost: Any,
    lower: Any,
    upper: Any,
    row: Ints,
    column: Ints,
    value: Any,
    deadline: float,
) -> NDArray[np.float64] | None:
    """Return the dual values of min cost x, lower <= A x <= upper, 0 <= x <= 1, solved by GLOP.

    The matrix A has the entries `value` at (`row`, `column`). Return None where there is no
    solution, and an empty array where none was found by `deadline` on the clock
    `time.perf_counter`.
    """
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
    left = deadline - time.perf_counter()
    if left <= 0:
        return np.empty(0)
    parameters = mathopt.SolveParameters()
    if math.isfinite(left):
        parameters.time_limit = timedelta(seconds=left)
    found = mathopt.solve(model, mathopt.SolverType.GLOP, params=parameters)
    if found.termination.reason in STOPPED:
        return np.empty(0)
    if found.termination.reason != mathopt.TerminationReason.OPTIMAL:
        return None
    return np.array([found.dual_values()[constraint] for constraint in model.linear_constraints()])
