"""PPO: its loss, its gradient against the exact one, and that it learns."""

import pytest
import torch

from bench.instance import Instance
from bench.simulator.tensors import TensorSimulator
from solvers.ppo import PPO, clipped_gain, normalised
from solvers.rl.advantages import gae
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


def descent(learner: PPO, network: torch.nn.Module) -> tuple[Descent, list[Instance]]:
    """A learner on two instances of three decisions."""
    instances = [three_tasks(0), three_tasks(1)]
    return Descent(
        learner, network, TensorSimulator(instances, PATIENT, learner.envs), seed=1, total=10**9
    ), instances


def test_gains_are_clipped_where_the_policy_has_moved_enough():
    ratio, advantage = (
        torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]),
        torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0]),
    )
    assert clipped_gain(ratio, advantage, 0.2).tolist() == pytest.approx(
        [2.4, -3.0, 1.0, -1.6, 2.2]
    )


def test_advantages_are_normalised():
    assert normalised(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([-1.0, 1.0])
    assert normalised(torch.tensor([4.0])).tolist() == [0.0]


def test_a_prediction_may_gain_by_moving_so_far_only():
    before, target = torch.zeros(1), torch.full((1,), 10.0)
    near, far = torch.full((1,), 1.0), torch.full((1,), 9.0)
    free, held = small(PPO), small(PPO, clip_value=0.5)
    assert free.value_loss(far, before, target, 2.0).item() == pytest.approx((1 / 2) ** 2)
    assert held.value_loss(far, before, target, 2.0).item() == pytest.approx(
        (9 / 2) ** 2
    )  # held at 0.5 spreads
    assert held.value_loss(near, before, target, 2.0).item() == pytest.approx((9 / 2) ** 2)


def test_its_gradient_is_that_of_the_expected_return():
    network, found = decided_network(), []
    learner = small(
        PPO, envs=256, steps=6, epochs=1, minibatch=10**6, lam=1.0, entropy=0.0, value_weight=0.0
    )
    training, instances = descent(learner, network)

    def caught() -> None:
        r = rollout
        spread = gae(r.reward, r.value, r.next_value, r.terminated, r.truncated, 1.0, 1.0).std(
            correction=0
        )
        found.append(
            flat_gradient(network) * -3 * float(spread)
        )  # a mean over three decisions of each episode

    training.step = caught
    for _ in range(16):
        rollout = learner.play(training)
        learner.update(training, rollout)
    agrees(torch.stack(found), exact_gradient(instances, PATIENT, network))


def test_the_policy_has_not_moved_when_an_update_begins():
    network = decided_network()
    learner = small(PPO, steps=6, epochs=1, minibatch=10**6)
    training, _ = descent(learner, network)
    logs = learner.update(training, learner.play(training))
    assert logs["losses/approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert logs["losses/clip_fraction"] == 0.0


def test_an_update_stops_when_the_policy_has_moved_too_far():
    learner = small(PPO, steps=6, epochs=9, minibatch=32, lr=0.1, max_kl=1e-3)
    training, _ = descent(learner, decided_network())
    assert learner.update(training, learner.play(training))["charts/epochs"] < 9


def test_it_learns_what_no_untrained_network_can(tmp_path):
    assert best_of_untrained() > 0.1
    learner = small(
        PPO, envs=64, width=16, steps=8, minibatch=128, lr=3e-3, validate_every=5, save_seconds=60.0
    )
    assert regret(fit(learner, TO_LEARN, Notes(tmp_path), 9_000, PATIENT).network) < 1e-3
