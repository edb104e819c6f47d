"""Left-shifting: any feasible schedule becomes an active one, in which no task can start earlier unless another one moves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.instance import Instance, Ints
from bench.schedule import Schedule, ScheduleError


def active(instance: Instance, schedule: Schedule) -> Schedule:
    """The active schedule with the agents and the order of `schedule` (serial generation; Sprecher, Kolisch & Drexl 1995).

    In order of (start, task) each task gets the earliest start on its agent that release, outages (announced or not), capacity
    and quota allow beside the tasks placed before it. If `schedule` is feasible, no task starts later than it did: every task
    placed before j started no later than j, ends no later than before, so it holds nothing in [s_j, C_j) that it did not hold
    there already, and s_j is still free. So no regular objective gets worse.
    Where a task has several pieces (it was killed), its last one counts. With `budget` sharing nothing can move.

    Raises:
        ScheduleError: where a task has no piece, or its agent could not run it even if it were empty.
    """
    if instance.sharing == "budget":
        return schedule
    agent, order = _last_pieces(instance, schedule)
    duration = instance.duration[np.arange(instance.n_tasks), instance.agent_type[agent]]
    demand = instance.demand[np.arange(instance.n_tasks), instance.agent_type[agent]]
    start = np.zeros(instance.n_tasks, dtype=np.int64)
    end = np.zeros(instance.n_tasks, dtype=np.int64)
    for position, j in enumerate(order):
        placed = order[:position]
        blocked = [
            np.array(
                [o[1:3] for o in instance.outages if o.agent == agent[j]], dtype=np.int64
            ).reshape(-1, 2)
        ]
        rivals = placed[agent[placed] == agent[j]]
        blocked.append(
            _full(
                start[rivals], end[rivals], demand[rivals], instance.capacity[agent[j]] - demand[j]
            )
        )
        if instance.quota is not None and instance.tenant is not None:
            own = placed[instance.tenant[placed] == instance.tenant[j]]
            free = instance.quota[instance.tenant[j]] - demand[j]
            blocked.append(_full(start[own], end[own], demand[own], free))
        start[j] = _first_gap(int(instance.release[j]), int(duration[j]), np.concatenate(blocked))
        end[j] = start[j] + duration[j]
    return Schedule.from_assignment(instance, agent, start)


def _last_pieces(instance: Instance, schedule: Schedule) -> tuple[Ints, Ints]:
    """The agent of each task (N,) and the tasks by (start, index) (N,), both from each task's last piece."""
    agent = np.full(instance.n_tasks, -1, dtype=np.int64)
    begin = np.zeros(instance.n_tasks, dtype=np.int64)
    for piece in np.argsort(schedule.start, kind="stable"):
        agent[schedule.task[piece]] = schedule.agent[piece]
        begin[schedule.task[piece]] = schedule.start[piece]
    for j, a in enumerate(agent):
        if a < 0 or not fits_alone(instance, j)[a]:
            where = "no piece" if a < 0 else f"agent {a}, which can not run it"
            raise ScheduleError(
                f"task {j}: has {where}; only a complete schedule can be left-shifted"
            )
    return agent, np.lexsort((np.arange(instance.n_tasks), begin))


def fits_alone(instance: Instance, task: int) -> NDArray[np.bool_]:
    """(M,): the agents on which `task` is eligible and would fit if nothing else ran, its tenant's quota included."""
    demand = instance.demand[task, instance.agent_type]
    fits = (instance.duration[task, instance.agent_type] > 0) & (demand <= instance.capacity).all(
        axis=1
    )
    if instance.quota is not None and instance.tenant is not None:
        fits &= (demand <= instance.quota[instance.tenant[task]]).all(axis=1)
    return fits


def _full(start: Ints, end: Ints, demand: Ints, free: Ints) -> Ints:
    """(B, 2) spans in which pieces (n,), (n,), (n, R) together hold more than `free` (R,) of some resource."""
    ticks = np.concatenate([start, end])
    change = np.concatenate([demand, -demand])
    order = np.argsort(ticks, kind="stable")
    ticks, held = ticks[order], np.cumsum(change[order], axis=0)
    span = np.stack([ticks[:-1], ticks[1:]], axis=1)
    return span[(held[:-1] > free).any(axis=1) & (span[:, 0] < span[:, 1])]


def _first_gap(release: int, length: int, blocked: Ints) -> int:
    """The first tick t >= release for which [t, t + length) meets none of the spans `blocked` (B, 2)."""
    t = release
    for begin, end in blocked[np.argsort(blocked[:, 0], kind="stable")]:
        if begin >= t + length:
            break
        t = max(t, int(end))
    return t
