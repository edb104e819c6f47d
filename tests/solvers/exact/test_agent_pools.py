"""Pools and groups of identical agents."""

from __future__ import annotations

import numpy as np

from bench.instance import Instance
from solvers.exact.agent_pools import (
    agent_groups,
    agent_pools,
    max_tasks_at_once,
    pool_of_agent,
    symmetric_groups,
)


def instance_of(demand: list[int], **parts) -> Instance:
    """Return one task per demand, by default on two identical agents of 4 units."""
    rows = {"capacity": [[4], [4]], "agent_type": [0, 0]} | parts
    types = max(rows["agent_type"]) + 1
    return Instance(
        duration=np.ones((len(demand), types), int),
        demand=np.repeat(np.reshape(demand, (-1, 1, 1)), types, axis=1),
        **rows,
    )


def groups_of(demand: list[int], **parts) -> list[tuple[tuple[int, ...], int]]:
    """Return (agents, slots) of each group."""
    return [(group.agents, group.slots) for group in agent_groups(instance_of(demand, **parts))]


def test_identical_agents_are_one_group_only_where_counting_tasks_is_enough() -> None:
    assert groups_of([3, 3, 4]) == [((0, 1), 1)]
    assert groups_of([2, 2, 2]) == [((0, 1), 2)]
    assert groups_of([0, 1]) == [((0, 1), 2)]  # all fit at once
    assert groups_of([1, 3, 3]) == [((0,), 0), ((1,), 0)]  # 1 + 3 fit, 3 + 3 do not
    assert groups_of([3, 3], outages=[(1, 2, 3)]) == [((0,), 1), ((1,), 1)]
    assert groups_of([3, 3], capacity=[[4], [5]]) == [((0,), 1), ((1,), 1)]


def test_groups_of_single_agents_are_symmetric_where_the_agents_are_identical() -> None:
    capacity = [[4], [4], [5], [4]]
    instance = instance_of([1, 3, 3], capacity=capacity, agent_type=[0] * 4)
    groups = agent_groups(instance)
    agents = [
        [groups[i].agents[0] for i in indices] for indices in symmetric_groups(instance, groups)
    ]
    assert agents == [[0, 1, 3]]


def test_pools_are_the_agents_of_one_type_and_capacity_without_outages() -> None:
    capacity = [[4], [5], [4], [4], [4]]
    instance = instance_of([1], capacity=capacity, agent_type=[0, 0, 0, 1, 0], outages=[(4, 2, 3)])
    pools = agent_pools(instance)
    assert pools == (((0, 2), 0), ((1,), 0), ((3,), 1), ((4,), 0))
    assert pool_of_agent(pools).tolist() == [0, 1, 0, 2, 3]


def test_at_most_as_many_tasks_fit_as_the_smallest_demands_of_each_resource_allow() -> None:
    demand = np.array([[1, 3], [2, 3], [3, 1]])
    assert max_tasks_at_once(demand, np.array([6, 7])) == 3
    assert max_tasks_at_once(demand, np.array([5, 7])) == 2
    assert max_tasks_at_once(demand, np.array([6, 3])) == 1
