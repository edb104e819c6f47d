"""The exact reference: CP-SAT (Perron & Furnon, OR-Tools) for the tracks `assign` and `schedule`.

With `time` sharing, what a first short run of CP-SAT leaves open is improved by simulated annealing
and bounded by relaxations (`solvers.exact.bounds`). The best schedule, the best bound and the
starts that the two exclude then go into the model of the main run.

The solver is clairvoyant: it may not enter `track=online`. `commit` mode is solved as the free
problem: a schedule that chooses its starts freely is a relaxation of one that commits to the order
of a queue, so every bound holds there too. Where outages kill tasks, the pieces that survive form a
schedule of the free problem with the same completions, so the bounds hold there as well.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil

import numpy as np
from ortools.sat.python import cp_model

from bench.contracts import Budget, Result, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.left_shift import active
from bench.schedule import Schedule
from bench.setting import Setting
from solvers.exact.annealing import greedy_schedule, improve_schedule
from solvers.exact.assignment.model import AssignmentModel
from solvers.exact.bounds import ScheduleRelaxation, quick_bounds, relaxation_bounds, trivial
from solvers.exact.compile_kernels import compile_schedule_kernels
from solvers.exact.cp_sat import WarmStart, create_solver, initial_schedule, search, warm_up
from solvers.exact.deadline import OutOfTime
from solvers.exact.objective_terms import Terms, completion_times
from solvers.exact.parallel_machines import ParallelMachinesModel, is_parallel_machines
from solvers.exact.schedule_model import ScheduleModel
from solvers.exact.search_log import SearchLog

# Where objectives are fractions: an objective this close to its bound, relative, is optimal.
TOLERANCE = Fraction(1, 10**9)
FIRST_RUN_SHARE = 0.02  # of the budget, for the first run of CP-SAT; easy instances need no more
FIRST_RUN_PAIRS = 2000  # tasks x agents; building a larger model takes longer than such a run
ANNEALING_SHARE = 0.35  # of the budget at most
BOUNDS_SHARE = 0.25  # of the budget, for the relaxations at most
MIN_SECONDS = 0.02  # annealing and relaxations are skipped with less than this
PATIENCE = 6  # annealing ends after this many rounds without a better schedule
# In larger models probing takes minutes (30 s at 500 tasks x 32 agents) and gains little.
PROBED_VARIABLES = 5000


class CpSat(Solver):
    """Branch and bound with clause learning over intervals.

    It stops at the proof of an optimum or when the budget ends.

    Parameters
    ----------
    threads
        Worker threads; None: `budget.threads`.
    warm_start
        A callable (instance, setting, rng, seconds) -> schedule: the schedule to start from, and
        to return if nothing better is found.
    bounds
        Whether to compute relaxations first.
    local_search
        Whether to run simulated annealing first. With neither this is the plain model.
    log
        Whether to print CP-SAT's own search log.
    """

    clairvoyant = True
    certifies = True

    def __init__(
        self,
        threads: int | None = None,
        warm_start: WarmStart | None = None,
        bounds: bool = True,
        local_search: bool = True,
        log: bool = False,
    ) -> None:
        self.threads = threads
        self.warm_start = warm_start
        self.bounds = bounds
        self.local_search = local_search
        self.log = log

    def warm_up(self) -> None:
        """Compile the numba kernels before any clock starts."""
        warm_up(self.warm_start)
        compile_schedule_kernels()

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Return the best schedule found and a proven lower bound.

        The status is `optimal` where objective and bound agree (within TOLERANCE where objectives
        are fractions). `info` names the bound and holds its proof (see `solvers.exact.bounds`; a
        bound that CP-SAT raised has no proof but its own search) and the value of every bound.

        Raises
        ------
        UserError
            Where weights times ticks exceed the 64-bit integers of CP-SAT.
        """
        start_time = time.perf_counter()
        setting.check(instance)
        terms = Terms.of(instance, setting.objective)
        first_bound = trivial(instance, terms)
        solve = _Solve(
            self,
            instance,
            setting,
            budget,
            rng,
            SearchLog(terms, start_time, first_bound),
            ScheduleRelaxation((first_bound,)),
        )
        return solve.run()


