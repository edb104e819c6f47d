"""Exact solver for the generalised assignment problem: Lagrangian bound and depth-first search.

Costs are integers, so the optimum is the least z for which an assignment of cost at most z exists.
Starting from the Lagrangian bound, one z after the other is decided by a depth-first search in
which variable fixing excludes nearly all pairs (task, agent) (Posta, Ferland & Michelon 2012,
doi:10.1007/s10589-011-9432-0). At the same time a large neighbourhood search improves the
incumbent. The incumbent is optimal when its cost equals the bound. Constraints outside the
knapsacks (several binding resources, quotas) are left to CP-SAT, on the pairs that the Lagrangian
bound and the incumbent do not exclude.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from threading import Event, Lock
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from bench.contracts import Budget, Result, Solver
from bench.errors import UserError
from bench.instance import Instance, Ints
from bench.schedule import Schedule
from bench.setting import Setting
from bench.verify import verify
from solvers.exact.assignment.annealing import improve
from solvers.exact.assignment.model import AssignmentModel
from solvers.exact.assignment.neighbourhoods import LargeNeighbourhoodSearch
from solvers.exact.assignment.relaxation import KnapsackRelaxation, Mask
from solvers.exact.assignment.tree import NO_SOLUTION, SOLUTION_FOUND, DepthFirstSearch
from solvers.exact.bounds import Bound, trivial
from solvers.exact.compile_kernels import compile_assignment_kernels
from solvers.exact.cp_sat import create_solver, search
from solvers.exact.deadline import OutOfTime
from solvers.exact.objective_terms import Terms, by_task
from solvers.exact.search_log import SearchLog

ANNEALING_SHARE = 0.4  # largest share of the budget that simulated annealing takes
LP_SHARE = 0.5  # largest share of the time left that the LP relaxation takes
DUAL_SHARE = 0.2  # largest share of the time left that the dual ascent takes
DFS_SLICE = 0.1  # seconds of depth-first search between two decisions on what to search next
LNS_SLICE = 10.0  # longest call of the large neighbourhood search, in seconds
LNS_SHARE = 0.25  # share of the search time for the large neighbourhood search
LATE_LNS_SHARE = 0.5  # the same after LATE_SECONDS of search
LATE_SECONDS = 20.0
# A step of the objective value is quick if it takes less than this share of the search time so far.
QUICK_SHARE = 0.1
FEASIBILITY_SHARE = 0.3  # share of the time left for the search of a first feasible assignment


class Lagrangian(Solver):
    """Solves generalised assignments to proven optimality, or until the budget is used up.

    The lower bound is an integer and is computed in exact integers.

    Parameters
    ----------
    threads
        Number of search threads. Default: `budget.threads`.
    """

    tracks = ("assign",)
    clairvoyant = True
    certifies = True

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads

    def warm_up(self) -> None:
        """Compile the numba kernels."""
        compile_assignment_kernels()

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Return the best assignment found and a proven lower bound.

        `Result.info["bound"]` names the bound: `lagrangian` (its proof are the multipliers), `tree`
        or `cpsat` (proven by search).

        Raises
        ------
        UserError
            For an instance with `sharing=time`.
        """
        setting.check(instance)
        if instance.sharing != "budget":
            raise UserError(
                "solver: value lagrangian: it solves only assignments (sharing=budget, "
                "track=assign); use solver=cpsat here"
            )
        return _AssignmentSolve(instance, budget, self.threads or budget.threads, rng).run()


