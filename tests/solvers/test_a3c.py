"""A3C in real processes: it learns, resumes after a kill, and leaves no process behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import multiprocessing as processes

from bench.contracts import Budget
from bench.errors import UserError
from bench.setting import Setting
from solvers.a2c import A2C
from solvers.a3c import A3C, SharedState, Worker
from solvers.rl.checkpointed_trainer import CheckpointedTrainer
from solvers.rl.rollouts import Rollout
from solvers.rl.trainer import Trainer
from tests.solvers.learning import (
    COMMIT,
    CPU,
    LEARNABLE,
    FixedDataset,
    MemoryLogger,
    fit,
    interrupt_after,
    lowest_untrained_regret,
    random_instance,
    regret,
    same_weights,
    small_learner,
)

DATA = FixedDataset(random_instance, 8)


def learner(**changes) -> A3C:
    return small_learner(A3C, **{"steps": 4, "workers": 2, **changes})


def trainer_at(path: Path) -> CheckpointedTrainer:
    """Return a new trainer with a budget of 1000 decisions."""
    budget, rng = Budget(decisions=1000, threads=1), np.random.default_rng(0)
    train, validation = DATA.splits["train"], DATA.splits["validation"]
    return CheckpointedTrainer(
        learner(), DATA, train, validation, Setting(), budget, rng, CPU, path
    )


def no_worker_left() -> bool:
    """Whether no worker of this process is alive; they have some seconds to end."""
    until = time.monotonic() + 5.0
    while processes.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    return not processes.active_children()


@pytest.mark.slow
def test_it_learns_what_no_untrained_network_can_and_logs_the_training_cost(tmp_path):
    assert lowest_untrained_regret() > 0.1
    logger = MemoryLogger(tmp_path)
    a3c = learner(num_envs=64, width=16, lr=5e-3, save_seconds=60.0)
    policy = fit(a3c, LEARNABLE, logger, 20_000, COMMIT)
    assert regret(policy.network) < 1e-3
    assert no_worker_left()
    steps = [step for step, _ in logger.logged]
    assert steps == sorted(steps)
    assert steps[-1] >= 20_000
    assert logger.facts["learning/cpu_seconds"] > 0
    assert logger.facts["learning/seconds"] > 0


def test_the_ema_moves_as_far_as_in_the_iterations_that_were_missed(tmp_path):
    rare, often = trainer_at(tmp_path / "rare.pt"), trainer_at(tmp_path / "often.pt")
    for trainer in (rare, often):
        trainer.end_iteration({}, MemoryLogger(tmp_path))  # the EMA starts at the first network
        trainer.network.score[-1].weight.data.add_(1.0)
    rare.end_iteration({}, MemoryLogger(tmp_path), 7.0)
    for _ in range(7):
        often.end_iteration({}, MemoryLogger(tmp_path))
    for one, other in zip(rare.ema.parameters(), often.ema.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_delayed_worker_moves_nothing_once_the_budget_is_spent(tmp_path):
    shared = SharedState.of(trainer_at(tmp_path / "training.pt"), 2)
    worker = Worker(learner(), DATA.splits["train"], Setting(), 0, shared, 1000)
    worker.copy_shared_weights()
    collect = worker.learner.collect

    def collect_late(trainer: Trainer) -> Rollout:
        rollout = collect(trainer)
        shared.decisions[1] = 1000  # meanwhile the other worker has spent the budget
        return rollout

    worker.learner.collect = collect_late
    before = [weight.clone() for weight in shared.weights]
    worker.train_iteration()
    assert float(worker.grad_norm_sum) > 0
    assert all(torch.equal(one, other) for one, other in zip(before, shared.weights, strict=True))


def test_its_updates_are_those_of_a2c():
    assert A3C.update is A2C.update
    assert A3C.collect is A2C.collect


@pytest.mark.slow
def test_a_killed_training_resumes_and_keeps_the_best_policy(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(learner(workers=1), DATA, MemoryLogger(tmp_path, interrupt_after(3)), 200_000)
    assert no_worker_left()
    before = torch.load(tmp_path / "training.pt", weights_only=True)
    assert before["decisions"] > 0
    moved = [state["square_avg"].abs().sum() for state in before["optimizer"]["state"].values()]
    assert any(total > 0 for total in moved), "the shared squares are part of the state"
    logger = MemoryLogger(tmp_path)
    fit(learner(workers=1), DATA, logger, before["decisions"] + 2000)
    assert logger.logged[0][0] > before["decisions"], "it should have resumed"
    after = torch.load(tmp_path / "training.pt", weights_only=True)
    assert after["best"] >= before["best"]
    assert logger.facts["learning/cpu_seconds"] > before["price"]["cpu_seconds"]
    assert logger.facts["learning/seconds"] > before["price"]["seconds"]
    again = MemoryLogger(tmp_path)
    assert same_weights(
        fit(learner(workers=1), DATA, again, 1000), fit(learner(workers=1), DATA, again, 1000)
    )
    assert again.logged == [], "the budget was spent"


PROGRAM = """
import sys
from pathlib import Path
from tests.solvers.learning import MemoryLogger, fit
from tests.solvers.test_a3c import DATA, learner
if __name__ == "__main__":
    fit(learner(), DATA, MemoryLogger(Path(sys.argv[1])), 10**9)
"""


@pytest.mark.slow
def test_workers_end_when_the_main_process_is_killed(tmp_path, request):
    main_process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=request.config.rootpath
    )
    while not (tmp_path / "training.pt").exists():
        assert main_process.poll() is None
        time.sleep(0.02)
    children = psutil.Process(main_process.pid).children(recursive=True)
    workers = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    assert len(workers) == 2
    main_process.kill()
    assert main_process.wait() == -signal.SIGKILL
    _, alive = psutil.wait_procs(workers, timeout=15.0)
    for worker in alive:
        worker.kill()
    assert not alive
    assert torch.load(tmp_path / "training.pt", weights_only=True)["decisions"] > 0


@pytest.mark.slow
def test_a_killed_worker_is_one_clear_error(tmp_path):
    def kill_one(logger: MemoryLogger) -> None:
        if len(logger.logged) == 2:
            processes.active_children()[0].kill()

    with pytest.raises(RuntimeError, match="a3c: a worker died with exit code -9"):
        fit(learner(workers=1), DATA, MemoryLogger(tmp_path, kill_one), 10**7)
    assert no_worker_left()


def finite(path: Path) -> bool:
    """Whether all weights in a checkpoint are finite."""
    state = torch.load(path, weights_only=True)
    return all(
        torch.isfinite(w).all()
        for part in ("network", "average", "best_network")
        for w in state[part].values()
    )


@pytest.mark.slow
def test_a_non_finite_value_stops_every_process_and_keeps_the_last_finite_state(tmp_path):
    fit(learner(workers=1), DATA, MemoryLogger(tmp_path), 1000)
    decisions = torch.load(tmp_path / "training.pt", weights_only=True)["decisions"]
    too_long = learner(workers=1, lr=1e30, max_grad_norm=1e30)
    with pytest.raises(
        UserError, match=r"a3c: the loss became .* at decision \d+; lower solver\.lr"
    ):
        fit(too_long, DATA, MemoryLogger(tmp_path), 10**7)
    assert no_worker_left()
    assert torch.load(tmp_path / "training.pt", weights_only=True)["decisions"] >= decisions
    assert finite(tmp_path / "training.pt")


def test_it_refuses_a_gpu():
    message = r"a3c learns in processes on the CPU; set solver\.device=cpu"
    with pytest.raises(UserError, match=message):
        A3C(device="cuda")
    assert A3C(device="auto").device == "cpu"
