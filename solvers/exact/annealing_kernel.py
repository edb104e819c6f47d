"""The kernels of `solvers.exact.annealing`: serial schedule generation and annealing moves.

`problem` is an `AnnealingProblem`, `state` an `AnnealingState`. A profile is a step function over
time: the free capacity of one agent (rows 0 .. M - 1) or what is left of one tenant's quota (rows
M .. M + U - 1). During an outage an agent has -1 free units of every resource, less than any task
needs. The tuple `profiles` holds the ticks of the steps (M + U, L), the free units from
each step on (M + U, L, R) and the number of steps (M + U,).
"""

# ruff: noqa: NPY002  (numba's generator is the legacy one, seeded by the caller)
from __future__ import annotations

import numpy as np

from bench.compiled import compiled

LATEST = 2**60  # a tick after the end of every profile
TIE_WEIGHT = 1e-3  # of the mean completion, which breaks the many ties of the makespan
NORM = 8  # of the last completions of the groups, which the search lowers for a makespan


# -- profiles --------------------------------------------------------------------------------------


@compiled(nogil=True)
def allocate_profiles(problem):
    """Return memory for the profiles of all agents and tenants."""
    rows, resources = problem.capacity.shape
    steps = 2 * (len(problem.release) + len(problem.outages)) + 2
    return (
        np.zeros((rows, steps), np.int64),
        np.zeros((rows, steps, resources), np.int64),
        np.zeros(rows, np.int64),
    )


@compiled(nogil=True)
def clear_profiles(problem, profiles, group):
    """Free the agents of a group, except during their outages, and all tenants."""
    tick, free, length = profiles
    agents = len(problem.group)
    for row in range(len(length)):
        if row < agents and problem.group[row] != group:
            continue
        tick[row, 0], length[row] = 0, 1
        free[row, 0] = problem.capacity[row]
    for o in range(len(problem.outages)):
        agent, begin, end = problem.outages[o]
        if problem.group[agent] == group:
            for i in range(add_step(profiles, agent, begin), add_step(profiles, agent, end)):
                free[agent, i] = -1


@compiled(nogil=True)
def add_step(profiles, row, at):
    """Return the position of the step at tick `at`, which is added to the profile if missing."""
    tick, free, length = profiles
    i = find_step(tick[row], length[row], at)
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


@compiled(nogil=True)
def find_step(ticks, length, at):
    """Return the last position whose tick is at most `at`."""
    low, high = 0, length - 1
    while low < high:
        middle = (low + high + 1) // 2
        if ticks[middle] <= at:
            low = middle
        else:
            high = middle - 1
    return low


@compiled(nogil=True)
def reserve(problem, profiles, row, j, agent, begin, end):
    """Subtract the demand of task j on `agent` from what is free in [begin, end)."""
    free = profiles[1]
    i = add_step(profiles, row, begin)
    stop = add_step(profiles, row, end)
    for k in range(i, stop):
        for r in range(free.shape[2]):
            free[row, k, r] -= problem.demand[j, agent, r]


@compiled(nogil=True)
def earliest_start(problem, profiles, row, j, agent, t):
    """Return the first start >= t at which task j fits the profile for its duration on `agent`."""
    tick, free, length = profiles
    duration = problem.duration[j, agent]
    i = find_step(tick[row], length[row], t)
    while i < length[row] and tick[row, i] < t + duration:
        for r in range(free.shape[2]):
            if free[row, i, r] < problem.demand[j, agent, r]:
                t = tick[row, i + 1] if i + 1 < length[row] else LATEST
                break
        i += 1
    return t


# -- serial schedule generation --------------------------------------------------------------------


@compiled(nogil=True)
def decode_all(problem, state):
    """Place every task of `state` that is not fixed in the order of its sequence."""
    profiles = allocate_profiles(problem)
    for group in range(len(state.length)):
        decode_group(problem, state, profiles, group, problem.fixed[group])


