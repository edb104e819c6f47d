"""Simulated annealing for the generalised assignment problem, compiled.

A move shifts a task to another agent. With probability 1/2 it also ejects a task from that agent,
either to the agent that the first task left (a swap) or to a third one (an ejection chain).
Capacities and quotas may be exceeded at a penalty that adapts during the search (strategic
oscillation, as in Yagiura, Ibaraki & Glover, INFORMS J. Computing 16 (2004), and EJOR 169 (2006)):
it rises while a limit is exceeded and falls otherwise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from threading import Timer

import numpy as np
from numpy.typing import NDArray

from bench.compiled import compiled, kernel_array
from bench.instance import Instance, Ints
from bench.left_shift import fits_alone
from bench.schedule import Schedule
from solvers.exact.assignment import pair_costs

MOVES_PER_TASK = 2000  # moves of one annealing run, per task
COOLING = 1e-3  # last temperature of an annealing run as a share of the first
# The penalty changes by at most a factor of about exp(PENALTY_RANGE) in an annealing run.
PENALTY_RANGE = 100.0
SUBGRADIENT_STEPS = 200  # for the multipliers of the capacities


def improve(
    instance: Instance,
    first: Schedule | None,
    seconds: float,
    rng: np.random.Generator,
    on_improvement: Callable[[Schedule], None] | None = None,
    most_seconds: float = math.inf,
) -> Schedule | None:
    """Run simulated annealing repeatedly for `seconds`, at least once.

    Parameters
    ----------
    instance
        An instance with `sharing=budget`.
    first
        A feasible schedule to start from, or None.
    seconds
        Wall-clock limit. An annealing run that has begun is completed.
    rng
        Source of all randomness.
    on_improvement
        Called with every schedule that is better than all before it.
    most_seconds
        Wall-clock limit after which an annealing run that has begun is cut short.

    Returns
    -------
    Schedule | None
        The best feasible schedule found, never worse than `first`; None if there is none.
    """
    began = time.perf_counter()
    problem = _PenaltyProblem(instance)
    best = None
    best_cost = np.inf
    if first is not None:
        best = np.empty(instance.n_tasks, np.int64)
        best[first.task] = first.agent
        best_cost = problem.total(best)
    runs = 0
    while runs == 0 or time.perf_counter() - began < seconds:
        start = problem.preferred[:, 0] if best is None else best
        left = most_seconds - (time.perf_counter() - began)
        agent = problem.anneal(start, 0.5 ** (runs % 5), rng, left)
        runs += 1
        if agent is not None and problem.total(agent) < best_cost:
            best = agent
            best_cost = problem.total(agent)
            if on_improvement is not None:
                on_improvement(Schedule.from_assignment(instance, best))
    return None if best is None else Schedule.from_assignment(instance, best)


class _PenaltyProblem:
    """The arrays of an instance that the compiled annealing reads."""

    def __init__(self, instance: Instance) -> None:
        n = instance.n_tasks
        possible = np.array([fits_alone(instance, j) for j in range(n)])
        self.cost = np.where(possible, pair_costs(instance).astype(np.float64), np.inf)  # (N, M)
        self.demand = instance.demand[:, instance.agent_type].astype(np.float64)  # (N, M, R)
        self.capacity = instance.capacity.astype(np.float64)  # (M, R)
        self.tenant = np.zeros(n, np.int64)  # (N,)
        self.quota = np.full((1, instance.n_resources), np.inf)  # (U, R)
        if instance.quota is not None and instance.tenant is not None:
            self.tenant = instance.tenant
            self.quota = instance.quota.astype(np.float64)
        value = self._reduced_costs()
        self.preferred = np.argsort(value, axis=1, kind="stable")  # (N, M) agents, best first
        self.choices = possible.sum(axis=1)  # (N,) number of agents that can run each task
        ordered = np.sort(value, axis=1)[:, : min(2, value.shape[1])]
        regret = ordered[:, -1] - ordered[:, 0]
        finite = np.isfinite(regret)
        self.arrays = tuple(
            kernel_array(array)
            for array in (
                self.cost,
                self.demand,
                self.capacity,
                self.tenant,
                self.quota,
                self.preferred,
                self.choices,
            )
        )
        self.mean_regret = float(np.mean(regret[finite])) if finite.any() else 0.0

    def _reduced_costs(self) -> NDArray[np.float64]:
        """Return (N, M) the costs plus the multipliers of the capacities times the demand.

        The multipliers are found by subgradient steps on the relaxed capacities.
        """
        tasks = np.arange(len(self.cost))
        multiplier = np.zeros(self.capacity.shape)
        divisor = np.maximum(self.capacity, 1.0)
        share = self.demand / divisor
        finite = np.where(np.isfinite(self.cost), self.cost, 0.0)
        step = finite.max() / max(1, len(tasks)) * len(self.capacity)
        value = self.cost
        for k in range(SUBGRADIENT_STEPS):
            value = self.cost + (share * multiplier).sum(axis=2)
            agent = value.argmin(axis=1)
            load = np.zeros(self.capacity.shape)
            np.add.at(load, agent, share[tasks, agent])
            excess = load - self.capacity / divisor
            multiplier = np.maximum(0.0, multiplier + step / (1 + 0.2 * k) * excess)
        return value

    def total(self, agent: Ints) -> float:
        """Return the total cost of an assignment `agent` (N,)."""
        return float(self.cost[np.arange(len(agent)), agent].sum())

    def anneal(
        self, start: Ints, heat: float, rng: np.random.Generator, seconds: float
    ) -> Ints | None:
        """Run simulated annealing once from the assignment `start` (N,), for at most `seconds`.

        `heat` scales the first temperature. Return the best feasible assignment found (N,), or None
        if there is none.
        """
        best = np.full(len(start), -1)
        stop = np.zeros(1, np.bool_)
        timer = None
        if math.isfinite(seconds):
            timer = Timer(max(0.0, seconds), stop.fill, [True])
            timer.start()
        _anneal(
            *self.arrays,
            start.copy(),
            best,
            max(self.mean_regret * 0.2 * heat, 1e-9),
            MOVES_PER_TASK * len(start),
            rng,
            stop,
        )
        if timer is not None:
            timer.cancel()
        return None if best[0] < 0 else best


@compiled(nogil=True)
def _excess(load, demand, sign, limit):
    """Return by how much load + sign * demand exceeds `limit` (R,), summed as shares of it."""
    total = 0.0
    for r in range(len(limit)):
        over = load[r] + sign * demand[r] - limit[r]
        if over > 0:
            total += over / max(limit[r], 1.0)
    return total


@compiled(nogil=True)
def _move(j, to, agent, members, place, size, load, used, demand, tenant):
    """Assign task j to agent `to` and update members, sizes and loads."""
    a = agent[j]
    size[a] -= 1
    last = members[a, size[a]]
    members[a, place[j]], place[last] = last, place[j]
    members[to, size[to]], place[j] = j, size[to]
    size[to] += 1
    agent[j] = to
    for r in range(load.shape[1]):
        load[a, r] -= demand[j, a, r]
        load[to, r] += demand[j, to, r]
        used[tenant[j], r] += demand[j, to, r] - demand[j, a, r]


@compiled(nogil=True)
def _total_excess(load, capacity, used, quota):
    """Return the excess over all capacities and quotas."""
    nothing = np.zeros(load.shape[1])
    total = 0.0
    for a in range(len(load)):
        total += _excess(load[a], nothing, 0.0, capacity[a])
    for t in range(len(used)):
        total += _excess(used[t], nothing, 0.0, quota[t])
    return total


@compiled(nogil=True)
def _excess_change(j, to, agent, load, used, demand, tenant, capacity, quota):
    """Return what shifting task j to agent `to` adds to the total excess."""
    a, t = agent[j], tenant[j]
    change = _excess(load[a], demand[j, a], -1.0, capacity[a]) - _excess(
        load[a], demand[j, a], 0.0, capacity[a]
    )
    change += _excess(load[to], demand[j, to], 1.0, capacity[to]) - _excess(
        load[to], demand[j, to], 0.0, capacity[to]
    )
    for r in range(len(quota[t])):
        after = used[t, r] + demand[j, to, r] - demand[j, a, r]
        limit = max(quota[t, r], 1.0)
        change += (max(0.0, after - quota[t, r]) - max(0.0, used[t, r] - quota[t, r])) / limit
    return change


@compiled(nogil=True)
def _anneal(
    cost,
    demand,
    capacity,
    tenant,
    quota,
    preferred,
    choices,
    agent,
    best,
    temperature,
    moves,
    rng,
    stop,
):
    """Run simulated annealing from the assignment `agent` (N,), which is changed in place.

    Write the cheapest feasible assignment found to `best` (N,); leave it where none was found.
    Another thread ends the run by setting stop[0].
    """
    n, m = cost.shape
    members = np.zeros((m, n), np.int64)  # tasks of each agent, in its first size[a] columns
    place = np.zeros(n, np.int64)  # column of each task in `members`
    size = np.zeros(m, np.int64)
    load = np.zeros(capacity.shape)
    used = np.zeros(quota.shape)
    total = 0.0
    for j in range(n):
        a = agent[j]
        members[a, size[a]], place[j] = j, size[a]
        size[a] += 1
        total += cost[j, a]
        for r in range(load.shape[1]):
            load[a, r] += demand[j, a, r]
            used[tenant[j], r] += demand[j, a, r]
    excess = _total_excess(load, capacity, used, quota)
    penalty = 100.0 * temperature * m
    best_total = np.inf
    if excess == 0.0 and total < np.inf:
        best_total = total
        best[:] = agent
    cooling = COOLING ** (1.0 / moves)
    penalty_rate = PENALTY_RANGE / moves
    for _ in range(moves):
        if stop[0]:
            break
        temperature *= cooling
        penalty *= 1.0 + penalty_rate if excess > 1e-9 else 1.0 - penalty_rate
        j = int(n * rng.random())
        source, to = agent[j], preferred[j, int(choices[j] * rng.random() ** 3)]
        if to == source:
            continue
        k, k_to = -1, source  # the ejected task, -1 for none, and the agent it goes to
        if size[to] and rng.random() < 0.5:
            k = members[to, int(size[to] * rng.random())]
            if rng.random() < 0.5:
                k_to = preferred[k, int(choices[k] * rng.random() ** 3)]
            if k_to == to or cost[k, k_to] == np.inf:
                continue
        change = cost[j, to] - cost[j, source]
        more = _excess_change(j, to, agent, load, used, demand, tenant, capacity, quota)
        if k >= 0:
            _move(j, to, agent, members, place, size, load, used, demand, tenant)
            change += cost[k, k_to] - cost[k, to]
            more += _excess_change(k, k_to, agent, load, used, demand, tenant, capacity, quota)
        rise = change + penalty * more
        if rise > 0 and rng.random() >= np.exp(-rise / temperature):
            if k >= 0:
                _move(j, source, agent, members, place, size, load, used, demand, tenant)
            continue
        if k >= 0:
            _move(k, k_to, agent, members, place, size, load, used, demand, tenant)
        else:
            _move(j, to, agent, members, place, size, load, used, demand, tenant)
        total += change
        excess += more
        if excess < 1e-9 and total < best_total - 1e-9:
            excess = _total_excess(load, capacity, used, quota)
            if excess == 0.0:
                best_total = total
                best[:] = agent
