"""Logged episodes are validated and hashed, and the recorder records what was played."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.logs.episodes import EpisodeRecorder, LoggedEpisodes, concatenate
from bench.metrics import objective
from bench.setting import Setting
from bench.simulator.tables import NO_ACTION
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import Layout
from tests.solvers.learning import random_instance

INSTANCES = [random_instance(np.random.default_rng(k), n=4 + k % 3) for k in range(6)]


def record_random(name="random", max_decisions=2**60, seed=0, shaped=False):
    """Return a log of uniformly random legal actions, and the simulator after the last step."""
    simulator = TensorSimulator(INSTANCES, Setting(), shaped=shaped, max_decisions=max_decisions)
    recorder = EpisodeRecorder("random")
    generator = torch.Generator().manual_seed(seed)
    while simulator.playing.any():
        weights = simulator.state.mask.double() + 1e-30
        action = torch.multinomial(weights, 1, generator=generator)[:, 0]
        probability = 1.0 / simulator.state.mask.sum(dim=1).clamp(min=1).double()
        recorder.before_step(simulator, action, probability)
        reward = simulator.step(torch.where(simulator.playing, action, NO_ACTION))
        recorder.after_step(reward)
    return recorder.episodes(name), simulator


def fixed_log(**changes):
    """Return a small log made by hand: two episodes of 2 and 1 decisions."""
    layout = Layout(1, 1, 1)
    observation = np.arange(5 * layout.size, dtype=np.float32).reshape(5, layout.size)
    observation[:, -2:] = 1
    columns = {
        "length": np.array([2, 1]),
        "observation": observation,
        "action": np.array([0, 1, 0]),
        "reward": np.array([-1.0, -0.5, -2.0]),
        "terminated": np.array([False, True, False]),
        "truncated": np.array([False, False, True]),
        "probability": np.array([0.5, 1.0, 0.25]),
        "instance": ("a" * 64, "b" * 64),
        "behaviour": ("x", "y"),
    }
    return LoggedEpisodes("fixed", layout, "total_time", **{**columns, **changes})


@pytest.mark.parametrize("shaped", [False, True])
def test_recorder_records_the_episodes_that_were_played(shaped):
    log, simulator = record_random(shaped=shaped)
    assert log.length.sum() == len(log.action)
    assert log.instance == tuple(i.hash() for i in INSTANCES)
    host = simulator.host()
    for e, instance in enumerate(INSTANCES):
        expected = -objective(instance, host.schedule(e), "total_time") / float(simulator.scale[e])
        assert log.returns[e] == pytest.approx(expected, rel=1e-6)
    assert log.terminated.sum() == 6
    assert not log.truncated.any()
    legal = log.mask.sum(axis=1)
    assert np.allclose(log.probability, 1 / legal)
    assert log.mask[np.arange(len(log.action)), log.action].all()
    last = log.observation[log.state[np.cumsum(log.length) - 1] + 1]
    assert not (last[:, : log.layout.tasks] > 0).any()  # no pending task is left


def test_an_episode_that_is_cut_is_truncated_and_not_terminated():
    log, _ = record_random(max_decisions=3)
    assert (log.length == 3).all()
    assert log.truncated.sum() == 6
    assert not log.terminated.any()


def test_restarted_environments_give_one_episode_after_the_other():
    simulator = TensorSimulator(INSTANCES[:2], Setting())
    recorder = EpisodeRecorder("random")
    generator = torch.Generator().manual_seed(1)
    simulator.restart(torch.tensor([0, 1]), all_envs=True)
    for _ in range(60):
        action = torch.multinomial(simulator.state.mask.double(), 1, generator=generator)[:, 0]
        recorder.before_step(simulator, action, torch.ones(2))
        recorder.after_step(simulator.step(action))
        simulator.restart(torch.tensor([1, 0]))
    log = recorder.episodes("again")
    assert len(log.length) > 4
    names = [i.hash() for i in INSTANCES[:2]]
    assert log.instance[0] == names[0]  # environment 0 played instance 0 first, then 1 each time
    assert set(log.instance[1 : log.instance.index(names[1], 1)]) <= {names[1]}


def test_episodes_can_be_selected_and_concatenated():
    log, _ = record_random()
    both = concatenate("both", [log.select([4, 1]), log.select([0])])
    assert both.instance == (log.instance[4], log.instance[1], log.instance[0])
    assert np.allclose(both.returns, log.returns[[4, 1, 0]])
    assert both.hash != log.hash
    assert both.select([2, 1, 0]).select([2, 1, 0]).hash == replace(both, name="x").hash
    assert concatenate("none", [log, replace(log, probability=None)]).probability is None
    with pytest.raises(UserError, match="joined only where these agree"):
        concatenate("unlike", [log, replace(log, objective="makespan")])


def test_return_by_behaviour_is_the_mean_return_of_each_policy():
    assert fixed_log().return_by_behaviour == {"x": -1.5, "y": -2.0}
    assert fixed_log(behaviour=("x", "x")).return_by_behaviour == {"x": -1.75}


def changed(column, at, value):
    column = column.copy()
    column[at] = value
    return column


ENDS = r"\(decision 0 of episode 0\): the last decision of an episode has one of them, no other"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda log: {"action": changed(log.action, 2, int(log.mask[2].argmin()))},
            r"action\[2\] \(decision 2 of episode 0\): value \d+: is masked",
        ),
        (
            lambda log: {"action": changed(log.action, 1, 10**6)},
            r"action\[1\] \(decision 1 of episode 0\): value 1000000: must be 0 to \d+$",
        ),
        (
            lambda log: {"truncated": log.terminated},
            "terminated, truncated.* has one of them, no other has any",
        ),
        (
            lambda log: {"observation": changed(log.observation, int(log.length[0]), np.nan)},
            "as must be the observation that follows",
        ),
        (
            lambda log: {"reward": changed(log.reward, 0, np.nan)},
            r"reward\[0\] \(decision 0 of episode 0\): value nan: must be finite",
        ),
        (
            lambda log: {"probability": changed(log.probability, 0, 0.0)},
            r"probability\[0\] .*: value 0.0: must lie in \(0, 1\]",
        ),
        (lambda log: {"probability": log.probability[1:]}, "probability: shape"),
        (lambda log: {"terminated": changed(log.terminated, 0, True)}, ENDS),
        (lambda log: {"observation": log.observation[:-1]}, "observation: shape"),
        (lambda log: {"length": changed(log.length, 0, 99)}, "length: must be at least 1 each"),
        (
            lambda log: {"observation": changed(log.observation, (0, 0), np.inf)},
            r"observation\[0\] \(decision 0 of episode 0\): must be finite",
        ),
    ],
)
def test_a_log_that_breaks_a_rule_is_refused(change, message):
    log, _ = record_random()
    with pytest.raises(UserError, match=message):
        replace(log, **change(log))


def test_a_recording_without_a_completed_episode_is_refused():
    simulator = TensorSimulator(INSTANCES[:1], Setting())
    recorder = EpisodeRecorder("random")
    with pytest.raises(UserError, match="no episode was completed"):
        recorder.episodes("empty")
    action = simulator.state.mask.long().argmax(dim=1)
    recorder.before_step(simulator, action, torch.ones(1))
    recorder.after_step(simulator.step(action))
    with pytest.raises(UserError, match="no episode was completed"):
        recorder.episodes("short")


def test_the_same_seed_gives_the_same_log():
    assert record_random(seed=4)[0].hash == record_random(seed=4)[0].hash
    assert record_random(seed=4)[0].hash != record_random(seed=5)[0].hash


def test_hashes_of_stored_logs_stay_valid():
    log = fixed_log()
    assert log.hash == "e68d8ef662f655b81b870b1ffb27f3570f95d4d4ee2199fe24d9d6ccac12dd90"
    bare = replace(log, name="renamed", probability=None)
    assert bare.hash == "8b4a85919901430055afe73ce859d1005107d247312097e067b8f0d5654aa595"
