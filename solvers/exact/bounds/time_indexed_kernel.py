"""The kernels of the time-indexed bounds.

The same code runs in floats, to find good multipliers, and in integers, to prove a bound exactly.
Sizes: N tasks j, G pools of agents g, R resources r, U tenants, K intervals of a grid of ticks.
"""

from __future__ import annotations

import numpy as np

from bench.compiled import compiled

FAR = 2**61  # a tick that never comes: ends a pool's list of outages; the first start of no starts


@compiled(nogil=True)
def solve_subproblems(
    grid,
    capacity_multipliers,
    quota_multipliers,
    task_multipliers,
    duration,
    demand,
    release,
    tenant,
    outages,
    costs,
    origin,
    limit,
):
    """Return the least cost of every task over all pools and starts; exact in integers.

    The cost of a task at start t is max(costs[j, 0] * (t + p - origin_j), costs[j, 1]) plus its
    multipliers over [t, t + p): those of the units it holds and, where there are any, its own
    (N, G, K). Returns the least cost, its pool and its start, each (N,), and per pool the first and
    last start whose cost is at most limit (N,), each (N, G).
    """
    n, pools = duration.shape
    k = len(grid) - 1
    least = np.empty(n, capacity_multipliers.dtype)
    pool, start = np.full(n, -1), np.zeros(n, np.int64)
    first, last = np.full((n, pools), FAR), np.full((n, pools), -1)
    # multipliers of the task per tick of each interval, and their sum up to each grid tick
    rate = np.zeros(k + 1, capacity_multipliers.dtype)
    total = np.zeros(k + 1, capacity_multipliers.dtype)
    for j in range(n):
        for g in range(pools):
            if duration[j, g] < 0:
                continue
            rate[:] = 0
            for r in range(demand.shape[2]):
                if demand[j, g, r]:
                    for i in range(k):
                        rate[i] += demand[j, g, r] * capacity_multipliers[g, r, i]
                    if len(quota_multipliers):
                        for i in range(k):
                            rate[i] += demand[j, g, r] * quota_multipliers[tenant[j], r, i]
            if len(task_multipliers):
                for i in range(k):
                    rate[i] += task_multipliers[j, g, i]
            for i in range(k):
                total[i + 1] = total[i] + rate[i] * (grid[i + 1] - grid[i])
            t = release[j]
            for o in range(outages.shape[1]):
                stop = outages[g, o, 0] - duration[j, g]  # last start before this outage
                if t <= stop:
                    end = min(stop, max(t, grid[k]))
                    slope, least_term = costs[j, 0], costs[j, 1]
                    best, at, low, high = scan_starts(
                        grid,
                        rate,
                        total,
                        t,
                        end,
                        stop,
                        duration[j, g],
                        slope,
                        least_term,
                        origin[j],
                        limit[j],
                    )
                    if pool[j] < 0 or best < least[j]:
                        least[j], pool[j], start[j] = best, g, at
                    first[j, g] = min(first[j, g], low)
                    last[j, g] = max(last[j, g], high)
                if outages[g, o, 0] == FAR:
                    break
                t = max(t, outages[g, o, 1])
    return least, pool, start, first, last


