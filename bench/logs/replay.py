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
        One complete schedule for each of the first instances of `simulator`.
    simulator
        Where the schedules are replayed.

    Attributes
    ----------
    start
        (I, N) start of each task, in ticks; tasks are numbered as in the simulator's tables. NEVER
        behind the last task of an instance. In commit mode: the position in the order of service.
    agent
        (I, N) agent of each task, -1 behind the last task of an instance.
    """

    def __init__(self, schedules: Sequence[Schedule], simulator: TensorSimulator) -> None:
        self.simulator = simulator
        self.count = len(schedules)
        order = simulator.tables.task[: self.count, :, ORDER].cpu().numpy()
        start = np.full(order.shape, NEVER)
        agent = np.full(order.shape, -1)
        for i, schedule in enumerate(schedules):
            instance = simulator.instances[i]
            made = schedule
            number = np.argsort(order[i, : instance.n_tasks])
            if simulator.tables.commit:  # a queue cannot fill gaps: only the order matters
                start[i, number[made.task]] = _service_order(instance, made).argsort()
            else:
                made = active(instance, schedule)
                start[i, number[made.task]] = made.start
            agent[i, number[made.task]] = made.agent
        self.start = torch.from_numpy(start).to(simulator.device)
        self.agent = torch.from_numpy(agent).to(simulator.device)

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
