"""Looking ahead before each decision: better actions, nothing of the future, any valid problem."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.__main__ import main as bench
from bench.contracts import Budget
from bench.errors import UserError
from bench.instance import Instance, Outage
from bench.metrics import objective
from bench.rollout import PolicySolver
from bench.setting import OBJECTIVES, Setting
from bench.simulator import Simulator
from bench.simulator.tables import RUNNING
from bench.simulator.view import from_observation, from_simulator
from bench.verify import verify
from solvers.networks.features import featurize
from solvers.networks.mlp import MLPNetwork
from solvers.networks.pairwise import PairwiseNetwork
from solvers.networks.policy import NetworkPolicy
from solvers.ppo import PPO
from solvers.rl import lookahead
from solvers.rl.lookahead import LookaheadPolicy
from tests.solvers.learning import CPU, complex_fields

ONLINE = Setting(track="online", observe="arrived")


def untrained(seed, window=16):
    torch.manual_seed(seed)
    return NetworkPolicy(PairwiseNetwork(8, 1), window, CPU)


def played(policy, instance, setting=ONLINE, seed=0):
    result = PolicySolver(policy).solve(instance, setting, Budget(), np.random.default_rng(seed))
    assert verify(instance, result.schedule) == []
    return result.schedule


def one_agent(duration, release=None):
    n = len(duration)
    return Instance(np.reshape(duration, (n, 1)), np.ones((n, 1, 1)), [[1]], [0], release=release)


@pytest.mark.parametrize("mode", ["fit", "commit"])
@pytest.mark.parametrize("order", ["batched", "sequential"])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_order_is_found_whatever_the_policy_prefers(seed, order, mode):
    """The first task is alone when it is decided on; the two others wait for its end."""
    instance = one_agent([3, 7, 2], [0, 1, 1])
    setting = replace(ONLINE, mode=mode, event_order=order)
    policy = LookaheadPolicy(untrained(seed), setting, least_probability=0.0)
    if mode == "fit" or order == "batched":
        assert objective(instance, played(policy, instance, setting), "total_time") == 3 + 4 + 11


@pytest.mark.parametrize("order", ["batched", "sequential"])
def test_every_action_is_followed_where_events_come_one_at_a_time_too(order):
    setting = replace(ONLINE, mode="commit", event_order=order)
    simulator = Simulator([one_agent([9, 7, 2, 4], [0, 0, 0, 0])], setting)
    observation = simulator.observation(0)
    while len(observation.release) < 2 or not len(observation.running_agent):
        simulator.step(np.array([0]))
        observation = simulator.observation(0)
    actions = torch.arange(len(observation.release))
    policy = LookaheadPolicy(untrained(0), setting)
    returns = policy.look_ahead(observation, actions, np.random.default_rng(0))
    assert len(set(returns.tolist())) == len(actions)


def test_what_runs_already_keeps_its_agent_until_its_end():
    """The second agent is slower, but free: waiting for the first one costs more, then less."""
    for slow, expected in ((5, 0), (9, None)):
        duration = [[4, 100], [2, slow]]
        instance = Instance(duration, np.ones((2, 2, 1)), [[1], [1]], [0, 1], release=[0, 1])
        simulator = Simulator([instance], ONLINE)
        simulator.step(np.array([0]))  # task 0 on agent 0 until tick 4
        policy = LookaheadPolicy(untrained(0), ONLINE, least_probability=0.0)
        observation = simulator.observation(0)
        assert observation.time == 1
        actions = torch.tensor([observation.flat(0, 1), observation.wait])
        cost = -policy.look_ahead(observation, actions, np.random.default_rng(0))
        # on agent 1 from tick 1; or on agent 0 from tick 4: the sum of both tasks' ends, from 1 on
        on_1, on_0 = slow, 3 + 2
        difference = float(cost[0] - cost[1])
        assert np.sign(difference) == np.sign(on_1 - on_0)
        if expected is not None:
            assert difference == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_the_simulated_future_begins_with_what_the_decision_observes(seed, monkeypatch):
    """With kinds, waits and running tasks: else the policy would decide there as nowhere else."""
    rng = np.random.default_rng(seed)
    fields = complex_fields(rng, 12, rng.integers(0, 12, 12)) | {"estimate": None}
    instance = Instance(**fields, capacity=[[4, 4], [5, 4]], agent_type=[0, 1])
    simulator = Simulator([instance], ONLINE)
    seen = []

    def play(network, environments, choose):
        seen.append(featurize(from_simulator(environments)))
        return torch.zeros(environments.num_envs), 0

    monkeypatch.setattr(lookahead, "play_to_the_end", play)
    policy = LookaheadPolicy(untrained(0), ONLINE)
    while simulator.status[0] == RUNNING:
        observation = simulator.observation(0)
        actions = torch.from_numpy(observation.mask.nonzero()[0])
        policy.look_ahead(observation, actions[:1], rng)
        real, first = featurize(from_observation(observation, CPU)), seen.pop()
        n = len(observation.release)
        torch.testing.assert_close(first.task[0, :n], real.task[0])
        torch.testing.assert_close(first.agent[0], real.agent[0])
        torch.testing.assert_close(first.pair[0, :n], real.pair[0])
        assert not first.shown[0, n:].any()
        action = int(rng.choice(actions.numpy()))
        last = simulator.n_actions - 1  # `wait` is the last action, beside padding too
        simulator.step(np.array([last if action == observation.wait else action]))


def test_in_slowdowns_the_time_that_was_waited_counts():
    """Two ticks after 999 of waiting, and a new task of nine: starting the first costs less."""
    instance = one_agent([1000, 2, 9], [0, 1, 1000])
    setting = replace(ONLINE, objective="bounded_slowdown")
    instance = replace(instance, tick_seconds=1.0)
    simulator = Simulator([instance], setting)
    simulator.step(np.array([0]))
    while len(simulator.observation(0).release) < 2:
        simulator.step(np.array([simulator.n_actions - 1]))  # wait
    observation = simulator.observation(0)
    policy = LookaheadPolicy(untrained(0), setting)
    first, second = policy.look_ahead(observation, torch.tensor([0, 1]), np.random.default_rng(0))
    # slowdowns over 10 s: (999 + 2) / 10 + max(1, 11 / 10), and (999 + 11) / 10 + 1
    assert float(second / first) == pytest.approx((101.0 + 1.0) / (100.1 + 1.1))


def test_more_rollouts_never_judge_an_action_worse():
    instance = one_agent([7, 2, 4, 1], [0, 0, 0, 0])
    simulator = Simulator([instance], ONLINE)
    observation = simulator.observation(0)
    actions = torch.arange(4)
    better = False
    for seed in range(4):  # some untrained network plays the best order by chance
        few, many = (
            LookaheadPolicy(untrained(seed), ONLINE, rollouts).look_ahead(
                observation, actions, np.random.default_rng(0)
            )
            for rollouts in (1, 32)
        )
        assert (many >= few).all()
        better |= bool((many > few).any())
    assert better


@pytest.mark.parametrize("mode", ["fit", "commit"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_problem_is_played_to_its_end_and_the_same_way_again(name, mode):
    """With outages, quotas, wrong estimates, unfit types, and a queue longer than the window."""
    setting = Setting(track="online", observe="arrived", objective=name, mode=mode)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        fields = complex_fields(rng, 12, rng.integers(0, 20, 12))
        instance = Instance(
            **fields,
            capacity=[[4, 4], [5, 4], [4, 6]],
            agent_type=[0, 1, 0],
            quota=[[8, 8], [9, 9]],
            outages=(Outage(1, 10, 14), Outage(2, 3, 9)),
        )
        policy = LookaheadPolicy(untrained(seed, window=5), setting, 2, least_probability=0.0)
        first, again = (played(policy, instance, setting) for _ in range(2))
        assert first.to_dict() == again.to_dict()


def test_a_policy_that_cannot_look_ahead_is_refused():
    network = MLPNetwork(2, 2, 8)
    with pytest.raises(UserError, match=r"value lookahead: needs a network for any number"):
        LookaheadPolicy(NetworkPolicy(network, 2, CPU), ONLINE)
    with pytest.raises(UserError, match=r"decoding: value lookahead: .*\(track=online\)"):
        PPO(decoding="lookahead", device="cpu").fit(None, Setting(), None, None, None)
    setting = Setting(track="assign", observe="arrived")
    with pytest.raises(UserError, match=r"decoding: value lookahead: .*\(track=online\)"):
        PPO(decoding="lookahead", device="cpu").fit(None, setting, None, None, None)


@pytest.mark.slow
def test_a_run_sees_nothing_of_the_future(tmp_path):
    line = "+solver=ppo_lookahead solver.checkpoint=pretrained/small-online dataset=small"
    options = f"track=online dataset.test=2 ~dataset.hashes baselines=[] runs={tmp_path}"
    quick = f"tracking=off reference.seconds=0 cache={tmp_path}/cache"
    assert bench([*line.split(), *options.split(), *quick.split()]) == 0
