"""Recorded logs: every kind of behaviour, its probabilities, and a log that is what its settings say."""

from dataclasses import replace

import numpy as np
import pytest

from bench import metrics
from bench.contracts import Budget, Result
from bench.errors import UserError
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator import Simulator
from datasets.logs import minari_files
from datasets.logs.recorded import Behaviour, JoinedLogs, RecordedLogs, Recorder
from solvers.allox import AlloX
from solvers.cpsat import CpSat
from solvers.offline.learners import BC
from solvers.ppo import PPO
from solvers.rules import SJF, WSPT, Random
from tests.solvers.learning import Fixed, random_instance, small

DATA = Fixed(random_instance, 12)


def logs(folder, name="some-v0", **behaviours):
    made = RecordedLogs(name, DATA, behaviours)
    made.cache = folder
    return made


def test_random_play_has_its_probabilities_and_returns(tmp_path):
    log = logs(tmp_path, random=Behaviour(Random(), 30)).episodes()
    assert len(log.length) == 30
    assert np.allclose(log.probability, 1 / log.mask.sum(axis=1))
    assert log.instance[:12] == tuple(i.hash() for i in DATA.instances("train"))
    assert log.instance[12:24] == log.instance[:12]  # again from the first one
    assert set(log.behaviour) == {"random"}
    assert (log.returns < 0).all()


def test_a_rule_does_what_it_does_and_noise_makes_it_random(tmp_path):
    log = logs(tmp_path, sjf=Behaviour(SJF(), 12)).episodes()
    assert (log.probability == 1.0).all()
    for e, instance in enumerate(DATA.instances("train")):
        simulator = Simulator([instance], Setting(), window=log.layout.tasks)
        for t in range(log.first[e], log.first[e] + log.length[e]):
            seen = simulator.observation(0)
            action = simulator.flat(SJF().act(seen, np.random.default_rng(0)), seen)
            assert _named(action, simulator) == _named(int(log.action[t]), simulator, log.layout)
            simulator.step(np.array([action]))
    noisy = logs(tmp_path, "noisy-v0", sjf=Behaviour(SJF(), 200, noise=0.4)).episodes()
    legal = noisy.mask.sum(axis=1)
    followed = noisy.probability > 0.4 / legal + 1e-9
    assert np.allclose(noisy.probability, np.where(followed, 0.6 + 0.4 / legal, 0.4 / legal))
    chosen = legal > 1
    expected = (0.6 + 0.4 / legal[chosen]).mean()
    assert followed[chosen].mean() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / chosen.sum()))


def _named(action, simulator, layout=None):
    agents = layout.agents if layout else simulator.tables.agents.shape[1]
    last = layout.actions - 1 if layout else simulator.n_actions - 1
    return "wait" if action == last else divmod(action, agents)


def test_an_expert_is_optimal_and_its_probabilities_share_what_starts_together(tmp_path):
    log = logs(tmp_path, cpsat=Behaviour(CpSat(), 12, seconds=10.0)).episodes()
    for e, instance in enumerate(DATA.instances("train")):
        proved = CpSat().solve(
            instance, Setting(), Budget(seconds=10.0, threads=1), np.random.default_rng(0)
        )
        assert proved.status == "optimal"
        scale = Simulator([instance], Setting()).scale[0]
        optimum = metrics.objective(instance, proved.schedule, "total_time")
        assert -log.returns[e] * scale == pytest.approx(optimum)
    assert ((log.probability == 1.0) | (log.probability <= 0.5)).all()


class Lazy:
    """A solver that leaves tasks out."""

    def solve(self, instance, setting, budget, rng):
        return Result(Schedule.empty(), "unknown")


def test_a_plan_that_leaves_tasks_out_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no whole schedule of .*raise seconds"):
        logs(tmp_path, lazy=Behaviour(Lazy(), 2)).episodes()


def test_a_learner_is_trained_first_and_a_replay_holds_all_that_it_saw(tmp_path):
    learner = small(PPO, steps=8, minibatch=64, decoding="greedy", shaped=False)
    log = logs(tmp_path, ppo=Behaviour(learner, 20, decisions=1000)).episodes()
    assert len(log.length) == 20
    assert (log.probability < 1.0).any()  # it draws its actions
    replay = logs(
        tmp_path, "replay-v0", ppo=Behaviour(learner, 0, decisions=1000, replay=True)
    ).episodes()
    assert 1000 - 16 * 20 < len(replay.action) <= 1024
    assert replay.terminated.sum() == len(replay.length)
    anew = small(PPO, steps=8, minibatch=64, decoding="greedy", shaped=False)
    again = logs(
        tmp_path, "replay-v0", ppo=Behaviour(anew, 0, decisions=1000, replay=True)
    ).episodes()
    assert again.hash == replay.hash  # read, not refused for other settings
    assert learner.tape is None
    few = logs(
        tmp_path, "few-v0", ppo=Behaviour(learner, 5, decisions=1000, replay=True)
    ).episodes()
    assert replace(few, name="x").hash == replay.part(range(5)).hash
    shaped = logs(
        tmp_path,
        "shaped-v0",
        ppo=Behaviour(replace(learner, shaped=True), 5, decisions=1000, replay=True),
    )
    with pytest.raises(UserError, match=r"set policy.shaped=false for shaped-v0"):
        shaped.episodes()
    with pytest.raises(UserError, match=r"SJF does not learn"):
        logs(tmp_path, "no-v0", sjf=Behaviour(SJF(), 5, replay=True)).episodes()
    with pytest.raises(UserError, match=r"BC does not play while it learns"):
        logs(tmp_path, "no-v0", bc=Behaviour(BC(logs=None), 5, replay=True)).episodes()


