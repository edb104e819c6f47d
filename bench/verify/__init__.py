"""The verifier: lists every rule that a schedule breaks, from (instance, schedule) alone.

The rules are those of bench/docs/problem.md section 2; each rule is one function. The verifier
shares no code with the simulator or with a solver, so that an error there cannot hide itself here.

In array shapes P is the number of pieces of work in the schedule, R of resources and O of owners
(agents or tenants). Times are in ticks, intervals are half open: [start, end).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.instance import NOT_ELIGIBLE, Instance, Ints
from bench.schedule import Schedule

__all__ = ["verify"]

MAX_LISTED_TASKS = 8  # tasks that one violation lists by index


class Pieces(NamedTuple):
    """The P pieces whose task and agent exist, with what the instance says about each."""

    task: Ints  # (P,)
    agent: Ints  # (P,)
    start: Ints  # (P,) tick
    end: Ints  # (P,) tick
    duration: Ints  # (P,) ticks p_j of the task on that agent, -1: not eligible there
    demand: Ints  # (P, R) units held over [start, end)
    lost: NDArray[np.bool_]  # (P,) cut short by an outage that may kill the task

    def select(self, mask: NDArray[np.bool_]) -> Pieces:
        """Return the pieces selected by `mask` (P,)."""
        return Pieces._make(column[mask] for column in self)

    def describe(self, i: np.integer | int) -> str:
        """Return piece i in words."""
        ticks = f"[{self.start[i]}, {self.end[i]})"
        return f"task {self.task[i]} on agent {self.agent[i]} in ticks {ticks}"


def verify(instance: Instance, schedule: Schedule) -> list[str]:
    """Return every violation in words; an empty list means that the schedule is feasible.

    A violation names the task, agent, ticks, resource and amounts that it is about. An overload is
    listed once per maximal interval. A piece that names a task or an agent that does not exist is
    one violation, and the other rules ignore it. A piece on an agent that is not eligible or too
    small is one violation, and the capacity of the agent is checked without it.
    """
    pieces = _pieces(instance, schedule)
    rules = (
        assigned_once,
        full_length,
        lost_pieces_first,
        eligible,
        fits_alone,
        released,
        outside_outages,
        capacity,
        quotas,
    )
    return [
        *indices(instance, schedule),
        *(violation for rule in rules for violation in rule(instance, pieces)),
    ]


def _exists(instance: Instance, schedule: Schedule) -> NDArray[np.bool_]:
    """Return (P,): whether the instance has the piece's task and agent."""
    return (schedule.task < instance.n_tasks) & (schedule.agent < instance.n_agents)


def _pieces(instance: Instance, schedule: Schedule) -> Pieces:
    exists = _exists(instance, schedule)
    task = schedule.task[exists]
    agent = schedule.agent[exists]
    start = schedule.start[exists]
    end = schedule.end[exists]
    agent_type = instance.agent_type[agent]
    duration = instance.duration[task, agent_type]
    lost = (end - start < duration) & _killed_at_end(instance, task, agent, end)
    return Pieces(task, agent, start, end, duration, instance.demand[task, agent_type], lost)


def _killed_at_end(instance: Instance, task: Ints, agent: Ints, end: Ints) -> NDArray[np.bool_]:
    """Return (P,): whether an outage of the agent starts at `end` and may kill a running task.

    An outage that was not announced always may. An announced one may only where the estimate of
    the task was wrong: a task that cannot end before the outage by its estimate is not started.
    """
    announced = {(outage.agent, outage.start): outage.announced for outage in instance.outages}
    at_end = [announced.get(pair) for pair in zip(agent.tolist(), end.tolist(), strict=True)]
    not_announced = np.array([value is False for value in at_end], dtype=bool)
    known = np.array([value is True for value in at_end], dtype=bool)
    agent_type = instance.agent_type[agent]
    misestimated: NDArray[np.bool_] = (
        instance.estimate[task, agent_type] != instance.duration[task, agent_type]
    )
    return not_announced | (known & misestimated)


