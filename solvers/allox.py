"""AlloX: order and machine of each task by the assignment that minimises the sum of completions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.instance import Ints
from bench.observation import Observation
from solvers.dispatch.completion_rule import EFT
from solvers.dispatch.plan import PlannedTask, ReplanningPolicy
from solvers.dispatch.quantities import Floats, runnable


class AlloX(ReplanningPolicy):
    """Le, Sun, Chowdhury & Liu, EuroSys 2020 (doi:10.1145/3342195.3387547), without fairness.

    The paper's fairness filter is left out: all tasks compete.

    The problem R || sum C_j is a matching (Horn 1973, doi:10.1287/opre.21.3.846; Bruno, Coffman &
    Sethi 1974): the k-th task from the end of a machine delays k tasks, so it costs k p_ja, and
    each task also waits until the machine is free. Weights are not used. On each machine the task
    farthest from the end comes first.

    AlloX's machines take one task at a time. An agent counts as as many machines as the typical
    (median) demand of the tasks in the queue that can run there fits into it, at least one. A task
    with a larger demand starts when it fits, and until then nothing overtakes it on its agent.
    Running tasks take one machine each until their visible ends. Agents that are away do not count,
    nor do those whose next announced outage comes too soon for a task that starts now.
    """

    def __init__(self) -> None:
        super().__init__(fallback=EFT())

    def plan_tasks(self, observation: Observation, keys: list[bytes]) -> list[PlannedTask]:
        """Return the matching as a plan; tasks that no agent can run now are left out."""
        ends = observation.time + observation.pair_duration
        possible = runnable(observation) & observation.up & (ends <= observation.next_outage)
        tasks = np.flatnonzero(possible.any(axis=1))
        if not len(tasks):
            return []
        machines = _machines(observation, possible)
        duration = np.where(possible, observation.pair_duration, np.inf)
        duration = duration[np.ix_(tasks, machines.agent)]
        machine, position = optimal_matching(duration, machines.free_from - observation.time)
        planned = []
        free_from = machines.free_from.copy()
        for i in np.lexsort((-position, machine)):  # machine by machine, first to run first
            m = machine[i]
            planned.append(PlannedTask(int(free_from[m]), keys[tasks[i]], int(machines.agent[m])))
            free_from[m] += int(duration[i, m])
        return planned


class Machines(NamedTuple):
    """S machines that take one task at a time; an agent counts as one or more of them."""

    agent: Ints  # (S,)
    free_from: Ints  # (S,) tick from which on it can take a task


def optimal_matching(duration: Floats, wait: Ints) -> tuple[Ints, Ints]:
    """Return the machine and the position of each task in a schedule of least sum C_j.

    Positions are added until the last is unused on every machine. More would not help: a better
    matching with more positions differs by alternating paths, each of which ends at one position
    that was free before, and the last position considered here would be at least as cheap an end.

    Parameters
    ----------
    duration
        (N, S) ticks, infinite where the task cannot run; every task can run on some machine.
    wait
        (S,) ticks until the machine is free.

    Returns
    -------
    Machine (N,) and position from the end, counted from 1 (N,).
    """
    from scipy.optimize import linear_sum_assignment

    n, s = duration.shape
    most = min(n, 1 + 2 * -(-n // s))
    while True:
        position = np.repeat(np.arange(1, most + 1), s)
        finite = np.where(np.isinf(duration), 0, duration)
        cost = np.tile(finite, most) * position + np.tile(wait, most)
        forbidden = np.tile(np.isinf(duration), most)
        cost[forbidden] = 1 + n * cost.max()
        row, column = linear_sum_assignment(cost)
        if most == n or not (forbidden[row, column].any() or (position[column] == most).any()):
            return column % s, position[column]
        most = min(n, 2 * most)


def _machines(observation: Observation, possible: NDArray[np.bool_]) -> Machines:
    """Return the machines of all agents on which a task is `possible` (P, M)."""
    agent, free_from = [], []
    for a in np.flatnonzero(possible.any(axis=0)):
        demand = observation.demand[possible[:, a], observation.agent_type[a]]
        typical = np.median(demand, axis=0)
        needed = typical > 0
        fitting = np.floor(observation.capacity[a, needed] / typical[needed]).min(
            initial=possible[:, a].sum()
        )
        count = max(1, int(fitting))
        ends = observation.running_end[observation.running_agent == a]
        held = np.sort(np.maximum(ends, observation.time + 1))
        # the running tasks hold machines; more of them than machines: the last ones to end do
        free_from.append(np.concatenate([np.full(count, observation.time), held])[-count:])
        agent.append(np.full(count, a))
    return Machines(np.concatenate(agent), np.concatenate(free_from))
