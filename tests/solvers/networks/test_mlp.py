"""The plain perceptrons: what they see, which sizes they play, saving, and that they learn with PPO."""

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.rollout import PolicySolver
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_observation, from_simulator
from bench.verify import verify
from solvers.networks.features import features
from solvers.networks.mlp import OF_AGENT, OF_PAIR, OF_TASK, FlatNetwork
from solvers.networks.policy import NetworkPolicy, load_policy
from solvers.ppo import PPO
from tests.solvers.learning import (
    CPU,
    PATIENT,
    TO_LEARN,
    Fixed,
    Notes,
    best_of_untrained,
    fit,
    random_instance,
    regret,
    rough,
    same_weights,
    small,
)  # fmt: skip


def shown(seed: int = 0, **settings) -> TensorSimulator:
    """Instances with everything, of 10 and of 6 tasks, in the middle of play."""
    rng = np.random.default_rng(seed)
    simulator = TensorSimulator([rough(rng), rough(rng, 6)], Setting(**settings), n_envs=8)
    simulator.play_random(rng, 5, restart=True)
    return simulator


@pytest.mark.parametrize("objective", ["total_time", "tardiness"])
def test_it_sees_columns_of_the_features_and_scores_either_alike(objective):
    view = from_simulator(shown(objective=objective))
    few, all_ = FlatNetwork.see(view), features(view)
    torch.testing.assert_close(few.task, all_.task[..., OF_TASK])
    torch.testing.assert_close(few.agent, all_.agent[..., OF_AGENT])
    torch.testing.assert_close(few.pair, all_.pair[..., OF_PAIR])
    assert torch.equal(few.load, all_.load)
    network = FlatNetwork(10, 3, 16)
    for one, other in zip(network(few), network(all_), strict=True):
        torch.testing.assert_close(one, other)


def test_only_legal_actions_have_a_chance():
    simulator = shown()
    logits, value = FlatNetwork(10, 3, 16)(FlatNetwork.see(from_simulator(simulator)))
    assert torch.equal(torch.isfinite(logits), simulator.state.mask.bool())
    assert value.shape == (8,)


def test_policy_and_value_are_separate_and_start_as_in_the_37_details():
    torch.manual_seed(0)
    network = FlatNetwork(10, 4, 64)
    first, _, second, _, last = network.policy
    assert (
        network.policy[0].weight.shape
        == network.value[0].weight.shape
        == (64, 10 * 4 + 4 * 4 + 40 * 4)
    )
    torch.testing.assert_close(first.weight @ first.weight.T, 2 * torch.eye(64), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        second.weight @ second.weight.T, 2 * torch.eye(64), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(41), rtol=0, atol=1e-6)
    assert not any(layer.bias.any() for layer in (*network.policy[::2], *network.value[::2]))
    network.value(torch.zeros(1, 216)).sum().backward()
    assert all(weight.grad is None for weight in network.policy.parameters())


def test_one_observation_is_padded_to_the_same_place_as_in_the_batch():
    simulator = shown()
    network = FlatNetwork(10, 3, 16)
    batch, host = network(FlatNetwork.see(from_simulator(simulator)))[0], simulator.host()
    for b in range(8):
        seen = host.observation(b)
        alone = network(FlatNetwork.see(from_observation(seen, CPU)))[0][0]
        assert len(alone) == len(seen.mask)
        places = [host.flat(action, seen) for action in range(len(alone))]
        torch.testing.assert_close(alone, batch[b, places])


@pytest.mark.parametrize(("tasks", "agents"), [(9, 3), (10, 2)])
def test_a_larger_problem_is_one_clear_error(tasks, agents):
    with pytest.raises(
        UserError, match=rf"mlp was made for {tasks} tasks x {agents} agents and is shown 10 x 3"
    ):
        FlatNetwork(tasks, agents)(FlatNetwork.see(from_simulator(shown())))


@pytest.mark.parametrize(
    "network", ["mpl", "constrained", "transformer"]
)  # the last two learn from logs only
def test_an_unknown_network_is_one_clear_error(network):
    with pytest.raises(UserError, match=rf"solver.network: '{network}' must be one of pairs, mlp$"):
        PPO(network=network)


def test_what_is_saved_is_loaded_as_the_same_kind(tmp_path):
    policy = NetworkPolicy(FlatNetwork(6, 3, 16), 64, CPU)
    policy.save(tmp_path / "policy.pt")
    loaded = load_policy(tmp_path / "policy.pt", CPU)
    assert isinstance(loaded.network, FlatNetwork)
    assert loaded.network.shape == {"tasks": 6, "agents": 3, "width": 16}
    assert same_weights(policy, loaded)


def test_ppo_trains_it_and_the_policy_plays(tmp_path):
    data = Fixed(random_instance, 4)
    policy = fit(small(PPO, network="mlp", steps=8, minibatch=64), data, Notes(tmp_path), 300)
    assert isinstance(policy.network, FlatNetwork)
    instance = next(data.instances("test"))
    result = PolicySolver(policy).solve(instance, Setting(), None, np.random.default_rng(0))
    assert not verify(instance, result.schedule)


def test_it_learns_to_wait_or_go(tmp_path):
    learner = small(
        PPO, network="mlp", width=32, envs=32, steps=16, minibatch=128, lr=3e-3, validate_every=10
    )
    policy = fit(learner, TO_LEARN, Notes(tmp_path), 15_000, PATIENT)
    assert regret(policy.network) < 0.75 * best_of_untrained()
