"""Two problems that are solved before a clock starts, so that what is compiled late is compiled by then."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.contracts import Budget, Solver
from bench.instance import Instance
from bench.setting import Setting


def warm_up(solver: Solver, *sharings: str, seconds: float = 5.0) -> None:
    """Let `solver` solve a problem of each sharing ("time", "budget") that takes it through all its stages."""
    for sharing in sharings:
        setting = Setting(track="assign" if sharing == "budget" else "schedule")
        solver.solve(
            example(sharing), setting, Budget(seconds=seconds, threads=1), np.random.default_rng(0)
        )


def example(sharing: str) -> Instance:
    """Tasks that compete for three unrelated agents: neither the trivial bound nor the first dual is the optimum."""
    rng, n, m = np.random.default_rng(0), 12, 3
    use = rng.integers(5, 40, (n, m))
    parts: dict[str, Any] = {
        "agent_type": np.arange(m),
        "sharing": sharing,
        "weight": rng.integers(1, 4, n),
    }
    if sharing == "budget":
        capacity = (0.8 * use.sum(axis=0) / m).astype(np.int64)
        return Instance(
            duration=50 - use + rng.integers(0, 10, (n, m)),
            demand=use[:, :, None],
            capacity=capacity[:, None],
            **parts,
        )
    demand = np.repeat(rng.integers(1, 4, (n, 1, 2)), m, axis=1)
    return Instance(
        duration=use,
        demand=demand,
        capacity=np.full((m, 2), 4),
        release=rng.integers(0, 30, n),
        **parts,
    )
