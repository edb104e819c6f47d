"""Scheduling with `time` sharing in CP-SAT's terms: variables, constraints (a method a sentence), objective."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil, floor
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from ortools.sat.python import cp_model

from bench.instance import Instance, Ints
from bench.left_shift import fits_alone
from bench.metrics import horizon
from bench.schedule import Schedule
from solvers.exact.objective_terms import Terms

LARGEST_TOTAL = 2**58  # what a scaled objective may reach, far inside CP-SAT's int64
SCALE_ERROR = Fraction(
    1, 10**10
)  # what scaling fractional coefficients may take off the bound, where it can be that fine
ORDERED_TASKS = 64  # among how many tasks of identical agents their symmetry is broken

Value = Callable[[cp_model.IntVar], int]


class Place(NamedTuple):
    """Interchangeable agents a task may choose. With `slots` > 0 an agent holds any `slots` of the tasks and never more."""

    agents: tuple[int, ...]
    tasks: tuple[int, ...]
    slots: int


def identical_agents(instance: Instance) -> list[list[int]]:
    """The agents of one type and capacity together; one that has outages stands alone."""
    broken = {outage.agent for outage in instance.outages}
    pools: dict[tuple[int, ...], list[int]] = {}
    for a, (kind, capacity) in enumerate(
        zip(instance.agent_type.tolist(), instance.capacity.tolist(), strict=True)
    ):
        pools.setdefault((kind, *capacity, a if a in broken else -1), []).append(a)
    return list(pools.values())


def places(instance: Instance) -> list[Place]:
    """The agents, those of one type, capacity and no outage taken together where counting tasks is all that capacity asks.

    Then a pool of k agents with s slots is one place that runs k * s tasks at a time: the intervals of its tasks can be
    coloured with k * s slots whenever no more than that overlap (an interval graph's chromatic number is its clique number).
    """
    alone = np.array([fits_alone(instance, j) for j in range(instance.n_tasks)])
    found = []
    for pool in identical_agents(instance):
        tasks = np.flatnonzero(alone[:, pool[0]])
        slots = _slots(
            instance.demand[tasks, instance.agent_type[pool[0]]], instance.capacity[pool[0]]
        )
        for agents in [pool] if slots else [[a] for a in pool]:
            found.append(Place(tuple(agents), tuple(tasks.tolist()), slots))
    return [place for place in found if place.tasks]


def _slots(demand: Ints, capacity: Ints) -> int:
    """s, if any s rows of demand (n, R) fit capacity (R,) together and no s + 1 do (s = n if all fit); 0 without such an s."""
    descending = np.cumsum(np.sort(demand, axis=0)[::-1], axis=0)
    slots = int((descending <= capacity).all(axis=1).sum())
    return slots if slots == most_at_once(demand, capacity) else 0


def most_at_once(demand: Ints, capacity: Ints) -> int:
    """The largest s whose s smallest demands (n, R) fit capacity (R,), resource by resource: no s + 1 tasks fit together."""
    ascending = np.cumsum(np.sort(demand, axis=0), axis=0)
    return int((ascending <= capacity).sum(axis=0).min(initial=len(demand)))


def _twins(instance: Instance, found: list[Place]) -> list[list[int]]:
    """The places of one agent each whose agents are identical."""
    single = {place.agents[0]: i for i, place in enumerate(found) if not place.slots}
    groups = [[single[a] for a in pool if a in single] for pool in identical_agents(instance)]
    return [group for group in groups if len(group) > 1]


class Windows(NamedTuple):
    """Per task and pool of identical agents the first and last start worth looking at; none where first > last."""

    pools: tuple[tuple[int, ...], ...]  # (G,) agents of each pool
    first: Ints  # (N, G) ticks
    last: Ints  # (N, G) ticks


class ScheduleModel:
    """`time` sharing: each task chooses a place and a start; a plan avoids every outage, announced or not."""

    def __init__(
        self,
        instance: Instance,
        terms: Terms,
        incumbent: Ints | None = None,
        bound: Fraction = Fraction(0),
        windows: Windows | None = None,
        twins: bool = True,
    ) -> None:
        """`incumbent`: completion ticks (N,) of a feasible schedule, whose objective then bounds every start from above.

        `bound`: a lower bound on the objective. `windows`: the starts of schedules no worse than the incumbent. `twins`:
        whether identical agents are interchangeable; not where the caller pins tasks to agents.
        """
        self.instance, self.terms, self.places = instance, terms, places(instance)
        self.twins = _twins(instance, self.places) if twins else []
        self.model = cp_model.CpModel()
        earliest = instance.release + instance.shortest()
        last = _last_completions(instance, terms, incumbent)
        self.spans = self._spans(last, windows)
        self._variables(earliest, last)
        self.each_task_has_one_place()
        self.starts_are_worthwhile()
        self.capacities_hold()
        self.quotas_hold()
        self.outages_are_avoided()
        self.identical_agents_are_in_order()
        self.scale = self._minimise(earliest, last, bound)

    def _spans(self, last: Ints, windows: Windows | None) -> list[dict[int, tuple[int, int]]]:
        """(N,) for each task the places where it may run and its first and last start there."""
        spans: list[dict[int, tuple[int, int]]] = [{} for _ in last]
        for i, place in enumerate(self.places):
            pool = (
                None
                if windows is None
                else next(g for g, own in enumerate(windows.pools) if place.agents[0] in own)
            )
            for j in place.tasks:
                low, high = int(self.instance.release[j]), int(last[j]) - self._duration(j, i)
                if windows is not None:
                    low, high = (
                        max(low, int(windows.first[j, pool])),
                        min(high, int(windows.last[j, pool])),
                    )
                if low <= high:
                    spans[j][i] = (low, high)
        return spans

    def _variables(self, earliest: Ints, last: Ints) -> None:
        """Also narrows `earliest` and `last` (N,) to what the spans allow."""
        model = self.model
        first, latest = [min(low for low, _ in span.values()) for span in self.spans], []
        for j, span in enumerate(self.spans):
            latest.append(max(high for _, high in span.values()))
            last[j] = min(
                last[j], max(high + self._duration(j, i) for i, (_, high) in span.items())
            )
            earliest[j] = max(
                earliest[j], min(low + self._duration(j, i) for i, (low, _) in span.items())
            )
        self.start = [
            model.new_int_var(*span, f"start[{j}]")
            for j, span in enumerate(zip(first, latest, strict=True))
        ]
        self.end = [
            model.new_int_var(int(c), int(e), f"end[{j}]")
            for j, (c, e) in enumerate(zip(earliest, last, strict=True))
        ]
        self.chosen = [
            {j: model.new_bool_var(f"chosen[{j},{i}]") for j in place.tasks if i in self.spans[j]}
            for i, place in enumerate(self.places)
        ]
        self.interval = [
            {
                j: model.new_optional_fixed_size_interval_var(
                    self.start[j], self._duration(j, i), chosen, f"run[{j},{i}]"
                )
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

    def starts_are_worthwhile(self) -> None:
        """A task starts within its span at the place it is at."""
        for j, span in enumerate(self.spans):
            for i, (low, high) in span.items():
                if low > min(s for s, _ in span.values()):
                    self.model.add(self.start[j] >= low).only_enforce_if(self.chosen[i][j])
                if high < max(s for _, s in span.values()):
                    self.model.add(self.start[j] <= high).only_enforce_if(self.chosen[i][j])

    def identical_agents_are_in_order(self) -> None:
        """Of identical agents that are places of their own, each one's lowest task comes after that of the one before."""
        for twins in self.twins:
            for left, right in itertools.pairwise(twins):
                before: list[cp_model.IntVar] = []
                for j, chosen in list(self.chosen[right].items())[:ORDERED_TASKS]:
                    self.model.add_bool_or([*before, ~chosen])
                    before.append(self.chosen[left][j])

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
                demand = self.instance.demand[list(self.interval[i]), self._type(i)]
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

    def _cumulatives(
        self, intervals: list[cp_model.IntervalVar], demand: Ints, capacity: Ints
    ) -> None:
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
                self.model.add_linear_expression_in_domain(self.start[j], starts).only_enforce_if(
                    chosen
                )

    def _minimise(self, earliest: Ints, last: Ints, bound: Fraction) -> int:
        """Set the objective, scaled to integers and rounded down, and return the scale.

        Every scaled coefficient and floor is at most scale * its exact value and C_j >= origin_j wherever a term is linear, so
        the model's optimum / scale is at most the true one: CP-SAT's bound is a bound on the objective, exact where scale is 1.
        Rounding takes less than 1 off each floor and each tick of C_j - origin_j, which `bound` must allow for.
        """
        terms = self.terms
        scale = _scale(terms, earliest, last)
        costs = []
        worst = self.model.new_int_var(0, int(last.max()), "worst") if terms.worst else None
        for j, (c, low, origin) in enumerate(
            zip(terms.coefficient, terms.floor, terms.origin, strict=True)
        ):
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
        total = sum(costs) if worst is None else worst
        rounded = 0 if scale == 1 else int(sum(last - np.minimum(last, terms.origin))) + len(last)
        self.model.add(total >= ceil(scale * bound) - rounded)
        self.model.minimize(total)
        return scale

    def hint(self, schedule: Schedule) -> None:
        """Start the search from `schedule` (one piece per task); every variable but the costs, which follow."""
        agent = self._in_order(schedule)
        for j, a, start, end in zip(
            schedule.task, agent, schedule.start, schedule.end, strict=True
        ):
            self.model.add_hint(self.start[j], int(start))
            self.model.add_hint(self.end[j], int(end))
            for place, chosen in zip(self.places, self.chosen, strict=True):
                if j in chosen:
                    self.model.add_hint(chosen[j], int(a) in place.agents)

    def _in_order(self, schedule: Schedule) -> Ints:
        """(P,) the agents of a schedule's pieces, identical ones renamed as `identical_agents_are_in_order` asks."""
        agent = schedule.agent.copy()
        for twins in self.twins:
            names = [self.places[i].agents[0] for i in twins]
            lowest = [
                min(schedule.task[schedule.agent == a], default=self.instance.n_tasks)
                for a in names
            ]
            for new, old in zip(names, np.argsort(lowest, kind="stable"), strict=True):
                agent[schedule.agent == names[old]] = new
        return agent

    def completion(self, value: Value) -> Ints:
        """(N,) C_j in the solution whose variables `value` reads."""
        return np.array([value(end) for end in self.end], dtype=np.int64)

    def schedule(self, value: Value, pinned: Mapping[int, int] = MappingProxyType({})) -> Schedule:
        """The solution as a schedule: within a place, tasks take the first agent with a free slot in order of their starts.

        `pinned`: task -> its agent, for tasks that are not to change theirs.
        """
        start = np.array([value(s) for s in self.start], dtype=np.int64)
        agent = np.full(self.instance.n_tasks, -1, dtype=np.int64)
        for place, chosen in zip(self.places, self.chosen, strict=True):
            slots = np.repeat(place.agents, max(place.slots, 1))
            free = np.zeros(len(slots), dtype=np.int64)
            for j in sorted(
                (j for j, x in chosen.items() if value(x)), key=lambda j: (start[j], j)
            ):
                usable = (free <= start[j]) & (slots == pinned[j] if j in pinned else True)
                slot = int(usable.argmax()) if place.slots else 0
                agent[j], free[slot] = slots[slot], value(self.end[j])
        return Schedule.from_assignment(self.instance, agent, start)


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
    if terms.whole:
        return 1
    ticks = int(sum(last - np.array(terms.origin))) + len(last)
    wanted = ceil(ticks / (SCALE_ERROR * terms.value(earliest)))
    return max(1, min(wanted, floor(LARGEST_TOTAL / (terms.value(last) + 1))))
