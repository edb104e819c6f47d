"""The record of a search: best objective and bound over time, with the bound's name and proof."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from fractions import Fraction

from bench.contracts import Result
from bench.instance import Ints
from bench.schedule import Schedule
from solvers.exact.bounds import Bound
from solvers.exact.objective_terms import Terms, completion_times


class SearchLog:
    """The best objective and the best bound over time, as exact fractions.

    A lock guards them, because CP-SAT calls the methods from several threads.

    Parameters
    ----------
    terms
        The objective.
    start_time
        `time.perf_counter()` at the start of the solve, from which the trajectory counts.
    bound
        The first lower bound.
    """

    def __init__(self, terms: Terms, start_time: float, bound: Bound) -> None:
        self.terms = terms
        self.start_time = start_time
        self.objective: Fraction | float = math.inf
        self.bound = terms.least_value(bound.value)
        self.bound_name = bound.name
        self.proof = bound.proof
        self._points: list[tuple[float, float, float]] = []
        self._lock = threading.Lock()

    @property
    def optimum_proven(self) -> bool:
        """Whether the best objective has reached the best bound."""
        return self.objective <= self.bound

    def record_solution(self, completion: Ints) -> None:
        """Record a feasible schedule with completion ticks (N,)."""
        with self._lock:
            value = self.terms.value(completion)
            if value < self.objective:
                self.objective = value
                self._add_point()

    def record_schedule(self, schedule: Schedule) -> None:
        """Record a feasible schedule that has one piece per task."""
        self.record_solution(completion_times(schedule))

    def keep_better(self, old: Schedule | None, new: Schedule) -> Schedule:
        """Record `new` and return the schedule of lower objective, `new` in a tie."""
        self.record_schedule(new)
        if old is None:
            return new
        value = self.terms.value
        return new if value(completion_times(new)) <= value(completion_times(old)) else old

    def record_bound(self, bound: Bound) -> None:
        """Record a lower bound that a relaxation has proved."""
        with self._lock:
            value = self.terms.least_value(bound.value)
            if value > self.bound:
                self.bound = value
                self.bound_name = bound.name
                self.proof = bound.proof
                self._add_point()

    def record_search_bound(self, value: Fraction) -> None:
        """Record a lower bound that CP-SAT has proved by search; it is exact."""
        with self._lock:
            value = self.terms.least_value(value)
            if value > self.bound:
                if self.bound_name != "cpsat":
                    self.bound_name = "cpsat"
                    self.proof = {"kind": "search", "solver": "cpsat", "root": self.proof}
                self.bound = value
                self._add_point()

    def _add_point(self) -> None:
        seconds = time.perf_counter() - self.start_time
        self._points.append((seconds, float(self.objective), _float_below(self.bound)))

    def result(self, schedule: Schedule, status: str, bounds: Iterable[Bound] = ()) -> Result:
        """Return the result of the solve, with the trajectory of every improvement.

        `bounds`: all bounds that were computed; their values go into `Result.info`.
        """
        with self._lock:
            values = {bound.name: _float_below(bound.value) for bound in bounds}
            values |= {self.bound_name: _float_below(self.bound)}
            info = {"bound": self.bound_name, "proof": self.proof, "bounds": values}
            trajectory = tuple(self._points)
            return Result(schedule, status, _float_below(self.bound), trajectory, info=info)


def _float_below(value: Fraction) -> float:
    """Return the largest float that is not above `value`."""
    near = float(value)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)
