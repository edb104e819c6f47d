"""Policies that plan the visible queue ahead and replan when an unforeseen event occurs."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass

import numpy as np

from bench.observation import Observation
from solvers.dispatch.quantities import completion
from solvers.dispatch.rule import Rule


@dataclass(frozen=True)
class PlannedTask:
    """One task of a plan."""

    start: int  # tick
    key: bytes  # identifies the task by its features
    agent: int


@dataclass
class Plan:
    """The tasks to start, and what observations show as long as nothing unforeseen happens."""

    tasks: list[PlannedTask]  # not started yet, by start
    queue: Counter[bytes]  # keys of all pending tasks, planned or not
    running: Counter[tuple[int, float]]  # (agent, visible end) of the running tasks
    agents: bytes  # outages of the agents
    # Last tick at which the plan is valid, if it leaves tasks out or only guesses when a running
    # task ends; None: no limit.
    until: int | None

    @classmethod
    def at(cls, observation: Observation, keys: list[bytes], tasks: list[PlannedTask]) -> Plan:
        """Return the plan of `tasks` made at this observation, whose pending tasks have `keys`.

        Tasks of equal start keep their order.
        """
        overdue = bool((observation.running_end <= observation.time).any())
        until = observation.time if overdue or len(tasks) < len(keys) else None
        ordered = sorted(tasks, key=lambda task: task.start)
        return cls(ordered, Counter(keys), _running(observation), _agents(observation), until)

    def is_valid(self, observation: Observation, keys: list[bytes]) -> bool:
        """Return whether queue, running tasks and agents are as the plan expects."""
        running = Counter(
            {row: count for row, count in self.running.items() if row[1] > observation.time}
        )
        return (
            (self.until is None or observation.time <= self.until)
            and self.agents == _agents(observation)
            and running == _running(observation)
            and self.queue == Counter(keys)
        )

    def start_next(self, observation: Observation, keys: list[bytes]) -> tuple[int, int] | None:
        """Remove and return the legal (queue position, agent) that starts now; None: no task does.

        Where `wait` is illegal it is the task that can start first. A due task that does not fit
        yet reserves its agent: no later task of the plan starts there before it.
        """
        if not observation.mask[-1]:
            return self._start_first(observation, keys)
        reserved = set()
        for task in self.tasks:
            if task.start > observation.time:
                return None
            position = keys.index(task.key)
            if observation.legal[position, task.agent] and task.agent not in reserved:
                return self._start(task, observation.time, position, observation)
            reserved.add(task.agent)
        return None

    def _start_first(self, observation: Observation, keys: list[bytes]) -> tuple[int, int] | None:
        """Start the legal task with the earliest start by the plan and by the running tasks.

        Equal starts go by the order of the plan.
        """
        earliest = completion(observation) - observation.pair_duration
        options = [(task, keys.index(task.key)) for task in self.tasks]
        options = [
            (task, position)
            for task, position in options
            if observation.legal[position, task.agent]
        ]
        if not options:
            return None
        starts = [max(task.start, earliest[position, task.agent]) for task, position in options]
        best = int(np.argmin(starts))
        task, position = options[best]
        return self._start(task, starts[best], position, observation)

    def _start(
        self, task: PlannedTask, tick: float, position: int, observation: Observation
    ) -> tuple[int, int]:
        self.tasks.remove(task)
        self.queue -= Counter([task.key])
        self.running[task.agent, float(tick + observation.pair_duration[position, task.agent])] += 1
        return position, task.agent


class ReplanningPolicy(Rule):
    """A policy that follows a plan while queue, running tasks and agents are as it expects.

    An arrival, an early or late end, a killed task, or the begin or end of an outage invalidates
    the plan. In fit mode the tasks planned to start now are started, else the policy waits; in
    commit mode the task that can start first is committed.

    Parameters
    ----------
    fallback
        The rule that decides where `wait` is illegal and the plan has no legal task, and where
        there is no clock (`budget` sharing).
    """

    baseline = False

    def __init__(self, fallback: Rule) -> None:
        self.fallback = fallback
        self.plan: Plan | None = None

    def reset(self) -> None:
        """Discard the plan."""
        self.plan = None

    @abstractmethod
    def plan_tasks(self, observation: Observation, keys: list[bytes]) -> list[PlannedTask]:
        """Return a plan of the visible tasks, or of some of them; `keys` are those of the queue."""

    def pair(self, observation: Observation) -> tuple[int, int] | None:
        """Return the legal (queue position, agent) that the plan starts now, or None to wait."""
        if not observation.legal.any():
            return None
        if not _has_clock(observation):
            return self.fallback.pair(observation)
        keys = _keys(observation)
        if self.plan is None or not self.plan.is_valid(observation, keys):
            self.plan = Plan.at(observation, keys, self.plan_tasks(observation, keys))
        chosen = self.plan.start_next(observation, keys)
        if chosen is None and not observation.mask[-1]:
            return self.fallback.pair(observation)
        return chosen


def _has_clock(observation: Observation) -> bool:
    """Whether the running tasks hold all units in use; with `budget` sharing they do not.

    At the first decision no units are in use and this is true with `budget` sharing as well.
    """
    return bool((observation.capacity - observation.free).sum() == observation.running_demand.sum())


def _keys(observation: Observation) -> list[bytes]:
    """Return a key of each task made of its features; tasks of one key are interchangeable."""
    count = len(observation.release)
    columns = [
        observation.release,
        observation.duration,
        observation.demand.reshape(count, -1),
        observation.weight,
    ]
    columns += [column for column in (observation.due, observation.tenant) if column is not None]
    return [row.tobytes() for row in np.column_stack(columns)]


def _running(observation: Observation) -> Counter[tuple[int, float]]:
    return Counter(
        zip(observation.running_agent.tolist(), observation.running_end.tolist(), strict=True)
    )


def _agents(observation: Observation) -> bytes:
    return observation.up.tobytes() + observation.next_outage.tobytes()
