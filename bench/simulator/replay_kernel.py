"""The kernel of `bench.simulator.replay`: events, classes of tasks, heaps.

Names: `n` tasks, `m` agents, `t` types (and the tables), `r` resources, `u` tenants, `c` classes;
`j` is a task number by (release, index).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.compiled import compiled
from bench.instance import NOT_ELIGIBLE, Ints
from bench.simulator.tables import NEVER

Floats = NDArray[np.float64]


class ReplayTables(NamedTuple):
    """What the kernel reads. Tasks are numbered by (release, index)."""

    release: Ints  # (n,)
    duration: Ints  # (n, t) true ticks
    visible: Ints  # (n, t) ticks that the rule knows, -1 = not eligible
    demand: Ints  # (c, t, r) of a class
    held: Floats  # (c, t) demand as fractions of all units, summed over resources
    tenant: Ints  # (c,) of a class; -1 without quotas
    group: Ints  # (n,) class of each task
    first: Ints  # (c + 1,) index in `waiting` of the first member of each class
    capacity: Ints  # (m, r)
    agent_type: Ints  # (m,)
    total: Floats  # (r,) units of all agents, at least 1
    quota: Ints  # (u, r)
    rank: Ints  # (n,) place of each task in the order of the keys; empty with `waiting_key`
    # (n, 2) divisor and factor of keys that fall with the waiting time; empty where `rank` counts
    waiting_key: Floats
    offset: float  # seconds added to the waiting time
    tick_seconds: float
    skip: bool


@compiled(nogil=True)
def replay_all(t, started, agent, start):
    """Play the trace; write task, agent and tick (n,) of every start in order; return their number.

    It is below n where a task fits nowhere.
    """
    n = len(t.release)
    groups = len(t.tenant)
    free = t.capacity.copy()
    quota = t.quota.copy()
    on = np.empty(n, np.int64)  # agent of each task
    waiting = np.empty(n, np.int64)  # tasks of class c: first[c] to first[c] + length[c]
    length = np.zeros(groups, np.int64)
    blocked = np.zeros(groups, np.bool_)
    running = np.empty(n, np.int64)  # a heap by the ends
    ends = np.empty(n, np.int64)
    n_running = 0
    arrived = 0
    count = 0
    while count < n and (arrived < n or n_running > 0):
        now = NEVER
        if arrived < n:
            now = t.release[arrived]
        if n_running > 0:
            now = min(now, ends[running[0]])
        while n_running > 0 and ends[running[0]] <= now:
            j = running[0]
            n_running -= 1
            running[0] = running[n_running]
            _sift_down(running, n_running, 0, ends)
            _complete(t, free, quota, blocked, j, on[j])
        while arrived < n and t.release[arrived] <= now:
            c = t.group[arrived]
            _push(t, waiting, length, c, arrived)
            arrived += 1
        while True:
            c, at = _next_task(t, waiting, length, blocked, now)
            if c < 0:
                break
            j = waiting[at]
            a = _best_agent(t, free, quota, c, j)
            if a < 0:
                blocked[c] = True
                if not t.skip:
                    break
                continue
            _remove(t, waiting, length, c, at)
            for r in range(free.shape[1]):
                free[a, r] -= t.demand[c, t.agent_type[a], r]
                if t.tenant[c] >= 0:
                    quota[t.tenant[c], r] -= t.demand[c, t.agent_type[a], r]
            on[j] = a
            ends[j] = now + t.duration[j, t.agent_type[a]]
            running[n_running] = j
            n_running += 1
            _sift_up(running, n_running - 1, ends)
            started[count], agent[count], start[count] = j, a, now
            count += 1
    return count


@compiled(nogil=True)
def _complete(t, free, quota, blocked, j, a):
    """Return the units of task j on agent a; unblock the classes that they may have room for."""
    own = t.group[j]
    for r in range(free.shape[1]):
        free[a, r] += t.demand[own, t.agent_type[a], r]
        if t.tenant[own] >= 0:
            quota[t.tenant[own], r] += t.demand[own, t.agent_type[a], r]
    for c in range(len(blocked)):
        if not blocked[c]:
            continue
        shares = t.tenant[c] >= 0 and t.tenant[c] == t.tenant[own]
        if shares or _fits(t, free, c, a):
            blocked[c] = False


@compiled(nogil=True)
def _fits(t, free, c, a):
    """Return whether the free units of agent a cover the demand of class c."""
    agent_type = t.agent_type[a]
    fits = True
    for r in range(free.shape[1]):
        fits &= t.demand[c, agent_type, r] <= free[a, r]
    return fits


@compiled(nogil=True)
def _best_agent(t, free, quota, c, j):
    """Return the agent that starts task j of class c now; -1: none can.

    That of the shortest visible duration, then with the least leftover capacity, then the first.
    """
    best = -1
    best_duration = NEVER
    best_leftover = np.inf
    u = t.tenant[c]
    for a in range(len(free)):
        agent_type = t.agent_type[a]
        duration = t.visible[j, agent_type]
        if duration == NOT_ELIGIBLE or duration > best_duration or not _fits(t, free, c, a):
            continue
        within = True
        if u >= 0:
            for r in range(free.shape[1]):
                if t.demand[c, agent_type, r] > quota[u, r]:
                    within = False
        if not within:
            continue
        share = 0.0
        for r in range(free.shape[1]):
            share += free[a, r] / t.total[r]
        leftover = share - t.held[c, agent_type]
        if duration < best_duration or leftover < best_leftover:
            best, best_duration, best_leftover = a, duration, leftover
    return best


@compiled(nogil=True)
def _key(t, j, now):
    """Return the key of task j, which falls with its waiting time."""
    waited = (now - t.release[j]) * t.tick_seconds + t.offset
    return -(waited / t.waiting_key[j, 0]) * t.waiting_key[j, 1]


@compiled(nogil=True)
def _next_task(t, waiting, length, blocked, now):
    """Return class and place of the task with the lowest key that may fit; -1: there is none.

    Without `skip` only the task with the lowest key may start: -1 while its class is blocked.
    """
    best = -1
    best_at = -1
    best_key = np.inf
    for c in range(len(length)):
        if length[c] == 0 or (blocked[c] and t.skip):
            continue
        first = t.first[c]
        if len(t.waiting_key) == 0:  # the first of a heap
            j = waiting[first]
            if best < 0 or t.rank[j] < t.rank[waiting[best_at]]:
                best, best_at = c, first
            continue
        for at in range(first, first + length[c]):
            j = waiting[at]
            key = _key(t, j, now)
            if best < 0 or key < best_key or (key == best_key and j < waiting[best_at]):
                best, best_at, best_key = c, at, key
    if best >= 0 and blocked[best]:
        return -1, -1
    return best, best_at


# -- heaps -----------------------------------------------------------------------------------------


@compiled(nogil=True)
def _push(t, waiting, length, c, j):
    """Add task j to the waiting ones of its class c."""
    first = t.first[c]
    waiting[first + length[c]] = j
    length[c] += 1
    if len(t.waiting_key) == 0:
        _sift_up(waiting[first : first + length[c]], length[c] - 1, t.rank)


@compiled(nogil=True)
def _remove(t, waiting, length, c, at):
    """Remove the waiting task at `at`, which is the first one where the class is a heap."""
    first = t.first[c]
    length[c] -= 1
    waiting[at] = waiting[first + length[c]]
    if len(t.waiting_key) == 0:
        _sift_down(waiting[first : first + length[c]], length[c], 0, t.rank)


@compiled(nogil=True)
def _sift_up(heap, at, key):
    """Move the last item of a heap of (key[item], item) up to its place."""
    while at > 0:
        above = (at - 1) // 2
        x, y = heap[at], heap[above]
        if key[x] > key[y] or (key[x] == key[y] and x > y):
            return
        heap[at], heap[above] = y, x
        at = above


@compiled(nogil=True)
def _sift_down(heap, length, at, key):
    """Move an item of a heap of (key[item], item) down to its place."""
    while True:
        least = at
        for below in (2 * at + 1, 2 * at + 2):
            if below < length:
                x, y = heap[below], heap[least]
                if key[x] < key[y] or (key[x] == key[y] and x < y):
                    least = below
        if least == at:
            return
        heap[at], heap[least] = heap[least], heap[at]
        at = least
