"""A second, independent model of the problem for HiGHS (scipy.optimize.milp).

It tests bounds that have no proof. HiGHS computes in floating point, so that its bound confirms a
claim and does not prove it. A schedule that it finds is verified and costed exactly, and may refute
a claim.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.schedule import Schedule
from bench.verify.fields import UncheckableError
from bench.verify.problem import ExactObjective, ExactProblem, Number

MAX_VARIABLES = 200_000  # binary variables
MAX_ENTRIES = 8_000_000  # coefficients
TOLERANCE = 1e-6  # relative, of HiGHS's bounds
MAX_SLACK = 0.4  # subtracted at most from the bound of an integer before it is rounded up


class SecondModelResult(NamedTuple):
    """What HiGHS found."""

    bound: float  # internal (minimised); rounded up where every schedule has an integer cost
    schedule: Schedule | None  # the best found
    finished: bool  # the search ran to its end


class Start(NamedTuple):
    """A binary variable: task j runs on agent a in [start, end), with `budget` sharing from 0."""

    j: int
    a: int
    start: int
    end: int


def solve_second_model(
    problem: ExactProblem, objective: ExactObjective, seconds: float, known: Number | None = None
) -> SecondModelResult:
    """Return the best schedule and the bound that HiGHS finds in `seconds`.

    With `budget` sharing it solves the assignment model, with `time` sharing the time-indexed model
    of Sousa and Wolsey (1992, doi:10.1007/BF01585718).

    Parameters
    ----------
    known
        The cost of some feasible schedule; it keeps the model small.

    Raises
    ------
    UncheckableError
        Where the model is too large.
    """
    from scipy.optimize import Bounds, milp

    step = _time_step(problem)
    starts = _starts(problem, step, _latest_ends(problem, objective, known))
    rows = _constraints(problem, starts, step)
    cost = np.array([float(objective.task_cost(x.j, x.end)) for x in starts])
    upper = np.ones(len(starts))
    integer = np.ones(len(starts))
    if objective.is_maximum:  # one more variable, the makespan
        rows.add_maximum(cost, [x.j for x in starts], problem.n)
        cost = np.append(0 * cost, 1.0)
        upper = np.append(upper, np.inf)
        integer = np.append(integer, 0)
    found = milp(
        cost,
        integrality=integer,
        bounds=Bounds(0, upper),
        constraints=rows.constraint(len(cost)),
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    bound = -math.inf if found.mip_dual_bound is None else float(found.mip_dual_bound)
    if objective.integral and math.isfinite(bound):
        bound = math.ceil(bound - min(max(TOLERANCE, TOLERANCE * abs(bound)), MAX_SLACK))
    schedule = None
    if found.x is not None:
        schedule = _schedule([x for x, value in zip(starts, found.x, strict=False) if value > 0.5])
    return SecondModelResult(bound, schedule, found.status == 0)


def _schedule(chosen: list[Start]) -> Schedule | None:
    if not chosen:
        return None
    return Schedule(
        task=np.array([x.j for x in chosen]),
        agent=np.array([x.a for x in chosen]),
        start=np.array([x.start for x in chosen]),
        end=np.array([x.end for x in chosen]),
    )


# -- variables -------------------------------------------------------------------------------------


def _time_step(problem: ExactProblem) -> int:
    """Return a number of ticks that divides every start of an active schedule.

    Such a start is a sum of releases, ends of outages and durations.
    """
    ends = [end for outages in problem.outages for _, end in outages]
    durations = [p for on_agent in problem.durations for p in on_agent.values()]
    return math.gcd(*problem.release, *ends, *durations)


def _latest_ends(
    problem: ExactProblem, objective: ExactObjective, known: Number | None
) -> list[int]:
    """Return (N,) ticks by which each task ends in some optimal schedule.

    An active schedule never idles after the last release and outage. With a known cost, no task of
    an optimal schedule costs more than that less what all other tasks cost alone.
    """
    last_change = max([*problem.release, *(end for each in problem.outages for _, end in each)])
    horizon = last_change + sum(max(on_agent.values()) for on_agent in problem.durations)
    latest = [horizon] * problem.n
    if known is None:
        return latest
    alone = [
        objective.task_cost(j, problem.release[j] + problem.shortest[j]) for j in range(problem.n)
    ]
    allowed = [known if objective.is_maximum else known - sum(alone) + own for own in alone]
    rows = zip(latest, allowed, objective.slope, objective.origin, strict=True)
    return [
        min(end, origin + math.floor(cost / slope)) if slope else end
        for end, cost, slope, origin in rows
    ]


def _starts(problem: ExactProblem, step: int, latest: list[int]) -> list[Start]:
    """Return the variables: one per task and agent, with `time` sharing per feasible start."""
    found: list[Start] = []
    for j, on_agent in enumerate(problem.durations):
        for a, p in on_agent.items():
            if problem.budget:
                found.append(Start(j, a, 0, p))
                continue
            if len(found) + (latest[j] - problem.release[j]) // step > MAX_VARIABLES:
                raise UncheckableError(
                    f"too large for the second model (more than {MAX_VARIABLES} starts)"
                )
            outages = problem.outages[a]
            for t in range(problem.release[j], latest[j] - p + 1, step):
                if all(t + p <= start or t >= end for start, end in outages):
                    found.append(Start(j, a, t, t + p))
    return found


# -- constraints -----------------------------------------------------------------------------------


class ConstraintRows:
    """The rows of low <= A x <= high, in the order in which they are first named."""

    def __init__(self) -> None:
        self._index: dict[Hashable, int] = {}
        self._entries: list[tuple[int, int, float]] = []  # row, column, coefficient
        self._low: list[float] = []
        self._high: list[float] = []

    def add(self, name: Hashable, column: int, coefficient: float, low: float, high: float) -> None:
        """Add one entry to the row `name`, which has the limits of its first entry."""
        if name not in self._index:
            self._index[name] = len(self._index)
            self._low.append(low)
            self._high.append(high)
        self._entries.append((self._index[name], column, coefficient))
        if len(self._entries) > MAX_ENTRIES:
            raise UncheckableError(
                f"too large for the second model (more than {MAX_ENTRIES} coefficients)"
            )

    def add_maximum(self, cost: NDArray[np.float64], task: list[int], n: int) -> None:
        """Make one more variable, the last, at least the cost of every task's start."""
        for i, (j, task_cost) in enumerate(zip(task, cost.tolist(), strict=True)):
            self.add(("maximum", j), i, -task_cost, 0, np.inf)
        for j in range(n):
            self.add(("maximum", j), len(task), 1, 0, np.inf)

    def constraint(self, columns: int) -> Any:
        """Return the rows as a scipy.optimize.LinearConstraint on `columns` variables."""
        from scipy.optimize import LinearConstraint
        from scipy.sparse import csr_array

        row, column, value = zip(*self._entries, strict=True)
        matrix = csr_array((value, (row, column)), shape=(len(self._low), columns))
        return LinearConstraint(matrix, self._low, self._high)


def _constraints(problem: ExactProblem, starts: list[Start], step: int) -> ConstraintRows:
    """Return the rows: every task runs once, and agents' capacities and tenants' quotas hold.

    With `time` sharing the latter hold at every step.
    """
    rows = ConstraintRows()
    for i, x in enumerate(starts):
        rows.add(("task", x.j), i, 1, 1, 1)
        ticks = range(1) if problem.budget else range(x.start, x.end, step)
        limits: list[tuple[Hashable, list[int]]] = [(("agent", x.a), problem.capacity[x.a])]
        quota = problem.quota_of(x.j)
        if quota is not None:
            limits.append((("tenant", problem.tenant[x.j]), quota))
        for owner, limit in limits:
            for r, units in enumerate(problem.demand(x.j, x.a)):
                for tick in ticks if units else ():
                    rows.add((owner, r, tick), i, units, -np.inf, limit[r])
    return rows
