"""Replaying a schedule in the simulator: the decisions that reproduce it.

Behavioural cloning learns from these decisions, and logs of experts and of imported schedules hold
them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.instance import Instance
from bench.left_shift import active
from bench.schedule import Schedule
from bench.simulator.tables import AGENT, INSTANCE, NEVER, ORDER, TIME
from bench.simulator.tensors import TensorSimulator


class ScheduleReplay:
    """The decisions that reproduce given schedules in the environments of a simulator.

    Notation: B environments, I instances, N tasks, K queue positions, M agents.

    Parameters
    ----------
    schedules
        One complete schedule for each of the first instances of `simulator`; `put` adds others.
    simulator
        Where the schedules are replayed.

    Attributes
    ----------
    start
        (I, N) start of each task, in ticks; tasks are numbered as in the simulator's tables. NEVER
        behind the last task of an instance. In commit mode: the position in the order of service.
    agent
        (I, N) agent of each task, -1 behind the last task of an instance.
    first_tick
        (I,) from which tick on a schedule is to be followed; before it, its starts are recorded.
    """

    def __init__(self, schedules: Sequence[Schedule], simulator: TensorSimulator) -> None:
        self.simulator = simulator
        self.count = len(schedules)
        device = simulator.device
        shape = simulator.tables.task.shape[:2]
        self.start = torch.full(shape, NEVER, device=device)
        self.agent = torch.full(shape, -1, device=device)
        self.first_tick = torch.zeros(shape[:1], dtype=torch.int64, device=device)
        for row, schedule in enumerate(schedules):
            self.put(row, schedule)

    def put(self, row: int, schedule: Schedule, first_tick: int = 0) -> None:
        """Let a complete schedule be the one of instance `row`.

        It is left-shifted, unless starts before `first_tick` are recorded ones.
        """
        instance = self.simulator.instances[row]
        order = self.simulator.tables.task[row, : instance.n_tasks, ORDER].cpu().numpy()
        number = np.argsort(order)
        start = np.full(self.start.shape[1], NEVER)
        agent = np.full(self.start.shape[1], -1)
        if self.simulator.tables.commit:  # a queue cannot fill gaps: only the order matters
            start[number[schedule.task]] = _service_order(instance, schedule).argsort()
        else:
            if first_tick == 0:
                schedule = active(instance, schedule)
            start[number[schedule.task]] = schedule.start
        agent[number[schedule.task]] = schedule.agent
        self.start[row] = torch.from_numpy(start)
        self.agent[row] = torch.from_numpy(agent)
        self.first_tick[row] = first_tick

    def scheduled_actions(self) -> Tensor:
        """Return the legal actions that follow the schedules now.

        An action follows a schedule if it starts a task that the schedule starts now. `wait`
        follows it where the schedule starts nothing now. Where waiting is impossible (`budget`
        sharing, commit mode) the tasks with the earliest start among those that can be chosen
        count as started now. No action follows the schedule where the task that it starts now
        cannot be chosen: it is not among the tasks shown, or does not fit yet.

        Returns
        -------
        Tensor
            (B, K * M + 1) bool.
        """
        s = self.simulator.state
        t = self.simulator.tables
        instance = s.env[:, INSTANCE, None]
        time = s.env[:, TIME, None]
        tasks = s.window.clamp(min=0)
        agents = torch.arange(t.agents.shape[1], device=tasks.device)
        on_agent = self.agent[instance, tasks][..., None] == agents  # (B, K, M)
        legal = s.mask[:, :-1].bool().view(on_agent.shape)
        planned = on_agent & legal & (s.window >= 0)[..., None]
        start = self.start[instance, tasks].masked_fill(~planned.any(dim=2), NEVER)  # (B, K)
        if t.budget_sharing or t.commit:
            due = start == start.amin(dim=1, keepdim=True)
        else:
            due = start <= time
        pairs = (due[..., None] & planned).flatten(1)
        # (B, N) tasks that should have been started by now
        late = (s.task[:, AGENT] < 0) & (self.start[instance[:, 0]] <= time)
        wait = s.mask[:, -1:].bool() & ~late.any(dim=1, keepdim=True)
        return torch.cat([pairs, wait & ~pairs.any(dim=1, keepdim=True)], dim=1)

    def with_fallback(self, scheduled: Tensor) -> Tensor:
        """Return `scheduled` with a fallback for the environments without a scheduled action.

        The fallback is `wait`, or every legal action where waiting is impossible.

        Parameters
        ----------
        scheduled
            (B, K * M + 1) bool, from `scheduled_actions`.

        Returns
        -------
        Tensor
            (B, K * M + 1) bool, at least one action for each environment that is playing.
        """
        mask = self.simulator.state.mask.bool()
        is_wait = torch.arange(mask.shape[1], device=mask.device) == mask.shape[1] - 1
        fallback = mask & (~mask[:, -1:] | is_wait)
        return torch.where(scheduled.any(dim=1, keepdim=True), scheduled, fallback)


def _service_order(instance: Instance, schedule: Schedule) -> NDArray[np.intp]:
    """Return the order (N,) in which a queue serves the tasks of a schedule.

    Of two tasks that start together the one with the larger share of its agent is first: if the
    smaller one had been first in the queue, it would have started earlier.
    """
    demand = instance.demand[schedule.task, instance.agent_type[schedule.agent]]
    share = (demand / np.maximum(instance.capacity[schedule.agent], 1)).max(axis=1, initial=0.0)
    return np.lexsort((-share, schedule.start))
