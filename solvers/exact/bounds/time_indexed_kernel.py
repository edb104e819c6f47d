"""The kernels of the time-indexed bounds: the same code in floats, to search for prices, and in integers, to prove."""

from __future__ import annotations

import numpy as np
from numba import njit

FAR = 2**61  # no tick: where the outages of a pool end, and the first start of a task that has none


@njit(cache=True, nogil=True)
def cheapest(
    grid, prices, quota_prices, rents, duration, demand, release, tenant, away, costs, origin, room
):
    """The least cost of every task over all pools and starts, exactly where the numbers are integers.

    A task's cost at start t is max(costs[j, 0] * (t + p - origin_j), costs[j, 1]) and its rent over [t, t + p): the prices of
    what it holds and, where there are any, its own rents (N, G, K) per tick. Returns the least cost (N,), its pool (N,) and
    start (N,), and per pool the first and last start (N, G) whose cost is at most room (N,).
    """
    n, pools = duration.shape
    k = len(grid) - 1
    least = np.empty(n, prices.dtype)
    pool, start = np.full(n, -1), np.zeros(n, np.int64)
    first, last = np.full((n, pools), FAR), np.full((n, pools), -1)
    rate, total = np.zeros(k + 1, prices.dtype), np.zeros(k + 1, prices.dtype)
    for j in range(n):
        for g in range(pools):
            if duration[j, g] < 0:
                continue
            rate[:] = 0
            for r in range(demand.shape[2]):
                if demand[j, g, r]:
                    for i in range(k):
                        rate[i] += demand[j, g, r] * prices[g, r, i]
                    if len(quota_prices):
                        for i in range(k):
                            rate[i] += demand[j, g, r] * quota_prices[tenant[j], r, i]
            if len(rents):
                for i in range(k):
                    rate[i] += rents[j, g, i]
            for i in range(k):
                total[i + 1] = total[i] + rate[i] * (grid[i + 1] - grid[i])
            t = release[j]
            for o in range(away.shape[1]):
                stop = away[g, o, 0] - duration[j, g]
                if t <= stop:
                    best, at, low, high = scan(
                        grid, rate, total, t, min(stop, max(t, grid[k])), stop, duration[j, g], costs[j, 0], costs[j, 1],
                        origin[j], room[j],
                    )  # fmt: skip
                    if pool[j] < 0 or best < least[j]:
                        least[j], pool[j], start[j] = best, g, at
                    first[j, g] = min(first[j, g], low)
                    last[j, g] = max(last[j, g], high)
                if away[g, o, 0] == FAR:
                    break
                t = max(t, away[g, o, 1])
    return least, pool, start, first, last


