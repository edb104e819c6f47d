"""What learners are fed: rows of the log, the states they led to, and values whose unit is what is left to do."""

import numpy as np
import torch

from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from solvers.networks.features import features
from solvers.networks.pairwise import PairNetwork
from solvers.offline.feed import Feed, q_values, states
from solvers.offline.rewards import paid_at_start
from solvers.rl.rollouts import value_unit
from tests.solvers.learning import Fixed
from tests.solvers.offline.logged import CPU, DATA, logged, recorded, two_tasks


def test_a_batch_holds_the_decisions_and_where_they_led():
    log, _ = logged()
    feed = Feed(log, CPU, reward_scale=3.0)
    rows = torch.arange(len(feed))
    batch = feed.at(rows)
    flat = torch.from_numpy(log.observation)
    here, after = (
        states(flat[torch.from_numpy(log.state) + k], log.layout, log.objective) for k in (0, 1)
    )
    for one, other, name in zip(batch.seen, here, here._fields, strict=True):
        assert torch.equal(one, other * 3.0 if name == "unit" else other), name
    assert torch.equal(batch.following.task, after.task)
    assert torch.equal(batch.action, torch.from_numpy(log.action))
    assert torch.allclose(batch.reward, torch.from_numpy(paid_at_start(log) * 3.0).float())
    assert batch.terminal.sum() == len(log.length)
    assert torch.equal(batch.next_state, torch.from_numpy(log.state) + 1)


def test_draws_are_uniform_and_seeded():
    log, _ = logged()
    counts = np.zeros(len(log.action))
    feed = Feed(log, CPU, seed=5)
    for _ in range(200):
        np.add.at(counts, feed.rows(len(feed)).numpy(), 1)
    assert abs(counts - 200).max() < 6 * np.sqrt(200)
    assert torch.equal(Feed(log, CPU, seed=5).rows(50), Feed(log, CPU, seed=5).rows(50))


def test_the_unit_is_what_a_critic_of_online_learners_uses():
    """Where the objective is not `total_time`, for which more is known."""
    setting = Setting(objective="makespan")
    log = recorded(objective="makespan")
    simulator = TensorSimulator(list(DATA.instances("train")), setting)
    feed = Feed(log, CPU)
    unit = value_unit(simulator, features(from_simulator(simulator)))
    assert torch.allclose(
        feed.states.unit[feed.state[torch.from_numpy(log.first)]], unit, rtol=1e-4
    )


def test_the_unit_is_what_the_tasks_would_take_undisturbed():
    """By hand, and never more than what they took: two tasks of 2 and 3 ticks, weights 1 and 4, one agent."""
    log = recorded(8, data=Fixed(two_tasks, 8))
    feed = Feed(log, CPU)
    scale = log.layout.scale(torch.from_numpy(log.observation[log.state]))
    ticks = (feed.states.unit[feed.state] * scale).view(-1, 3).round().int().tolist()
    short_first, long_first = (
        (2 + 4 * 3, 4 * (2 + 3), 4 * 3),
        (2 + 4 * 3, 3 + 2, 2),
    )  # start, wait, start
    assert {tuple(episode) for episode in ticks} == {short_first, long_first}
    feed = Feed(recorded(200), CPU)
    assert (feed.return_to_go <= -1.0 + 1e-4).all()
    assert feed.return_to_go.median() > -4.0


def test_values_scale_with_their_unit_and_are_centred_over_legal_actions():
    log, _ = logged()
    feed = Feed(log, CPU)
    seen = feed.at(torch.arange(20)).seen
    network = PairNetwork(8, 1)
    q = q_values(network, seen)
    twice = q_values(network, seen._replace(unit=2 * seen.unit))
    assert torch.allclose(twice, 2 * q)
    legal = seen.mask
    mean = (q * legal).sum(dim=1) / legal.sum(dim=1)
    assert torch.allclose(mean, network(seen.features)[1] * seen.unit, rtol=1e-4)
    assert (
        q.masked_fill(~legal, -torch.inf).argmax(dim=1) == network(seen.features)[0].argmax(dim=1)
    ).all()
    assert q_values(PairNetwork(8, 1, outputs=5), seen).shape == (*q.shape, 5)


def test_a_trajectory_ends_at_its_decision_and_stays_in_its_episode():
    log, _ = logged()
    feed = Feed(log, CPU)
    past = feed.trajectories(torch.arange(len(feed)), 4)
    for t in range(len(feed)):
        step = int(feed.step[t])
        assert past.known[t].sum() == min(step + 1, 4)
        known = past.known[t].bool()
        assert (
            past.action[t][known].tolist() == log.action[t - int(known.sum()) + 1 : t + 1].tolist()
        )
        assert past.step[t][-1] == step
    returns, first = torch.from_numpy(log.returns).float(), torch.from_numpy(log.first)
    assert torch.allclose(
        feed.return_to_go[first] * feed.states.unit[feed.state[first]], returns, rtol=1e-4
    )
