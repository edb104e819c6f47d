"""The second model and the exact objective against the metrics and CP-SAT."""

from __future__ import annotations

import numpy as np
import pytest

from bench.contracts import Budget
from bench.metrics import objective, trivial_bound
from bench.setting import OBJECTIVES, Setting
from bench.verify.problem import ExactObjective, ExactProblem
from bench.verify.proofs import proven_bound
from bench.verify.second_model import solve_second_model
from solvers.cpsat import CpSat
from tests.bench.verify.examples import feasible_optimum, random_instance


@pytest.mark.parametrize("name", OBJECTIVES)
def test_exact_costs_and_trivial_proof_agree_with_the_metrics(name: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        instance = random_instance(rng)
        problem = ExactProblem(instance)
        exact = ExactObjective(problem, name)
        schedule = solve_second_model(problem, exact, 3600.0).schedule
        assert schedule is not None
        cost = float(exact.schedule_cost(schedule))
        assert cost == pytest.approx(objective(instance, schedule, name))
        shown = float(proven_bound(problem, exact, {"kind": "trivial"}))
        assert shown == pytest.approx(trivial_bound(instance, name))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_second_model_agrees_with_cp_sat(name: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(6):
        instance = random_instance(rng)
        problem = ExactProblem(instance)
        exact = ExactObjective(problem, name)
        result = CpSat(threads=1).solve(instance, Setting(objective=name), Budget(3600.0), rng)
        assert result.status == "optimal"
        value = objective(instance, result.schedule, name)
        assert float(feasible_optimum(instance, exact)) == pytest.approx(value)
        known = exact.schedule_cost(result.schedule)
        smaller = solve_second_model(problem, exact, 3600.0, known)
        assert smaller.schedule is not None
        assert float(exact.schedule_cost(smaller.schedule)) == pytest.approx(value)
        assert smaller.bound == pytest.approx(value, rel=1e-5)
