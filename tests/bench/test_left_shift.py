"""Left-shifting: makes nothing later and leaves nothing to shift."""

from __future__ import annotations

import numpy as np
import pytest

from bench.instance import Instance
from bench.left_shift import active
from bench.schedule import Schedule, ScheduleError
from bench.setting import Setting
from bench.verify import verify
from tests.solvers.brute_force import random_schedule, random_small_instance


def test_left_shift_makes_nothing_later_and_leaves_nothing_to_shift() -> None:
    rng, moved = np.random.default_rng(9), 0
    for _ in range(200):
        instance = random_small_instance(rng, "time")
        schedule = random_schedule(instance, Setting(), rng)
        assert verify(instance, schedule) == []
        shifted = active(instance, schedule)
        assert verify(instance, shifted) == []
        assert (shifted.agent == schedule.agent).all()
        assert (shifted.start <= schedule.start).all()
        assert active(instance, shifted).to_dict() == shifted.to_dict()
        for j in range(instance.n_tasks):  # no task alone can start earlier
            for start in range(instance.release[j], shifted.start[j]):
                starts = np.where(np.arange(instance.n_tasks) == j, start, shifted.start)
                earlier = Schedule.from_assignment(instance, shifted.agent, starts)
                outages = [o for o in instance.outages if o.agent == shifted.agent[j]]
                killed = any(o.start < earlier.end[j] and start < o.end for o in outages)
                assert killed or verify(instance, earlier)
        moved += int((shifted.start < schedule.start).sum())
    assert moved > 100


def test_left_shift_by_hand() -> None:
    instance = Instance(
        duration=[[3], [2], [4]],
        demand=np.ones((3, 1, 1), int),
        capacity=[[1]],
        agent_type=[0],
        outages=[(0, 2, 5, False)],
    )
    shifted = active(instance, Schedule.from_assignment(instance, [0, 0, 0], [10, 20, 30]))
    assert shifted.start.tolist() == [5, 0, 8]  # task 1 fits before the outage


@pytest.mark.parametrize("agents", [[0, 1, -1], [0, 1, 2]])
def test_left_shift_needs_every_task_and_an_agent_that_can_run_it(agents: list[int]) -> None:
    instance = Instance(
        duration=[[500, 250, 125], [200, 100, 50], [800, 400, 200]],
        demand=np.ones((3, 3, 1), int),
        capacity=[[1], [1], [0]],
        agent_type=[0, 1, 2],
    )
    with pytest.raises(ScheduleError, match="task 2"):
        active(instance, Schedule.from_assignment(instance, agents))
