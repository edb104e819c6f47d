"""Compile the numba kernels of the exact solvers before any clock starts.

Every kernel that Python calls is called once here, on an example and without a time limit, so that
nothing is left to be compiled. Kernels get arrays of the same types for every instance
(`bench.compiled.kernel_array`), with or without quotas, outages and due dates.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from bench.instance import Instance
from solvers.exact.annealing import greedy_schedule, improve_schedule
from solvers.exact.assignment.annealing import improve
from solvers.exact.assignment.relaxation import KnapsackRelaxation
from solvers.exact.assignment.tree import DepthFirstSearch
from solvers.exact.bounds.time_indexed import TimeIndexedRelaxation
from solvers.exact.objective_terms import Terms


def compile_schedule_kernels() -> None:
    """Compile the kernels of `time` sharing: annealing and time-indexed bounds."""
    instance = example_instance("time")
    terms = Terms.of(instance, "total_time")
    first = greedy_schedule(instance)
    improve_schedule(instance, terms, first, math.inf, np.random.default_rng(0), patience=1)
    relaxation = TimeIndexedRelaxation(instance, terms, int(first.end.max()))
    multipliers = relaxation.capacity_multipliers(1.0, 0.0)
    multipliers = relaxation.task_multipliers(multipliers, 1.0, 0.0)
    bound = relaxation.exact_bound(multipliers)
    relaxation.start_windows(bound, Fraction(1))


def compile_assignment_kernels() -> None:
    """Compile the kernels of `budget` sharing: annealing, Lagrangian dual, depth-first search."""
    instance = example_instance("budget")
    improve(instance, None, 0.0, np.random.default_rng(0))
    relaxation = KnapsackRelaxation.from_instance(instance)
    assert relaxation is not None, "the example has a relaxation"
    _, u, _ = relaxation.maximise_dual(0.0)
    pairs = relaxation.candidate_pairs(relaxation.possible)
    active = np.ones((1, len(pairs.task)), np.uint8)
    DepthFirstSearch(pairs, relaxation.limit(0), active, u[None]).explore(0.0)


def example_instance(sharing: str) -> Instance:
    """Return an instance with tasks that compete for three unrelated agents."""
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
