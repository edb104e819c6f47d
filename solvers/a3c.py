"""Asynchronous advantage actor-critic (A3C: Mnih et al. 2016, arXiv:1602.01783, algorithm S3), readable from top to bottom.

Each worker is a process with environments and a copy of the network of its own. It takes the shared weights, plays a few
decisions, computes the gradient of A2C's loss on them and applies it to the shared weights without asking anyone: RMSProp whose
running squares are shared too, without locks (section 4 of the paper; Recht et al. 2011, "Hogwild!"). The process that started
them only watches: it averages and validates the shared network, saves it, and stops when the budget is spent.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch import multiprocessing as processes

from bench.contracts import Log
from bench.errors import UserError
from bench.instance import Instance
from bench.setting import Setting
from solvers.a2c import A2C
from solvers.rl.training import Descent, Training, new_network, simulator_for

LOOK = 0.1  # seconds between two looks of the watching process


@dataclass(kw_only=True)
class A3C(A2C):
    """Learns a policy that scores (task, agent) pairs; see `conf/solver/a3c.yaml` for what each argument means.

    Which worker gets its turn when is up to the machine, so two runs of one seed differ, as do a killed and a whole one.
    """

    workers: int = 2

    def __post_init__(self) -> None:
        if self.device == "cuda":
            raise UserError(
                "solver.device: a3c learns in processes on the CPU; set solver.device=cpu, or take a2c for a GPU"
            )
        super().__post_init__()
        self.device = "cpu"

    def learn(self, training: Training, train: list[Instance], log: Log) -> None:
        """Start the workers and watch them until the budget is spent."""
        if training.done:
            return
        shared = Shared.of(training, self.workers)
        seeds = (
            training.player.generator.initial_seed() + training.decisions
        )  # a resumed run plays something new
        context = processes.get_context("spawn")
        stop, heard = context.Event(), context.SimpleQueue()
        setting = training.player.simulator.setting
        crew = [
            context.Process(
                target=work,
                args=(self, rank, train, setting, seeds, shared, training.total, stop, heard),
                daemon=True,
            )
            for rank in range(self.workers)
        ]
        for worker in crew:
            worker.start()
        try:
            self._watch(training, shared, crew, heard, log)
        finally:
            stop.set()
            for worker in crew:
                worker.join(timeout=10.0)
                worker.kill()

    def _watch(
        self, training: Training, shared: Shared, crew: Sequence[Any], heard: Any, log: Log
    ) -> None:
        price, every = training.price, self.envs * self.steps * self.workers
        spent, waited, began = price.cpu_seconds, price.seconds, time.perf_counter()
        while not training.done:
            time.sleep(LOOK)
            values: dict[str, float] = {}
            while not heard.empty():
                message = heard.get()
                if isinstance(message, str):
                    raise UserError(message)
                values = message
            if dead := [worker for worker in crew if worker.exitcode not in (None, 0)]:
                raise RuntimeError(f"a3c: a worker died with exit code {dead[0].exitcode}")
            played = int(shared.decisions.sum())
            if played - training.decisions < every and played < training.total:
                continue
            missed, training.decisions = (played - training.decisions) / every, played
            price.cpu_seconds = spent + float(shared.cpu_seconds.sum())
            price.seconds = (
                waited + time.perf_counter() - began
            )  # validation goes on beside the learning
            training.looked(values, log, missed)


class Shared(NamedTuple):
    """What all processes read and write, in shared memory."""

    weights: list[Tensor]  # of the network
    squares: list[Tensor]  # RMSProp's running means of squared gradients
    decisions: Tensor  # (workers,) int64, played by each; what was played before a resumption stands in the first
    cpu_seconds: Tensor  # (workers,) float64, spent by each

    @classmethod
    def of(cls, training: Training, workers: int) -> Shared:
        """The weights of a training and its optimizer's squares, moved to shared memory."""
        weights = [parameter.data.share_memory_() for parameter in training.network.parameters()]
        states = [
            training.optimizer.state[parameter] for parameter in training.network.parameters()
        ]
        for state, weight in zip(states, weights, strict=True):
            state.setdefault("step", torch.zeros(()))
            state["square_avg"] = state.get("square_avg", torch.zeros_like(weight)).share_memory_()
        decisions = torch.zeros(workers, dtype=torch.int64).share_memory_()
        decisions[0] = training.decisions
        cpu_seconds = torch.zeros(workers, dtype=torch.float64).share_memory_()
        return cls(weights, [state["square_avg"] for state in states], decisions, cpu_seconds)


class Worker(Descent):
    """Descends on a copy of the shared weights, and moves these instead of its own."""

    def __init__(
        self,
        learner: A3C,
        instances: list[Instance],
        setting: Setting,
        seed: int,
        shared: Shared,
        total: int,
    ) -> None:
        torch.manual_seed(seed)
        simulator = simulator_for(learner, instances, setting, torch.device("cpu"))
        super().__init__(learner, new_network(learner, simulator), simulator, seed, total)
        self.played = shared.decisions
        self.shared = [nn.Parameter(weight) for weight in shared.weights]
        self.optimizer = learner.optimizer(self.shared)
        for parameter, square in zip(self.shared, shared.squares, strict=True):
            self.optimizer.state[parameter] = {"step": torch.zeros(()), "square_avg": square}

    @property
    def left(self) -> float:
        """The share of the budget that is left by now: the others play on."""
        return max(0.0, 1.0 - int(self.played.sum()) / self.total)

    def take(self) -> None:
        """Copy the shared weights."""
        with torch.no_grad():
            for mine, theirs in zip(self.network.parameters(), self.shared, strict=True):
                mine.copy_(theirs)

    def step(self) -> None:
        """Apply the own gradients to the shared weights, unless they would spoil them.

        A worker that was held up must not move weights that have settled since: the learning rate is that of now.
        """
        self.anneal()
        self.norm += nn.utils.clip_grad_norm_(self.network.parameters(), self.learner.max_grad_norm)
        self.check()
        for mine, theirs in zip(self.network.parameters(), self.shared, strict=True):
            theirs.grad, mine.grad = mine.grad, None
        self.optimizer.step()


def work(
    learner: A3C, rank: int, instances: list[Instance], setting: Setting, seeds: int, shared: Shared, total: int, stop: Any,
    heard: Any,
) -> None:  # fmt: skip
    """What one process does until it is told to stop, its starter is gone, or the budget is spent."""
    torch.set_num_threads(1)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches every process, and the starter sees to it
    seed = int(np.random.SeedSequence([seeds, rank]).generate_state(1)[0])
    worker, starter = (
        Worker(learner, instances, setting, seed, shared, total),
        processes.parent_process(),
    )
    assert starter is not None  # nobody calls this but `learn`
    try:
        while not stop.is_set() and starter.is_alive():
            worker.decisions = int(shared.decisions.sum())
            if worker.done:
                return
            worker.take()
            before = worker.decisions
            values = worker.turn()
            shared.decisions[rank] += worker.decisions - before
            shared.cpu_seconds[rank] = time.process_time()
            if rank == 0 and heard.empty():  # a full pipe would hold the worker up
                heard.put(values)
    except UserError as error:
        heard.put(str(error))
