"""A3C in real processes: it learns, goes on after a kill, and leaves nobody behind."""

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
from solvers.a3c import A3C, Shared, Worker
from solvers.rl.rollouts import Rollout
from solvers.rl.training import Descent, Training
from tests.solvers.learning import (
    CPU,
    PATIENT,
    TO_LEARN,
    Fixed,
    Notes,
    best_of_untrained,
    fit,
    random_instance,
    regret,
    same_weights,
    small,
    stop_after,
)  # fmt: skip

DATA = Fixed(random_instance, 8)


def learner(**changes) -> A3C:
    return small(A3C, **{"steps": 4, "workers": 2, **changes})


def run_of() -> tuple[Setting, Budget, np.random.Generator, torch.device]:
    """What a training is made with besides a learner and instances."""
    return Setting(), Budget(decisions=1000, threads=1), np.random.default_rng(0), CPU


def nobody_left() -> bool:
    """No worker of this process is alive; they have a moment to go."""
    until = time.monotonic() + 5.0
    while processes.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    return not processes.active_children()


def test_it_learns_what_no_untrained_network_can_and_tells_its_price(tmp_path):
    assert best_of_untrained() > 0.1
    notes = Notes(tmp_path)
    policy = fit(
        learner(envs=64, width=16, lr=5e-3, save_seconds=60.0), TO_LEARN, notes, 20_000, PATIENT
    )
    assert regret(policy.network) < 1e-3
    assert nobody_left()
    steps = [step for step, _ in notes.heard]
    assert steps == sorted(steps)
    assert steps[-1] >= 20_000
    assert notes.facts["learning/cpu_seconds"] > 0
    assert notes.facts["learning/seconds"] > 0


def test_a_watcher_that_missed_iterations_averages_over_them(tmp_path):
    rare = Training(
        learner(), DATA.splits["train"], DATA.splits["validation"], *run_of(), tmp_path / "rare.pt"
    )
    often = Training(
        learner(), DATA.splits["train"], DATA.splits["validation"], *run_of(), tmp_path / "often.pt"
    )
    for training in (rare, often):
        training.looked({}, Notes(tmp_path))  # the first network is taken as it is
        training.network.score[-1].weight.data.add_(1.0)
    rare.looked({}, Notes(tmp_path), 7.0)
    for _ in range(7):
        often.looked({}, Notes(tmp_path))
    for one, other in zip(rare.average.parameters(), often.average.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_worker_that_was_held_up_moves_nothing_that_has_settled(tmp_path):
    training = Training(
        learner(),
        DATA.splits["train"],
        DATA.splits["validation"],
        *run_of(),
        tmp_path / "training.pt",
    )
    shared = Shared.of(training, 2)
    worker = Worker(learner(), DATA.splits["train"], Setting(), 0, shared, 1000)
    worker.take()
    play = worker.learner.play

    def held_up(descent: Descent) -> Rollout:
        rollout = play(descent)
        shared.decisions[1] = 1000  # meanwhile somebody else has spent the budget
        return rollout

    worker.learner.play = held_up
    before = [weight.clone() for weight in shared.weights]
    worker.turn()
    assert float(worker.norm) > 0
    assert all(torch.equal(one, other) for one, other in zip(before, shared.weights, strict=True))


def test_its_updates_are_those_of_a2c():
    assert A3C.update is A2C.update
    assert A3C.play is A2C.play


@pytest.mark.slow
def test_a_killed_training_goes_on_and_keeps_the_best(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(learner(workers=1), DATA, Notes(tmp_path, stop_after(3)), 200_000)
    assert nobody_left()
    before = torch.load(tmp_path / "training.pt", weights_only=True)
    assert before["decisions"] > 0
    moved = [state["square_avg"].abs().sum() for state in before["optimizer"]["state"].values()]
    assert any(total > 0 for total in moved), "the shared squares are part of the state"
    notes = Notes(tmp_path)
    fit(learner(workers=1), DATA, notes, before["decisions"] + 2000)
    assert notes.heard[0][0] > before["decisions"], "it should have gone on"
    after = torch.load(tmp_path / "training.pt", weights_only=True)
    assert after["best"] >= before["best"]
    assert notes.facts["learning/cpu_seconds"] > before["price"]["cpu_seconds"]
    assert notes.facts["learning/seconds"] > before["price"]["seconds"]
    again = Notes(tmp_path)
    assert same_weights(
        fit(learner(workers=1), DATA, again, 1000), fit(learner(workers=1), DATA, again, 1000)
    )
    assert again.heard == [], "the budget was spent"


PROGRAM = """
import sys
from pathlib import Path
from tests.solvers.learning import Notes, fit
from tests.solvers.test_a3c import DATA, learner
if __name__ == "__main__":
    fit(learner(), DATA, Notes(Path(sys.argv[1])), 10**9)
"""


def test_workers_end_when_their_starter_is_killed(tmp_path, request):
    starter = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=request.config.rootpath
    )
    while not (tmp_path / "training.pt").exists():
        assert starter.poll() is None
        time.sleep(0.02)
    children = psutil.Process(starter.pid).children(recursive=True)
    workers = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    assert len(workers) == 2
    starter.kill()
    assert starter.wait() == -signal.SIGKILL
    _, alive = psutil.wait_procs(workers, timeout=15.0)
    for worker in alive:
        worker.kill()
    assert not alive
    assert torch.load(tmp_path / "training.pt", weights_only=True)["decisions"] > 0


def test_a_killed_worker_is_one_clear_error(tmp_path):
    def kill_one(notes: Notes) -> None:
        if len(notes.heard) == 2:
            processes.active_children()[0].kill()

    with pytest.raises(RuntimeError, match="a3c: a worker died with exit code -9"):
        fit(learner(workers=1), DATA, Notes(tmp_path, kill_one), 10**7)
    assert nobody_left()


def finite(path: Path) -> bool:
    """Every weight in a saved training."""
    state = torch.load(path, weights_only=True)
    return all(
        torch.isfinite(w).all()
        for part in ("network", "average", "best_network")
        for w in state[part].values()
    )


@pytest.mark.slow
def test_what_is_not_finite_stops_every_process_and_leaves_the_last_good_state(tmp_path):
    fit(learner(workers=1), DATA, Notes(tmp_path), 1000)
    decisions = torch.load(tmp_path / "training.pt", weights_only=True)["decisions"]
    with pytest.raises(
        UserError, match=r"a3c: the loss became .* at decision \d+; lower solver\.lr"
    ):
        fit(learner(workers=1, lr=1e30, max_grad_norm=1e30), DATA, Notes(tmp_path), 10**7)
    assert nobody_left()
    assert torch.load(tmp_path / "training.pt", weights_only=True)["decisions"] >= decisions
    assert finite(tmp_path / "training.pt")


def test_it_refuses_a_gpu():
    with pytest.raises(
        UserError, match=r"a3c learns in processes on the CPU; set solver\.device=cpu"
    ):
        A3C(device="cuda")
    assert A3C(device="auto").device == "cpu"
