"""Compute the named bounds that fit an objective; `solvers.exact.bounds` documents their proofs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from bench.instance import Instance
from bench.metrics import trivial_bound
from bench.schedule import Schedule
from solvers.exact.agent_pools import StartWindows
from solvers.exact.bounds.assignment import assignment_bound
from solvers.exact.bounds.energy import energy_bound
from solvers.exact.bounds.time_indexed import TimeIndexedRelaxation
from solvers.exact.objective_terms import Terms, completion_times

CAPACITY_SHARE = 0.3  # of the time, for capacity multipliers at most; the rest is for packing


@dataclass(frozen=True)
class Bound:
    """A proven lower bound on an objective."""

    name: str  # trivial | assignment | energy | time_indexed | packing
    value: Fraction
    proof: dict[str, Any]  # in a form of `solvers.exact.bounds`


@dataclass(frozen=True)
class ScheduleRelaxation:
    """The results of the relaxations of an instance."""

    bounds: tuple[Bound, ...]
    windows: StartWindows | None = None  # starts of all schedules no worse than the incumbent
    schedule: Schedule | None = None  # a feasible schedule found by a relaxation

    @property
    def best(self) -> Bound:
        """The highest bound; the first one, which is the simplest, in a tie."""
        return max(self.bounds, key=lambda bound: bound.value)


def _no_op(bound: Bound) -> None:
    """Ignore a bound."""


def trivial(instance: Instance, terms: Terms) -> Bound:
    """Return the objective with every task alone on its fastest agent.

    For the makespan, all work against all capacity counts too.
    """
    value = terms.value(instance.release + instance.shortest())
    if terms.is_maximum:
        value = max(value, Fraction(trivial_bound(instance, "makespan")))
    return Bound("trivial", value, {"kind": "trivial"})


def quick_bounds(
    instance: Instance,
    terms: Terms,
    objective: str,
    on_bound: Callable[[Bound], None] = _no_op,
) -> ScheduleRelaxation:
    """Return the bounds that need no search, `trivial` and `assignment`.

    `on_bound` is called with each of them.
    """
    bounds = [trivial(instance, terms)]
    schedule = None
    if objective == "total_time" and (matched := assignment_bound(instance)) is not None:
        value, proof, schedule = matched
        bounds.append(Bound("assignment", terms.least_value(value), proof))
    for bound in bounds:
        on_bound(bound)
    return ScheduleRelaxation(tuple(bounds), None, schedule)


def relaxation_bounds(
    instance: Instance,
    terms: Terms,
    objective: str,
    incumbent: Schedule,
    seconds: float,
    on_bound: Callable[[Bound], None] = _no_op,
    known: ScheduleRelaxation | None = None,
) -> ScheduleRelaxation:
    """Return every bound that fits the objective.

    Parameters
    ----------
    instance
        An instance of `time` sharing.
    terms
        The objective.
    objective
        Its name.
    incumbent
        A feasible schedule; a bound that reaches its objective ends the computation.
    seconds
        The time limit, approximately.
    on_bound
        Called with each new bound.
    known
        The quick bounds, which are computed by default; they are part of the result.
    """
    deadline = time.perf_counter() + seconds
    if known is None:
        known = quick_bounds(instance, terms, objective, on_bound)
    schedules = [one for one in (incumbent, known.schedule) if one is not None]
    best = min(terms.value(completion_times(one)) for one in schedules)
    bounds = list(known.bounds)
    windows = None

    def add(name: str, value: Fraction, proof: dict[str, Any]) -> None:
        bounds.append(Bound(name, terms.least_value(value), proof))
        on_bound(bounds[-1])

    if objective == "makespan":
        add("energy", *energy_bound(instance, seconds))
    elif max(bound.value for bound in bounds) < best:
        relaxation = TimeIndexedRelaxation(instance, terms, int(incumbent.end.max()))
        share = CAPACITY_SHARE if relaxation.allows_packing else 1.0
        left = share * (deadline - time.perf_counter())
        multipliers = relaxation.capacity_multipliers(float(best), left)
        strongest = relaxation.exact_bound(multipliers)
        add("time_indexed", strongest.value, strongest.proof())
        if relaxation.allows_packing and bounds[-1].value < best:
            left = deadline - time.perf_counter()
            packing = relaxation.exact_bound(
                relaxation.task_multipliers(multipliers, float(best), left)
            )
            add("packing", packing.value, packing.proof())
            strongest = max(strongest, packing, key=lambda bound: bound.value)
        windows = relaxation.start_windows(strongest, best)
    return ScheduleRelaxation(tuple(bounds), windows, known.schedule)
