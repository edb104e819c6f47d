"""Local search for generalised assignments: shifts, swaps and ejection chains under simulated annealing, compiled.

A move shifts a task to another agent; one of two moves also ejects a task from there, to the agent that was left (a swap) or
to a third one (a chain). Capacities and quotas may be exceeded at a price that follows the search (strategic oscillation, as
in Yagiura, Ibaraki & Glover, INFORMS J. Computing 16 (2004), EJOR 169 (2006)): it rises while something is exceeded, else it
falls.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray

from bench.instance import Instance, Ints
from bench.left_shift import fits_alone
from bench.schedule import Schedule
from solvers.exact.assignment import pair_costs

MOVES = 2000  # per task and round
COOLING = 1e-3  # the last temperature of a round, as a share of the first
OSCILLATION = 100.0  # e-folds that the price of what is exceeded could rise or fall in a round
PRICE_STEPS = 200


def improve(
    instance: Instance,
    first: Schedule | None,
    seconds: float,
    rng: np.random.Generator,
    found: Callable[[Schedule], None] | None = None,
) -> Schedule | None:
    """The best feasible assignment met in `seconds` (one round at least), never worse than `first`; None where none was met.

    `first`: feasible, or None. `found` is told of every better one.
    """
    began, problem = time.perf_counter(), _Problem(instance)
    best, best_cost = None, np.inf
    if first is not None:
        best = np.empty(instance.n_tasks, np.int64)
        best[first.task] = first.agent
        best_cost = problem.total(best)
    rounds = 0
    while rounds == 0 or time.perf_counter() - began < seconds:
        start = problem.preferred[:, 0] if best is None else best
        value = problem.anneal(start, 0.5 ** (rounds % 5), rng)
        rounds += 1
        if value is not None and problem.total(value) < best_cost:
            best, best_cost = value, problem.total(value)
            if found is not None:
                found(Schedule.from_assignment(instance, best))
    return None if best is None else Schedule.from_assignment(instance, best)


class _Problem:
    """An instance as the compiled search sees it."""

    def __init__(self, instance: Instance) -> None:
        n = instance.n_tasks
        possible = np.array([fits_alone(instance, j) for j in range(n)])
        self.cost = np.where(possible, pair_costs(instance).astype(np.float64), np.inf)  # (N, M)
        self.demand = instance.demand[:, instance.agent_type].astype(np.float64)  # (N, M, R)
        self.capacity = instance.capacity.astype(np.float64)  # (M, R)
        unlimited = np.full((1, instance.n_resources), np.inf)
        self.tenant = np.zeros(n, np.int64) if instance.quota is None else instance.tenant
        self.quota = (
            unlimited if instance.quota is None else instance.quota.astype(np.float64)
        )  # (U, R)
        value = self._reduced_costs()
        self.preferred = np.argsort(value, axis=1, kind="stable")  # (N, M) agents, best first
        self.choices = possible.sum(axis=1)  # (N,) of them can run the task
        ordered = np.sort(value, axis=1)[:, : min(2, value.shape[1])]
        regret = ordered[:, -1] - ordered[:, 0]
        self.heat = (
            float(np.mean(regret[np.isfinite(regret)])) if np.isfinite(regret).any() else 0.0
        )

    def _reduced_costs(self) -> NDArray[np.float64]:
        """(N, M) costs plus prices of capacity, found by subgradient steps on the relaxed capacities."""
        n, price = np.arange(len(self.cost)), np.zeros(self.capacity.shape)
        room = np.maximum(self.capacity, 1.0)
        share = self.demand / room
        finite = np.where(np.isfinite(self.cost), self.cost, 0.0)
        step = finite.max() / max(1, len(n)) * len(self.capacity)
        value = self.cost
        for k in range(PRICE_STEPS):
            value = self.cost + (share * price).sum(axis=2)
            agent = value.argmin(axis=1)
            load = np.zeros(self.capacity.shape)
            np.add.at(load, agent, share[n, agent])
            price = np.maximum(0.0, price + step / (1 + 0.2 * k) * (load - self.capacity / room))
        return value

    def total(self, agent: Ints) -> float:
        """The cost of agents (N,)."""
        return float(self.cost[np.arange(len(agent)), agent].sum())

    def anneal(self, start: Ints, heat: float, rng: np.random.Generator) -> Ints | None:
        """One round from `start` (N,): the best feasible agents met, None without any."""
        best, moves = np.full(len(start), -1), MOVES * len(start)
        temperature = max(self.heat * 0.2 * heat, 1e-9)
        _anneal(
            self.cost, self.demand, self.capacity, self.tenant, self.quota, self.preferred, self.choices, start.copy(), best,
            temperature, moves, rng,
        )  # fmt: skip
        return None if best[0] < 0 else best


@numba.njit(cache=True, nogil=True)
def _excess(load, demand, sign, limit):
    """Shares of the limits (R,) that load + sign * demand exceeds, summed."""
    total = 0.0
    for r in range(len(limit)):
        over = load[r] + sign * demand[r] - limit[r]
        if over > 0:
            total += over / max(limit[r], 1.0)
    return total


@numba.njit(cache=True, nogil=True)
def _move(j, to, agent, members, place, size, load, used, demand, tenant):
    """Task j goes to agent `to`; members, sizes and loads follow."""
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


@numba.njit(cache=True, nogil=True)
def _all_excess(load, capacity, used, quota):
    nothing = np.zeros(load.shape[1])
    total = 0.0
    for a in range(len(load)):
        total += _excess(load[a], nothing, 0.0, capacity[a])
    for t in range(len(used)):
        total += _excess(used[t], nothing, 0.0, quota[t])
    return total


@numba.njit(cache=True, nogil=True)
def _shift_change(j, to, agent, load, used, demand, tenant, capacity, quota):
    """What shifting task j to agent `to` adds to all that is exceeded."""
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


@numba.njit(cache=True, nogil=True)
def _anneal(
    cost, demand, capacity, tenant, quota, preferred, choices, agent, best, temperature, moves, rng
):
    """Simulated annealing from `agent` (N,), changed in place; `best` (N,) becomes the cheapest feasible agents met."""
    n, m = cost.shape
    members, place, size = np.zeros((m, n), np.int64), np.zeros(n, np.int64), np.zeros(m, np.int64)
    load, used = np.zeros(capacity.shape), np.zeros(quota.shape)
    total = 0.0
    for j in range(n):
        a = agent[j]
        members[a, size[a]], place[j] = j, size[a]
        size[a] += 1
        total += cost[j, a]
        for r in range(load.shape[1]):
            load[a, r] += demand[j, a, r]
            used[tenant[j], r] += demand[j, a, r]
    excess, price, best_total = (
        _all_excess(load, capacity, used, quota),
        100.0 * temperature * m,
        np.inf,
    )
    if excess == 0.0 and total < np.inf:
        best_total = total
        best[:] = agent
    cooling = COOLING ** (1.0 / moves)
    swing = OSCILLATION / moves
    for _ in range(moves):
        temperature *= cooling
        price *= 1.0 + swing if excess > 1e-9 else 1.0 - swing
        j = int(n * rng.random())
        was, to = agent[j], preferred[j, int(choices[j] * rng.random() ** 3)]
        if to == was:
            continue
        k, then = -1, was
        if size[to] and rng.random() < 0.5:
            k = members[to, int(size[to] * rng.random())]
            if rng.random() < 0.5:
                then = preferred[k, int(choices[k] * rng.random() ** 3)]
            if then == to or cost[k, then] == np.inf:
                continue
        change = cost[j, to] - cost[j, was]
        more = _shift_change(j, to, agent, load, used, demand, tenant, capacity, quota)
        if k >= 0:
            _move(j, to, agent, members, place, size, load, used, demand, tenant)
            change += cost[k, then] - cost[k, to]
            more += _shift_change(k, then, agent, load, used, demand, tenant, capacity, quota)
        rise = change + price * more
        if rise > 0 and rng.random() >= np.exp(-rise / temperature):
            if k >= 0:
                _move(j, was, agent, members, place, size, load, used, demand, tenant)
            continue
        if k >= 0:
            _move(k, then, agent, members, place, size, load, used, demand, tenant)
        else:
            _move(j, to, agent, members, place, size, load, used, demand, tenant)
        total += change
        excess += more
        if excess < 1e-9 and total < best_total - 1e-9:
            excess = _all_excess(load, capacity, used, quota)
            if excess == 0.0:
                best_total = total
                best[:] = agent
