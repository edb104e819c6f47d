"""The recorder plays every kind of behaviour policy and records its probabilities."""

from dataclasses import replace

import numpy as np
import pytest

from bench import metrics
from bench.contracts import Budget, Result, Solver
from bench.errors import UserError
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator import Simulator
from datasets.logs.recorded import Behaviour
from datasets.logs.recorder import Recorder
from solvers.allox import AlloX
from solvers.cpsat import CpSat
from solvers.offline.learners import BC
from solvers.ppo import PPO
from solvers.rules import SJF, Random
from tests.solvers.learning import FixedDataset, random_instance, small_learner

DATA = FixedDataset(random_instance, 12)


def record(behaviour, data=DATA, seed=0, name="x-v0", **setting):
    """Return the log of one behaviour policy."""
    return Recorder(name, data, Setting(**setting), seed).record("policy", behaviour)


def test_random_play_has_uniform_probabilities():
    log = record(Behaviour(Random(), 30))
    assert len(log.length) == 30
    assert np.allclose(log.probability, 1 / log.mask.sum(axis=1))
    assert log.instance[:12] == tuple(i.hash() for i in DATA.instances("train"))
    assert log.instance[12:24] == log.instance[:12]  # again from the first one
    assert set(log.behaviour) == {"policy"}
    assert (log.returns < 0).all()


def test_a_rule_is_recorded_with_its_own_actions():
    log = record(Behaviour(SJF(), 12))
    assert (log.probability == 1.0).all()
    for e, instance in enumerate(DATA.instances("train")):
        simulator = Simulator([instance], Setting(), window=log.layout.tasks)
        for t in range(log.first[e], log.first[e] + log.length[e]):
            observation = simulator.observation(0)
            action = simulator.flat(SJF().act(observation, np.random.default_rng(0)), observation)
            wait = simulator.n_actions - 1
            agents = simulator.tables.agents.shape[1]
            expected = "wait" if action == wait else divmod(action, agents)
            logged = int(log.action[t])
            found = "wait" if logged == log.layout.actions - 1 else divmod(logged, agents)
            assert found == expected
            simulator.step(np.array([action]))


def test_noise_draws_the_given_share_of_actions_uniformly():
    log = record(Behaviour(SJF(), 200, noise=0.4))
    legal = log.mask.sum(axis=1)
    followed = log.probability > 0.4 / legal + 1e-9
    assert np.allclose(log.probability, np.where(followed, 0.6 + 0.4 / legal, 0.4 / legal))
    has_choice = legal > 1
    expected = (0.6 + 0.4 / legal[has_choice]).mean()
    tolerance = 4 * np.sqrt(0.25 / has_choice.sum())
    assert followed[has_choice].mean() == pytest.approx(expected, abs=tolerance)


@pytest.mark.slow
def test_an_exact_solver_is_recorded_optimally_with_shared_probabilities():
    """Tasks that the schedule starts at the same time are equally likely to be first."""
    log = record(Behaviour(CpSat(), 12, seconds=3600.0))
    for e, instance in enumerate(DATA.instances("train")):
        proved = CpSat().solve(
            instance, Setting(), Budget(seconds=3600.0, threads=1), np.random.default_rng(0)
        )
        assert proved.status == "optimal"
        scale = Simulator([instance], Setting()).scale[0]
        optimum = metrics.objective(instance, proved.schedule, "total_time")
        assert -log.returns[e] * scale == pytest.approx(optimum)
    assert ((log.probability == 1.0) | (log.probability <= 0.5)).all()
    assert (log.probability < 1.0).any()


class IncompleteSolver(Solver):
    """A solver that leaves tasks out."""

    def solve(self, instance, setting, budget, rng):
        return Result(Schedule.empty(), "unknown")


def test_an_incomplete_schedule_is_refused():
    with pytest.raises(UserError, match=r"no complete schedule of .*raise seconds"):
        record(Behaviour(IncompleteSolver(), 2))


def ppo(**changes):
    return small_learner(PPO, **{"steps": 8, "minibatch": 64, "decoding": "greedy", **changes})


def test_a_learner_is_trained_before_it_is_recorded():
    log = record(Behaviour(ppo(shaped=False), 20, decisions=200))
    assert len(log.length) == 20
    assert (log.probability < 1.0).any()  # it draws its actions


def test_a_replay_holds_all_episodes_of_the_training():
    learner = ppo(shaped=False)
    replay = record(Behaviour(learner, 0, decisions=500, replay=True))
    assert 500 - 16 * 20 < len(replay.action) <= 512
    assert replay.terminated.sum() == len(replay.length)
    assert learner.recorder is None
    few = record(Behaviour(learner, 5, decisions=500, replay=True))
    assert replace(few, name="x").hash == replay.select(range(5)).hash


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (ppo(shaped=True), r"set policy.shaped=false for x-v0"),
        (SJF(), r"SJF does not learn"),
        (BC(logs=None), r"BC plays no episodes that could be recorded"),
    ],
)
def test_a_replay_without_recorded_training_is_refused(policy, message):
    with pytest.raises(UserError, match=message):
        record(Behaviour(policy, 5, replay=True))


def test_a_planning_policy_keeps_its_plan_for_one_episode_only():
    """Episodes are played side by side, and each one is what it would be alone."""
    data = FixedDataset(lambda rng: random_instance(rng, n=8), 5)
    setting = {"track": "online", "observe": "arrived"}
    log = record(Behaviour(AlloX(), 5), data, **setting)
    for e, instance in enumerate(data.instances("train")):
        single = FixedDataset(lambda rng, one=instance: one, 1)
        alone = record(Behaviour(AlloX(), 1), single, **setting)
        assert alone.returns.tolist() == log.select([e]).returns.tolist()


def test_the_same_seed_records_the_same_log():
    behaviour = Behaviour(Random(), 12)
    assert record(behaviour, seed=1).hash == record(behaviour, seed=1).hash
    assert record(behaviour, seed=1).hash != record(behaviour, seed=2).hash
