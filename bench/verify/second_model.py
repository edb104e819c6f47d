"""A second opinion on a bound: the problem modelled anew for HiGHS (scipy.optimize.milp), for what no proof shows.

HiGHS counts in floating point, so that it confirms and does not prove. What it finds against a bound is a schedule, which the
judge verifies and costs exactly.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from bench.schedule import Schedule
from bench.verify.fields import UncheckableError
from bench.verify.problem import Costs, Number, Problem

LARGEST_MODEL = 200_000  # binary variables
LARGEST_MATRIX = 8_000_000  # entries
TOLERANCE = 1e-6  # relative, of HiGHS's bounds
WHOLE = 0.4  # what is taken off the bound of a whole number before it is rounded up, at most


class Opinion(NamedTuple):
    """What the second model's search came to."""

    bound: float  # internal; rounded up where every schedule costs a whole number
    schedule: Schedule | None  # the best found
    finished: bool  # the search ran to its end


class Choice(NamedTuple):
    """A binary variable: task j runs on agent a in [start, end), with `budget` sharing from 0."""

    j: int
    a: int
    start: int
    end: int


def search(problem: Problem, costs: Costs, seconds: float, known: Number | None = None) -> Opinion:
    """The best schedule and the bound that HiGHS finds in `seconds`; `known`: what some feasible schedule costs.

    `budget` sharing: the assignment model. `time` sharing: the time-indexed model of Sousa and Wolsey (1992,
    doi:10.1007/BF01585718).

    Raises:
        UncheckableError: where the model is too large.
    """
    from scipy.optimize import Bounds, milp

    step = _step(problem)
    choices = _choices(problem, step, _latest(problem, costs, known))
    rows = _rows(problem, choices, step)
    price = np.array([float(costs.of(x.j, x.end)) for x in choices])
    upper, integer = np.ones(len(choices)), np.ones(len(choices))
    if costs.worst:  # one more variable, the makespan
        rows.at_least_every(price, [x.j for x in choices], problem.n)
        price, upper, integer = (
            np.append(0 * price, 1.0),
            np.append(upper, np.inf),
            np.append(integer, 0),
        )
    options = {"time_limit": seconds, "mip_rel_gap": 0.0}
    found = milp(
        price,
        integrality=integer,
        bounds=Bounds(0, upper),
        constraints=rows.constraint(len(price)),
        options=options,
    )
    bound = -math.inf if found.mip_dual_bound is None else float(found.mip_dual_bound)
    if costs.whole and math.isfinite(bound):
        bound = math.ceil(bound - min(max(TOLERANCE, TOLERANCE * abs(bound)), WHOLE))
    chosen = (
        []
        if found.x is None
        else [x for x, value in zip(choices, found.x, strict=False) if value > 0.5]
    )
    schedule = Schedule(*([x[column] for x in chosen] for column in range(4))) if chosen else None  # type: ignore[arg-type]
    return Opinion(bound, schedule, found.status == 0)


# -- variables -------------------------------------------------------------------------------------------------------


def _step(problem: Problem) -> int:
    """Ticks that divide every start of an active schedule: they are sums of releases, outage ends and durations."""
    ends = [end for away in problem.away for _, end in away]
    return math.gcd(
        *problem.release, *ends, *(p for lengths in problem.length for p in lengths.values())
    )


def _latest(problem: Problem, costs: Costs, known: Number | None) -> list[int]:
    """(N,) ticks by which each task ends in some optimal schedule.

    An active one works without a break after the last release and outage. And no task of it costs more than `known` less what
    the others cost alone.
    """
    last = max([*problem.release, *(end for away in problem.away for _, end in away)])
    latest = [last + sum(max(lengths.values()) for lengths in problem.length)] * problem.n
    if known is None:
        return latest
    least = [costs.of(j, problem.release[j] + problem.shortest[j]) for j in range(problem.n)]
    room = [known if costs.worst else known - sum(least) + own for own in least]
    rows = zip(latest, room, costs.slope, costs.origin, strict=True)
    return [
        min(end, origin + math.floor(own / slope)) if slope else end
        for end, own, slope, origin in rows
    ]


def _choices(problem: Problem, step: int, latest: list[int]) -> list[Choice]:
    found: list[Choice] = []
    for j, lengths in enumerate(problem.length):
        for a, p in lengths.items():
            if problem.budget:
                found.append(Choice(j, a, 0, p))
                continue
            if len(found) + (latest[j] - problem.release[j]) // step > LARGEST_MODEL:
                raise UncheckableError(
                    f"too large for the second model (more than {LARGEST_MODEL} starts)"
                )
            away = problem.away[a]
            for t in range(problem.release[j], latest[j] - p + 1, step):
                if all(t + p <= start or t >= end for start, end in away):
                    found.append(Choice(j, a, t, t + p))
    return found


# -- constraints -----------------------------------------------------------------------------------------------------


class Rows:
    """low <= A x <= high, row by row as each is first named."""

    def __init__(self) -> None:
        self._index: dict[Any, int] = {}
        self._entries: list[tuple[int, int, float]] = []  # row, column, coefficient
        self._low: list[float] = []
        self._high: list[float] = []

    def add(self, name: Any, column: int, coefficient: float, low: float, high: float) -> None:
        """One entry of the row `name`."""
        if name not in self._index:
            self._index[name] = len(self._index)
            self._low.append(low)
            self._high.append(high)
        self._entries.append((self._index[name], column, coefficient))
        if len(self._entries) > LARGEST_MATRIX:
            raise UncheckableError(
                f"too large for the second model (more than {LARGEST_MATRIX} coefficients)"
            )

    def at_least_every(self, price: np.ndarray, task: list[int], n: int) -> None:
        """One more variable, the last, is at least the price of every task's choice."""
        for i, (j, cost) in enumerate(zip(task, price.tolist(), strict=True)):
            self.add(("worst", j), i, -cost, 0, np.inf)
        for j in range(n):
            self.add(("worst", j), len(task), 1, 0, np.inf)

    def constraint(self, columns: int) -> Any:
        """For scipy."""
        from scipy.optimize import LinearConstraint
        from scipy.sparse import csr_array

        row, column, value = zip(*self._entries, strict=True)
        matrix = csr_array((value, (row, column)), shape=(len(self._low), columns))
        return LinearConstraint(matrix, self._low, self._high)


def _rows(problem: Problem, choices: list[Choice], step: int) -> Rows:
    """Every task runs once; agents' capacities and tenants' quotas hold, with `time` sharing at every step."""
    rows = Rows()
    for i, x in enumerate(choices):
        rows.add(("task", x.j), i, 1, 1, 1)
        times = range(1) if problem.budget else range(x.start, x.end, step)
        owners = [(("agent", x.a), problem.capacity[x.a])]
        if (quota := problem.limit(x.j)) is not None:
            owners.append((("tenant", problem.tenant[x.j]), quota))
        for owner, limit in owners:
            for r, units in enumerate(problem.demand(x.j, x.a)):
                for tick in times if units else ():
                    rows.add((owner, r, tick), i, units, -np.inf, limit[r])
    return rows
