"""The recent decisions of a policy that adapts online, and the tasks that it started.

Everything here is taken from observations. So nothing of it lies in the future, and every duration
is the visible one.

Shapes: K tasks shown, M agents, T types, R resources, S logged decisions.
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
from bench.setting import SLOWDOWN_THRESHOLD_SECONDS
from solvers.dispatch.quantities import arrived, completion, select, shortest_pair
from solvers.networks.features import Features
from solvers.rl.rollouts import Rollout


class LoggedDecision(NamedTuple):
    """One decision of the policy."""

    features: Features  # B = 1
    action: int  # flat
    logp: float  # log-probability with which the action was drawn
    unit: float  # what one unit of the network's value stands for, in units of the objective
    value: float  # predicted return, in units of the objective
    reward: float  # minus the visible cost of the task that the action starts; 0 for `wait`


class StartedTask(NamedTuple):
    """A task as it was observed when it was started."""

    time: int  # tick of the decision
    duration: Ints  # (T,) visible ticks, -1 = not eligible
    demand: Ints  # (T, R)
    release: int  # tick
    weight: int
    due: int  # tick, 0 without due dates
    tenant: int  # 0 without tenants
    kind: int


class RecentDecisions:
    """The decisions since the last update, and the tasks started last.

    Parameters
    ----------
    objective
        Of the setting; rewards are in its units.
    max_tasks
        The number of started tasks that are kept.
    """

    def __init__(self, objective: str, max_tasks: int) -> None:
        self.objective = objective
        self.latest_end = 0  # tick, the latest visible end so far
        self.decisions: list[LoggedDecision] = []
        self.started: deque[StartedTask] = deque(maxlen=max_tasks)

    def add(
        self,
        observation: Observation,
        features: Features,
        action: int,
        logp: float,
        unit: float,
        value: float,
    ) -> None:
        """Log the decision `action` at `observation`; the other arguments: see LoggedDecision."""
        reward = 0.0
        if action != observation.wait:
            position, agent = divmod(action, observation.n_agents)
            end = visible_end(observation, position, agent)
            reward = -visible_cost(observation, position, end, self.objective, self.latest_end)
            self.latest_end = max(self.latest_end, end)
            self.started.append(_started_task(observation, position))
        self.decisions.append(LoggedDecision(features, action, logp, unit, value, reward))

    def rollout(self, last_value: float) -> Rollout:
        """Return the S logged decisions as S steps in one environment.

        Parameters
        ----------
        last_value
            Predicted return, in units of the objective, of the state after the last decision.
        """
        decisions = self.decisions
        num_tasks = max(decision.features.task.shape[1] for decision in decisions)
        padded = [pad_tasks(decision.features, num_tasks) for decision in decisions]
        action = [_padded_action(decision, num_tasks) for decision in decisions]
        device = padded[0].task.device
        columns = [(d.logp, d.unit, d.reward, d.value) for d in decisions]
        logp, unit, reward, value = torch.tensor(columns, dtype=torch.float32, device=device).T
        never = torch.zeros((len(decisions), 1), dtype=torch.bool, device=device)
        return Rollout(
            features=Features(*(torch.cat(column) for column in zip(*padded, strict=True))),
            action=torch.tensor(action, device=device),
            logp=logp,
            unit=unit,
            reward=reward[:, None],
            value=value[:, None],
            next_value=torch.cat([value[1:], value.new_tensor([last_value])])[:, None],
            terminated=never,
            truncated=never,
            taken=~never,
            finished=torch.zeros(2, device=device),
        )

    def instance(self, observation: Observation) -> Instance:
        """Return the recent tasks as an instance: those started last and those that wait now.

        Time 0 is the tick of the first of these starts; tasks that had arrived before are released
        at 0. All agents are idle at time 0, and there are no outages. At least one task must have
        been started or be waiting.
        """
        waiting = arrived(observation)
        tasks = [
            *self.started,
            *(_started_task(waiting, position) for position in range(len(waiting.release))),
        ]
        first_start = tasks[0].time
        columns = {
            name: np.array([getattr(task, name) for task in tasks]) for name in StartedTask._fields
        }
        return Instance(
            duration=columns["duration"],
            demand=columns["demand"],
            capacity=observation.capacity,
            agent_type=observation.agent_type,
            release=np.maximum(columns["release"] - first_start, 0),
            weight=columns["weight"],
            due=None if observation.due is None else np.maximum(columns["due"] - first_start, 0),
            tenant=None if observation.tenant is None else columns["tenant"],
            quota=_quota(observation),
            kind=columns["kind"],
            tick_seconds=observation.tick_seconds,
        )


def visible_end(observation: Observation, position: int, agent: int) -> int:
    """Return the tick at which the task at `position` ends on `agent`, as far as is visible.

    The task starts as soon as it fits, and every estimate is right.
    """
    end = completion(select(observation, slice(position, position + 1)))[0, agent]
    if math.isfinite(end):
        return int(end)
    return observation.time + int(observation.pair_duration[position, agent])


def visible_cost(
    observation: Observation, position: int, end: int, objective: str, latest_end: int
) -> float:
    """Return what the task at `position`, ending at tick `end`, adds to the objective.

    This is the suite's shaped reward times minus its scale. Bounded slowdown is a sum here, because
    the number of tasks is unknown online.

    Parameters
    ----------
    observation
        When the task is started.
    position
        Of the task in the queue.
    end
        Tick of its completion.
    objective
        Of the setting.
    latest_end
        Tick of the latest completion so far, for makespan.
    """
    weight = int(observation.weight[position])
    flow = end - int(observation.release[position])
    if objective == "makespan":
        return float(max(0, end - latest_end))
    if objective == "tardiness" and observation.due is not None:
        return float(weight * max(0, end - int(observation.due[position])))
    if objective == "bounded_slowdown":
        shortest = int(shortest_pair(select(observation, slice(position, position + 1)))[0][0])
        least = max(float(shortest), SLOWDOWN_THRESHOLD_SECONDS / observation.tick_seconds)
        return max(1.0, flow / least)
    return float(weight * flow)


def pad_tasks(features: Features, num_tasks: int) -> Features:
    """Return the features of the same decision with padding up to `num_tasks` tasks."""
    more = num_tasks - features.task.shape[1]
    agents = features.agent.shape[1]
    pad = nn.functional.pad
    pairs = pad(features.mask[:, :-1], (0, more * agents))
    return features._replace(
        task=pad(features.task, (0, 0, 0, more)),
        pair=pad(features.pair, (0, 0, 0, 0, 0, more)),
        shown=pad(features.shown, (0, more)),
        mask=torch.cat([pairs, features.mask[:, -1:]], dim=1),
    )


def _padded_action(decision: LoggedDecision, num_tasks: int) -> int:
    """Return the flat action of the decision among `num_tasks` tasks: `wait` is the last one."""
    agents = decision.features.agent.shape[1]
    wait = decision.features.mask.shape[1] - 1
    return num_tasks * agents if decision.action == wait else decision.action


def _started_task(observation: Observation, position: int) -> StartedTask:
    due, tenant = observation.due, observation.tenant
    return StartedTask(
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
    """Return (U, R) units that each tenant may hold: its free ones and those of running tasks."""
    if observation.tenant_free is None or observation.running_tenant is None:
        return None
    quota = observation.tenant_free.copy()
    np.add.at(quota, observation.running_tenant, observation.running_demand)
    return quota
