"""What learners share: a killed run ends with the same network, what is not finite stops it, the price is told."""

import itertools
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.instance import Instance
from bench.setting import Setting
from solvers.a2c import A2C
from solvers.networks.policy import NetworkPolicy, load_policy
from solvers.ppo import PPO
from solvers.reinforce import Reinforce
from solvers.rl.training import NetworkLearner
from tests.solvers.learning import (
    CPU,
    Fixed,
    Notes,
    fit,
    random_instance,
    same_weights,
    small,
    stop_after,
)

LEARNERS = {
    "ppo": {"kind": PPO, "steps": 8, "minibatch": 64},
    "a2c": {"kind": A2C, "steps": 4},
    "reinforce": {"kind": Reinforce, "group": 4},
}
DATA = Fixed(random_instance, 8)


def learner(name: str, **changes):
    return small(**{**LEARNERS[name], **changes})


@pytest.fixture
def folders(tmp_path):
    """Two folders to compare runs in."""
    made = tmp_path / "whole", tmp_path / "killed"
    for folder in made:
        folder.mkdir()
    return made


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("moment", [1, 4])
def test_a_killed_training_ends_with_the_same_network(name, moment, folders):
    budget = 16 * 8 * 6
    whole = fit(learner(name), DATA, Notes(folders[0]), budget)
    with pytest.raises(KeyboardInterrupt):
        fit(learner(name), DATA, Notes(folders[1], stop_after(moment)), budget)
    notes = Notes(folders[1])
    resumed = fit(learner(name), DATA, notes, budget)
    if (
        moment > 1
    ):  # it stopped before its first iteration was saved, or else goes on behind the last one that was
        assert notes.heard[0][0] > 16 * 8
    assert same_weights(whole, resumed)
    states = [torch.load(folder / "training.pt", weights_only=True) for folder in folders]
    assert states[0]["decisions"] == states[1]["decisions"]
    for one, other in zip(states[0]["environments"], states[1]["environments"], strict=True):
        assert torch.equal(one, other)


PROGRAM = """
import sys
from pathlib import Path
from tests.solvers.learning import Notes, fit
from tests.solvers.rl.test_training import DATA, learner
fit(learner("ppo"), DATA, Notes(Path(sys.argv[1])), int(sys.argv[2]))
"""


def test_a_training_killed_at_any_moment_ends_with_the_same_network(folders, request):
    budget = 16 * 8 * 30
    command = [sys.executable, "-c", PROGRAM, str(folders[1]), str(budget)]
    killed = subprocess.Popen(command, cwd=request.config.rootpath)
    while not (folders[1] / "training.pt").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    time.sleep(0.03)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (folders[1] / "policy.pt").exists(), "it was too late"
    whole = fit(learner("ppo"), DATA, Notes(folders[0]), budget)
    notes = Notes(folders[1])
    assert same_weights(whole, fit(learner("ppo"), DATA, notes, budget))
    assert 0 < len(notes.heard) < 30, "it should have gone on where it stopped"


def test_a_finished_training_is_not_trained_again(tmp_path):
    first = fit(learner("a2c"), DATA, Notes(tmp_path), 1000)
    notes = Notes(tmp_path)
    assert same_weights(first, fit(learner("a2c"), DATA, notes, 1000))
    assert notes.heard == []


def test_the_network_kept_is_the_one_that_did_best_in_validation(tmp_path, monkeypatch):
    results, tried = iter([-3.0, -1.0, -1.0, -2.0, -5.0, -4.0]), []

    def play(network, trials):
        tried.append({name: weight.clone() for name, weight in network.state_dict().items()})
        return torch.full((2,), next(results))

    monkeypatch.setattr(sys.modules[NetworkLearner.__module__], "play_greedily", play)
    policy = fit(learner("a2c", validate_every=1), DATA, Notes(tmp_path), 16 * 4 * 6)
    assert len(tried) == 6
    for kept in (policy, load_policy(tmp_path / "policy.pt", CPU)):
        for name, weight in kept.network.state_dict().items():
            assert torch.equal(weight, tried[1][name])
    assert not all(torch.equal(tried[1][name], tried[5][name]) for name in tried[1])