class _AssignmentSolve:
    """One solve of an instance: its incumbent, its bounds and the stages that improve them.

    Several threads report solutions and bounds; `lock` guards the incumbent and the bounds.
    """

    def __init__(
        self, instance: Instance, budget: Budget, threads: int, rng: np.random.Generator
    ) -> None:
        began = time.perf_counter()
        self.instance = instance
        self.threads = threads
        self.rng = rng
        self.deadline = began + budget.seconds
        terms = Terms.of(instance, "total_time")
        self.bounds = [trivial(instance, terms)]
        self.log = SearchLog(terms, began, self.bounds[0])
        self.incumbent: Schedule | None = None
        self.lock = Lock()

    def run(self) -> Result:
        """Run simulated annealing, the relaxation, then the exact search that fits the instance."""
        if self.seconds_left() < 0.01:
            return self._result()
        most_seconds = ANNEALING_SHARE * self.seconds_left()
        first = improve(self.instance, None, 0.0, self.rng, most_seconds=most_seconds)
        self.record_solution(first)
        relaxation = KnapsackRelaxation.from_instance(self.instance, LP_SHARE * self.seconds_left())
        if relaxation is None:
            return self._result(self._solve_by_cp_sat(None, None))
        value, u, pair_bounds = relaxation.maximise_dual(DUAL_SHARE * self.seconds_left())
        self.record_bound("lagrangian", relaxation.least_cost(value), relaxation.proof(u))
        if self.log.optimum_proven:
            return self._result()
        if relaxation.exact:
            return self._result(_ParallelSearch(self, relaxation, u, pair_bounds).run())
        return self._result(self._solve_by_cp_sat(relaxation, pair_bounds))

    # -- incumbent and bounds ------------------------------------------------------------------

    @property
    def lower(self) -> int:
        """The proven lower bound, rounded up."""
        return math.ceil(self.log.bound)

    @property
    def upper(self) -> int | float:
        """The cost of the incumbent, infinite without one."""
        return math.inf if self.incumbent is None else int(self.log.objective)

    def seconds_left(self) -> float:
        """Return the seconds until the deadline, negative after it."""
        return self.deadline - time.perf_counter()

    def record_solution(self, schedule: Schedule | None) -> None:
        """Verify a schedule that a search found, and keep it if it is the best one."""
        if schedule is None:
            return
        if violations := verify(self.instance, schedule):
            raise RuntimeError(f"a search found an infeasible assignment: {violations[0]}")
        with self.lock:
            self.incumbent = self.log.keep_better(self.incumbent, schedule)

    def record_bound(self, name: str, cost: int, proof: dict[str, Any]) -> None:
        """Record that no assignment costs less than `cost`; keep the best bound of each name."""
        with self.lock:
            bound = Bound(name, Fraction(cost), proof)
            for known in self.bounds:
                if known.name == name and known.value > bound.value:
                    bound = known
            self.bounds = [known for known in self.bounds if known.name != name] + [bound]
            self.log.record_bound(bound)

    def _result(self, infeasible: bool = False) -> Result:
        if self.incumbent is None:
            status = "infeasible" if infeasible else "unknown"
            return self.log.result(Schedule.empty(), status, self.bounds)
        status = "optimal" if self.log.optimum_proven else "feasible"
        return self.log.result(self.incumbent, status, self.bounds)

    # -- instances with constraints outside the knapsacks ---------------------------------------

    def _solve_by_cp_sat(
        self, relaxation: KnapsackRelaxation | None, pair_bounds: Ints | None
    ) -> bool:
        """Solve by CP-SAT on the pairs that an assignment better than the incumbent can use.

        Return whether the instance is proven infeasible.
        """
        candidates: Mask | None = None
        if relaxation is not None and pair_bounds is not None and self.incumbent is not None:
            candidates = pair_bounds <= relaxation.limit(int(self.upper) - 1)
            if not candidates.any(axis=1).all():
                proof = {"kind": "search", "solver": "lagrangian", "root": self.log.proof}
                self.record_bound("lagrangian", int(self.upper), proof)
                return False
        try:
            model = AssignmentModel(self.instance, candidates, self.lower, self.deadline)
        except OutOfTime:
            return False
        if self.incumbent is not None:
            model.hint(self.incumbent)
        solver = create_solver(self.threads, self.rng)
        solver.parameters.max_time_in_seconds = max(0.0, self.seconds_left())
        status = search(solver, model, self.log, self.upper)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            self.record_solution(model.schedule(solver.value))
        if status == cp_model.INFEASIBLE and self.incumbent is None:
            return True
        if status in (cp_model.OPTIMAL, cp_model.INFEASIBLE):
            self.log.record_search_bound(Fraction(int(self.upper)))
        return False


