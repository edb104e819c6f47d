"""Training in several processes: each plays its share of the environments.

All processes hold the same weights. Each computes the gradient of its share of a batch; they make
the same step with the mean of their gradients (synchronous data parallelism, as in Goyal et al.
2017, arXiv:1706.02677). Threads would not do: the many small operations of these networks wait for
Python's lock (measured: 1.1 to 1.3 times one core by threads on parts of a batch, 1.0 times by
torch's own threads).

What a training computes depends on the number of processes, not on the number of cores.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing.connection
import os
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import torch
from torch import multiprocessing as processes

from bench.contracts import Dataset
from bench.errors import UserError
from bench.instance import Instance
from bench.setting import Setting
from solvers.networks.checkpoint import serialised
from solvers.rl.process_group import Exchange, ProcessGroup, begin_worker
from solvers.rl.trainer import Trainer

ITERATE, STATE = "iterate", "state"  # commands to a worker
ENDING_SECONDS = 1.0  # in which a process whose pipe is closed has ended


class TrainerFactory(Protocol):
    """What a worker needs of a learner, which is sent to it."""

    def trainer(
        self,
        instances: list[Instance],
        setting: Setting,
        seed: int,
        decisions: int,
        data: Dataset | None,
    ) -> Trainer:
        """Return a trainer of a new network."""


class RemoteDataset(Dataset):
    """The endless train split of a data set in another process, which `serve_instances` serves.

    Parameters
    ----------
    connection
        A pipe to that process.
    """

    endless = True

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def instances(self, split: str) -> Iterator[Instance]:
        """Raise TypeError: workers are given the instances with which they begin."""
        raise TypeError("a worker process reads single instances only")

    def training_instance(self, index: int) -> Instance:
        """Return instance `index` of the train split."""
        self._connection.send(index)
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return cast(Instance, answer)


def serve_instances(data: Dataset, connections: list[Any]) -> None:
    """Send training instances, or why there is none, until all pipes are closed."""
    while connections:
        for connection in cast(list[Any], multiprocessing.connection.wait(connections)):
            try:
                index = connection.recv()
            except (EOFError, OSError):
                connections.remove(connection)
                continue
            answer: Instance | Exception
            try:
                answer = data.training_instance(index)
            except Exception as error:
                answer = error
            with contextlib.suppress(OSError):
                connection.send(answer)


class WorkerProcesses:
    """The other processes of a training, in a `with` statement.

    Parameters
    ----------
    trainer
        Of this process, which becomes rank 0; all begin with its weights.
    learner
        Its settings: those of one process.
    size
        Number of processes, this one included.
    train, setting
        The training instances, and how they are played.
    data
        Where the training instances are endless: their data set. It stays in this process.
    states
        What `states` returned when the training was interrupted. Default: new episodes begin.
    """

    def __init__(
        self,
        trainer: Trainer,
        learner: TrainerFactory,
        size: int,
        train: Sequence[Instance],
        setting: Setting,
        data: Dataset | None = None,
        states: Sequence[dict[str, Any]] = (),
    ) -> None:
        context = processes.get_context("spawn")
        exchange = Exchange.of(size, max(trainer.weights.flat.numel(), 64), context)
        trainer.group = ProcessGroup(0, size, exchange, self.check)
        trainer.workers = self
        self._trainer = trainer
        self._connections = []
        self._processes = []
        requests = []
        for rank in range(1, size):
            ours, theirs = context.Pipe()
            answers, asks = context.Pipe()
            begin = trainer.shared_state() | (states[rank - 1] if states else {})
            process = context.Process(
                target=run_worker,
                args=(learner, list(train), setting, trainer.total_decisions),
                kwargs={
                    "seed": trainer.seed_of(rank),
                    "begin": serialised(begin),
                    "group": (rank, size, exchange),
                    "connection": theirs,
                    "data": None if data is None else RemoteDataset(asks),
                },
                daemon=True,
            )
            process.start()
            theirs.close()
            asks.close()
            self._connections.append(ours)
            self._processes.append(process)
            requests.append(answers)
        if data is not None:
            threading.Thread(target=serve_instances, args=(data, requests), daemon=True).start()

    def __enter__(self) -> WorkerProcesses:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._trainer.group = ProcessGroup()
        self._trainer.workers = None
        for connection in self._connections:
            connection.close()
        if kind is not None:  # in the middle of an iteration they would wait for this process
            for process in self._processes:
                process.kill()
        for process in self._processes:
            process.join(timeout=10.0)
            process.kill()

    def begin_iteration(self) -> None:
        """Let every worker run one iteration, beside that of this process."""
        with self._asking():
            for connection in self._connections:
                connection.send(ITERATE)

    def states(self) -> list[dict[str, Any]]:
        """Return the state of every worker, between two iterations."""
        found = []
        with self._asking():
            for connection in self._connections:
                connection.send(STATE)
            for connection in self._connections:
                while not connection.poll(1.0):
                    self.check()
                found.append(torch.load(io.BytesIO(connection.recv()), weights_only=True))
        return found

    def check(self) -> None:
        """Raise where a worker has died.

        Raises
        ------
        UserError
            With the message of a worker's own UserError.
        RuntimeError
            Where a worker died by something else.
        """
        for connection, process in zip(self._connections, self._processes, strict=True):
            if process.is_alive():
                continue
            with contextlib.suppress(EOFError, OSError):  # it said nothing
                while connection.poll():
                    if isinstance(message := connection.recv(), str):
                        raise UserError(message)
            raise RuntimeError(
                f"a training process died with exit code {process.exitcode}; run again, it goes on "
                "from the last checkpoint (solver.threads=1: one process; a script that trains "
                'must do so under `if __name__ == "__main__":`)'
            )

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Raise the reason why a worker has died where one does not answer inside the context."""
        try:
            yield
        except (EOFError, OSError):
            time.sleep(ENDING_SECONDS)
            self.check()
            raise


def run_worker(
    learner: TrainerFactory,
    train: list[Instance],
    setting: Setting,
    total_decisions: int,
    *,
    seed: int,
    begin: bytes,
    group: tuple[int, int, Exchange],
    connection: Any,
    data: Dataset | None,
) -> None:
    """Run iterations in one process for as long as the main process asks for them.

    Parameters are those of `WorkerProcesses`, and

    seed
        Of the random numbers of this process.
    begin
        A serialised state with which it begins.
    group
        Rank, size and shared memory.
    connection
        A pipe to the main process.
    data
        Its train split is endless; None where the training instances stay.
    """
    main_process = begin_worker()

    def check_main() -> None:
        if not main_process.is_alive():  # it was killed: there is nobody to report to
            os._exit(1)

    try:
        worker = learner.trainer(train, setting, seed, total_decisions, data)
        worker.group = ProcessGroup(*group, check_main)
        worker.restore_shared(torch.load(io.BytesIO(begin), weights_only=True))
        if worker.pool is not None:
            worker.pool.take_turns(*group[:2])
        while True:
            while not connection.poll(1.0):
                check_main()
            if connection.recv() == ITERATE:
                worker.train_iteration()
            else:
                connection.send(serialised(worker.shared_state() | worker.episode_state()))
    except EOFError:  # the main process ended the training
        return
    except UserError as error:
        connection.send(str(error))
    except Exception:
        traceback.print_exc()
        os._exit(1)
