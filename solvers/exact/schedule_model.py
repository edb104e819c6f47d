"""The CP-SAT model of `time` sharing: variables, constraints (one method each) and objective."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil, floor
from types import MappingProxyType

import numpy as np
from ortools.sat.python import cp_model

from bench.instance import Instance, Ints
from bench.metrics import horizon
from bench.schedule import Schedule
from solvers.exact import deadline as clock
from solvers.exact.agent_pools import StartWindows, agent_groups, symmetric_groups
from solvers.exact.objective_terms import Terms

LARGEST_TOTAL = 2**58  # limit of the scaled objective, far inside CP-SAT's int64
SCALE_ERROR = Fraction(1, 10**10)  # aim: scaling fractional coefficients lowers the bound by less
ORDERED_TASKS = 64  # symmetry of identical agents is broken among at most this many tasks

Value = Callable[[cp_model.IntVar], int]  # the value of a variable in a solution


class ScheduleModel:
    """`time` sharing: each task chooses a group of agents and a start tick.

    A schedule avoids every outage, announced or not: the model is clairvoyant.

    Parameters
    ----------
    instance
        The instance, with N tasks.
    terms
        The objective.
    incumbent
        Completion ticks (N,) of a feasible schedule; its objective then limits every start.
    bound
        A lower bound on the objective.
    windows
        The starts of all schedules that are no worse than the incumbent.
    break_symmetry
        Whether identical agents are interchangeable; False where the caller fixes tasks to agents.
    deadline
        In seconds of `time.perf_counter()`.

    Attributes
    ----------
    model
        The CP-SAT model.
    groups
        The groups of agents among which tasks choose.
    start, end
        (N,) The variables of start and completion.
    chosen, interval
        Per group a dict from task to the variable that is true where the task runs on that group,
        and to its optional interval.
    scale
        The objective of the model is `scale` times the objective of the instance.
    offset
        The constant in the objective of the model.
    magnitude
        The sum of the absolute values of all terms of the objective of the model, each at its
        largest.

    Raises
    ------
    OutOfTime
        If the clock passes `deadline` before the model is complete.
    """

    def __init__(
        self,
        instance: Instance,
        terms: Terms,
        incumbent: Ints | None = None,
        bound: Fraction = Fraction(0),
        windows: StartWindows | None = None,
        break_symmetry: bool = True,
        deadline: float = math.inf,
    ) -> None:
        self.instance = instance
        self.terms = terms
        self.groups = agent_groups(instance)
        self.symmetric = symmetric_groups(instance, self.groups) if break_symmetry else []
        self.model = cp_model.CpModel()
        earliest = instance.release + instance.shortest()
        latest = _latest_completions(instance, terms, incumbent)
        self.start_ranges = self._start_ranges(latest, windows)
        self._narrow_completions(earliest, latest)
        clock.check(deadline)
        self._create_variables(earliest, latest)
        for constraints in (
            self.each_task_has_one_group,
            self.starts_lie_in_their_ranges,
            self.capacities_hold,
            self.quotas_hold,
            self.outages_are_avoided,
            self.identical_agents_are_in_order,
        ):
            clock.check(deadline)
            constraints()
        clock.check(deadline)
        self.offset = 0
        self.magnitude = 0.0
        self.scale = self._minimise(earliest, latest, bound)

    # -- variables --------------------------------------------------------------------------------

    def _start_ranges(
        self, latest: Ints, windows: StartWindows | None
    ) -> list[dict[int, tuple[int, int]]]:
        """Return for each of N tasks the groups it may run on, with its first and last start."""
        ranges: list[dict[int, tuple[int, int]]] = [{} for _ in latest]
        for i, group in enumerate(self.groups):
            pool = None
            if windows is not None:
                pool = next(g for g, own in enumerate(windows.pools) if group.agents[0] in own)
            for j in group.tasks:
                first = int(self.instance.release[j])
                last = int(latest[j]) - self._duration(j, i)
                if windows is not None:
                    first = max(first, int(windows.first[j, pool]))
                    last = min(last, int(windows.last[j, pool]))
                if first <= last:
                    ranges[j][i] = (first, last)
        return ranges

    def _narrow_completions(self, earliest: Ints, latest: Ints) -> None:
        """Narrow earliest and latest completions (N,), in place, to what the start ranges allow."""
        for j, ranges in enumerate(self.start_ranges):
            last_end = max(last + self._duration(j, i) for i, (_, last) in ranges.items())
            first_end = min(first + self._duration(j, i) for i, (first, _) in ranges.items())
            latest[j] = min(latest[j], last_end)
            earliest[j] = max(earliest[j], first_end)

    def _create_variables(self, earliest: Ints, latest: Ints) -> None:
        """Create the variables; completions lie in [earliest, latest], each (N,)."""
        model = self.model
        self.start = [
            model.new_int_var(
                min(first for first, _ in ranges.values()),
                max(last for _, last in ranges.values()),
                f"start[{j}]",
            )
            for j, ranges in enumerate(self.start_ranges)
        ]
        self.end = [
            model.new_int_var(int(first), int(last), f"end[{j}]")
            for j, (first, last) in enumerate(zip(earliest, latest, strict=True))
        ]
        self.chosen = [
            {
                j: model.new_bool_var(f"chosen[{j},{i}]")
                for j in group.tasks
                if i in self.start_ranges[j]
            }
            for i, group in enumerate(self.groups)
        ]
        self.interval = [
            {
                j: model.new_optional_fixed_size_interval_var(
                    self.start[j], self._duration(j, i), chosen, f"run[{j},{i}]"
                )
                for j, chosen in self.chosen[i].items()
            }
            for i in range(len(self.groups))
        ]

    def _type(self, group: int) -> int:
        return int(self.instance.agent_type[self.groups[group].agents[0]])

    def _duration(self, task: int, group: int) -> int:
        return int(self.instance.duration[task, self._type(group)])

    # -- constraints ------------------------------------------------------------------------------

    def each_task_has_one_group(self) -> None:
        """Every task runs on exactly one group of agents, for its duration there."""
        for j in range(self.instance.n_tasks):
            options = [i for i in range(len(self.groups)) if j in self.chosen[i]]
            self.model.add_exactly_one(self.chosen[i][j] for i in options)
            duration = sum(self._duration(j, i) * self.chosen[i][j] for i in options)
            self.model.add(self.start[j] + duration == self.end[j])

    def starts_lie_in_their_ranges(self) -> None:
        """Every task starts within its range of starts on the chosen group."""
        for j, ranges in enumerate(self.start_ranges):
            for i, (first, last) in ranges.items():
                if first > min(other for other, _ in ranges.values()):
                    self.model.add(self.start[j] >= first).only_enforce_if(self.chosen[i][j])
                if last < max(other for _, other in ranges.values()):
                    self.model.add(self.start[j] <= last).only_enforce_if(self.chosen[i][j])

    def capacities_hold(self) -> None:
        """At every tick the tasks running on an agent fit its capacity, resource by resource."""
        for i, group in enumerate(self.groups):
            intervals = list(self.interval[i].values())
            slots = group.slots * len(group.agents)
            if slots == 1:
                self.model.add_no_overlap(intervals)
            elif 1 < slots < len(intervals):
                self.model.add_cumulative(intervals, [1] * len(intervals), slots)
            elif not group.slots:
                demand = self.instance.demand[list(self.interval[i]), self._type(i)]
                self._add_cumulatives(intervals, demand, self.instance.capacity[group.agents[0]])

    def quotas_hold(self) -> None:
        """At every tick the running tasks of a tenant, on all agents, hold at most its quota."""
        if self.instance.quota is None:
            return
        for tenant, quota in enumerate(self.instance.quota):
            own = np.flatnonzero(self.instance.tenant == tenant).tolist()
            pairs = [(j, i) for j in own for i in range(len(self.groups)) if j in self.chosen[i]]
            if pairs:
                demand = np.array([self.instance.demand[j, self._type(i)] for j, i in pairs])
                self._add_cumulatives([self.interval[i][j] for j, i in pairs], demand, quota)

    def _add_cumulatives(
        self, intervals: list[cp_model.IntervalVar], demand: Ints, capacity: Ints
    ) -> None:
        """Limit the demand (n, R) of n intervals to capacity (R,) where it can be exceeded."""
        for r, units in enumerate(capacity.tolist()):
            if demand[:, r].sum() > units:
                self.model.add_cumulative(intervals, demand[:, r].tolist(), units)

    def outages_are_avoided(self) -> None:
        """No task runs on an agent during an outage of the agent."""
        for i, group in enumerate(self.groups):
            outages = [(o.start, o.end) for o in self.instance.outages if o.agent in group.agents]
            for j, chosen in self.chosen[i].items() if outages else ():
                clash = [[begin - self._duration(j, i) + 1, end - 1] for begin, end in outages]
                starts = cp_model.Domain.from_intervals(clash).complement()
                constraint = self.model.add_linear_expression_in_domain(self.start[j], starts)
                constraint.only_enforce_if(chosen)

    def identical_agents_are_in_order(self) -> None:
        """Of identical agents in groups of their own, the lowest tasks come in the agents' order.

        The lowest task of each agent has a higher index than that of the agent before it.
        """
        for symmetric in self.symmetric:
            for left, right in itertools.pairwise(symmetric):
                before: list[cp_model.IntVar] = []
                for j, chosen in list(self.chosen[right].items())[:ORDERED_TASKS]:
                    self.model.add_bool_or([*before, ~chosen])
                    before.append(self.chosen[left][j])

    # -- objective --------------------------------------------------------------------------------

    def _minimise(self, earliest: Ints, latest: Ints, bound: Fraction) -> int:
        """Set the objective, scaled to integers and rounded down, and return the scale.

        Every scaled coefficient and lower limit is at most scale * its exact value, and
        C_j >= origin_j wherever a term is linear. So the optimum of the model / scale is at most
        the true optimum: CP-SAT's bound is a bound on the objective, exact where scale is 1.
        Rounding lowers each lower limit and each tick of C_j - origin_j by less than 1, which
        `bound` must allow for.
        """
        terms = self.terms
        scale = _scale(terms, earliest, latest)
        costs = []
        maximum = None
        if terms.is_maximum:
            maximum = self.model.new_int_var(0, int(latest.max()), "maximum")
            self.magnitude = float(latest.max())
        for j, (coefficient, limit, origin) in enumerate(
            zip(terms.coefficient, terms.lower_limit, terms.origin, strict=True)
        ):
            origin = min(origin, int(latest[j]))  # no later due date counts; products fit int64
            slope = floor(scale * coefficient)
            least = floor(scale * coefficient * limit)
            cost = slope * (self.end[j] - origin)
            if maximum is not None:
                self.model.add(maximum >= cost)
            elif slope * (int(earliest[j]) - origin) >= least:
                costs.append(cost)
                self.offset -= slope * origin
                self.magnitude += slope * (int(latest[j]) + abs(origin))
            else:
                most = max(least, slope * (int(latest[j]) - origin))
                costs.append(self.model.new_int_var(least, most, f"cost[{j}]"))
                self.magnitude += most
                self.model.add(costs[-1] >= cost)
        total = sum(costs) if maximum is None else maximum
        rounded = 0
        if scale != 1:
            rounded = int(sum(latest - np.minimum(latest, terms.origin))) + len(latest)
        self.model.add(total >= ceil(scale * bound) - rounded)
        self.model.minimize(total)
        return scale

    # -- solutions --------------------------------------------------------------------------------

    def hint(self, schedule: Schedule) -> None:
        """Start the search from `schedule`, which has one piece per task.

        Costs get no hint: they follow from the other variables.
        """
        agent = self._order_agents(schedule)
        for j, a, start, end in zip(
            schedule.task, agent, schedule.start, schedule.end, strict=True
        ):
            self.model.add_hint(self.start[j], int(start))
            self.model.add_hint(self.end[j], int(end))
            for group, chosen in zip(self.groups, self.chosen, strict=True):
                if j in chosen:
                    self.model.add_hint(chosen[j], int(a) in group.agents)

    def _order_agents(self, schedule: Schedule) -> Ints:
        """Return the agents (P,) of the pieces, with identical agents in the order asked for."""
        agent = schedule.agent.copy()
        for symmetric in self.symmetric:
            agents = [self.groups[i].agents[0] for i in symmetric]
            lowest_task = [
                min(schedule.task[schedule.agent == a], default=self.instance.n_tasks)
                for a in agents
            ]
            for new, old in zip(agents, np.argsort(lowest_task, kind="stable"), strict=True):
                agent[schedule.agent == agents[old]] = new
        return agent

    def completion(self, value: Value) -> Ints:
        """Return C_j (N,) in the solution whose variables `value` reads."""
        return np.array([value(end) for end in self.end], dtype=np.int64)

    def schedule(self, value: Value, fixed: Mapping[int, int] = MappingProxyType({})) -> Schedule:
        """Return the solution whose variables `value` reads as a schedule.

        Within a group, tasks take the first agent with a free slot in order of their starts.
        `fixed`: task -> agent, for tasks that must stay on their agents.
        """
        start = np.array([value(s) for s in self.start], dtype=np.int64)
        agent = np.full(self.instance.n_tasks, -1, dtype=np.int64)
        for group, chosen in zip(self.groups, self.chosen, strict=True):
            slots = np.repeat(group.agents, max(group.slots, 1))
            free_from = np.zeros(len(slots), dtype=np.int64)
            tasks = sorted((j for j, x in chosen.items() if value(x)), key=lambda j: (start[j], j))
            for j in tasks:
                usable = (free_from <= start[j]) & (slots == fixed[j] if j in fixed else True)
                slot = int(usable.argmax()) if group.slots else 0
                agent[j] = slots[slot]
                free_from[slot] = value(self.end[j])
        return Schedule.from_assignment(self.instance, agent, start)


def _latest_completions(instance: Instance, terms: Terms, incumbent: Ints | None) -> Ints:
    """Return ticks (N,) by which some optimal schedule has completed each task.

    Some optimal schedule is active, since left-shifting makes no regular objective worse. After the
    last release and the last outage, tick t0, an active schedule has no idle tick before its end:
    the first task to start after such a tick could have started in it, where nothing else runs, and
    from its own start on it holds only what it held. So it ends by t0 + the sum of the longest
    durations, `metrics.horizon`. It is no worse than the incumbent either, which limits each term.
    """
    end = horizon(instance)
    if incumbent is None:
        return np.full(instance.n_tasks, end, dtype=np.int64)
    earliest = instance.release + instance.shortest()
    return terms.latest_completion(terms.value(incumbent), earliest, end)


def _scale(terms: Terms, earliest: Ints, latest: Ints) -> int:
    """Return 1 where all coefficients are integers, else the scale that SCALE_ERROR requires.

    LARGEST_TOTAL limits the scale. Rounding down takes less than 1 / scale per tick of
    C_j - origin_j off each term, and less than 1 / scale off each lower limit.
    """
    if terms.is_integral:
        return 1
    ticks = int(sum(latest - np.array(terms.origin))) + len(latest)
    wanted = ceil(ticks / (SCALE_ERROR * terms.value(earliest)))
    return max(1, min(wanted, floor(LARGEST_TOTAL / (terms.value(latest) + 1))))
