"""What solvers that call CP-SAT or start from a schedule share: solver, search, warm start."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Protocol

import numpy as np
from ortools.sat.python import cp_model

from bench.contracts import Budget, Plugin
from bench.instance import Instance, Ints
from bench.left_shift import active
from bench.rounding import least_integer
from bench.schedule import Schedule, ScheduleError
from bench.setting import Setting
from bench.verify import verify
from solvers.exact.schedule_model import Value
from solvers.exact.search_log import SearchLog

# Returns the schedule to start from, given the seconds that it may take; an empty one: none.
WarmStart = Callable[[Instance, Setting, np.random.Generator, float], Schedule]
WARM_START_SHARE = 0.3  # largest share of the budget that a warm start takes

# CP-SAT maps a bound of its presolved model to the objective by a few roundings, each relative to
# numbers that are not larger than the magnitude of the objective.
FLOAT_ERROR = 2.0**-48


class Model(Protocol):
    """A CP-SAT model with an integer objective, and what its solutions and bounds stand for.

    Attributes
    ----------
    model
        The CP-SAT model.
    scale
        Its objective is `scale` times the objective of the instance.
    offset
        The constant in its objective.
    magnitude
        The sum of the absolute values of all terms of its objective, each at its largest.
    """

    model: cp_model.CpModel
    scale: int
    offset: int
    magnitude: float

    def completion(self, value: Value) -> Ints:
        """Return C_j (N,) in the solution whose variables `value` reads."""


def create_solver(threads: int, rng: np.random.Generator) -> cp_model.CpSolver:
    """Return CP-SAT with `threads` workers and a seed drawn from `rng`."""
    solver = cp_model.CpSolver()
    solver.parameters.random_seed = int(rng.integers(2**31 - 1))
    solver.parameters.num_workers = threads
    return solver


def warm_up(warm_start: WarmStart | None) -> None:
    """Let a warm start that is a plug-in compile what it needs."""
    if isinstance(warm_start, Plugin):
        warm_start.warm_up()


def initial_schedule(
    warm_start: WarmStart | None,
    instance: Instance,
    setting: Setting,
    rng: np.random.Generator,
    budget: Budget,
) -> Schedule | None:
    """Return the schedule of `warm_start`, left-shifted.

    None where there is no warm start or its schedule is not feasible (such as one without a task).
    It may take WARM_START_SHARE of the budget.
    """
    if warm_start is None:
        return None
    try:
        seconds = WARM_START_SHARE * budget.seconds
        schedule = active(instance, warm_start(instance, setting, rng, seconds))
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


def search(
    solver: cp_model.CpSolver,
    model: Model,
    search_log: SearchLog,
    limit: float = math.inf,
) -> cp_model.CpSolverStatus:
    """Run CP-SAT, record every solution and bound in the search log, and return CP-SAT's status.

    Parameters
    ----------
    limit
        No recorded bound is higher: the objective of a schedule that the model may exclude.
    """
    error = FLOAT_ERROR * model.magnitude

    def record(value: int) -> None:
        search_log.record_search_bound(Fraction(min(value, limit)) / model.scale)

    def record_float(bound: float) -> None:
        if math.isfinite(bound):
            record(least_integer(bound, error))

    solver.best_bound_callback = record_float
    status = solver.solve(model.model, IncumbentCallback(model, search_log))
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):
        bound = final_bound(
            solver.best_objective_bound,
            solver.response_proto.inner_objective_lower_bound + model.offset,
            error,
        )
        if bound is not None:
            record(bound)
    return status


def final_bound(bound: float, exact: int, error: float) -> int | None:
    """Return the bound on the objective of a model at the end of its search, None without one.

    Parameters
    ----------
    bound
        The bound in floating point, infinite where there is none.
    exact
        The same in integers. CP-SAT leaves the field at its default where it did not compute it, so
        it counts only where it agrees with `bound`.
    error
        The largest rounding error of `bound`.
    """
    if not math.isfinite(bound):
        return None
    agrees = abs(Fraction(bound) - exact) <= Fraction(error)
    return exact if agrees else least_integer(bound, error)
