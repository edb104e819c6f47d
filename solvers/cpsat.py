"""The exact reference: CP-SAT (Perron & Furnon, OR-Tools) on the `assign` and `schedule` problems, with a proved bound.

With `time` sharing, what a first short try leaves open is improved by local search and bounded by relaxations
(`solvers.exact.bounds`); the plan, the bound and the starts that the two rule out go into the model. It plans with everything known,
so it may not enter track=online. `commit` mode is solved as the free problem: a plan that chooses its starts freely is a
relaxation of one that commits to a queue order, so every bound holds there too. Where outages kill tasks, the pieces that
survive form a plan of the free problem with the same completions, so they hold there as well.
"""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
from ortools.sat.python import cp_model

from bench.contracts import Budget, Result
from bench.errors import UserError
from bench.instance import Instance
from bench.left_shift import active
from bench.schedule import Schedule
from bench.setting import Setting
from solvers.exact.annealing import fastest, improve
from solvers.exact.assignment.model import AssignModel
from solvers.exact.bounds import Root, quick, root, trivial
from solvers.exact.compile_kernels import warm_up
from solvers.exact.cp_sat import Incumbents, WarmStart, first_plan, new_solver
from solvers.exact.objective_terms import Terms, completion
from solvers.exact.schedule_model import ScheduleModel
from solvers.exact.search_log import Trace

TOLERANCE = Fraction(
    1, 10**9
)  # an objective this close to its bound, relative, counts as proved (only fractions need it)
TRY_SHARE = 0.02  # of the budget, for CP-SAT alone: what is easy needs no more
TRIED_PAIRS = 2000  # tasks x agents; larger models take longer to build than such a try
SEARCH_SHARE = 0.35  # of the budget, for the local search at most
BOUNDS_SHARE = 0.25  # of the budget, for the relaxations at most
LEAST_SECONDS = 0.02  # with less than this neither is begun
PATIENCE = 6  # rounds of annealing without a better plan after which the local search ends
PROBED_VARIABLES = (
    5000  # in larger models probing takes minutes (30 s at 500 tasks x 32 agents) and gains little
)


