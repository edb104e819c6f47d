"""What the solvers that call CP-SAT or start from a plan share: the solver object, its callback, the warm start."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ortools.sat.python import cp_model

from bench.instance import Instance
from bench.left_shift import active
from bench.schedule import Schedule, ScheduleError
from bench.setting import Setting
from bench.verify import verify
from solvers.exact.assignment.model import AssignModel
from solvers.exact.schedule_model import ScheduleModel
from solvers.exact.search_log import Trace

WarmStart = Callable[[Instance, Setting, np.random.Generator], Schedule]


def new_solver(threads: int, rng: np.random.Generator) -> cp_model.CpSolver:
    """CP-SAT with `threads` workers and a seed from `rng`."""
    solver = cp_model.CpSolver()
    solver.parameters.random_seed = int(rng.integers(2**31 - 1))
    solver.parameters.num_workers = threads
    return solver


def first_plan(
    warm_start: WarmStart | None, instance: Instance, setting: Setting, rng: np.random.Generator
) -> Schedule | None:
    """The warm start, left-shifted; none where there is none or it is no feasible plan (a dead end, a task left out)."""
    if warm_start is None:
        return None
    try:
        schedule = active(instance, warm_start(instance, setting, rng))
    except ScheduleError:
        return None
    return None if verify(instance, schedule) else schedule


class Incumbents(cp_model.CpSolverSolutionCallback):
    """Tells the trace of every better solution."""

    def __init__(self, model: AssignModel | ScheduleModel, trace: Trace) -> None:
        super().__init__()
        self.plan, self.trace = model, trace

    def on_solution_callback(self) -> None:
        """Called by CP-SAT."""
        self.trace.found(self.plan.completion(self.value))
