"""Generalised advantage estimation on a GPU: one thread per environment.

Import this module only where CUDA is used, see `bench.simulator.cuda`.
"""

from __future__ import annotations

from typing import Any

from numba import cuda

from bench.simulator.cuda import launch, numba_view
from solvers.rl import advantage_kernel
from solvers.rl.advantage_kernel import Steps


@cuda.jit
def write_advantages(steps, gamma, gae_lambda):
    """Call `advantage_kernel.write_advantages` for every environment."""
    b = cuda.grid(1)
    if b < steps.reward.shape[1]:
        advantage_kernel.write_advantages(steps, gamma, gae_lambda, b)


def estimate_advantages(steps: Steps, gamma: float, gae_lambda: float) -> None:
    """Write the advantages of every environment; `steps` holds tensors on one GPU."""
    device, threads = steps.reward.get_device(), steps.reward.shape[1]
    arrays: Any = Steps._make(map(numba_view, steps))
    launch(write_advantages, device, threads, arrays, gamma, gae_lambda)
