"""Playing with a network: what is recorded is what happened, in every setting, and only legal actions are taken."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from bench.contracts import Budget
from bench.metrics import objective
from bench.rollout import PolicySolver
from bench.setting import Setting
from bench.simulator.tables import DECISIONS, INSTANCE
from bench.simulator.tensors import TensorSimulator
from bench.verify import verify
from solvers.networks.pairwise import PairNetwork
from solvers.networks.policy import NetworkPolicy
from solvers.rl.rollouts import Player, entropy, log_probability, play_greedily, sample, value_unit
from tests.solvers.learning import CPU, decided_network, random_instance, rough, without_clock

ONLINE = partial(Setting, track="online", observe="arrived")
PLAYS = {
    "total_time": (random_instance, Setting(), {}),
    "shaped": (random_instance, Setting(), {"shaped": True}),
    "makespan": (random_instance, Setting(objective="makespan"), {}),
    "tardiness": (random_instance, Setting(objective="tardiness"), {"window": 3}),
    "slowdown": (random_instance, Setting(objective="bounded_slowdown"), {}),
    "quotas_outages": (rough, Setting(), {"window": 6}),
    "online": (rough, ONLINE(), {"window": 5}),
    "singly": (rough, ONLINE(events="singly", objective="tardiness"), {}),
    "commit": (rough, ONLINE(mode="commit"), {}),
    "easy": (rough, ONLINE(mode="commit", backfill="easy"), {}),
    "assign": (without_clock, Setting(track="assign"), {}),
}


def player(play: str, envs: int = 32, seed: int = 0, **changes) -> Player:
    make, setting, options = PLAYS[play]
    instances = [make(np.random.default_rng([seed, i])) for i in range(5)]
    simulator = TensorSimulator(instances, setting, envs, **{**options, **changes})
    return Player(decided_network(), simulator, torch.Generator().manual_seed(seed))


def cost(simulator: TensorSimulator, b: int) -> float:
    """Objective / scale of what environment b has done, from its schedule alone."""
    i = int(simulator.state.env[b, INSTANCE])
    instance, schedule = simulator.instances[i], simulator.host().schedule(b)
    return objective(instance, schedule, simulator.setting.objective) / float(simulator.scale[i])


@pytest.mark.parametrize("play", PLAYS)
def test_the_rewards_of_an_episode_add_up_to_what_its_schedule_costs(play):
    one, costs = player(play), {}
    restart, simulator = one.simulator.restart, one.simulator

    def seen(instances, everyone=False):
        over = (~simulator.playing).nonzero().flatten().tolist()
        costs.setdefault("in_order", []).extend((b, cost(simulator, b)) for b in over)
        restart(instances, everyone)

    simulator.restart = seen
    rollout = one.collect(60)
    returns, total = [], torch.zeros(32)
    for reward, over in zip(rollout.reward, rollout.terminated, strict=True):
        total += reward
        returns += [(b, total[b].item()) for b in over.nonzero().flatten().tolist()]
        total *= ~over
    assert len(returns) >= 24
    assert [b for b, _ in returns] == [b for b, _ in costs["in_order"]]
    assert [r for _, r in returns] == pytest.approx([-c for _, c in costs["in_order"]], rel=1e-4)
    assert rollout.finished[0] == len(returns)
    assert rollout.episodic_return == pytest.approx(
        np.mean([-c for _, c in costs["in_order"]]), rel=1e-5
    )
    assert rollout.taken.all()


@pytest.mark.parametrize("play", PLAYS)
def test_whole_episodes_are_whole_and_groups_play_the_same_instance(play):
    one = player(play)
    rollout, simulator = one.episodes(8), one.simulator
    groups = simulator.state.env[:, INSTANCE].view(-1, 8)
    assert (groups == groups[:, :1]).all()
    assert groups.unique().numel() > 1
    assert torch.equal(rollout.taken.sum(dim=0), simulator.state.env[:, DECISIONS])
    assert not (rollout.taken[1:] & ~rollout.taken[:-1]).any(), (
        "nothing is taken again once an episode is over"
    )
    assert (rollout.reward[~rollout.taken] == 0).all()
    assert (rollout.terminated.int().argmax(dim=0) == rollout.taken.sum(dim=0) - 1).all()
    expected = [-cost(simulator, b) for b in range(32)]
    assert rollout.reward.sum(dim=0).tolist() == pytest.approx(expected, rel=1e-5)
    assert rollout.finished.tolist() == pytest.approx([32, sum(expected)], rel=1e-5)


@pytest.mark.parametrize("play", PLAYS)
def test_no_illegal_action_in_ten_thousand_decisions(play):
    rollout = player(play, envs=128, seed=3).collect(80)  # raises for one
    assert rollout.seen.mask.gather(1, rollout.action[:, None]).all()
    assert torch.isfinite(rollout.logp).all()


class Digest(PairNetwork):
    """Every legal action is as good as any; the value is a digest of what is seen."""

    def forward(self, f):
        value = f.task.sum(dim=(1, 2)) + f.agent.sum(dim=(1, 2)) + f.mask.sum(dim=1)
        return torch.zeros(f.mask.shape).masked_fill(~f.mask, -torch.inf), value


def test_a_cut_episode_is_valued_by_the_state_at_the_cut_and_another_begins():
    instance, limit, steps = random_instance(np.random.default_rng(8), 6), 4, 11
    cut = Player(
        Digest(),
        TensorSimulator([instance], Setting(), 8, limit=limit),
        torch.Generator().manual_seed(0),
    )
    rollout = cut.collect(steps)
    assert rollout.truncated.any()
    assert not (rollout.truncated & rollout.terminated).any()
    assert torch.equal(rollout.truncated.nonzero()[:, 0].unique(), torch.tensor([3, 7]))
    again = Player(
        Digest(), TensorSimulator([instance], Setting(), 8), torch.Generator().manual_seed(1)
    )
    for step, action in enumerate(rollout.action.view(steps, 8)):
        again.simulator.step(action)
        going_on = ~rollout.terminated[step]
        torch.testing.assert_close(rollout.next_value[step][going_on], again.look().value[going_on])
        ended = rollout.terminated[step] | rollout.truncated[step]
        if ended.all():
            again.simulator.restart(torch.zeros(8, dtype=torch.int64), everyone=True)
        if step + 1 < steps and not ended.any():
            torch.testing.assert_close(rollout.next_value[step], rollout.value[step + 1])


def test_without_a_cut_the_next_value_is_that_of_the_next_decision():
    rollout = player("online").collect(20)
    going_on = ~rollout.terminated[:-1]
    torch.testing.assert_close(rollout.next_value[:-1][going_on], rollout.value[1:][going_on])


def test_actions_are_drawn_as_often_as_the_policy_says():
    logits = torch.tensor([0.0, 1.0, -torch.inf, 3.0, -2.0, -torch.inf, 0.5])
    action = sample(logits.expand(200_000, 7), torch.Generator().manual_seed(0))
    counts, legal = torch.bincount(action, minlength=7), torch.isfinite(logits)
    assert counts[~legal].sum() == 0
    expected = logits.softmax(dim=0)[legal].double() * 200_000
    assert (
        stats.chisquare(counts[legal].numpy(), (expected / expected.sum() * 200_000).numpy()).pvalue
        > 1e-3
    )


def test_recorded_probabilities_are_those_the_actions_were_drawn_with():
    one = player("online")
    rollout = one.collect(6)
    logits, relative = one.network(rollout.seen)
    torch.testing.assert_close(log_probability(logits, rollout.action), rollout.logp)
    torch.testing.assert_close(relative * rollout.unit, rollout.value.flatten())
    assert torch.equal(value_unit(one.simulator, one.look().seen), one.look().unit)


def test_entropy_is_in_nats_and_ignores_what_is_illegal():
    logits = torch.tensor(
        [[1.0, 1.0, -torch.inf, 1.0], [-torch.inf, 5.0, -torch.inf, -torch.inf]], requires_grad=True
    )
    assert entropy(logits).tolist() == pytest.approx([np.log(3), 0.0])
    entropy(logits)[0].backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("play", ["total_time", "online", "assign"])
def test_greedy_play_of_a_batch_is_the_policy_played_one_by_one(play):
    make, setting, options = PLAYS[play]
    instances = [make(np.random.default_rng([1, i])) for i in range(6)]
    network, window = decided_network(), options.get("window", 10)
    simulator = TensorSimulator(instances, setting, window=window)
    batch, alone = (
        play_greedily(network, simulator),
        PolicySolver(NetworkPolicy(network, window, CPU)),
    )
    for i, instance in enumerate(instances):
        result = alone.solve(instance, setting, Budget(), np.random.default_rng(0))
        assert result.status == "infeasible" or not verify(instance, result.schedule)
        value = objective(instance, result.schedule, setting.objective) / float(simulator.scale[i])
        assert -batch[i].item() == pytest.approx(value, rel=1e-6)


def test_the_same_seed_plays_the_same():
    one, other = player("online").collect(15), player("online").collect(15)
    assert torch.equal(one.action, other.action)
    assert torch.equal(one.reward, other.reward)


def test_a_batch_may_hold_tenants_with_and_without_quotas():
    rng = np.random.default_rng(7)
    plain, limited = random_instance(rng), random_instance(rng)
    tenants = type(plain)(**{**vars(plain), "tenant": rng.integers(0, 5, 6)})
    quotas = type(plain)(
        **{**vars(limited), "tenant": rng.integers(0, 2, 6), "quota": np.full((2, 2), 4)}
    )
    torch.manual_seed(0)
    network = PairNetwork(8)
    alone = [
        play_greedily(network, TensorSimulator([i], Setting())).item() for i in (tenants, quotas)
    ]
    assert play_greedily(
        network, TensorSimulator([tenants, quotas], Setting())
    ).tolist() == pytest.approx(alone)
