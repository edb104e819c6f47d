"""AlloX: which task on which machine, and in which order, by the assignment that minimises the sum of completion times."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.instance import Ints
from bench.observation import Observation
from solvers.dispatch.plan import Planner, Step
from solvers.dispatch.quantities import Floats, runnable
from solvers.matching import EFT


class AlloX(Planner):
    """Le, Sun, Chowdhury & Liu, EuroSys 2020 (doi:10.1145/3342195.3387547), without its fairness filter: all tasks compete.

    The problem R || sum C_j is a matching (Horn 1973, doi:10.1287/opre.21.3.846; Bruno, Coffman & Sethi 1974): the k-th task
    from the end of a machine delays k tasks, so it costs k p_ja, and each task also waits until the machine is free. Weights
    are not used. On each machine the task farthest from the end comes first.

    AlloX's machines take one task at a time. An agent counts as as many machines as the typical (median) demand of the tasks
    in the queue that can run there fits into it, at least one; a task that needs more starts when it fits, and until then
    nothing overtakes it on its agent. Running tasks take one machine each until their visible ends. Agents that are away, and
    those whose next announced outage comes too soon for a task that starts now, do not count.
    """

    def __init__(self) -> None:
        super().__init__(fallback=EFT())

    def steps(self, observation: Observation, keys: list[bytes]) -> list[Step]:
        """The matching as a plan; tasks that no agent can take now are left out."""
        ends = observation.time + observation.pair_duration
        possible = runnable(observation) & observation.up & (ends <= observation.next_outage)
        tasks = np.flatnonzero(possible.any(axis=1))
        if not len(tasks):
            return []
        machines = _machines(observation, possible)
        ticks = np.where(possible, observation.pair_duration, np.inf)[np.ix_(tasks, machines.agent)]
        machine, position = matching(ticks, machines.free - observation.time)
        found, free = [], machines.free.copy()
        for i in np.lexsort((-position, machine)):  # machine by machine, first to run first
            found.append(
                Step(int(free[machine[i]]), keys[tasks[i]], int(machines.agent[machine[i]]))
            )
            free[machine[i]] += int(ticks[i, machine[i]])
        return found


class Machines(NamedTuple):
    """S machines."""

    agent: Ints  # (S,)
    free: Ints  # (S,) tick from which on it takes a task


def matching(ticks: Floats, wait: Ints) -> tuple[Ints, Ints]:
    """(N,) machine and (N,) position from the end, counted from 1, of each task in a schedule of least sum C_j.

    `ticks` (N, S): durations, infinite where the task cannot run; every task can run somewhere. `wait` (S,): ticks until the
    machine is free. Positions are added until the last is unused on every machine. More would not help: a better matching
    with more positions differs by alternating paths, each of which ends at one position that was free before, and the last
    position considered here would be at least as cheap an end.
    """
    from scipy.optimize import linear_sum_assignment

    n, s = ticks.shape
    most = min(n, 1 + 2 * -(-n // s))
    while True:
        position = np.repeat(np.arange(1, most + 1), s)
        cost = np.tile(np.where(np.isinf(ticks), 0, ticks), most) * position + np.tile(wait, most)
        forbidden = np.tile(np.isinf(ticks), most)
        cost[forbidden] = 1 + n * cost.max()
        row, column = linear_sum_assignment(cost)
        if most == n or not (forbidden[row, column].any() or (position[column] == most).any()):
            return column % s, position[column]
        most = min(n, 2 * most)


def _machines(observation: Observation, possible: NDArray[np.bool_]) -> Machines:
    """The machines of all agents on which a task is `possible` (P, M)."""
    agent, free = [], []
    for a in np.flatnonzero(possible.any(axis=0)):
        typical = np.median(observation.demand[possible[:, a], observation.agent_type[a]], axis=0)
        needed = typical > 0
        fitting = np.floor(observation.capacity[a, needed] / typical[needed]).min(
            initial=possible[:, a].sum()
        )
        slots = max(1, int(fitting))
        held = np.sort(
            np.maximum(
                observation.running_end[observation.running_agent == a], observation.time + 1
            )
        )
        free.append(
            np.concatenate([np.full(slots, observation.time), held])[-slots:]
        )  # the last `slots` to come free
        agent.append(np.full(slots, a))
    return Machines(np.concatenate(agent), np.concatenate(free))
