"""Online adaptation: logged decisions, updates, safeguards, time limits, and no look ahead."""

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
from solvers.continual import (
    OUTCOMES,
    Adaptation,
    ContinualPolicy,
    ContinualPPO,
    TimeLimit,
    interpolate,
    kl_divergence,
)
from solvers.networks.base import Network
from solvers.networks.pairwise import PairwiseNetwork
from solvers.networks.policy import NetworkPolicy, load_policy
from solvers.ppo import PPO
from solvers.rl.recent_decisions import RecentDecisions, visible_end
from solvers.rl.rollouts import log_probability
from tests.bench.test_non_anticipation import count_compared
from tests.solvers.learning import (
    CPU,
    ONLINE,
    FixedDataset,
    MemoryLogger,
    budget_instance,
    complex_instance,
    confident_network,
    fit,
    random_instance,
    same_weights,
    small_learner,
)

QUICK = Adaptation(
    interval=8,
    simulated_rollouts=4,
    minibatches_per_update=2,
    minibatch=32,
    validation_window=8,
    max_kl=1e9,
    seconds_per_update=3600.0,  # no limit, however busy the machine is
)


def stream(seed: int = 0, n: int = 26) -> Instance:
    """Return n tasks that arrive over time, so many that some wait."""
    rng = np.random.default_rng(seed)
    fields = vars(random_instance(rng, n))
    return Instance(
        **{**fields, "release": np.sort(rng.integers(0, 2 * n, n)), "estimate": None, "due": None}
    )


def deployed_policy() -> NetworkPolicy:
    """Return a policy that waits only where nothing else is legal."""
    network = confident_network()
    network.wait[-1].bias.data -= 1e6
    return NetworkPolicy(network, 16, CPU)


def continual(adaptation: Adaptation = QUICK, setting: Setting = ONLINE, **more) -> ContinualPolicy:
    learner = ContinualPPO(device="cpu", adaptation=adaptation)
    return ContinualPolicy(deployed_policy(), learner, setting, **more)


def play(policy, instance: Instance, setting: Setting = ONLINE, seed: int = 0):
    """Return the result of one episode; its schedule is feasible."""
    result = PolicySolver(policy).solve(instance, setting, Budget(), np.random.default_rng(seed))
    assert not verify(instance, result.schedule)
    return result


def always_waiting(network: Network) -> Network:
    """Return a copy of the network that waits wherever that is legal."""
    other = copy.deepcopy(network)
    other.wait[-1].bias.data += 1e8
    return other


# -- logged decisions ----------------------------------------------------------------------------


