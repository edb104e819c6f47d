"""Bounds by time-indexed duals: none above the optimum, and equal to a sum tick by tick."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from bench.verify.problem import ExactObjective, ExactProblem
from bench.verify.proofs import proven_bound
from bench.verify.time_indexed import CapacityDuals, packing_dual_bound
from tests.bench.verify.examples import Proof, feasible_optimum, random_instance

SUMS = ["total_time", "tardiness", "bounded_slowdown"]
INTERVALS = 4  # of the grid
HORIZON = 40  # later than every start that can be the cheapest


@pytest.mark.parametrize("name", SUMS)
def test_capacity_duals_never_prove_more_than_the_optimum_and_find_the_best_start(
    name: str,
) -> None:
    rng = np.random.default_rng(5)
    for _ in range(25):
        instance = random_instance(rng)
        problem = ExactProblem(instance)
        objective = ExactObjective(problem, name)
        proof = {
            "kind": "capacity_prices",
            "scale": 5,
            "grid": [0, 2, 3, 7, 12],
            "prices": rng.integers(0, 6, (problem.m, 2, INTERVALS)).tolist(),
            "quota_prices": None,
            "slots": problem.slots,
        }
        if problem.quota:
            proof["quota_prices"] = rng.integers(0, 6, (2, 2, INTERVALS)).tolist()
        proof["slot_prices"] = rng.integers(0, 6, (problem.m, INTERVALS)).tolist()
        best = feasible_optimum(instance, objective)
        assert proven_bound(problem, objective, proof) <= best
        duals = CapacityDuals(problem, proof)
        for j in range(problem.n):
            expected = _min_task_cost(problem, objective, proof, j)
            assert duals.min_task_cost(objective, j) == expected


@pytest.mark.parametrize("name", SUMS)
def test_packing_duals_never_prove_more_than_the_optimum_and_agree_with_a_sum_by_ticks(
    name: str,
) -> None:
    rng = np.random.default_rng(9)
    for _ in range(25):
        instance = random_instance(rng)
        problem = ExactProblem(instance)
        objective = ExactObjective(problem, name)
        pools = int(rng.integers(1, 4))
        first = int(rng.integers(0, 4))
        shape = (problem.n, pools, INTERVALS)
        proof = {
            "kind": "packing_prices",
            "scale": 5,
            "grid": [first, first + 1, 5, 7, 12],
            "pool": rng.integers(0, pools, problem.m).tolist(),
            "prices": rng.integers(0, 3, (problem.m, 2, INTERVALS)).tolist(),
            "rents": (rng.integers(0, 9, shape) * (rng.random(shape) < 0.7)).tolist(),
            "quota_prices": None,
            "slot_prices": np.zeros((problem.m, INTERVALS), int).tolist(),
        }
        if problem.quota:
            proof["quota_prices"] = rng.integers(0, 3, (2, 2, INTERVALS)).tolist()
        shown = packing_dual_bound(problem, objective, proof)
        assert shown <= feasible_optimum(instance, objective)
        costs = [_min_task_cost(problem, objective, proof, j) for j in range(problem.n)]
        value = sum(_capacity_value(problem, proof, tick) for tick in range(first, 12))
        assert shown == (sum(map(Fraction, costs)) - value) / 5


def _interval(proof: Proof, tick: int) -> int | None:
    """Return the interval of the grid that holds the tick, None outside."""
    grid = proof["grid"]
    return next((k for k in range(INTERVALS) if grid[k] <= tick < grid[k + 1]), None)


def _min_task_cost(
    problem: ExactProblem, objective: ExactObjective, proof: Proof, j: int
) -> Fraction | float:
    """Return the least S * cost + dual cost of task j, over all agents and starts."""
    places = itertools.product(range(problem.m), range(HORIZON))
    return min(_task_cost(problem, objective, proof, j, a, t) for a, t in places)


def _task_cost(
    problem: ExactProblem, objective: ExactObjective, proof: Proof, j: int, a: int, t: int
) -> Fraction | float:
    """Return S * cost + dual cost of task j on agent a from t on; inf where it may not run."""
    p = problem.durations[j].get(a)
    if p is None or t < problem.release[j]:
        return math.inf
    if any(t < end and t + p > start for start, end in problem.outages[a]):
        return math.inf
    total = Fraction(proof["scale"] * objective.task_cost(j, t + p))
    for tick in range(t, t + p):
        k = _interval(proof, tick)
        if k is None:
            continue
        total += proof["slot_prices"][a][k]
        if "rents" in proof:
            total += proof["rents"][j][proof["pool"][a]][k]
        for r, units in enumerate(problem.demand(j, a)):
            total += units * proof["prices"][a][r][k]
            if problem.quota:
                total += units * proof["quota_prices"][problem.tenant[j]][r][k]
    return total


def _capacity_value(problem: ExactProblem, proof: Proof, tick: int) -> int:
    """Return the dual value of all capacity and quotas at a tick, with the best set per agent."""
    k = _interval(proof, tick)
    assert k is not None
    total = sum(
        units * proof["quota_prices"][u][r][k]
        for u, quota in enumerate(problem.quota)
        for r, units in enumerate(quota)
    )
    for a, capacity in enumerate(problem.capacity):
        if any(start <= tick < end for start, end in problem.outages[a]):
            continue
        total += sum(units * proof["prices"][a][r][k] for r, units in enumerate(capacity))
        tasks = [j for j in problem.tasks_of(a) if problem.release[j] < proof["grid"][k + 1]]
        sets = (s for size in range(len(tasks) + 1) for s in itertools.combinations(tasks, size))
        fit = [
            s
            for s in sets
            if all(sum(problem.demand(j, a)[r] for j in s) <= capacity[r] for r in range(problem.r))
        ]
        total += max(sum(proof["rents"][j][proof["pool"][a]][k] for j in s) for s in fit)
    return total