class CpSat:
    """Branch and bound with clause learning over intervals; stops at the proof of an optimum or when the budget ends."""

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
        """`threads`: default budget.threads. `warm_start(instance, setting, rng)`: a plan to start from and to fall back on.

        `bounds`, `local_search`: whether relaxations and local search come first; with neither this is the plain model.
        """
        self.threads, self.warm_start, self.bounds, self.local_search, self.log = (
            threads,
            warm_start,
            bounds,
            local_search,
            log,
        )

    def warm_up(self) -> None:
        """Compile what is compiled late."""
        warm_up(self, "time")

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """The best plan found and a proved bound. Status `optimal`: bound and objective agree (TOLERANCE, where not exact).

        `info` names the bound and holds its proof (see `solvers.exact.bounds`; a bound that CP-SAT raised has no proof but its own
        search) and the value of every bound.

        Raises:
            UserError: where weights times ticks leave the 64-bit integers CP-SAT counts in.
        """
        began = time.perf_counter()
        setting.check(instance)
        terms = Terms.of(instance, setting.objective)
        least = trivial(instance, terms)
        trace, relaxed = Trace(terms, began, least), Root((least,))
        best = first_plan(self.warm_start, instance, setting, rng)
        if best is not None:
            trace.found(completion(best))
        if instance.sharing == "time" and budget.seconds > LEAST_SECONDS:
            best, relaxed = self._prepare(instance, setting, best, relaxed, budget, rng, trace)
        if best is None or trace.objective > trace.bound:
            left = budget.seconds - (time.perf_counter() - began)
            best, done = self._search(instance, best, relaxed, left, budget, rng, trace)
            if best is None:
                return trace.result(
                    Schedule.empty(), "infeasible" if done else "unknown", relaxed.bounds
                )
        proved = trace.objective - trace.bound <= (
            0 if terms.whole else TOLERANCE * trace.objective
        )
        return trace.result(best, "optimal" if proved else "feasible", relaxed.bounds)

    def _search(
        self,
        instance: Instance,
        best: Schedule | None,
        relaxed: Root,
        seconds: float,
        budget: Budget,
        rng: np.random.Generator,
        trace: Trace,
    ) -> tuple[Schedule | None, bool]:
        """CP-SAT for `seconds`: the best plan now, and whether that is the end (it is optimal, or nothing is feasible)."""
        began, solver = time.perf_counter(), new_solver(self.threads or budget.threads, rng)
        solver.parameters.log_search_progress = self.log
        model = _model(instance, trace.terms, best, relaxed)
        small = len(model.model.proto.variables) < PROBED_VARIABLES
        solver.parameters.cp_model_probing_level = 2 if small else 0
        solver.parameters.max_time_in_seconds = max(0.0, seconds - (time.perf_counter() - began))
        solver.best_bound_callback = lambda bound: trace.searched(bound, model.scale)
        status = solver.solve(model.model, Incumbents(model, trace))
        if status == cp_model.MODEL_INVALID:
            raise UserError(
                "tick_seconds: weights times ticks leave the 64-bit integers CP-SAT counts in; use longer ticks"
            )
        if status == cp_model.INFEASIBLE and best is not None:
            raise RuntimeError(
                "CP-SAT finds no schedule, and a verified one is known: a bound or a window is wrong"
            )
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            best = trace.better(best, active(instance, model.schedule(solver.value)))
        if status != cp_model.INFEASIBLE:
            trace.searched(solver.best_objective_bound, model.scale)
        return best, status in (cp_model.OPTIMAL, cp_model.INFEASIBLE)

    def _prepare(
        self,
        instance: Instance,
        setting: Setting,
        best: Schedule | None,
        relaxed: Root,
        budget: Budget,
        rng: np.random.Generator,
        trace: Trace,
    ) -> tuple[Schedule | None, Root]:
        """Quick bounds, a short try, local search, the other relaxations, each within its share, until one of them proves it.

        The best plan and what was proved.
        """
        terms = trace.terms
        if self.bounds:
            relaxed = quick(instance, terms, setting.objective, trace.proved)
            if relaxed.schedule is not None:
                best = trace.better(best, relaxed.schedule)
        tried = (
            self.bounds or self.local_search
        ) and instance.n_tasks * instance.n_agents <= TRIED_PAIRS
        if tried and trace.objective > trace.bound:
            best, done = self._search(
                instance, best, relaxed, TRY_SHARE * budget.seconds, budget, rng, trace
            )
            if done:
                return best, relaxed
        left = budget.seconds - (time.perf_counter() - trace.began)
        if (
            self.local_search
            and min(left, SEARCH_SHARE * budget.seconds) > LEAST_SECONDS
            and trace.objective > trace.bound
        ):
            best = fastest(instance) if best is None else best
            trace.found(completion(best))
            best = improve(
                instance,
                terms,
                best,
                SEARCH_SHARE * left,
                rng,
                lambda plan: trace.found(completion(plan)),
                PATIENCE,
            )
        left = budget.seconds - (time.perf_counter() - trace.began)
        if (
            self.bounds
            and min(left, BOUNDS_SHARE * budget.seconds) > LEAST_SECONDS
            and trace.objective > trace.bound
        ):
            known = fastest(instance) if best is None else best
            relaxed = root(
                instance,
                terms,
                setting.objective,
                known,
                BOUNDS_SHARE * left,
                trace.proved,
                relaxed,
            )
        return best, relaxed


def _model(
    instance: Instance, terms: Terms, first: Schedule | None, relaxed: Root
) -> AssignModel | ScheduleModel:
    if instance.sharing == "budget":
        model: AssignModel | ScheduleModel = AssignModel(instance)
    else:
        incumbent = None if first is None else completion(first)
        windows = None if first is None else relaxed.windows
        model = ScheduleModel(instance, terms, incumbent, relaxed.best.value, windows)
    if first is not None:
        model.hint(first)
    return model
