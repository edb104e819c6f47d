"""Numbers at the limits: every result is exact, and what is beyond is refused with its field."""

from __future__ import annotations

import numpy as np
import pytest

from bench.contracts import Budget
from bench.instance import Instance, InstanceError, Outage
from bench.limits import MAX_INTEGER, MAX_OBJECTIVE
from bench.metrics import horizon, objective, trivial_bound
from bench.setting import Setting
from bench.simulator import Simulator
from bench.verify.problem import ExactObjective, ExactProblem
from bench.verify.proofs import trivial_bound as exact_trivial_bound
from solvers.cpsat import CpSat
from solvers.exact.annealing import greedy_schedule

HALF = MAX_INTEGER // 2
FORM = {
    "duration": [[HALF - 1], [1]],
    "demand": [[[MAX_INTEGER]], [[1]]],
    "capacity": [[MAX_INTEGER]],
    "agent_type": [0],
    "release": [0, HALF],
}
WEIGHT = (MAX_OBJECTIVE - 1) // MAX_INTEGER  # 9007


def build(**changes) -> Instance:
    return Instance.from_dict(FORM | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"release": [0, HALF + 1]},
            r"release\[1\]: value 500000000001: a schedule may end as late as 1000000000001 "
            r"\(last release .*\), which must not exceed 1000000000000; use longer ticks",
        ),
        ({"duration": [[HALF + 1], [HALF]]}, r"duration\[0, 0\]: value 500000000001: a schedule"),
        ({"estimate": [[1], [MAX_INTEGER]]}, r"estimate\[1, 0\]: value 1000000000000: a schedule"),
        ({"outages": [(0, 1, HALF + 1)]}, r"outages: value 500000000001: a schedule may end"),
        (
            {"weight": [1, WEIGHT]},
            r"weight\[1\]: value 9007: an objective may be as large as 9008000000000000 .*, which "
            r"must stay below 2\*\*53 = 9007199254740992 to be exact; divide the weights",
        ),
        ({"release": [0, MAX_INTEGER + 1]}, r"release\[1\]: 1000000000001 must not exceed"),
        ({"release": [0, -(2**63)]}, r"release\[1\]: -9223372036854775808 must not exceed"),
        ({"tenant": [0, 10**6]}, r"tenant\[1\]: 1000000 must be below 1000000; number the tenants"),
        ({"tick_seconds": 1e-16}, r"tick_seconds: value 1e-16: must lie in \[1e-15, 1000000000000"),
        (
            {"sharing": "budget", "release": None, "offset": 2**53},
            r"offset: value 9007199254740992: an objective may be as large as",
        ),
        (
            {"sharing": "budget", "release": None, "weight": [18_015, 1]},
            r"weight\[0\]: value 18015: an objective",
        ),
    ],
)
def test_what_cannot_be_computed_exactly_is_refused(changes, message: str) -> None:
    with pytest.raises(InstanceError, match=message):
        build(**changes)


def test_the_limits_themselves_are_accepted() -> None:
    instance = build(weight=[WEIGHT, 0], due=[MAX_INTEGER, MAX_INTEGER])
    assert horizon(instance) == MAX_INTEGER
    assert build(estimate=[[HALF - 1], [HALF // 2]], release=[0, 0]).n_tasks == 2
    costs = build(sharing="budget", release=None, weight=[18_014, 0])
    assert int((costs.weight * costs.longest()).sum()) < MAX_OBJECTIVE


@pytest.mark.parametrize("name", ["total_time", "makespan", "tardiness", "bounded_slowdown"])
@pytest.mark.parametrize("mode", ["fit", "commit"])
def test_returns_at_the_limits_are_exact(name: str, mode: str) -> None:
    instance = build(
        weight=[WEIGHT - 7, 7],
        due=[0, MAX_INTEGER],
        duration=[[HALF // 2], [HALF // 2]],
        outages=[Outage(0, 3, HALF)],
    )
    simulator = Simulator([instance], Setting(objective=name, mode=mode))
    total = 0.0
    while not simulator.terminated[0]:
        total += float(simulator.step(np.array([simulator.state.mask[0].argmax()]))[0])
    problem = ExactProblem(instance)
    exact = ExactObjective(problem, name).schedule_cost(simulator.schedule(0))
    value = objective(instance, simulator.schedule(0), name)
    assert value == pytest.approx(float(exact), rel=1e-15)
    assert -total * simulator.scale[0] == pytest.approx(value, rel=1e-12)


def test_the_energy_bound_is_exact() -> None:
    """In float64 the work below rounds up, to a bound above the optimum."""
    instance = Instance(
        [[333_333_333_331], [333_333_333_329], [99_999_999_989]],
        [[[999_999_999_989]], [[999_999_999_961]], [[3]]],
        [[MAX_INTEGER]],
        [0],
    )
    problem = ExactProblem(instance)
    bound = exact_trivial_bound(problem, ExactObjective(problem, "makespan"), {})
    assert trivial_bound(instance, "makespan") == -(-bound // 1)


def test_cp_sat_takes_late_due_dates_and_large_weights() -> None:
    weight = [MAX_INTEGER, MAX_INTEGER - 1, 1]
    instance = Instance(
        [[5], [7], [2]], np.ones((3, 1, 1)), [[1]], [0], weight=weight, due=[0, 0, MAX_INTEGER]
    )
    result = CpSat().solve(
        instance,
        Setting(objective="tardiness"),
        Budget(seconds=600, threads=1),
        np.random.default_rng(0),
    )
    assert result.status == "optimal"
    assert result.lower_bound == 5 * weight[0] + 12 * weight[1]
    assert objective(instance, result.schedule, "tardiness") == result.lower_bound


def test_the_first_schedule_of_annealing_ends_by_the_last_tick() -> None:
    instance = build(outages=[Outage(0, 1, HALF)], release=[0, HALF])
    assert greedy_schedule(instance).end.max() <= horizon(instance)
