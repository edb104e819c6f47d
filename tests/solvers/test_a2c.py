"""A2C: its losses, its gradient against the exact one, and that it learns."""

import math

import pytest
import torch

from bench.simulator.tensors import TensorSimulator
from solvers.a2c import A2C, actor_critic
from solvers.rl.training import Descent
from tests.solvers.learning import (
    PATIENT,
    TO_LEARN,
    Notes,
    agrees,
    best_of_untrained,
    decided_network,
    exact_gradient,
    fit,
    flat_gradient,
    regret,
    small,
    three_tasks,
)  # fmt: skip


def test_its_losses_equal_a_hand_calculation():
    logits = torch.tensor([[0.0, 0.0], [0.0, -math.inf]])
    losses = actor_critic(
        logits, torch.tensor([1, 0]), torch.tensor([3.0, 5.0]), torch.tensor([1.0, 2.0])
    )
    policy, value, spread = (loss.item() for loss in losses)
    assert policy == pytest.approx(3.0 * math.log(2) / 2)  # the second action was certain
    assert value == pytest.approx(0.5 * (1 + 4) / 2)
    assert spread == pytest.approx(math.log(2) / 2)


def test_its_gradient_is_that_of_the_expected_return():
    instances, network, found = [three_tasks(0), three_tasks(1)], decided_network(), []
    learner = small(A2C, envs=256, steps=6, lam=1.0, entropy=0.0, value_weight=0.0)
    training = Descent(
        learner, network, TensorSimulator(instances, PATIENT, learner.envs), seed=1, total=10**9
    )
    training.step = lambda: found.append(
        flat_gradient(network) * -3 * training.spread
    )  # a mean over three decisions each
    for _ in range(16):
        training.spread = 0.0
        learner.update(training, learner.play(training))
    agrees(torch.stack(found), exact_gradient(instances, PATIENT, network))


def test_it_learns_what_no_untrained_network_can(tmp_path):
    assert best_of_untrained() > 0.1
    learner = small(A2C, envs=64, width=16, steps=4, lr=5e-3, save_seconds=60.0)
    assert regret(fit(learner, TO_LEARN, Notes(tmp_path), 14_000, PATIENT).network) < 1e-3
