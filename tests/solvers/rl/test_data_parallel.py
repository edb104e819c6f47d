"""Training in several processes: equal weights, resuming, renewed instances, dead workers."""

import os
import signal
import threading

import numpy as np
import pytest
import torch

from bench.contracts import Budget
from bench.errors import UserError
from bench.instance import Instance
from bench.protection import TrainingData
from bench.setting import Setting
from solvers.a3c import A3C
from solvers.networks.policy import NetworkPolicy
from solvers.rl import training
from solvers.rl.data_parallel import RemoteDataset, WorkerProcesses, serve_instances
from solvers.rl.process_group import Exchange, ProcessGroup
from tests.solvers.learning import (
    ONE_BY_DEFAULT,
    FixedDataset,
    MemoryLogger,
    interrupt_after,
    random_instance,
    same_weights,
    setting_of,
    small_learner,
)
from tests.solvers.learning import (
    on_policy_learner as learner,
)

DATA = FixedDataset(random_instance, 8)
ITERATIONS = 4


class Endless(FixedDataset):
    endless = True

    def training_instance(self, index: int) -> Instance:
        return random_instance(np.random.default_rng([7, index]))


@pytest.fixture
def fit(monkeypatch):
    """Return a function that trains in two processes, however short the training is."""
    monkeypatch.setattr(training, "LEAST_DECISIONS", 0)

    def train(one, logger, data=DATA) -> NetworkPolicy:
        budget = Budget(decisions=16 * 8 * ITERATIONS, threads=2)
        return one.fit(data, setting_of(one), budget, np.random.default_rng(0), logger)

    return train


@pytest.mark.parametrize("name", ONE_BY_DEFAULT)
def test_all_processes_have_the_same_weights_and_different_episodes(name):
    share = learner(name).share(2)
    instances = list(DATA.instances("train"))
    setting = setting_of(share)
    steps = share.steps if name in ("ppo", "ppo_critic", "a2c") else 0
    trainer = share.trainer(instances, setting)
    with WorkerProcesses(trainer, share, 2, instances, setting) as others:
        decisions = 0
        for _ in range(3):
            values = trainer.train_iteration()
            decisions += share.num_envs * steps * 2
        (state,) = others.states()
    assert torch.equal(state["weights"], trainer.weights.flat.data)
    assert state["return_std"] == trainer.return_std
    assert state["decisions"] == trainer.decisions
    assert not decisions or decisions == trainer.decisions
    own = trainer.episode_state()["environments"]
    assert not all(torch.equal(*pair) for pair in zip(state["environments"], own, strict=True))
    assert values["charts/episodes"] > 0
    assert trainer.cpu_seconds_of_others > 0
    assert torch.isfinite(trainer.weights.flat).all()


@pytest.mark.slow
def test_a_step_is_one_along_the_mean_gradient():
    share = learner("a2c", max_grad_norm=1e9).share(2)
    instances = list(DATA.instances("train"))
    trainer = share.trainer(instances, Setting())
    own = []
    with WorkerProcesses(trainer, share, 2, instances, Setting()):
        mean_ = trainer.group.mean_

        def record(tensor):
            before = tensor.clone()
            mean = mean_(tensor)
            if tensor is trainer.weights.flat.grad:
                own.append((before, mean.clone()))
            return mean

        trainer.group.mean_ = record
        trainer.train_iteration()
        ((before, mean),) = own
    alone = share.trainer(instances, Setting())
    alone.step = lambda: own.append(alone.weights.flat.grad.clone())
    alone.train_iteration()
    # the gradient of this process differs only by the scale of the returns, which is common
    assert torch.nn.functional.cosine_similarity(own[1], before, dim=0) > 0.9
    assert not torch.allclose(before, mean)


