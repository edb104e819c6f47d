"""The objectives in exact fractions, in the one form that models, bounds and searches work with."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil, floor

import numpy as np

from bench.instance import Instance, Ints
from bench.schedule import Schedule
from bench.setting import SLOWDOWN_THRESHOLD_SECONDS


@dataclass(frozen=True)
class Terms:
    """An objective as the sum (or the maximum) of one term per task.

    The term of task j is coefficient_j * max(lower_limit_j, C_j - origin_j). Every objective of
    `bench/docs/problem.md` section 3 has this form, and none decreases in any C_j: they are regular
    (Pinedo, Scheduling, section 2.1).
    """

    coefficient: tuple[Fraction, ...]  # (N,)
    lower_limit: tuple[Fraction, ...]  # (N,) ticks
    origin: tuple[int, ...]  # (N,) tick
    is_maximum: bool = False  # the objective is the maximum of the terms (makespan), not the sum

    @classmethod
    def of(cls, instance: Instance, objective: str) -> Terms:
        """Return total_time, makespan, tardiness or bounded_slowdown of `instance`."""
        n = instance.n_tasks
        zero = (Fraction(0),) * n
        weight = tuple(Fraction(int(w)) for w in instance.weight)
        if objective == "makespan":
            return cls((Fraction(1),) * n, zero, (0,) * n, is_maximum=True)
        if objective == "tardiness":
            return cls(weight, zero, tuple(instance.due.tolist()))  # type: ignore[union-attr]
        if objective == "total_time":
            return cls(weight, zero, tuple(instance.release.tolist()))
        if objective != "bounded_slowdown":
            raise NotImplementedError(f"objective: {objective} has no terms yet; define them here")
        shortest_counted = Fraction(SLOWDOWN_THRESHOLD_SECONDS) / Fraction(instance.tick_seconds)
        duration = tuple(max(Fraction(p), shortest_counted) for p in instance.shortest().tolist())
        coefficient = tuple(1 / (n * p) for p in duration)
        return cls(coefficient, duration, tuple(instance.release.tolist()))

    @cached_property
    def is_integral(self) -> bool:
        """Whether the objective of every schedule is an integer."""
        return all(x.denominator == 1 for x in (*self.coefficient, *self.lower_limit))

    def least_value(self, bound: Fraction) -> Fraction:
        """Return the least objective that an exact lower bound leaves possible.

        That is the bound itself, rounded up where the objective of every schedule is an integer.
        """
        return Fraction(ceil(bound)) if self.is_integral else bound

    def per_task(self, completion: Ints) -> list[Fraction]:
        """Return the terms (N,) at completion ticks (N,)."""
        rows = zip(
            self.coefficient, self.lower_limit, self.origin, completion.tolist(), strict=True
        )
        return [c * max(limit, end - origin) for c, limit, origin, end in rows]

    def value(self, completion: Ints) -> Fraction:
        """Return the exact objective at completion ticks (N,)."""
        terms = self.per_task(completion)
        return max(terms) if self.is_maximum else sum(terms, Fraction(0))

    def latest_completion(self, value: Fraction, earliest: Ints, horizon: int) -> Ints:
        """Return the last completion (N,) of each task in schedules no worse than `value`.

        Only schedules that end by tick `horizon` count. In a sum, the term of task j is at most
        `value` less the other terms at their earliest completions, `earliest` (N,).
        """
        least = self.per_task(earliest)
        others = 0 if self.is_maximum else sum(least)
        largest = [value if self.is_maximum else value - others + own for own in least]
        rows = zip(self.coefficient, self.origin, largest, strict=True)
        return np.array(
            [min(horizon, origin + floor(term / c)) if c else horizon for c, origin, term in rows],
            dtype=np.int64,
        )


def by_task(schedule: Schedule, column: Ints) -> Ints:
    """Return a column (N,) of a schedule that has one piece per task, ordered by task."""
    return column[np.argsort(schedule.task)]


def completion_times(schedule: Schedule) -> Ints:
    """Return the completion ticks C_j (N,) of a schedule that has one piece per task."""
    return by_task(schedule, schedule.end)
