"""Going on to learn while deciding: what is logged, what is tried, the three guards, the two budgets, and no look ahead."""

import copy
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.contracts import Budget
from bench.errors import UserError
from bench.instance import Instance
from bench.metrics import objective
from bench.rollout import PolicySolver
from bench.setting import OBJECTIVES, Setting
from bench.simulator import Simulator
from bench.simulator.view import from_observation
from bench.verify import verify
from solvers.continual import Adaptation, Allowance, ContinualPolicy, ContinualPPO, divergence
from solvers.networks.pairwise import Network, PairNetwork
from solvers.networks.policy import NetworkPolicy
from solvers.rl.recent_decisions import Journal, visible_end
from solvers.rl.rollouts import log_probability
from tests.bench.test_non_anticipation import check
from tests.solvers.learning import (
    CPU,
    Fixed,
    Notes,
    decided_network,
    fit,
    random_instance,
    rough,
    same_weights,
    small,
    without_clock,
)  # fmt: skip

ONLINE = Setting(track="online", observe="arrived")
QUICK = Adaptation(
    interval=8,
    rehearsals=4,
    minibatches_per_update=2,
    minibatch=32,
    validation_window=8,
    max_kl=1e9,
)


def stream(seed: int = 0, n: int = 26) -> Instance:
    """n tasks that arrive over time, so many that some wait."""
    rng = np.random.default_rng(seed)
    fields = vars(random_instance(rng, n))
    return Instance(
        **{**fields, "release": np.sort(rng.integers(0, 2 * n, n)), "estimate": None, "due": None}
    )


def continual(rules: Adaptation = QUICK, setting: Setting = ONLINE, **more) -> ContinualPolicy:
    """A policy with clear preferences, deployed."""
    return ContinualPolicy(
        deployed(), ContinualPPO(device="cpu", adaptation=rules), setting, **more
    )


def deployed() -> NetworkPolicy:
    """Its network waits only where nothing else is legal."""
    network = decided_network()
    network.wait[-1].bias.data -= 1e6
    return NetworkPolicy(network, 16, CPU)


def played(policy, instance: Instance, setting: Setting = ONLINE, seed: int = 0):
    """One episode by the suite's own bridge."""
    result = PolicySolver(policy).solve(instance, setting, Budget(), np.random.default_rng(seed))
    assert not verify(instance, result.schedule)
    return result


def sabotaged(network: Network) -> Network:
    """The same network, but it waits wherever that is legal."""
    other = copy.deepcopy(network)
    other.wait[-1].bias.data += 1e8
    return other


# -- what is remembered --------------------------------------------------------------------------------------------


