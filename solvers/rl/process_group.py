"""Processes that train together: how one begins, and means over them by shared memory."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch
from torch import Tensor

SPINS = 20  # tests whether the others have arrived before the process sleeps
SLEEP_SECONDS = 1e-4
LIVENESS_SLEEPS = 5000  # sleeps between two tests whether the others live


def begin_worker() -> BaseProcess:
    """Prepare a worker process for one core; return the main process, which started it."""
    torch.set_num_threads(1)
    # Ctrl-C reaches every process; the main process stops the workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main_process = parent_process()
    assert main_process is not None  # workers call this, nobody else
    return main_process


class Exchange(NamedTuple):
    """Shared memory of n processes, by which they add up tensors of at most `width` numbers."""

    slots: Tensor  # (2, n, width) float64; calls use the two banks in turn
    arrived: Tensor  # (n,) int64 calls in which each process has written its numbers
    lock: Any  # orders what is written and read

    @classmethod
    def of(cls, size: int, width: int, context: Any) -> Exchange:
        """Return the shared memory of `size` processes."""
        slots = torch.zeros(2, size, width, dtype=torch.float64).share_memory_()
        return cls(slots, torch.zeros(size, dtype=torch.int64).share_memory_(), context.Lock())


class ProcessGroup:
    """The processes that train together, as one of them sees them.

    Parameters
    ----------
    rank, size
        Number of this process, and of all. Default: it is alone.
    exchange
        Shared by all; None where the process is alone.
    check_others
        Raises where another process has died.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        exchange: Exchange | None = None,
        check_others: Callable[[], None] = lambda: None,
    ) -> None:
        self.rank = rank
        self.size = size
        self.exchange = exchange
        self.check_others = check_others
        self.calls = 0

    def mean_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by the mean over the processes, which all call this; return it."""
        if self.exchange is None:
            return tensor
        slots = self.exchange.slots[self.calls % 2, :, : tensor.numel()]
        slots[self.rank] = tensor.detach().flatten()
        self.calls += 1
        self._wait(self.exchange)
        return tensor.copy_(slots.mean(dim=0).view_as(tensor))

    def _wait(self, exchange: Exchange) -> None:
        """Wait until all processes have written their numbers of this call."""
        with self._locked(exchange):
            exchange.arrived[self.rank] = self.calls
        spins = 0
        while True:
            with self._locked(exchange):
                if int(exchange.arrived.min()) >= self.calls:
                    return
            spins += 1
            time.sleep(0 if spins < SPINS else SLEEP_SECONDS)
            if spins % LIVENESS_SLEEPS == 0:
                self.check_others()

    @contextmanager
    def _locked(self, exchange: Exchange) -> Iterator[None]:
        """Hold the lock inside the context; a process that died may have held it."""
        while not exchange.lock.acquire(timeout=1.0):
            self.check_others()
        try:
            yield
        finally:
            exchange.lock.release()
