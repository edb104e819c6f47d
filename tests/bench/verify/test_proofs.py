"""Bounds of proofs with any numbers: none is above the true optimum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.instance import Instance
from bench.verify.fields import ProofError, UncheckableError
from bench.verify.problem import ExactObjective, ExactProblem
from bench.verify.proofs import proven_bound
from tests.bench.verify.examples import (
    MULTIPLIERS,
    MULTIPLIERS_AND_DUALS,
    feasible_optimum,
    machine,
    optimum,
    random_instance,
    two_limits,
)


def test_slots_are_the_number_of_tasks_that_fit_at_most() -> None:
    demand = [[[2, 1]], [[3, 0]], [[3, 0]], [[6, 1]]]
    problem = ExactProblem(Instance([[1]] * 4, demand, [[6, 9], [5, 1]], [0, 0]))
    assert problem.slots == [2, 2]


# -- knapsack multipliers --------------------------------------------------------------------------


@pytest.mark.parametrize("with_duals", [False, True])
def test_multipliers_never_prove_more_than_the_optimum(with_duals: bool) -> None:
    rng = np.random.default_rng(3)
    feasible = 0
    tight = 0
    for _ in range(60):
        instance = random_instance(rng, budget=True)
        problem = ExactProblem(instance)
        objective = ExactObjective(problem, "total_time")
        best = optimum(instance, objective)
        proof = {
            "kind": "knapsack_multipliers",
            "scale": 10,
            "multipliers": rng.integers(-20, 150, instance.n_tasks).tolist(),
            "resource": rng.integers(0, 2, instance.n_agents).tolist(),
        }
        if with_duals:
            proof["prices"] = rng.integers(0, 4, (instance.n_agents, 2)).tolist()
            if instance.quota is not None:
                proof["quota_prices"] = rng.integers(0, 4, (2, 2)).tolist()
        if best is not None:
            shown = proven_bound(problem, objective, proof)
            assert shown <= best
            feasible += 1
            tight += shown == best
    assert feasible >= 30
    assert tight or with_duals


def test_duals_of_other_resources_and_quotas_make_multipliers_prove_more() -> None:
    problem = ExactProblem(two_limits())
    objective = ExactObjective(problem, "total_time")
    full = MULTIPLIERS_AND_DUALS
    bare = {key: full[key] for key in MULTIPLIERS}
    assert proven_bound(problem, objective, {"kind": "trivial"}) == 4
    assert proven_bound(problem, objective, bare) == 4
    assert proven_bound(problem, objective, {**bare, "prices": full["prices"]}) == 6
    assert proven_bound(problem, objective, {**bare, "quota_prices": full["quota_prices"]}) == 6
    assert proven_bound(problem, objective, full) == 8
    assert feasible_optimum(two_limits(), objective) == 8


# -- energy and assignment duals -------------------------------------------------------------------


def test_energy_duals_never_prove_more_than_the_optimum() -> None:
    rng = np.random.default_rng(7)
    for _ in range(25):
        instance = random_instance(rng)
        problem = ExactProblem(instance)
        objective = ExactObjective(problem, "makespan")
        thresholds = sorted(set(problem.release))
        size = len(thresholds)
        proof = {
            "kind": "energy_duals",
            "thresholds": thresholds,
            "prices": rng.integers(0, 6, (problem.m, 2, size)).tolist(),
            "quota_prices": rng.integers(0, 3, (2, 2, size)).tolist() if problem.quota else None,
            "task_duals": rng.integers(0, 6, problem.n).tolist(),
        }
        best = feasible_optimum(instance, objective)
        assert 0 < proven_bound(problem, objective, proof) <= best
        zero = {
            **proof,
            "prices": np.zeros((problem.m, 2, size), int).tolist(),
            "quota_prices": None,
            "task_duals": [0] * problem.n,
        }
        assert proven_bound(problem, objective, zero) == 0


@pytest.mark.parametrize("units", [1, 2])
def test_assignment_duals_hold_with_weights_releases_and_queues(units: int) -> None:
    rng = np.random.default_rng(6)
    better = 0  # bounds above the trivial one
    for _ in range(15):
        instance = Instance(
            duration=rng.integers(1, 6, (4, 2)),
            demand=np.ones((4, 2, 1)),
            capacity=[[units], [1]],
            agent_type=[0, 1],
            release=rng.integers(0, 5, 4),
            weight=rng.integers(0, 4, 4),
            outages=[(0, 3, 5)],
        )
        problem = ExactProblem(instance)
        assert problem.slots == [units, 1]
        objective = ExactObjective(problem, "total_time")
        task, column = _best_duals(problem)
        proof = {"kind": "assignment_duals", "task_duals": task, "column_duals": column}
        shown = proven_bound(problem, objective, proof)
        assert shown <= feasible_optimum(instance, objective)
        better += shown > proven_bound(problem, objective, {"kind": "trivial"})
    assert better or units == 2  # with two slots so few tasks hardly wait


def _best_duals(problem: ExactProblem) -> tuple[list[int], list[list[int]]]:
    """Return integer duals of the assignment of tasks to positions, by scipy's linear program."""
    from scipy.optimize import linprog

    n = problem.n
    places = [
        (a, k) for a in range(problem.m) for k in range(1, n + 1) for _ in range(problem.slots[a])
    ]
    cost = [-1.0] * (n + len(places))
    rows = []
    limits = []
    for j in range(n):
        for i, (a, k) in enumerate(places):
            row = np.zeros(n + len(places))
            row[j] = row[n + i] = 1
            rows.append(row)
            limits.append(k * problem.durations[j][a])
    bounds = [(None, None)] * n + [(None, 0)] * len(places)
    solution = linprog(cost, np.array(rows), limits, bounds=bounds).x
    v = [math.floor(value + 1e-9) for value in solution[n:]]
    u = [
        min(k * problem.durations[j][a] - v[i] for i, (a, k) in enumerate(places)) for j in range(n)
    ]
    u = [min(u[j], *((n + 1) * p for p in problem.durations[j].values())) for j in range(n)]
    return u, [[a, k, dual] for (a, k), dual in zip(places, v, strict=True) if dual]


# -- proofs that do not apply ----------------------------------------------------------------------


def test_proof_of_another_problem_or_kind_is_an_error() -> None:
    problem = ExactProblem(machine())
    objective = ExactObjective(problem, "total_time")
    with pytest.raises(ProofError, match="needs `budget` sharing"):
        proven_bound(problem, objective, MULTIPLIERS)
    with pytest.raises(UncheckableError, match="cannot be checked"):
        proven_bound(problem, objective, {"kind": "search"})
