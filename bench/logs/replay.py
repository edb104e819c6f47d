"""A schedule as the decisions by which it comes about in the simulator: what imitation learns and logs of experts hold."""

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


class Plans:
    """Schedules as decisions: what each of them would do next in the environments of a simulator.

    `start`, `agent`: (I, N) by the simulator's task numbers; NEVER and -1 behind an instance's last task. In commit mode
    `start` is a place in the queue.
    """

    def __init__(self, schedules: Sequence[Schedule], simulator: TensorSimulator) -> None:
        self.simulator, self.count = simulator, len(schedules)
        order = simulator.tables.task[: self.count, :, ORDER].cpu().numpy()
        start, agent = np.full(order.shape, NEVER), np.full(order.shape, -1)
        for i, schedule in enumerate(schedules):
            instance = simulator.instances[i]
            made, number = schedule, np.argsort(order[i, : instance.n_tasks])
            if simulator.tables.commit:  # a queue, which cannot fill gaps: what counts is the order
                start[i, number[made.task]] = _queue(instance, made).argsort()
            else:
                made = active(instance, schedule)
                start[i, number[made.task]] = made.start
            agent[i, number[made.task]] = made.agent
        self.start, self.agent = (torch.from_numpy(x).to(simulator.device) for x in (start, agent))

    def right(self) -> Tensor:
        """(B, K * M + 1) bool: the legal actions by which the schedules start something now, or `wait` where they do not.

        Where there is no waiting (`budget` sharing, commit mode) those of the earliest start among tasks that can be chosen.
        None are right where what the schedule starts now can not be chosen: it is not shown, or does not fit yet.
        """
        s, t = self.simulator.state, self.simulator.tables
        instance, tasks, time = (
            s.env[:, INSTANCE, None],
            s.window.clamp(min=0),
            s.env[:, TIME, None],
        )
        here = self.agent[instance, tasks][..., None] == torch.arange(
            t.agents.shape[1], device=tasks.device
        )  # (B, K, M)
        planned = here & s.mask[:, :-1].bool().view(here.shape) & (s.window >= 0)[..., None]
        start = self.start[instance, tasks].masked_fill(~planned.any(dim=2), NEVER)  # (B, K)
        due = start == start.amin(dim=1, keepdim=True) if t.budget or t.commit else start <= time
        pairs = (due[..., None] & planned).flatten(1)
        late = (s.task[:, AGENT] < 0) & (
            self.start[instance[:, 0]] <= time
        )  # (B, N) not started, though due
        wait = s.mask[:, -1:].bool() & ~late.any(dim=1, keepdim=True)
        return torch.cat([pairs, wait & ~pairs.any(dim=1, keepdim=True)], dim=1)

    def allowed(self, right: Tensor) -> Tensor:
        """(B, K * M + 1) bool: `right`, and where nothing is right `wait`, or anything legal where there is no waiting."""
        mask = self.simulator.state.mask.bool()
        is_wait = torch.arange(mask.shape[1], device=mask.device) == mask.shape[1] - 1
        return torch.where(right.any(dim=1, keepdim=True), right, mask & (~mask[:, -1:] | is_wait))


def _queue(instance: Instance, schedule: Schedule) -> NDArray[np.intp]:
    """(N,) the pieces in the order in which a queue was served: of two that start together, the smaller one would have started
    earlier, had it been chosen first."""
    demand = instance.demand[schedule.task, instance.agent_type[schedule.agent]]
    share = (demand / np.maximum(instance.capacity[schedule.agent], 1)).max(axis=1)
    return np.lexsort((-share, schedule.start))
