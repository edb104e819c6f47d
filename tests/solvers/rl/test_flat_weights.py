"""The weights of a network as one tensor, and the states of optimizers of earlier versions."""

import pickle

import torch

from bench.setting import Setting
from solvers.ppo import PPO
from solvers.rl.flat_weights import FlatWeights
from tests.solvers.learning import (
    FixedDataset,
    MemoryLogger,
    confident_network,
    fit,
    random_instance,
    small_learner,
)

DATA = FixedDataset(random_instance, 8)


def test_the_gradient_has_the_order_of_the_weights():
    network = confident_network()
    expected = torch.cat([one.detach().flatten() for one in network.parameters()])
    weights = FlatWeights(network)
    assert torch.equal(weights.flat, expected)
    loss = sum((one**2).sum() for one in network.parameters()) / 2
    torch.testing.assert_close(weights.gradient(loss), expected)
    weights.flat.data.zero_()
    assert not any(one.any() for one in network.parameters())


def test_the_state_of_an_optimizer_of_single_weights_is_joined():
    network = confident_network()
    optimizer = torch.optim.Adam(network.parameters())
    names = [name for name, _ in network.named_parameters()]
    # no gradient of the value: `reinforce` trains none, and Adam has no state of its weights
    sum((one**2).sum() for n, one in network.named_parameters() if "value" not in n).backward()
    optimizer.step()
    weights = FlatWeights(network)
    state = weights.found_by(optimizer.state_dict())[0]
    assert state["exp_avg"].shape == weights.flat.shape
    parts = state["exp_avg"].split([view.numel() for view in weights.views])
    for name, part, view in zip(names, parts, weights.views, strict=True):
        found = optimizer.state.get(view)
        expected = torch.zeros_like(part) if found is None else found["exp_avg"].flatten()
        assert torch.equal(part, expected), name


def test_a_trained_policy_is_as_small_as_a_loaded_one(tmp_path):
    policy = fit(small_learner(PPO, width=32, steps=8), DATA, MemoryLogger(tmp_path), 200)
    weights = sum(one.numel() for one in policy.network.parameters())
    assert len(pickle.dumps(policy.network.state_dict())) < 8 * weights


def test_new_episodes_begin_where_those_of_a_checkpoint_do_not_fit():
    instances = list(DATA.instances("train"))
    saved = small_learner(PPO, num_envs=8).trainer(instances, Setting()).episode_state()
    trainer = small_learner(PPO, num_envs=16, steps=3).trainer(instances, Setting())
    trainer.train_iteration()
    trainer.restore_episodes(saved)
    assert not trainer.collector.returns_so_far.any()
    trainer.train_iteration()