@compiled(nogil=True)
def decode_group(problem, state, profiles, group, position):
    """Place the tasks of a group from `position` on again, and set their starts and the cost.

    The tasks before `position` keep their starts.
    """
    sequence, length, agent, start, cost = state
    clear_profiles(problem, profiles, group)
    total, ends = 0.0, 0.0
    for i in range(length[group]):
        j = sequence[group, i]
        a, tenant = agent[j], problem.tenant[j]
        if i >= position:
            t, before = problem.release[j], -1
            while t != before:  # until agent and tenant agree on a start
                before = t
                t = earliest_start(problem, profiles, a, j, a, t)
                if tenant >= 0:
                    t = earliest_start(problem, profiles, tenant, j, a, t)
                else:
                    break
            start[j] = t
        end = start[j] + problem.duration[j, a]
        reserve(problem, profiles, a, j, a, start[j], end)
        if tenant >= 0:
            reserve(problem, profiles, tenant, j, a, start[j], end)
        limit = problem.lower_limit[j]
        term = problem.coefficient[j] * max(limit, float(end - problem.origin[j]))
        total = max(total, term) if problem.is_maximum else total + term
        ends += end
    cost[group, 0], cost[group, 1] = total, ends


@compiled(nogil=True)
def objective_value(problem, cost):
    """Return the objective; for the makespan plus TIE_WEIGHT times the mean completion."""
    if not problem.is_maximum:
        return cost[:, 0].sum()
    return cost[:, 0].max() + TIE_WEIGHT * cost[:, 1].sum() / len(problem.release)


@compiled(nogil=True)
def search_value(problem, cost):
    """Return what the search lowers: the objective, for the makespan a norm of all groups.

    Most moves change no group with the last completion of all, and the makespan stays the same; the
    norm falls where any late group ends earlier. It is taken over the ends after the last release,
    before which no schedule ends. With quotas there is one group, and the norm is the makespan.
    """
    if not problem.is_maximum:
        return objective_value(problem, cost)
    base = problem.release.max()
    last = cost[:, 0].max() - base
    if last <= 0:
        return objective_value(problem, cost)
    late = np.maximum(cost[:, 0] - base, 0.0) / last
    norm = base + last * (late**NORM).mean() ** (1 / NORM)
    return norm + TIE_WEIGHT * cost[:, 1].sum() / len(problem.release)


# -- moves -----------------------------------------------------------------------------------------


@compiled(nogil=True)
def remove(state, group, at):
    """Remove the task at a position from a sequence."""
    sequence, length = state.sequence, state.length
    j = sequence[group, at]
    for i in range(at, length[group] - 1):
        sequence[group, i] = sequence[group, i + 1]
    length[group] -= 1
    return j


@compiled(nogil=True)
def insert(state, group, at, j):
    """Insert task j at a position of a sequence."""
    sequence, length = state.sequence, state.length
    for i in range(length[group], at, -1):
        sequence[group, i] = sequence[group, i - 1]
    sequence[group, at] = j
    length[group] += 1


@compiled(nogil=True)
def find_position(state, group, j):
    """Return the position of task j in the sequence of its group."""
    i = 0
    while state.sequence[group, i] != j:
        i += 1
    return i


@compiled(nogil=True)
def draw_position(problem, state, group, tick):
    """Draw a position near that of a task that starts at `tick`, behind the fixed tasks."""
    sequence, length, start = state.sequence, state.length, state.start
    first = problem.fixed[group]
    at = first
    while at < length[group] and start[sequence[group, at]] < tick:
        at += 1
    spread = 1 + np.random.randint(0, 4) if np.random.random() < 0.8 else 1 + length[group]
    return min(max(at + np.random.randint(-spread, spread + 1), first), length[group])


@compiled(nogil=True)
def draw_agent(problem, state, j):
    """Draw an agent that can run task j; its own agent is less likely than the others."""
    options = problem.eligible[j]
    count = 0
    while count < len(options) and options[count] >= 0:
        count += 1
    pick = options[np.random.randint(0, count)]
    if pick == state.agent[j] and count > 1:
        pick = options[np.random.randint(0, count)]
    return pick


