"""The transition function of the decision process, for the CPU and for a GPU.

The code uses only arrays, scalars and loops; it allocates nothing and raises nothing. Therefore
numba can compile the same source for the CPU and, as device functions, for a GPU. The process is
defined in section 5 of `bench/docs/problem.md`, the arrays in `bench.simulator.tables`.

Parameter names in all functions:

| name | meaning |
|---|---|
| `t`, `s` | the `InstanceTables` and the `SimulatorState` |
| `b` | index of the environment |
| `i` | index of the instance that the environment plays |
| `j` | task number in the tables (tasks are numbered by release tick, then by index) |
| `a`, `r`, `u` | indices of agent, resource and tenant |
| `k` | position in the queue of pending tasks |
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from bench.compiled import compiled, kernel_array
from bench.instance import NOT_ELIGIBLE, Ints
from bench.setting import OBJECTIVES
from bench.simulator.tables import (
    AGENT, ANNOUNCED, CAPACITY, DEAD_END, DECISIONS, DEMAND, DIRTY, DUE, DURATION, END, FREE,
    ILLEGAL, INSTANCE, LAST_END, LATEST_END, NEVER, NEXT_ARRIVAL, NEXT_END, NEXT_OUTAGE,
    NO_ACTION, N_AGENTS, N_FINISHED, N_KILLED, N_PENDING, N_RUNNING, N_TASKS, N_VALID_ROWS,
    OUTAGE_END, OUTAGE_INDEX, OUTAGE_START, PENALTY, PENDING, QUOTA_LEFT, RELEASE, RUNNING,
    RUNNING_TASKS, SCALE, START, STATUS, TENANT, TERMINATED, TIME, TRUNCATED, TYPE, UP, VISIBLE,
    VISIBLE_END, WEIGHT, WEIGHT_IN_SYSTEM,
    InstanceTables, SimulatorState,
)  # fmt: skip

STEP, RESET, RESET_IF_OVER, PLAY, PLAY_ON = range(5)  # operations of `run`
MIN_ENVS_FOR_THREADS = 2048  # with fewer environments, threads cost more than they save
TOTAL_TIME = OBJECTIVES.index("total_time")
MAKESPAN = OBJECTIVES.index("makespan")
TARDINESS = OBJECTIVES.index("tardiness")
BOUNDED_SLOWDOWN = OBJECTIVES.index("bounded_slowdown")

# `_nrt=False` switches off reference counting: nothing is allocated here, and the atomic counter
# updates at every array access would cost two thirds of the speed. A call passes the shape and
# strides of every array, some 170 numbers. Therefore functions that run at every decision are
# inlined; inlining more than these would make compilation take minutes. The indices that are used
# most, `b` and `i`, are unsigned integers, for which numba does not test for negative values.
# Wrappers for calls from Python take a fifth of the compilation: only the entry functions have
# them.
NO_WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
device_function = compiled(_nrt=False, **NO_WRAPPERS)
inlined_function = compiled(_nrt=False, forceinline=True, **NO_WRAPPERS)
inlined_entry_function = compiled(_nrt=False, forceinline=True)


# -- legality --------------------------------------------------------------------------------------


@device_function
def is_eligible(t, i, j, a):
    """Return whether j can ever run on a.

    The agent's type must be eligible, and a's capacity and the quota of j's tenant must each cover
    the demand of j alone.
    """
    agent_type = t.agents[i, a, TYPE]
    if t.task_on_type[i, j, agent_type, VISIBLE] == NOT_ELIGIBLE:
        return False
    u = t.task[i, j, TENANT]
    for r in range(t.quota.shape[2]):
        units = t.task_on_type[i, j, agent_type, DEMAND + r]
        if units > t.agents[i, a, CAPACITY + r] or (
            t.quota.shape[1] > 0 and units > t.quota[i, u, r]
        ):
            return False
    return True


@inlined_function
def ticks_until_outage(s, b, a):
    """Return the ticks from now to the next announced outage of a; 0 while a is away."""
    return s.agents[b, a, UP] * (s.agents[b, a, NEXT_OUTAGE] - s.env[b, TIME])


@inlined_function
def fits_within(t, s, b, i, j, a, agent_type, available_ticks):
    """Return whether j can start now on a, an agent of type `agent_type`.

    The visible duration must not exceed `available_ticks`, and the free units of a and the quota
    left to j's tenant must cover the demand.
    """
    duration = t.task_on_type[i, j, agent_type, VISIBLE]
    if duration == NOT_ELIGIBLE or duration > available_ticks:
        return False
    for r in range(t.quota.shape[2]):
        if t.task_on_type[i, j, agent_type, DEMAND + r] > s.agents[b, a, FREE + r]:
            return False
    if t.quota.shape[1] > 0:
        u = t.task[i, j, TENANT]
        for r in range(t.quota.shape[2]):
            if t.task_on_type[i, j, agent_type, DEMAND + r] > s.tenants[b, u, QUOTA_LEFT + r]:
                return False
    return True


@device_function
def fits_now(t, s, b, j, a):
    """Return whether j can start on a now.

    The agent must be up, its free units and the quota left to the tenant must cover the demand, and
    by the visible duration the task must end before the next announced outage of a.
    """
    i = np.uint64(s.env[b, INSTANCE])
    return fits_within(t, s, b, i, j, a, t.agents[i, a, TYPE], ticks_until_outage(s, b, a))


@device_function
def is_legal(t, s, b, j, a):
    """Return whether (j, a) is a legal action for the pending task j."""
    if t.commit:
        return is_eligible(t, s.env[b, INSTANCE], j, a)
    return fits_now(t, s, b, j, a)


@device_function
def wait_is_legal(t, s, b):
    """Return whether `wait` is legal.

    It is if a task is running or a known event lies ahead: an arrival that is observed, or the
    start or end of an announced outage. It never is in commit mode and with `budget` sharing.
    """
    if t.commit or t.budget_sharing:
        return False
    if s.env[b, N_RUNNING] > 0:
        return True
    i = np.uint64(s.env[b, INSTANCE])
    if t.observe_all and s.env[b, NEXT_ARRIVAL] < t.size[i, N_TASKS]:
        return True
    for a in range(t.size[i, N_AGENTS]):
        e = s.agents[b, a, OUTAGE_INDEX]
        if s.agents[b, a, NEXT_OUTAGE] < NEVER or (
            s.agents[b, a, UP] == 0 and t.outages[i, a, e, ANNOUNCED] == 1
        ):
            return True
    return False


@inlined_function
def no_legal_action(t, s, b):
    """Return whether no action in the window is legal, so that the clock must advance."""
    if wait_is_legal(t, s, b):
        return False
    for k in range(min(s.env[b, N_PENDING], s.window.shape[1])):
        for a in range(t.size[s.env[b, INSTANCE], N_AGENTS]):
            if is_legal(t, s, b, s.task[b, PENDING, k], a):
                return False
    return True


@device_function
def is_dead_end(t, s, b):
    """Return whether some pending task fits on no agent any more (`budget` sharing)."""
    for k in range(s.env[b, N_PENDING]):
        fits_somewhere = False
        for a in range(t.size[s.env[b, INSTANCE], N_AGENTS]):
            if fits_now(t, s, b, s.task[b, PENDING, k], a):
                fits_somewhere = True
                break
        if not fits_somewhere:
            return True
    return False


# -- starting, completing and killing tasks --------------------------------------------------------


@inlined_function
def update_free_units(t, s, b, j, a, sign):
    """Allocate (`sign` = -1) or release (`sign` = 1) the units that j holds on a."""
    i = np.uint64(s.env[b, INSTANCE])
    agent_type = t.agents[i, a, TYPE]
    for r in range(t.quota.shape[2]):
        s.agents[b, a, FREE + r] += sign * t.task_on_type[i, j, agent_type, DEMAND + r]
    s.agents[b, a, DIRTY] = 1
    if t.quota.shape[1] > 0:
        u = t.task[i, j, TENANT]
        for r in range(t.quota.shape[2]):
            s.tenants[b, u, QUOTA_LEFT + r] += sign * t.task_on_type[i, j, agent_type, DEMAND + r]
        s.tenants[b, u, DIRTY] = 1


@inlined_function
def queue_position(s, b, j):
    """Return the position of j in the sorted queue, or where it would be inserted."""
    low = 0
    high = s.env[b, N_PENDING]
    while low < high:
        middle = (low + high) // 2
        if s.task[b, PENDING, middle] < j:
            low = middle + 1
        else:
            high = middle
    return low


@inlined_function
def remove_pending(t, s, b, k):
    """Remove the task at queue position k; the mask rows after it move up by one."""
    m = t.agents.shape[1]
    for q in range(k, s.env[b, N_PENDING] - 1):
        s.task[b, PENDING, q] = s.task[b, PENDING, q + 1]
    s.env[b, N_PENDING] -= 1
    if k < s.env[b, N_VALID_ROWS]:
        for x in range(k * m, (s.env[b, N_VALID_ROWS] - 1) * m):
            s.mask[b, x] = s.mask[b, x + m]
        s.env[b, N_VALID_ROWS] -= 1
        for x in range(s.env[b, N_VALID_ROWS] * m, (s.env[b, N_VALID_ROWS] + 1) * m):
            s.mask[b, x] = 0


@device_function
def mean_slowdown_term(t, i, j, end):
    """Return the share of j in the mean bounded slowdown: max(1, T_j / max(p_j, 10 s)) / N."""
    return max(1.0, (end - t.task[i, j, RELEASE]) / t.slowdown_divisor[i, j]) / t.size[i, N_TASKS]


@device_function
def pay_at_assignment(t, s, b, j):
    """Pay the shaped reward: the cost of j in the objective, known from its true end."""
    i = np.uint64(s.env[b, INSTANCE])
    cost = 0.0
    if t.objective == TOTAL_TIME:
        cost = float(t.task[i, j, WEIGHT] * (s.task[b, END, j] - t.task[i, j, RELEASE]))
    elif t.objective == TARDINESS:
        cost = float(t.task[i, j, WEIGHT] * max(0, s.task[b, END, j] - t.task[i, j, DUE]))
    elif t.objective == BOUNDED_SLOWDOWN:
        cost = mean_slowdown_term(t, i, j, s.task[b, END, j])
    elif s.task[b, END, j] > s.env[b, LATEST_END]:
        cost = float(s.task[b, END, j] - s.env[b, LATEST_END])
        s.env[b, LATEST_END] = s.task[b, END, j]
    s.reward[b] -= cost / t.reward_constants[i, SCALE]


@inlined_function
def start_task(t, s, b, j, a):
    """Start the pending task j on a now."""
    i = np.uint64(s.env[b, INSTANCE])
    agent_type = t.agents[i, a, TYPE]
    remove_pending(t, s, b, queue_position(s, b, j))
    update_free_units(t, s, b, j, a, -1)
    s.task[b, AGENT, j] = a
    s.task[b, START, j] = s.env[b, TIME]
    s.task[b, END, j] = s.env[b, TIME] + t.task_on_type[i, j, agent_type, DURATION]
    s.task[b, VISIBLE_END, j] = s.env[b, TIME] + t.task_on_type[i, j, agent_type, VISIBLE]
    if t.budget_sharing:
        s.env[b, N_FINISHED] += 1
        s.reward[b] -= (
            t.task[i, j, WEIGHT]
            * t.task_on_type[i, j, agent_type, DURATION]
            / t.reward_constants[i, SCALE]
        )
        return
    s.task[b, RUNNING_TASKS, s.env[b, N_RUNNING]] = j
    s.env[b, N_RUNNING] += 1
    if t.shaped:
        pay_at_assignment(t, s, b, j)


@inlined_function
def complete_task(t, s, b, j):
    """Complete the running task j now."""
    i = np.uint64(s.env[b, INSTANCE])
    update_free_units(t, s, b, j, s.task[b, AGENT, j], 1)
    s.env[b, N_FINISHED] += 1
    s.env[b, WEIGHT_IN_SYSTEM] -= t.task[i, j, WEIGHT]
    if t.shaped:
        return
    if t.objective == MAKESPAN and s.task[b, END, j] > s.env[b, LATEST_END]:
        s.reward[b] -= (s.task[b, END, j] - s.env[b, LATEST_END]) / t.reward_constants[i, SCALE]
        s.env[b, LATEST_END] = s.task[b, END, j]
    elif t.objective == BOUNDED_SLOWDOWN:
        s.reward[b] -= mean_slowdown_term(t, i, j, s.task[b, END, j]) / t.reward_constants[i, SCALE]


@device_function
def kill_task(t, s, b, j):
    """Kill the running task j: an outage of its agent starts now.

    The work done is lost. The task is pending again with its full duration, at its place in the
    queue; mask rows from there on must be computed again.
    """
    n = s.env[b, N_KILLED]
    s.killed[b, n, 0] = j
    s.killed[b, n, 1] = s.task[b, AGENT, j]
    s.killed[b, n, 2] = s.task[b, START, j]
    s.killed[b, n, 3] = s.env[b, TIME]
    s.env[b, N_KILLED] += 1
    update_free_units(t, s, b, j, s.task[b, AGENT, j], 1)
    s.task[b, AGENT, j] = -1
    k = queue_position(s, b, j)
    for q in range(s.env[b, N_PENDING], k, -1):
        s.task[b, PENDING, q] = s.task[b, PENDING, q - 1]
    s.task[b, PENDING, k] = j
    s.env[b, N_PENDING] += 1
    m = t.agents.shape[1]
    for x in range(k * m, s.env[b, N_VALID_ROWS] * m):
        s.mask[b, x] = 0
    s.env[b, N_VALID_ROWS] = min(s.env[b, N_VALID_ROWS], k)


@device_function
def release_next_task(t, s, b):
    """Release the next task; it joins the end of the queue."""
    i = np.uint64(s.env[b, INSTANCE])
    j = s.env[b, NEXT_ARRIVAL]
    s.task[b, PENDING, s.env[b, N_PENDING]] = j
    s.env[b, N_PENDING] += 1
    s.env[b, NEXT_ARRIVAL] += 1
    s.env[b, WEIGHT_IN_SYSTEM] += t.task[i, j, WEIGHT]
    if t.objective == TARDINESS and not t.shaped and t.task[i, j, DUE] < t.task[i, j, RELEASE]:
        s.reward[b] -= (
            t.task[i, j, WEIGHT]
            * (t.task[i, j, RELEASE] - t.task[i, j, DUE])
            / t.reward_constants[i, SCALE]
        )


# -- events and the clock --------------------------------------------------------------------------


@device_function
def next_outage_event(t, s, b, a):
    """Return the tick of the next outage event of a: a start while it is up, else an end."""
    i = np.uint64(s.env[b, INSTANCE])
    if s.agents[b, a, UP] == 1:
        return t.outages[i, a, s.agents[b, a, OUTAGE_INDEX], OUTAGE_START]
    return t.outages[i, a, s.agents[b, a, OUTAGE_INDEX], OUTAGE_END]


@device_function
def weighted_overdue_ticks(t, s, b, j, end_tick):
    """Return w_j times the ticks in [now, end_tick) that lie after the due date of j."""
    i = np.uint64(s.env[b, INSTANCE])
    return t.task[i, j, WEIGHT] * max(0, end_tick - max(s.env[b, TIME], t.task[i, j, DUE]))


@inlined_function
def advance_clock(t, s, b, end_tick):
    """Advance the clock to `end_tick`, with no event in between.

    Pays the objectives that accrue over time: total time and tardiness.
    """
    i = np.uint64(s.env[b, INSTANCE])
    if not t.shaped and t.objective == TOTAL_TIME:
        s.reward[b] -= (
            s.env[b, WEIGHT_IN_SYSTEM] * (end_tick - s.env[b, TIME]) / t.reward_constants[i, SCALE]
        )
    if not t.shaped and t.objective == TARDINESS:
        late = 0
        for k in range(s.env[b, N_PENDING]):
            late += weighted_overdue_ticks(t, s, b, s.task[b, PENDING, k], end_tick)
        for k in range(s.env[b, N_RUNNING]):
            late += weighted_overdue_ticks(t, s, b, s.task[b, RUNNING_TASKS, k], end_tick)
        s.reward[b] -= late / t.reward_constants[i, SCALE]
    s.env[b, TIME] = end_tick
    for a in range(t.size[i, N_AGENTS]):
        if s.agents[b, a, NEXT_OUTAGE] < NEVER:
            s.agents[b, a, DIRTY] = 1


@inlined_function
def complete_due_tasks(t, s, b, max_tasks):
    """Complete at most `max_tasks` running tasks that end now."""
    kept = 0
    completed = 0
    for k in range(s.env[b, N_RUNNING]):
        j = s.task[b, RUNNING_TASKS, k]
        if s.task[b, END, j] <= s.env[b, TIME] and completed < max_tasks:
            complete_task(t, s, b, j)
            completed += 1
        else:
            s.task[b, RUNNING_TASKS, kept] = j
            kept += 1
    s.env[b, N_RUNNING] = kept


@device_function
def apply_outage_event(t, s, b, a):
    """Apply the next outage event of a; its start kills the tasks that run on a."""
    s.agents[b, a, DIRTY] = 1
    if s.agents[b, a, UP] == 1:
        s.agents[b, a, UP] = 0
        kept = 0
        for k in range(s.env[b, N_RUNNING]):
            j = s.task[b, RUNNING_TASKS, k]
            if s.task[b, AGENT, j] == a:
                kill_task(t, s, b, j)
            else:
                s.task[b, RUNNING_TASKS, kept] = j
                kept += 1
        s.env[b, N_RUNNING] = kept
    else:
        s.agents[b, a, UP] = 1
        s.agents[b, a, OUTAGE_INDEX] += 1
    find_announced_outage(t, s, b, a)


@device_function
def find_announced_outage(t, s, b, a):
    """Set the start of the next announced outage of a."""
    i = np.uint64(s.env[b, INSTANCE])
    e = s.agents[b, a, OUTAGE_INDEX] + (1 - s.agents[b, a, UP])
    s.agents[b, a, NEXT_OUTAGE] = NEVER
    while e < t.outages.shape[2]:
        if t.outages[i, a, e, ANNOUNCED] == 1:
            s.agents[b, a, NEXT_OUTAGE] = t.outages[i, a, e, OUTAGE_START]
            return
        e += 1


@device_function
def advance_to_next_event(t, s, b):
    """Advance the clock to the next event and apply the events of that tick.

    Events are arrivals, completions, and starts and ends of outages; there is always one ahead.
    All events of a tick are applied in the order of section 5 of `bench/docs/problem.md`:
    completions, outage events, arrivals. With sequential event order one event is applied, an
    arrival before a completion, except at a tick with an outage event.
    """
    i = np.uint64(s.env[b, INSTANCE])
    next_arrival = NEVER
    if s.env[b, NEXT_ARRIVAL] < t.size[i, N_TASKS]:
        next_arrival = t.task[i, s.env[b, NEXT_ARRIVAL], RELEASE]
    next_completion = NEVER
    for k in range(s.env[b, N_RUNNING]):
        next_completion = min(next_completion, s.task[b, END, s.task[b, RUNNING_TASKS, k]])
    next_outage = NEVER
    if t.outages.shape[2] > 1:
        for a in range(t.size[i, N_AGENTS]):
            next_outage = min(next_outage, next_outage_event(t, s, b, a))
    event_tick = max(s.env[b, TIME], min(next_arrival, next_completion, next_outage))
    if event_tick > s.env[b, TIME]:
        advance_clock(t, s, b, event_tick)
    if t.sequential_events and next_outage > event_tick:
        if next_arrival <= event_tick:
            release_next_task(t, s, b)
        else:
            complete_due_tasks(t, s, b, 1)
        return
    complete_due_tasks(t, s, b, s.env[b, N_RUNNING])
    apply_outage_events(t, s, b)
    release_due_tasks(t, s, b)


@device_function
def apply_outage_events(t, s, b):
    """Apply all outage events up to the current tick."""
    if t.outages.shape[2] > 1:
        for a in range(t.size[s.env[b, INSTANCE], N_AGENTS]):
            while next_outage_event(t, s, b, a) <= s.env[b, TIME]:
                apply_outage_event(t, s, b, a)


@device_function
def release_due_tasks(t, s, b):
    """Release all tasks that arrive up to the current tick."""
    i = np.uint64(s.env[b, INSTANCE])
    while (
        s.env[b, NEXT_ARRIVAL] < t.size[i, N_TASKS]
        and t.task[i, s.env[b, NEXT_ARRIVAL], RELEASE] <= s.env[b, TIME]
    ):
        release_next_task(t, s, b)


# -- commit mode -----------------------------------------------------------------------------------


@device_function
def fits_at(t, s, b, j, a, tick):
    """Return whether, by the visible ends, j fits on a from `tick` on.

    Units of running tasks are counted as free from their visible end on, but not before the next
    tick: a task that runs longer than its estimate still holds them now.
    """
    i = np.uint64(s.env[b, INSTANCE])
    agent_type = t.agents[i, a, TYPE]
    u = t.task[i, j, TENANT]
    for r in range(t.quota.shape[2]):
        free = s.agents[b, a, FREE + r]
        quota_left = NEVER
        if t.quota.shape[1] > 0:
            quota_left = s.tenants[b, u, QUOTA_LEFT + r]
        for k in range(s.env[b, N_RUNNING]):
            q = s.task[b, RUNNING_TASKS, k]
            if max(s.task[b, VISIBLE_END, q], s.env[b, TIME] + 1) <= tick:
                released = t.task_on_type[i, q, t.agents[i, s.task[b, AGENT, q], TYPE], DEMAND + r]
                if s.task[b, AGENT, q] == a:
                    free += released
                if t.quota.shape[1] > 0 and t.task[i, q, TENANT] == u:
                    quota_left += released
        if (
            t.task_on_type[i, j, agent_type, DEMAND + r] > free
            or t.task_on_type[i, j, agent_type, DEMAND + r] > quota_left
        ):
            return False
    end_tick = tick + t.task_on_type[i, j, agent_type, VISIBLE]
    for e in range(s.agents[b, a, OUTAGE_INDEX], t.outages.shape[2]):
        if t.outages[i, a, e, ANNOUNCED] == 1:
            if (
                t.outages[i, a, e, OUTAGE_START] < end_tick
                and tick < t.outages[i, a, e, OUTAGE_END]
            ):
                return False
        elif e == s.agents[b, a, OUTAGE_INDEX] and s.agents[b, a, UP] == 0:
            return False
    return True


@device_function
def reserved_start(t, s, b, j, a):
    """Return the earliest tick at which j fits on a.

    It follows from the visible ends of the running tasks and the announced outages. NEVER while a
    is away in an unannounced outage, whose end is not known.
    """
    i = np.uint64(s.env[b, INSTANCE])
    tick = s.env[b, TIME]
    while not fits_at(t, s, b, j, a, tick):
        next_tick = NEVER
        for k in range(s.env[b, N_RUNNING]):
            end = max(s.task[b, VISIBLE_END, s.task[b, RUNNING_TASKS, k]], s.env[b, TIME] + 1)
            if end > tick:
                next_tick = min(next_tick, end)
        for e in range(s.agents[b, a, OUTAGE_INDEX], t.outages.shape[2]):
            if t.outages[i, a, e, ANNOUNCED] == 1 and t.outages[i, a, e, OUTAGE_END] > tick:
                next_tick = min(next_tick, t.outages[i, a, e, OUTAGE_END])
        if next_tick == NEVER:
            return NEVER
        tick = next_tick
    return tick


@device_function
def start_backfill_tasks(t, s, b, first_task, first_agent):
    """Start tasks by EASY backfilling (Lifka 1995, doi:10.1007/3-540-60153-8_35).

    In queue order, start every task that fits now and by its visible duration ends before the
    reserved start of `first_task` on `first_agent`. It runs on the agent where its visible duration
    is shortest (ties: lowest index).
    """
    i = np.uint64(s.env[b, INSTANCE])
    reserved_tick = reserved_start(t, s, b, first_task, first_agent)
    k = 0
    while k < s.env[b, N_PENDING]:
        j = s.task[b, PENDING, k]
        best = -1
        if j != first_task:
            for a in range(t.size[i, N_AGENTS]):
                duration = t.task_on_type[i, j, t.agents[i, a, TYPE], VISIBLE]
                shorter = (
                    best < 0 or duration < t.task_on_type[i, j, t.agents[i, best, TYPE], VISIBLE]
                )
                if (
                    shorter
                    and s.env[b, TIME] + duration < reserved_tick
                    and fits_now(t, s, b, j, a)
                ):
                    best = a
        if best >= 0:
            start_task(t, s, b, j, best)
        else:
            k += 1


# -- what policies observe -------------------------------------------------------------------------


@inlined_function
def update_mask(t, s, b, n_shown):
    """Update the mask of the first `n_shown` queue positions and of `wait`.

    Only entries that may have changed are computed: those of dirty agents and tenants, and rows
    from `N_VALID_ROWS` on.
    """
    i = np.uint64(s.env[b, INSTANCE])
    m = t.agents.shape[1]
    n_agents = t.size[i, N_AGENTS]
    n_valid = s.env[b, N_VALID_ROWS]
    if not t.commit:
        for a in range(n_agents):
            if s.agents[b, a, DIRTY] == 1:
                agent_type = t.agents[i, a, TYPE]
                available_ticks = ticks_until_outage(s, b, a)
                for k in range(n_valid):
                    s.mask[b, k * m + a] = fits_within(
                        t, s, b, i, s.task[b, PENDING, k], a, agent_type, available_ticks
                    )
        if t.quota.shape[1] > 0:
            for k in range(n_valid):
                j = s.task[b, PENDING, k]
                if s.tenants[b, t.task[i, j, TENANT], DIRTY] == 1:
                    for a in range(n_agents):
                        s.mask[b, k * m + a] = fits_now(t, s, b, j, a)
            for u in range(t.quota.shape[1]):
                s.tenants[b, u, DIRTY] = 0
    for k in range(n_valid, n_shown):
        for a in range(n_agents):
            s.mask[b, k * m + a] = is_legal(t, s, b, s.task[b, PENDING, k], a)
    s.env[b, N_VALID_ROWS] = n_shown
    s.mask[b, s.mask.shape[1] - 1] = wait_is_legal(t, s, b)


@inlined_function
def update_agents(t, s, b):
    """Update the first and the last visible end of the tasks that run on each agent."""
    n_agents = t.size[s.env[b, INSTANCE], N_AGENTS]
    now = s.env[b, TIME]
    for a in range(n_agents):
        s.agents[b, a, DIRTY] = 0
        s.agents[b, a, NEXT_END] = NEVER
        s.agents[b, a, LAST_END] = now
    for k in range(s.env[b, N_RUNNING]):
        j = s.task[b, RUNNING_TASKS, k]
        a = s.task[b, AGENT, j]
        end = s.task[b, VISIBLE_END, j]
        s.agents[b, a, NEXT_END] = min(s.agents[b, a, NEXT_END], end)
        s.agents[b, a, LAST_END] = max(s.agents[b, a, LAST_END], end)
    for a in range(n_agents):
        if s.agents[b, a, NEXT_END] == NEVER:
            s.agents[b, a, NEXT_END] = now


@inlined_function
def update_window(t, s, b, n_shown):
    """Update the window: the first `n_shown` pending tasks, then known future arrivals.

    Future arrivals are shown only if the policy may know them and the queue leaves room.
    """
    n_future = 0
    if t.observe_all and not t.budget_sharing and s.env[b, N_PENDING] == n_shown:
        first_future = s.env[b, NEXT_ARRIVAL]
        n_future = min(
            t.size[s.env[b, INSTANCE], N_TASKS] - first_future, s.window.shape[1] - n_shown
        )
        for k in range(n_future):
            s.window[b, n_shown + k] = first_future + k
    for k in range(n_shown):
        s.window[b, k] = s.task[b, PENDING, k]
    for k in range(n_shown + n_future, s.window.shape[1]):
        s.window[b, k] = -1


@inlined_function
def update_observed_state(t, s, b):
    """Update all arrays that policies observe.

    No action is legal after the end of the episode.
    """
    n_shown = min(s.env[b, N_PENDING], s.window.shape[1])
    update_mask(t, s, b, n_shown)
    update_agents(t, s, b)
    update_window(t, s, b, n_shown)
    if s.env[b, STATUS] == TERMINATED or s.env[b, STATUS] == DEAD_END:
        for x in range(s.mask.shape[1]):
            s.mask[b, x] = 0


# -- the decision process --------------------------------------------------------------------------


@inlined_function
def advance_to_decision(t, s, b):
    """Let time pass until a decision is due or the episode is over."""
    i = np.uint64(s.env[b, INSTANCE])
    if t.budget_sharing:
        if s.env[b, N_FINISHED] == t.size[i, N_TASKS]:
            s.env[b, STATUS] = TERMINATED
        elif is_dead_end(t, s, b):
            s.reward[b] -= (
                s.env[b, N_PENDING] * t.reward_constants[i, PENALTY] / t.reward_constants[i, SCALE]
            )
            s.env[b, STATUS] = DEAD_END
    else:
        while True:
            if s.env[b, N_FINISHED] == t.size[i, N_TASKS]:
                s.env[b, STATUS] = TERMINATED
                break
            if s.env[b, N_PENDING] > 0 and not no_legal_action(t, s, b):
                break
            advance_to_next_event(t, s, b)
    if s.env[b, STATUS] == RUNNING and s.env[b, DECISIONS] >= t.max_decisions:
        s.env[b, STATUS] = TRUNCATED


@inlined_function
def begin_episode(t, s, b, i):
    """Set environment b to the start of an episode of instance i."""
    n = t.size[i, N_TASKS]
    m = t.size[i, N_AGENTS]
    s.env[b, INSTANCE] = i
    s.env[b, TIME] = 0
    s.env[b, NEXT_ARRIVAL] = 0
    s.env[b, N_PENDING] = 0
    s.env[b, N_RUNNING] = 0
    s.env[b, N_FINISHED] = 0
    s.env[b, WEIGHT_IN_SYSTEM] = 0
    s.env[b, LATEST_END] = 0
    s.env[b, N_KILLED] = 0
    s.env[b, N_VALID_ROWS] = 0
    s.reward[b] = 0.0
    s.env[b, DECISIONS] = 0
    s.env[b, STATUS] = RUNNING
    for j in range(n):
        s.task[b, AGENT, j] = -1
    for a in range(m, t.agents.shape[1]):  # padding may hold values of another instance
        for column in range(s.agents.shape[2]):
            s.agents[b, a, column] = 0
    for a in range(m):
        for r in range(t.quota.shape[2]):
            s.agents[b, a, FREE + r] = t.agents[i, a, CAPACITY + r]
        s.agents[b, a, UP] = 1
        s.agents[b, a, OUTAGE_INDEX] = 0
        s.agents[b, a, DIRTY] = 0
        find_announced_outage(t, s, b, a)
    for u in range(t.quota.shape[1]):
        for r in range(t.quota.shape[2]):
            s.tenants[b, u, QUOTA_LEFT + r] = t.quota[i, u, r]
        s.tenants[b, u, DIRTY] = 0
    for x in range(s.mask.shape[1]):
        s.mask[b, x] = 0
    apply_outage_events(t, s, b)
    if not t.sequential_events:
        release_due_tasks(t, s, b)


@inlined_function
def apply_action(t, s, b, action):
    """Apply a flat action and return whether the episode goes on from there.

    An illegal action only sets the status to ILLEGAL. NO_ACTION leaves an environment whose episode
    is over as it is.
    """
    if action == NO_ACTION and s.env[b, STATUS] != RUNNING:
        s.reward[b] = 0.0
        return False
    if (
        action < 0
        or action >= s.mask.shape[1]
        or s.mask[b, action] == 0
        or s.env[b, STATUS] != RUNNING
    ):
        s.env[b, STATUS] = ILLEGAL
        return False
    if s.env[b, DECISIONS] > 0:  # the first step also pays for the time before the first decision
        s.reward[b] = 0.0
    s.env[b, DECISIONS] += 1
    if action == s.mask.shape[1] - 1:
        advance_to_next_event(t, s, b)
    else:
        m = t.agents.shape[1]
        j = s.task[b, PENDING, action // m]
        a = action % m
        while t.commit and not fits_now(t, s, b, j, a):
            if t.easy_backfill:
                start_backfill_tasks(t, s, b, j, a)
            advance_to_next_event(t, s, b)
        start_task(t, s, b, j, a)
    return True


@inlined_function
def xorshift64(x):
    """Return the next number of the generator xorshift64, which is also its next state.

    Source: Marsaglia 2003, doi:10.18637/jss.v008.i14.
    """
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    return x


@inlined_function
def random_legal_action(s, b, m, random_bits):
    """Return the legal action that the random uint64 `random_bits` selects, uniformly."""
    wait = s.mask.shape[1] - 1
    n_entries = s.env[b, N_VALID_ROWS] * m
    count = np.int64(s.mask[b, wait])
    for k in range(n_entries):
        count += s.mask[b, k]
    rank = np.int64((random_bits >> np.uint64(11)) % np.uint64(count))
    for k in range(n_entries):
        rank -= s.mask[b, k]
        if rank < 0:
            return k
    return wait


class Operands(NamedTuple):
    """What operations of `run` read and write besides tables and state."""

    numbers: Ints  # (B,)
    returns: NDArray[np.float64]  # (B, 2)


@compiled(_nrt=False, nogil=True, forceinline=True)
def run(t, s, first, end, operation, operands, decisions):
    """Run one operation in the environments from `first` to `end` - 1.

    There is one function for all operations because each function that contains the decision
    process takes seconds to compile.

    Parameters
    ----------
    operation
        STEP: apply an action. RESET: start an episode. RESET_IF_OVER: start one where the last is
        over; the status ILLEGAL is kept, so that it can be reported later. PLAY: play uniformly
        random legal actions until the episode is over. PLAY_ON: also start the instance again.
    operands.numbers
        (B,) For STEP flat actions; for RESET instances, negative where nothing is to be done; for
        RESET_IF_OVER instances; for PLAY and PLAY_ON states of the random-number generators, the
        bits of non-zero uint64.
    decisions
        The largest number of decisions of PLAY and PLAY_ON.
    operands.returns
        (B, 2) For PLAY and PLAY_ON: gets the number of finished episodes and the sum of their
        returns. Not used by the other operations.
    """
    plays = operation in (PLAY, PLAY_ON)
    for environment in range(first, end):
        b = np.uint64(environment)
        number = operands.numbers[environment]
        resets = operation in (RESET, RESET_IF_OVER)
        goes_on = True
        if operation == RESET:
            goes_on = number >= 0
        elif operation == RESET_IF_OVER:
            goes_on = s.env[b, STATUS] != RUNNING and s.env[b, STATUS] != ILLEGAL
        seed = np.uint64(number)
        decisions_left = decisions
        total = 0.0
        if plays:
            operands.returns[b, 0] = 0.0
            operands.returns[b, 1] = 0.0
        while goes_on:
            if plays and not resets:
                if decisions_left == 0 or s.env[b, STATUS] != RUNNING:
                    break
                decisions_left -= 1
                seed = xorshift64(seed)
                number = random_legal_action(s, b, t.agents.shape[1], seed)
            changed = True
            if resets:
                begin_episode(t, s, b, number)
            else:
                changed = apply_action(t, s, b, number)
            if changed:
                advance_to_decision(t, s, b)
                update_observed_state(t, s, b)
            goes_on = plays
            if resets:
                resets = False
            elif plays:
                total += s.reward[b]
                if s.env[b, STATUS] != RUNNING:
                    operands.returns[b, 0] += 1.0
                    operands.returns[b, 1] += total
                    total = 0.0
                    resets = operation == PLAY_ON
                    number = s.env[b, INSTANCE]


# -- all environments, on the CPU ------------------------------------------------------------------

NO_RETURNS = np.zeros((0, 2))


def step(t: InstanceTables, s: SimulatorState, actions: Ints) -> None:
    """Apply flat actions (B,), on several threads where that pays."""
    threads = get_num_threads() if len(actions) >= MIN_ENVS_FOR_THREADS else 1
    _run_all(t, s, STEP, actions, threads)


def reset(t: InstanceTables, s: SimulatorState, environments: Ints, instances: Ints) -> None:
    """Start episodes in the environments (E,), each of its instance (E,)."""
    numbers = np.full(len(s.env), -1)
    numbers[environments] = instances
    _run_all(t, s, RESET, numbers)


def restart(t: InstanceTables, s: SimulatorState, instances: Ints, all_envs: bool) -> None:
    """Start episodes of `instances` (B,) where one is over, or everywhere."""
    _run_all(t, s, RESET if all_envs else RESET_IF_OVER, instances)


def play_random(
    t: InstanceTables,
    s: SimulatorState,
    seeds: NDArray[np.uint64],
    decisions: int,
    restart: bool,
    returns: NDArray[np.float64],
) -> None:
    """Play random legal actions in every environment on numba's number of threads.

    Parameters
    ----------
    seeds
        (B,) States of the random-number generators, non-zero.
    decisions
        The largest number of decisions per environment.
    restart
        Whether a finished environment plays its instance again; else it stops.
    returns
        (B, 2) Gets the number of finished episodes and the sum of their returns.
    """
    operation = PLAY_ON if restart else PLAY
    _run_all(t, s, operation, seeds.view(np.int64), get_num_threads(), decisions, returns)


def _run_all(
    t: InstanceTables,
    s: SimulatorState,
    operation: int,
    numbers: Ints,
    threads: int = 1,
    decisions: int = 0,
    returns: NDArray[np.float64] = NO_RETURNS,
) -> None:
    """Call `run` for all environments, parts of them on threads."""
    operands = Operands(kernel_array(numbers), returns)
    if threads == 1:
        run(t, s, 0, len(numbers), operation, operands, decisions)
        return
    edges = np.linspace(0, len(numbers), threads + 1).astype(int).tolist()
    parts = [
        _threads(threads).submit(run, t, s, first, end, operation, operands, decisions)
        for first, end in pairwise(edges)
    ]
    for part in parts:
        part.result()


@functools.cache
def _threads(number: int) -> ThreadPoolExecutor:
    """Return a pool of threads, the same at every call: starting threads takes long."""
    return ThreadPoolExecutor(number)


os.register_at_fork(after_in_child=_threads.cache_clear)  # a fork has none of the threads