class Spoiled:
    """Multiplies a value with NaN from the count-th call on."""

    def __init__(self, count: int) -> None:
        self.calls, self.count = itertools.count(1), count

    def __call__(self, value):
        return value * float("nan") if next(self.calls) >= self.count else value


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_and_leaves_the_last_good_state(
    name, where, tmp_path, monkeypatch
):
    spoil, module = (
        Spoiled(40 if name == "ppo" else 4),
        sys.modules[LEARNERS[name]["kind"].__module__],
    )
    if where == "loss":
        monkeypatch.setattr(
            module, "entropy", lambda logits, old=module.entropy: spoil(old(logits))
        )
    else:
        old = torch.nn.utils.clip_grad_norm_

        def clip(parameters, most):
            parameters = list(parameters)
            parameters[0].grad = spoil(parameters[0].grad)
            return old(parameters, most)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    notes = Notes(tmp_path)
    with pytest.raises(
        UserError, match=rf"{name}: the loss became .* at decision \d+; lower solver\.lr"
    ):
        fit(learner(name), DATA, notes, 5000)
    state = torch.load(tmp_path / "training.pt", weights_only=True)
    assert state["decisions"] == notes.heard[-1][0] > 0
    for part in ("network", "average", "best_network"):
        assert all(torch.isfinite(tensor).all() for tensor in state[part].values())
    assert np.isfinite(state["best"])


@pytest.mark.parametrize("name", LEARNERS)
def test_steps_that_are_far_too_long_end_in_that_message(name, tmp_path):
    with pytest.raises(UserError, match=r"the loss became .*lower solver\.lr"):
        fit(learner(name, lr=1e30, max_grad_norm=1e30), DATA, Notes(tmp_path), 5000)


def test_what_training_costs_is_told(tmp_path):
    notes = Notes(tmp_path)
    fit(learner("ppo"), DATA, notes, 1000)
    assert notes.facts["learning/cpu_seconds"] > 0
    assert notes.facts["learning/seconds"] > 0
    steps = [step for step, _ in notes.heard]
    assert steps == sorted(steps)
    for name in ("losses/policy", "losses/entropy", "charts/SPS", "charts/learning_rate"):
        assert all(name in values for _, values in notes.heard), name
    assert steps[-1] >= 1000


def test_the_price_of_a_resumed_training_is_the_sum(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(learner("a2c"), DATA, Notes(tmp_path, stop_after(5)), 2000)
    before = torch.load(tmp_path / "training.pt", weights_only=True)["price"]
    notes = Notes(tmp_path)
    fit(learner("a2c"), DATA, notes, 2000)
    assert notes.facts["learning/cpu_seconds"] > before["cpu_seconds"] > 0
    assert notes.facts["learning/seconds"] > before["seconds"] > 0


def test_a_checkpoint_is_played_without_training_and_a_start_is_trained_on(tmp_path):
    torch.manual_seed(4)
    first = fit(learner("a2c"), DATA, Notes(tmp_path), 500)
    played = fit(
        learner("ppo", checkpoint=str(tmp_path / "policy.pt")), DATA, notes := Notes(tmp_path), 500
    )
    assert same_weights(first, played)
    assert notes.heard == []
    further = tmp_path / "further"
    further.mkdir()
    same = fit(
        learner("ppo", start=str(tmp_path / "policy.pt"), lr=1e-12), DATA, Notes(further), 200
    )
    for name, weight in first.network.state_dict().items():
        torch.testing.assert_close(weight, same.network.state_dict()[name])


def test_only_where_the_future_is_known_is_there_a_plan(tmp_path):
    trained = fit(learner("a2c"), DATA, Notes(tmp_path), 200)
    assert isinstance(trained, NetworkPolicy)
    planner = learner("a2c", decoding="sample", checkpoint=str(tmp_path / "policy.pt"))
    assert hasattr(fit(planner, DATA, Notes(tmp_path), 200), "solve")
    online = Setting(track="online", observe="arrived")
    assert isinstance(fit(planner, DATA, Notes(tmp_path), 200, online), NetworkPolicy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"envs": 0}, r"solver\.envs: at least 1"),
        ({"validate_every": -3}, r"solver\.validate_every: at least 1"),
        ({"decoding": "tealeaves"}, r"solver\.decoding: 'tealeaves' must be one of"),
        ({"device": "tpu"}, "device: 'tpu'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        PPO(**{"device": "cpu", **changes})


def test_an_empty_split_is_refused(tmp_path):
    data = Fixed(random_instance, 2)
    data.splits["validation"] = []
    with pytest.raises(UserError, match="validation split, and one of them is empty"):
        fit(learner("ppo"), data, Notes(tmp_path), 100)


def test_a_single_decision_per_iteration_is_enough(tmp_path):
    assert isinstance(
        fit(learner("a2c", envs=1, steps=1), DATA, Notes(tmp_path), 10), NetworkPolicy
    )


def test_threads_are_those_asked_for(tmp_path):
    fit(learner("a2c", threads=1), DATA, Notes(tmp_path), 100)
    assert torch.get_num_threads() == 1


def test_one_instance_of_one_task_can_be_learnt_from(tmp_path):
    data = Fixed(lambda rng: Instance([[3]], [[[1]]], [[1]], [0]), 1)
    assert isinstance(fit(learner("ppo"), data, Notes(tmp_path), 500), NetworkPolicy)
