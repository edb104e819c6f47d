"""The visible state of an online decision as an instance of its own, for policies that plan.

It treats what is visible as certain: the tasks in the queue with their visible durations, the
running tasks until their visible ends (a task that outlives its end is assumed to end at the next
tick), no arrivals. The length of an outage is unknown, so an agent that is away, or will be by an
announced outage, is assumed to return after all other work could be done.
"""

from __future__ import annotations

import numpy as np

from bench.instance import NOT_ELIGIBLE, Instance, Ints, Outage
from bench.observation import Observation


def visible_instance(observation: Observation, planned: Ints) -> Instance:
    """Return the visible state as an instance, on the agents as they are known.

    Its tasks are the Q running ones, then those at the queue positions `planned` (K,), all released
    now.
    """
    now = observation.time
    agent = observation.running_agent
    held = np.arange(len(agent))
    until = np.minimum(observation.running_end, observation.next_outage[agent])
    duration = np.full((len(agent), observation.duration.shape[1]), NOT_ELIGIBLE)
    duration[held, observation.agent_type[agent]] = np.maximum(until - now, 1)
    duration = np.concatenate([duration, observation.duration[planned]])
    demand = np.repeat(observation.running_demand[:, None], duration.shape[1], axis=1)
    tenant, quota = None, None
    if (
        observation.tenant is not None
        and observation.running_tenant is not None
        and observation.tenant_free is not None
    ):
        tenant = np.concatenate([observation.running_tenant, observation.tenant[planned]])
        quota = observation.tenant_free.copy()
        np.add.at(quota, observation.running_tenant, observation.running_demand)
    due = None
    if observation.due is not None:
        due = np.concatenate([0 * held, observation.due[planned]])
    back = now + int(duration.max(axis=1).sum())
    away = np.where(observation.up, observation.next_outage, now)
    return Instance(
        duration=duration,
        demand=np.concatenate([demand, observation.demand[planned]]),
        capacity=observation.capacity,
        agent_type=observation.agent_type,
        release=np.full(len(duration), now),
        weight=np.concatenate([0 * held, observation.weight[planned]]),
        due=due,
        tenant=tenant,
        quota=quota,
        kind=np.concatenate([0 * held, observation.kind[planned]]),
        outages=tuple(
            Outage(a, start, back) for a, start in enumerate(away.tolist()) if start < back
        ),
        tick_seconds=observation.tick_seconds,
    )
