"""Search without proof, for the tracks `assign` and `schedule`: what an OR engineer would run in the same seconds.

`schedule`: simulated annealing over sequences and agents from the best rule's plan (`solvers.exact.annealing`). `assign`:
annealing with priced capacities (`solvers.exact.assignment.annealing`), then, where each agent has one capacity that binds, large
neighbourhoods solved by tree search (`solvers.exact.assignment.neighbourhoods`).
"""

from __future__ import annotations

import time

import numpy as np

from bench.contracts import Budget, Result
from bench.instance import Instance
from bench.schedule import Schedule
from bench.setting import Setting
from solvers.exact import annealing as schedule_search
from solvers.exact.assignment import annealing
from solvers.exact.assignment.neighbourhoods import Neighbourhoods
from solvers.exact.assignment.relaxation import Relaxation
from solvers.exact.bounds import trivial
from solvers.exact.compile_kernels import warm_up
from solvers.exact.cp_sat import WarmStart, first_plan
from solvers.exact.objective_terms import Terms, by_task, completion
from solvers.exact.search_log import Trace


class LocalSearch:
    """The best schedule met within the budget; it plans with everything known, so it may not enter track=online."""

    clairvoyant = True

    def __init__(self, warm_start: WarmStart | None = None, patience: int | None = 30) -> None:
        """`warm_start`: the plan to start from (track schedule). `patience`: rounds of annealing without a better plan that end
        the search before the budget does; None: never.
        """
        self.warm_start, self.patience = warm_start, patience

    def warm_up(self) -> None:
        """Compile what is compiled late."""
        warm_up(self, "time", "budget", seconds=0.2)

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """The best schedule met; `feasible`, or `unknown` where none was. The trajectory's bound is the trivial one."""
        setting.check(instance)
        began, terms = time.perf_counter(), Terms.of(instance, setting.objective)
        trace = Trace(terms, began, trivial(instance, terms))
        if instance.sharing == "budget":
            best = self._assign(instance, budget, rng, trace)
        else:
            first = first_plan(self.warm_start, instance, setting, rng) or schedule_search.fastest(
                instance
            )
            trace.found(completion(first))
            left = budget.seconds - (time.perf_counter() - began)
            best = schedule_search.improve(
                instance,
                terms,
                first,
                left,
                rng,
                lambda plan: trace.found(completion(plan)),
                self.patience,
            )
        return (
            Result(Schedule.empty(), "unknown") if best is None else trace.result(best, "feasible")
        )

    def _assign(
        self, instance: Instance, budget: Budget, rng: np.random.Generator, trace: Trace
    ) -> Schedule | None:
        def found(plan: Schedule) -> None:
            trace.found(completion(plan))

        def left() -> float:
            return budget.seconds - (time.perf_counter() - trace.began)

        best = annealing.improve(instance, None, 0.0, rng, found)
        relaxation = Relaxation.of(instance)
        if best is None or relaxation is None or not relaxation.exact:
            return annealing.improve(instance, best, left(), rng, found)
        _, u, _ = relaxation.maximise(left())
        search = Neighbourhoods(relaxation, u, by_task(best, best.agent), rng)
        while not search.optimal and left() > 0:
            if search.explore(left()):
                best = Schedule.from_assignment(instance, search.agent)
                found(best)
        return best
