"""CP-SAT against brute force and published optima, and by hand."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from bench.contracts import Budget
from bench.instance import Instance
from bench.left_shift import active
from bench.metrics import objective, trivial_bound
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, Setting
from bench.verify import verify
from solvers.cpsat import CpSat
from solvers.exact.annealing import greedy_schedule
from solvers.exact.assignment.model import AssignmentModel
from solvers.exact.cp_sat import WARM_START_SHARE
from solvers.exact.deadline import OutOfTime
from solvers.exact.objective_terms import Terms
from solvers.exact.schedule_model import ScheduleModel
from solvers.local_search import LocalSearch
from tests.solvers.brute_force import brute_force, random_schedule, random_small_instance

BUDGET = Budget(seconds=3600, threads=1)  # every search here ends with its proof


def check_against_brute_force(seed: int) -> None:
    rng = np.random.default_rng([7, seed])
    instance = random_small_instance(rng, "budget" if seed % 5 == 0 else "time")
    track = "assign" if instance.sharing == "budget" else "schedule"
    for name, optimum in brute_force(instance).items():
        warm_start = random_schedule if seed % 2 and track == "schedule" else None
        solver = CpSat(warm_start=warm_start)
        result = solver.solve(instance, Setting(track=track, objective=name), BUDGET, rng)
        if np.isinf(optimum):
            assert result.status == "infeasible"
            assert len(result.schedule.task) == 0
            continue
        assert result.status == "optimal", name
        assert verify(instance, result.schedule) == []
        found = objective(instance, result.schedule, name)
        assert found == pytest.approx(optimum, rel=1e-9, abs=1e-12), name
        assert result.lower_bound <= optimum * (1 + 1e-12)
        assert result.lower_bound >= optimum * (1 - 1e-8)


@pytest.mark.parametrize("seed", range(40))
def test_optimum_equals_brute_force(seed: int) -> None:
    check_against_brute_force(seed)


@pytest.mark.slow
def test_optimum_equals_brute_force_on_500_instances() -> None:
    for seed in range(500):
        check_against_brute_force(seed)


# -- by hand --------------------------------------------------------------------------------------

COMPUTE = np.array([500, 200, 800])
GPUS = np.array([1, 2, 4])


def worked_example(**parts) -> Instance:
    """Return the example of `bench/docs/problem.md` section 6: p = compute / GPUs.

    Each agent runs one task at a time.
    """
    rows = {
        "demand": np.ones((3, 3, 1), int),
        "capacity": [[1], [1], [1]],
        "agent_type": [0, 1, 2],
    } | parts
    return Instance(duration=COMPUTE[:, None] // GPUS, **rows)


@pytest.mark.parametrize(("name", "optimum"), [("total_time", 550), ("makespan", 250)])
def test_worked_example_with_one_task_at_a_time(name: str, optimum: int) -> None:
    instance = worked_example()
    result = CpSat().solve(instance, Setting(objective=name), BUDGET, np.random.default_rng(0))
    assert (result.status, result.lower_bound) == ("optimal", optimum)
    assert objective(instance, result.schedule, name) == optimum


@pytest.mark.parametrize(("units", "optimum"), [([3, 3, 3], 375), ([1, 1, 1], 650)])
def test_worked_example_as_an_assignment(units: list[int], optimum: int) -> None:
    instance = worked_example(capacity=np.array(units)[:, None], sharing="budget")
    result = CpSat().solve(instance, Setting(track="assign"), BUDGET, np.random.default_rng(0))
    assert (result.status, result.lower_bound) == ("optimal", optimum)
    assert objective(instance, result.schedule, "total_time") == optimum


def test_too_little_capacity_is_infeasible() -> None:
    instance = Instance(
        duration=[[1], [1]], demand=[[[2]], [[2]]], capacity=[[3]], agent_type=[0], sharing="budget"
    )
    result = CpSat().solve(instance, Setting(track="assign"), BUDGET, np.random.default_rng(0))
    assert result.status == "infeasible"
    assert len(result.schedule.task) == 0


def test_without_time_the_warm_start_is_returned_left_shifted() -> None:
    rng = np.random.default_rng(3)
    instance = random_small_instance(rng, "time")
    setting = Setting()
    no_time = Budget(seconds=1e-9, threads=1)
    start = random_schedule(instance, setting, rng)
    result = CpSat(warm_start=lambda *_: start).solve(instance, setting, no_time, rng)
    assert result.schedule.to_dict() == active(instance, start).to_dict()
    assert result.lower_bound == trivial_bound(instance, "total_time")
    nothing = CpSat(local_search=False).solve(instance, setting, no_time, rng)
    assert (nothing.status, len(nothing.schedule.task)) == ("unknown", 0)
    assert nothing.lower_bound == trivial_bound(instance, "total_time")


def test_without_time_and_warm_start_the_greedy_schedule_is_returned() -> None:
    rng = np.random.default_rng(3)
    instance = random_small_instance(rng, "time")
    no_time = Budget(seconds=1e-9, threads=1)
    result = CpSat().solve(instance, Setting(), no_time, rng)
    assert result.schedule.to_dict() == greedy_schedule(instance).to_dict()
    assert result.lower_bound == trivial_bound(instance, "total_time")


def test_a_warm_start_gets_a_share_of_the_budget() -> None:
    given = []

    def warm_start(instance, setting, rng, seconds):  # type: ignore[no-untyped-def]
        given.append(seconds)
        return Schedule.empty()

    instance = worked_example()
    for solver in (CpSat(warm_start=warm_start), LocalSearch(warm_start=warm_start, patience=1)):
        result = solver.solve(instance, Setting(), Budget(seconds=600), np.random.default_rng(0))
        assert not verify(instance, result.schedule)
    assert given == [WARM_START_SHARE * 600] * 2


def test_a_model_whose_deadline_has_passed_is_not_built() -> None:
    instance = worked_example()
    with pytest.raises(OutOfTime):
        ScheduleModel(instance, Terms.of(instance, "total_time"), deadline=0.0)
    with pytest.raises(OutOfTime):
        AssignmentModel(worked_example(sharing="budget"), deadline=0.0)


def test_a_warm_start_that_leaves_a_task_out_is_not_returned() -> None:
    instance = worked_example()
    partial = Schedule.from_assignment(instance, [0, 1, -1])
    no_time = Budget(seconds=1e-9, threads=1)
    solver = CpSat(warm_start=lambda *_: partial, local_search=False)
    result = solver.solve(instance, Setting(), no_time, np.random.default_rng(0))
    assert result.status == "unknown"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_trajectory_is_monotone_and_ends_at_the_result(name: str) -> None:
    rng = np.random.default_rng(11)
    instance = random_small_instance(rng, "time")
    solver = CpSat(warm_start=random_schedule)
    result = solver.solve(instance, Setting(objective=name), BUDGET, rng)
    seconds, values, bounds = np.array(result.trajectory).T
    assert (np.diff(seconds) >= 0).all()
    assert (np.diff(values) <= 0).all()
    assert (np.diff(bounds) >= 0).all()
    assert values[-1] == pytest.approx(objective(instance, result.schedule, name), rel=1e-12)
    assert bounds[-1] == result.lower_bound


# -- published optima -----------------------------------------------------------------------------


GAP = Path(os.environ.get("BENCH_EXTERNAL_DATA", "absent")) / "gap"


def gap_rows() -> list[dict[str, str]]:
    """Return the GAP instances with at most 100 tasks of types A, B, C and of Cattrysse et al.

    The list is empty without the data.
    """
    if not GAP.is_dir():
        return []
    with (GAP / "optima.csv").open() as file:
        return [
            row
            for row in csv.DictReader(file)
            if int(row["tasks"]) <= 100 and row["type"] in ("cattrysse", "a", "b", "c")
        ]


@pytest.mark.external
@pytest.mark.skipif(not GAP.is_dir(), reason="BENCH_EXTERNAL_DATA names no folder with gap/ in it")
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[] if row["name"].endswith("-0") else pytest.mark.slow)
        for row in gap_rows()
    ],
    ids=lambda row: row["name"],
)
def test_optimum_equals_the_published_optimum_of_gap(row: dict[str, str]) -> None:
    with gzip.open(GAP / "instances" / f"{row['name']}.txt.gz", "rt") as file:
        numbers = np.array(file.read().split(), dtype=np.int64)
    m, n = numbers[:2]
    cost, usage = (table.T for table in numbers[2 : 2 + 2 * m * n].reshape(2, m, n))
    parts = {
        "demand": usage[:, :, None],
        "capacity": numbers[2 + 2 * m * n :, None],
        "agent_type": np.arange(m),
        "sharing": "budget",
    }
    cases = [(Instance(duration=cost, **parts), row["min_optimum"])]
    if row["max_optimum"]:
        top = int(cost.max()) + 1
        maximise = Instance(duration=top - cost, sense="max", offset=top, **parts)
        cases.append((maximise, row["max_optimum"]))
    for instance, optimum in cases:
        setting, budget = Setting(track="assign"), Budget(seconds=600)
        result = CpSat(threads=2).solve(instance, setting, budget, np.random.default_rng(0))
        assert verify(instance, result.schedule) == []
        assert result.status == "optimal"
        found = objective(instance, result.schedule, "total_time")
        assert instance.original(found) == float(optimum)
        assert instance.original(result.lower_bound) == float(optimum)
