"""Asynchronous advantage actor-critic (A3C: Mnih et al. 2016, arXiv:1602.01783, algorithm S3).

Each worker is a process with its own environments and its own copy of the network. It copies the
shared weights, plays a few decisions, computes the gradient of A2C's loss on them, and applies it
to the shared weights without locks (Recht et al. 2011, "Hogwild!"). RMSProp's running means of
squared gradients are shared too (section 4 of the paper). The main process only monitors the
workers: it updates the EMA of the shared weights, validates and saves it, and stops the workers
when the budget is spent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch import multiprocessing as processes

from bench.contracts import TrainingLogger
from bench.errors import UserError
from bench.instance import Instance
from bench.setting import Setting
from solvers.a2c import A2C
from solvers.rl.checkpointed_trainer import CheckpointedTrainer
from solvers.rl.process_group import begin_worker
from solvers.rl.trainer import Trainer

POLL_SECONDS = 0.1  # between two checks of the main process


@dataclass(kw_only=True)
class A3C(A2C):
    """A3C on (task, agent) pairs; `conf/solver/a3c.yaml` describes each setting.

    The operating system decides which worker runs when. So two runs with the same seed differ, and
    a resumed run differs from one that was not interrupted.
    """

    workers: int = 2

    def __post_init__(self) -> None:
        if self.device == "cuda":
            raise UserError(
                "solver.device: value 'cuda': a3c learns in processes on the CPU; set "
                "solver.device=cpu, or take a2c for a GPU"
            )
        super().__post_init__()
        self.device = "cpu"

    def share(self, processes: int) -> Self | None:
        """Return None: this learner has workers of its own."""
        return None

    def learn(
        self, trainer: CheckpointedTrainer, train: list[Instance], logger: TrainingLogger
    ) -> None:
        """Start the workers and monitor them until the budget is spent."""
        if trainer.pool is not None:
            raise UserError(
                "dataset.train: value endless: the workers of a3c keep the instances that they "
                "begin with; give a number"
            )
        if trainer.done:
            return
        shared = SharedState.of(trainer, self.workers)
        context = processes.get_context("spawn")
        stop = context.Event()
        messages = context.SimpleQueue()
        setting = trainer.collector.simulator.setting
        total = trainer.total_decisions
        workers = [
            context.Process(
                target=run_worker,
                args=(
                    *(self, rank, train, setting, trainer.seed_of(rank)),
                    *(shared, total, stop, messages),
                ),
                daemon=True,
            )
            for rank in range(self.workers)
        ]
        for worker in workers:
            worker.start()
        try:
            self._monitor(trainer, shared, workers, messages, logger)
        finally:
            stop.set()
            for worker in workers:
                worker.join(timeout=10.0)
                worker.kill()

    def _monitor(
        self,
        trainer: CheckpointedTrainer,
        shared: SharedState,
        workers: Sequence[Any],
        messages: Any,
        logger: TrainingLogger,
    ) -> None:
        """End an iteration whenever the workers have played one rollout each, or more."""
        cost = trainer.learning_cost
        per_iteration = self.num_envs * self.steps * self.workers  # decisions
        cpu_before = cost.cpu_seconds
        seconds_before = cost.seconds
        began = time.perf_counter()
        while not trainer.done:
            time.sleep(POLL_SECONDS)
            values: dict[str, float] = {}
            while not messages.empty():
                message = messages.get()
                if isinstance(message, str):
                    raise UserError(message)
                values = message
            if dead := [worker for worker in workers if worker.exitcode not in (None, 0)]:
                raise RuntimeError(f"a3c: a worker died with exit code {dead[0].exitcode}")
            decisions = int(shared.decisions.sum())
            played = decisions - trainer.decisions
            if played < per_iteration and decisions < trainer.total_decisions:
                continue
            trainer.decisions = decisions
            cost.cpu_seconds = cpu_before + float(shared.cpu_seconds.sum())
            # validation is not subtracted: the workers go on meanwhile
            cost.seconds = seconds_before + time.perf_counter() - began
            trainer.end_iteration(values, logger, played / per_iteration)


class SharedState(NamedTuple):
    """What all processes read and write, in shared memory."""

    weights: Tensor  # (P,) of the network
    squares: Tensor  # (P,) RMSProp's running means of squared gradients
    decisions: Tensor  # (workers,) int64 played by each; the first includes those before a resume
    cpu_seconds: Tensor  # (workers,) float64 spent by each

    @classmethod
    def of(cls, trainer: CheckpointedTrainer, workers: int) -> SharedState:
        """Move the weights of a trainer and its optimizer's squares to shared memory."""
        weights = trainer.weights.flat.data.share_memory_()
        state = trainer.optimizer.state[trainer.weights.flat]
        state.setdefault("step", torch.zeros(()))
        state["square_avg"] = state.get("square_avg", torch.zeros_like(weights)).share_memory_()
        decisions = torch.zeros(workers, dtype=torch.int64).share_memory_()
        decisions[0] = trainer.decisions
        cpu_seconds = torch.zeros(workers, dtype=torch.float64).share_memory_()
        return cls(weights, state["square_avg"], decisions, cpu_seconds)


