"""The features of networks on a GPU: one thread per decision, per task or per agent.

Import this module only where CUDA is used, see `bench.simulator.cuda`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from bench.simulator.cuda import launch, numba_view
from bench.simulator.view import BatchView
from solvers.networks.kernels import features
from solvers.networks.kernels.features import FeatureArrays


@cuda.jit
def sum_agents(v, f):
    """Call `features.sum_agents` for every decision."""
    b = cuda.grid(1)
    if b < v.shown.shape[0]:
        features.sum_agents(v, f, np.uint64(b))


@cuda.jit
def summarise_tasks(v, f):
    """Call `features.summarise_task` for every decision and task."""
    n = cuda.grid(1)
    if n < v.shown.size:
        k = v.shown.shape[1]
        features.summarise_task(v, f, np.uint64(n // k), n % k)


@cuda.jit
def sum_tasks(v, f):
    """Call `features.sum_tasks` for every decision."""
    b = cuda.grid(1)
    if b < v.shown.shape[0]:
        features.sum_tasks(v, f, np.uint64(b))


@cuda.jit
def write_tasks(v, f):
    """Call `features.write_task` for every decision and task."""
    n = cuda.grid(1)
    if n < v.shown.size:
        k = v.shown.shape[1]
        features.write_task(v, f, np.uint64(n // k), n % k)


@cuda.jit
def write_agents(v, f):
    """Call `features.write_agent` for every decision and agent."""
    n = cuda.grid(1)
    if n < v.up.size:
        m = v.up.shape[1]
        features.write_agent(v, f, np.uint64(n // m), n % m)


def write_features(view: BatchView, arrays: FeatureArrays) -> None:
    """Write the features of every decision; both hold tensors on one GPU."""
    device = view.shown.get_device()
    v: Any = BatchView._make(map(numba_view, view))
    f: Any = FeatureArrays._make(map(numba_view, arrays))
    decisions, tasks, agents = len(view.shown), view.shown.numel(), view.up.numel()
    for function, threads in (
        (sum_agents, decisions),
        (summarise_tasks, tasks),
        (sum_tasks, decisions),
        (write_tasks, tasks),
        (write_agents, agents),
    ):
        launch(function, device, threads, v, f)
