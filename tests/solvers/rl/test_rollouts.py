"""Rollouts: they record what happened, in every setting, and take legal actions only."""

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
from solvers.networks.pairwise import PairwiseNetwork
from solvers.networks.policy import NetworkPolicy
from solvers.rl.rollouts import (
    RolloutCollector,
    log_probability,
    log_probability_and_entropy,
    play_greedily,
    sample,
    value_unit,
)
from tests.solvers.learning import (
    CPU,
    budget_instance,
    complex_instance,
    confident_network,
    random_instance,
)

ONLINE = partial(Setting, track="online", observe="arrived")
CASES = {
    "total_time": (random_instance, Setting(), {}),
    "shaped": (random_instance, Setting(), {"shaped": True}),
    "makespan": (random_instance, Setting(objective="makespan"), {}),
    "tardiness": (random_instance, Setting(objective="tardiness"), {"window": 3}),
    "slowdown": (random_instance, Setting(objective="bounded_slowdown"), {}),
    "quotas_outages": (complex_instance, Setting(), {"window": 6}),
    "online": (complex_instance, ONLINE(), {"window": 5}),
    "sequential": (complex_instance, ONLINE(event_order="sequential", objective="tardiness"), {}),
    "commit": (complex_instance, ONLINE(mode="commit"), {}),
    "easy": (complex_instance, ONLINE(mode="commit", backfill="easy"), {}),
    "assign": (budget_instance, Setting(track="assign"), {}),
}


def collector(case: str, num_envs: int = 32, seed: int = 0, **changes) -> RolloutCollector:
    make, setting, options = CASES[case]
    instances = [make(np.random.default_rng([seed, i])) for i in range(5)]
    simulator = TensorSimulator(instances, setting, num_envs, **{**options, **changes})
    return RolloutCollector(confident_network(), simulator, torch.Generator().manual_seed(seed))


def cost(simulator: TensorSimulator, b: int) -> float:
    """Return objective / scale of the schedule of environment b."""
    i = int(simulator.state.env[b, INSTANCE])
    instance, schedule = simulator.instances[i], simulator.host().schedule(b)
    return objective(instance, schedule, simulator.setting.objective) / float(simulator.scale[i])


@pytest.mark.parametrize("case", CASES)
def test_the_rewards_of_an_episode_add_up_to_the_cost_of_its_schedule(case):
    one = collector(case)
    costs: list[tuple[int, float]] = []  # (environment, cost) of finished episodes, in order
    restart, simulator = one.simulator.restart, one.simulator

    def note_costs_and_restart(instances, all_envs=False):
        over = (~simulator.playing).nonzero().flatten().tolist()
        costs.extend((b, cost(simulator, b)) for b in over)
        restart(instances, all_envs)

    simulator.restart = note_costs_and_restart
    rollout = one.collect(60)
    returns, total = [], torch.zeros(32)
    for reward, over in zip(rollout.reward, rollout.terminated, strict=True):
        total += reward
        returns += [(b, total[b].item()) for b in over.nonzero().flatten().tolist()]
        total *= ~over
    assert len(returns) >= 24
    assert [b for b, _ in returns] == [b for b, _ in costs]
    assert [r for _, r in returns] == pytest.approx([-c for _, c in costs], rel=1e-4)
    assert rollout.finished[0] == len(returns)
    assert rollout.episodic_return == pytest.approx(np.mean([-c for _, c in costs]), rel=1e-5)
    assert rollout.taken.all()


