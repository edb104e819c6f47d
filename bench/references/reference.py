"""What is known about an instance and an objective: the best schedule's objective and a bound.

All values are internal (minimised) ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from bench import metrics
from bench.analysis.stats import EQUAL
from bench.contracts import Result
from bench.instance import Instance
from bench.verify import verify

NAME = 200  # characters of a solver's name at most
LARGEST = 1e300  # no value of an instance within the declared limits is near it


@dataclass(frozen=True)
class Reference:
    """The best known objective and bound of (instance, objective).

    Attributes
    ----------
    objective
        Of the best verified schedule known; inf: none.
    bound
        No schedule costs less; -inf: no bound.
    solver
        The solver that found the schedule.
    bound_solver
        The solver that proved the bound.
    seconds
        The time limit of the longest search so far.
    """

    objective: float = math.inf
    bound: float = -math.inf
    solver: str = ""
    bound_solver: str = ""
    seconds: float = 0.0

    @property
    def proved(self) -> bool:
        """Whether the objective is a proven optimum."""
        return math.isfinite(self.objective) and self.objective - self.bound <= EQUAL * abs(
            self.objective
        )

    def merge(self, other: Reference) -> Reference:
        """Return the better objective and the better bound of two; `self` in a tie."""
        better = other if other.objective < self.objective else self
        tighter = other if other.bound > self.bound else self
        return Reference(
            better.objective,
            tighter.bound,
            better.solver,
            tighter.bound_solver,
            max(self.seconds, other.seconds),
        )

    def contradiction(self, value: float, feasible: bool, result: Result) -> str:
        """Return, in words, how a solver's result contradicts this reference; empty: it does not.

        Parameters
        ----------
        value
            The recomputed objective of the result's schedule.
        feasible
            Whether that schedule was verified; an infeasible one may have any objective.
        """
        claimed = result.lower_bound
        best = f"a verified schedule by {self.solver} costs {self.objective:g}"
        if feasible and is_below(value, self.bound):
            return (
                f"objective {value:g} is below the bound {self.bound:g} "
                f"proved by {self.bound_solver}: one of them is wrong"
            )
        if is_below(self.objective, claimed):
            return f"bound {claimed:g} claimed, but {best}"
        if feasible and is_below(value, claimed):
            return f"bound {claimed:g} claimed, but its own schedule costs {value:g}"
        if result.status == "optimal" and (not feasible or is_below(self.objective, value)):
            return f"claimed optimal at {value:g}, but {best}"
        return ""

    @classmethod
    def from_dict(cls, data: Any) -> Reference:
        """Build the reference that `to_dict` wrote.

        Raises
        ------
        ValueError
            For a field that is unknown or of another type, a number that is not finite, negative
            seconds, or a bound above the objective.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"an object is needed, got {type(data).__name__}")
        kinds = {field.name: field.type for field in fields(cls)}
        for name, value in data.items():
            if name not in kinds:
                raise ValueError(f"{str(name)[:40]!r}: unknown; known are {', '.join(kinds)}")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if kinds[name] == "str":
                if not isinstance(value, str) or len(value) > NAME or not value.isprintable():
                    raise ValueError(f"{name}: a name of at most {NAME} characters is needed")
            elif not number or not abs(value) < math.inf or abs(value) > LARGEST:
                raise ValueError(f"{name}: {str(value)[:40]}: a finite number is needed")
        found = cls(**data)
        if found.seconds < 0 or is_below(found.objective, found.bound):
            raise ValueError("seconds are negative, or the bound is above the objective")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without infinite ones: those are the defaults."""
        return {
            key: value
            for key, value in asdict(self).items()
            if not isinstance(value, float) or math.isfinite(value)
        }


def reference_of(
    instance: Instance, result: Result, objective: str, solver: str, seconds: float
) -> Reference:
    """Return what a result shows about an instance.

    The objective is recomputed, and counts only if the schedule is feasible. The bound is that of
    the result, or the objective where a feasible result is optimal; it is never above the
    objective. Give the result after `bench.references.claims.accepted`.
    """
    feasible = not verify(instance, result.schedule)
    value = metrics.objective(instance, result.schedule, objective) if feasible else math.inf
    bound = result.lower_bound
    if feasible and result.status == "optimal":
        bound = max(bound, value)
    return Reference(value, min(bound, value), solver, solver, seconds)


def is_below(a: float, b: float) -> bool:
    """Return whether a < b by more than rounding."""
    return a < b - EQUAL * abs(b) if math.isfinite(b) else a < b
