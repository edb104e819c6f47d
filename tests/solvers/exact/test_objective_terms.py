"""The exact form of the objectives."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from bench.instance import Instance
from bench.metrics import objective
from bench.setting import OBJECTIVES, Setting
from solvers.exact.objective_terms import Terms, completion_times
from tests.solvers.brute_force import random_schedule, random_small_instance


@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_of_the_terms_is_the_objective(name: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        instance = random_small_instance(rng, "time")
        schedule = random_schedule(instance, Setting(), rng)
        value = float(Terms.of(instance, name).value(schedule.end))
        assert value == pytest.approx(objective(instance, schedule, name), rel=1e-12)


def test_slowdown_is_exact_in_fractions() -> None:
    instance = Instance(
        duration=[[3], [40]],
        demand=[[[1]], [[1]]],
        capacity=[[1]],
        agent_type=[0],
        tick_seconds=0.5,
    )
    slowdown = Terms.of(instance, "bounded_slowdown").value(np.array([23, 43]))
    assert slowdown == (Fraction(23, 20) + Fraction(43, 40)) / 2  # 10 s are 20 ticks


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_schedule_of_at_most_the_value_completes_a_task_after_its_latest_completion(
    name: str,
) -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        instance = random_small_instance(rng, "time")
        terms = Terms.of(instance, name)
        schedules = [random_schedule(instance, Setting(), rng) for _ in range(10)]
        completions = [completion_times(schedule) for schedule in schedules]
        earliest = instance.release + instance.shortest()
        for limit in completions:
            latest = terms.latest_completion(terms.value(limit), earliest, 10**6)
            for completion in completions:
                if terms.value(completion) <= terms.value(limit):
                    assert (completion <= latest).all()


def test_latest_completion_by_hand() -> None:
    """At 30, task 0 can complete 30 - 4 ticks after its release, task 1 (30 - 6) / 2 ticks."""
    instance = Instance(
        duration=[[6], [2]], demand=[[[1]], [[1]]], capacity=[[1]], agent_type=[0], weight=[1, 2]
    )
    terms = Terms.of(instance, "total_time")
    earliest = np.array([6, 2])
    assert terms.latest_completion(Fraction(30), earliest, 100).tolist() == [26, 12]
    assert terms.latest_completion(Fraction(30), earliest, 20).tolist() == [20, 12]
