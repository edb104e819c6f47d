"""Following a plan: what policies share that plan the visible queue ahead and plan anew when something unforeseen happens."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass

import numpy as np

from bench.observation import Observation
from solvers.dispatch.quantities import completion
from solvers.dispatch.rule import Rule


@dataclass(frozen=True)
class Step:
    """One task of a plan."""

    start: int  # tick
    key: bytes  # which task, by its features
    agent: int


@dataclass
class Plan:
    """What shall start where and when, and what an observation shows if nothing unforeseen happens."""

    steps: list[Step]  # not yet started, by start
    queue: Counter[bytes]  # all that is pending, planned or not
    running: Counter[tuple[int, float]]  # (agent, visible end)
    agents: bytes
    until: (
        int | None
    )  # last tick of a plan that leaves tasks out or only guesses when a running task ends

    @classmethod
    def at(cls, observation: Observation, keys: list[bytes], steps: list[Step]) -> Plan:
        """A plan of `steps` made at this observation, whose tasks have `keys`; steps of equal start keep their order."""
        overdue = bool((observation.running_end <= observation.time).any())
        until = observation.time if overdue or len(steps) < len(keys) else None
        ordered = sorted(steps, key=lambda step: step.start)
        return cls(ordered, Counter(keys), _running(observation), _agents(observation), until)

    def foresees(self, observation: Observation, keys: list[bytes]) -> bool:
        """True where queue, running tasks and agents are as planned."""
        running = Counter(
            {row: count for row, count in self.running.items() if row[1] > observation.time}
        )
        return (
            (self.until is None or observation.time <= self.until)
            and self.agents == _agents(observation)
            and running == _running(observation)
            and self.queue == Counter(keys)
        )

    def next(self, observation: Observation, keys: list[bytes]) -> tuple[int, int] | None:
        """The legal (queue position, agent) that starts now or, where `wait` is illegal, that can start first; None: nothing.

        A due step that does not fit yet keeps its agent: nothing overtakes it there.
        """
        if not observation.mask[-1]:
            return self._first(observation, keys)
        kept = set()
        for step in self.steps:
            if step.start > observation.time:
                return None
            position = keys.index(step.key)
            if observation.legal[position, step.agent] and step.agent not in kept:
                return self._start(step, observation.time, position, observation)
            kept.add(step.agent)
        return None

    def _first(self, observation: Observation, keys: list[bytes]) -> tuple[int, int] | None:
        """The legal step that starts first as planned and as what runs allows; among equals the plan's order."""
        earliest = completion(observation) - observation.pair_duration
        options = [(step, keys.index(step.key)) for step in self.steps]
        options = [
            (step, position)
            for step, position in options
            if observation.legal[position, step.agent]
        ]
        if not options:
            return None
        starts = [max(step.start, earliest[position, step.agent]) for step, position in options]
        best = int(np.argmin(starts))
        step, position = options[best]
        return self._start(step, starts[best], position, observation)

    def _start(
        self, step: Step, tick: float, position: int, observation: Observation
    ) -> tuple[int, int]:
        self.steps.remove(step)
        self.queue -= Counter([step.key])
        self.running[step.agent, float(tick + observation.pair_duration[position, step.agent])] += 1
        return position, step.agent


class Planner(Rule):
    """A policy that follows its plan while queue, running tasks and agents are as the plan expects.

    An arrival, an early or late end, a kill or an outage's edge ends the plan. In fit mode the tasks planned to start now are
    started, else it waits; in commit mode the task that can start first is committed. `fallback` decides where `wait` is
    illegal and the plan names nothing legal, and where there is no clock (`budget` sharing).
    """

    def __init__(self, fallback: Rule) -> None:
        self.fallback = fallback
        self.plan: Plan | None = None

    def reset(self) -> None:
        """Forget the plan."""
        self.plan = None

    @abstractmethod
    def steps(self, observation: Observation, keys: list[bytes]) -> list[Step]:
        """A plan for the visible world, without tasks where it leaves them out; `keys` name the tasks of the queue."""

    def pair(self, observation: Observation) -> tuple[int, int] | None:
        """The legal (queue position, agent) that the plan starts now, or None to wait."""
        if not observation.legal.any():
            return None
        if not _has_clock(observation):
            return self.fallback.pair(observation)
        keys = _keys(observation)
        if self.plan is None or not self.plan.foresees(observation, keys):
            self.plan = Plan.at(observation, keys, self.steps(observation, keys))
        chosen = self.plan.next(observation, keys)
        return (
            self.fallback.pair(observation)
            if chosen is None and not observation.mask[-1]
            else chosen
        )


def _has_clock(observation: Observation) -> bool:
    """False where agents hold more than their running tasks do: `budget` sharing (its first decision looks like any other)."""
    return bool((observation.capacity - observation.free).sum() == observation.running_demand.sum())


def _keys(observation: Observation) -> list[bytes]:
    """What tells each task from others; tasks of one key are interchangeable."""
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
