"""The objectives of the suite in exact fractions, in the one form that models, bounds and searches work with."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np

from bench.instance import Instance, Ints
from bench.schedule import Schedule

SLOWDOWN_SECONDS = 10  # bounded slowdown counts a task shorter than this as if it took this long


@dataclass(frozen=True)
class Terms:
    """An objective as sum (or max, where `worst`) over j of coefficient_j * max(floor_j, C_j - origin_j).

    Every objective of the suite has this form, and none decreases in any C_j (they are regular).
    """

    coefficient: tuple[Fraction, ...]  # (N,)
    floor: tuple[Fraction, ...]  # (N,) ticks
    origin: tuple[int, ...]  # (N,) tick
    worst: bool = False

    @classmethod
    def of(cls, instance: Instance, objective: str) -> Terms:
        """SPEC section 3: total_time, makespan, tardiness or bounded_slowdown of `instance`, in exact fractions."""
        n, zero = instance.n_tasks, (Fraction(0),) * instance.n_tasks
        weight = tuple(Fraction(int(w)) for w in instance.weight)
        if objective == "makespan":
            return cls((Fraction(1),) * n, zero, (0,) * n, worst=True)
        if objective == "tardiness":
            return cls(weight, zero, tuple(instance.due.tolist()))  # type: ignore[union-attr]
        if objective == "total_time":
            return cls(weight, zero, tuple(instance.release.tolist()))
        least = Fraction(SLOWDOWN_SECONDS) / Fraction(instance.tick_seconds)
        length = tuple(max(Fraction(p), least) for p in instance.shortest().tolist())
        return cls(tuple(1 / (n * p) for p in length), length, tuple(instance.release.tolist()))

    @property
    def whole(self) -> bool:
        """Every schedule costs a whole number."""
        return all(x.denominator == 1 for x in (*self.coefficient, *self.floor))

    def each(self, completion: Ints) -> list[Fraction]:
        """(N,) the terms at completion ticks (N,)."""
        rows = zip(self.coefficient, self.floor, self.origin, completion.tolist(), strict=True)
        return [c * max(low, end - origin) for c, low, origin, end in rows]

    def value(self, completion: Ints) -> Fraction:
        """The objective at completion ticks (N,), exactly."""
        return max(self.each(completion)) if self.worst else sum(self.each(completion), Fraction(0))

    def latest(self, value: Fraction, earliest: Ints, horizon: int) -> Ints:
        """(N,) the last completion of each task in any schedule within `horizon` whose objective is at most `value`.

        Task j's own term is at most `value` less what the others cost even at their earliest completions (N,).
        """
        least = self.each(earliest)
        others = 0 if self.worst else sum(least)
        room = [value if self.worst else value - others + own for own in least]
        rows = zip(self.coefficient, self.origin, room, strict=True)
        return np.array(
            [min(horizon, origin + floor(own / c)) if c else horizon for c, origin, own in rows],
            dtype=np.int64,
        )


def by_task(schedule: Schedule, column: Ints) -> Ints:
    """(N,) a column of a schedule with one piece per task, by task."""
    return column[np.argsort(schedule.task)]


def completion(schedule: Schedule) -> Ints:
    """(N,) C_j of a schedule with one piece per task."""
    return by_task(schedule, schedule.end)
