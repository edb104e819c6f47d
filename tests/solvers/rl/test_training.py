"""Training: resuming, non-finite values, selection of the policy, and what is logged."""

import itertools
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from bench.contracts import CHECKPOINT, Budget, Solver
from bench.errors import UserError
from bench.files import file_hash
from bench.instance import Instance
from bench.setting import Setting
from solvers.networks.pairwise import PairwiseNetwork
from solvers.networks.policy import NetworkPolicy, load_policy
from solvers.ppo import PPO
from solvers.rl import checkpointed_trainer
from tests.solvers.learning import (
    CPU,
    ON_POLICY,
    ONE_BY_DEFAULT,
    FixedDataset,
    MemoryLogger,
    fit,
    interrupt_after,
    random_instance,
    same_weights,
)
from tests.solvers.learning import (
    on_policy_learner as learner,
)

DATA = FixedDataset(random_instance, 8)


@pytest.fixture
def folders(tmp_path):
    """Two folders of runs to compare."""
    made = tmp_path / "whole", tmp_path / "interrupted"
    for folder in made:
        folder.mkdir()
    return made


@pytest.mark.parametrize("name", ON_POLICY)
@pytest.mark.parametrize("moment", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_an_interrupted_training_ends_with_the_same_network(name, moment, folders):
    budget = 16 * 8 * 6
    whole = fit(learner(name), DATA, MemoryLogger(folders[0]), budget)
    with pytest.raises(KeyboardInterrupt):
        fit(learner(name), DATA, MemoryLogger(folders[1], interrupt_after(moment)), budget)
    logger = MemoryLogger(folders[1])
    resumed = fit(learner(name), DATA, logger, budget)
    if moment > 1:  # the first moment is before the first checkpoint
        assert logger.logged[0][0] > 16 * 8
    assert same_weights(whole, resumed)
    states = [torch.load(folder / "training.pt", weights_only=True) for folder in folders]
    assert states[0]["decisions"] == states[1]["decisions"]
    for one, other in zip(states[0]["environments"], states[1]["environments"], strict=True):
        assert torch.equal(one, other)


class EndlessDataset(FixedDataset):
    """Training instances without end, of which `drawn` lists those after the first 24."""

    endless = True

    def __init__(self) -> None:
        super().__init__(random_instance, 24)
        self.drawn: list[int] = []

    def training_instance(self, index: int) -> Instance:
        self.drawn.append(index)
        return random_instance(np.random.default_rng([0, index]))


@pytest.mark.parametrize("name", ONE_BY_DEFAULT)
def test_an_interrupted_training_meets_the_same_endless_instances(name, folders):
    budget = 16 * 8 * 6
    changes = {"episodes_per_instance": 0.5}
    all_of_it, part, rest = EndlessDataset(), EndlessDataset(), EndlessDataset()
    whole = fit(learner(name, **changes), all_of_it, MemoryLogger(folders[0]), budget)
    with pytest.raises(KeyboardInterrupt):
        fit(learner(name, **changes), part, MemoryLogger(folders[1], interrupt_after(4)), budget)
    resumed = fit(learner(name, **changes), rest, MemoryLogger(folders[1]), budget)
    assert same_weights(whole, resumed)
    assert all_of_it.drawn == list(range(24, 24 + len(all_of_it.drawn)))
    assert len(all_of_it.drawn) > 24
    assert max(rest.drawn) == max(all_of_it.drawn)


def test_an_endless_instance_larger_than_the_first_ones_is_an_error(folders):
    class Grows(EndlessDataset):
        def training_instance(self, index: int) -> Instance:
            return random_instance(np.random.default_rng(index), 30)

    with pytest.raises(UserError, match=r"dataset.train: value endless: .* larger"):
        fit(learner("ppo"), Grows(), MemoryLogger(folders[0]), 16 * 8 * 6)


PROGRAM = """
import sys
from pathlib import Path
from tests.solvers.learning import MemoryLogger, fit
from tests.solvers.rl.test_training import DATA, learner
fit(learner("ppo"), DATA, MemoryLogger(Path(sys.argv[1])), int(sys.argv[2]))
"""


@pytest.mark.slow
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
    assert not (folders[1] / "policy.pt").exists(), "the training was over before it was killed"
    whole = fit(learner("ppo"), DATA, MemoryLogger(folders[0]), budget)
    logger = MemoryLogger(folders[1])
    assert same_weights(whole, fit(learner("ppo"), DATA, logger, budget))
    assert 0 < len(logger.logged) < 30, "it should resume from its last checkpoint"


def test_a_finished_training_is_not_repeated(tmp_path):
    first = fit(learner("a2c"), DATA, MemoryLogger(tmp_path), 1000)
    logger = MemoryLogger(tmp_path)
    assert same_weights(first, fit(learner("a2c"), DATA, logger, 1000))
    assert logger.logged == []


def test_the_policy_is_the_one_that_was_best_in_validation(tmp_path, monkeypatch):
    results, validated = iter([-3.0, -1.0, -1.0, -2.0, -5.0, -4.0]), []

    def play(network, eval_envs):
        weights = network.state_dict().items()
        validated.append({name: weight.clone() for name, weight in weights})
        return torch.full((2,), next(results))

    monkeypatch.setattr(checkpointed_trainer, "play_greedily", play)
    policy = fit(learner("a2c", validate_every=1), DATA, MemoryLogger(tmp_path), 16 * 4 * 6)
    assert len(validated) == 6
    for kept in (policy, load_policy(tmp_path / "policy.pt", CPU)):
        for name, weight in kept.network.state_dict().items():
            assert torch.equal(weight, validated[1][name])
    assert not all(torch.equal(validated[1][name], validated[5][name]) for name in validated[1])


class NanFrom:
    """Multiplies its argument by NaN from the count-th call on."""

    def __init__(self, count: int) -> None:
        self.calls, self.count = itertools.count(1), count

    def __call__(self, value):
        return value * float("nan") if next(self.calls) >= self.count else value


@pytest.mark.parametrize("name", ON_POLICY)
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_non_finite_value_stops_the_run_and_keeps_the_last_finite_state(
    name, where, tmp_path, monkeypatch
):
    spoil = NanFrom(40 if name.startswith("ppo") else 4)
    if where == "loss":
        old = PairwiseNetwork.forward

        def forward(network, features):
            logits, value = old(network, features)
            return spoil(logits) if torch.is_grad_enabled() else logits, value

        monkeypatch.setattr(PairwiseNetwork, "forward", forward)
    else:
        old = torch.nn.utils.clip_grad_norm_

        def clip(weights, most):
            weights.grad = spoil(weights.grad)
            return old(weights, most)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    logger = MemoryLogger(tmp_path)
    algorithm = name.removesuffix("_group").removesuffix("_critic")
    message = rf"{algorithm}: the loss became .* at decision \d+; lower solver\.lr"
    with pytest.raises(UserError, match=message):
        fit(learner(name), DATA, logger, 5000)
    state = torch.load(tmp_path / "training.pt", weights_only=True)
    assert state["decisions"] == logger.logged[-1][0] > 0
    for part in ("network", "average", "best_network"):
        assert all(torch.isfinite(tensor).all() for tensor in state[part].values())
    assert np.isfinite(state["best"])


@pytest.mark.parametrize("name", ON_POLICY)
def test_steps_that_are_far_too_long_end_in_that_message(name, tmp_path):
    with pytest.raises(UserError, match=r"the loss became .*lower solver\.lr"):
        fit(learner(name, lr=1e30, max_grad_norm=1e30), DATA, MemoryLogger(tmp_path), 5000)


def test_metrics_and_training_cost_are_logged(tmp_path):
    logger = MemoryLogger(tmp_path)
    fit(learner("ppo"), DATA, logger, 1000)
    assert logger.facts["learning/cpu_seconds"] > 0
    assert logger.facts["learning/seconds"] > 0
    steps = [step for step, _ in logger.logged]
    assert steps == sorted(steps)
    for name in ("losses/policy", "losses/entropy", "charts/SPS", "charts/learning_rate"):
        assert all(name in values for _, values in logger.logged), name
    assert steps[-1] >= 1000


def test_the_cost_of_a_resumed_training_includes_that_before_the_interruption(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(learner("a2c"), DATA, MemoryLogger(tmp_path, interrupt_after(5)), 500)
    before = torch.load(tmp_path / "training.pt", weights_only=True)["price"]
    logger = MemoryLogger(tmp_path)
    fit(learner("a2c"), DATA, logger, 500)
    assert logger.facts["learning/cpu_seconds"] > before["cpu_seconds"] > 0
    assert logger.facts["learning/seconds"] > before["seconds"] > 0


def test_a_run_from_a_checkpoint_reports_what_its_training_cost(tmp_path):
    trained, deployed = MemoryLogger(tmp_path), MemoryLogger(tmp_path)
    fit(learner("a2c"), DATA, trained, 500)
    fit(learner("ppo", checkpoint=str(tmp_path / "policy.pt")), DATA, deployed, 500)
    assert trained.facts["learning/decisions"] >= 500
    assert trained.facts["learning/cpu_seconds"] > 0
    content = deployed.facts.pop(CHECKPOINT)
    assert content == file_hash(tmp_path / "policy.pt")[:16]
    assert deployed.facts == trained.facts


def test_the_cost_of_a_checkpoint_that_does_not_carry_it_is_missing(tmp_path):
    fit(learner("a2c"), DATA, MemoryLogger(tmp_path), 100)
    path = tmp_path / "policy.pt"
    state = torch.load(path, weights_only=True)
    assert state.pop("training")["learning/decisions"] >= 100
    torch.save(state, path)
    logger = MemoryLogger(tmp_path)
    fit(learner("ppo", checkpoint=str(path)), DATA, logger, 500)
    assert logger.facts.pop(CHECKPOINT) == file_hash(path)[:16]
    names = ("learning/decisions", "learning/cpu_seconds", "learning/seconds")
    assert logger.facts == dict.fromkeys(names)


def test_a_checkpoint_in_the_home_folder_is_found(tmp_path, monkeypatch):
    fit(learner("a2c"), DATA, MemoryLogger(tmp_path), 100)
    monkeypatch.setenv("HOME", str(tmp_path))
    logger = MemoryLogger(tmp_path)
    fit(learner("ppo", checkpoint="~/policy.pt"), DATA, logger, 100)
    assert logger.facts["learning/decisions"] >= 100


@pytest.mark.parametrize("damage", [b"", b"cut", None])
def test_a_training_with_a_damaged_checkpoint_ends_with_the_same_network(damage, folders, caplog):
    whole = fit(learner("a2c"), DATA, MemoryLogger(folders[0]), 500)
    with pytest.raises(KeyboardInterrupt):
        fit(learner("a2c"), DATA, MemoryLogger(folders[1], interrupt_after(5)), 500)
    path = folders[1] / "training.pt"
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    again = fit(learner("a2c"), DATA, MemoryLogger(folders[1]), 500)
    assert same_weights(whole, again)
    assert [text for text in caplog.messages if "training.pt: cannot be resumed from" in text]


def test_a_checkpoint_is_not_trained_and_an_init_policy_is_trained_further(tmp_path):
    torch.manual_seed(4)
    first = fit(learner("a2c"), DATA, MemoryLogger(tmp_path), 500)
    path, logger = str(tmp_path / "policy.pt"), MemoryLogger(tmp_path)
    loaded = fit(learner("ppo", checkpoint=path), DATA, logger, 500)
    assert same_weights(first, loaded)
    assert logger.logged == []
    further = MemoryLogger(tmp_path / "further")
    further.folder.mkdir()
    trained = fit(learner("ppo", init_policy=path, lr=1e-12), DATA, further, 200)
    assert len(further.logged) > 0
    for name, weight in first.network.state_dict().items():
        torch.testing.assert_close(weight, trained.network.state_dict()[name])


def test_the_result_plans_only_where_the_future_is_known(tmp_path):
    trained = fit(learner("a2c"), DATA, MemoryLogger(tmp_path), 200)
    assert isinstance(trained, NetworkPolicy)
    planner = learner("a2c", decoding="sample", checkpoint=str(tmp_path / "policy.pt"))
    assert isinstance(fit(planner, DATA, MemoryLogger(tmp_path), 200), Solver)
    online = Setting(track="online", observe="arrived")
    assert isinstance(fit(planner, DATA, MemoryLogger(tmp_path), 200, online), NetworkPolicy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 0}, r"solver\.num_envs: value 0: must be at least 1"),
        ({"validate_every": -3}, r"solver\.validate_every: value -3: must be at least 1"),
        ({"ema_decay": 1.5}, r"solver\.ema_decay: value 1\.5: must lie between 0 and 1"),
        ({"decoding": "tealeaves"}, r"solver\.decoding: value 'tealeaves': must be one of"),
        ({"network": "constrained"}, r"solver\.network: value 'constrained': must be one of"),
        ({"device": "tpu"}, r"device: .*'tpu'"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        PPO(**{"device": "cpu", **changes})


def test_an_empty_split_is_refused(tmp_path):
    data = FixedDataset(random_instance, 2)
    data.splits["validation"] = []
    with pytest.raises(UserError, match="validation split, and one of them is empty"):
        fit(learner("ppo"), data, MemoryLogger(tmp_path), 100)


def test_a_single_decision_per_iteration_is_enough(tmp_path):
    logger = MemoryLogger(tmp_path)
    policy = fit(learner("a2c", num_envs=1, steps=1), DATA, logger, 10)
    assert isinstance(policy, NetworkPolicy)
    assert [step for step, _ in logger.logged] == list(range(1, 11))


@pytest.mark.parametrize(("threads", "allowed"), [(1, 3), (3, 1)])
def test_torch_uses_the_threads_of_the_setting_and_the_budget(tmp_path, threads, allowed):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        learner("a2c", threads=threads).fit(
            DATA,
            Setting(),
            Budget(decisions=100, threads=allowed),
            np.random.default_rng(0),
            MemoryLogger(tmp_path),
        )
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_one_instance_of_one_task_can_be_learned_from(tmp_path):
    data = FixedDataset(lambda rng: Instance([[3]], [[[1]]], [[1]], [0]), 1)
    assert isinstance(fit(learner("ppo"), data, MemoryLogger(tmp_path), 500), NetworkPolicy)
