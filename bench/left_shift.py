"""Left-shifting: turn a feasible schedule into an active one.

In an active schedule no task can start earlier unless another task starts later.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.instance import Instance, Ints
from bench.schedule import Schedule, ScheduleError


def active(instance: Instance, schedule: Schedule) -> Schedule:
    """Return the active schedule with the agents and the order of `schedule`.

    Serial schedule generation (Sprecher, Kolisch & Drexl 1995): in order of (start, index) each
    task gets the earliest start on its agent that its release, outages (announced or not), capacity
    and quota allow beside the tasks that were placed before it.

    If `schedule` is feasible, no task starts later than it did, so no regular objective gets worse.
    Proof: every task placed before j started no later than s_j and now ends no later than it did.
    So in [s_j, C_j) it holds nothing that it did not hold there in `schedule`, and s_j is still a
    feasible start of j.

    Where a task has several pieces (it was killed), its last piece counts. With `budget` sharing
    the schedule is returned unchanged.

    Raises
    ------
    ScheduleError
        When a task has no piece, or its agent could not run it alone.
    """
    if instance.sharing == "budget":
        return schedule
    agent, order = _last_pieces(instance, schedule)
    tasks = np.arange(instance.n_tasks)
    duration = instance.duration[tasks, instance.agent_type[agent]]  # (N,)
    demand = instance.demand[tasks, instance.agent_type[agent]]  # (N, R)
    start = np.zeros(instance.n_tasks, dtype=np.int64)
    end = np.zeros(instance.n_tasks, dtype=np.int64)
    for position, j in enumerate(order):
        placed = order[:position]
        outages = [outage[1:3] for outage in instance.outages if outage.agent == agent[j]]
        on_agent = placed[agent[placed] == agent[j]]
        free = instance.capacity[agent[j]] - demand[j]
        blocked = [
            np.array(outages, dtype=np.int64).reshape(-1, 2),
            _overloaded(start[on_agent], end[on_agent], demand[on_agent], free),
        ]
        if instance.quota is not None and instance.tenant is not None:
            own = placed[instance.tenant[placed] == instance.tenant[j]]
            free = instance.quota[instance.tenant[j]] - demand[j]
            blocked.append(_overloaded(start[own], end[own], demand[own], free))
        start[j] = _first_gap(int(instance.release[j]), int(duration[j]), np.concatenate(blocked))
        end[j] = start[j] + duration[j]
    return Schedule.from_assignment(instance, agent, start)


def _last_pieces(instance: Instance, schedule: Schedule) -> tuple[Ints, Ints]:
    """Return the agent of each task (N,) and the tasks by (start, index) (N,).

    Both are those of the last piece of each task.
    """
    agent = np.full(instance.n_tasks, -1, dtype=np.int64)
    begin = np.zeros(instance.n_tasks, dtype=np.int64)
    for piece in np.argsort(schedule.start, kind="stable"):
        agent[schedule.task[piece]] = schedule.agent[piece]
        begin[schedule.task[piece]] = schedule.start[piece]
    for j, a in enumerate(agent):
        if a < 0 or not fits_alone(instance, j)[a]:
            problem = "has no piece" if a < 0 else f"is on agent {a}, which cannot run it"
            raise ScheduleError(
                f"task {j}: {problem}; only a complete feasible schedule can be left-shifted"
            )
    return agent, np.lexsort((np.arange(instance.n_tasks), begin))


def fits_alone(instance: Instance, task: int) -> NDArray[np.bool_]:
    """Return (M,): the agents that could run `task` if no other task ran.

    The task is eligible there, and the capacity and the quota of its tenant cover its demand.
    """
    demand = instance.demand[task, instance.agent_type]  # (M, R)
    eligible = instance.duration[task, instance.agent_type] > 0
    fits: NDArray[np.bool_] = eligible & (demand <= instance.capacity).all(axis=1)
    if instance.quota is not None and instance.tenant is not None:
        fits &= (demand <= instance.quota[instance.tenant[task]]).all(axis=1)
    return fits


def _overloaded(start: Ints, end: Ints, demand: Ints, free: Ints) -> Ints:
    """Return the intervals, (B, 2), in which pieces hold more of some resource than `free`.

    Parameters
    ----------
    start, end
        Start and end tick of each piece, shape (n,).
    demand
        Units that each piece holds, shape (n, R).
    free
        Units that the pieces may hold together, shape (R,).
    """
    ticks = np.concatenate([start, end])
    change = np.concatenate([demand, -demand])
    order = np.argsort(ticks, kind="stable")
    ticks = ticks[order]
    held = np.cumsum(change[order], axis=0)
    interval = np.stack([ticks[:-1], ticks[1:]], axis=1)
    return interval[(held[:-1] > free).any(axis=1) & (interval[:, 0] < interval[:, 1])]


def _first_gap(release: int, length: int, blocked: Ints) -> int:
    """Return the first tick t >= release such that [t, t + length) meets no interval (B, 2)."""
    t = release
    for begin, end in blocked[np.argsort(blocked[:, 0], kind="stable")]:
        if begin >= t + length:
            break
        t = max(t, int(end))
    return t
