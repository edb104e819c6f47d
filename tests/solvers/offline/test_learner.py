"""The contract of the offline learners: policies from logs, resumed, saved, and checked input."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.contracts import CHECKPOINT
from bench.errors import UserError
from bench.rollout import setting_of
from bench.setting import Setting
from bench.simulator.tables import NO_ACTION
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from solvers.cpsat import CpSat
from solvers.networks.policy import load_policy
from solvers.offline import learners
from solvers.offline.buffer import OfflineBuffer
from solvers.offline.d3rlpy_adapter.training import to_mini_batch
from solvers.offline.evaluation import greedy_actions
from solvers.offline.to_online import OfflineToOnline
from solvers.ppo import PPO
from solvers.rules import SJF
from tests.configured import slow
from tests.solvers.learning import FixedDataset, interrupt_after, random_instance, small_learner
from tests.solvers.offline.logged import (
    CPU,
    DATA,
    LEARNERS,
    SMALL,
    TRANSITION_LEARNERS,
    VARIANTS,
    InMemoryLog,
    fit,
    make_learner,
    record_log,
    schedules,
)

LOG = record_log(episodes=60)
SMALLER_INSTANCES = FixedDataset(lambda rng: random_instance(rng, n=4), 3)
FIVE_TASKS = FixedDataset(lambda rng: random_instance(rng, n=5, m=2), 300)


def learner(name, **changes):
    return make_learner(name, LOG, **changes)


@pytest.mark.parametrize("name", slow(LEARNERS, *VARIANTS))
def test_a_loaded_policy_decides_as_the_trained_one(name, tmp_path):
    policy, logger = fit(learner(name), tmp_path)
    loaded = load_policy(tmp_path / "policy.pt", CPU)
    test = list(DATA.instances("test"))[:6]
    assert schedules(policy, test) == schedules(loaded, test)
    larger = [random_instance(np.random.default_rng(k), n=11, m=5) for k in range(2)]
    assert schedules(policy, larger) == schedules(loaded, larger)
    assert logger.facts["logs/hash"] == LOG.hash
    assert len(logger.logged) == 4  # one set of metrics per epoch
    assert any(key.startswith("losses/") for key in logger.logged[0][1])
    assert logger.logged[3][0] == 20
    checkpoint = learner(name, checkpoint=str(tmp_path / "policy.pt"))
    from_checkpoint, deployed = fit(checkpoint, tmp_path / "other")
    cost = {key: one for key, one in logger.facts.items() if key.startswith("learning/")}
    assert {"learning/cpu_seconds", "learning/seconds", "learning/steps"} <= set(cost)
    assert deployed.facts.pop(CHECKPOINT)
    assert deployed.facts == cost
    assert schedules(from_checkpoint, test) == schedules(policy, test)


@pytest.mark.parametrize("name", slow(LEARNERS, *VARIANTS, "sac", "bcq", "iql", "bc"))
def test_an_interrupted_training_resumes_to_the_same_network(name, tmp_path):
    whole, _ = fit(learner(name, selection="last"), tmp_path / "whole")
    interrupted = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        fit(learner(name, selection="last"), interrupted, after_iteration=interrupt_after(2))
    resumed, logger = fit(learner(name, selection="last"), interrupted)
    assert len(logger.logged) == 2
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key


def test_a_training_is_not_resumed_on_another_log(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(learner("bc"), tmp_path, after_iteration=interrupt_after(2))
    other = replace(record_log(episodes=40), name="other")
    message = r"logs: other is not what .*training.pt was trained on; rerun=true"
    with pytest.raises(UserError, match=message):
        fit(make_learner("bc", other), tmp_path)


def agreement(network, log):
    """Return the share of logged decisions in which the greedy policy takes the logged action."""
    buffer = OfflineBuffer(log, CPU)
    return float((greedy_actions(network, buffer)[buffer.row] == buffer.action).float().mean())


def test_behavioural_cloning_of_an_expert_comes_near_it(tmp_path):
    log = record_log(300, CpSat(), data=FIVE_TASKS)
    settings = {**SMALL, "width": 16, "steps": 300, "lr": 3e-3, "batch": 128}
    bc = learners.BC(logs=InMemoryLog(log, FIVE_TASKS), **settings)
    policy, logger = fit(bc, tmp_path, FIVE_TASKS)
    expert = logger.facts["logs/held_out_return"]
    cloned = logger.facts["ope/true"]
    random = record_log(300, data=FIVE_TASKS).returns.mean()
    assert cloned > random + 0.6 * (expert - random)
    assert agreement(policy.network, log) > 0.65  # 0.01 to 0.43 for untrained networks


@pytest.mark.slow
def test_conservative_q_learning_on_noisy_play_beats_the_behaviour_policy(tmp_path):
    log = record_log(600, SJF(), noise=0.5, data=FIVE_TASKS)
    settings = {
        **SMALL,
        "width": 16,
        "steps": 400,
        "lr": 3e-3,
        "batch": 128,
        "selection": "last",
        "alpha": 0.3,
    }
    cql = learners.CQL(logs=InMemoryLog(log, FIVE_TASKS), **settings)
    _, logger = fit(cql, tmp_path, FIVE_TASKS)
    behaviour = logger.facts["logs/held_out_return"]
    assert logger.facts["ope/true"] > behaviour + 0.05 * abs(behaviour)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "bcq",
            {"flexibility": 0.0},
            "solver.flexibility: value .*: must be above 0 and at most 1",
        ),
        ("iql", {"expectile": 1.5}, "solver.expectile: value .*: must lie between 0 and 1"),
        (
            "iql",
            {"inverse_temperature": -5.0},
            "solver.inverse_temperature: value .*: must be above 0",
        ),
        ("cql", {"alpha": -1.0}, "solver.alpha: value .*: must not be negative"),
        ("cdqac", {"quantiles": 1}, "solver.quantiles: value 1: must be at least 2"),
        ("cdqac", {"actor_lr": 0.0}, "solver.actor_lr: value .*: must be above 0"),
        (
            "decision_transformer",
            {"heads": 3},
            "solver.embed: value 16: must be a multiple of solver.heads=3",
        ),
        (
            "decision_transformer",
            {"target_return_quantile": 2.0},
            "solver.target_return_quantile: value .*: must lie between 0 and 1",
        ),
    ],
)
def test_a_setting_of_an_algorithm_out_of_range_is_an_error(name, changes, message):
    with pytest.raises(UserError, match=message):
        learner(name, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": 61}, "solver.episodes: value 61: logged has 60; record a larger log"),
        ({"steps": 21}, "solver.steps: value 21: must be a multiple of twice solver.candidates=2"),
        ({"held_out": 0.0}, "solver.held_out: value .*: must lie between 0 and 1"),
        ({"selection": "best"}, "solver.selection: value 'best': must be one of fqe, oracle, last"),
        ({"lr": 0.0}, "solver.lr: value .*: must be above 0"),
        ({"episodes": 0}, "solver.episodes: value 0: must be at least 1"),
        (
            {"logs": InMemoryLog(LOG, setting=Setting(objective="makespan"))},
            "recorded with objective=makespan, the run has total_time",
        ),
        (
            {"logs": InMemoryLog(LOG.select([0]))},
            "at least 2 instances are needed.*; raise solver.episodes if it is set",
        ),
        (
            {"logs": InMemoryLog(LOG, setting=Setting(observe="arrived"))},
            "recorded with observe=arrived, the run has all; set observe=",
        ),
        (
            {"window": 3},
            r"solver.window: value 3: logged shows up to \d+ tasks; set solver.window=",
        ),
        ({"checkpoint": "no.pt"}, "no.pt does not exist"),
        (
            {"logs": InMemoryLog(LOG, SMALLER_INSTANCES)},
            r"instance .*, which its dataset does not",
        ),
    ],
)
def test_input_that_cannot_be_used_is_one_clear_error(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fit(learner("bc", **changes), tmp_path)


def test_a_log_of_another_setting_is_refused(tmp_path):
    message = r"logged was recorded with mode=fit, the run has commit; set mode=fit"
    with pytest.raises(UserError, match=message):
        fit(learner("bc"), tmp_path, setting=Setting(mode="commit"))


def test_a_run_observes_what_its_log_shows(tmp_path):
    arrived_only = InMemoryLog(LOG, setting=Setting(track="online", observe="arrived"))

    def observed(plugin, setting=None):
        return setting_of(plugin, setting or Setting()).observe

    assert observed(learner("bc", logs=arrived_only)) == "arrived"
    both = OfflineToOnline(learner("bc", logs=arrived_only), small_learner(PPO))
    assert observed(both) == "arrived"
    assert observed(learner("bc")) == "all"
    assert observed(OfflineToOnline(learner("bc"), small_learner(PPO))) == "all"
    fit(learner("bc"), tmp_path)
    loaded = learner("bc", logs=None, checkpoint=str(tmp_path / "policy.pt"))
    assert observed(loaded, Setting(observe="arrived")) == "arrived"
    assert observed(learner("bc", logs=arrived_only, checkpoint="policy.pt")) == "arrived"
    policy, _ = fit(loaded, tmp_path / "other")
    instances = list(DATA.instances("test"))[:2]
    trained = load_policy(tmp_path / "policy.pt", CPU)
    assert schedules(policy, instances) == schedules(trained, instances)


def test_a_log_on_other_instances_is_refused_before_training(tmp_path):
    calls = []
    logs = InMemoryLog(LOG, SMALLER_INSTANCES)
    with pytest.raises(UserError, match="which its dataset does not have"):
        fit(learner("bc", logs=logs), tmp_path, after_iteration=calls.append)
    assert calls == []
    fit(learner("bc"), tmp_path, after_iteration=calls.append)
    assert calls  # it is called by a training that is not refused


def test_a_network_that_is_no_longer_finite_fails_the_run(tmp_path):
    """With this learning rate weights overflow: the run failed, the input was not wrong."""
    message = r"no longer finite after \d+ steps; lower solver.lr"
    with pytest.raises(FloatingPointError, match=message):
        fit(learner("dqn", lr=1e30), tmp_path)


def test_as_many_episodes_are_used_as_asked_for(tmp_path):
    _, logger = fit(learner("bc", episodes=30), tmp_path)
    assert logger.facts["logs/episodes"] == 30


def test_rejected_rows_are_listed_in_the_folder_of_the_run(tmp_path):
    logs = InMemoryLog(LOG)
    logs.rejected = [(4, "ended before it began")]
    _, logger = fit(learner("bc", logs=logs), tmp_path)
    assert logger.facts["logs/rejected_rows"] == 1
    assert (tmp_path / "rejected.csv").read_text() == "row,reason\n4,ended before it began\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_no_illegal_action_in_a_hundred_thousand_decisions(name, tmp_path):
    """In the targets of training, in episodes, and in PPO that begins with the policy.

    `TensorSimulator.check` raises for an illegal action.
    """
    one = learner(name)
    buffer = OfflineBuffer(LOG, CPU)
    policy, _ = fit(one, tmp_path)
    if name in TRANSITION_LEARNERS:
        algorithm = one.make_algorithm(buffer)
        targets = 0
        while targets < 100_000:
            batch = buffer.sample(1024)
            algorithm.update(to_mini_batch(batch, CPU))
            continues = batch.terminal == 0
            best = algorithm.impl.predict_best_action(batch.next_state)
            assert batch.next_state.mask.gather(1, best[:, None])[continues].all()
            targets += int(continues.sum())
    decisions = 0
    repetition = 0
    while decisions < 100_000:
        instances = [
            random_instance(np.random.default_rng([repetition, k]), n=8 + k % 5) for k in range(256)
        ]
        simulator = TensorSimulator(instances, Setting())
        policy.reset()
        while simulator.playing.any():
            with torch.no_grad():
                features = policy.network.featurize(from_simulator(simulator))
                action = policy.network(features)[0].argmax(dim=1)
            decisions += int(simulator.playing.sum())
            simulator.step(torch.where(simulator.playing, action, NO_ACTION))
        simulator.check()
        repetition += 1
    if name in TRANSITION_LEARNERS:  # PPO cannot begin with a policy that has a memory
        ppo = small_learner(
            PPO,
            init_policy=str(tmp_path / "policy.pt"),
            num_envs=64,
            steps=32,
            minibatch=512,
            decoding="greedy",
        )
        fit(ppo, tmp_path / "ppo", decisions=100_000)
