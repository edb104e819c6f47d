"""Quantities that dispatch rules compute from an observation.

They are shortest durations, earliest starts and completions, and leftover capacity. Shapes: P tasks
shown, M agents, R resources, Q running tasks. Infinity means: not within what is visible.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.instance import Ints
from bench.observation import Observation
from bench.queue_order import sum_of_fractions

Floats = NDArray[np.floating]


def select(observation: Observation, rows: slice) -> Observation:
    """Return the observation with only the tasks in `rows` of the queue."""
    due = observation.due
    tenant = observation.tenant
    return replace(
        observation,
        release=observation.release[rows],
        duration=observation.duration[rows],
        demand=observation.demand[rows],
        weight=observation.weight[rows],
        due=None if due is None else due[rows],
        tenant=None if tenant is None else tenant[rows],
        kind=observation.kind[rows],
        mask=np.append(observation.legal[rows], observation.mask[-1]),
    )


def arrived(observation: Observation) -> Observation:
    """Return the observation without unreleased tasks, which come last in the queue."""
    count = int(np.searchsorted(observation.release, observation.time, side="right"))
    if count == len(observation.release):
        return observation
    return select(observation, slice(0, count))


def demand_fits(observation: Observation, units: Ints) -> NDArray[np.bool_]:
    """Return (P, M): the task is eligible on the agent and needs at most its `units` (M, R)."""
    fits = observation.pair_duration > 0
    for r in range(units.shape[1]):
        fits &= observation.demand[:, :, r][:, observation.agent_type] <= units[:, r]
    return fits


def runnable(observation: Observation) -> NDArray[np.bool_]:
    """Return (P, M): the task is eligible and the agent's capacity covers its demand alone."""
    return demand_fits(observation, observation.capacity)


def shortest_pair(observation: Observation) -> tuple[Ints, Ints]:
    """Return the shortest visible duration of each task and the first agent that has it.

    Only agents that can run the task alone count. Shapes (P,) in ticks, and (P,).
    """
    ticks = np.where(runnable(observation), observation.pair_duration, np.iinfo(np.int64).max)
    agent = ticks.argmin(axis=1)
    return ticks[np.arange(len(agent)), agent], agent


def requested_seconds(observation: Observation) -> Floats:
    """Return (P,) the shortest visible duration: what batch scheduling calls requested time."""
    return shortest_pair(observation)[0] * observation.tick_seconds


def waiting_seconds(observation: Observation) -> Floats:
    """Return (P,) the seconds since the release."""
    return (observation.time - observation.release) * observation.tick_seconds


def processors(observation: Observation) -> Floats:
    """Return (P,) the number of processors in the sense of batch scheduling, at least 1.

    With one resource it is the demand. With several it is the dominant demand in units of the first
    resource: each demand counts as the same fraction of all units of the first resource (the
    dominant share of Ghodsi et al., NSDI 2011, times that total). Demands are those on the fastest
    agent.
    """
    fastest = observation.agent_type[shortest_pair(observation)[1]]
    demand = observation.demand[np.arange(len(fastest)), fastest]
    total = observation.capacity.sum(axis=0)
    units = demand * (total[total > 0][:1].sum() / np.maximum(total, 1))
    return np.maximum(units.max(axis=1, initial=1.0), 1.0)


def leftover_capacity(observation: Observation) -> Floats:
    """Return (P, M) what the agent would have free beside the task, summed over resources.

    Each resource counts as a fraction of all its units.
    """
    total = np.maximum(observation.capacity.sum(axis=0), 1)
    held = sum_of_fractions(observation.demand, total)[:, observation.agent_type]
    return sum_of_fractions(observation.free, total) - held


