"""Bounds of CP-SAT: floating-point numbers become the integers that they stand for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.contracts import Budget, Solver
from bench.instance import Instance
from bench.setting import OBJECTIVES, Setting
from solvers.cpsat import CpSat
from solvers.exact.cp_sat import FLOAT_ERROR, final_bound
from solvers.exact.objective_terms import Terms
from solvers.exact.schedule_model import ScheduleModel
from solvers.lagrangian import Lagrangian
from tests.solvers.brute_force import brute_force, random_small_instance

BUDGET = Budget(seconds=600, threads=1)
# CP-SAT reports the bounds 52.99999999999999, 74.00000000000001 and 47.00000000000001 for these.
ASSIGNMENTS = [
    (
        [[9, 32], [39, 3], [38, 4], [16, 24]],
        [[3, 2], [4, 4], [2, 4], [4, 1]],
        [6, 5],
        74,
    ),
    (
        [[5, 9], [33, 25], [28, 7], [16, 1]],
        [[1, 4], [2, 1], [3, 3], [3, 4]],
        [4, 6],
        53,
    ),
    (
        [[35, 14], [19, 20], [7, 32], [6, 30]],
        [[2, 5], [5, 2], [5, 4], [1, 5]],
        [6, 8],
        47,
    ),
]


def assignment(cost: Any, demand: Any, capacity: Any, **parts: Any) -> Instance:
    """Return tasks on agents of a type each, with one resource and `budget` sharing."""
    return Instance(
        duration=cost,
        demand=np.array(demand)[:, :, None],
        capacity=np.array(capacity)[:, None],
        agent_type=np.arange(len(capacity)),
        sharing="budget",
        **parts,
    )


@pytest.mark.parametrize("solver", [CpSat(), Lagrangian()])
@pytest.mark.parametrize(("cost", "demand", "capacity", "optimum"), ASSIGNMENTS)
def test_the_bound_of_an_optimum_is_the_optimum(
    solver: Solver, cost: Any, demand: Any, capacity: Any, optimum: int
) -> None:
    instance = assignment(cost, demand, capacity)
    assert brute_force(instance)["total_time"] == optimum
    result = solver.solve(instance, Setting(track="assign"), BUDGET, np.random.default_rng(0))
    assert (result.status, result.lower_bound) == ("optimal", optimum)
    assert result.trajectory[-1][1:] == (optimum, optimum)
    assert all(bound == int(bound) for *_, bound in result.trajectory)
    assert result.info["bounds"][result.info["bound"]] == optimum


@pytest.mark.parametrize(("cost", "demand", "capacity", "optimum"), ASSIGNMENTS)
def test_the_bound_of_a_maximised_profit_is_the_optimum(
    cost: Any, demand: Any, capacity: Any, optimum: int
) -> None:
    instance = replace(assignment(cost, demand, capacity), sense="max", offset=40)
    result = CpSat().solve(instance, Setting(track="assign"), BUDGET, np.random.default_rng(0))
    assert result.status == "optimal"
    assert instance.original(result.lower_bound) == 40 * len(cost) - optimum


@pytest.mark.parametrize("seed", range(20))
def test_integral_bounds_equal_brute_force_exactly(seed: int) -> None:
    rng = np.random.default_rng([15, seed])
    instance = random_small_instance(rng, "time")
    plain = CpSat(bounds=False, local_search=False)
    for name, optimum in brute_force(instance).items():
        if name == "bounded_slowdown" or not math.isfinite(optimum):
            continue
        result = plain.solve(instance, Setting(objective=name), BUDGET, rng)
        assert (result.status, result.lower_bound) == ("optimal", optimum), name
        assert all(bound == int(bound) for *_, bound in result.trajectory), name


@pytest.mark.parametrize("name", OBJECTIVES)
def test_offset_and_magnitude_are_those_of_the_model(name: str) -> None:
    instance = random_small_instance(np.random.default_rng(3), "time")
    model = ScheduleModel(instance, Terms.of(instance, name))
    proto = model.model.proto
    domains = [(v.domain[0], v.domain[1]) for v in proto.variables]
    largest = sum(
        abs(c) * max(map(abs, domains[v]))
        for v, c in zip(proto.objective.vars, proto.objective.coeffs, strict=True)
    )
    assert model.offset == proto.objective.offset
    assert model.magnitude >= largest
    assert name != "total_time" or model.offset < 0


def test_the_final_bound_is_the_integer_one_where_both_agree() -> None:
    assert final_bound(52.99999999999999, 53, 1e-9) == 53
    assert final_bound(74.00000000000001, 74, 1e-9) == 74
    assert final_bound(2.0**60, 2**60 + 77, FLOAT_ERROR * 2**60) == 2**60 + 77
    assert final_bound(74.00000000000001, 0, 1e-9) == 74  # the integer one was not computed
    assert final_bound(73.2, 0, 1e-9) == 74
    assert final_bound(-math.inf, 0, 1e-9) is None
