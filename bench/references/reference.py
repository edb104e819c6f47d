"""What is known about an instance and an objective: the best schedule's objective and a bound.

All values are internal (minimised) ones.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from bench import metrics
from bench.analysis.stats import EQUAL
from bench.contracts import Result
from bench.instance import Instance
from bench.verify import verify


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
        if feasible and _below(value, self.bound):
            return (
                f"objective {value:g} is below the bound {self.bound:g} "
                f"proved by {self.bound_solver}: one of them is wrong"
            )
        if _below(self.objective, claimed):
            return f"bound {claimed:g} claimed, but {best}"
        if feasible and _below(value, claimed):
            return f"bound {claimed:g} claimed, but its own schedule costs {value:g}"
        if result.status == "optimal" and (not feasible or _below(self.objective, value)):
            return f"claimed optimal at {value:g}, but {best}"
        return ""

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

    The objective is recomputed, and counts only if the schedule is feasible. The bound is the
    solver's own, or the objective where a feasible result claims to be optimal; it is never above
    the objective.
    """
    feasible = not verify(instance, result.schedule)
    value = metrics.objective(instance, result.schedule, objective) if feasible else math.inf
    bound = result.lower_bound
    if feasible and result.status == "optimal":
        bound = max(bound, value)
    return Reference(value, min(bound, value), solver, solver, seconds)


def _below(a: float, b: float) -> bool:
    """Return whether a < b by more than rounding."""
    return a < b - EQUAL * abs(b) if math.isfinite(b) else a < b