def earliest_fit(
    now: int, free: Ints, owner: Ints, end: Ints, held: Ints, group: Ints, demand: Ints
) -> Floats:
    """Return (K,) the earliest tick at which each demand fits in its group.

    A group is an agent, or a tenant with its quota. No other task is started meanwhile. Infinite:
    the demand never fits.

    Parameters
    ----------
    now
        The current tick.
    free
        Units that each group has free now, shape (G, R).
    owner, end, held
        Group (Q,), visible end tick (Q,) and units (Q, R) of each running task. A task that has
        outlived its visible end returns its units at the next tick.
    group, demand
        Group (K,) and units (K, R) of each demand.
    """
    groups = np.arange(len(free))
    owners = np.concatenate([groups, owner])
    ticks = np.concatenate([np.full(len(free), now), np.maximum(end, now + 1)])
    # Rows per group: what is free now, then what running tasks return, by tick. The running sum
    # grows along all groups, so one binary search per resource serves all demands.
    order = np.lexsort((ticks, owners))
    units = np.cumsum(np.concatenate([free, held])[order], axis=0)
    first = np.searchsorted(owners[order], groups)
    past = np.append(first[1:], len(order))[group]
    before = (units[first] - free)[group]
    row = first[group]
    for r in range(free.shape[1]):
        row = np.maximum(row, np.searchsorted(units[:, r], before[:, r] + demand[:, r]))
    return np.where(row < past, ticks[order][np.minimum(row, len(order) - 1)], np.inf)


def completion(observation: Observation) -> Floats:
    """Return (P, M) the visible completion tick of each pair.

    It is the earliest start beside the running tasks plus the visible duration. It is infinite
    where the task cannot run, the agent is in an outage, or the task would not end before the next
    announced outage of the agent. Where `wait` is illegal no pair gets better by waiting, and the
    completion of an illegal pair is infinite as well.
    """
    possible = runnable(observation) & observation.up
    if not observation.mask[-1]:
        possible &= observation.legal
    ends = np.where(possible, observation.time + observation.pair_duration, np.inf)
    fits = demand_fits(observation, observation.free) & _within_quota(observation)
    task, agent = np.nonzero(possible & ~fits)
    ends[task, agent] += _earliest_start(observation, task, agent) - observation.time
    ends[ends > observation.next_outage] = np.inf
    return ends


def _within_quota(observation: Observation) -> NDArray[np.bool_]:
    """Return (P, M): the demand fits what is free of the tenant's quota."""
    if observation.tenant is None or observation.tenant_free is None:
        return np.ones((len(observation.release), observation.n_agents), dtype=bool)
    free = observation.tenant_free[observation.tenant][:, None]
    return np.all(observation.demand <= free, axis=-1)[:, observation.agent_type]


def _earliest_start(observation: Observation, task: Ints, agent: Ints) -> Floats:
    """Return (K,) the earliest start of pairs (task, agent), each (K,), by capacity and quota."""
    demand = observation.demand[task, observation.agent_type[agent]]
    now = observation.time
    end = observation.running_end
    held = observation.running_demand
    start = earliest_fit(now, observation.free, observation.running_agent, end, held, agent, demand)
    free = observation.tenant_free
    running_tenant = observation.running_tenant
    if observation.tenant is None or free is None or running_tenant is None:
        return start
    tenant = observation.tenant[task]
    return np.maximum(start, earliest_fit(now, free, running_tenant, end, held, tenant, demand))


def argmin_lexicographic(*keys: Floats | Ints) -> int:
    """Return the first index of the lexicographically smallest keys; each (K,), K >= 1."""
    candidates = np.arange(len(keys[0]))
    for key in keys:
        candidates = candidates[key[candidates] == key[candidates].min()]
    return int(candidates[0])


def best_agent(observation: Observation, position: int) -> int:
    """Return the best legal agent for the task at `position` of the queue.

    By earliest visible completion, then least leftover capacity, then lowest index. Among agents on
    which the task fits now, the earliest completion is that of the shortest visible duration; with
    `budget` sharing it is that of the lowest cost.
    """
    task = select(observation, slice(position, position + 1))
    agents = np.flatnonzero(task.legal[0])
    ends = completion(task)[0, agents]
    return int(agents[argmin_lexicographic(ends, leftover_capacity(task)[0, agents])])