@compiled(nogil=True)
def scan_starts(grid, rate, total, begin, end, stop, duration, slope, least_term, origin, limit):
    """Return the least cost over starts [begin, end], its start, and the starts that cost <= limit.

    The latter are the first and the last start in [begin, stop] whose cost is at most `limit`. Cost
    is linear between the starts at which the start or the end meets the grid or the term exceeds
    `least_term`, so only those starts are examined. Multipliers are never negative: once the term
    alone exceeds both the least cost and `limit`, no later start is better. After `end` the cost
    never falls.
    """
    k = len(grid) - 1
    kink = FAR  # the last start at which the term is `least_term`
    if slope > 0:
        kink = origin + np.int64(least_term // slope) - duration
    t = begin
    # the intervals of the start and of the end
    a = min(max(np.searchsorted(grid, t, side="right") - 1, 0), k)
    b = min(max(np.searchsorted(grid, t + duration, side="right") - 1, 0), k)
    least, at = max(slope * (t + duration - origin), least_term), t
    low, high = FAR, -1
    before, cost_before = t, least
    while True:
        term = max(slope * (t + duration - origin), least_term)
        cost = (
            term
            + total[b]
            + rate[b] * (t + duration - grid[b])
            - total[a]
            - rate[a] * (t - grid[a])
        )
        if t == begin or cost < least:
            least, at = cost, t
        if cost <= limit:
            if low == FAR:
                low = t
                if t != begin:
                    low = limit_crossing(before, t, cost_before, cost, limit)
            high = t
        elif t > begin and cost_before <= limit:
            high = limit_crossing(before, t, cost_before, cost, limit)
        if t >= end:
            if cost <= limit:
                high = stop
            break
        if term > least and term > limit:
            break
        before, cost_before = t, cost
        t = end
        if a < k:
            t = min(t, grid[a + 1])
        if b < k:
            t = min(t, grid[b + 1] - duration)
        if before < kink:
            t = min(t, kink)
        elif before == kink:
            t = min(t, kink + 1)
        while a < k and grid[a + 1] <= t:
            a += 1
        while b < k and grid[b + 1] <= t + duration:
            b += 1
    return least, at, low, high


@compiled(nogil=True)
def limit_crossing(before, after, cost_before, cost_after, limit):
    """Return the start at which the cost, linear from `before` to `after`, crosses `limit`.

    Where the cost falls: the first start in (before, after] with cost <= limit. Where it rises: the
    last such start in [before, after).
    """
    slope = (cost_after - cost_before) // (after - before)
    if cost_after <= limit:
        return after - np.int64((limit - cost_after) // -slope)
    return before + np.int64((limit - cost_before) // slope)


@compiled(nogil=True)
def add_usage(grid, duration, demand, tenant, pool, start, used, quota_used):
    """Add the unit-ticks held in every interval to used (G, R, K) and quota_used (U, R, K)."""
    k = len(grid) - 1
    for j in range(len(pool)):
        g, begin, end = pool[j], start[j], start[j] + duration[j, pool[j]]
        i = min(max(np.searchsorted(grid, begin, side="right") - 1, 0), k)
        while i < k and grid[i] < end:
            ticks = float(min(end, grid[i + 1]) - max(begin, grid[i]))  # products may exceed int64
            for r in range(used.shape[1]):
                used[g, r, i] += demand[j, g, r] * ticks
                if len(quota_used):
                    quota_used[tenant[j], r, i] += demand[j, g, r] * ticks
            i += 1


@compiled(nogil=True)
def add_task_ticks(grid, duration, pool, start, ticks):
    """Add to ticks (N, G, K) how long each task runs in each interval."""
    k = len(grid) - 1
    for j in range(len(pool)):
        begin, end = start[j], start[j] + duration[j, pool[j]]
        i = min(max(np.searchsorted(grid, begin, side="right") - 1, 0), k)
        while i < k and grid[i] < end:
            ticks[j, pool[j], i] += min(end, grid[i + 1]) - max(begin, grid[i])
            i += 1


@compiled(nogil=True)
def solve_knapsacks(
    grid, multipliers, sizes, capacity, release, duration, ticks, values, available
):
    """Set values (G, K): the largest total of multipliers of tasks that run on an agent together.

    A knapsack with two sizes by dynamic programming: task j has sizes[j, g], an agent of pool g has
    capacity[g]. Only tasks released before an interval ends run in it. For each task in the best
    set, available (G, K) is subtracted from ticks (N, G, K).
    """
    n, pools, intervals = multipliers.shape
    for g in range(pools):
        high, wide = capacity[g, 0] + 1, capacity[g, 1] + 1
        best = np.zeros((high, wide), multipliers.dtype)
        taken = np.zeros((n, high, wide), np.bool_)
        chosen = np.zeros(n, np.int64)
        for i in range(intervals):
            count = 0
            for j in range(n):
                positive = multipliers[j, g, i] > 0
                if duration[j, g] > 0 and positive and release[j] < grid[i + 1]:
                    chosen[count] = j
                    count += 1
            best[:] = 0
            for c in range(count):
                j = chosen[c]
                u, v, gain = sizes[j, g, 0], sizes[j, g, 1], multipliers[j, g, i]
                for a in range(high - 1, u - 1, -1):
                    for b in range(wide - 1, v - 1, -1):
                        taken[c, a, b] = best[a - u, b - v] + gain > best[a, b]
                        if taken[c, a, b]:
                            best[a, b] = best[a - u, b - v] + gain
            values[g, i] = best[high - 1, wide - 1]
            a, b = high - 1, wide - 1
            for c in range(count - 1, -1, -1):
                u, v = sizes[chosen[c], g, 0], sizes[chosen[c], g, 1]
                if a >= u and b >= v and taken[c, a, b]:
                    ticks[chosen[c], g, i] -= available[g, i]
                    a, b = a - u, b - v
