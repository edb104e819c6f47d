"""The kernels of `solvers.exact.annealing`: serial generation and simulated annealing on its sequences."""

# ruff: noqa: NPY002  (numba's generator is the legacy one, seeded by the caller)
from __future__ import annotations

import numpy as np
from numba import njit

LATEST = 2**60  # end of every profile
TIE = 1e-3  # weight of what breaks ties in the makespan, whose plateaus are wide: the mean of the ends of all tasks


@njit(cache=True, nogil=True)
def decode_all(problem, state):
    """Place every task anew."""
    profile = profiles(problem)
    for group in range(len(state.length)):
        decode(problem, state, profile, group, 0)


@njit(cache=True, nogil=True)
def profiles(problem):
    """Room for a profile per agent and tenant: ticks (M + U, L), the units free from each on (M + U, L, R), length (M + U,)."""
    rows, r = problem.capacity.shape
    most = 2 * (len(problem.release) + len(problem.outages)) + 2
    return (
        np.zeros((rows, most), np.int64),
        np.zeros((rows, most, r), np.int64),
        np.zeros(rows, np.int64),
    )


@njit(cache=True, nogil=True)
def clear(problem, profile, group):
    """Empty agents, with nothing free during outages, and empty tenants."""
    tick, free, length = profile
    agents = len(problem.group)
    for row in range(len(length)):
        if row < agents and problem.group[row] != group:
            continue
        tick[row, 0], length[row] = 0, 1
        free[row, 0] = problem.capacity[row]
    for o in range(len(problem.outages)):
        agent, begin, end = problem.outages[o]
        if problem.group[agent] == group:
            for i in range(split(profile, agent, begin), split(profile, agent, end)):
                free[agent, i] = -1


@njit(cache=True, nogil=True)
def split(profile, row, at):
    """The position of tick `at` in the profile, which gets a step there if it has none."""
    tick, free, length = profile
    i = find(tick[row], length[row], at)
    if tick[row, i] == at:
        return i
    for k in range(length[row], i + 1, -1):
        tick[row, k] = tick[row, k - 1]
        for r in range(free.shape[2]):
            free[row, k, r] = free[row, k - 1, r]
    tick[row, i + 1] = at
    for r in range(free.shape[2]):
        free[row, i + 1, r] = free[row, i, r]
    length[row] += 1
    return i + 1


@njit(cache=True, nogil=True)
def find(ticks, length, at):
    """The last position whose tick is at most `at`."""
    low, high = 0, length - 1
    while low < high:
        middle = (low + high + 1) // 2
        if ticks[middle] <= at:
            low = middle
        else:
            high = middle - 1
    return low


@njit(cache=True, nogil=True)
def hold(problem, profile, row, j, agent, begin, end):
    """Take the demand of task j on `agent` off what is free in [begin, end)."""
    free = profile[1]
    i = split(profile, row, begin)
    stop = split(profile, row, end)
    for k in range(i, stop):
        for r in range(free.shape[2]):
            free[row, k, r] -= problem.demand[j, agent, r]


@njit(cache=True, nogil=True)
def earliest(problem, profile, row, j, agent, t):
    """The first start >= t at which task j fits the profile for as long as it runs on `agent`."""
    tick, free, length = profile
    duration = problem.duration[j, agent]
    i = find(tick[row], length[row], t)
    while i < length[row] and tick[row, i] < t + duration:
        for r in range(free.shape[2]):
            if free[row, i, r] < problem.demand[j, agent, r]:
                t = tick[row, i + 1] if i + 1 < length[row] else LATEST
                break
        i += 1
    return t


@njit(cache=True, nogil=True)
def decode(problem, state, profile, group, position):
    """Place the tasks of a group from `position` on anew, those before it stay; sets start and the group's cost."""
    sequence, length, agent, start, cost = state
    clear(problem, profile, group)
    total, ends = 0.0, 0.0
    for i in range(length[group]):
        j = sequence[group, i]
        a, tenant = agent[j], problem.tenant[j]
        if i >= position:
            t, before = problem.release[j], -1
            while t != before:
                before = t
                t = earliest(problem, profile, a, j, a, t)
                if tenant >= 0:
                    t = earliest(problem, profile, tenant, j, a, t)
                else:
                    break
            start[j] = t
        end = start[j] + problem.duration[j, a]
        hold(problem, profile, a, j, a, start[j], end)
        if tenant >= 0:
            hold(problem, profile, tenant, j, a, start[j], end)
        term = problem.coefficient[j] * max(problem.floor[j], float(end - problem.origin[j]))
        total = max(total, term) if problem.worst else total + term
        ends += end
    cost[group, 0], cost[group, 1] = total, ends


@njit(cache=True, nogil=True)
def value(problem, cost):
    """The objective, with a little of the mean end where it is the makespan."""
    if not problem.worst:
        return cost[:, 0].sum()
    return cost[:, 0].max() + TIE * cost[:, 1].sum() / len(problem.release)


@njit(cache=True, nogil=True)
def remove(state, group, at):
    """Take the task at a position out of a sequence."""
    sequence, length = state.sequence, state.length
    j = sequence[group, at]
    for i in range(at, length[group] - 1):
        sequence[group, i] = sequence[group, i + 1]
    length[group] -= 1
    return j