def test_planners_remember_what_they_planned_for_one_episode_only(tmp_path):
    """Episodes are played side by side; each is what it would be alone, and the log is read again as the one recorded."""
    data = Fixed(lambda rng: random_instance(rng, n=8), 5)
    setting = {"track": "online", "observe": "arrived"}
    together = RecordedLogs("all-v0", data, {"allox": Behaviour(AlloX(), 5)}, setting)
    together.cache = tmp_path
    log = together.episodes()
    for e, instance in enumerate(data.instances("train")):
        alone = RecordedLogs(
            f"one-v{e}",
            Fixed(lambda rng, one=instance: one, 1),
            {"allox": Behaviour(AlloX(), 1)},
            setting,
        )
        alone.cache = tmp_path
        assert alone.episodes().returns.tolist() == log.part([e]).returns.tolist()
    assert together.episodes().hash == log.hash


def test_a_log_is_recorded_once_and_taken_for_no_other(tmp_path):
    first = logs(tmp_path, random=Behaviour(Random(), 10))
    told = []
    log = first.episodes(lambda done, total, note: told.append(done))
    assert told == [10]
    assert first.episodes(lambda *heard: pytest.fail("recorded again")).hash == log.hash
    assert logs(tmp_path, random=Behaviour(Random(), 10)).episodes().hash == log.hash
    with pytest.raises(UserError, match=r"recorded from other settings.*delete the folder"):
        logs(tmp_path, random=Behaviour(Random(), 11)).episodes()
    with pytest.raises(UserError, match=r"recorded from other settings"):
        logs(tmp_path, random=Behaviour(WSPT(), 10)).episodes()


def test_the_same_seed_records_the_same_log():
    def record(seed):
        return Recorder("x", DATA, Setting(), seed).record("random", Behaviour(Random(), 12)).hash

    assert record(1) == record(1)
    assert record(1) != record(2)


def test_several_behaviours_and_several_logs_are_one(tmp_path):
    both = logs(tmp_path, "both-v0", sjf=Behaviour(SJF(), 4), random=Behaviour(Random(), 8))
    assert both.episodes().behaviour == ("sjf",) * 4 + ("random",) * 8
    rules = logs(tmp_path, "rules-v0", wspt=Behaviour(WSPT(), 6))
    mixed = JoinedLogs("mixed-v0", {"both": both, "rules": rules}, {"both": 3})
    mixed.cache = tmp_path
    log = mixed.episodes()
    assert log.behaviour == ("sjf", "random", "random") + ("wspt",) * 6
    assert log.name == "mixed-v0"
    assert minari_files.read(tmp_path / "logs" / "mixed-v0").hash == log.hash
    assert mixed.episodes().hash == log.hash
    assert {i.hash() for i in mixed.instances()} >= set(log.instance)
    with pytest.raises(UserError, match=r"shares.rules: 7 episodes asked for, rules-v0 has 6"):
        JoinedLogs("x-v0", {"rules": rules}, {"rules": 7}).episodes()
    with pytest.raises(UserError, match=r"shares: rule is no part"):
        JoinedLogs("x-v0", {"rules": rules}, {"rule": 7})
    with pytest.raises(
        UserError, match=r"shares.rules: at least 1 episode is needed, got 0; leave the part out"
    ):
        JoinedLogs("x-v0", {"rules": rules}, {"rules": 0})
    blind = RecordedLogs(
        "blind-v0", DATA, {"random": Behaviour(Random(), 4)}, {"observe": "arrived"}
    )
    with pytest.raises(
        UserError,
        match=r"parts.blind: was played with .*observe='arrived'.* only where these agree",
    ):
        JoinedLogs("x-v0", {"rules": rules, "blind": blind})


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": 1.5, "episodes": 1},
        {"episodes": 0},
        {"episodes": 1, "seconds": 0},
        {"episodes": 1, "decisions": 0},
    ],
)
def test_a_behaviour_that_means_nothing(settings):
    with pytest.raises(
        UserError, match=r"logs.behaviours: (noise|episodes|seconds|decisions) must"
    ):
        Behaviour(SJF(), **settings)


def test_a_seed_that_means_nothing():
    with pytest.raises(UserError, match=r"logs.seed: must not be negative, got -1"):
        RecordedLogs("x-v0", DATA, {"random": Behaviour(Random(), 4)}, seed=-1)
