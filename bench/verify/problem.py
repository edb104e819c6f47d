"""An instance and an objective in plain Python integers and fractions, for the exact checks of a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property

from bench.instance import NOT_ELIGIBLE, Instance
from bench.schedule import Schedule
from bench.setting import OBJECTIVES

FLOOR_SECONDS = 10  # of the bounded slowdown, SPEC section 3

Number = int | Fraction


class Problem:
    """Who can run what, alone, for how long: N tasks, M agents, R resources, times in ticks."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.n, self.m, self.r = instance.n_tasks, instance.n_agents, instance.n_resources
        self.budget = instance.sharing == "budget"
        self.release: list[int] = instance.release.tolist()  # (N,)
        self.weight: list[int] = instance.weight.tolist()  # (N,)
        self.capacity: list[list[int]] = instance.capacity.tolist()  # (M, R)
        self.quota: list[list[int]] = (
            [] if instance.quota is None else instance.quota.tolist()
        )  # (U, R)
        self.tenant: list[int] = [] if instance.tenant is None else instance.tenant.tolist()  # (N,)
        self.kind: list[int] = instance.agent_type.tolist()  # (M,)
        self._demand: list[list[list[int]]] = instance.demand.tolist()  # (N, T, R)
        durations = instance.duration.tolist()
        self.length = [
            {a: durations[j][self.kind[a]] for a in range(self.m) if self._runs(j, a, durations)}
            for j in range(self.n)
        ]
        self.shortest = [min(lengths.values()) for lengths in self.length]  # (N,)
        self.away: list[list[tuple[int, int]]] = [
            [] for _ in range(self.m)
        ]  # (M,) of sorted [start, end)
        for agent, start, end, _ in instance.outages:
            self.away[agent].append((start, end))

    def demand(self, j: int, a: int) -> list[int]:
        """(R,) units task j holds on agent a."""
        return self._demand[j][self.kind[a]]

    def limit(self, j: int) -> list[int] | None:
        """(R,) the quota of task j's tenant; none without quotas."""
        return self.quota[self.tenant[j]] if self.quota else None

    def runners(self, a: int) -> list[int]:
        """The tasks that agent a can run alone."""
        return [j for j in range(self.n) if a in self.length[j]]

    @cached_property
    def slots(self) -> list[int]:
        """(M,) how many tasks each agent can run at once at most: one more, even of the smallest, exceeds some resource."""
        found = []
        for a, capacity in enumerate(self.capacity):
            demands = [self.demand(j, a) for j in self.runners(a)]
            fit = (
                _most(sorted(row[r] for row in demands), units) for r, units in enumerate(capacity)
            )
            found.append(min(fit, default=len(demands)))
        return found

    def _runs(self, j: int, a: int, durations: list[list[int]]) -> bool:
        limits = [self.capacity[a], *([self.quota[self.tenant[j]]] if self.quota else [])]
        covered = all(
            x <= units
            for limit in limits
            for x, units in zip(self.demand(j, a), limit, strict=True)
        )
        return covered and durations[j][self.kind[a]] != NOT_ELIGIBLE


class Costs:
    """An objective as the sum (or max, for makespan) over j of slope_j * max(floor_j, C_j - origin_j), exactly.

    With `budget` sharing C_j is the duration p_{j,x_j}. Raises ValueError for an objective the instance does not have.
    """

    def __init__(self, problem: Problem, objective: str) -> None:
        instance, n = problem.instance, problem.n
        if objective not in OBJECTIVES:
            raise ValueError(
                f"objective_name: {objective!r} must be one of {', '.join(OBJECTIVES)}"
            )
        if problem.budget and objective != "total_time":
            raise ValueError(
                f"objective_name: `budget` sharing has no {objective}, only total_time"
            )
        if objective == "tardiness" and instance.due is None:
            raise ValueError("objective_name: tardiness needs due dates, and the instance has none")
        self.worst = objective == "makespan"
        self.whole = objective != "bounded_slowdown"  # every schedule costs a whole number
        self.slope: list[Number] = [1] * n if self.worst else list(problem.weight)
        self.floor: list[Number] = [0] * n
        self.origin = [0] * n if self.worst else list(problem.release)
        if objective == "tardiness":
            self.origin = instance.due.tolist()  # type: ignore[union-attr]
        if objective == "bounded_slowdown":
            least = Fraction(FLOOR_SECONDS) / Fraction(instance.tick_seconds)
            self.floor = [max(Fraction(p), least) for p in problem.shortest]
            self.slope = [Fraction(1) / (n * low) for low in self.floor]

    def of(self, j: int, completion: int) -> Number:
        """What task j costs where it ends at `completion`."""
        return self.slope[j] * max(self.floor[j], completion - self.origin[j])

    def total(self, completion: Sequence[int]) -> Number:
        """What a schedule with these completions (N,) costs."""
        each = [self.of(j, end) for j, end in enumerate(completion)]
        return max(each) if self.worst else sum(each)

    def schedule(self, schedule: Schedule, n: int) -> Number:
        """What a feasible schedule costs: a task ends with its last piece."""
        completion = [0] * n
        for j, end in zip(schedule.task.tolist(), schedule.end.tolist(), strict=True):
            completion[j] = max(completion[j], end)
        return self.total(completion)


def _most(sizes: list[int], units: int) -> int:
    """How many of the sorted sizes fit in `units` together."""
    held = 0
    for count, size in enumerate(sizes):
        held += size
        if held > units:
            return count
    return len(sizes)


def dot(a: Sequence[int], b: Sequence[int]) -> int:
    """The sum of the products."""
    return sum(x * y for x, y in zip(a, b, strict=True))
