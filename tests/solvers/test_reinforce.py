"""REINFORCE: its baseline, its gradient against the exact one, and that it learns."""

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.instance import Instance
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from solvers.reinforce import Reinforce, lead
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


def test_an_episode_is_compared_with_the_others_of_its_group():
    total = torch.tensor([1.0, 3.0, 8.0, 10.0, 10.0, 10.0])
    assert lead(total, 3).tolist() == [1 - 11 / 2, 3 - 9 / 2, 8 - 4 / 2, 0.0, 0.0, 0.0]


def estimates(
    learner: Reinforce,
    instances: list[Instance],
    setting: Setting,
    network: torch.nn.Module,
    count: int,
):
    """(count, P) gradients of the expected return that `update` would climb, its scaling undone."""
    simulator = TensorSimulator(instances, setting, learner.envs)
    training = Descent(learner, network, simulator, seed=1, total=10**9)
    found = []

    def caught() -> None:
        spread = lead(rollout.reward.sum(dim=0), learner.group).std()
        found.append(
            -flat_gradient(network) * float(spread) * int(rollout.taken.sum()) / learner.envs
        )

    training.step = caught
    for _ in range(count):
        rollout = learner.play(training)
        learner.update(training, rollout)
    return torch.stack(found)


@pytest.mark.parametrize("setting", [Setting(), PATIENT], ids=["fit", "commit"])
def test_its_gradient_is_that_of_the_expected_return(setting):
    instances, network = [three_tasks(0), three_tasks(1)], decided_network()
    learner = small(Reinforce, envs=512, group=8, entropy=0.0)
    agrees(
        estimates(learner, instances, setting, network, 16),
        exact_gradient(instances, setting, network),
    )


def test_chunks_change_nothing_but_the_memory_it_takes():
    instances, network = [three_tasks(0)], decided_network()
    gradients = [
        estimates(small(Reinforce, envs=32, group=8, chunk=chunk), instances, Setting(), network, 1)
        for chunk in (7, 10**6)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_equal_episodes_teach_nothing():
    """Where all returns agree but for rounding (by Smith's rule any order costs the same), rounding is not made a full step."""
    ratio = [1, 2, 3, 5, 7, 11]
    alone = Instance([[p] for p in ratio], np.ones((6, 1, 1)), [[1]], [0], weight=ratio)
    network, learner, found = decided_network(), small(Reinforce, envs=64, group=8, entropy=0.0), []
    training = Descent(
        learner, network, TensorSimulator([alone], PATIENT, 64, shaped=True), seed=1, total=10**9
    )
    training.step = lambda: found.append(flat_gradient(network).norm())
    rollout = learner.play(training)
    learner.update(training, rollout)
    assert rollout.reward.sum(dim=0).unique().numel() > 1, "rounding is what this test is about"
    assert found[0] < 0.02


@pytest.mark.parametrize("group", [1, 5])
def test_groups_have_to_fill_the_environments(group):
    with pytest.raises(UserError, match=r"solver\.group: .*divide solver\.envs=16"):
        Reinforce(device="cpu", envs=16, group=group)


def test_it_learns_what_no_untrained_network_can(tmp_path):
    assert best_of_untrained() > 0.1
    learner = small(Reinforce, envs=64, width=16, group=8, lr=5e-3, save_seconds=60.0)
    assert regret(fit(learner, TO_LEARN, Notes(tmp_path), 12_000, PATIENT).network) < 1e-3
