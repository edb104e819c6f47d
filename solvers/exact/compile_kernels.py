"""Compile the numba kernels of a solver by solving small examples before any clock starts."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.contracts import Budget, Solver
from bench.instance import Instance
from bench.setting import Setting


def compile_kernels(solver: Solver, *sharings: str, seconds: float = 5.0) -> None:
    """Compile the numba kernels that `solver` uses by solving an example of each sharing.

    Parameters
    ----------
    solver
        The solver whose kernels are compiled.
    sharings
        `time` or `budget`, see `bench/docs/problem.md` section 1.
    seconds
        The time limit of each example.
    """
    for sharing in sharings:
        setting = Setting(track="assign" if sharing == "budget" else "schedule")
        budget = Budget(seconds=seconds, threads=1)
        solver.solve(example_instance(sharing), setting, budget, np.random.default_rng(0))


def example_instance(sharing: str) -> Instance:
    """Return an instance with tasks that compete for three unrelated agents.

    Neither its trivial bound nor its first dual bound is the optimum, so that a solver goes through
    all its stages.
    """
    rng = np.random.default_rng(0)
    n, m = 12, 3
    table = rng.integers(5, 40, (n, m))
    parts: dict[str, Any] = {
        "agent_type": np.arange(m),
        "sharing": sharing,
        "weight": rng.integers(1, 4, n),
    }
    if sharing == "budget":
        capacity = (0.8 * table.sum(axis=0) / m).astype(np.int64)
        return Instance(
            duration=50 - table + rng.integers(0, 10, (n, m)),
            demand=table[:, :, None],
            capacity=capacity[:, None],
            **parts,
        )
    demand = np.repeat(rng.integers(1, 4, (n, 1, 2)), m, axis=1)
    return Instance(
        duration=table,
        demand=demand,
        capacity=np.full((m, 2), 4),
        release=rng.integers(0, 30, n),
        **parts,
    )