class _ParallelSearch:
    """Depth-first searches for objective values beside a large neighbourhood search, on threads.

    The depth-first searches decide together whether an assignment of cost at most `target` exists.
    If not, the bound rises to target + 1 and the target by `step`. The step is 1 on instances that
    are hard to decide; it doubles while steps are quick, for instances with large costs.

    Parameters
    ----------
    state
        The solve to which solutions and bounds are reported.
    relaxation
        An exact relaxation.
    u
        Its multipliers (N,).
    pair_bounds
        Its scaled bounds (N, M) with each task on each agent.
    """

    def __init__(
        self,
        state: _AssignmentSolve,
        relaxation: KnapsackRelaxation,
        u: Ints,
        pair_bounds: Ints,
    ) -> None:
        self.state = state
        self.relaxation = relaxation
        self.u = u
        self.pair_bounds = pair_bounds
        self.root_proof = state.log.proof
        self.searches: list[DepthFirstSearch] = []  # parts of the open search tree of `target`
        self.target = 0
        self.step = 1
        self.dfs_seconds = 0.0
        self.dfs_seconds_before_target = 0.0
        self.lns: LargeNeighbourhoodSearch | None = None
        self.lns_seconds = 0.0
        self.halt = Event()

    def run(self) -> bool:
        """Search until bound and incumbent meet or the time is over.

        Return whether the instance is proven infeasible.
        """
        state = self.state
        if state.incumbent is None and self._find_feasible() == NO_SOLUTION:
            return True
        lns_run: Future[None] | None = None  # a call of the large neighbourhood search
        with ThreadPoolExecutor(state.threads) as pool:
            while not state.log.optimum_proven and self._seconds_left() > 0:
                if lns_run is None and self._lns_is_due():
                    lns_run = pool.submit(self._run_lns)
                free = state.threads - (lns_run is not None)
                runs = [
                    (search, pool.submit(search.explore, min(DFS_SLICE, self._seconds_left())))
                    for search in self._searches_for(free)
                ]
                for search, status in runs:
                    self._evaluate(search, status.result())
                if lns_run is not None and (lns_run.done() or not free):
                    lns_run.result()
                    lns_run = None
            self.halt.set()
        return False

    def _seconds_left(self) -> float:
        return max(0.0, self.state.seconds_left())

    # -- the lower bound -----------------------------------------------------------------------

    def _searches_for(self, threads: int) -> list[DepthFirstSearch]:
        """Return at most `threads` parts of the search for the target; split parts to get there.

        Choose the next target where there is no open search. A step above 1 that turns out not to
        be quick is given up for a step of 1.
        """
        if self.step > 1 and not self._is_quick():
            self.searches = []
            self.step = 1
        if not self.searches:
            self.target = int(min(self.state.lower + self.step, self.state.upper)) - 1
            self.searches = [self._new_search(self.relaxation.limit(self.target))]
            self.dfs_seconds_before_target = self.dfs_seconds
        while len(self.searches) < threads:
            other = max(self.searches, key=lambda search: search.size).split()
            if other is None:
                break
            self.searches.append(other)
        return self.searches[:threads]

    def _new_search(self, limit: int) -> DepthFirstSearch:
        """Return the search for an assignment within the scaled `limit`.

        Its candidate pairs are those whose bound is within the limit. It has no node where a task
        has no candidate.
        """
        candidates = self.pair_bounds <= limit
        pairs = self.relaxation.candidate_pairs(candidates)
        root = np.ones((1, len(pairs.task)), np.uint8)
        if not candidates.any(axis=1).all():
            root = root[:0]
        return DepthFirstSearch(pairs, limit, root, self.u[None])

    def _evaluate(self, search: DepthFirstSearch, status: int) -> None:
        """Draw the conclusions from the `status` of one call of a search."""
        self.dfs_seconds += search.last_seconds
        if status == SOLUTION_FOUND:
            self._record_solution(search)
            self.searches = []
            self.step = max(1, self.step // 4)
        elif status == NO_SOLUTION and search in self.searches:
            self.searches.remove(search)
            if not self.searches:
                self._record_bound(self.target + 1)
                self.step = 2 * self.step if self._is_quick() else 1

    def _is_quick(self) -> bool:
        """Return whether the search for the present target has been quick so far."""
        seconds = self.dfs_seconds - self.dfs_seconds_before_target
        return seconds < max(DFS_SLICE, QUICK_SHARE * (self.dfs_seconds + self.lns_seconds))

    def _record_bound(self, cost: int) -> None:
        """Record that the search has proven that no assignment costs less than `cost`."""
        proof = {"kind": "search", "solver": "lagrangian", "root": self.root_proof}
        self.state.record_bound("tree", cost, proof)

    def _record_solution(self, search: DepthFirstSearch) -> None:
        chosen = np.flatnonzero(search.solution)
        agent = np.empty(self.state.instance.n_tasks, np.int64)
        agent[search.pairs.task[chosen]] = search.pairs.agent[chosen]
        self.state.record_solution(Schedule.from_assignment(self.state.instance, agent))

    # -- the incumbent -------------------------------------------------------------------------

    def _find_feasible(self) -> int:
        """Search for any feasible assignment and return the status of the search.

        NO_SOLUTION proves that the instance is infeasible.
        """
        cost = np.where(self.relaxation.possible, self.relaxation.cost, 0)
        search = self._new_search(int(cost.max(axis=1).sum()))
        status = search.explore(FEASIBILITY_SHARE * self._seconds_left())
        if status == SOLUTION_FOUND:
            self._record_solution(search)
        return status

    def _lns_is_due(self) -> bool:
        """Return whether the large neighbourhood search has had less than its share of the time."""
        total = self.dfs_seconds + self.lns_seconds
        share = LNS_SHARE if total < LATE_SECONDS else LATE_LNS_SHARE
        return self.state.incumbent is not None and self.lns_seconds <= share * total

    def _run_lns(self) -> None:
        """Run the large neighbourhood search for at least DFS_SLICE seconds."""
        state = self.state
        began = time.perf_counter()
        if self.lns is None:
            assert state.incumbent is not None
            agent = by_task(state.incumbent, state.incumbent.agent)
            self.lns = LargeNeighbourhoodSearch(
                self.relaxation, self.u, agent, state.rng, self.halt
            )
        while (
            time.perf_counter() - began < DFS_SLICE
            and not self.halt.is_set()
            and self._seconds_left() > 0
        ):
            if self.lns.explore(min(LNS_SLICE, self._seconds_left())):
                state.record_solution(Schedule.from_assignment(state.instance, self.lns.agent))
            if self.lns.optimal:
                self._record_bound(int(state.upper))
                break
        self.lns_seconds += time.perf_counter() - began
