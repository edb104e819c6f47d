"""The Lagrangian dual of the generalised assignment problem, compiled, in exact integers.

Relaxing "every task has exactly one agent" with multipliers u (N,) leaves one 0/1 knapsack problem
per agent:

    L(u) = sum_j u_j + sum_a K_a(u),

where K_a(u) <= 0 is the least total reduced cost c_ja - u_j of any set of tasks that fits the
capacity of agent a (Fisher, Management Science 27 (1981), doi:10.1287/mnsc.27.1.1; Posta, Ferland &
Michelon 2012, doi:10.1007/s10589-011-9432-0). L(u) is a lower bound for every u.

Costs and multipliers are integers (the original costs times a scale), so every bound is exact. The
knapsack tables are floats, but hold integers below 2**24 (single precision) or 2**53 (double
precision), where float addition is exact.

Notation: N tasks, M agents, V candidate pairs (task, agent), k items of a knapsack, W its capacity.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.compiled import compiled, kernel_array
from bench.instance import Ints

EXACT_SINGLE = 2.0**24  # single precision holds all integers up to here
# Limit of the sum of all multipliers: together with costs of at most 2**50, sums stay below 2**53.
LARGEST_MULTIPLIERS = np.int64(1 << 52)
INFEASIBLE = np.int64(1 << 60)  # the bound of an infeasible problem
PATIENCE = 12  # subgradient steps without a marked improvement until the target gap is halved
EXACT_MINIMUM = {"nnan", "nsz", "ninf"}  # lets minima be vectorised; sums are not reordered

Flags = NDArray[np.uint8]


class CandidatePairs(NamedTuple):
    """The V pairs (task, agent) that a solution may use, ordered by agent."""

    task: Ints  # (V,)
    agent: Ints  # (V,)
    cost: Ints  # (V,) scaled
    use: Ints  # (V,) units of the agent's capacity
    agent_start: Ints  # (M + 1,) pairs of agent a: agent_start[a] : agent_start[a + 1]
    task_start: Ints  # (N + 1,) pairs of task j: by_task[task_start[j] : task_start[j + 1]]
    by_task: Ints  # (V,) indices of the pairs, ordered by task
    capacity: Ints  # (M,)

    @classmethod
    def from_mask(
        cls, cost: Ints, use: Ints, capacity: Ints, candidates: NDArray[np.bool_]
    ) -> CandidatePairs:
        """Collect the pairs for which `candidates` (N, M) is true.

        Parameters
        ----------
        cost, use
            Scaled costs and capacity uses, each (N, M).
        capacity
            Capacities (M,).
        candidates
            Boolean mask (N, M).
        """
        agent, task = np.nonzero(candidates.T)
        agent_sizes = np.bincount(agent, minlength=len(capacity))
        task_sizes = np.bincount(task, minlength=len(cost))
        return cls(
            kernel_array(task),
            kernel_array(agent),
            cost[task, agent],
            use[task, agent],
            np.concatenate([[0], np.cumsum(agent_sizes)]),
            np.concatenate([[0], np.cumsum(task_sizes)]),
            np.argsort(task, kind="stable"),
            kernel_array(capacity),
        )


class DualWorkspace(NamedTuple):
    """Arrays that the functions below write to; one workspace per thread."""

    # Forward and backward knapsack table (k + 1, W + 1) and reduced costs (k,) of the items.
    single: tuple[Any, Any, Any]  # in single precision
    double: tuple[Any, Any, Any]  # in double precision
    pair: Ints  # (k,) index of the pair that each item of the current knapsack stands for
    use: Ints  # (k,) capacity use of each item
    room: Ints  # (M,) capacity that the tasks with a single agent left leave free
    chosen: Flags  # (V,) solution of the relaxed problem
    change: Ints  # (V,) increase of the agent's knapsack cost if the pair's choice is reversed
    pair_bound: Ints  # (V,) lower bound if the pair's task is assigned to the pair's agent
    gradient: Ints  # (N,) subgradient of L

    @classmethod
    def for_pairs(cls, pairs: CandidatePairs) -> DualWorkspace:
        """Allocate a workspace large enough for `pairs`."""
        items = int(np.diff(pairs.agent_start).max(initial=0))
        shape = (items + 1, int(pairs.capacity.max(initial=0)) + 1)
        v = len(pairs.task)

        def tables(kind: Any) -> tuple[Any, Any, Any]:
            return np.zeros(shape, kind), np.zeros(shape, kind), np.zeros(items, kind)

        return cls(
            single=tables(np.float32),
            double=tables(np.float64),
            pair=np.zeros(items, np.int64),
            use=np.zeros(items, np.int64),
            room=np.zeros(len(pairs.capacity), np.int64),
            chosen=np.zeros(v, np.uint8),
            change=np.zeros(v, np.int64),
            pair_bound=np.zeros(v, np.int64),
            gradient=np.zeros(len(pairs.task_start) - 1, np.int64),
        )


# -- knapsack tables ---------------------------------------------------------------------------


@compiled(nogil=True, fastmath=EXACT_MINIMUM)
def _fill_forward(table, items, use, cost, room):
    """Set table[q, w] to the least cost of any subset of the first q items within w units."""
    for w in range(room + 1):
        table[0, w] = 0
    for q in range(items):
        units, item_cost = use[q], cost[q]
        before, row = table[q], table[q + 1]
        for w in range(units):
            row[w] = before[w]
        with_item, without, best = before[: room + 1 - units], before[units:], row[units:]
        for w in range(room + 1 - units):
            taken, left_out = with_item[w] + item_cost, without[w]
            best[w] = taken if taken < left_out else left_out


@compiled(nogil=True, fastmath=EXACT_MINIMUM)
def _fill_backward(table, items, use, cost, room):
    """Set table[q, w] to the least cost of any subset of items q, q + 1, ... in room - w units."""
    for w in range(room + 1):
        table[items, w] = 0
    for q in range(items - 1, -1, -1):
        units, item_cost = use[q], cost[q]
        after, row = table[q + 1], table[q]
        with_item = after[units:]
        for w in range(room + 1 - units):
            taken, left_out = with_item[w] + item_cost, after[w]
            row[w] = taken if taken < left_out else left_out
        for w in range(room + 1 - units, room + 1):
            row[w] = after[w]


@compiled(nogil=True, fastmath=EXACT_MINIMUM)
def _least_sum(a, b, size):
    """Return min_w a[w] + b[w]."""
    best = a[0] + b[0]
    for w in range(1, size):
        candidate = a[w] + b[w]
        best = candidate if candidate < best else best
    return best


@compiled(nogil=True)
def _solve_knapsack(tables, items, work, room):
    """Solve the knapsack of the items in `work`: mark the chosen pairs, return its cost."""
    table, _, cost = tables
    _fill_forward(table, items, work.use, cost, room)
    left = room
    for q in range(items - 1, -1, -1):
        if table[q + 1, left] != table[q, left]:
            work.chosen[work.pair[q]] = 1
            left -= work.use[q]
    return np.int64(table[items, room])


@compiled(nogil=True)
def _choice_changes(tables, items, work, room):
    """Write to work.change what reversing the choice of each item adds to the knapsack's cost.

    Return the cost of the optimal knapsack.
    """
    front, back, cost = tables
    _fill_forward(front, items, work.use, cost, room)
    _fill_backward(back, items, work.use, cost, room)
    best = np.int64(front[items, room])
    for q in range(items):
        v, units = work.pair[q], work.use[q]
        if work.chosen[v]:
            work.change[v] = np.int64(_least_sum(front[q], back[q + 1], room + 1)) - best
        else:
            forced = np.int64(_least_sum(front[q], back[q + 1][units:], room + 1 - units))
            work.change[v] = forced + np.int64(cost[q]) - best
    return best


@compiled(nogil=True)
def _gather_items(pairs, u, active, count, work, a, room):
    """Collect the pairs of agent a that have a negative reduced cost as items of its knapsack.

    Return their number, total use and total reduced cost.
    """
    items, units, total = 0, 0, 0
    single, double = work.single[2], work.double[2]
    for v in range(pairs.agent_start[a], pairs.agent_start[a + 1]):
        j = pairs.task[v]
        if active[v] and count[j] > 1 and pairs.use[v] <= room:
            reduced = pairs.cost[v] - u[j]
            if reduced < 0:
                work.pair[items], work.use[items] = v, pairs.use[v]
                single[items], double[items] = reduced, reduced
                items += 1
                units += pairs.use[v]
                total += reduced
    return items, units, total


# -- bounds ------------------------------------------------------------------------------------


@compiled(nogil=True)
def lagrangian_bound(pairs, u, active, count, work):
    """Return L(u) over the active pairs; write the relaxed solution to work.chosen and work.room.

    Parameters
    ----------
    pairs : CandidatePairs
    u : (N,) multipliers
    active : (V,) flags of the pairs that are not fixed to 0
    count : (N,) number of active pairs of each task
        A task with a single agent left is assigned to it, whatever its multiplier.
    work : DualWorkspace

    Returns
    -------
    int64
        The bound, scaled; INFEASIBLE where the tasks with a single agent exceed a capacity.
    """
    total = np.int64(0)
    for j in range(len(u)):
        if count[j] > 1:
            total += u[j]
    for a in range(len(pairs.capacity)):
        room = pairs.capacity[a]
        for v in range(pairs.agent_start[a], pairs.agent_start[a + 1]):
            work.chosen[v] = 0
            if active[v] and count[pairs.task[v]] == 1:
                work.chosen[v] = 1
                room -= pairs.use[v]
                total += pairs.cost[v]
        work.room[a] = room
        if room < 0:
            return INFEASIBLE
        items, units, cost = _gather_items(pairs, u, active, count, work, a, room)
        if units <= room:
            for q in range(items):
                work.chosen[work.pair[q]] = 1
            total += cost
        elif -cost < EXACT_SINGLE:
            total += _solve_knapsack(work.single, items, work, room)
        else:
            total += _solve_knapsack(work.double, items, work, room)
    return total


@compiled(nogil=True)
def pair_bounds(pairs, u, active, count, work, value):
    """Write to work.pair_bound (V,) a lower bound with each pair's task on the pair's agent.

    Call it after `lagrangian_bound` returned `value` for the same arguments.

    Forcing task j onto agent a puts it into the knapsack of a and takes it out of all others. The
    knapsacks do not interact, so the changes add up. This is at least as strong as variable fixing
    by one knapsack at a time (Posta et al. 2012, section 3) and does not depend on u_j.
    """
    for a in range(len(pairs.capacity)):
        room = work.room[a]
        items, _, total = _gather_items(pairs, u, active, count, work, a, room)
        single = -total < EXACT_SINGLE
        best = (
            _choice_changes(work.single, items, work, room)
            if single
            else _choice_changes(work.double, items, work, room)
        )
        for v in range(pairs.agent_start[a], pairs.agent_start[a + 1]):
            j = pairs.task[v]
            if active[v] and count[j] > 1:
                reduced = pairs.cost[v] - u[j]
                if pairs.use[v] > room:
                    work.change[v] = INFEASIBLE
                elif reduced >= 0:
                    left = room - pairs.use[v]
                    rest = work.single[0][items, left] if single else work.double[0][items, left]
                    work.change[v] = reduced + np.int64(rest) - best
    for j in range(len(u)):
        removal = np.int64(0)  # increase by taking j out of every knapsack that chose it
        for p in range(pairs.task_start[j], pairs.task_start[j + 1]):
            v = pairs.by_task[p]
            if count[j] == 1:
                work.change[v] = 0
            if active[v] and work.chosen[v]:
                removal += work.change[v]
        for p in range(pairs.task_start[j], pairs.task_start[j + 1]):
            v = pairs.by_task[p]
            if active[v]:
                work.pair_bound[v] = (
                    value + removal + (-work.change[v] if work.chosen[v] else work.change[v])
                )


@compiled(nogil=True)
def fix_variables(pairs, active, count, work, limit):
    """Fix to 0 every pair whose bound is above `limit`, by the bounds in work.pair_bound.

    Change `active` (V,) and `count` (N,). Return the number of pairs fixed, or -1 where a task has
    no agent left.
    """
    fixed = 0
    for j in range(len(count)):
        if count[j] > 1:
            for p in range(pairs.task_start[j], pairs.task_start[j + 1]):
                v = pairs.by_task[p]
                if active[v] and work.pair_bound[v] > limit:
                    active[v] = 0
                    count[j] -= 1
                    fixed += 1
            if count[j] == 0:
                return -1
    return fixed


# -- dual ascent -------------------------------------------------------------------------------


@compiled(nogil=True)
def subgradient_step(pairs, u, count, work, value, target):
    """Change u (N,) by one subgradient step with Polyak's step size (Polyak 1969).

    The step size is (target - value) / |gradient|^2, at least 1; `value` is L(u), and work.chosen
    its relaxed solution. Return False, and leave u, where that solution is feasible.
    """
    norm = 0
    for j in range(len(u)):
        work.gradient[j] = 1 if count[j] > 1 else 0
    for v in range(len(pairs.task)):
        if work.chosen[v] and count[pairs.task[v]] > 1:
            work.gradient[pairs.task[v]] -= 1
    for j in range(len(u)):
        norm += work.gradient[j] ** 2
    if norm == 0:
        return False
    step, most = max(1.0, (target - value) / norm), LARGEST_MULTIPLIERS // len(u)
    for j in range(len(u)):
        u[j] = min(max(u[j] + np.int64(step * work.gradient[j]), -most), most)
    return True


@compiled(nogil=True)
def maximise_dual(pairs, u, active, count, work, gap, smallest_gap, steps):
    """Maximise L(u) by at most `steps` subgradient steps.

    Each step aims at the best value found + `gap`; after PATIENCE steps without a marked
    improvement the gap is halved. It stops when the gap falls below `smallest_gap` or the relaxed
    solution is feasible, which proves u optimal.

    Change u (N,) to the best multipliers found. Return their L(u) and the remaining gap, which is
    below `smallest_gap` when the ascent has converged.
    """
    best, best_u, stalled = -INFEASIBLE, u.copy(), 0
    for _ in range(steps):
        value = lagrangian_bound(pairs, u, active, count, work)
        if value > best:
            if value - best > gap // 4:
                stalled = 0
            best = value
            best_u[:] = u
        stalled += 1
        if stalled >= PATIENCE:
            stalled, gap = 0, gap // 2
            u[:] = best_u
            value = lagrangian_bound(pairs, u, active, count, work)
        if gap < smallest_gap:
            break
        if not subgradient_step(pairs, u, count, work, value, best + gap):
            gap = 0
            break
    u[:] = best_u
    return best, gap
