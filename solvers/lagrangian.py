"""Exact generalised assignment (track `assign`): Lagrangian bound, fixing of pairs, tree search, and local search beside it.

Costs are whole numbers, so the optimum is the least z for which an assignment of cost at most z exists. From the Lagrangian
bound upwards each z is decided by a tree in which the dual drops nearly all pairs (Posta, Ferland & Michelon 2012,
doi:10.1007/s10589-011-9432-0), while local search lowers the incumbent; where the two meet it is optimal. What knapsacks cannot
express (several binding resources, quotas) is left to CP-SAT on the pairs that bound and incumbent leave.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from threading import Event, Lock

import numpy as np
from ortools.sat.python import cp_model

from bench.contracts import Budget, Result
from bench.errors import UserError
from bench.instance import Instance, Ints
from bench.schedule import Schedule
from bench.setting import Setting
from bench.verify import verify
from solvers.exact.assignment.annealing import improve
from solvers.exact.assignment.model import AssignModel
from solvers.exact.assignment.neighbourhoods import Neighbourhoods
from solvers.exact.assignment.relaxation import Mask, Relaxation
from solvers.exact.assignment.tree import EMPTY, FOUND, Tree
from solvers.exact.bounds import Bound, trivial
from solvers.exact.compile_kernels import warm_up
from solvers.exact.cp_sat import Incumbents, new_solver
from solvers.exact.objective_terms import Terms, by_task
from solvers.exact.search_log import Trace

DUAL_SHARE = 0.2  # of the time left, for the dual ascent at most
SLICE = 0.1  # seconds of tree search between two decisions what to search
LNS_SLICE = 10.0  # seconds of search for the incumbent at once
LNS_SHARE, LATE_SHARE = 0.25, 0.5  # of the search, for the incumbent; and from LATE seconds on
LATE = 20.0
QUICK = 0.1  # share of the time so far that a step of the climb takes where steps may grow
FEASIBILITY_SHARE = 0.3  # of the time left, where local search has found nothing feasible


class Lagrangian:
    """Proves generalised assignments optimal, or ends with the budget; the bound is a whole number, proved in integers."""

    tracks = ("assign",)
    clairvoyant = True
    certifies = True

    def __init__(self, threads: int | None = None) -> None:
        """`threads`: default budget.threads."""
        self.threads = threads

    def warm_up(self) -> None:
        """Compile what is compiled late."""
        warm_up(self, "budget")

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """The best assignment found and a proved bound.

        `info` names the bound (`lagrangian`: with multipliers as its proof, `tree`, `cpsat`: by search) as CpSat's does.

        Raises:
            UserError: for a problem with a clock.
        """
        setting.check(instance)
        if instance.sharing != "budget":
            raise UserError(
                "solver: lagrangian solves assignments (sharing=budget, track=assign); use solver=cpsat here"
            )
        return _Run(instance, budget, self.threads or budget.threads, rng).result()


class _Run:
    """One solve: what is known of the instance, and the stages that improve it."""

    def __init__(
        self, instance: Instance, budget: Budget, threads: int, rng: np.random.Generator
    ) -> None:
        self.instance, self.threads, self.rng = instance, threads, rng
        began = time.perf_counter()
        self.deadline = began + budget.seconds
        terms = Terms.of(instance, "total_time")
        self.bounds = [trivial(instance, terms)]
        self.trace = Trace(terms, began, self.bounds[0])
        self.best: Schedule | None = None
        self.lock = Lock()

    def result(self) -> Result:
        """Local search, relaxation, then the search that fits."""
        if self._left() < 0.01:
            return self._result()
        self.found(improve(self.instance, None, 0.0, self.rng))
        relaxation = Relaxation.of(self.instance)
        if relaxation is None:
            return self._result(self._by_cp_sat(None, None))
        value, u, pair_bounds = relaxation.maximise(DUAL_SHARE * self._left())
        self.proved("lagrangian", relaxation.least_cost(value), relaxation.proof(u))
        if self.proved_optimal():
            return self._result()
        if relaxation.exact:
            return self._result(_Search(self, relaxation, u, pair_bounds).solve())
        return self._result(self._by_cp_sat(relaxation, pair_bounds))

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def lower(self) -> int:
        """No assignment costs less."""
        return -(-self.trace.bound.numerator // self.trace.bound.denominator)

    @property
    def upper(self) -> int | float:
        """What the best assignment costs, infinite without one."""
        return math.inf if self.best is None else int(self.trace.objective)

    def proved_optimal(self) -> bool:
        """Bound and objective have met."""
        return self.trace.objective <= self.trace.bound

    def found(self, schedule: Schedule | None) -> None:
        """An assignment that some search takes for feasible; the better of it and the best one is kept."""
        if schedule is None:
            return
        if verify(self.instance, schedule):
            raise RuntimeError("a search found an assignment that breaks a rule of the instance")
        with self.lock:
            self.best = self.trace.better(self.best, schedule)

    def proved(self, name: str, cost: int, proof: dict) -> None:
        """No assignment costs less than `cost`."""
        with self.lock:
            bound = max(
                [Bound(name, Fraction(cost), proof), *self.bounds],
                key=lambda one: (one.name == name, one.value),
            )
            self.bounds = [one for one in self.bounds if one.name != name] + [bound]
            self.trace.proved(bound)

    def _left(self) -> float:
        return self.deadline - time.perf_counter()

    def _result(self, infeasible: bool = False) -> Result:
        if self.best is None:
            return self.trace.result(
                Schedule.empty(), "infeasible" if infeasible else "unknown", self.bounds
            )
        status = "optimal" if self.proved_optimal() else "feasible"
        return self.trace.result(self.best, status, self.bounds)

    # -- what knapsacks cannot express -------------------------------------------------------------------------------

    def _by_cp_sat(self, relaxation: Relaxation | None, pair_bounds: Ints | None) -> bool:
        """CP-SAT on the pairs that a better assignment can have; whether nothing is feasible."""
        keep: Mask | None = None
        if relaxation is not None and pair_bounds is not None and self.best is not None:
            keep = pair_bounds <= relaxation.limit(int(self.upper) - 1)
            if not keep.any(axis=1).all():
                self.proved(
                    "lagrangian",
                    int(self.upper),
                    {"kind": "search", "solver": "lagrangian", "root": self.trace.proof},
                )
                return False
        model = AssignModel(self.instance, keep, self.lower)
        if self.best is not None:
            model.hint(self.best)
        solver = new_solver(self.threads, self.rng)
        solver.parameters.max_time_in_seconds = max(0.0, self._left())
        solver.best_bound_callback = lambda bound: self.trace.searched(min(bound, self.upper), 1)
        status = solver.solve(model.model, Incumbents(model, self.trace))
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            self.found(model.schedule(solver.value))
        if status == cp_model.INFEASIBLE and self.best is None:
            return True
        if status in (cp_model.OPTIMAL, cp_model.INFEASIBLE):
            self.trace.searched(self.upper, 1)
        return False


class _Search:
    """The climb (does an assignment cost at most this little more than is proved?) beside large neighbourhood search.

    The climb's steps are 1 where it is hard; they double while a step takes no time, for costs that are large numbers.
    """

    def __init__(self, known: _Run, relaxation: Relaxation, u: Ints, pair_bounds: Ints) -> None:
        self.known, self.relaxation, self.u, self.pair_bounds = known, relaxation, u, pair_bounds
        self.root = known.trace.proof
        self.climb: list[
            Tree
        ] = []  # what is left of the question whether an assignment costs at most `aim`
        self.aim, self.step, self.begun = 0, 1, 0.0
        self.neighbourhoods: Neighbourhoods | None = None
        self.halt = Event()
        self.spent = {"climb": 0.0, "neighbourhoods": 0.0}

    def solve(self) -> bool:
        """Until bound and incumbent meet, or the time is over; whether nothing is feasible."""
        run = self.known
        if run.best is None and self._any_feasible() == EMPTY:
            return True
        beside: Future[None] | None = (
            None  # the neighbourhoods, on a thread of their own while they are at it
        )
        with ThreadPoolExecutor(run.threads) as pool:
            while not run.proved_optimal() and self._left() > 0:
                if beside is None and self._neighbours_next():
                    beside = pool.submit(self._explore_neighbourhoods)
                free = run.threads - (beside is not None)
                statuses = [
                    (tree, pool.submit(tree.explore, min(SLICE, self._left())))
                    for tree in self._trees(free)
                ]
                for tree, status in statuses:
                    self._after(tree, status.result())
                if beside is not None and (beside.done() or not free):
                    beside.result()
                    beside = None
            self.halt.set()
        return False

    def _left(self) -> float:
        return max(0.0, self.known.deadline - time.perf_counter())

    # -- the bound ---------------------------------------------------------------------------------------------------

    def _trees(self, wanted: int) -> list[Tree]:
        """The climb's trees, as many as there are threads for them; a long step that is not quick gives way to a short one."""
        if self.step > 1 and not self._quick():
            self.climb, self.step = [], 1
        if not self.climb:
            self.aim = int(min(self.known.lower + self.step, self.known.upper)) - 1
            self.climb, self.begun = (
                [self._tree(self.relaxation.limit(self.aim))],
                self.spent["climb"],
            )
        while len(self.climb) < wanted:
            other = max(self.climb, key=lambda tree: tree.size).split()
            if other is None:
                break
            self.climb.append(other)
        return self.climb[:wanted]

    def _tree(self, limit: int) -> Tree:
        """The search for an assignment within the (scaled) limit, over the pairs that one can have."""
        keep = self.pair_bounds <= limit
        core = self.relaxation.core(keep)
        root = np.ones((1, len(core.task)), np.uint8)
        return Tree(core, limit, root if keep.any(axis=1).all() else root[:0], self.u[None])

    def _after(self, tree: Tree, status: int) -> None:
        """What a slice of a climb's tree says."""
        self.spent["climb"] += tree.latest
        if status == FOUND:
            self._found(tree)
            self.climb, self.step = [], max(1, self.step // 4)
        elif status == EMPTY and tree in self.climb:
            self.climb.remove(tree)
            if not self.climb:
                self._proved(self.aim + 1)
                self.step = 2 * self.step if self._quick() else 1

    def _quick(self) -> bool:
        return self.spent["climb"] - self.begun < max(SLICE, QUICK * sum(self.spent.values()))

    def _proved(self, cost: int) -> None:
        """No assignment costs less than `cost`, by search."""
        self.known.proved(
            "tree", cost, {"kind": "search", "solver": "lagrangian", "root": self.root}
        )

    def _found(self, tree: Tree) -> None:
        chosen = np.flatnonzero(tree.solution)
        agent = np.empty(self.known.instance.n_tasks, np.int64)
        agent[tree.core.task[chosen]] = tree.core.agent[chosen]
        self.known.found(Schedule.from_assignment(self.known.instance, agent))

    # -- the incumbent -----------------------------------------------------------------------------------------------

    def _any_feasible(self) -> int:
        """EMPTY where nothing is feasible, FOUND where something was found, else OPEN."""
        most = int(np.where(self.relaxation.possible, self.relaxation.cost, 0).max(axis=1).sum())
        tree = self._tree(most)
        status = tree.explore(FEASIBILITY_SHARE * self._left())
        if status == FOUND:
            self._found(tree)
        return status

    def _neighbours_next(self) -> bool:
        """Whether it is the neighbourhoods' turn."""
        total = sum(self.spent.values())
        share = LNS_SHARE if total < LATE else LATE_SHARE
        return self.known.best is not None and self.spent["neighbourhoods"] <= share * total

    def _explore_neighbourhoods(self) -> None:
        """As long as better assignments are met, for a slice at least."""
        run, began = self.known, time.perf_counter()
        if self.neighbourhoods is None:
            assert run.best is not None
            agent = by_task(run.best, run.best.agent)
            self.neighbourhoods = Neighbourhoods(self.relaxation, self.u, agent, run.rng, self.halt)
        while time.perf_counter() - began < SLICE and not self.halt.is_set() and self._left() > 0:
            if self.neighbourhoods.explore(min(LNS_SLICE, self._left())):
                run.found(Schedule.from_assignment(run.instance, self.neighbourhoods.agent))
            if self.neighbourhoods.optimal:
                self._proved(int(run.upper))
                break
        self.spent["neighbourhoods"] += time.perf_counter() - began
