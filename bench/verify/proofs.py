"""Proofs of lower bounds, checked in exact arithmetic. Plain Python; nothing is shared with the solvers that found them.

A proof is a JSON object with a `kind`. `proved` gives the bound it shows, which is right whatever its numbers are, so that a
tampered proof shows less, never too much. S (`scale`) is a positive whole number by which all dual values are multiplied.

| kind | for | what it says |
|---|---|---|
| trivial | all | every task alone, from its release, on its fastest agent; for makespan also the work against the capacity |
| knapsack_multipliers | `budget` sharing | multipliers u_j of "j has one agent"; a knapsack per agent is left |
| capacity_prices | `time` sharing, sums | a price per unit and tick of each agent; every task goes where it is cheapest |
| packing_prices | `time` sharing, sums | also rents of each task; an agent earns those of the best set that fits it together |
| assignment_duals | total_time, `time` sharing | duals of the assignment of tasks to positions counted from the last |
| energy_duals | makespan | prices of "the work released from h on fits what is there until the end" |
| search | all | a tree search got to this bound; only its `root`, a proof of another kind, can be checked |
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
    checked,
    listed,
    optional,
    scale_of,
    table,
)
from bench.verify.knapsack import Knapsacks
from bench.verify.prices import capacity_prices, packing_prices
from bench.verify.problem import Costs, Number, Problem, dot


def proved(problem: Problem, costs: Costs, proof: Proof) -> Number:
    """The bound a proof shows, exactly (rounded up where every schedule costs a whole number).

    Raises:
        ProofError: where it is none. UncheckableError: where it cannot be checked.
    """
    check = KINDS.get(proof["kind"])
    if check is None:
        raise UncheckableError(f"proofs of kind {proof['kind']} cannot be checked")
    bound = check(problem, costs, proof)
    return math.ceil(bound) if costs.whole else bound


# -- every task for itself -------------------------------------------------------------------------------------------


def trivial(problem: Problem, costs: Costs, proof: Proof) -> Number:
    """No task ends before r_j + min_a p_ja; and the work released from r on takes at least work / capacity from r on."""
    alone = costs.total([r + p for r, p in zip(problem.release, problem.shortest, strict=True)])
    return max([alone, *_energy(problem)]) if costs.worst else alone


def _energy(problem: Problem) -> Iterator[Number]:
    """r + (least unit-ticks of the tasks released from r on) / (units of all agents), for every resource and release."""
    for i in range(problem.r):
        units, work = max(1, sum(row[i] for row in problem.capacity)), 0
        least = [
            min(p * problem.demand(j, a)[i] for a, p in problem.length[j].items())
            for j in range(problem.n)
        ]
        for j in sorted(range(problem.n), key=lambda j: -problem.release[j]):
            work += least[j]
            yield problem.release[j] + Fraction(work, units)


# -- budget sharing --------------------------------------------------------------------------------------------------


def knapsack_multipliers(problem: Problem, costs: Costs, proof: Proof) -> Number:
    """S * bound = sum_j u_j + sum_a min over sets of tasks that fit `resource[a]` of agent a of sum (S w_j p_ja + rent - u_j).

    Lagrangian relaxation of "every task has one agent" and of all but one resource per agent (Fisher 1981,
    doi:10.1287/mnsc.27.1.1); u_j of any sign. Where other capacities or quotas are priced too (`prices` M x R and
    `quota_prices` U x R, >= 0, absent where all are 0), a task's rent is what its demand costs at these, and what all of
    capacity and quota costs is taken off.
    """
    if not problem.budget:
        raise ProofError("proof.kind: knapsack_multipliers needs `budget` sharing")
    scale = scale_of(proof)
    multiplier, resource = (
        table(proof, "multipliers", (problem.n,)),
        table(proof, "resource", (problem.m,), 0),
    )
    price = optional(proof, "prices", (problem.m, problem.r)) or [[0] * problem.r] * problem.m
    tax = optional(proof, "quota_prices", (len(problem.quota), problem.r)) or [
        [0] * problem.r
    ] * len(problem.quota)
    knapsacks = Knapsacks()
    total = (
        sum(multiplier) - sum(map(dot, price, problem.capacity)) - sum(map(dot, tax, problem.quota))
    )
    for a, r in enumerate(resource):
        if r >= problem.r:
            raise ProofError(
                f"proof.resource[{a}]: {r} is not a resource of the instance (0 to {problem.r - 1})"
            )
        gains = []
        for j in problem.runners(a):
            demand = problem.demand(j, a)
            rent = dot(price[a], demand) + (
                dot(tax[problem.tenant[j]], demand) if problem.quota else 0
            )
            gains.append(
                (
                    (demand[r],),
                    multiplier[j] - scale * problem.weight[j] * problem.length[j][a] - rent,
                )
            )
        total -= knapsacks.most(gains, [problem.capacity[a][r]])
    return Fraction(total, scale)


# -- total time and makespan -----------------------------------------------------------------------------------------


def assignment_duals(problem: Problem, costs: Costs, proof: Proof) -> Number:
    """sum C_j >= N min_j r_j + sum u + sum v, as tasks fill positions: the k-th from the end of a queue on a adds k p_ja.

    An agent that runs at most s tasks at once is s queues. Duals u_j of "j has one position" and v <= 0 of "position k of a
    queue holds one task" (`column_duals`: [a, k, v], 0 where not listed; Horn 1973, doi:10.1287/opre.21.3.846) are feasible
    where u_j + v <= k p_ja. Then sum w_j (C_j - r_j) >= sum_j (w_j - w) shortest_j + w (sum C_j - sum r_j), w the least weight.
    Outages and differing releases only make completions later.
    """
    if (
        problem.budget
        or costs.worst
        or costs.slope != problem.weight
        or costs.origin != problem.release
    ):
        raise ProofError(
            "proof.kind: assignment_duals needs `time` sharing and objective total_time"
        )
    task, columns = table(proof, "task_duals", (problem.n,)), _columns(problem, proof)
    highest = [
        list(_highest(duals, slots)) for duals, slots in zip(columns, problem.slots, strict=True)
    ]
    for j, lengths in enumerate(problem.length):
        for a, p in lengths.items():
            for k, dual in highest[a]:
                if task[j] + dual > k * p:
                    raise ProofError(
                        f"proof.task_duals[{j}]: {task[j]} + {dual} exceeds {k} * {p}, position {k} on agent {a}"
                    )
    least = min(problem.weight)
    together = (
        problem.n * min(problem.release)
        + sum(task)
        + sum(sum(v) for duals in columns for v in duals.values())
    )
    extra = sum((w - least) * p for w, p in zip(problem.weight, problem.shortest, strict=True))
    return extra + least * (together - sum(problem.release))


def _columns(problem: Problem, proof: Proof) -> list[dict[int, list[int]]]:
    """(M,) position -> listed duals of the queues of each agent, at most one per queue."""
    found: list[dict[int, list[int]]] = [{} for _ in range(problem.m)]
    for i, _ in enumerate(listed(proof, "column_duals")):
        where = f"proof.column_duals[{i}]"
        a, k, dual = checked(where, proof["column_duals"][i], (3,))
        if not (0 <= a < problem.m and k >= 1 and dual <= 0):
            raise ProofError(
                f"{where}: needs an agent, a position from 1 on, and a dual that is at most 0"
            )
        found[a].setdefault(k, []).append(dual)
        if len(found[a][k]) > problem.slots[a]:
            raise ProofError(
                f"{where}: more than {problem.slots[a]} duals of position {k} on agent {a}, one per queue"
            )
    return found


def _highest(columns: dict[int, list[int]], queues: int) -> Iterator[tuple[int, int]]:
    """(position, highest dual of any queue there), up to the first position where that is 0: later ones cost more."""
    for k in itertools.count(1) if queues else ():
        listed = columns.get(k, [])
        if len(listed) < queues:
            yield k, 0
            return
        yield k, max(listed)


def energy_duals(problem: Problem, costs: Costs, proof: Proof) -> Number:
    """The work released from a tick h on fits what is there between h and the makespan Q, if h is at most the last release.

    capacity_ar (Q - h) >= unit-ticks of r on a of the tasks with r_j >= h, likewise the quotas, and Q >= r_j + p_j. Weighted by
    `prices`[a][r][h], `quota_prices`[u][r][h] and `task_duals`[j], none negative, they add up to an inequality in Q in which
    every task takes the agent where it counts least. Outages only take capacity away.
    """
    if problem.budget or not costs.worst:
        raise ProofError("proof.kind: energy_duals needs `time` sharing and objective makespan")
    thresholds: list[int] = table(proof, "thresholds", (len(listed(proof, "thresholds")),), 0)
    if any(h > max(problem.release) for h in thresholds):
        raise ProofError(
            f"proof.thresholds: none may lie after the last release, {max(problem.release)}"
        )
    count = len(thresholds)
    prices = table(proof, "prices", (problem.m, problem.r, count), 0)
    quotas = optional(proof, "quota_prices", (len(problem.quota), problem.r, count)) or []
    task = table(proof, "task_duals", (problem.n,), 0)
    rows = [
        *zip(problem.capacity, prices, strict=True),
        *zip(problem.quota, quotas, strict=bool(quotas)),
    ]
    held = [
        sum(units * row[r][i] for limit, row in rows for r, units in enumerate(limit))
        for i in range(count)
    ]
    total = dot(held, thresholds)
    for j, release in enumerate(problem.release):
        early = [i for i, h in enumerate(thresholds) if h <= release]
        least = []
        for a, p in problem.length[j].items():
            charged = [prices[a], *([quotas[problem.tenant[j]]] if quotas else [])]
            rent = sum(
                units * row[r][i]
                for row in charged
                for r, units in enumerate(problem.demand(j, a))
                if units
                for i in early
            )
            least.append(p * (task[j] + rent))
        total += task[j] * release + min(least)
    norm = sum(held) + sum(task)
    return Fraction(total, norm) if norm else 0


KINDS: Mapping[str, Callable[[Problem, Costs, Proof], Number]] = {
    "trivial": trivial,
    "knapsack_multipliers": knapsack_multipliers,
    "capacity_prices": capacity_prices,
    "packing_prices": packing_prices,
    "assignment_duals": assignment_duals,
    "energy_duals": energy_duals,
}
