"""The search log: exact bounds, their names and proofs, the trajectory."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np

from bench.instance import Instance
from bench.schedule import Schedule
from solvers.exact.bounds import Bound
from solvers.exact.objective_terms import Terms
from solvers.exact.search_log import SearchLog


def new_log(
    bound: Fraction = Fraction(1), objective: str = "total_time"
) -> tuple[Instance, SearchLog]:
    """Return two tasks of 3 and 4 ticks on one agent, and a log of their objective."""
    instance = Instance(duration=[[3], [4]], demand=[[[1]]] * 2, capacity=[[1]], agent_type=[0])
    terms = Terms.of(instance, objective)
    return instance, SearchLog(terms, time.perf_counter(), Bound("trivial", bound, {"kind": "a"}))


def test_only_improvements_enter_the_trajectory() -> None:
    instance, log = new_log()
    log.record_solution(np.array([7, 4]))
    log.record_solution(np.array([3, 9]))
    log.record_bound(Bound("low", Fraction(1), {}))
    log.record_solution(np.array([3, 7]))
    log.record_bound(Bound("high", Fraction(19, 2), {"kind": "b"}))
    schedule = Schedule.from_assignment(instance, [0, 0], [0, 3])
    result = log.result(schedule, "feasible", [Bound("low", Fraction(1), {})])
    assert [point[1:] for point in result.trajectory] == [(11, 1), (10, 1), (10, 10)]
    assert result.lower_bound == 10  # no schedule costs 9.5
    assert result.info == {
        "bound": "high",
        "proof": {"kind": "b"},
        "bounds": {"low": 1.0, "high": 10.0},
    }


def test_the_better_schedule_is_kept_and_the_new_one_in_a_tie() -> None:
    instance, log = new_log()
    short = Schedule.from_assignment(instance, [0, 0], [0, 3])
    long = Schedule.from_assignment(instance, [0, 0], [4, 0])
    assert log.keep_better(None, long) is long
    assert log.keep_better(long, short) is short
    assert log.keep_better(short, long) is short
    again = Schedule.from_assignment(instance, [0, 0], [0, 3])
    assert log.keep_better(short, again) is again
    assert log.objective == 10


def test_a_bound_by_search_keeps_the_proof_it_started_from() -> None:
    _, log = new_log()
    log.record_search_bound(Fraction(1))
    assert log.bound_name == "trivial"
    log.record_search_bound(Fraction(5))
    log.record_search_bound(Fraction(13, 2))
    assert (log.bound_name, log.bound) == ("cpsat", 7)
    assert log.proof == {"kind": "search", "solver": "cpsat", "root": {"kind": "a"}}
    assert not log.optimum_proven
    log.record_solution(np.array([3, 7]))
    log.record_search_bound(Fraction(10))
    assert log.optimum_proven


def test_fractional_objectives_keep_fractional_bounds() -> None:
    _, log = new_log(Fraction(1, 3), "bounded_slowdown")
    assert log.bound == Fraction(1, 3)
    log.record_search_bound(Fraction(7, 6))
    assert log.bound == Fraction(7, 6)
    log.record_bound(Bound("high", Fraction(5, 4), {}))
    assert log.bound == Fraction(5, 4)


def test_the_reported_bound_is_never_above_the_exact_one() -> None:
    above = Fraction(1, 10)  # the nearest float is larger
    below = Fraction(1, 3)  # the nearest float is smaller
    assert Fraction(float(above)) > above
    assert Fraction(float(below)) < below
    for bound in (above, below):
        instance, log = new_log(bound, "bounded_slowdown")
        schedule = Schedule.from_assignment(instance, [0, 0], [0, 3])
        reported = log.result(schedule, "feasible").lower_bound
        assert Fraction(reported) < bound < Fraction(np.nextafter(reported, 1.0))
