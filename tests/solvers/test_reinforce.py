"""REINFORCE: its baseline, its gradient against the exact one, and a problem that it learns."""

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.instance import Instance
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from solvers.reinforce import Reinforce, leave_one_out_advantage
from solvers.rl.trainer import Trainer
from tests.solvers.learning import (
    COMMIT,
    LEARNABLE,
    MemoryLogger,
    assert_unbiased,
    confident_network,
    exact_gradient,
    fit,
    lowest_untrained_regret,
    regret,
    small_learner,
    take_gradient,
    three_tasks,
)


def test_an_episode_is_compared_with_the_others_of_its_group():
    returns = torch.tensor([1.0, 3.0, 8.0, 10.0, 10.0, 10.0])
    expected = [1 - 11 / 2, 3 - 9 / 2, 8 - 4 / 2, 0.0, 0.0, 0.0]
    assert leave_one_out_advantage(returns, 3).tolist() == expected


def estimates(
    learner: Reinforce,
    instances: list[Instance],
    setting: Setting,
    network: torch.nn.Module,
    count: int,
):
    """Return (count, P) gradients of the expected return as `update` makes them, unscaled."""
    simulator = TensorSimulator(instances, setting, learner.num_envs)
    trainer = Trainer(learner, network, simulator, seed=1, total_decisions=10**9)
    found = []

    def keep_gradient() -> None:
        std = leave_one_out_advantage(rollout.reward.sum(dim=0), learner.group).std()
        decisions_per_episode = int(rollout.taken.sum()) / learner.num_envs
        found.append(-take_gradient(trainer) * float(std) * decisions_per_episode)

    trainer.step = keep_gradient
    for _ in range(count):
        rollout = learner.collect(trainer)
        learner.update(trainer, rollout)
    return torch.stack(found)


@pytest.mark.parametrize("setting", [Setting(), COMMIT], ids=["fit", "commit"])
def test_the_gradient_is_that_of_the_expected_return(setting):
    instances, network = [three_tasks(0), three_tasks(1)], confident_network()
    learner = small_learner(Reinforce, num_envs=512, group=8, entropy=0.0)
    assert_unbiased(
        estimates(learner, instances, setting, network, 16),
        exact_gradient(instances, setting, network),
    )


def test_the_gradient_does_not_depend_on_the_chunks():
    instances, network = [three_tasks(0)], confident_network()
    gradients = []
    for chunk in (7, 10**6):
        learner = small_learner(Reinforce, num_envs=32, group=8, chunk=chunk)
        gradients.append(estimates(learner, instances, Setting(), network, 1))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_nothing_is_learned_from_equal_episodes():
    """By Smith's rule every order costs the same here, so all returns agree but for rounding.

    The rounding errors must not be scaled up to a full step.
    """
    ratio = [1, 2, 3, 5, 7, 11]
    alone = Instance([[p] for p in ratio], np.ones((6, 1, 1)), [[1]], [0], weight=ratio)
    network, found = confident_network(), []
    learner = small_learner(Reinforce, num_envs=64, group=8, entropy=0.0)
    simulator = TensorSimulator([alone], COMMIT, 64, shaped=True)
    trainer = Trainer(learner, network, simulator, seed=1, total_decisions=10**9)
    trainer.step = lambda: found.append(take_gradient(trainer).norm())
    rollout = learner.collect(trainer)
    learner.update(trainer, rollout)
    assert rollout.reward.sum(dim=0).unique().numel() > 1, "this test needs rounding errors"
    assert found[0] < 0.02


@pytest.mark.parametrize("group", [1, 5])
def test_groups_must_divide_the_environments(group):
    message = rf"solver\.group: value {group}: .*divide solver\.num_envs=16"
    with pytest.raises(UserError, match=message):
        Reinforce(device="cpu", num_envs=16, group=group)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 0.9}, r"solver\.gamma: value 0\.9: must be 1"),
        ({"decoding": "beam"}, r"solver: value reinforce: trains no critic .*decoding=beam"),
    ],
)
def test_settings_that_need_a_critic_or_discounting_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Reinforce(device="cpu", num_envs=16, **changes)


def test_it_learns_what_no_untrained_network_can(tmp_path):
    assert lowest_untrained_regret() > 0.1
    learner = small_learner(Reinforce, num_envs=64, width=16, group=8, lr=5e-3, save_seconds=60.0)
    policy = fit(learner, LEARNABLE, MemoryLogger(tmp_path), 12_000, COMMIT)
    assert regret(policy.network) < 1e-3
