"""The transition function as CUDA kernels: one thread per environment, on the memory of tensors.

The kernels run on the stream that torch uses. Import this module only where CUDA is used: it
raises ImportError without the package numba-cuda (the CUDA target inside numba itself cannot
compile `kernel`). With NUMBA_ENABLE_CUDASIM=1 numba simulates the kernels on the CPU, over CPU
tensors; this is for tests.
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

from bench.simulator import kernel, view_kernel

SIMULATED = bool(config.ENABLE_CUDASIM)
if not SIMULATED and importlib.util.find_spec("numba_cuda") is None:
    raise ImportError(
        "the simulator on a GPU needs numba-cuda: install the extra cuda, or cuda12 for a torch "
        "that is built for CUDA 12"
    )
# One warp per block, so that few environments are also spread over the multiprocessors.
THREADS_PER_BLOCK = 32


@cuda.jit
def step(t, s, operands):
    """Run `kernel.STEP` in every environment."""
    b = cuda.grid(1)
    if b < operands.numbers.shape[0]:
        kernel.run(t, s, b, b + 1, kernel.STEP, operands, 0)


@cuda.jit
def restart(t, s, operands, all_envs):
    """Run `kernel.RESET` or `kernel.RESET_IF_OVER` in every environment."""
    b = cuda.grid(1)
    if b < operands.numbers.shape[0]:
        operation = kernel.RESET if all_envs else kernel.RESET_IF_OVER
        kernel.run(t, s, b, b + 1, operation, operands, 0)


@cuda.jit
def play_random(t, s, operands, decisions, restart):
    """Run `kernel.PLAY` or `kernel.PLAY_ON` in every environment; see `kernel.play_random`."""
    b = cuda.grid(1)
    if b < operands.numbers.shape[0]:
        operation = kernel.PLAY_ON if restart else kernel.PLAY
        kernel.run(t, s, b, b + 1, operation, operands, decisions)


@cuda.jit
def observe_tasks(t, s, v, clairvoyant):
    """Call `view_kernel.observe_task` for every environment and position in the window."""
    n = cuda.grid(1)
    if n < v.shown.size:
        k = v.shown.shape[1]
        view_kernel.observe_task(t, s, v, np.uint64(n // k), n % k, clairvoyant)


@cuda.jit
def observe_agents(t, s, v, clairvoyant):
    """Call `view_kernel.observe_agent` for every environment and agent."""
    n = cuda.grid(1)
    if n < v.up.size:
        m = v.up.shape[1]
        view_kernel.observe_agent(t, s, v, np.uint64(n // m), n % m, clairvoyant)


class CudaBackend:
    """The `bench.simulator.tensors.Backend` for tables and a state on one GPU.

    Only `play_random` waits for the GPU.

    Parameters
    ----------
    tables, state
        `InstanceTables` and `SimulatorState` with tensors in place of arrays.
    """

    def __init__(self, tables: Any, state: Any) -> None:
        self._device = state.env.get_device()  # -1 with numba's simulation
        self._numbers = torch.zeros_like(state.env[:, 0])  # (B,) actions or instances
        with torch.cuda.device(self._device):
            no_returns = state.reward.new_zeros(1, 2)
            self._operands = kernel.Operands(numba_view(self._numbers), numba_view(no_returns))
            self._tables = tables._make(map(numba_view, tables))
            self._state = state._make(map(numba_view, state))

    def step(self, actions: Tensor) -> None:
        """Apply flat actions (B,) int64."""
        self._numbers.copy_(actions)
        self._launch(step, len(actions), self._operands)

    def restart(self, instances: Tensor, all_envs: bool) -> None:
        """Start episodes of `instances` (B,) int64 where one is over, or everywhere."""
        self._numbers.copy_(instances)
        self._launch(restart, len(instances), self._operands, all_envs)

    def observe(self, view: Any, clairvoyant: bool) -> None:
        """See `TensorSimulator.observe`."""
        columns = view._make(map(numba_view, view))
        self._launch(observe_tasks, view.shown.numel(), columns, clairvoyant)
        self._launch(observe_agents, view.up.numel(), columns, clairvoyant)

    def play_random(
        self, seeds: NDArray[np.uint64], decisions: int, restart: bool, returns: Tensor
    ) -> None:
        """See `kernel.play_random`; seeds (B,), returns (B, 2) float64 on the GPU."""
        with torch.cuda.device(self._device):
            seeds_view = numba_view(torch.from_numpy(seeds.view(np.int64)).to(returns.device))
            operands = kernel.Operands(seeds_view, numba_view(returns))
            self._launch(play_random, len(seeds), operands, decisions, restart)

    def _launch(self, function: Any, threads: int, *arguments: Any) -> None:
        launch(function, self._device, threads, self._tables, self._state, *arguments)


_specialized: dict[Any, Any] = {}  # (function, device) -> compiled CUDA kernel
_launchers: dict[Any, Callable[..., None]] = {}  # the same on a stream, with a number of blocks


def launch(function: Any, device: int, threads: int, *arguments: Any) -> None:
    """Launch a CUDA kernel on the stream that torch uses now.

    Compilation and the analysis of argument types are slow. They are done once per CUDA kernel,
    stream and number of blocks: each kernel always gets arguments of the same types. So a launch
    may be captured in a CUDA graph if the same one was made before, on the same stream.

    Parameters
    ----------
    function
        What `cuda.jit` returned.
    device
        Index of the GPU; -1 with numba's simulation.
    threads
        How many threads are needed at least; they come in blocks of THREADS_PER_BLOCK.
    *arguments
        Of the kernel; tensors as `numba_view` returns them.
    """
    blocks = -(-threads // THREADS_PER_BLOCK)
    if SIMULATED:
        function[blocks, THREADS_PER_BLOCK](*arguments)
        return
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        key = (function, device, stream, blocks)
        if key not in _launchers:
            if (function, device) not in _specialized:
                _specialized[function, device] = function.specialize(*arguments)
            specialized = _specialized[function, device]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numba warns that few threads do not fill a GPU
                _launchers[key] = specialized[
                    blocks, THREADS_PER_BLOCK, stream and cuda.external_stream(stream)
                ]
        _launchers[key](*arguments)


def numba_view(value: Any) -> Any:
    """Return a view of a tensor's memory for numba; scalars are returned as they are."""
    if not isinstance(value, Tensor):
        return value
    return value.numpy() if SIMULATED else cuda.as_cuda_array(value)
