"""What dispatch rules compute from an observation: shortest durations, earliest starts and completions, leftover capacity.

Shapes: P tasks shown, M agents, R resources, Q running tasks. Infinity stands for "not as far as can be seen".
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.instance import Ints
from bench.observation import Observation

Floats = NDArray[np.floating]


def select(observation: Observation, rows: slice) -> Observation:
    """The same decision with only the tasks in `rows` of the queue shown."""
    due, tenant = observation.due, observation.tenant
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
    """The same decision without the tasks of the future, which come last in the queue."""
    count = int(np.searchsorted(observation.release, observation.time, side="right"))
    return (
        observation if count == len(observation.release) else select(observation, slice(0, count))
    )


def covered(observation: Observation, units: Ints) -> NDArray[np.bool_]:
    """(P, M): the task is eligible on the agent and needs no more than the agent's `units` (M, R)."""
    fits = observation.pair_duration > 0
    for r in range(units.shape[1]):
        fits &= observation.demand[:, :, r][:, observation.agent_type] <= units[:, r]
    return fits


def runnable(observation: Observation) -> NDArray[np.bool_]:
    """(P, M): the task is eligible on the agent and the agent's capacity covers its demand alone."""
    return covered(observation, observation.capacity)


def shortest_pair(observation: Observation) -> tuple[Ints, Ints]:
    """(P,) visible ticks p_j = min_a p_ja over the agents that can run j alone, and (P,) the first such agent."""
    ticks = np.where(runnable(observation), observation.pair_duration, np.iinfo(np.int64).max)
    agent = ticks.argmin(axis=1)
    return ticks[np.arange(len(agent)), agent], agent


def requested(observation: Observation) -> Floats:
    """(P,) seconds: the batch world's requested time, here the shortest visible duration."""
    return shortest_pair(observation)[0] * observation.tick_seconds


def waited(observation: Observation) -> Floats:
    """(P,) seconds since arrival."""
    return (observation.time - observation.release) * observation.tick_seconds


def processors(observation: Observation) -> Floats:
    """(P,) the batch world's processors: the dominant demand, in units of the first resource, at least 1.

    With one resource that is the demand. With several, each demand counts as the same share of all there is of the first
    resource (Ghodsi et al.'s dominant share, NSDI 2011, times that total). Demands are those on the fastest agent.
    """
    fastest = observation.agent_type[shortest_pair(observation)[1]]
    demand = observation.demand[np.arange(len(fastest)), fastest]
    total = observation.capacity.sum(axis=0)
    units = demand * (total[total > 0][:1].sum() / np.maximum(total, 1))
    return np.maximum(units.max(axis=1, initial=1.0), 1.0)


def leftover(observation: Observation) -> Floats:
    """(P, M) what a pair would leave free on the agent, summed over resources as shares of all there is of each."""
    total = np.maximum(observation.capacity.sum(axis=0), 1)
    held = (observation.demand / total).sum(axis=-1)[:, observation.agent_type]
    return (observation.free / total).sum(axis=-1) - held


def earliest_fit(
    now: int, free: Ints, owner: Ints, end: Ints, held: Ints, group: Ints, demand: Ints
) -> Floats:
    """(K,) the earliest tick at which `demand` (K, R) fits what its `group` (K,) has free, if nothing more is started.

    Groups (agents, or tenants with their quotas) have `free` (G, R) units now; each running task gives back `held` (Q, R)
    to its `owner` (Q,) at tick `end` (Q,), or at the next tick where it has outlived its visible end. Infinite: never.
    """
    groups = np.arange(len(free))
    owners = np.concatenate([groups, owner])
    ticks = np.concatenate([np.full(len(free), now), np.maximum(end, now + 1)])
    order = np.lexsort(
        (ticks, owners)
    )  # per group: what is free now, then what comes back, by tick
    units = np.cumsum(
        np.concatenate([free, held])[order], axis=0
    )  # grows along all groups, so one search serves all
    first = np.searchsorted(owners[order], groups)
    past = np.append(first[1:], len(order))[group]
    before = (units[first] - free)[group]
    row = first[group]
    for r in range(free.shape[1]):
        row = np.maximum(row, np.searchsorted(units[:, r], before[:, r] + demand[:, r]))
    return np.where(row < past, ticks[order][np.minimum(row, len(order) - 1)], np.inf)


def completion(observation: Observation) -> Floats:
    """(P, M) visible completion tick of each pair: the earliest start beside the running tasks plus the visible duration.

    Infinite where the task cannot run, the agent is away, the task would not end before the agent's next announced outage,
    or (where `wait` is illegal, so that no pair gets better by waiting) the pair is illegal.
    """
    possible = runnable(observation) & observation.up
    if not observation.mask[-1]:
        possible &= observation.legal
    ends = np.where(possible, observation.time + observation.pair_duration, np.inf)
    fits = covered(observation, observation.free) & _within_quota(observation)
    task, agent = np.nonzero(possible & ~fits)
    ends[task, agent] += _start(observation, task, agent) - observation.time
    ends[ends > observation.next_outage] = np.inf
    return ends


def _within_quota(observation: Observation) -> NDArray[np.bool_]:
    """(P, M): the demand fits what is left of the tenant's quota."""
    if observation.tenant is None or observation.tenant_free is None:
        return np.ones((len(observation.release), observation.n_agents), dtype=bool)
    left = observation.tenant_free[observation.tenant][:, None]
    return np.all(observation.demand <= left, axis=-1)[:, observation.agent_type]


def _start(observation: Observation, task: Ints, agent: Ints) -> Floats:
    """(K,) earliest start of the pairs (task, agent), each (K,), by the agent's capacity and the tenant's quota."""
    demand = observation.demand[task, observation.agent_type[agent]]
    now, end, held = observation.time, observation.running_end, observation.running_demand
    start = earliest_fit(now, observation.free, observation.running_agent, end, held, agent, demand)
    if (
        observation.tenant is None
        or observation.tenant_free is None
        or observation.running_tenant is None
    ):
        return start
    tenant = observation.tenant[task]
    return np.maximum(
        start,
        earliest_fit(
            now, observation.tenant_free, observation.running_tenant, end, held, tenant, demand
        ),
    )


def first_best(*keys: Floats | Ints) -> int:
    """The first index of the lowest key; among equals that of the lowest second key, and so on. Keys are (K,), K >= 1."""
    left = np.arange(len(keys[0]))
    for key in keys:
        left = left[key[left] == key[left].min()]
    return int(left[0])


def best_agent(observation: Observation, position: int) -> int:
    """The legal agent for the task at `position`: earliest visible completion, then least leftover, then lowest index.

    Among agents on which the task fits now, the earliest completion is the shortest visible duration; with `budget` sharing
    it is the lowest cost.
    """
    task = select(observation, slice(position, position + 1))
    agents = np.flatnonzero(task.legal[0])
    return int(agents[first_best(completion(task)[0, agents], leftover(task)[0, agents])])
