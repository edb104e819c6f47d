"""The Lagrangian dual of the generalised assignment problem, compiled: one 0/1 knapsack per agent, all in exact integers.

Relaxing "every task has exactly one agent" with multipliers u (N,) leaves min sum_j u_j + sum_a K_a(u), where K_a is the best
knapsack of agent a at reduced costs c_ja - u_j (Fisher, Management Science 27 (1981); Posta, Ferland & Michelon 2012,
doi:10.1007/s10589-011-9432-0). Costs and multipliers are whole numbers (costs times a scale), so every bound is exact:
tables are floats, but hold integers below 2**24 (single) or 2**53 (double precision), where float addition is exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from bench.instance import Ints

EXACT_SINGLE = 2.0**24
LARGEST_MULTIPLIERS = np.int64(
    1 << 52
)  # all multipliers together: beside costs of at most 2**50, sums stay below 2**53
NEVER = np.int64(1 << 60)  # the bound of what is infeasible
PATIENCE = 12  # steps without a rise worth the name until the reach is halved
EXACT_MINIMUM = {"nnan", "nsz", "ninf"}  # lets minima be vectorised; sums are not reordered

Flags = NDArray[np.uint8]


class Core(NamedTuple):
    """The pairs (task, agent) still possible: V of them, ordered by agent."""

    task: Ints  # (V,)
    agent: Ints  # (V,)
    cost: Ints  # (V,) scaled
    use: Ints  # (V,) of the agent's capacity
    agent_start: Ints  # (M + 1,) the pairs of agent a are agent_start[a] : agent_start[a + 1]
    task_start: Ints  # (N + 1,) the pairs of task j are by_task[task_start[j] : task_start[j + 1]]
    by_task: Ints  # (V,)
    capacity: Ints  # (M,)

    @classmethod
    def of(cls, cost: Ints, use: Ints, capacity: Ints, possible: NDArray[np.bool_]) -> Core:
        """From scaled costs (N, M), uses (N, M), capacities (M,) and the pairs that are possible (N, M)."""
        agent, task = np.nonzero(possible.T)
        sizes = np.bincount(agent, minlength=len(capacity)), np.bincount(task, minlength=len(cost))
        starts = [np.concatenate([[0], np.cumsum(size)]) for size in sizes]
        by_task = np.argsort(task, kind="stable")
        return cls(
            task,
            agent,
            cost[task, agent],
            use[task, agent],
            starts[0],
            starts[1],
            by_task,
            capacity,
        )


class Work(NamedTuple):
    """Memory of one thread."""

    single: tuple[
        Any, Any, Any
    ]  # forward and backward table (k + 1, W + 1) and reduced costs (k,), single precision
    double: tuple[Any, Any, Any]  # the same in double precision
    pair: Ints  # (k,) the pairs in the knapsack at hand
    use: Ints  # (k,)
    room: Ints  # (M,) capacity left beside the tasks that have one agent left
    chosen: Flags  # (V,) the relaxed solution
    change: Ints  # (V,) what changing a pair's choice adds to its agent's knapsack
    bound: Ints  # (V,) of the problem with the pair's task on the pair's agent
    gradient: Ints  # (N,)

    @classmethod
    def of(cls, core: Core) -> Work:
        """As much as `core` needs."""
        items = int(np.diff(core.agent_start).max(initial=0))
        shape = (items + 1, int(core.capacity.max(initial=0)) + 1)

        def tables(kind: Any) -> tuple[Any, Any, Any]:
            return np.zeros(shape, kind), np.zeros(shape, kind), np.zeros(items, kind)

        v, n, m = len(core.task), len(core.task_start) - 1, len(core.capacity)
        pair, use, room, change, pair_bound, gradient = (
            np.zeros(size, np.int64) for size in (items, items, m, v, v, n)
        )
        chosen = np.zeros(v, np.uint8)
        return cls(
            tables(np.float32),
            tables(np.float64),
            pair,
            use,
            room,
            chosen,
            change,
            pair_bound,
            gradient,
        )


@numba.njit(cache=True, nogil=True, fastmath=EXACT_MINIMUM)
def _forward(table, items, use, cost, room):
    """table[q, w] = least cost of any of the first q items within w units."""
    for w in range(room + 1):
        table[0, w] = 0
    for q in range(items):
        own, price = use[q], cost[q]
        before, row = table[q], table[q + 1]
        for w in range(own):
            row[w] = before[w]
        with_it, without, best = before[: room + 1 - own], before[own:], row[own:]
        for w in range(room + 1 - own):
            one, other = with_it[w] + price, without[w]
            best[w] = one if one < other else other


@numba.njit(cache=True, nogil=True, fastmath=EXACT_MINIMUM)
def _backward(table, items, use, cost, room):
    """table[q, w] = least cost of any of the items q, q + 1, ... within room - w units."""
    for w in range(room + 1):
        table[items, w] = 0
    for q in range(items - 1, -1, -1):
        own, price = use[q], cost[q]
        after, row = table[q + 1], table[q]
        with_it = after[own:]
        for w in range(room + 1 - own):
            one, other = with_it[w] + price, after[w]
            row[w] = one if one < other else other
        for w in range(room + 1 - own, room + 1):
            row[w] = after[w]


@numba.njit(cache=True, nogil=True, fastmath=EXACT_MINIMUM)
def _least_sum(a, b, size):
    """min_w a[w] + b[w]."""
    best = a[0] + b[0]
    for w in range(1, size):
        one = a[w] + b[w]
        best = one if one < best else best
    return best


@numba.njit(cache=True, nogil=True)
def _knapsack(tables, items, work, room):
    """The best knapsack of the items in work; marks the chosen pairs, returns its cost."""
    table, _, cost = tables
    _forward(table, items, work.use, cost, room)
    left = room
    for q in range(items - 1, -1, -1):
        if table[q + 1, left] != table[q, left]:
            work.chosen[work.pair[q]] = 1
            left -= work.use[q]
    return np.int64(table[items, room])


@numba.njit(cache=True, nogil=True)
def _changes(tables, items, work, room):
    """For every item, what changing its choice adds to the best knapsack; the cost of that."""
    front, back, cost = tables
    _forward(front, items, work.use, cost, room)
    _backward(back, items, work.use, cost, room)
    best = np.int64(front[items, room])
    for q in range(items):
        v, own = work.pair[q], work.use[q]
        if work.chosen[v]:
            work.change[v] = np.int64(_least_sum(front[q], back[q + 1], room + 1)) - best
        else:
            forced = np.int64(_least_sum(front[q], back[q + 1][own:], room + 1 - own))
            work.change[v] = forced + np.int64(cost[q]) - best
    return best


@numba.njit(cache=True, nogil=True)
def _gather(core, u, alive, count, work, a, room):
    """Collect the pairs of agent a with negative reduced cost; their number, total use and total reduced cost."""
    items, units, total = 0, 0, 0
    single, double = work.single[2], work.double[2]
    for v in range(core.agent_start[a], core.agent_start[a + 1]):
        j = core.task[v]
        if alive[v] and count[j] > 1 and core.use[v] <= room:
            reduced = core.cost[v] - u[j]
            if reduced < 0:
                work.pair[items], work.use[items] = v, core.use[v]
                single[items], double[items] = reduced, reduced
                items += 1
                units += core.use[v]
                total += reduced
    return items, units, total


@numba.njit(cache=True, nogil=True)
def bound(core, u, alive, count, work):
    """L(u) over the pairs alive (V,); `count` (N,) agents are left to each task. Fills work.chosen and work.room.

    Tasks with a single agent left are on it, whatever u says. NEVER where they do not fit.
    """
    total = np.int64(0)
    for j in range(len(u)):
        if count[j] > 1:
            total += u[j]
    for a in range(len(core.capacity)):
        room = core.capacity[a]
        for v in range(core.agent_start[a], core.agent_start[a + 1]):
            work.chosen[v] = 0
            if alive[v] and count[core.task[v]] == 1:
                work.chosen[v] = 1
                room -= core.use[v]
                total += core.cost[v]
        work.room[a] = room
        if room < 0:
            return NEVER
        items, units, cost = _gather(core, u, alive, count, work, a, room)
        if units <= room:
            for q in range(items):
                work.chosen[work.pair[q]] = 1
            total += cost
        elif -cost < EXACT_SINGLE:
            total += _knapsack(work.single, items, work, room)
        else:
            total += _knapsack(work.double, items, work, room)
    return total


@numba.njit(cache=True, nogil=True)
def pair_bounds(core, u, alive, count, work, value):
    """After `bound` gave `value`: work.bound (V,) of the problem in which the pair's task is on the pair's agent.

    Forcing task j onto agent a takes it into a's knapsack and out of every other one. Agents do not interact, so the changes
    add up: at least as strong as fixing by one knapsack at a time (Posta et al. 2012, section 3), and free of u_j.
    """
    for a in range(len(core.capacity)):
        room = work.room[a]
        items, _, total = _gather(core, u, alive, count, work, a, room)
        single = -total < EXACT_SINGLE
        best = (
            _changes(work.single, items, work, room)
            if single
            else _changes(work.double, items, work, room)
        )
        for v in range(core.agent_start[a], core.agent_start[a + 1]):
            j = core.task[v]
            if alive[v] and count[j] > 1:
                reduced = core.cost[v] - u[j]
                if core.use[v] > room:
                    work.change[v] = NEVER
                elif reduced >= 0:
                    left = room - core.use[v]
                    rest = work.single[0][items, left] if single else work.double[0][items, left]
                    work.change[v] = reduced + np.int64(rest) - best
    for j in range(len(u)):
        out = np.int64(0)  # of taking j out of every knapsack that chose it
        for p in range(core.task_start[j], core.task_start[j + 1]):
            v = core.by_task[p]
            if count[j] == 1:
                work.change[v] = 0
            if alive[v] and work.chosen[v]:
                out += work.change[v]
        for p in range(core.task_start[j], core.task_start[j + 1]):
            v = core.by_task[p]
            if alive[v]:
                work.bound[v] = (
                    value + out + (-work.change[v] if work.chosen[v] else work.change[v])
                )


@numba.njit(cache=True, nogil=True)
def drop_pairs(core, alive, count, work, limit):
    """Remove the pairs whose bound is above `limit`; how many, or -1 where a task has no agent left."""
    dropped = 0
    for j in range(len(count)):
        if count[j] > 1:
            for p in range(core.task_start[j], core.task_start[j + 1]):
                v = core.by_task[p]
                if alive[v] and work.bound[v] > limit:
                    alive[v] = 0
                    count[j] -= 1
                    dropped += 1
            if count[j] == 0:
                return -1
    return dropped


@numba.njit(cache=True, nogil=True)
def ascend(core, u, count, work, value, target):
    """One subgradient step (Polyak 1969) from `value` towards `target`; False where the relaxed solution is feasible."""
    norm = 0
    for j in range(len(u)):
        work.gradient[j] = 1 if count[j] > 1 else 0
    for v in range(len(core.task)):
        if work.chosen[v] and count[core.task[v]] > 1:
            work.gradient[core.task[v]] -= 1
    for j in range(len(u)):
        norm += work.gradient[j] ** 2
    if norm == 0:
        return False
    step, most = max(1.0, (target - value) / norm), LARGEST_MULTIPLIERS // len(u)
    for j in range(len(u)):
        u[j] = min(max(u[j] + np.int64(step * work.gradient[j]), -most), most)
    return True


@numba.njit(cache=True, nogil=True)
def maximise(core, u, alive, count, work, reach, smallest, steps):
    """Raise L(u) by subgradient steps towards the best value + `reach`, which is halved whenever that stalls.

    Changes u (N,) to the best multipliers found and returns their L(u) and the reach left, below `smallest` where it is done.
    """
    best, best_u, stalled = -NEVER, u.copy(), 0
    for _ in range(steps):
        value = bound(core, u, alive, count, work)
        if value > best:
            if value - best > reach // 4:
                stalled = 0
            best = value
            best_u[:] = u
        stalled += 1
        if stalled >= PATIENCE:
            stalled, reach = 0, reach // 2
            u[:] = best_u
            value = bound(core, u, alive, count, work)
        if reach < smallest:
            break
        if not ascend(core, u, count, work, value, best + reach):
            reach = 0
            break
    u[:] = best_u
    return best, reach