def test_logged_rewards_equal_a_hand_calculation():
    # both arrive at 1 for one place: the first, of weight 3, ends at 1 + 4; the second, of weight 2 and due at 6, at 5 + 5
    instance = Instance(
        [[4], [5]], np.ones((2, 1, 1)), [[1]], [0], release=[1, 1], weight=[3, 2], due=[9, 6]
    )
    simulator = Simulator([instance], ONLINE)
    journals = {name: Journal(name, memory=8) for name in OBJECTIVES}
    for action in (0, 1, 0):  # the second is `wait`
        seen = simulator.observation(0)
        for journal in journals.values():
            journal.add(seen, Network.see(from_observation(seen, CPU)), action, 0.0, 1.0, 0.0)
        simulator.step(np.array([simulator.flat(action, seen)]))
    rewards = {
        name: [decision.reward for decision in journal.decisions]
        for name, journal in journals.items()
    }
    slow = [-1, 0, -1]  # a task shorter than 10 s counts as if it took 10 s, and a tick is a second
    assert rewards == {
        "total_time": [-12, 0, -18],
        "makespan": [-5, 0, -5],
        "tardiness": [0, 0, -8],
        "bounded_slowdown": slow,
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_where_ends_are_certain_logged_rewards_are_the_shaped_ones(name):
    instance = random_instance(np.random.default_rng(3), 12)
    setting = Setting(objective=name)
    simulator, policy, paid = (
        Simulator([instance], setting, shaped=True),
        continual(setting=setting),
        [],
    )
    policy.rules = replace(QUICK, interval=10**6)
    while not simulator.terminated[0]:
        seen = simulator.observation(0)
        paid.append(
            simulator.step(
                np.array([simulator.flat(policy.act(seen, np.random.default_rng(0)), seen)])
            )[0]
        )
    factor = simulator.scale[0] * (instance.n_tasks if name == "bounded_slowdown" else 1)
    assert [d.reward for d in policy.journal.decisions] == pytest.approx(
        (factor * np.array(paid)).tolist()
    )


def test_in_commit_mode_a_task_that_waits_for_room_pays_for_it():
    instance = Instance([[4], [3]], np.ones((2, 1, 1)), [[1]], [0], weight=[1, 2])
    simulator = Simulator([instance], replace(ONLINE, mode="commit"))
    simulator.step(np.array([0]))
    assert visible_end(simulator.observation(0), 0, 0) == 7


def test_logged_decisions_can_be_looked_at_again():
    policy, setting = continual(replace(QUICK, temperature=0.7, interval=10**6)), ONLINE
    played(policy, stream(), setting)
    rollout = policy.journal.rollout(following=-3.0)
    logits, relative = policy.network(rollout.seen)
    torch.testing.assert_close(
        log_probability(logits / 0.7, rollout.action), rollout.logp, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(relative * rollout.unit, rollout.value[:, 0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(rollout.next_value[:-1], rollout.value[1:])
    assert rollout.next_value[-1].item() == -3.0


def test_the_recent_past_is_a_problem_of_tasks_that_have_arrived():
    instance, memory = rough(np.random.default_rng(4), 12), 5
    simulator, policy = (
        Simulator([instance], ONLINE, window=16),
        continual(replace(QUICK, validation_window=memory)),
    )
    started: list[tuple[int, int]] = []
    while not simulator.terminated[0]:
        seen = simulator.observation(0)
        if started:
            past = policy.journal.instance(seen)
            assert past.n_tasks == min(memory, len(started)) + len(seen.release)
            began = started[-memory:][0][0]
            assert past.release.tolist() == [
                max(0, row[1] - began) for row in started[-memory:]
            ] + [max(0, release - began) for release in seen.release.tolist()]
            assert (past.release + began <= seen.time).all()
            assert past.quota.tolist() == instance.quota.tolist()
            played(deployed(), past)
        action = policy.act(seen, np.random.default_rng(0))
        if action != seen.wait:
            started.append((seen.time, int(seen.release[action // seen.n_agents])))
        simulator.step(np.array([simulator.flat(action, seen)]))


# -- learning ------------------------------------------------------------------------------------------------------


def test_the_divergence_equals_a_hand_calculation():
    one, other = (
        torch.tensor([[0.0, 0.0, -torch.inf]]),
        torch.tensor([[0.0, np.log(3.0), -torch.inf]]),
    )
    assert divergence(one, other).item() == pytest.approx(
        0.5 * np.log(2.0) + 0.5 * np.log(0.5 / 0.75)
    )


@pytest.mark.parametrize(
    "rules", [QUICK, replace(QUICK, temperature=0.5, rehearsals=0), replace(QUICK, temperature=0.5)]
)
def test_it_learns_and_the_same_seed_gives_the_same_run(rules):
    policy = continual(rules)
    runs = [played(policy, stream()) for _ in range(2)]
    assert runs[0].info["kept"] > 0
    assert runs[0].schedule.to_dict() == runs[1].schedule.to_dict()
    assert runs[0].info == runs[1].info


def test_every_episode_starts_from_the_deployed_network():
    policy = continual()
    before = {name: tensor.clone() for name, tensor in policy.deployed.state_dict().items()}
    played(policy, stream())
    policy.reset()
    assert policy.network is policy.deployed
    assert not policy.journal.decisions
    assert not policy.journal.started
    for name, tensor in policy.network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_what_updates_did_is_kept_in_the_result():
    info = played(continual(), stream()).info
    assert info["updates"] == (info["decisions"] - 1) // QUICK.interval
    assert info["minibatches"] == QUICK.minibatches_per_update * (
        info["updates"] - info["rollbacks"]
    )
    outcomes = ("kept", "moved_too_far", "did_worse", "out_of_time", "rollbacks")
    assert sum(info[name] for name in outcomes) == info["updates"]


def heavy(seed: int, n: int = 48) -> Instance:
    """A stream whose tasks differ much in weight."""
    rng = np.random.default_rng(seed)
    return Instance(**{**vars(stream(seed, n)), "weight": rng.choice([1, 20], n)})


def test_a_policy_that_knows_nothing_becomes_much_better_while_it_decides():
    torch.manual_seed(2)  # one that decides badly: many untrained networks happen to do well here
    novice = NetworkPolicy(PairNetwork(8), 16, CPU)
    rules = Adaptation(
        interval=16,
        rehearsals=8,
        minibatches_per_update=8,
        minibatch=64,
        lr=3e-3,
        kl_weight=0.0,
        max_kl=10.0,
        validation_window=24,
    )
    policy = ContinualPolicy(novice, ContinualPPO(device="cpu", adaptation=rules), ONLINE)
    values = []
    for seed in (2, 3):
        schedules = [played(one, heavy(seed)).schedule for one in (policy, novice)]
        values.append([objective(heavy(seed), schedule, "total_time") for schedule in schedules])
    learning, not_learning = np.array(values).T
    assert learning.mean() < 0.5 * not_learning.mean()


# -- the guards ----------------------------------------------------------------------------------------------------


def test_no_update_that_moves_further_than_allowed_is_kept():
    result = played(continual(replace(QUICK, max_kl=0.0)), stream())
    assert result.info["moved_too_far"] == result.info["updates"] > 0
    assert result.schedule.to_dict() == played(deployed(), stream()).schedule.to_dict()


def test_an_update_that_is_not_even_a_number_is_not_kept():
    result = played(continual(replace(QUICK, lr=1e30, minibatches_per_update=4)), stream())
    assert result.info["moved_too_far"] == result.info["updates"] > 0
    assert result.schedule.to_dict() == played(deployed(), stream()).schedule.to_dict()


def test_an_update_that_plays_the_recent_past_worse_is_not_kept(monkeypatch):
    monkeypatch.setattr(ContinualPolicy, "_candidate", lambda self, *_: sabotaged(self.network))
    result = played(continual(), stream())
    assert result.info["did_worse"] == result.info["updates"] > 0
    assert result.schedule.to_dict() == played(deployed(), stream()).schedule.to_dict()


def test_a_network_that_has_become_worse_is_rolled_back():
    policy, simulator, rng = (
        continual(),
        Simulator([stream(1)], ONLINE, window=16),
        np.random.default_rng(0),
    )
    policy.network = sabotaged(policy.deployed)
    for decision in range(2 * QUICK.interval):
        seen = simulator.observation(0)
        action = policy.act(seen, rng)
        if decision >= QUICK.interval:
            assert policy.facts()["rollbacks"] == 1
            assert action == deployed().act(seen, rng)
        simulator.step(np.array([simulator.flat(action, seen)]))


# -- the budgets ---------------------------------------------------------------------------------------------------


def test_minibatches_stop_when_the_time_is_spent():
    ticks = itertools.count()  # every look at the clock takes a second
    policy = continual(
        replace(QUICK, minibatches_per_update=50, seconds_per_update=10.0),
        clock=lambda: float(next(ticks)),
    )
    result = played(policy, stream())
    assert 0 < result.info["minibatches"] <= 10 * result.info["updates"]
    assert next(ticks) <= 11 * result.info["updates"]


def test_without_time_nothing_is_learnt():
    result = played(continual(replace(QUICK, seconds_per_update=0.0)), stream())
    assert result.info["out_of_time"] == result.info["updates"] > 0
    assert result.info["minibatches"] == 0


def test_time_for_the_test_is_kept_back():
    assert Allowance(lambda: 4.0, deadline=10.0, reserve=5.0).lasts()
    assert not Allowance(lambda: 5.0, deadline=10.0, reserve=5.0).lasts()
    assert not Allowance(lambda: 4.0, deadline=10.0, reserve=2.0).lasts(more=2.0)


# -- as a plug-in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("mode", ["fit", "commit"])
def test_it_does_not_see_the_future(mode, temperature):
    setting = replace(ONLINE, mode=mode)
    policy = continual(replace(QUICK, temperature=temperature, tolerance=1e9), setting)
    assert check(policy, setting, rounds=2) > 4
    assert policy.counts["updates"] > 0


@pytest.mark.parametrize("setting", [
    Setting(), Setting(mode="commit", backfill="easy"), Setting(objective="tardiness"), replace(ONLINE, events="singly"),
])  # fmt: skip
def test_it_goes_on_learning_under_every_setting(setting):
    assert played(
        continual(replace(QUICK, temperature=0.5), setting),
        rough(np.random.default_rng(5), 20),
        setting,
    ).info["kept"]


def test_it_trains_like_ppo_and_is_deployed(tmp_path: Path):
    data, rules, checkpoint = (
        Fixed(random_instance, 4),
        {"adaptation": QUICK},
        str(tmp_path / "policy.pt"),
    )
    trained = fit(small(ContinualPPO, **rules), data, Notes(tmp_path), 300, ONLINE)
    loaded = fit(
        small(ContinualPPO, **rules, checkpoint=checkpoint), data, Notes(tmp_path), 1, ONLINE
    )
    assert same_weights(trained, loaded)
    assert (
        played(trained, stream()).schedule.to_dict() == played(loaded, stream()).schedule.to_dict()
    )


def test_bad_settings_are_one_clear_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"track.*use ppo"):
        fit(
            small(ContinualPPO),
            Fixed(without_clock, 2),
            Notes(tmp_path),
            10,
            Setting(track="assign"),
        )
    with pytest.raises(UserError, match=r"decoding.*greedy"):
        ContinualPPO(device="cpu", decoding="sample")
    with pytest.raises(UserError, match="interval: at least 1"):
        Adaptation(interval=0)
    with pytest.raises(UserError, match="lr: must not be negative"):
        Adaptation(lr=-1.0)
    with pytest.raises(UserError, match="nothing can be learnt"):
        Adaptation(temperature=0.0, rehearsals=0)
