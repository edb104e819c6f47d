"""The two exact models in CP-SAT's terms: `AssignModel` for `budget` sharing, `ScheduleModel` for `time` sharing.

Both read as Variables, then Constraints (one method per sentence of the problem), then the objective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import NamedTuple

import numpy as np
from ortools.sat.python import cp_model

from bench.instance import Instance, Ints
from bench.metrics import horizon
from bench.schedule import Schedule
from solvers.left_shift import fits_alone

SLOWDOWN_SECONDS = 10  # bounded slowdown counts a task shorter than this as if it took this long
LARGEST_TOTAL = 2**58  # what a scaled objective may reach, far inside CP-SAT's int64
SCALE_ERROR = Fraction(1, 10**10)  # what scaling fractional coefficients may take off the bound, where it can be that fine

Value = Callable[[cp_model.IntVar], int]


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
        return np.array([min(horizon, origin + floor(own / c)) if c else horizon for c, origin, own in rows], dtype=np.int64)


class Place(NamedTuple):
    """Interchangeable agents a task may choose. With `slots` > 0 an agent holds any `slots` of the tasks and never more."""

    agents: tuple[int, ...]
    tasks: tuple[int, ...]
    slots: int


def places(instance: Instance) -> list[Place]:
    """The agents, those of one type, capacity and no outage taken together where counting tasks is all that capacity asks.

    Then a pool of k agents with s slots is one place that runs k * s tasks at a time: the intervals of its tasks can be
    coloured with k * s slots whenever no more than that overlap (an interval graph's chromatic number is its clique number).
    """
    alone = np.array([fits_alone(instance, j) for j in range(instance.n_tasks)])
    broken = {outage.agent for outage in instance.outages}
    pools: dict[tuple[int, ...], list[int]] = {}
    for a, (kind, capacity) in enumerate(zip(instance.agent_type.tolist(), instance.capacity.tolist(), strict=True)):
        pools.setdefault((kind, *capacity, a if a in broken else -1), []).append(a)
    found = []
    for pool in pools.values():
        tasks = np.flatnonzero(alone[:, pool[0]])
        slots = _slots(instance.demand[tasks, instance.agent_type[pool[0]]], instance.capacity[pool[0]])
        for agents in [pool] if slots else [[a] for a in pool]:
            found.append(Place(tuple(agents), tuple(tasks.tolist()), slots))
    return [place for place in found if place.tasks]


def _slots(demand: Ints, capacity: Ints) -> int:
    """s, if any s rows of demand (n, R) fit capacity (R,) together and no s + 1 do (s = n if all fit); 0 without such an s."""
    ascending = np.cumsum(np.sort(demand, axis=0), axis=0)
    descending = np.cumsum(np.sort(demand, axis=0)[::-1], axis=0)
    slots = int((descending <= capacity).all(axis=1).sum())
    exact = slots == len(demand) or (ascending[slots] > capacity).any()
    return slots if exact else 0


class ScheduleModel:
    """`time` sharing: each task chooses a place and a start; a plan avoids every outage, announced or not."""

    def __init__(self, instance: Instance, terms: Terms, incumbent: Ints | None = None) -> None:
        """`incumbent`: completion ticks (N,) of a feasible schedule, whose objective then bounds every start from above."""
        self.instance, self.terms, self.places = instance, terms, places(instance)
        self.model = cp_model.CpModel()
        earliest = instance.release + instance.shortest()
        last = _last_completions(instance, terms, incumbent)
        self._variables(earliest, last)
        self.each_task_has_one_place()
        self.capacities_hold()
        self.quotas_hold()
        self.outages_are_avoided()
        self.scale = self._minimise(earliest, last)

    def _variables(self, earliest: Ints, last: Ints) -> None:
        instance, model = self.instance, self.model
        shortest = instance.shortest()
        self.start = [
            model.new_int_var(int(r), int(e - p), f"start[{j}]")
            for j, (r, e, p) in enumerate(zip(instance.release, last, shortest, strict=True))
        ]
        self.end = [model.new_int_var(int(c), int(e), f"end[{j}]") for j, (c, e) in enumerate(zip(earliest, last, strict=True))]
        self.chosen = [{j: model.new_bool_var(f"chosen[{j},{i}]") for j in place.tasks} for i, place in enumerate(self.places)]
        self.interval = [
            {
                j: model.new_optional_fixed_size_interval_var(self.start[j], self._duration(j, i), chosen, f"run[{j},{i}]")
                for j, chosen in self.chosen[i].items()
            }
            for i in range(len(self.places))
        ]

    def _type(self, place: int) -> int:
        return int(self.instance.agent_type[self.places[place].agents[0]])

    def _duration(self, task: int, place: int) -> int:
        return int(self.instance.duration[task, self._type(place)])

    def each_task_has_one_place(self) -> None:
        """Every task runs at exactly one place, for as long as it takes there."""
        for j in range(self.instance.n_tasks):
            options = [i for i in range(len(self.places)) if j in self.chosen[i]]
            self.model.add_exactly_one(self.chosen[i][j] for i in options)
            length = sum(self._duration(j, i) * self.chosen[i][j] for i in options)
            self.model.add(self.start[j] + length == self.end[j])

    def capacities_hold(self) -> None:
        """At every tick the tasks running on an agent fit its capacity, resource by resource."""
        for i, place in enumerate(self.places):
            intervals = list(self.interval[i].values())
            room = place.slots * len(place.agents)
            if room == 1:
                self.model.add_no_overlap(intervals)
            elif 1 < room < len(intervals):
                self.model.add_cumulative(intervals, [1] * len(intervals), room)
            elif not place.slots:
                demand = self.instance.demand[list(place.tasks), self._type(i)]
                self._cumulatives(intervals, demand, self.instance.capacity[place.agents[0]])

    def quotas_hold(self) -> None:
        """At every tick the running tasks of a tenant, on whatever agents, hold no more than its quota."""
        if self.instance.quota is None:
            return
        for tenant, quota in enumerate(self.instance.quota):
            own = np.flatnonzero(self.instance.tenant == tenant).tolist()
            runs = [(j, i) for j in own for i in range(len(self.places)) if j in self.chosen[i]]
            if runs:
                demand = np.array([self.instance.demand[j, self._type(i)] for j, i in runs])
                self._cumulatives([self.interval[i][j] for j, i in runs], demand, quota)

    def _cumulatives(self, intervals: list[cp_model.IntervalVar], demand: Ints, capacity: Ints) -> None:
        for r, units in enumerate(capacity.tolist()):
            if demand[:, r].sum() > units:
                self.model.add_cumulative(intervals, demand[:, r].tolist(), units)

    def outages_are_avoided(self) -> None:
        """No task runs on an agent that is away."""
        for i, place in enumerate(self.places):
            away = [(o.start, o.end) for o in self.instance.outages if o.agent in place.agents]
            for j, chosen in self.chosen[i].items() if away else ():
                clash = [[begin - self._duration(j, i) + 1, end - 1] for begin, end in away]
                starts = cp_model.Domain.from_intervals(clash).complement()
                self.model.add_linear_expression_in_domain(self.start[j], starts).only_enforce_if(chosen)

    def _minimise(self, earliest: Ints, last: Ints) -> int:
        """Set the objective, scaled to integers and rounded down, and return the scale.

        Every scaled coefficient and floor is at most scale * its exact value and C_j >= origin_j wherever a term is linear, so
        the model's optimum / scale is at most the true one: CP-SAT's bound is a bound on the objective, exact where scale is 1.
        """
        terms = self.terms
        scale = _scale(terms, earliest, last)
        costs = []
        worst = self.model.new_int_var(0, int(last.max()), "worst") if terms.worst else None
        for j, (c, low, origin) in enumerate(zip(terms.coefficient, terms.floor, terms.origin, strict=True)):
            slope, least = floor(scale * c), floor(scale * c * low)
            cost = slope * (self.end[j] - origin)
            if worst is not None:
                self.model.add(worst >= cost)
            elif slope * (int(earliest[j]) - origin) >= least:
                costs.append(cost)
            else:
                most = max(least, slope * (int(last[j]) - origin))
                costs.append(self.model.new_int_var(least, most, f"cost[{j}]"))
                self.model.add(costs[-1] >= cost)
        self.model.minimize(sum(costs) if worst is None else worst)
        return scale

    def hint(self, schedule: Schedule) -> None:
        """Start the search from `schedule` (one piece per task); every variable but the costs, which follow."""
        for j, a, start, end in zip(schedule.task, schedule.agent, schedule.start, schedule.end, strict=True):
            self.model.add_hint(self.start[j], int(start))
            self.model.add_hint(self.end[j], int(end))
            for place, chosen in zip(self.places, self.chosen, strict=True):
                if j in chosen:
                    self.model.add_hint(chosen[j], int(a) in place.agents)

    def completion(self, value: Value) -> Ints:
        """(N,) C_j in the solution whose variables `value` reads."""
        return np.array([value(end) for end in self.end], dtype=np.int64)

    def schedule(self, value: Value) -> Schedule:
        """The solution as a schedule: within a place, tasks take the first agent with a free slot in order of their starts."""
        start = np.array([value(s) for s in self.start], dtype=np.int64)
        agent = np.full(self.instance.n_tasks, -1, dtype=np.int64)
        for place, chosen in zip(self.places, self.chosen, strict=True):
            slots = np.repeat(place.agents, max(place.slots, 1))
            free = np.zeros(len(slots), dtype=np.int64)
            for j in sorted((j for j, x in chosen.items() if value(x)), key=lambda j: (start[j], j)):
                slot = int(np.argmax(free <= start[j])) if place.slots else 0
                agent[j], free[slot] = slots[slot], value(self.end[j])
        return Schedule.from_assignment(self.instance, agent, start)


class AssignModel:
    """`budget` sharing, the generalised assignment problem: min sum_j w_j p_{j,x_j} within capacities and quotas."""

    scale = 1

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.model = cp_model.CpModel()
        self.x = {
            (j, int(a)): self.model.new_bool_var(f"x[{j},{a}]")
            for j in range(instance.n_tasks)
            for a in np.flatnonzero(fits_alone(instance, j))
        }
        self.each_task_has_one_agent()
        self.capacities_hold()
        self.quotas_hold()
        cost = (instance.weight[:, None] * instance.duration)[:, instance.agent_type]
        self.model.minimize(sum(int(cost[pair]) * x for pair, x in self.x.items()))

    def each_task_has_one_agent(self) -> None:
        """Every task is assigned to exactly one agent."""
        for j in range(self.instance.n_tasks):
            self.model.add_exactly_one(x for (i, _), x in self.x.items() if i == j)

    def capacities_hold(self) -> None:
        """All tasks of an agent together fit its capacity."""
        for a, capacity in enumerate(self.instance.capacity):
            self._fit({pair: x for pair, x in self.x.items() if pair[1] == a}, capacity)

    def quotas_hold(self) -> None:
        """All tasks of a tenant together hold no more than its quota."""
        for tenant, quota in enumerate(() if self.instance.quota is None else self.instance.quota):
            own = set(np.flatnonzero(self.instance.tenant == tenant).tolist())
            self._fit({pair: x for pair, x in self.x.items() if pair[0] in own}, quota)

    def _fit(self, chosen: dict[tuple[int, int], cp_model.IntVar], units: Ints) -> None:
        for r, limit in enumerate(units.tolist()):
            held = [int(self.instance.demand[j, self.instance.agent_type[a], r]) * x for (j, a), x in chosen.items()]
            self.model.add(sum(held) <= limit)

    def hint(self, schedule: Schedule) -> None:
        """Start the search from `schedule`."""
        agent = dict(zip(schedule.task.tolist(), schedule.agent.tolist(), strict=True))
        for (j, a), x in self.x.items():
            self.model.add_hint(x, agent.get(j) == a)

    def schedule(self, value: Value) -> Schedule:
        """The solution as a schedule."""
        agent = np.full(self.instance.n_tasks, -1, dtype=np.int64)
        for (j, a), x in self.x.items():
            if value(x):
                agent[j] = a
        return Schedule.from_assignment(self.instance, agent)

    def completion(self, value: Value) -> Ints:
        """(N,) p_{j,x_j}, which plays the part of C_j where there is no clock."""
        return self.schedule(value).end


def _last_completions(instance: Instance, terms: Terms, incumbent: Ints | None) -> Ints:
    """(N,) ticks by which some optimal schedule has completed each task.

    Some optimal schedule is active, since left-shifting makes no regular objective worse. Past the last release and the last
    outage t0 an active schedule has no idle tick before its end: the first task to start after such a tick could have started
    there, where nothing else runs, and from its own start on it holds only what it held. So it ends by t0 + sum of the longest
    durations, `metrics.horizon`. It is no worse than the incumbent either, which is what `latest` asks.
    """
    end = horizon(instance)
    if incumbent is None:
        return np.full(instance.n_tasks, end, dtype=np.int64)
    return terms.latest(terms.value(incumbent), instance.release + instance.shortest(), end)


def _scale(terms: Terms, earliest: Ints, last: Ints) -> int:
    """1 where all coefficients are whole, else as fine as SCALE_ERROR asks and LARGEST_TOTAL allows.

    Rounding down takes less than 1 / scale per tick of C_j - origin_j off each term, and less than 1 / scale off each floor.
    """
    if all(x.denominator == 1 for x in (*terms.coefficient, *terms.floor)):
        return 1
    ticks = int(sum(last - np.array(terms.origin))) + len(last)
    wanted = ceil(ticks / (SCALE_ERROR * terms.value(earliest)))
    return max(1, min(wanted, floor(LARGEST_TOTAL / (terms.value(last) + 1))))