# -- the rules -------------------------------------------------------------------------------------


def indices(instance: Instance, schedule: Schedule) -> Iterator[str]:
    """Every piece names a task and an agent that exist."""
    for i in np.flatnonzero(~_exists(instance, schedule)):
        yield (
            f"piece {i}: task {schedule.task[i]} on agent {schedule.agent[i]} does not exist "
            f"(tasks 0 to {instance.n_tasks - 1}, agents 0 to {instance.n_agents - 1})"
        )


def assigned_once(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """Every task has exactly one piece, not counting those lost to an outage."""
    times = np.bincount(pieces.task[~pieces.lost], minlength=instance.n_tasks)
    losses = np.bincount(pieces.task[pieces.lost], minlength=instance.n_tasks)
    for task in np.flatnonzero(times != 1):
        if times[task]:
            rows = np.flatnonzero((pieces.task == task) & ~pieces.lost)
            places = ", ".join(
                f"agent {pieces.agent[i]} [{pieces.start[i]}, {pieces.end[i]})" for i in rows
            )
            yield f"task {task} is assigned {times[task]} times, must be once: {places}"
        elif losses[task]:
            yield (
                f"task {task} was cut short by outages ({losses[task]} lost pieces) "
                "and never assigned again"
            )
        else:
            yield f"task {task} is not assigned to any agent"


def full_length(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """A piece is as long as the task's duration on that agent, unless an outage cut it short."""
    length = pieces.end - pieces.start
    applies = (pieces.duration != NOT_ELIGIBLE) & ~pieces.lost
    for i in np.flatnonzero((length != pieces.duration) & applies):
        yield (
            f"{pieces.describe(i)} runs {length[i]} ticks, "
            f"its duration there is {pieces.duration[i]}"
        )


def lost_pieces_first(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """A piece lost to an outage ends before the task's next piece starts, and is not the last."""
    order = np.lexsort((pieces.end, pieces.start, pieces.task))
    first = order[:-1]
    second = order[1:]
    pairs = (pieces.task[first] == pieces.task[second]) & (pieces.lost[first] | pieces.lost[second])
    for before, after in zip(first[pairs], second[pairs], strict=True):
        if pieces.start[after] < pieces.end[before]:
            yield (
                f"{pieces.describe(before)} overlaps its next piece, "
                f"on agent {pieces.agent[after]} from {pieces.start[after]}"
            )
        elif not pieces.lost[before]:
            yield (
                f"{pieces.describe(before)} completes it, "
                f"yet it runs again on agent {pieces.agent[after]}"
            )


def eligible(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """The agent of a piece is of a type that can run the task."""
    for i in np.flatnonzero(pieces.duration == NOT_ELIGIBLE):
        agent_type = instance.agent_type[pieces.agent[i]]
        yield f"{pieces.describe(i)}: not eligible on agent type {agent_type} (duration -1)"


def fits_alone(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """The agent's capacity covers the task's demand alone."""
    limit = instance.capacity[pieces.agent]
    applies = (pieces.duration != NOT_ELIGIBLE)[:, None]
    for i, r in np.argwhere((pieces.demand > limit) & applies):
        yield (
            f"{pieces.describe(i)} alone needs {pieces.demand[i, r]} {instance.resources[r]}, "
            f"the agent has {limit[i, r]}"
        )


def released(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """No piece starts before its task's release; with `budget` sharing every piece starts at 0."""
    release = instance.release[pieces.task]
    for i in np.flatnonzero(pieces.start < release):
        yield f"{pieces.describe(i)} starts before its release at {release[i]}"
    if instance.sharing == "budget":
        for i in np.flatnonzero(pieces.start > 0):
            yield f"{pieces.describe(i)} must start at 0: `budget` sharing has no clock"


def outside_outages(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """No piece overlaps an outage of its agent, announced or not; it may end where one starts."""
    for agent, start, end, _ in instance.outages:
        overlaps = (pieces.agent == agent) & (pieces.start < end) & (pieces.end > start)
        for i in np.flatnonzero(overlaps):
            yield f"{pieces.describe(i)} overlaps the agent's outage [{start}, {end})"


def capacity(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """The running pieces of an agent fit its capacity; with `budget` sharing all its pieces do."""
    fits = (pieces.demand <= instance.capacity[pieces.agent]).all(axis=1)
    held = pieces.select(fits & (pieces.duration != NOT_ELIGIBLE))
    return _overloads(instance, held, held.agent, instance.capacity, "agent", "capacity")


def quotas(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """The running pieces of a tenant, summed over agents, fit its quota.

    With `budget` sharing all its pieces do.
    """
    if instance.quota is None or instance.tenant is None:
        return iter(())
    held = pieces.select(pieces.duration != NOT_ELIGIBLE)
    return _overloads(instance, held, instance.tenant[held.task], instance.quota, "tenant", "quota")


# -- sums over the pieces of an owner --------------------------------------------------------------


def _overloads(
    instance: Instance, pieces: Pieces, owner: Ints, limit: Ints, noun: str, bound: str
) -> Iterator[str]:
    """Yield where the pieces of one owner (P,) hold more than its limit (O, R).

    With `budget` sharing in total, else per maximal interval.
    """
    if instance.sharing == "budget":
        total = np.zeros_like(limit)
        np.add.at(total, owner, pieces.demand)
        for o, r in np.argwhere(total > limit):
            yield (
                f"{noun} {o} holds {total[o, r]} {instance.resources[r]} in total, "
                f"{bound} {limit[o, r]} ({_list_tasks(pieces.task[owner == o])})"
            )
        return
    for o, r, start, end, peak, held in _intervals_above(owner, pieces, limit):
        running = (owner == o) & (pieces.start <= peak) & (peak < pieces.end)
        yield (
            f"{noun} {o} holds {held} {instance.resources[r]} at tick {peak}, "
            f"{bound} {limit[o, r]}, exceeded in [{start}, {end}) "
            f"({_list_tasks(pieces.task[running])})"
        )


def _intervals_above(
    owner: Ints, pieces: Pieces, limit: Ints
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Yield (owner, resource, start, end, peak tick, units held there) of each overload.

    Each is a maximal interval above the limit. It takes one pass over all starts and ends, sorted
    by owner and tick: what an owner holds is 0 after its last event, so one running sum serves all
    owners, and no interval reaches from one owner into the next.
    """
    if not len(owner):
        return
    owners = np.tile(owner, 2)
    tick = np.concatenate([pieces.start, pieces.end])
    order = np.lexsort((tick, owners))
    owners = owners[order]
    tick = tick[order]
    held = np.cumsum(np.concatenate([pieces.demand, -pieces.demand])[order], axis=0)
    # Only the sum after all changes of one (owner, tick) is what is held there.
    last_change = np.append((owners[1:] != owners[:-1]) | (tick[1:] != tick[:-1]), True)
    owners = owners[last_change]
    tick = tick[last_change]
    held = held[last_change]
    above = (held > limit[owners]).astype(np.int8)
    for r in range(limit.shape[1]):
        boundaries = np.flatnonzero(np.diff(above[:, r], prepend=0, append=0))
        for first, stop in boundaries.reshape(-1, 2):
            peak = first + int(np.argmax(held[first:stop, r]))
            yield (
                int(owners[first]),
                r,
                int(tick[first]),
                int(tick[stop]),
                int(tick[peak]),
                int(held[peak, r]),
            )


def _list_tasks(tasks: Ints) -> str:
    """Return `tasks 3, 5, 7 and 2 more`."""
    more = f" and {len(tasks) - MAX_LISTED_TASKS} more" if len(tasks) > MAX_LISTED_TASKS else ""
    return f"tasks {', '.join(map(str, np.sort(tasks)[:MAX_LISTED_TASKS]))}{more}"
