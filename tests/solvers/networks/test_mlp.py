"""The perceptrons: their features, the sizes they accept, saving, and learning with PPO."""

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.rollout import PolicySolver
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_observation, from_simulator
from bench.verify import verify
from solvers.networks.features import featurize
from solvers.networks.mlp import AGENT_COLUMNS, PAIR_COLUMNS, TASK_COLUMNS, MLPNetwork
from solvers.networks.policy import NetworkPolicy, load_policy
from solvers.ppo import PPO
from tests.solvers.learning import (
    COMMIT,
    CPU,
    LEARNABLE,
    FixedDataset,
    MemoryLogger,
    complex_instance,
    fit,
    lowest_untrained_regret,
    random_instance,
    regret,
    same_weights,
    small_learner,
)


def in_play(seed: int = 0, **settings) -> TensorSimulator:
    """Return 8 environments after some decisions, on instances of 10 and of 6 tasks."""
    rng = np.random.default_rng(seed)
    simulator = TensorSimulator(
        [complex_instance(rng), complex_instance(rng, 6)], Setting(**settings), num_envs=8
    )
    simulator.play_random(rng, 5, restart=True)
    return simulator


@pytest.mark.parametrize("objective", ["total_time", "tardiness"])
def test_it_computes_some_columns_of_the_features_and_accepts_all_of_them_too(objective):
    view = from_simulator(in_play(objective=objective))
    some, full = MLPNetwork.featurize(view), featurize(view)
    torch.testing.assert_close(some.task, full.task[..., TASK_COLUMNS])
    torch.testing.assert_close(some.agent, full.agent[..., AGENT_COLUMNS])
    torch.testing.assert_close(some.pair, full.pair[..., PAIR_COLUMNS])
    assert torch.equal(some.load, full.load)
    network = MLPNetwork(10, 3, 16)
    for one, other in zip(network(some), network(full), strict=True):
        torch.testing.assert_close(one, other)


def test_exactly_the_legal_actions_have_finite_logits():
    simulator = in_play()
    logits, value = MLPNetwork(10, 3, 16)(MLPNetwork.featurize(from_simulator(simulator)))
    assert torch.equal(torch.isfinite(logits), simulator.state.mask.bool())
    assert value.shape == (8,)


def test_policy_and_value_are_separate_and_initialised_as_in_the_37_details():
    torch.manual_seed(0)
    network = MLPNetwork(10, 4, 64)
    first, _, second, _, last = network.policy
    inputs = 10 * 4 + 4 * 4 + 40 * 4
    assert network.policy[0].weight.shape == network.value[0].weight.shape == (64, inputs)
    identity = torch.eye(64)
    torch.testing.assert_close(first.weight @ first.weight.T, 2 * identity, rtol=0, atol=1e-4)
    torch.testing.assert_close(second.weight @ second.weight.T, 2 * identity, rtol=0, atol=1e-4)
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(41), rtol=0, atol=1e-6)
    assert not any(layer.bias.any() for layer in (*network.policy[::2], *network.value[::2]))
    network.value(torch.zeros(1, 216)).sum().backward()
    assert all(weight.grad is None for weight in network.policy.parameters())


def test_one_observation_is_padded_to_the_same_places_as_in_a_batch():
    simulator = in_play()
    network = MLPNetwork(10, 3, 16)
    batch, _ = network(MLPNetwork.featurize(from_simulator(simulator)))
    host = simulator.host()
    for b in range(8):
        observation = host.observation(b)
        alone = network(MLPNetwork.featurize(from_observation(observation, CPU)))[0][0]
        assert len(alone) == len(observation.mask)
        indices = [host.flat(action, observation) for action in range(len(alone))]
        torch.testing.assert_close(alone, batch[b, indices])


@pytest.mark.parametrize(("tasks", "agents"), [(9, 3), (10, 2)])
def test_a_larger_problem_is_an_error_that_says_so(tasks, agents):
    message = rf"mlp was built for {tasks} tasks x {agents} agents and is given 10 x 3"
    with pytest.raises(UserError, match=message):
        MLPNetwork(tasks, agents)(MLPNetwork.featurize(from_simulator(in_play())))


# the last two learn from logs only
@pytest.mark.parametrize("network", ["mpl", "constrained", "transformer"])
def test_a_network_that_cannot_be_trained_is_an_error_that_names_the_others(network):
    message = rf"solver\.network: value '{network}': must be one of attention, mlp, pairs$"
    with pytest.raises(UserError, match=message):
        PPO(network=network)


def test_a_saved_policy_is_loaded_with_the_same_kind_of_network(tmp_path):
    policy = NetworkPolicy(MLPNetwork(6, 3, 16), 64, CPU)
    policy.save(tmp_path / "policy.pt")
    loaded = load_policy(tmp_path / "policy.pt", CPU)
    assert isinstance(loaded.network, MLPNetwork)
    assert loaded.network.shape == {"tasks": 6, "agents": 3, "width": 16}
    assert same_weights(policy, loaded)


def test_ppo_trains_it_and_its_policy_plays(tmp_path):
    data = FixedDataset(random_instance, 4)
    policy = fit(
        small_learner(PPO, network="mlp", steps=8, minibatch=64), data, MemoryLogger(tmp_path), 300
    )
    assert isinstance(policy.network, MLPNetwork)
    assert (policy.network.tasks, policy.network.agents) == (6, 3)
    instance = next(data.instances("test"))
    result = PolicySolver(policy).solve(instance, Setting(), None, np.random.default_rng(0))
    assert not verify(instance, result.schedule)


def test_ppo_learns_a_task_with_it(tmp_path):
    learner = small_learner(
        PPO,
        network="mlp",
        width=32,
        num_envs=32,
        steps=16,
        minibatch=128,
        lr=3e-3,
        validate_every=10,
    )
    policy = fit(learner, LEARNABLE, MemoryLogger(tmp_path), 15_000, COMMIT)
    assert regret(policy.network) < 0.75 * lowest_untrained_regret()
