"""The exact reference: CP-SAT (Perron & Furnon, OR-Tools) on the `assign` and `schedule` problems, with a proved bound.

It plans with everything known, so it may not enter track=online. `commit` mode is solved as the free problem: a plan that
chooses its starts freely is a relaxation of one that commits to a queue order, so the bound holds there too. Where outages kill
tasks, the pieces that survive form a plan of the free problem with the same completions, so it holds there as well.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from ortools.sat.python import cp_model

from bench.contracts import Budget, Result, UserError
from bench.instance import Instance, Ints
from bench.metrics import trivial_bound
from bench.schedule import Schedule, ScheduleError
from bench.setting import Setting
from bench.verify import verify
from solvers.cpsat_model import AssignModel, ScheduleModel, Terms
from solvers.left_shift import active

TOLERANCE = Fraction(1, 10**9)  # an objective this close to its bound, relative, counts as proved (only fractions need it)
PROBED_VARIABLES = 5000  # in larger models probing takes minutes (30 s at 500 tasks x 32 agents) and gains little
EMPTY = Schedule([], [], [], [])  # type: ignore[arg-type]

WarmStart = Callable[[Instance, Setting, np.random.Generator], Schedule]


class CpSat:
    """Branch and bound with clause learning over intervals; stops at the proof of an optimum or when the budget ends."""

    clairvoyant = True
    certifies = True

    def __init__(self, threads: int | None = None, warm_start: WarmStart | None = None, log: bool = False) -> None:
        """`threads`: default budget.threads. `warm_start(instance, setting, rng)`: a plan to start from and to fall back on."""
        self.threads, self.warm_start, self.log = threads, warm_start, log

    def solve(self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator) -> Result:
        """The best plan found and a proved bound. Status `optimal`: bound and objective agree (TOLERANCE, where not exact).

        Raises:
            UserError: where weights times ticks leave the 64-bit integers CP-SAT counts in.
        """
        began = time.perf_counter()
        setting.check(instance)
        solver = self._solver(budget, rng)
        terms = Terms.of(instance, setting.objective)
        trace = Trace(terms, began, bound=_trivial(instance, terms))
        best = self._first(instance, setting, rng)
        if best is not None:
            trace.found(_completion(best))
        model = _model(instance, terms, best)
        solver.parameters.cp_model_probing_level = 2 if len(model.model.proto.variables) < PROBED_VARIABLES else 0
        solver.parameters.max_time_in_seconds = max(0.0, budget.seconds - (time.perf_counter() - began))
        solver.best_bound_callback = lambda bound: trace.proved(bound, model.scale)
        status = solver.solve(model.model, Incumbents(model, trace))
        if status == cp_model.MODEL_INVALID:
            raise UserError("tick_seconds: weights times ticks leave the 64-bit integers CP-SAT counts in; use longer ticks")
        if status == cp_model.INFEASIBLE:
            return Result(EMPTY, "infeasible")
        trace.proved(solver.best_objective_bound, model.scale)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            best = trace.better(best, active(instance, model.schedule(solver.value)))
        if best is None:
            return Result(EMPTY, "unknown", _below(trace.bound), trace.points())
        allowed = 0 if model.scale == 1 else TOLERANCE * trace.objective
        proved = trace.objective - trace.bound <= allowed
        return Result(best, "optimal" if proved else "feasible", _below(trace.bound), trace.points())

    def _solver(self, budget: Budget, rng: np.random.Generator) -> cp_model.CpSolver:
        solver = cp_model.CpSolver()
        solver.parameters.random_seed = int(rng.integers(2**31 - 1))
        solver.parameters.num_workers = self.threads or budget.threads
        solver.parameters.log_search_progress = self.log
        return solver

    def _first(self, instance: Instance, setting: Setting, rng: np.random.Generator) -> Schedule | None:
        """The warm start, left-shifted; none where there is none or it is no feasible plan (a dead end, a task left out)."""
        if self.warm_start is None:
            return None
        try:
            schedule = active(instance, self.warm_start(instance, setting, rng))
        except ScheduleError:
            return None
        return None if verify(instance, schedule) else schedule


class Trace:
    """The best objective and bound over time, exact inside; CP-SAT calls back from several threads."""

    def __init__(self, terms: Terms, began: float, bound: Fraction) -> None:
        self.terms, self.began, self.bound = terms, began, bound
        self.objective: Fraction | float = math.inf
        self._points: list[tuple[float, float, float]] = []
        self._lock = threading.Lock()

    def found(self, completion: Ints) -> None:
        """A feasible plan with completions (N,)."""
        with self._lock:
            value = self.terms.value(completion)
            if value < self.objective:
                self.objective = value
                self._add()

    def better(self, old: Schedule | None, new: Schedule) -> Schedule:
        """Whichever of two plans has the lower objective, `new` in a tie."""
        self.found(_completion(new))
        return new if old is None or self.terms.value(_completion(new)) <= self.terms.value(_completion(old)) else old

    def proved(self, bound: float, scale: int) -> None:
        """No plan has a scaled objective below `bound`, a whole number that is rounded where a float can not hold it."""
        if math.isinf(bound):
            return
        with self._lock:
            exact = Fraction(bound if abs(bound) < 2**53 else math.nextafter(bound, -math.inf)) / scale
            if exact > self.bound:
                self.bound = exact
                self._add()

    def _add(self) -> None:
        self._points.append((time.perf_counter() - self.began, float(self.objective), _below(self.bound)))

    def points(self) -> tuple[tuple[float, float, float], ...]:
        """(seconds, objective, bound) at every improvement, in order of time."""
        with self._lock:
            return tuple(self._points)


class Incumbents(cp_model.CpSolverSolutionCallback):
    """Tells the trace of every better solution."""

    def __init__(self, model: AssignModel | ScheduleModel, trace: Trace) -> None:
        super().__init__()
        self.plan, self.trace = model, trace

    def on_solution_callback(self) -> None:
        """Called by CP-SAT."""
        self.trace.found(self.plan.completion(self.value))


def _model(instance: Instance, terms: Terms, first: Schedule | None) -> AssignModel | ScheduleModel:
    if instance.sharing == "budget":
        model: AssignModel | ScheduleModel = AssignModel(instance)
    else:
        model = ScheduleModel(instance, terms, None if first is None else _completion(first))
    if first is not None:
        model.hint(first)
    return model


def _trivial(instance: Instance, terms: Terms) -> Fraction:
    """The objective with every task alone on its fastest agent; for makespan also the work there is against the capacity."""
    alone = terms.value(instance.release + instance.shortest())
    return max(alone, Fraction(trivial_bound(instance, "makespan"))) if terms.worst else alone


def _completion(schedule: Schedule) -> Ints:
    """(N,) C_j of a schedule with one piece per task."""
    return schedule.end[np.argsort(schedule.task)]


def _below(value: Fraction) -> float:
    """The largest float not above `value`."""
    near = float(value)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)
