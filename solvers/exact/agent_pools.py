"""Identical agents taken together: pools for the relaxations, groups for the CP-SAT model.

Agents of one type and one capacity are interchangeable. The relaxations give them common
multipliers; the CP-SAT model chooses among groups of them where it need not distinguish them, and
breaks their symmetry elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bench.instance import Instance, Ints
from bench.left_shift import fits_alone


class AgentPool(NamedTuple):
    """Identical agents (type, capacity, no outages), or one agent with outages."""

    agents: tuple[int, ...]
    agent_type: int


class AgentGroup(NamedTuple):
    """Interchangeable agents that the CP-SAT model treats as one choice of a task.

    With `slots` > 0 each agent can hold any `slots` of the tasks at a time and never more.
    """

    agents: tuple[int, ...]
    tasks: tuple[int, ...]  # that can run on these agents
    slots: int


class StartWindows(NamedTuple):
    """The first and last start of each task on each pool of agents; no start where first > last."""

    pools: tuple[tuple[int, ...], ...]  # (G,) agents of each pool
    first: Ints  # (N, G) ticks
    last: Ints  # (N, G) ticks


def identical_agents(instance: Instance) -> list[list[int]]:
    """Return the agents grouped by type and capacity; an agent that has outages is alone."""
    with_outages = {outage.agent for outage in instance.outages}
    pools: dict[tuple[int, ...], list[int]] = {}
    for a, (agent_type, capacity) in enumerate(
        zip(instance.agent_type.tolist(), instance.capacity.tolist(), strict=True)
    ):
        key = (agent_type, *capacity, a if a in with_outages else -1)
        pools.setdefault(key, []).append(a)
    return list(pools.values())


def agent_pools(instance: Instance) -> tuple[AgentPool, ...]:
    """Return the pools of identical agents of an instance."""
    return tuple(
        AgentPool(tuple(agents), int(instance.agent_type[agents[0]]))
        for agents in identical_agents(instance)
    )


def pool_of_agent(pools: tuple[AgentPool, ...]) -> Ints:
    """Return the index (M,) of each agent's pool."""
    row = np.empty(sum(len(pool.agents) for pool in pools), dtype=np.int64)
    for g, pool in enumerate(pools):
        row[list(pool.agents)] = g
    return row


def agent_groups(instance: Instance) -> list[AgentGroup]:
    """Return the choices of agents for the CP-SAT model.

    A pool of identical agents is one group where capacity only limits the number of tasks. Then k
    agents with s slots each run k * s tasks at a time: the intervals of the tasks can be coloured
    with k * s slots whenever no more than that overlap (the chromatic number of an interval graph
    is its clique number). Elsewhere each agent is a group of its own.
    """
    alone = np.array([fits_alone(instance, j) for j in range(instance.n_tasks)])
    groups = []
    for pool in identical_agents(instance):
        tasks = np.flatnonzero(alone[:, pool[0]])
        demand = instance.demand[tasks, instance.agent_type[pool[0]]]
        slots = _slots(demand, instance.capacity[pool[0]])
        for agents in [pool] if slots else [[a] for a in pool]:
            groups.append(AgentGroup(tuple(agents), tuple(tasks.tolist()), slots))
    return [group for group in groups if group.tasks]


def symmetric_groups(instance: Instance, groups: list[AgentGroup]) -> list[list[int]]:
    """Return the indices of groups of one agent each whose agents are identical, two or more."""
    single = {group.agents[0]: i for i, group in enumerate(groups) if not group.slots}
    found = [[single[a] for a in pool if a in single] for pool in identical_agents(instance)]
    return [indices for indices in found if len(indices) > 1]


def max_tasks_at_once(demand: Ints, capacity: Ints) -> int:
    """Return an upper bound on the number of tasks that fit an agent together.

    It is the largest s whose s smallest demands, of `demand` (n, R), fit `capacity` (R,), resource
    by resource.
    """
    ascending = np.cumsum(np.sort(demand, axis=0), axis=0)
    return int((ascending <= capacity).sum(axis=0).min(initial=len(demand)))


def _slots(demand: Ints, capacity: Ints) -> int:
    """Return s if any s rows of `demand` (n, R) fit `capacity` (R,) and no s + 1 do; 0 without one.

    Where all n rows fit together, s = n.
    """
    descending = np.cumsum(np.sort(demand, axis=0)[::-1], axis=0)
    slots = int((descending <= capacity).all(axis=1).sum())
    return slots if slots == max_tasks_at_once(demand, capacity) else 0
