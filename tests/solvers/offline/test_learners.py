"""The networks that decide: softmax policies of Q functions, mean quantiles, the transformer."""

import numpy as np
import pytest
import torch

from bench import plugins
from bench.instance import Instance
from solvers.networks.constrained import ConstrainedNetwork
from solvers.networks.decision_transformer import DecisionTransformerNetwork
from solvers.networks.pairwise import PairwiseNetwork
from solvers.offline.buffer import OfflineBuffer
from solvers.offline.learners import TARGET_ENTROPY, calibrate_temperature, mean_network
from tests.solvers.learning import FixedDataset
from tests.solvers.offline.logged import CPU, GreedyPolicy, record_log

LOG = record_log(episodes=60)


def mean_entropy(logits):
    """Return the mean entropy in nats of softmax policies (B, A)."""
    distribution = torch.distributions.Categorical(logits=logits.clamp(min=-1e8))
    return float(distribution.entropy().mean().detach())


def test_calibration_sets_the_entropy_and_keeps_the_greedy_policy():
    buffer = OfflineBuffer(LOG, CPU)
    network = PairwiseNetwork(8, 1)
    features = buffer.states.select(buffer.row).features
    before = network(features)[0]
    assert mean_entropy(before) > 2 * TARGET_ENTROPY
    calibrate_temperature(network, network, buffer)
    after = network(features)[0]
    assert torch.equal(after.argmax(dim=1), before.argmax(dim=1))
    assert mean_entropy(after) == pytest.approx(TARGET_ENTROPY, rel=0.2)


def test_calibration_does_not_make_a_policy_with_few_choices_uniform():
    """Where most decisions are forced even the uniform policy has less than TARGET_ENTROPY."""

    def one_or_two_tasks(rng):
        n = 1 + int(rng.random() < 0.25)  # a choice where there are two, forced afterwards
        return Instance(rng.integers(1, 9, size=(n, 1)), np.ones((n, 1, 1)), [[1]], [0])

    buffer = OfflineBuffer(record_log(24, data=FixedDataset(one_or_two_tasks, 12)), CPU)
    states = buffer.states.select(buffer.row)
    uniform = float(states.mask.sum(dim=1).double().log().mean())
    assert 0 < uniform < TARGET_ENTROPY
    torch.manual_seed(0)
    network = PairwiseNetwork(8, 1)
    calibrate_temperature(network, network, buffer)
    assert mean_entropy(network(states.features)[0]) == pytest.approx(uniform / 2, rel=0.2)


def test_ties_between_actions_do_not_make_scores_explode():
    """On four identical agents an assignment has the same score on each, whatever the factor."""

    def identical_agents(rng):
        return Instance(
            rng.integers(1, 9, size=(5, 1)),
            np.ones((5, 1, 1)),
            np.ones((4, 1)),
            [0, 0, 0, 0],
            release=rng.integers(0, 5, size=5),
        )

    buffer = OfflineBuffer(record_log(48, data=FixedDataset(identical_agents, 24)), CPU)
    features = buffer.states.select(buffer.row).features
    torch.manual_seed(0)
    pairwise = PairwiseNetwork(8, 1)
    constrained = ConstrainedNetwork(8, 1, 1e-9)
    for network, scoring in ((pairwise, pairwise), (constrained, constrained.q_network)):
        before = network(features)[0].argmax(dim=1)
        calibrate_temperature(network, scoring, buffer)
        logits = network(features)[0]
        assert logits[logits.isfinite()].abs().max() < 1000
        assert torch.equal(logits.argmax(dim=1), before)


def test_the_mean_network_computes_the_mean_of_the_quantiles():
    torch.manual_seed(0)
    network = PairwiseNetwork(8, 1, outputs=5)
    buffer = OfflineBuffer(LOG, CPU)
    state = buffer.states.select(buffer.row)
    mean = mean_network(network)(state.features)[0][state.mask]
    quantiles = network(state.features)[0][state.mask]
    assert torch.allclose(mean, quantiles.mean(dim=1), atol=1e-5)
    assert not torch.allclose(mean, quantiles[:, 0], atol=1e-4)


def test_a_transformer_takes_the_same_actions_in_play_and_along_the_log_of_it():
    """In play its memory equals what `forward_sequence` reads from the log of longer episodes."""
    torch.manual_seed(0)
    network = DecisionTransformerNetwork(8, 1, 16, 1, 2, context=3)
    torch.nn.init.normal_(network.update_state.weight)
    torch.nn.init.normal_(network.pairwise.score[2].weight)
    buffer = OfflineBuffer(record_log(24, GreedyPolicy(network)), CPU)
    past = buffer.trajectories(torch.arange(len(buffer)), network.context)
    target = torch.full_like(past.return_to_go, network.target_return)
    with torch.no_grad():
        logits = network.forward_sequence(
            past.features, past.action, target, past.timestep, past.valid
        )
    assert torch.equal(logits[:, -1].argmax(dim=1), buffer.action)


def test_only_networks_that_estimate_the_mean_return_have_a_critic():
    learners = {
        name: plugins.load("solver", name, logs=None, device="cpu")
        for name in ("bc", "iql", "sac", "cdqac", "decision_transformer", "cql_quantile")
    }
    assert not any(learner.predicts_returns for learner in learners.values())
    assert plugins.load("solver", "cql", logs=None, device="cpu").predicts_returns
