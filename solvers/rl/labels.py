"""Labels of training instances: the best schedules known, replayed as expert demonstrations."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from bench.instance import Instance
from bench.metrics import objective
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from solvers.exact.annealing import improve_schedule
from solvers.exact.assignment import annealing
from solvers.exact.objective_terms import Terms
from solvers.networks.base import Network
from solvers.networks.features import Features
from solvers.rl.imitation import Demonstration, DemonstrationReplay


class Label(NamedTuple):
    """What a policy is to do on an instance: follow `schedule` from `first_tick` on."""

    instance: Instance
    schedule: Schedule
    first_tick: int  # 0: from the start
    value: float  # objective of the schedule


class ScheduleLabels:
    """At most one label of each instance of a simulator, and their replay.

    Parameters
    ----------
    simulator
        The training environments.
    num_envs
        Number of labels that are replayed at once.
    """

    def __init__(self, simulator: TensorSimulator, num_envs: int) -> None:
        self.replay = DemonstrationReplay([], simulator.with_envs(num_envs))
        self._labels: dict[int, Label] = {}

    def offer(self, row: int, schedule: Schedule, first_tick: int = 0) -> None:
        """Let a complete schedule be the label of instance `row`, unless a better one is known.

        Labels with different first ticks are not compared: the later one is kept.
        """
        simulator = self.replay.simulator
        instance = simulator.instances[row]
        value = objective(instance, schedule, simulator.setting.objective)
        known = self._labels.get(row)
        comparable = (
            known is not None and known.instance is instance and known.first_tick == first_tick
        )
        if known is None or not comparable or value < known.value:
            self._labels[row] = Label(instance, schedule, first_tick, value)
            self.replay.put(row, schedule, first_tick)

    @property
    def rows(self) -> list[int]:
        """The instances that have a label; those that have been replaced have none."""
        instances = self.replay.simulator.instances
        return [row for row, label in self._labels.items() if label.instance is instances[row]]

    def draw(
        self, network: Network, gamma: float, generator: torch.Generator
    ) -> Demonstration | None:
        """Return the decisions of random labels, one per environment; None if there are none.

        See `DemonstrationReplay.replay`.
        """
        rows = torch.tensor(self.rows, device=generator.device)
        if not len(rows):
            return None
        count = self.replay.simulator.num_envs
        chosen = torch.randint(len(rows), (count,), generator=generator, device=generator.device)
        return self.replay.replay(rows[chosen], network, gamma, generator)

    def state(self) -> list[dict[str, Any]]:
        """Return what `restore` needs to resume."""
        kept = [(row, self._labels[row]) for row in self.rows]
        return [
            {"row": row, "first_tick": one.first_tick, "schedule": one.schedule.to_dict()}
            for row, one in kept
        ]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Label the instances, which are those of the state, as they were."""
        self._labels.clear()
        for one in state:
            self.offer(one["row"], Schedule.from_dict(one["schedule"]), one["first_tick"])


class LabelMemory:
    """Labels of whole schedules, and labels that begin inside an episode.

    Parameters
    ----------
    simulator
        The training environments.
    num_envs
        Number of labels that are replayed at once.
    completions
        Share of them that begin inside an episode.
    """

    def __init__(self, simulator: TensorSimulator, num_envs: int, completions: float) -> None:
        inside = round(completions * num_envs)
        self.whole = ScheduleLabels(simulator, num_envs - inside) if inside < num_envs else None
        self.completions = ScheduleLabels(simulator, inside) if inside else None
        self.kinds = [kind for kind in (self.whole, self.completions) if kind is not None]

    def draw(
        self, network: Network, gamma: float, generator: torch.Generator
    ) -> Demonstration | None:
        """Return the decisions of random labels of both kinds; None if there are none."""
        drawn = [kind.draw(network, gamma, generator) for kind in self.kinds]
        found = [one for one in drawn if one is not None]
        if not found:
            return None
        features = Features(*map(torch.cat, zip(*(one.features for one in found), strict=True)))
        others = map(torch.cat, zip(*(one[1:] for one in found), strict=True))
        return Demonstration(features, *others)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to resume."""
        return {"kinds": [kind.state() for kind in self.kinds]}

    def restore(self, state: dict[str, Any]) -> None:
        """Label the instances, which are those of the state, as they were."""
        for kind, labels in zip(self.kinds, state["kinds"], strict=True):
            kind.restore(labels)


def improved(
    instance: Instance,
    setting: Setting,
    schedule: Schedule,
    moves_per_task: float,
    rng: np.random.Generator,
    fixed_before: int = 0,
) -> Schedule:
    """Return the best schedule that simulated annealing finds from a complete one.

    A queue in commit mode, and schedules in which tasks were killed, are returned as they are.

    Parameters
    ----------
    instance, setting
        What the schedule is of.
    schedule
        Complete and feasible.
    moves_per_task
        Number of moves over the number of tasks. With `budget` sharing: not 0 means one run of
        annealing of a fixed length.
    rng
        The source of all randomness.
    fixed_before
        Tasks that start before this tick stay, and the others start then or later. With `budget`
        sharing nothing has a time, and nothing stays.
    """
    if moves_per_task == 0 or setting.mode == "commit" or len(schedule.task) != instance.n_tasks:
        return schedule
    if instance.sharing == "budget":
        found = annealing.improve(instance, schedule, 0.0, rng)
        return schedule if found is None else found
    return improve_schedule(
        instance,
        Terms.of(instance, setting.objective),
        schedule,
        np.inf,
        rng,
        moves_per_task=moves_per_task,
        fixed_before=fixed_before,
    )
