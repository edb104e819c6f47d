"""d3rlpy with masks: no algorithm prefers, bootstraps from or imitates what is illegal, whichever way it is fed."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from solvers.offline import d3rlpy_algorithms as d3
from solvers.offline import learners
from solvers.offline.feed import Feed, q_values
from tests.solvers.offline.logged import CPU, KINDS, Logs, logged

LOG, SIMULATOR = logged()
SMALL = {"width": 8, "rounds": 1, "steps": 8, "batch": 32, "candidates": 2, "fqe_steps": 5}


def made(name, feed, **changes):
    kind, own = KINDS[name]
    return kind(logs=Logs(LOG), **{**SMALL, **own, **changes}).algorithm(feed)


@pytest.mark.parametrize("name", KINDS)
def test_no_algorithm_chooses_what_is_illegal_before_or_after_training(name):
    torch.manual_seed(0)
    feed = Feed(LOG, CPU, reward_scale=10.0)
    algorithm = made(name, feed)
    flat, mask = LOG.observation[LOG.state], LOG.mask
    for _ in range(3):
        best = algorithm.predict(flat)  # as d3rlpy would ask, on flat vectors
        drawn = algorithm.sample_action(flat)
        assert mask[np.arange(len(mask)), best].all()
        assert mask[np.arange(len(mask)), drawn].all()
        for _ in range(10):
            loss = algorithm.update(d3.FeedBuffer(feed).sample_transition_batch(32))
            assert all(math.isfinite(value) for value in loss.values()), loss


def test_a_log_is_d3rlpys_own_replay_buffer(tmp_path):
    """What is dumped is read by d3rlpy as it is; an episode that was cut short did not end."""
    import d3rlpy

    cut = dataclasses.replace(LOG, terminated=LOG.terminated.copy(), truncated=LOG.truncated.copy())
    last = int(LOG.length[0]) - 1
    cut.terminated[last], cut.truncated[last] = False, True
    with open(tmp_path / "log.h5", "w+b") as file:
        d3.replay_buffer(cut).dump(file)
    with open(tmp_path / "log.h5", "rb") as file:
        again = d3rlpy.dataset.ReplayBuffer.load(file, d3rlpy.dataset.InfiniteBuffer())
    assert np.array_equal(
        np.concatenate([e.observations for e in again.episodes]), LOG.observation[LOG.state]
    )
    assert np.array_equal(np.concatenate([e.actions[:, 0] for e in again.episodes]), LOG.action)
    assert np.allclose(np.concatenate([e.rewards[:, 0] for e in again.episodes]), LOG.reward)
    assert [e.terminated for e in again.episodes] == [False] + [True] * (len(LOG.length) - 1)
    assert again.dataset_info.action_size == LOG.layout.actions


@pytest.mark.parametrize("name", KINDS)
def test_stock_batches_and_those_of_the_feed_give_the_same_step(name):
    feed = Feed(LOG, CPU)
    buffer = d3.replay_buffer(dataclasses.replace(LOG, reward=feed.rewards))
    torch.manual_seed(0)
    batch = buffer.sample_transition_batch(16)
    places = {row.tobytes(): t for t, row in enumerate(LOG.observation[LOG.state])}
    rows = torch.tensor([places[row.tobytes()] for row in batch.observations])
    algorithms = []
    for _ in range(2):
        torch.manual_seed(1)
        algorithms.append(made(name, feed))
    torch.manual_seed(2)
    one = algorithms[0].update(batch)
    torch.manual_seed(2)
    other = algorithms[1].update(d3.mini_batch(feed.at(rows), CPU))
    assert one.keys() == other.keys()
    for key in one:
        assert one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5), key


def test_the_conservative_term_and_the_bootstrapped_value_count_legal_actions_only():
    torch.manual_seed(0)
    feed = Feed(LOG, CPU)
    algorithm = made("cql", feed)
    batch = feed.at(torch.arange(24))
    network = algorithm.impl.q_function[0].encoder.network
    q = q_values(network, batch.seen).double()
    legal = [row[mask] for row, mask in zip(q, batch.seen.mask, strict=True)]
    expected = torch.stack(
        [x.logsumexp(0) - row[a] for x, row, a in zip(legal, q, batch.action, strict=True)]
    ).mean()
    loss = algorithm.impl.compute_loss(d3.mini_batch(batch, CPU), torch.zeros(24, 1))
    assert float(loss.conservative_loss.detach()) == pytest.approx(
        float(expected.detach()), rel=1e-4
    )
    target = algorithm.impl.compute_target(d3.mini_batch(batch, CPU))[:, 0]
    following = q_values(network, batch.following).detach()  # the target network starts as a copy
    for value, row, mask, terminal in zip(
        target, following, batch.following.mask, batch.terminal, strict=True
    ):
        if not terminal:
            assert float(value) == pytest.approx(float(row[mask].max()), rel=1e-5)


def test_one_pass_of_the_network_gives_what_two_give():
    feed = Feed(LOG, CPU)
    batch = d3.mini_batch(feed.at(torch.arange(32)), CPU)
    losses = []
    for kind in (d3.OnePassCQL, d3.OnePassCQL.__mro__[1]):
        torch.manual_seed(0)
        algorithm = made("cql", feed)
        algorithm._impl.__class__ = kind
        algorithm.update(batch)
        losses.append([p.clone() for p in algorithm.impl.q_function.parameters()])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*losses, strict=True))


def test_a_constrained_policy_takes_likely_actions_only():
    torch.manual_seed(0)
    feed = Feed(LOG, CPU)
    learner = learners.BCQ(logs=Logs(LOG), flexibility=0.9, **SMALL)
    algorithm = learner.algorithm(feed)
    for _ in range(40):
        algorithm.update(d3.FeedBuffer(feed).sample_transition_batch(32))
    seen = feed.states.at(feed.state)
    best = algorithm.impl.predict_best_action(seen)
    chance = algorithm.impl.modules.imitator(seen).probs
    assert (chance.gather(1, best[:, None])[:, 0] >= 0.9 * chance.amax(dim=1) - 1e-6).all()
    network = learner.network(algorithm, feed)
    assert torch.equal(network(seen.features)[0].argmax(dim=1), best)


@pytest.mark.parametrize("flexibility", [0.3, 1.0])
def test_a_constrained_policy_has_an_action_at_every_flexibility(flexibility):
    feed = Feed(LOG, CPU)
    algorithm = learners.BCQ(logs=Logs(LOG), flexibility=flexibility, **SMALL).algorithm(feed)
    best = algorithm.impl.predict_best_action(feed.states.at(feed.state))
    assert feed.states.mask[feed.state].gather(1, best[:, None]).all()


def test_an_entropy_target_counts_legal_actions():
    torch.manual_seed(0)
    feed = Feed(LOG, CPU)
    algorithm = made("sac", feed)
    seen = feed.states.at(feed.state[:32])
    before = float(algorithm.impl.modules.log_temp._parameter.detach())
    for _ in range(
        5
    ):  # a fresh policy is nearly uniform: more entropy than asked for, so the temperature falls
        algorithm.impl.update_temp(algorithm.impl.modules.policy(seen))
    assert float(algorithm.impl.modules.log_temp._parameter.detach()) < before


def test_state_and_restore_go_on_as_if_nothing_had_happened():
    for name in KINDS:
        feed = Feed(LOG, CPU)
        torch.manual_seed(3)
        one = made(name, feed)
        batches = [d3.mini_batch(feed.at(torch.arange(k, k + 20)), CPU) for k in range(6)]
        for batch in batches[:3]:
            one.update(batch)
        other = made(name, feed)
        d3.restore(other, d3.state_of(one))
        for algorithm in (one, other):
            torch.manual_seed(4)
            for batch in batches[3:]:
                algorithm.update(batch)
        flat = LOG.observation[LOG.state]
        assert np.array_equal(one.predict(flat), other.predict(flat)), name
