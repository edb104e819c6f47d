"""What a search keeps account of: the best objective and bound over time, with the bound's name and proof."""

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
from solvers.exact.objective_terms import Terms, completion


class Trace:
    """The best objective and bound over time, exact inside; CP-SAT calls back from several threads."""

    def __init__(self, terms: Terms, began: float, bound: Bound) -> None:
        self.terms, self.began, self.bound, self.name, self.proof = (
            terms,
            began,
            bound.value,
            bound.name,
            bound.proof,
        )
        self.objective: Fraction | float = math.inf
        self._points: list[tuple[float, float, float]] = []
        self._lock = threading.Lock()

    def found(self, ends: Ints) -> None:
        """A feasible plan with completions (N,)."""
        with self._lock:
            value = self.terms.value(ends)
            if value < self.objective:
                self.objective = value
                self._add()

    def better(self, old: Schedule | None, new: Schedule) -> Schedule:
        """Whichever of two plans has the lower objective, `new` in a tie."""
        self.found(completion(new))
        return (
            new
            if old is None or self.terms.value(completion(new)) <= self.terms.value(completion(old))
            else old
        )

    def proved(self, bound: Bound) -> None:
        """A relaxation has proved a bound."""
        with self._lock:
            if bound.value > self.bound:
                self.bound, self.name, self.proof = bound.value, bound.name, bound.proof
                self._add()

    def searched(self, bound: float, scale: int) -> None:
        """No plan has a scaled objective below `bound`, a whole number that is rounded where a float can not hold it."""
        if math.isinf(bound):
            return
        with self._lock:
            exact = (
                Fraction(bound if abs(bound) < 2**53 else math.nextafter(bound, -math.inf)) / scale
            )
            if exact > self.bound:
                if self.name != "cpsat":
                    self.name, self.proof = (
                        "cpsat",
                        {"kind": "search", "solver": "cpsat", "root": self.proof},
                    )
                self.bound = exact
                self._add()

    def _add(self) -> None:
        self._points.append(
            (time.perf_counter() - self.began, float(self.objective), _below(self.bound))
        )

    def result(self, schedule: Schedule, status: str, bounds: Iterable[Bound] = ()) -> Result:
        """All that is known, with (seconds, objective, bound) at every improvement, in order of time."""
        with self._lock:
            values = {bound.name: _below(bound.value) for bound in bounds}
            values |= {self.name: _below(self.bound)}
            info = {"bound": self.name, "proof": self.proof, "bounds": values}
            return Result(schedule, status, _below(self.bound), tuple(self._points), info=info)


def _below(value: Fraction) -> float:
    """The largest float not above `value`."""
    near = float(value)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)
