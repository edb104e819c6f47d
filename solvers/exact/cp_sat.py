"""What solvers that call CP-SAT or start from a schedule share: solver, callback, warm start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from ortools.sat.python import cp_model

from bench.instance import Instance, Ints
from bench.left_shift import active
from bench.schedule import Schedule, ScheduleError
from bench.setting import Setting
from bench.verify import verify
from solvers.exact.schedule_model import Value
from solvers.exact.search_log import SearchLog

WarmStart = Callable[[Instance, Setting, np.random.Generator], Schedule]


class Model(Protocol):
    """A CP-SAT model that can read the completion ticks of a solution."""

    def completion(self, value: Value) -> Ints:
        """Return C_j (N,) in the solution whose variables `value` reads."""


def create_solver(threads: int, rng: np.random.Generator) -> cp_model.CpSolver:
    """Return CP-SAT with `threads` workers and a seed drawn from `rng`."""
    solver = cp_model.CpSolver()
    solver.parameters.random_seed = int(rng.integers(2**31 - 1))
    solver.parameters.num_workers = threads
    return solver


def initial_schedule(
    warm_start: WarmStart | None, instance: Instance, setting: Setting, rng: np.random.Generator
) -> Schedule | None:
    """Return the schedule of `warm_start`, left-shifted.

    None where there is no warm start or its schedule is not feasible (such as one without a task).
    """
    if warm_start is None:
        return None
    try:
        schedule = active(instance, warm_start(instance, setting, rng))
    except ScheduleError:
        return None
    return None if verify(instance, schedule) else schedule


class IncumbentCallback(cp_model.CpSolverSolutionCallback):
    """Records every better solution of CP-SAT in the search log."""

    def __init__(self, model: Model, search_log: SearchLog) -> None:
        super().__init__()
        self.model = model
        self.search_log = search_log

    def on_solution_callback(self) -> None:
        """Record the current solution; CP-SAT calls this at every improvement."""
        self.search_log.record_solution(self.model.completion(self.value))
