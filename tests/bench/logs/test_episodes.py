"""Logged episodes: what is refused, and that a tape of play holds its returns, actions and states."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.logs.episodes import Episodes, Tape, joined
from bench.metrics import objective
from bench.setting import Setting
from bench.simulator.tables import LEAVE
from bench.simulator.tensors import TensorSimulator
from tests.solvers.learning import random_instance

INSTANCES = [random_instance(np.random.default_rng(k), n=4 + k % 3) for k in range(6)]


def played(name="played", limit=2**60, seed=0, shaped=False):
    """A log of random legal play, and the simulator at its end."""
    simulator = TensorSimulator(INSTANCES, Setting(), shaped=shaped, limit=limit)
    tape, generator = Tape("random"), torch.Generator().manual_seed(seed)
    while simulator.playing.any():
        chance = simulator.state.mask.double() + 1e-30
        action = torch.multinomial(chance, 1, generator=generator)[:, 0]
        tape.saw(simulator, action, 1.0 / simulator.state.mask.sum(dim=1).clamp(min=1).double())
        tape.got(simulator.step(torch.where(simulator.playing, action, LEAVE)))
    return tape.episodes(name), simulator


@pytest.mark.parametrize("shaped", [False, True])
def test_a_tape_holds_the_episodes_that_were_played(shaped):
    log, simulator = played(shaped=shaped)
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
    assert not (last[:, : log.layout.tasks] > 0).any()  # nothing is left to show


def test_an_episode_that_is_cut_is_truncated_and_not_terminated():
    log, _ = played(limit=3)
    assert (log.length == 3).all()
    assert log.truncated.sum() == 6
    assert not log.terminated.any()


def test_restarted_environments_give_one_episode_after_the_other():
    simulator, tape = TensorSimulator(INSTANCES[:2], Setting()), Tape("random")
    generator = torch.Generator().manual_seed(1)
    simulator.restart(torch.tensor([0, 1]), everyone=True)
    for _ in range(60):
        action = torch.multinomial(simulator.state.mask.double(), 1, generator=generator)[:, 0]
        tape.saw(simulator, action, torch.ones(2))
        tape.got(simulator.step(action))
        simulator.restart(torch.tensor([1, 0]))
    log = tape.episodes("again")
    assert len(log.length) > 4
    names = [i.hash() for i in INSTANCES[:2]]
    assert log.instance[0] == names[0]  # environment 0 played instance 0 first, then 1 each time
    assert set(log.instance[1 : log.instance.index(names[1], 1)]) <= {names[1]}


def test_parts_and_joins():
    log, _ = played()
    both = joined("both", [log.part([4, 1]), log.part([0])])
    assert both.instance == (log.instance[4], log.instance[1], log.instance[0])
    assert np.allclose(both.returns, log.returns[[4, 1, 0]])
    assert both.hash != log.hash
    assert both.part([2, 1, 0]).part([2, 1, 0]).hash == replace(both, name="x").hash
    assert joined("none", [log, replace(log, probability=None)]).probability is None
    with pytest.raises(UserError, match="joined only where these agree"):
        joined("unlike", [log, replace(log, objective="makespan")])


def changed(column, at, value):
    column = column.copy()
    column[at] = value
    return column


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda log: {"action": changed(log.action, 2, int(log.mask[2].argmin()))}, "at decision 2 of episode 0: is masked"),
        (lambda log: {"action": changed(log.action, 1, 10**6)}, "action 1000000 at decision 1 of episode 0: must be 0 to"),
        (lambda log: {"truncated": log.terminated}, "terminated, truncated at decision .* has one of them, no other has any"),
        (lambda log: {"observation": changed(log.observation, int(log.length[0]), np.nan)}, "as must be the one that follows"),
        (lambda log: {"reward": changed(log.reward, 0, np.nan)}, "reward nan at decision 0 of episode 0: must be finite"),
        (lambda log: {"probability": changed(log.probability, 0, 0.0)}, r"probability 0.0 at .*must lie in \(0, 1\]"),
        (lambda log: {"probability": log.probability[1:]}, "probability: shape"),
        (lambda log: {"terminated": changed(log.terminated, 0, True)}, "the last decision has one of them, no other has any"),
        (lambda log: {"observation": log.observation[:-1]}, "observation: shape"),
        (lambda log: {"length": changed(log.length, 0, 99)}, "length: must be at least 1 each"),
        (lambda log: {"observation": changed(log.observation, (0, 0), np.inf)}, "observation at decision 0 of episode 0"),
    ],
)  # fmt: skip
def test_a_log_that_breaks_a_rule_is_refused(change, said):
    log, _ = played()
    with pytest.raises(UserError, match=said):
        replace(log, **change(log))


def test_nothing_that_ended_is_no_log():
    simulator, tape = TensorSimulator(INSTANCES[:1], Setting()), Tape("random")
    action = simulator.state.mask.long().argmax(dim=1)
    tape.saw(simulator, action, torch.ones(1))
    tape.got(simulator.step(action))
    with pytest.raises(UserError, match="no episode came to its end"):
        tape.episodes("short")


def test_the_same_play_is_the_same_log():
    assert played(seed=4)[0].hash == played(seed=4)[0].hash
    assert played(seed=4)[0].hash != played(seed=5)[0].hash
    assert isinstance(played()[0], Episodes)