def test_logged_rewards_equal_a_hand_calculation():
    # both arrive at 1, and one place is free: the first, of weight 3, ends at 1 + 4; the second, of
    # weight 2 and due at 6, at 5 + 5
    instance = Instance(
        [[4], [5]], np.ones((2, 1, 1)), [[1]], [0], release=[1, 1], weight=[3, 2], due=[9, 6]
    )
    simulator = Simulator([instance], ONLINE)
    logs = {name: RecentDecisions(name, max_tasks=8) for name in OBJECTIVES}
    for action in (0, 1, 0):  # the second is `wait`
        observation = simulator.observation(0)
        features = Network.featurize(from_observation(observation, CPU))
        for log in logs.values():
            log.add(observation, features, action, 0.0, 1.0, 0.0)
        simulator.step(np.array([simulator.flat(action, observation)]))
    rewards = {name: [decision.reward for decision in log.decisions] for name, log in logs.items()}
    # a task shorter than 10 s counts as if it took 10 s, and a tick is a second
    slowdown = [-1, 0, -1]
    assert rewards == {
        "total_time": [-12, 0, -18],
        "makespan": [-5, 0, -5],
        "tardiness": [0, 0, -8],
        "bounded_slowdown": slowdown,
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_logged_rewards_equal_shaped_rewards_where_ends_are_certain(name):
    instance = random_instance(np.random.default_rng(3), 12)
    setting = Setting(objective=name)
    simulator = Simulator([instance], setting, shaped=True)
    policy = continual(replace(QUICK, interval=10**6), setting)
    shaped = []
    while not simulator.terminated[0]:
        observation = simulator.observation(0)
        action = policy.act(observation, np.random.default_rng(0))
        shaped.append(simulator.step(np.array([simulator.flat(action, observation)]))[0])
    factor = simulator.scale[0] * (instance.n_tasks if name == "bounded_slowdown" else 1)
    assert [d.reward for d in policy.recent.decisions] == pytest.approx(
        (factor * np.array(shaped)).tolist()
    )
    assert min(shaped) < 0


def test_in_commit_mode_the_visible_end_includes_waiting_for_capacity():
    instance = Instance([[4], [3]], np.ones((2, 1, 1)), [[1]], [0], weight=[1, 2])
    simulator = Simulator([instance], replace(ONLINE, mode="commit"))
    simulator.step(np.array([0]))
    assert visible_end(simulator.observation(0), 0, 0) == 7


def test_logged_decisions_give_the_same_outputs_again():
    policy = continual(replace(QUICK, temperature=0.7, interval=10**6))
    play(policy, stream())
    rollout = policy.recent.rollout(last_value=-3.0)
    logits, value = policy.network(rollout.features)
    assert len(logits) >= 26
    torch.testing.assert_close(
        log_probability(logits / 0.7, rollout.action), rollout.logp, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(value * rollout.unit, rollout.value[:, 0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(rollout.next_value[:-1], rollout.value[1:])
    assert rollout.next_value[-1].item() == -3.0


def test_the_recent_instance_consists_of_tasks_that_have_arrived():
    instance, window = complex_instance(np.random.default_rng(4), 12), 5
    simulator = Simulator([instance], ONLINE, window=16)
    policy = continual(replace(QUICK, validation_window=window))
    started: list[tuple[int, int]] = []
    while not simulator.terminated[0]:
        observation = simulator.observation(0)
        waiting = observation.release.tolist()
        if started:
            recent = policy.recent.instance(observation)
            first_start = started[-window:][0][0]
            releases = [release for _, release in started[-window:]] + waiting
            assert recent.n_tasks == min(window, len(started)) + len(waiting)
            assert recent.release.tolist() == [max(0, r - first_start) for r in releases]
            assert (recent.release + first_start <= observation.time).all()
            assert recent.quota.tolist() == instance.quota.tolist()
            play(deployed_policy(), recent)
        action = policy.act(observation, np.random.default_rng(0))
        if action != observation.wait:
            started.append((observation.time, waiting[action // observation.n_agents]))
        simulator.step(np.array([simulator.flat(action, observation)]))
    assert len(started) > window


# -- updates -------------------------------------------------------------------------------------


def test_the_kl_divergence_equals_a_hand_calculation():
    p = torch.tensor([[0.0, 0.0, -torch.inf]])
    q = torch.tensor([[0.0, np.log(3.0), -torch.inf]])
    expected = 0.5 * np.log(2.0) + 0.5 * np.log(0.5 / 0.75)
    assert kl_divergence(p, q).item() == pytest.approx(expected)


def test_interpolation_moves_every_weight_by_the_fraction_and_changes_neither_end():
    start, end = PairwiseNetwork(8), PairwiseNetwork(8)
    before = copy.deepcopy(start.state_dict()), copy.deepcopy(end.state_dict())
    middle = interpolate(start, end, 0.25).state_dict()
    for name, weight in middle.items():
        torch.testing.assert_close(weight, 0.75 * before[0][name] + 0.25 * before[1][name])
        assert torch.equal(start.state_dict()[name], before[0][name])
        assert torch.equal(end.state_dict()[name], before[1][name])


@pytest.mark.parametrize(
    "adaptation",
    [
        QUICK,
        replace(QUICK, temperature=0.5, simulated_rollouts=0),
        replace(QUICK, temperature=0.5),
    ],
)
def test_updates_are_accepted_and_the_same_seed_gives_the_same_run(adaptation):
    policy = continual(adaptation)
    runs = [play(policy, stream()) for _ in range(2)]
    assert runs[0].info["accepted"] > 0
    assert runs[0].schedule.to_dict() == runs[1].schedule.to_dict()
    assert runs[0].info == runs[1].info


def test_every_episode_starts_from_the_deployed_network():
    policy = continual()
    before = {name: tensor.clone() for name, tensor in policy.deployed.state_dict().items()}
    play(policy, stream())
    assert policy.network is not policy.deployed
    assert policy.recent.started
    policy.reset()
    assert policy.network is policy.deployed
    assert not policy.recent.decisions
    assert not policy.recent.started
    for name, tensor in policy.network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_result_reports_every_update_and_its_outcome():
    info = play(continual(), stream()).info
    assert info["updates"] == (info["decisions"] - 1) // QUICK.interval > 0
    assert info["minibatches"] == QUICK.minibatches_per_update * (
        info["updates"] - info["rollbacks"]
    )
    assert sum(info[name] for name in OUTCOMES) == info["updates"]


def weighted_stream(seed: int, n: int = 48) -> Instance:
    """Return a stream of tasks whose weights differ much."""
    rng = np.random.default_rng(seed)
    return Instance(**{**vars(stream(seed, n)), "weight": rng.choice([1, 20], n)})


def test_an_untrained_policy_becomes_much_better_while_it_decides():
    torch.manual_seed(2)  # a bad policy: many untrained networks happen to be good here
    untrained = NetworkPolicy(PairwiseNetwork(8), 16, CPU)
    adaptation = Adaptation(
        interval=16,
        simulated_rollouts=8,
        minibatches_per_update=8,
        minibatch=64,
        lr=3e-3,
        kl_weight=0.0,
        max_kl=10.0,
        validation_window=24,
    )
    policy = ContinualPolicy(untrained, ContinualPPO(device="cpu", adaptation=adaptation), ONLINE)
    values = []
    for seed in (2, 3):
        instance = weighted_stream(seed)
        schedules = [play(one, instance).schedule for one in (policy, untrained)]
        values.append([objective(instance, schedule, "total_time") for schedule in schedules])
    adapted, not_adapted = np.array(values).T
    assert adapted.mean() < 0.5 * not_adapted.mean()


# -- safeguards ----------------------------------------------------------------------------------


def test_updates_outside_the_trust_region_are_rejected():
    result = play(continual(replace(QUICK, max_kl=0.0)), stream())
    assert result.info["rejected_trust_region"] == result.info["updates"] > 0
    assert result.schedule.to_dict() == play(deployed_policy(), stream()).schedule.to_dict()


def test_updates_to_weights_that_are_not_finite_are_rejected():
    result = play(continual(replace(QUICK, lr=1e30, minibatches_per_update=4)), stream())
    assert result.info["rejected_trust_region"] == result.info["updates"] > 0
    assert result.schedule.to_dict() == play(deployed_policy(), stream()).schedule.to_dict()


def test_updates_that_are_worse_on_the_recent_instance_are_rejected(monkeypatch):
    monkeypatch.setattr(
        ContinualPolicy, "_train_candidate", lambda self, *_: always_waiting(self.network)
    )
    result = play(continual(), stream())
    assert result.info["rejected_validation"] == result.info["updates"] > 0
    assert result.schedule.to_dict() == play(deployed_policy(), stream()).schedule.to_dict()


def test_a_network_that_has_become_worse_is_rolled_back():
    policy = continual()
    simulator = Simulator([stream(1)], ONLINE, window=16)
    rng = np.random.default_rng(0)
    policy.network = always_waiting(policy.deployed)
    for decision in range(2 * QUICK.interval):
        observation = simulator.observation(0)
        action = policy.act(observation, rng)
        if decision >= QUICK.interval:
            assert policy.facts()["rollbacks"] == 1
            assert action == deployed_policy().act(observation, rng)
        simulator.step(np.array([simulator.flat(action, observation)]))


# -- time limits ---------------------------------------------------------------------------------


def test_minibatches_stop_at_the_time_limit():
    ticks = itertools.count()  # every reading of the clock takes a second
    policy = continual(
        replace(QUICK, minibatches_per_update=50, seconds_per_update=10.0),
        clock=lambda: float(next(ticks)),
    )
    result = play(policy, stream())
    assert 0 < result.info["minibatches"] <= 10 * result.info["updates"]
    assert next(ticks) <= 11 * result.info["updates"]


def test_without_time_nothing_is_learnt():
    result = play(continual(replace(QUICK, seconds_per_update=0.0)), stream())
    assert result.info["out_of_time"] == result.info["updates"] > 0
    assert result.info["minibatches"] == 0


def test_time_for_the_tests_of_the_candidate_is_reserved():
    assert TimeLimit(lambda: 4.0, deadline=10.0, test_seconds=5.0).allows()
    assert not TimeLimit(lambda: 5.0, deadline=10.0, test_seconds=5.0).allows()
    assert TimeLimit(lambda: 3.0, deadline=10.0, test_seconds=2.0).allows(extra=2.0)
    assert not TimeLimit(lambda: 4.0, deadline=10.0, test_seconds=2.0).allows(extra=2.0)


# -- as a plug-in --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "temperature"),
    [
        ("fit", 0.5),
        ("commit", 0.0),
        pytest.param("fit", 0.0, marks=pytest.mark.slow),
        pytest.param("commit", 0.5, marks=pytest.mark.slow),
    ],
)
def test_no_decision_depends_on_tasks_of_the_future(mode, temperature):
    setting = replace(ONLINE, mode=mode)
    policy = continual(replace(QUICK, temperature=temperature, tolerance=1e9), setting)
    played = []
    assert count_compared(policy, setting, n_instances=2, played=played) > 4
    assert any(one.counts["updates"] > 0 for one in played)


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(Setting(), marks=pytest.mark.slow),
        Setting(mode="commit", backfill="easy"),
        pytest.param(Setting(objective="tardiness"), marks=pytest.mark.slow),
        replace(ONLINE, event_order="sequential"),
    ],
)
def test_updates_are_accepted_under_every_setting(setting):
    policy = continual(replace(QUICK, temperature=0.5), setting)
    assert play(policy, complex_instance(np.random.default_rng(5), 20), setting).info["accepted"]


def test_it_trains_like_ppo_and_its_policy_file_is_loaded(tmp_path: Path):
    data, checkpoint = FixedDataset(random_instance, 4), str(tmp_path / "policy.pt")
    learner = small_learner(ContinualPPO, adaptation=QUICK)
    trained = fit(learner, data, MemoryLogger(tmp_path), 300, ONLINE)
    learner = small_learner(ContinualPPO, adaptation=QUICK, checkpoint=checkpoint)
    loaded = fit(learner, data, MemoryLogger(tmp_path), 1, ONLINE)
    assert same_weights(trained, loaded)
    assert play(trained, stream()).schedule.to_dict() == play(loaded, stream()).schedule.to_dict()


def test_a_policy_without_a_trained_critic_is_refused(tmp_path: Path):
    for name in ("small-online", "medium-online", "medium"):
        learner = ContinualPPO(device="cpu", decoding="greedy", checkpoint=f"pretrained/{name}")
        with pytest.raises(UserError, match=r"checkpoint: .*no critic .* ppo_continual needs"):
            fit(learner, FixedDataset(random_instance, 2), MemoryLogger(tmp_path), 10, ONLINE)


def test_the_critic_of_an_initial_policy_that_stays_the_best_is_not_a_trained_one(tmp_path: Path):
    policy = NetworkPolicy(confident_network(), 16, CPU, predicts_returns=False)
    policy.save(tmp_path / "first.pt")
    learner = small_learner(PPO, init_policy=str(tmp_path / "first.pt"), lr=1e-12, ema_decay=1.0)
    fit(learner, FixedDataset(random_instance, 2), MemoryLogger(tmp_path), 64, ONLINE)
    assert not load_policy(tmp_path / "policy.pt", CPU).predicts_returns


def test_settings_that_mean_nothing_are_errors_that_say_so(tmp_path: Path):
    data = FixedDataset(budget_instance, 2)
    with pytest.raises(UserError, match=r"track: value 'assign': .*use ppo"):
        fit(small_learner(ContinualPPO), data, MemoryLogger(tmp_path), 10, Setting(track="assign"))
    with pytest.raises(UserError, match=r"decoding: value 'sample': .*set greedy"):
        ContinualPPO(device="cpu", decoding="sample")
    with pytest.raises(UserError, match=r"advantage: value group: .*ppo_continual needs"):
        ContinualPPO(device="cpu", decoding="greedy", advantage="group", shaped=False)
    with pytest.raises(UserError, match=r"critic: value clairvoyant: .*ppo_continual needs"):
        ContinualPPO(device="cpu", decoding="greedy", critic="clairvoyant")
    with pytest.raises(UserError, match="interval: value 0: must be at least 1"):
        Adaptation(interval=0)
    with pytest.raises(UserError, match=r"lr: value -1\.0: must not be negative"):
        Adaptation(lr=-1.0)
    with pytest.raises(UserError, match="nothing can be learnt"):
        Adaptation(temperature=0.0, simulated_rollouts=0)
