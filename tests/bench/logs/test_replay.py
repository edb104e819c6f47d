"""Schedules as decisions: played back they are what they were, and never worse."""

import numpy as np
import pytest
import torch

from bench.contracts import Budget
from bench.left_shift import active
from bench.logs.replay import Plans
from bench.metrics import objective
from bench.rollout import PolicySolver
from bench.setting import Setting
from bench.simulator.tables import LEAVE
from bench.simulator.tensors import TensorSimulator
from solvers.rules import Random
from tests.solvers.learning import random_instance


@pytest.mark.parametrize("name", ["total_time", "makespan", "tardiness"])
def test_a_schedule_played_back_is_its_active_schedule(name):
    setting = Setting(objective=name)
    instances = [random_instance(np.random.default_rng(k), n=7) for k in range(20)]
    rng, player = np.random.default_rng(0), PolicySolver(Random())
    schedules = [player.solve(instance, setting, Budget(), rng).schedule for instance in instances]
    simulator = TensorSimulator(instances, setting)
    plans = Plans(schedules, simulator)
    while simulator.playing.any():
        allowed = plans.allowed(plans.right())
        assert not (allowed & ~simulator.state.mask.bool()).any()
        assert plans.right()[simulator.playing].any(dim=1).all()
        simulator.step(torch.where(simulator.playing, allowed.float().argmax(dim=1), LEAVE))
    simulator.check()
    for b, (instance, schedule) in enumerate(zip(instances, schedules, strict=True)):
        made = simulator.host().schedule(b)
        assert objective(instance, made, name) == objective(
            instance, active(instance, schedule), name
        )
        assert objective(instance, made, name) <= objective(instance, schedule, name)