@njit(cache=True, nogil=True)
def scan(grid, rate, total, begin, end, stop, length, slope, floor, origin, room):
    """The least cost over starts [begin, end], where it is, and the first and last start in [begin, stop] that costs <= room.

    Cost is linear between the starts at which the start or the end meets the grid or the term leaves its floor, so only those
    are looked at. Rent is never negative: once the term alone exceeds both the least cost and `room` nothing better follows.
    After `end` cost never falls.
    """
    k = len(grid) - 1
    kink = FAR
    if slope > 0:
        kink = origin + np.int64(floor // slope) - length
    t = begin
    a = min(max(np.searchsorted(grid, t, side="right") - 1, 0), k)
    b = min(max(np.searchsorted(grid, t + length, side="right") - 1, 0), k)
    least, at, low, high = max(slope * (t + length - origin), floor), t, FAR, -1
    before, cost_before = t, least
    while True:
        term = max(slope * (t + length - origin), floor)
        cost = (
            term + total[b] + rate[b] * (t + length - grid[b]) - total[a] - rate[a] * (t - grid[a])
        )
        if t == begin or cost < least:
            least, at = cost, t
        if cost <= room:
            if low == FAR:
                low = t if t == begin else crossing(before, t, cost_before, cost, room)
            high = t
        elif t > begin and cost_before <= room:
            high = crossing(before, t, cost_before, cost, room)
        if t >= end:
            if cost <= room:
                high = stop
            break
        if term > least and term > room:
            break
        before, cost_before = t, cost
        t = end
        if a < k:
            t = min(t, grid[a + 1])
        if b < k:
            t = min(t, grid[b + 1] - length)
        if before < kink:
            t = min(t, kink)
        elif before == kink:
            t = min(t, kink + 1)
        while a < k and grid[a + 1] <= t:
            a += 1
        while b < k and grid[b + 1] <= t + length:
            b += 1
    return least, at, low, high


@njit(cache=True, nogil=True)
def crossing(before, after, cost_before, cost_after, room):
    """Of the starts (before, after], on which cost is linear, the first with cost <= room; or of [before, after) the last."""
    slope = (cost_after - cost_before) // (after - before)
    if cost_after <= room:
        return after - np.int64((room - cost_after) // -slope)
    return before + np.int64((room - cost_before) // slope)


@njit(cache=True, nogil=True)
def occupied(grid, duration, demand, tenant, pool, start, used, quota_used):
    """Add the unit-ticks that the tasks hold in every interval to used (G, R, K) and quota_used (U, R, K)."""
    k = len(grid) - 1
    for j in range(len(pool)):
        g, begin, end = pool[j], start[j], start[j] + duration[j, pool[j]]
        i = min(max(np.searchsorted(grid, begin, side="right") - 1, 0), k)
        while i < k and grid[i] < end:
            ticks = min(end, grid[i + 1]) - max(begin, grid[i])
            for r in range(used.shape[1]):
                used[g, r, i] += demand[j, g, r] * ticks
                if len(quota_used):
                    quota_used[tenant[j], r, i] += demand[j, g, r] * ticks
            i += 1


@njit(cache=True, nogil=True)
def running(grid, duration, pool, start, ticks):
    """Add to ticks (N, G, K) how long each task runs in each interval."""
    k = len(grid) - 1
    for j in range(len(pool)):
        begin, end = start[j], start[j] + duration[j, pool[j]]
        i = min(max(np.searchsorted(grid, begin, side="right") - 1, 0), k)
        while i < k and grid[i] < end:
            ticks[j, pool[j], i] += min(end, grid[i + 1]) - max(begin, grid[i])
            i += 1


@njit(cache=True, nogil=True)
def best_sets(grid, rents, pieces, room, release, duration, ticks, worth, share):
    """Set worth (G, K): the most rent that tasks running together on one agent can pay per tick, per pool and interval.

    A knapsack of two sizes by dynamic programming: task j has sizes pieces[j, g] and an agent of g has room[g]. Only tasks
    released before an interval ends run in it. Takes share (G, K) ticks of each task in the best set off ticks (N, G, K).
    """
    n, pools, intervals = rents.shape
    for g in range(pools):
        high, wide = room[g, 0] + 1, room[g, 1] + 1
        best, taken = np.zeros((high, wide), rents.dtype), np.zeros((n, high, wide), np.bool_)
        chosen = np.zeros(n, np.int64)
        for i in range(intervals):
            count = 0
            for j in range(n):
                if duration[j, g] > 0 and rents[j, g, i] > 0 and release[j] < grid[i + 1]:
                    chosen[count] = j
                    count += 1
            best[:] = 0
            for c in range(count):
                j = chosen[c]
                u, v, rent = pieces[j, g, 0], pieces[j, g, 1], rents[j, g, i]
                for a in range(high - 1, u - 1, -1):
                    for b in range(wide - 1, v - 1, -1):
                        taken[c, a, b] = best[a - u, b - v] + rent > best[a, b]
                        if taken[c, a, b]:
                            best[a, b] = best[a - u, b - v] + rent
            worth[g, i] = best[high - 1, wide - 1]
            a, b = high - 1, wide - 1
            for c in range(count - 1, -1, -1):
                u, v = pieces[chosen[c], g, 0], pieces[chosen[c], g, 1]
                if a >= u and b >= v and taken[c, a, b]:
                    ticks[chosen[c], g, i] -= share[g, i]
                    a, b = a - u, b - v
