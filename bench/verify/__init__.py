"""The judge: lists every rule of SPEC section 2 that a schedule breaks, from (instance, schedule) alone.

One rule is one function is one sentence. Nothing here is shared with the simulator or with a solver.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.instance import NOT_ELIGIBLE, Instance, Ints
from bench.schedule import Schedule

__all__ = ["verify"]

MOST_NAMED = 8  # tasks named in one sentence


class Pieces(NamedTuple):
    """The P pieces whose task and agent exist, and what the instance says about each."""

    task: Ints  # (P,)
    agent: Ints  # (P,)
    start: Ints  # (P,) tick
    end: Ints  # (P,) tick
    needed: Ints  # (P,) ticks p_j on that agent, -1 = not eligible there
    demand: Ints  # (P, R) units held over [start, end)
    lost: NDArray[
        np.bool_
    ]  # (P,) cut short exactly where an outage of its agent starts, and the instance may kill

    def where(self, mask: NDArray[np.bool_]) -> Pieces:
        """The pieces selected by `mask` (P,)."""
        return Pieces._make(column[mask] for column in self)

    def name(self, i: np.integer | int) -> str:
        """Piece i in words."""
        return f"task {self.task[i]} on agent {self.agent[i]} in ticks [{self.start[i]}, {self.end[i]})"


def verify(instance: Instance, schedule: Schedule) -> list[str]:
    """Every violation in words, with task, agent, ticks, resource and amounts; an empty list means feasible.

    Overloads are listed once per maximal interval. A piece that names a task or agent which does not exist is one violation
    and is left out of the other rules; one on an agent that is not eligible or too small is left out of the agent's capacity.
    """
    pieces = _pieces(instance, schedule)
    rules = (
        assigned_once,
        full_length,
        lost_pieces_first,
        eligible,
        fits_alone,
        released,
        not_away,
        capacity,
        quotas,
    )
    return [
        *indices(instance, schedule),
        *(sentence for rule in rules for sentence in rule(instance, pieces)),
    ]


def _exists(instance: Instance, schedule: Schedule) -> NDArray[np.bool_]:
    """(P,): the piece's task and agent are those of the instance."""
    return (schedule.task < instance.n_tasks) & (schedule.agent < instance.n_agents)


def _pieces(instance: Instance, schedule: Schedule) -> Pieces:
    columns = (schedule.task, schedule.agent, schedule.start, schedule.end)
    task, agent, start, end = (column[_exists(instance, schedule)] for column in columns)
    kind = instance.agent_type[agent]
    needed = instance.duration[task, kind]
    edges = {(outage.agent, outage.start): outage.announced for outage in instance.outages}
    met = [edges.get(pair) for pair in zip(agent.tolist(), end.tolist(), strict=True)]
    hidden, known = (
        np.array([announced is value for announced in met], dtype=bool) for value in (False, True)
    )
    caught = hidden | (
        known & (instance.estimate[task, kind] != needed)
    )  # a known one only where the estimate was wrong
    return Pieces(
        task,
        agent,
        start,
        end,
        needed,
        instance.demand[task, kind],
        caught & (end - start < needed),
    )


# -- the rules -------------------------------------------------------------------------------------------------


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
            yield f"task {task} was cut short by outages ({losses[task]} lost pieces) and never assigned again"
        else:
            yield f"task {task} is not assigned to any agent"