@dataclass
class _Solve:
    """One solve of an instance: the best schedule, the bounds and the stages that improve them."""

    options: CpSat
    instance: Instance
    setting: Setting
    budget: Budget
    rng: np.random.Generator
    search_log: SearchLog
    relaxation: ScheduleRelaxation
    best: Schedule | None = None

    def run(self) -> Result:
        """Return the result of all stages: preparation, then CP-SAT for the rest of the budget."""
        search_log = self.search_log
        start = initial_schedule(
            self.options.warm_start, self.instance, self.setting, self.rng, self.budget
        )
        if start is not None:
            self.best = start
            search_log.record_schedule(start)
        if self.instance.sharing == "time" and self.budget.seconds > MIN_SECONDS:
            self._prepare()
        if self.best is None or not search_log.optimum_proven:
            complete = self._run_cp_sat(self._seconds_left())
            if self.best is None and not complete and self._starts_greedily():
                self.best = search_log.keep_better(None, greedy_schedule(self.instance))
            if self.best is None:
                status = "infeasible" if complete else "unknown"
                return search_log.result(Schedule.empty(), status, self.relaxation.bounds)
        gap = search_log.objective - search_log.bound
        tolerance = 0 if search_log.terms.is_integral else TOLERANCE * search_log.objective
        status = "optimal" if gap <= tolerance else "feasible"
        return search_log.result(self.best, status, self.relaxation.bounds)

    def _starts_greedily(self) -> bool:
        """Return whether a greedy schedule is an answer where the time allows for no other."""
        return self.options.local_search and self.instance.sharing == "time"

    def _seconds_left(self) -> float:
        return self.budget.seconds - (time.perf_counter() - self.search_log.start_time)

    def _prepare(self) -> None:
        """Run the stages before the main run of CP-SAT until one of them proves an optimum.

        They are the quick bounds, a first run of CP-SAT, simulated annealing and the other
        relaxations, each within its share of the budget.
        """
        options, search_log = self.options, self.search_log
        if options.bounds:
            self.relaxation = quick_bounds(
                self.instance, search_log.terms, self.setting.objective, search_log.record_bound
            )
            if self.relaxation.schedule is not None:
                self.best = search_log.keep_better(self.best, self.relaxation.schedule)
        if self._is_parallel_machines:
            return
        small = self.instance.n_tasks * self.instance.n_agents <= FIRST_RUN_PAIRS
        first_run = (options.bounds or options.local_search) and small
        if first_run and not search_log.optimum_proven:
            complete = self._run_cp_sat(FIRST_RUN_SHARE * self.budget.seconds)
            if complete:
                return
        if options.local_search and self._worthwhile(ANNEALING_SHARE):
            self._anneal()
        if options.bounds and self._worthwhile(BOUNDS_SHARE):
            self._relax()

    @cached_property
    def _is_parallel_machines(self) -> bool:
        """Whether CP-SAT has a model without starts, which needs no other stage."""
        return self.options.bounds and is_parallel_machines(self.instance, self.search_log.terms)

    def _worthwhile(self, share: float) -> bool:
        """Return whether there is enough time for a stage, and something left to prove."""
        seconds = min(self._seconds_left(), share * self.budget.seconds)
        return seconds > MIN_SECONDS and not self.search_log.optimum_proven

    def _anneal(self) -> None:
        """Improve the best schedule by simulated annealing."""
        seconds = ANNEALING_SHARE * self._seconds_left()
        if self.best is None:
            self.best = greedy_schedule(self.instance)
        self.search_log.record_schedule(self.best)
        self.best = improve_schedule(
            self.instance,
            self.search_log.terms,
            self.best,
            seconds,
            self.rng,
            self.search_log.record_schedule,
            PATIENCE,
        )

    def _relax(self) -> None:
        """Compute the relaxations beyond the quick ones."""
        seconds = BOUNDS_SHARE * self._seconds_left()
        incumbent = greedy_schedule(self.instance) if self.best is None else self.best
        self.relaxation = relaxation_bounds(
            self.instance,
            self.search_log.terms,
            self.setting.objective,
            incumbent,
            seconds,
            self.search_log.record_bound,
            self.relaxation,
        )

    def _run_cp_sat(self, seconds: float) -> bool:
        """Run CP-SAT for `seconds`; return whether its search is complete.

        It is complete where the best schedule is optimal or no schedule is feasible.
        """
        start_time = time.perf_counter()
        search_log = self.search_log
        solver = create_solver(self.options.threads or self.budget.threads, self.rng)
        solver.parameters.log_search_progress = self.options.log
        try:
            model = self._model(start_time + seconds)
        except OutOfTime:
            return False
        small = len(model.model.proto.variables) < PROBED_VARIABLES
        solver.parameters.cp_model_probing_level = 2 if small else 0
        left = seconds - (time.perf_counter() - start_time)
        if left <= 0:
            return False
        solver.parameters.max_time_in_seconds = left
        status = search(solver, model, search_log)
        if status == cp_model.MODEL_INVALID:
            raise UserError(
                f"tick_seconds: value {self.instance.tick_seconds}: weights times ticks must fit "
                "the 64-bit integers of CP-SAT; use longer ticks"
            )
        if status == cp_model.INFEASIBLE and self.best is not None:
            raise RuntimeError(
                "CP-SAT finds no schedule although a verified one is known: a bound or a window "
                "of starts is invalid"
            )
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            found = active(self.instance, model.schedule(solver.value))
            self.best = search_log.keep_better(self.best, found)
        return status in (cp_model.OPTIMAL, cp_model.INFEASIBLE)

    def _model(self, deadline: float) -> AssignmentModel | ParallelMachinesModel | ScheduleModel:
        """Return the CP-SAT model with all that is known: bound, start windows, hint.

        Raises
        ------
        OutOfTime
            If the clock passes `deadline` before the model is complete.
        """
        model: AssignmentModel | ParallelMachinesModel | ScheduleModel
        if self.instance.sharing == "budget":
            model = AssignmentModel(self.instance, deadline=deadline)
        elif self._is_parallel_machines:
            bound = ceil(self.relaxation.best.value)
            model = ParallelMachinesModel(self.instance, bound, deadline)
        else:
            incumbent = None if self.best is None else completion_times(self.best)
            windows = None if self.best is None else self.relaxation.windows
            terms = self.search_log.terms
            model = ScheduleModel(
                self.instance,
                terms,
                incumbent,
                self.relaxation.best.value,
                windows,
                deadline=deadline,
            )
        if self.best is not None:
            model.hint(self.best)
        return model