class Worker(Trainer):
    """A trainer whose gradients, computed on a copy of the shared weights, change the shared ones.

    Parameters are those of `Trainer`; `shared` holds the state of all workers.
    """

    def __init__(
        self,
        learner: A3C,
        instances: list[Instance],
        setting: Setting,
        seed: int,
        shared: SharedState,
        total_decisions: int,
    ) -> None:
        torch.manual_seed(seed)
        simulator = learner.environments(instances, setting, torch.device("cpu"))
        network = learner.new_network(simulator)
        super().__init__(learner, network, simulator, seed, total_decisions)
        self.all_decisions = shared.decisions
        self.shared_weights = nn.Parameter(shared.weights)
        self.shared_weights.grad = self.weights.flat.grad
        self.optimizer = learner.optimizer([self.shared_weights])
        square = {"step": torch.zeros(()), "square_avg": shared.squares}
        self.optimizer.state[self.shared_weights] = square

    @property
    def progress_remaining(self) -> float:
        """The share of the budget that is not spent now: the other workers play meanwhile."""
        return max(0.0, 1.0 - int(self.all_decisions.sum()) / self.total_decisions)

    def copy_shared_weights(self) -> None:
        """Copy the shared weights to the network of this worker."""
        self.weights.flat.data.copy_(self.shared_weights.data)

    def step(self) -> None:
        """Apply the gradients of this worker to the shared weights, unless they are not finite.

        The learning rate is set anew: a worker that was delayed must not make a step with the
        learning rate of an earlier time.
        """
        self.anneal_learning_rate()
        self.clip_gradient()
        self.check_finite()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)


def run_worker(
    learner: A3C,
    rank: int,
    instances: list[Instance],
    setting: Setting,
    seed: int,
    shared: SharedState,
    total_decisions: int,
    stop: Any,
    messages: Any,
) -> None:
    """Train in one process until `stop` is set, the main process has died, or the budget is spent.

    Parameters
    ----------
    learner, instances, setting, seed, shared, total_decisions
        As for `Worker`.
    rank
        Number of the worker.
    stop
        An event.
    messages
        A queue to the main process: the metrics of worker 0, and the text of a UserError.
    """
    main_process = begin_worker()
    worker = Worker(learner, instances, setting, seed, shared, total_decisions)
    try:
        while not stop.is_set() and main_process.is_alive():
            worker.decisions = int(shared.decisions.sum())
            if worker.done:
                return
            worker.copy_shared_weights()
            before = worker.decisions
            values = worker.train_iteration()
            shared.decisions[rank] += worker.decisions - before
            shared.cpu_seconds[rank] = time.process_time()
            if rank == 0 and messages.empty():  # a full pipe would block the worker
                messages.put(values)
    except UserError as error:
        messages.put(str(error))