@njit(cache=True, nogil=True)
def insert(state, group, at, j):
    """Put task j at a position of a sequence."""
    sequence, length = state.sequence, state.length
    for i in range(length[group], at, -1):
        sequence[group, i] = sequence[group, i - 1]
    sequence[group, at] = j
    length[group] += 1


@njit(cache=True, nogil=True)
def position(state, group, j):
    """Where task j is in the sequence of its group."""
    i = 0
    while state.sequence[group, i] != j:
        i += 1
    return i


@njit(cache=True, nogil=True)
def near(state, group, tick):
    """A position about where a task that starts at `tick` would stand, give or take a few."""
    sequence, length, start = state.sequence, state.length, state.start
    at = 0
    while at < length[group] and start[sequence[group, at]] < tick:
        at += 1
    spread = 1 + np.random.randint(0, 4) if np.random.random() < 0.8 else 1 + length[group]
    return min(max(at + np.random.randint(-spread, spread + 1), 0), length[group])


@njit(cache=True, nogil=True)
def other_agent(problem, state, j):
    """An agent that can run task j, another one than its own where there is one."""
    options = problem.eligible[j]
    count = 0
    while count < len(options) and options[count] >= 0:
        count += 1
    pick = options[np.random.randint(0, count)]
    if pick == state.agent[j] and count > 1:
        pick = options[np.random.randint(0, count)]
    return pick


@njit(cache=True, nogil=True)
def keep(state, saved, group):
    """Copy one group of a state into another."""
    for i in range(state.length[group]):
        j = state.sequence[group, i]
        saved.sequence[group, i] = j
        saved.agent[j], saved.start[j] = state.agent[j], state.start[j]
    saved.length[group] = state.length[group]
    saved.cost[group] = state.cost[group]


@njit(cache=True, nogil=True)
def reinsert(problem, state, j, agent):
    """Move task j to `agent` and a position near its start; returns its old and new group and the first positions changed."""
    group, target = problem.group[state.agent[j]], problem.group[agent]
    old = position(state, group, j)
    remove(state, group, old)
    state.agent[j] = agent
    new = near(state, target, state.start[j])
    insert(state, target, new, j)
    return group, old, target, new


@njit(cache=True, nogil=True)
def anneal(problem, state, saved, top, hot, cold, at, steps, total, seed):
    """Moves `at` to `at + steps` of an annealing round of `total` moves; `top` becomes the best state met.

    `saved`: a copy of `state`, to go back to.
    """
    np.random.seed(seed)
    n, groups = len(problem.release), len(state.length)
    profile = profiles(problem)
    changed = np.full(
        groups, n + 1
    )  # first position of each group that a move changed; n + 1: none
    stale = np.ones(groups, np.bool_)  # groups in which `top` may be behind
    now = value(problem, state.cost)
    best = value(problem, top.cost)
    for step in range(at, at + steps):
        heat = hot * (cold / hot) ** (step / total)
        changed[:] = n + 1
        move = np.random.random()
        j = np.random.randint(0, n)
        if move < 0.4:  # another agent
            g, old, h, new = reinsert(problem, state, j, other_agent(problem, state, j))
            changed[g], changed[h] = min(changed[g], old), min(changed[h], new)
        elif move < 0.65:  # another place in the order
            g, old, h, new = reinsert(problem, state, j, state.agent[j])
            changed[g] = min(old, new)
        elif move < 0.85:  # change places with another task
            i = np.random.randint(0, n)
            a, b = state.agent[j], state.agent[i]
            if i == j or problem.duration[j, b] < 0 or problem.duration[i, a] < 0:
                continue
            g, h = problem.group[a], problem.group[b]
            x, y = position(state, g, j), position(state, h, i)
            state.sequence[g, x], state.sequence[h, y] = i, j
            state.agent[j], state.agent[i] = b, a
            changed[g], changed[h] = min(changed[g], x), min(changed[h], y)
            if g == h:
                changed[g] = min(x, y)
        else:  # a few neighbours in the order, each to an agent of its own choice
            g = problem.group[state.agent[j]]
            x = position(state, g, j)
            count = min(2 + np.random.randint(0, 2), state.length[g] - x)
            block = state.sequence[g, x : x + count].copy()
            for i in block:
                agent = (
                    other_agent(problem, state, i) if np.random.random() < 0.5 else state.agent[i]
                )
                g, old, h, new = reinsert(problem, state, i, agent)
                changed[g], changed[h] = min(changed[g], old), min(changed[h], new)
                if g == h:
                    changed[g] = min(changed[g], min(old, new))
        for g in range(groups):
            if changed[g] <= n:
                decode(problem, state, profile, g, changed[g])
        after = value(problem, state.cost)
        if after <= now or np.random.random() < np.exp((now - after) / heat):
            now = after
            for g in range(groups):
                if changed[g] <= n:
                    keep(state, saved, g)
                    stale[g] = True
            if now < best - 1e-9 * abs(best):
                best = now
                for g in range(groups):
                    if stale[g]:
                        keep(state, top, g)
                        stale[g] = False
        else:
            for g in range(groups):
                if changed[g] <= n:
                    keep(saved, state, g)