def full_length(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """A piece is as long as the task takes on that agent, unless an outage cut it short."""
    length = pieces.end - pieces.start
    for i in np.flatnonzero(
        (length != pieces.needed) & (pieces.needed != NOT_ELIGIBLE) & ~pieces.lost
    ):
        yield f"{pieces.name(i)} runs {length[i]} ticks, its duration there is {pieces.needed[i]}"


def lost_pieces_first(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """A piece lost to an outage is over before the task's next piece starts, and is never the last one."""
    order = np.lexsort((pieces.end, pieces.start, pieces.task))
    first, second = order[:-1], order[1:]
    pairs = (pieces.task[first] == pieces.task[second]) & (pieces.lost[first] | pieces.lost[second])
    for before, after in zip(first[pairs], second[pairs], strict=True):
        if pieces.start[after] < pieces.end[before]:
            yield f"{pieces.name(before)} overlaps its next piece, on agent {pieces.agent[after]} from {pieces.start[after]}"
        elif not pieces.lost[before]:
            yield f"{pieces.name(before)} completes it, yet it runs again on agent {pieces.agent[after]}"


def eligible(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """The agent of a piece is of a type that can run the task."""
    for i in np.flatnonzero(pieces.needed == NOT_ELIGIBLE):
        kind = instance.agent_type[pieces.agent[i]]
        yield f"{pieces.name(i)}: not eligible on agent type {kind} (duration -1)"


def fits_alone(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """The agent's capacity covers the task's demand alone."""
    limit = instance.capacity[pieces.agent]
    for i, r in np.argwhere((pieces.demand > limit) & (pieces.needed != NOT_ELIGIBLE)[:, None]):
        name = instance.resources[r]
        yield f"{pieces.name(i)} alone needs {pieces.demand[i, r]} {name}, the agent has {limit[i, r]}"


def released(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """No piece starts before its task's release; with `budget` sharing every piece starts at 0."""
    release = instance.release[pieces.task]
    for i in np.flatnonzero(pieces.start < release):
        yield f"{pieces.name(i)} starts before its release at {release[i]}"
    if instance.sharing == "budget":
        for i in np.flatnonzero(pieces.start > 0):
            yield f"{pieces.name(i)} must start at 0: `budget` sharing has no clock"


def not_away(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """No piece overlaps an outage of its agent, announced or not (it may end exactly where one starts)."""
    for agent, start, end, _ in instance.outages:
        for i in np.flatnonzero(
            (pieces.agent == agent) & (pieces.start < end) & (pieces.end > start)
        ):
            yield f"{pieces.name(i)} overlaps the agent's outage [{start}, {end})"


def capacity(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """At every tick an agent's running pieces fit its capacity; with `budget` sharing all its pieces do."""
    fits = (pieces.demand <= instance.capacity[pieces.agent]).all(axis=1) & (
        pieces.needed != NOT_ELIGIBLE
    )
    held = pieces.where(fits)
    return _overloads(instance, held, held.agent, instance.capacity, "agent", "capacity")


def quotas(instance: Instance, pieces: Pieces) -> Iterator[str]:
    """At every tick a tenant's running pieces fit its quota, summed over agents; with `budget` sharing all its pieces do."""
    if instance.quota is None or instance.tenant is None:
        return iter(())
    held = pieces.where(pieces.needed != NOT_ELIGIBLE)
    return _overloads(instance, held, instance.tenant[held.task], instance.quota, "tenant", "quota")


# -- sums over an owner's pieces -------------------------------------------------------------------------------


def _overloads(
    instance: Instance, pieces: Pieces, owner: Ints, limit: Ints, noun: str, bound: str
) -> Iterator[str]:
    """Where the pieces of one owner (P,) hold more than its limit (O, R): in total, or per maximal interval."""
    if instance.sharing == "budget":
        total = np.zeros_like(limit)
        np.add.at(total, owner, pieces.demand)
        for o, r in np.argwhere(total > limit):
            tasks = _named(pieces.task[owner == o])
            yield f"{noun} {o} holds {total[o, r]} {instance.resources[r]} in total, {bound} {limit[o, r]} ({tasks})"
        return
    for o, r, start, end, peak, held in _sweep(owner, pieces, limit):
        tasks = _named(pieces.task[(owner == o) & (pieces.start <= peak) & (peak < pieces.end)])
        name = instance.resources[r]
        yield f"{noun} {o} holds {held} {name} at tick {peak}, {bound} {limit[o, r]}, exceeded in [{start}, {end}) ({tasks})"


def _sweep(
    owner: Ints, pieces: Pieces, limit: Ints
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """(owner, resource, start, end, peak tick, units held there) of every maximal interval above the limit.

    One pass over starts and ends sorted by owner and tick. What is held comes back to 0 at each owner's last event, so a
    single running sum serves all owners and no interval reaches from one owner into the next.
    """
    if not len(owner):
        return
    who, tick = np.tile(owner, 2), np.concatenate([pieces.start, pieces.end])
    order = np.lexsort((tick, who))
    who, tick = who[order], tick[order]
    held = np.cumsum(np.concatenate([pieces.demand, -pieces.demand])[order], axis=0)
    settled = np.append(
        (who[1:] != who[:-1]) | (tick[1:] != tick[:-1]), True
    )  # after all changes of one (owner, tick)
    who, tick, held = who[settled], tick[settled], held[settled]
    above = (held > limit[who]).astype(np.int8)
    for r in range(limit.shape[1]):
        edges = np.flatnonzero(np.diff(above[:, r], prepend=0, append=0))
        for first, stop in edges.reshape(-1, 2):
            peak = first + int(np.argmax(held[first:stop, r]))
            yield (
                int(who[first]),
                r,
                int(tick[first]),
                int(tick[stop]),
                int(tick[peak]),
                int(held[peak, r]),
            )


def _named(tasks: Ints) -> str:
    """`tasks 3, 5, 7 and 2 more`."""
    more = f" and {len(tasks) - MOST_NAMED} more" if len(tasks) > MOST_NAMED else ""
    return f"tasks {', '.join(map(str, np.sort(tasks)[:MOST_NAMED]))}{more}"
