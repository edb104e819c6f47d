"""Proofs of lower bounds, checked in exact arithmetic.

A proof is a JSON object with a `kind`. `proven_bound` returns the bound that it proves, which is
valid whatever its numbers are: a proof with wrong numbers proves less, never too much. S (`scale`)
is a positive integer by which all dual values are multiplied. Plain Python, which shares no code
with the solvers that found the proofs.

| kind | for | the bound |
|---|---|---|
| trivial | all | every task alone from its release on; for makespan also the energy bound |
| knapsack_multipliers | `budget` sharing | multipliers of "j has one agent"; a knapsack per agent |
| capacity_prices | `time` sharing, sums | duals of each agent's capacity per unit and tick |
| packing_prices | `time` sharing, sums | also duals of each task; a knapsack per agent and tick |
| assignment_duals | total_time, `time` sharing | tasks assigned to positions from the last on |
| energy_duals | makespan | duals of "the work released from h on fits between h and the end" |
| search | all | a tree search; only its `root`, a proof of another kind, can be checked |
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

from bench.verify.fields import (
    Proof,
    ProofError,
    UncheckableError,
    check_table,
    read_list,
    read_optional_table,
    read_scale,
    read_table,
)
from bench.verify.knapsack import Item, KnapsackSolver
from bench.verify.problem import ExactObjective, ExactProblem, Number, dot
from bench.verify.time_indexed import capacity_dual_bound, packing_dual_bound


def proven_bound(problem: ExactProblem, objective: ExactObjective, proof: Proof) -> Number:
    """Return the bound that a proof proves, rounded up where every schedule has an integer cost.

    Raises
    ------
    ProofError
        Where it proves nothing.
    UncheckableError
        Where it cannot be checked.
    """
    bound_of = KINDS.get(proof["kind"])
    if bound_of is None:
        raise UncheckableError(f"proofs of kind {proof['kind']} cannot be checked")
    bound = bound_of(problem, objective, proof)
    return math.ceil(bound) if objective.integral else bound


# -- every task alone ------------------------------------------------------------------------------


def trivial_bound(problem: ExactProblem, objective: ExactObjective, proof: Proof) -> Number:
    """Return the cost of C_j = r_j + min_a p_ja; for makespan also the energy bounds."""
    completion = [r + p for r, p in zip(problem.release, problem.shortest, strict=True)]
    alone = objective.cost(completion)
    return max([alone, *_energy_bounds(problem)]) if objective.is_maximum else alone


def _energy_bounds(problem: ExactProblem) -> Iterator[Number]:
    """Yield r + (work released from r on) / (units of all agents), per resource and release r.

    The work of a task is the least number of unit-ticks that it takes on any agent.
    """
    for i in range(problem.r):
        units = max(1, sum(row[i] for row in problem.capacity))
        work = 0
        least = [
            min(p * problem.demand(j, a)[i] for a, p in problem.durations[j].items())
            for j in range(problem.n)
        ]
        for j in sorted(range(problem.n), key=lambda j: -problem.release[j]):
            work += least[j]
            yield problem.release[j] + Fraction(work, units)


# -- budget sharing --------------------------------------------------------------------------------


def knapsack_multiplier_bound(
    problem: ExactProblem, objective: ExactObjective, proof: Proof
) -> Number:
    """Return sum_j u_j - sum_a (knapsack optimum of a) of a proof of kind `knapsack_multipliers`.

    Lagrangian relaxation (Fisher 1981, doi:10.1287/mnsc.27.1.1) of "task j has one agent" with the
    multipliers u_j (`multipliers`). What is left is a knapsack per agent a in one resource
    (`resource[a]`), where task j has the profit u_j - w_j p_ja. The other resources and the quotas
    may be relaxed too, with the dual values `prices[a][r]` and `quota_prices[u][r]` (none: 0).
    Then the dual cost of j's demand is taken off its profit, and the dual value of all capacity and
    quotas off the bound.
    """
    if not problem.budget:
        raise ProofError("proof.kind: knapsack_multipliers needs `budget` sharing")
    scale = read_scale(proof)
    multiplier = read_table(proof, "multipliers", (problem.n,))
    resource = read_table(proof, "resource", (problem.m,), 0)
    none = [0] * problem.r
    tenants = len(problem.quota)
    capacity_dual = read_optional_table(proof, "prices", (problem.m, problem.r))
    capacity_dual = capacity_dual or [none] * problem.m
    quota_dual = read_optional_table(proof, "quota_prices", (tenants, problem.r))
    quota_dual = quota_dual or [none] * tenants
    knapsacks = KnapsackSolver()
    total: int = sum(multiplier)
    total -= sum(map(dot, capacity_dual, problem.capacity))
    total -= sum(map(dot, quota_dual, problem.quota))
    for a, r in enumerate(resource):
        if r >= problem.r:
            raise ProofError(
                f"proof.resource[{a}]: {r} is not a resource of the instance (0 to {problem.r - 1})"
            )
        items: list[Item] = []
        for j in problem.tasks_of(a):
            demand = problem.demand(j, a)
            dual_cost = dot(capacity_dual[a], demand)
            if problem.quota:
                dual_cost += dot(quota_dual[problem.tenant[j]], demand)
            cost = scale * problem.weight[j] * problem.durations[j][a]
            items.append(((demand[r],), multiplier[j] - cost - dual_cost))
        total -= knapsacks.max_profit(items, [problem.capacity[a][r]])
    return Fraction(total, scale)


# -- total time and makespan -----------------------------------------------------------------------


def assignment_dual_bound(problem: ExactProblem, objective: ExactObjective, proof: Proof) -> Number:
    """Return the bound on total_time of a proof of kind `assignment_duals`.

    An agent that runs at most s tasks at once is treated as s queues. If releases were equal and
    there were no outages, the task at the k-th position from the end of a queue of agent a would
    add k p_ja to sum_j C_j, so that the optimum is an assignment of tasks to positions (Horn 1973,
    doi:10.1287/opre.21.3.846). Outages and later releases only make completions later.

    The duals u_j (`task_duals`) of "task j has one position" and v <= 0 of "position k of a queue
    holds one task" (`column_duals`: [a, k, v], 0 where not listed) are feasible where
    u_j + v <= k p_ja. Then sum_j C_j >= N min_j r_j + sum u + sum v, and with the least weight w

        sum_j w_j (C_j - r_j) >= sum_j (w_j - w) min_a p_ja + w (sum_j C_j - sum_j r_j).
    """
    is_total_time = (
        not objective.is_maximum
        and objective.slope == problem.weight
        and objective.origin == problem.release
    )
    if problem.budget or not is_total_time:
        raise ProofError(
            "proof.kind: assignment_duals needs `time` sharing and objective total_time"
        )
    task_duals = read_table(proof, "task_duals", (problem.n,))
    columns = _column_duals(problem, proof)
    highest = [
        list(_highest_duals(duals, slots))
        for duals, slots in zip(columns, problem.slots, strict=True)
    ]
    for j, on_agent in enumerate(problem.durations):
        for a, p in on_agent.items():
            for k, dual in highest[a]:
                if task_duals[j] + dual > k * p:
                    raise ProofError(
                        f"proof.task_duals[{j}]: {task_duals[j]} + {dual} exceeds {k} * {p}, "
                        f"position {k} on agent {a}"
                    )
    least_weight = min(problem.weight)
    column_sum = sum(sum(v) for duals in columns for v in duals.values())
    completions = problem.n * min(problem.release) + sum(task_duals) + column_sum
    heavier = sum(
        (w - least_weight) * p for w, p in zip(problem.weight, problem.shortest, strict=True)
    )
    bound: int = heavier + least_weight * (completions - sum(problem.release))
    return bound


def _column_duals(problem: ExactProblem, proof: Proof) -> list[dict[int, list[int]]]:
    """Return (M,) of {position: duals listed for it}, at most one per queue of the agent."""
    found: list[dict[int, list[int]]] = [{} for _ in range(problem.m)]
    for i, entry in enumerate(read_list(proof, "column_duals")):
        field = f"proof.column_duals[{i}]"
        a, k, dual = check_table(field, entry, (3,))
        if not (0 <= a < problem.m and k >= 1 and dual <= 0):
            raise ProofError(
                f"{field}: needs an agent, a position from 1 on, and a dual that is at most 0"
            )
        found[a].setdefault(k, []).append(dual)
        if len(found[a][k]) > problem.slots[a]:
            raise ProofError(
                f"{field}: more than {problem.slots[a]} duals of position {k} on agent {a}, "
                "one per queue"
            )
    return found


def _highest_duals(columns: dict[int, list[int]], queues: int) -> Iterator[tuple[int, int]]:
    """Yield (position, highest dual over the queues there), up to the first position of dual 0.

    Later positions need no check: they cost more, and no dual is above 0.
    """
    for k in itertools.count(1) if queues else ():
        duals = columns.get(k, [])
        if len(duals) < queues:
            yield k, 0
            return
        yield k, max(duals)


def energy_dual_bound(problem: ExactProblem, objective: ExactObjective, proof: Proof) -> Number:
    """Return the bound on the makespan Q of a proof of kind `energy_duals`.

    For a tick h (of `thresholds`) that is not after the last release, the unit-ticks of resource r
    on agent a of the tasks with r_j >= h are at most capacity_ar (Q - h). The same holds for the
    quotas, and Q >= r_j + p_j. Weighted by the dual values `prices[a][r][h]`,
    `quota_prices[u][r][h]` and `task_duals[j]`, none negative, these inequalities add up to one in
    Q, in which every task is assigned to the agent where it counts least. Outages only take
    capacity away.
    """
    if problem.budget or not objective.is_maximum:
        raise ProofError("proof.kind: energy_duals needs `time` sharing and objective makespan")
    size = len(read_list(proof, "thresholds"))
    thresholds: list[int] = read_table(proof, "thresholds", (size,), 0)
    if any(h > max(problem.release) for h in thresholds):
        raise ProofError(
            f"proof.thresholds: none may lie after the last release, {max(problem.release)}"
        )
    capacity_duals = read_table(proof, "prices", (problem.m, problem.r, size), 0)
    quota_shape = (len(problem.quota), problem.r, size)
    quota_duals = read_optional_table(proof, "quota_prices", quota_shape) or []
    task_duals: list[int] = read_table(proof, "task_duals", (problem.n,), 0)
    limits = [
        *zip(problem.capacity, capacity_duals, strict=True),
        *zip(problem.quota, quota_duals, strict=bool(quota_duals)),
    ]
    coefficient: list[int] = [  # of Q, in the inequalities of each threshold
        sum(units * duals[r][i] for limit, duals in limits for r, units in enumerate(limit))
        for i in range(size)
    ]
    total = dot(coefficient, thresholds)
    for j, release in enumerate(problem.release):
        reached = [i for i, h in enumerate(thresholds) if h <= release]
        costs = []
        for a, p in problem.durations[j].items():
            tables = [capacity_duals[a]]
            if quota_duals:
                tables.append(quota_duals[problem.tenant[j]])
            dual_cost = sum(
                units * duals[r][i]
                for duals in tables
                for r, units in enumerate(problem.demand(j, a))
                if units
                for i in reached
            )
            costs.append(p * (task_duals[j] + dual_cost))
        total += task_duals[j] * release + min(costs)
    norm = sum(coefficient) + sum(task_duals)
    return Fraction(total, norm) if norm else 0


KINDS: Mapping[str, Callable[[ExactProblem, ExactObjective, Proof], Number]] = {
    "trivial": trivial_bound,
    "knapsack_multipliers": knapsack_multiplier_bound,
    "capacity_prices": capacity_dual_bound,
    "packing_prices": packing_dual_bound,
    "assignment_duals": assignment_dual_bound,
    "energy_duals": energy_dual_bound,
}