@pytest.mark.parametrize("case", CASES)
def test_episodes_are_complete_and_groups_play_the_same_instance(case):
    one = collector(case)
    rollout, simulator = one.collect_episodes(8), one.simulator
    groups = simulator.state.env[:, INSTANCE].view(-1, 8)
    assert (groups == groups[:, :1]).all()
    assert groups.unique().numel() > 1
    assert torch.equal(rollout.taken.sum(dim=0), simulator.state.env[:, DECISIONS])
    assert not (rollout.taken[1:] & ~rollout.taken[:-1]).any(), (
        "no decision is taken once an episode is over"
    )
    assert (rollout.reward[~rollout.taken] == 0).all()
    assert (rollout.terminated.int().argmax(dim=0) == rollout.taken.sum(dim=0) - 1).all()
    expected = [-cost(simulator, b) for b in range(32)]
    assert rollout.reward.sum(dim=0).tolist() == pytest.approx(expected, rel=1e-5)
    assert rollout.finished.tolist() == pytest.approx([32, sum(expected)], rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_no_illegal_action_in_ten_thousand_decisions(case):
    rollout = collector(case, num_envs=128, seed=3).collect(80)  # raises for one
    assert rollout.features.mask.gather(1, rollout.action[:, None]).all()
    assert torch.isfinite(rollout.logp).all()


class Digest(PairwiseNetwork):
    """A network for which all legal actions are equal; its value is a digest of its input."""

    def forward(self, f):
        value = f.task.sum(dim=(1, 2)) + f.agent.sum(dim=(1, 2)) + f.mask.sum(dim=1)
        return torch.zeros(f.mask.shape).masked_fill(~f.mask, -torch.inf), value


def test_a_truncated_episode_is_valued_by_its_last_state_and_another_begins():
    instance, limit, steps = random_instance(np.random.default_rng(8), 6), 4, 11
    cut = RolloutCollector(
        Digest(),
        TensorSimulator([instance], Setting(), 8, max_decisions=limit),
        torch.Generator().manual_seed(0),
    )
    rollout = cut.collect(steps)
    assert rollout.truncated.any()
    assert not (rollout.truncated & rollout.terminated).any()
    assert torch.equal(rollout.truncated.nonzero()[:, 0].unique(), torch.tensor([3, 7]))
    again = RolloutCollector(
        Digest(), TensorSimulator([instance], Setting(), 8), torch.Generator().manual_seed(1)
    )
    for step, action in enumerate(rollout.action.view(steps, 8)):
        again.simulator.step(action)
        continues = ~rollout.terminated[step]
        value = again.policy_output().value
        torch.testing.assert_close(rollout.next_value[step][continues], value[continues])
        ended = rollout.terminated[step] | rollout.truncated[step]
        if ended.all():
            again.simulator.restart(torch.zeros(8, dtype=torch.int64), all_envs=True)
        if step + 1 < steps and not ended.any():
            torch.testing.assert_close(rollout.next_value[step], rollout.value[step + 1])


def test_without_truncation_the_next_value_is_that_of_the_next_decision():
    rollout = collector("online").collect(20)
    continues = ~rollout.terminated[:-1]
    torch.testing.assert_close(rollout.next_value[:-1][continues], rollout.value[1:][continues])


def test_actions_are_drawn_with_the_probabilities_of_the_policy():
    logits = torch.tensor([0.0, 1.0, -torch.inf, 3.0, -2.0, -torch.inf, 0.5])
    action = sample(logits.expand(200_000, 7), torch.Generator().manual_seed(0))
    counts, legal = torch.bincount(action, minlength=7), torch.isfinite(logits)
    assert counts[~legal].sum() == 0
    expected = logits.softmax(dim=0)[legal].double() * 200_000
    test = stats.chisquare(counts[legal].numpy(), (expected / expected.sum() * 200_000).numpy())
    assert test.pvalue > 1e-3


def test_recorded_probabilities_and_values_are_those_of_the_network():
    one = collector("online")
    rollout = one.collect(6)
    logits, value = one.network(rollout.features)
    torch.testing.assert_close(log_probability(logits, rollout.action), rollout.logp)
    torch.testing.assert_close(value * rollout.unit, rollout.value.flatten())
    output = one.policy_output()
    assert torch.equal(value_unit(one.simulator, output.features), output.unit)


def test_entropy_is_in_nats_and_ignores_illegal_actions():
    logits = torch.tensor(
        [[1.0, 1.0, -torch.inf, 1.0], [-torch.inf, 5.0, -torch.inf, -torch.inf]], requires_grad=True
    )
    action = torch.tensor([0, 1])
    logp, entropy = log_probability_and_entropy(logits, action)
    assert entropy.tolist() == pytest.approx([np.log(3), 0.0])
    assert torch.equal(logp, log_probability(logits, action))
    entropy[0].backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("case", ["total_time", "online", "assign"])
def test_greedy_play_of_a_batch_equals_the_policy_played_one_by_one(case):
    make, setting, options = CASES[case]
    instances = [make(np.random.default_rng([1, i])) for i in range(6)]
    network, window = confident_network(), options.get("window", 10)
    simulator = TensorSimulator(instances, setting, window=window)
    returns = play_greedily(network, simulator)
    alone = PolicySolver(NetworkPolicy(network, window, CPU))
    for i, instance in enumerate(instances):
        result = alone.solve(instance, setting, Budget(), np.random.default_rng(0))
        assert result.status == "infeasible" or not verify(instance, result.schedule)
        value = objective(instance, result.schedule, setting.objective) / float(simulator.scale[i])
        assert -returns[i].item() == pytest.approx(value, rel=1e-6)


def test_the_same_seed_gives_the_same_rollout():
    one, other = collector("online").collect(15), collector("online").collect(15)
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
    network = PairwiseNetwork(8)
    alone = [
        play_greedily(network, TensorSimulator([i], Setting())).item() for i in (tenants, quotas)
    ]
    together = play_greedily(network, TensorSimulator([tenants, quotas], Setting()))
    assert together.tolist() == pytest.approx(alone)