@pytest.mark.parametrize("name", ONE_BY_DEFAULT)
def test_an_interrupted_training_ends_with_the_same_network(name, fit, tmp_path):
    folders = tmp_path / "whole", tmp_path / "interrupted"
    for folder in folders:
        folder.mkdir()
    whole = fit(learner(name), MemoryLogger(folders[0]))
    with pytest.raises(KeyboardInterrupt):
        fit(learner(name), MemoryLogger(folders[1], interrupt_after(2)))
    logger = MemoryLogger(folders[1])
    resumed = fit(learner(name), logger)
    assert logger.logged[0][0] > 16 * 4
    assert same_weights(whole, resumed)


@pytest.mark.slow
def test_processes_draw_different_instances_of_an_endless_split(fit, tmp_path):
    logger = MemoryLogger(tmp_path)
    data = TrainingData(Endless(random_instance, 24), "the learner")  # it cannot be pickled
    fit(learner("ppo", episodes_per_instance=0.5), logger, data)
    state = torch.load(tmp_path / "training.pt", weights_only=True)
    drawn = [
        {index for index in one["pool"]["indices"] if index >= 24}
        for one in (state, *state["workers"])
    ]
    assert all(drawn)
    assert [{index % 2 for index in one} for one in drawn] == [{0}, {1}]


def test_a_dead_worker_ends_the_training_with_its_reason():
    share = learner("a2c").share(2)
    instances = list(DATA.instances("train"))
    trainer = share.trainer(instances, Setting())
    with WorkerProcesses(trainer, share, 2, instances, Setting()) as others:
        trainer.train_iteration()
        (worker,) = others._processes
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        with pytest.raises(RuntimeError, match="died with exit code -9; run again"):
            trainer.train_iteration()


@pytest.mark.slow
def test_an_error_of_a_worker_is_the_error_of_the_training():
    def train() -> None:
        instances = list(DATA.instances("train"))
        one = learner("a2c", lr=1e30)
        with one.trainer_in_processes(2, instances, Setting()) as trainer:
            for _ in range(20):
                trainer.train_iteration()

    with pytest.raises(UserError, match=r"the loss became .*; lower solver\.lr"):
        train()


@pytest.mark.parametrize(
    ("one", "threads", "decisions", "expected"),
    [
        (learner("ppo"), 2, 10**6, 2),
        (learner("ppo"), 3, 10**6, 2),  # 16 environments, minibatches of 64
        (learner("ppo"), 4, 10**6, 4),
        (learner("ppo", minibatch=1), 2, 10**6, 1),
        (learner("ppo", threads=1), 2, 10**6, 1),
        (learner("ppo"), 2, 1000, 1),
        (learner("reinforce"), 4, 10**6, 4),
        (learner("reinforce", group=16), 2, 10**6, 1),
        (small_learner(A3C), 2, 10**6, 1),
    ],
)
def test_as_many_processes_as_threads_that_can_share_the_work(one, threads, decisions, expected):
    budget = Budget(decisions=decisions, threads=threads)
    assert one.process_count(budget, torch.device("cpu")) == expected
    assert one.process_count(budget, torch.device("cuda")) == 1


def test_a_process_that_died_with_the_lock_is_noticed():
    context = torch.multiprocessing.get_context("spawn")
    exchange = Exchange.of(2, 4, context)
    exchange.lock.acquire()

    def check() -> None:
        raise UserError("it has died")

    with pytest.raises(UserError, match="it has died"):
        ProcessGroup(0, 2, exchange, check).mean_(torch.zeros(1))


def test_why_an_instance_cannot_be_drawn_reaches_the_process_that_asked():
    class Broken(FixedDataset):
        def training_instance(self, index: int) -> Instance:
            raise UserError(f"dataset: instance {index} cannot be drawn")

    answers, asks = torch.multiprocessing.get_context("spawn").Pipe()
    data = Broken(random_instance, 1)
    threading.Thread(target=serve_instances, args=(data, [answers]), daemon=True).start()
    with pytest.raises(UserError, match="instance 7 cannot be drawn"):
        RemoteDataset(asks).training_instance(7)
    asks.close()
