"""A schedule that is replayed in the simulator is reproduced, and never becomes worse."""

import numpy as np
import pytest
import torch

from bench.contracts import Budget
from bench.left_shift import active
from bench.logs.replay import ScheduleReplay
from bench.metrics import objective
from bench.rollout import PolicySolver
from bench.setting import Setting
from bench.simulator.tables import NO_ACTION
from bench.simulator.tensors import TensorSimulator
from solvers.rules import Random
from tests.solvers.learning import random_instance


@pytest.mark.parametrize("name", ["total_time", "makespan", "tardiness"])
def test_a_replayed_schedule_is_its_active_schedule(name):
    setting = Setting(objective=name)
    instances = [random_instance(np.random.default_rng(k), n=7) for k in range(20)]
    rng = np.random.default_rng(0)
    solver = PolicySolver(Random())
    schedules = [solver.solve(instance, setting, Budget(), rng).schedule for instance in instances]
    simulator = TensorSimulator(instances, setting)
    replay = ScheduleReplay(schedules, simulator)
    while simulator.playing.any():
        scheduled = replay.scheduled_actions()
        allowed = replay.with_fallback(scheduled)
        assert not (allowed & ~simulator.state.mask.bool()).any()
        assert scheduled[simulator.playing].any(dim=1).all()
        simulator.step(torch.where(simulator.playing, allowed.float().argmax(dim=1), NO_ACTION))
    simulator.check()
    for b, (instance, schedule) in enumerate(zip(instances, schedules, strict=True)):
        value = objective(instance, simulator.host().schedule(b), name)
        assert value == objective(instance, active(instance, schedule), name)
        assert value <= objective(instance, schedule, name)


def test_the_fallback_is_to_wait_or_else_any_legal_action():
    simulator = TensorSimulator([random_instance(np.random.default_rng(0))], Setting())
    solver = PolicySolver(Random())
    instance = simulator.instances[0]
    schedule = solver.solve(instance, Setting(), Budget(), np.random.default_rng(0)).schedule
    replay = ScheduleReplay([schedule], simulator)
    mask = simulator.state.mask
    nothing = torch.zeros(mask.shape, dtype=torch.bool)
    for can_wait in (True, False):
        mask[0, :-1] = 1
        mask[0, -1] = int(can_wait)
        expected = torch.zeros_like(nothing) if can_wait else mask.bool()
        expected[0, -1] = can_wait
        assert torch.equal(replay.with_fallback(nothing), expected)
        one = nothing.clone()
        one[0, 1] = True
        assert torch.equal(replay.with_fallback(one), one)
