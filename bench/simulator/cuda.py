"""The transition function as CUDA kernels: one thread per environment, over the memory of torch's tensors, on torch's stream.

Imported only where CUDA is used; raises ImportError without numba-cuda (the target inside numba itself fails on `kernel`).
With NUMBA_ENABLE_CUDASIM=1 numba plays the kernels on the CPU, over CPU tensors: for tests.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import config, cuda
from numpy.typing import NDArray
from torch import Tensor

from bench.simulator import kernel

SIMULATED = bool(config.ENABLE_CUDASIM)
if not SIMULATED and importlib.util.find_spec("numba_cuda") is None:
    raise ImportError(
        "the simulator on a GPU needs numba-cuda: install the extra cuda, or cuda12 beside a torch for CUDA 12"
    )
THREADS = (
    32  # per block: one warp, so that few environments too are spread over the multiprocessors
)


@cuda.jit
def step(t, s, actions):
    """`kernel.step` for every environment; actions (B,)."""
    b = cuda.grid(1)
    if b < actions.shape[0]:
        kernel.step(t, s, np.uint64(b), actions[b])


@cuda.jit
def restart(t, s, instances, everyone):
    """`kernel.renew` for every environment; instances (B,)."""
    b = cuda.grid(1)
    if b < instances.shape[0]:
        kernel.renew(t, s, np.uint64(b), instances[b], everyone)


@cuda.jit
def play_random(t, s, seeds, decisions, again, returns):
    """`kernel.play` in every environment; seeds (B,) uint64, results to `returns` (B, 2)."""
    b = cuda.grid(1)
    if b < seeds.shape[0]:
        returns[b, 0], returns[b, 1] = kernel.play(t, s, np.uint64(b), seeds[b], decisions, again)


class Gpu:
    """The Engine (see `bench.simulator.tensors`) of a Tables and a State of tensors on one GPU.

    Nothing but `play_random` waits for the GPU.
    """

    def __init__(self, tables: Any, state: Any) -> None:
        self._blocks = -(-len(state.env) // THREADS)
        self._device = state.env.get_device()  # -1 beside numba's simulator
        self._numbers = torch.zeros_like(state.env[:, 0])  # (B,) actions or instances
        self._launchers: dict[Any, Callable[..., None]] = {}
        with torch.cuda.device(self._device):
            self._view = view(self._numbers)
            self._tables, self._state = (
                tables._make(map(view, tables)),
                state._make(map(view, state)),
            )

    def step(self, actions: Tensor) -> None:
        """Apply flat actions (B,)."""
        self._numbers.copy_(actions)
        self._launch(step, self._view)

    def restart(self, instances: Tensor, everyone: bool) -> None:
        """New episodes of `instances` (B,) where one is over, or for `everyone`."""
        self._numbers.copy_(instances)
        self._launch(restart, self._view, everyone)

    def play_random(
        self, seeds: NDArray[np.uint64], decisions: int, again: bool, returns: Tensor
    ) -> None:
        """As `kernel.play_random`; seeds (B,), returns (B, 2) float64 on the GPU."""
        with torch.cuda.device(self._device):
            self._launch(play_random, cuda.to_device(seeds), decisions, again, view(returns))

    def _launch(self, function: Any, *arguments: Any) -> None:
        """On the stream that torch uses now. What is slow (compiling, types) is done once per kernel and stream."""
        if SIMULATED:
            function[self._blocks, THREADS](self._tables, self._state, *arguments)
            return
        with torch.cuda.device(self._device):
            key = function, torch.cuda.current_stream().cuda_stream
            if key not in self._launchers:
                self._launchers[key] = self._launcher(*key, arguments)
            self._launchers[key](self._tables, self._state, *arguments)

    def _launcher(
        self, function: Any, stream: int, arguments: tuple[Any, ...]
    ) -> Callable[..., None]:
        compiled = function.specialize(self._tables, self._state, *arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numba's, that few environments do not fill the GPU
            return compiled[self._blocks, THREADS, stream and cuda.external_stream(stream)]


def view(value: Any) -> Any:
    """The same memory for numba; scalars as they are."""
    if not isinstance(value, Tensor):
        return value
    return value.numpy() if SIMULATED else cuda.as_cuda_array(value)