@compiled(nogil=True)
def copy_group(source, target, group):
    """Copy one group of the state `source` into the state `target`."""
    for i in range(source.length[group]):
        j = source.sequence[group, i]
        target.sequence[group, i] = j
        target.agent[j], target.start[j] = source.agent[j], source.start[j]
    target.length[group] = source.length[group]
    target.cost[group] = source.cost[group]


@compiled(nogil=True)
def reinsert(problem, state, j, agent):
    """Move task j to `agent`, at a position near its start.

    Returns the old group, the first position changed there, the new group, the position in it.
    """
    group, target = problem.group[state.agent[j]], problem.group[agent]
    old = find_position(state, group, j)
    remove(state, group, old)
    state.agent[j] = agent
    new = draw_position(problem, state, target, state.start[j])
    insert(state, target, new, j)
    return group, old, target, new


# -- simulated annealing ---------------------------------------------------------------------------


@compiled(nogil=True)
def anneal(problem, state, accepted, best_state, hot, cold, first_move, count, moves, seed):
    """Make moves `first_move` to `first_move + count` of an annealing round of `moves` moves.

    The temperature falls geometrically from `hot` to `cold` over the round. `accepted` is a copy of
    `state` and stays the last accepted state, which a rejected move returns to. `best_state`
    becomes the best state found.
    """
    np.random.seed(seed)
    n, groups = len(problem.release), len(state.length)
    movable = problem.movable
    profiles = allocate_profiles(problem)
    changed = np.full(
        groups, n + 1
    )  # first position of each group that a move changed; n + 1: none
    stale = np.ones(groups, np.bool_)  # groups in which `best_state` may differ from `state`
    now = search_value(problem, state.cost)
    best = objective_value(problem, best_state.cost)
    for step in range(first_move, first_move + count):
        temperature = hot * (cold / hot) ** (step / moves)
        changed[:] = n + 1
        move = np.random.random()
        j = movable[np.random.randint(0, len(movable))]
        if move < 0.4:  # move a task to another agent
            g, old, h, new = reinsert(problem, state, j, draw_agent(problem, state, j))
            changed[g], changed[h] = min(changed[g], old), min(changed[h], new)
        elif move < 0.65:  # move a task to another position of the order
            g, old, h, new = reinsert(problem, state, j, state.agent[j])
            changed[g] = min(old, new)
        elif move < 0.85:  # swap two tasks
            i = movable[np.random.randint(0, len(movable))]
            a, b = state.agent[j], state.agent[i]
            if i == j or problem.duration[j, b] < 0 or problem.duration[i, a] < 0:
                continue
            g, h = problem.group[a], problem.group[b]
            x, y = find_position(state, g, j), find_position(state, h, i)
            state.sequence[g, x], state.sequence[h, y] = i, j
            state.agent[j], state.agent[i] = b, a
            changed[g], changed[h] = min(changed[g], x), min(changed[h], y)
            if g == h:
                changed[g] = min(x, y)
        else:  # move a few neighbours in the order, each perhaps to another agent
            g = problem.group[state.agent[j]]
            x = find_position(state, g, j)
            size = min(2 + np.random.randint(0, 2), state.length[g] - x)
            block = state.sequence[g, x : x + size].copy()
            for i in block:
                agent = state.agent[i]
                if np.random.random() < 0.5:
                    agent = draw_agent(problem, state, i)
                g, old, h, new = reinsert(problem, state, i, agent)
                changed[g], changed[h] = min(changed[g], old), min(changed[h], new)
                if g == h:
                    changed[g] = min(changed[g], min(old, new))
        for g in range(groups):
            if changed[g] <= n:
                decode_group(problem, state, profiles, g, changed[g])
        value = objective_value(problem, state.cost)
        if value < best - 1e-9 * abs(best):
            best = value
            for g in range(groups):
                if stale[g] or changed[g] <= n:
                    copy_group(state, best_state, g)
                stale[g] = changed[g] <= n
        after = search_value(problem, state.cost)
        if after <= now or np.random.random() < np.exp((now - after) / temperature):
            now = after
            for g in range(groups):
                if changed[g] <= n:
                    copy_group(state, accepted, g)
                    stale[g] = True
        else:
            for g in range(groups):
                if changed[g] <= n:
                    copy_group(accepted, state, g)
