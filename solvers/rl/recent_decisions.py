"""What a policy that learns while it decides remembers: its own decisions, and the tasks they were about.

Everything here comes from observations, so nothing of it lies in the future and every duration is the visible one.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from bench.instance import Instance, Ints
from bench.observation import Observation
from solvers.dispatch.quantities import arrived, completion, select, shortest_pair
from solvers.exact.objective_terms import SLOWDOWN_SECONDS
from solvers.networks.features import Features
from solvers.rl.rollouts import Rollout


class Decision(NamedTuple):
    """One decision as it was taken."""

    seen: Features  # B = 1
    action: int  # flat
    logp: float  # log-probability with which it was drawn
    unit: float  # what one unit of the network's value is worth, in units of the objective
    value: float  # predicted return, in units of the objective
    reward: float  # minus the visible cost of what it starts


class Start(NamedTuple):
    """A task that was started; T types, R resources."""

    time: int  # tick of the decision
    duration: Ints  # (T,) visible ticks, -1 = not eligible
    demand: Ints  # (T, R)
    release: int  # tick
    weight: int
    due: int  # tick, 0 without due dates
    tenant: int  # 0 without tenants
    kind: int


class Journal:
    """The decisions since the last update, and the last `memory` tasks that were started."""

    def __init__(self, objective: str, memory: int) -> None:
        self.objective, self.latest = objective, 0  # latest: the latest visible end so far, tick
        self.decisions: list[Decision] = []
        self.started: deque[Start] = deque(maxlen=memory)

    def add(
        self,
        observation: Observation,
        seen: Features,
        action: int,
        logp: float,
        unit: float,
        value: float,
    ) -> None:
        """Remember one decision taken at `observation`."""
        reward = 0.0
        if action != observation.wait:
            position, agent = divmod(action, observation.n_agents)
            end = visible_end(observation, position, agent)
            reward = -visible_cost(observation, position, end, self.objective, self.latest)
            self.latest = max(self.latest, end)
            self.started.append(_start(observation, position))
        self.decisions.append(Decision(seen, action, logp, unit, value, reward))

    def rollout(self, following: float) -> Rollout:
        """The S decisions as S steps in one environment; `following` is the value of the state they led to."""
        window = max(decision.seen.task.shape[1] for decision in self.decisions)
        seen = [widened(decision.seen, window) for decision in self.decisions]
        action = [_widened_action(decision, window) for decision in self.decisions]
        device, columns = (
            seen[0].task.device,
            [(d.logp, d.unit, d.reward, d.value) for d in self.decisions],
        )
        logp, unit, reward, value = torch.tensor(columns, dtype=torch.float32, device=device).T
        never = torch.zeros((len(seen), 1), dtype=torch.bool, device=device)
        return Rollout(
            seen=Features(*(torch.cat(column) for column in zip(*seen, strict=True))),
            action=torch.tensor(action, device=device),
            logp=logp,
            unit=unit,
            reward=reward[:, None],
            value=value[:, None],
            next_value=torch.cat([value[1:], value.new_tensor([following])])[:, None],
            terminated=never,
            truncated=never,
            taken=~never,
            finished=torch.zeros(2, device=device),
        )

    def instance(self, observation: Observation) -> Instance:
        """The recent past as a problem: the tasks started last and those that wait now, from the first of these starts on.

        Time 0 is the tick of that first start; what had arrived before is there at 0. The agents are empty then and never
        away. At least one task must have been started or be waiting.
        """
        waiting = arrived(observation)
        tasks = [
            *self.started,
            *(_start(waiting, position) for position in range(len(waiting.release))),
        ]
        began = tasks[0].time
        columns = {
            name: np.array([getattr(task, name) for task in tasks]) for name in Start._fields
        }
        return Instance(
            duration=columns["duration"],
            demand=columns["demand"],
            capacity=observation.capacity,
            agent_type=observation.agent_type,
            release=np.maximum(columns["release"] - began, 0),
            weight=columns["weight"],
            due=None if observation.due is None else np.maximum(columns["due"] - began, 0),
            tenant=None if observation.tenant is None else columns["tenant"],
            quota=_quota(observation),
            kind=columns["kind"],
            tick_seconds=observation.tick_seconds,
        )


def visible_end(observation: Observation, position: int, agent: int) -> int:
    """The tick at which the task at `position` ends on `agent` if it starts as soon as it fits and no estimate is wrong."""
    end = completion(select(observation, slice(position, position + 1)))[0, agent]
    return (
        int(end)
        if math.isfinite(end)
        else observation.time + int(observation.pair_duration[position, agent])
    )


def visible_cost(
    observation: Observation, position: int, end: int, objective: str, latest: int
) -> float:
    """What a task that ends at tick `end` adds to the objective: the suite's shaped reward, times minus its scale.

    `latest`: the latest end so far, for makespan. Bounded slowdown is a sum here, as nobody knows the number of tasks.
    """
    weight, flow = int(observation.weight[position]), end - int(observation.release[position])
    if objective == "makespan":
        return float(max(0, end - latest))
    if objective == "tardiness" and observation.due is not None:
        return float(weight * max(0, end - int(observation.due[position])))
    if objective == "bounded_slowdown":
        shortest = int(shortest_pair(select(observation, slice(position, position + 1)))[0][0])
        least = max(float(shortest), SLOWDOWN_SECONDS / observation.tick_seconds)
        return max(1.0, flow / least)
    return float(weight * flow)


def widened(seen: Features, window: int) -> Features:
    """The same decision with padding up to `window` tasks."""
    more, agents, pad = window - seen.task.shape[1], seen.agent.shape[1], nn.functional.pad
    return seen._replace(
        task=pad(seen.task, (0, 0, 0, more)),
        pair=pad(seen.pair, (0, 0, 0, 0, 0, more)),
        shown=pad(seen.shown, (0, more)),
        mask=torch.cat([pad(seen.mask[:, :-1], (0, more * agents)), seen.mask[:, -1:]], dim=1),
    )


def _widened_action(decision: Decision, window: int) -> int:
    """The decision's flat action among `window` tasks: `wait` is the last one."""
    agents, wait = decision.seen.agent.shape[1], decision.seen.mask.shape[1] - 1
    return window * agents if decision.action == wait else decision.action


def _start(observation: Observation, position: int) -> Start:
    due, tenant = observation.due, observation.tenant
    return Start(
        time=observation.time,
        duration=observation.duration[position],
        demand=observation.demand[position],
        release=int(observation.release[position]),
        weight=int(observation.weight[position]),
        due=0 if due is None else int(due[position]),
        tenant=0 if tenant is None else int(tenant[position]),
        kind=int(observation.kind[position]),
    )


def _quota(observation: Observation) -> Ints | None:
    """(U, R) units each tenant may hold: what is left and what its running tasks hold."""
    if observation.tenant_free is None or observation.running_tenant is None:
        return None
    quota = observation.tenant_free.copy()
    np.add.at(quota, observation.running_tenant, observation.running_demand)
    return quota
