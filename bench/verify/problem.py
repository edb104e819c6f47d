"""An instance and an objective in Python integers and fractions, for exact checks.

In shapes N is the number of tasks, M of agents, T of agent types, R of resources, U of tenants.
Times are in ticks. p_ja is the duration of task j on agent a.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property

from bench.instance import NOT_ELIGIBLE, Instance
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, SLOWDOWN_THRESHOLD_SECONDS

Number = int | Fraction


class ExactProblem:
    """Which agents can run which task alone, for how long, and what limits them.

    Attributes
    ----------
    n, m, r
        N, M and R.
    budget
        Whether the instance has `budget` sharing.
    durations
        (N,) of {a: p_ja} over the agents that can run task j alone.
    shortest
        (N,) min_a p_ja.
    quota
        (U, R), empty without quotas.
    outages
        (M,) of the agent's outages [start, end), sorted.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.n = instance.n_tasks
        self.m = instance.n_agents
        self.r = instance.n_resources
        self.budget = instance.sharing == "budget"
        self.release: list[int] = instance.release.tolist()  # (N,)
        self.weight: list[int] = instance.weight.tolist()  # (N,)
        self.capacity: list[list[int]] = instance.capacity.tolist()  # (M, R)
        self.quota: list[list[int]] = [] if instance.quota is None else instance.quota.tolist()
        self.tenant: list[int] = [] if instance.tenant is None else instance.tenant.tolist()  # (N,)
        self.agent_type: list[int] = instance.agent_type.tolist()  # (M,)
        self._demand: list[list[list[int]]] = instance.demand.tolist()  # (N, T, R)
        by_type: list[list[int]] = instance.duration.tolist()  # (N, T)
        self.durations = [
            {
                a: by_type[j][self.agent_type[a]]
                for a in range(self.m)
                if by_type[j][self.agent_type[a]] != NOT_ELIGIBLE and self._covers(j, a)
            }
            for j in range(self.n)
        ]
        self.shortest = [min(on_agent.values()) for on_agent in self.durations]
        self.outages: list[list[tuple[int, int]]] = [[] for _ in range(self.m)]
        for agent, start, end, _ in instance.outages:
            self.outages[agent].append((start, end))

    def demand(self, j: int, a: int) -> list[int]:
        """Return (R,) units that task j holds on agent a."""
        return self._demand[j][self.agent_type[a]]

    def quota_of(self, j: int) -> list[int] | None:
        """Return (R,) the quota of task j's tenant; None without quotas."""
        return self.quota[self.tenant[j]] if self.quota else None

    def tasks_of(self, a: int) -> list[int]:
        """Return the tasks that agent a can run alone."""
        return [j for j in range(self.n) if a in self.durations[j]]

    @cached_property
    def slots(self) -> list[int]:
        """(M,) the number of tasks that each agent can run at once at most.

        One more, even of the smallest demands, exceeds some resource.
        """
        found = []
        for a, capacity in enumerate(self.capacity):
            demands = [self.demand(j, a) for j in self.tasks_of(a)]
            fitting = (
                _count_fitting(sorted(row[r] for row in demands), units)
                for r, units in enumerate(capacity)
            )
            found.append(min(fitting, default=len(demands)))
        return found

    def _covers(self, j: int, a: int) -> bool:
        """Return whether the capacity of agent a and the quota of task j cover j's demand."""
        quota = self.quota_of(j)
        limits = [self.capacity[a]] if quota is None else [self.capacity[a], quota]
        return all(
            x <= units
            for limit in limits
            for x, units in zip(self.demand(j, a), limit, strict=True)
        )


class ExactObjective:
    """An objective as the sum over j (the maximum for makespan) of exact task costs.

    The cost of task j is slope_j * max(minimum_j, C_j - origin_j); with `budget` sharing C_j is
    the duration of j on its agent.

    Attributes
    ----------
    is_maximum
        Whether it is the maximum of the task costs, not their sum.
    integral
        Whether every schedule has an integer cost, so that a bound may be rounded up.
    slope, minimum, origin
        (N,) the numbers of the formula above.

    Raises
    ------
    ValueError
        For an objective that the instance does not have.
    """

    def __init__(self, problem: ExactProblem, objective: str) -> None:
        instance = problem.instance
        n = problem.n
        if objective not in OBJECTIVES:
            raise ValueError(
                f"objective_name: {objective!r} must be one of {', '.join(OBJECTIVES)}"
            )
        if problem.budget and objective != "total_time":
            raise ValueError(
                f"objective_name: `budget` sharing has no {objective}, only total_time"
            )
        self.is_maximum = objective == "makespan"
        self.integral = objective != "bounded_slowdown"
        self.slope: list[Number] = [1] * n if self.is_maximum else list(problem.weight)
        self.minimum: list[Number] = [0] * n
        self.origin = [0] * n if self.is_maximum else list(problem.release)
        if objective == "tardiness":
            if instance.due is None:
                raise ValueError(
                    "objective_name: tardiness needs due dates, and the instance has none"
                )
            self.origin = instance.due.tolist()
        if objective == "bounded_slowdown":
            threshold = Fraction(SLOWDOWN_THRESHOLD_SECONDS) / Fraction(instance.tick_seconds)
            self.minimum = [max(Fraction(p), threshold) for p in problem.shortest]
            self.slope = [Fraction(1) / (n * least) for least in self.minimum]

    def task_cost(self, j: int, completion: int) -> Number:
        """Return the cost of task j if it ends at `completion`."""
        return self.slope[j] * max(self.minimum[j], completion - self.origin[j])

    def cost(self, completion: Sequence[int]) -> Number:
        """Return the cost of a schedule with these completions (N,)."""
        costs = [self.task_cost(j, end) for j, end in enumerate(completion)]
        return max(costs) if self.is_maximum else sum(costs)

    def schedule_cost(self, schedule: Schedule) -> Number:
        """Return the cost of a feasible schedule: a task ends with its last piece."""
        completion = [0] * len(self.slope)
        for j, end in zip(schedule.task.tolist(), schedule.end.tolist(), strict=True):
            completion[j] = max(completion[j], end)
        return self.cost(completion)


def _count_fitting(sizes: list[int], units: int) -> int:
    """Return how many of the sorted sizes fit in `units` together."""
    held = 0
    for count, size in enumerate(sizes):
        held += size
        if held > units:
            return count
    return len(sizes)


def dot(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the scalar product."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def in_digits(value: Number) -> str:
    """Return an exact number with ten digits; one that is no float by its power of ten."""
    try:
        return f"{float(value):.10g}"
    except OverflowError:
        whole = abs(int(value))
        power = int(whole.bit_length() * math.log10(2))
        return f"{'-' if value < 0 else ''}about 1e+{power}"
