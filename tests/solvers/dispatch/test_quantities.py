"""Quantities that dispatch rules compute from an observation, against hand calculations."""

import numpy as np
import pytest

from solvers.dispatch.quantities import (
    arrived,
    completion,
    earliest_fit,
    leftover_capacity,
    processors,
    requested_seconds,
)
from tests.solvers.dispatch.observations import NEVER, observe


def test_arrived_removes_unreleased_tasks_only():
    observation = observe(
        [5, 6, 1], time=3, release=[0, 3, 4], due=[9, 8, 7], tenant=[0, 1, 0], wait=True
    )
    now = arrived(observation)
    assert now.release.tolist() == [0, 3]
    assert now.due.tolist() == [9, 8]
    assert now.tenant.tolist() == [0, 1]
    assert now.mask.tolist() == [True, True, True]
    assert arrived(now) is now


def test_requested_seconds_is_the_shortest_duration_of_capable_agents():
    observation = observe(
        [[9, 4, 2], [7, -1, 8]], [3, 1], capacity=((4,), (3,), (2,)), tick_seconds=0.5
    )
    assert requested_seconds(observation).tolist() == [2.0, 3.5]


def test_processors_is_the_dominant_demand_in_units_of_the_first_resource():
    assert processors(observe([5, 5], [3, 0])).tolist() == [3.0, 1.0]
    observation = observe([5, 5, 5], [[2, 10], [0, 50], [1, 20]], capacity=((4, 50), (4, 50)))
    assert processors(observation).tolist() == [2.0, 4.0, 1.6]  # of 8 and 100 in all


def test_earliest_fit_by_hand():
    free = np.array([[1], [0]])
    owner = np.array([0, 1, 0, 1])
    end = np.array([9, 5, 4, 7])
    held = np.array([[2], [1], [1], [3]])
    group = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    demand = np.array([[1], [2], [3], [5], [0], [1], [2], [5]])
    expected = [2, 4, 9, np.inf, 2, 5, 7, np.inf]
    assert earliest_fit(2, free, owner, end, held, group, demand).tolist() == expected


def test_earliest_fit_equals_a_search_tick_by_tick():
    rng = np.random.default_rng(3)
    for _ in range(200):
        g, q, r, k = rng.integers(1, 5), rng.integers(0, 8), rng.integers(1, 4), 6
        free = rng.integers(0, 3, (g, r))
        held = rng.integers(0, 3, (q, r))
        owner = rng.integers(0, g, q)
        end = rng.integers(8, 20, q)  # now is 10: some tasks have outlived their visible end
        group = rng.integers(0, g, k)
        demand = rng.integers(0, 6, (k, r))
        back = np.maximum(end, 11)
        for i, got in enumerate(earliest_fit(10, free, owner, end, held, group, demand)):
            fits = (
                t
                for t in range(10, 21)
                if (
                    free[group[i]] + held[(owner == group[i]) & (back <= t)].sum(0) >= demand[i]
                ).all()
            )
            assert got == next(fits, np.inf)


def test_completion_respects_outages_quotas_and_eligibility():
    observation = observe(
        [[5, 3, 4], [2, -1, 9]],
        [2, 1],
        capacity=((2,), (4,), (1,)),
        time=10,
        running=[(0, 16, [1], 0), (1, 12, [4], 1)],
        tenant=[1, 0],
        tenant_free=[[0], [0]],
        next_outage=[NEVER, 15, NEVER],
    )
    # Task 0 needs 2 units of the quota of tenant 1, which are free at 12. On agent 1 it would run
    # over [12, 15), until the outage begins.
    assert completion(observation).tolist() == [[21, 15, np.inf], [18, np.inf, 25]]
    down = observe([5], capacity=((4,), (4,)), up=[False, True], next_outage=[NEVER, 4])
    assert completion(down).tolist() == [[np.inf, np.inf]]


def test_leftover_capacity_is_a_fraction_of_the_total():
    observation = observe([5], [[1, 2]], capacity=((4, 5), (4, 15)), running=[(0, 9, [2, 0])])
    assert leftover_capacity(observation)[0] == pytest.approx([1 / 8 + 3 / 20, 3 / 8 + 13 / 20])
