"""A2C: its losses, its gradient against the exact one, and a problem that it learns."""

import math

import pytest
import torch

from bench.simulator.tensors import TensorSimulator
from solvers.a2c import A2C, actor_critic_losses
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


def test_the_losses_equal_a_hand_calculation():
    logits = torch.tensor([[0.0, 0.0], [0.0, -math.inf]])
    losses = actor_critic_losses(
        logits, torch.tensor([1, 0]), torch.tensor([3.0, 5.0]), torch.tensor([1.0, 2.0])
    )
    policy_loss, value_loss, mean_entropy = (loss.item() for loss in losses)
    assert policy_loss == pytest.approx(3.0 * math.log(2) / 2)  # the second action was certain
    assert value_loss == pytest.approx(0.5 * (1 + 4) / 2)
    assert mean_entropy == pytest.approx(math.log(2) / 2)


def test_the_gradient_is_that_of_the_expected_return():
    instances, network, found = [three_tasks(0), three_tasks(1)], confident_network(), []
    learner = small_learner(
        A2C, num_envs=256, steps=6, gae_lambda=1.0, entropy=0.0, value_weight=0.0
    )
    simulator = TensorSimulator(instances, COMMIT, learner.num_envs)
    trainer = Trainer(learner, network, simulator, seed=1, total_decisions=10**9)

    def keep_gradient() -> None:
        # the loss is a mean over the three decisions of each episode, in standard deviations
        found.append(take_gradient(trainer) * -3 * trainer.return_std)

    trainer.step = keep_gradient
    for _ in range(16):
        trainer.return_std = 0.0
        learner.update(trainer, learner.collect(trainer))
    assert_unbiased(torch.stack(found), exact_gradient(instances, COMMIT, network))


def test_it_learns_what_no_untrained_network_can(tmp_path):
    assert lowest_untrained_regret() > 0.1
    learner = small_learner(A2C, num_envs=64, width=16, steps=4, lr=5e-3, save_seconds=60.0)
    policy = fit(learner, LEARNABLE, MemoryLogger(tmp_path), 14_000, COMMIT)
    assert regret(policy.network) < 1e-3
