"""Search without proof, for the tracks `assign` and `schedule`.

`schedule`: simulated annealing over sequences and agents, from the schedule of the best rule
(`solvers.exact.annealing`). `assign`: simulated annealing with penalties on exceeded capacities
(`solvers.exact.assignment.annealing`), then, where each agent has one capacity that can bind, large
neighbourhood search by tree search (`solvers.exact.assignment.neighbourhoods`).
"""

from __future__ import annotations

import time

import numpy as np

from bench.contracts import Budget, Result, Solver
from bench.instance import Instance
from bench.schedule import Schedule
from bench.setting import Setting
from solvers.exact.annealing import greedy_schedule, improve_schedule
from solvers.exact.assignment import annealing
from solvers.exact.assignment.neighbourhoods import LargeNeighbourhoodSearch
from solvers.exact.assignment.relaxation import KnapsackRelaxation
from solvers.exact.bounds import trivial
from solvers.exact.compile_kernels import (
    compile_assignment_kernels,
    compile_schedule_kernels,
)
from solvers.exact.cp_sat import WarmStart, initial_schedule, warm_up
from solvers.exact.objective_terms import Terms, by_task
from solvers.exact.search_log import SearchLog

LP_SHARE = 0.3  # largest share of the time left that the LP relaxation of an assignment takes


class LocalSearch(Solver):
    """Returns the best schedule found within the budget; clairvoyant.

    Parameters
    ----------
    warm_start
        A callable (instance, setting, rng, seconds) -> schedule: the schedule to start from (track
        `schedule`).
    patience
        Annealing ends before the budget does after this many rounds without a better schedule
        (track `schedule`); None: never.
    """

    clairvoyant = True

    def __init__(self, warm_start: WarmStart | None = None, patience: int | None = 30) -> None:
        self.warm_start = warm_start
        self.patience = patience

    def warm_up(self) -> None:
        """Compile the numba kernels before any clock starts."""
        warm_up(self.warm_start)
        compile_schedule_kernels()
        compile_assignment_kernels()

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Return the best schedule found: `feasible`, or `unknown` where none was.

        The bound of the trajectory is the trivial one.
        """
        setting.check(instance)
        start_time = time.perf_counter()
        terms = Terms.of(instance, setting.objective)
        search_log = SearchLog(terms, start_time, trivial(instance, terms))
        best: Schedule | None
        if instance.sharing == "budget":
            best = self._assign(instance, budget, rng, search_log)
        else:
            first = initial_schedule(self.warm_start, instance, setting, rng, budget)
            if first is None:
                first = greedy_schedule(instance)
            search_log.record_schedule(first)
            left = budget.seconds - (time.perf_counter() - start_time)
            best = improve_schedule(
                instance, terms, first, left, rng, search_log.record_schedule, self.patience
            )
        if best is None:
            return Result(Schedule.empty(), "unknown")
        return search_log.result(best, "feasible")

    def _assign(
        self, instance: Instance, budget: Budget, rng: np.random.Generator, search_log: SearchLog
    ) -> Schedule | None:
        """Return the best assignment found, None where none is feasible."""

        def left() -> float:
            return budget.seconds - (time.perf_counter() - search_log.start_time)

        record = search_log.record_schedule
        best = annealing.improve(instance, None, 0.0, rng, record, most_seconds=left())
        if left() <= 0:
            return best
        relaxation = KnapsackRelaxation.from_instance(instance, LP_SHARE * left())
        if best is None or relaxation is None or not relaxation.exact:
            return annealing.improve(instance, best, left(), rng, record, most_seconds=left())
        _, multipliers, _ = relaxation.maximise_dual(left())
        search = LargeNeighbourhoodSearch(relaxation, multipliers, by_task(best, best.agent), rng)
        while not search.optimal and left() > 0:
            if search.explore(left()):
                best = Schedule.from_assignment(instance, search.agent)
                record(best)
        return best
