"""Local search over `time` sharing schedules: simulated annealing on order and agents, restarted from the best; no proof.

A schedule is one sequence of tasks per group of agents and an agent per task. Each task in turn gets the earliest start on its
agent that release, outages, capacity and quota allow beside those placed before it (serial generation; Kolisch 1996), so every
decoded schedule is active. Without quotas every agent is a group of its own and a move decodes the one or two it touches, from
the first position that changed; quotas couple all agents, which are then one group.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.instance import Instance, Ints
from bench.left_shift import active, fits_alone
from bench.schedule import Schedule
from solvers.exact.annealing_kernel import anneal, decode_all
from solvers.exact.objective_terms import Terms, completion

FIRST_ROUND = (
    300  # moves per task of the first round of annealing; every next round has twice as many
)
LONGEST_ROUND = 20_000  # moves per task
CHUNK = 40_000  # moves over tasks between two looks at the clock
HOT = (
    0.2,
    1.0,
    4.0,
)  # first temperatures of successive rounds, in mean slack of a task (its term less its least value)
COLD = 0.01  # last temperature, in the same

Floats = NDArray[np.float64]


class Problem(NamedTuple):
    """What the kernels read. Rows of `free` are the M agents, then the U tenants."""

    duration: Ints  # (N, M) ticks, -1: not eligible
    demand: Ints  # (N, M, R)
    release: Ints  # (N,)
    tenant: Ints  # (N,) row of the tenant's profile, M + its index; -1 without quotas
    capacity: Ints  # (M + U, R)
    outages: Ints  # (O, 3) agent, start, end, in order of start
    coefficient: Floats  # (N,)
    floor: Floats  # (N,)
    origin: Ints  # (N,)
    worst: bool
    group: Ints  # (M,) group of each agent
    eligible: Ints  # (N, M) agents a task can run on, then -1


class State(NamedTuple):
    """A schedule as the kernels change it in place."""

    sequence: Ints  # (groups, N) tasks in the order of placement
    length: Ints  # (groups,)
    agent: Ints  # (N,)
    start: Ints  # (N,)
    cost: Floats  # (groups, 2) objective of the tasks of a group, and what breaks ties

    def copy(self) -> State:
        """An independent copy."""
        return State(
            self.sequence.copy(),
            self.length.copy(),
            self.agent.copy(),
            self.start.copy(),
            self.cost.copy(),
        )


def improve(
    instance: Instance,
    terms: Terms,
    first: Schedule,
    seconds: float,
    rng: np.random.Generator,
    found: Callable[[Schedule], None] | None = None,
    patience: int | None = None,
) -> Schedule:
    """The best schedule found from `first` in `seconds`; feasible and never worse than `first`, which has one piece per task.

    `found` hears of every better schedule. The search also ends after `patience` rounds of annealing without one; where that
    comes before the time is up, the result depends on `rng` alone.
    """
    deadline = time.perf_counter() + seconds
    best = active(instance, first)
    best_value = terms.value(completion(best))
    problem = _problem(instance, terms)
    state = _state(problem, best)
    decode_all(problem, state)
    top, moves, done, idle = state.copy(), FIRST_ROUND * instance.n_tasks, 0, 0
    chunk = max(50, CHUNK // instance.n_tasks)
    while time.perf_counter() < deadline and idle != patience:
        scale, saved = _mean_slack(problem, state), state.copy()
        hot, done, idle = scale * HOT[done % len(HOT)], done + 1, idle + 1
        for at in range(0, moves, chunk):
            seed = int(rng.integers(2**31))
            anneal(
                problem,
                state,
                saved,
                top,
                hot,
                scale * COLD,
                at,
                min(chunk, moves - at),
                moves,
                seed,
            )
            schedule = Schedule.from_assignment(instance, top.agent, top.start)
            value = terms.value(completion(schedule))
            if value < best_value:
                best, best_value, idle = schedule, value, 0
                if found is not None:
                    found(best)
            if time.perf_counter() > deadline:
                break
        state = top.copy()
        moves = min(2 * moves, LONGEST_ROUND * instance.n_tasks)
    return best


def fastest(instance: Instance) -> Schedule:
    """A feasible schedule to start from: tasks by release, each on the agent where it ends first if nothing comes after it."""
    problem = _problem(instance, Terms.of(instance, "total_time"))
    load = np.zeros(instance.n_agents)
    agent = np.zeros(instance.n_tasks, dtype=np.int64)
    for j in np.argsort(instance.release, kind="stable"):
        able = np.flatnonzero(problem.duration[j] > 0)
        share = (instance.demand[j, instance.agent_type] / np.maximum(instance.capacity, 1)).max(
            axis=1, initial=0.0
        )
        ends = np.maximum(load[able], instance.release[j]) + problem.duration[j, able]
        agent[j] = able[np.argmin(ends)]
        load[agent[j]] += problem.duration[j, agent[j]] * max(share[agent[j]], 1 / instance.n_tasks)
    length = np.maximum(instance.longest(), 1)
    settled = max((outage.end for outage in instance.outages), default=0) + int(
        instance.release.max()
    )
    order = np.argsort(instance.release, kind="stable")
    start = np.empty(instance.n_tasks, dtype=np.int64)
    start[order] = settled + np.cumsum(length[order]) - length[order]
    return active(instance, Schedule.from_assignment(instance, agent, start))


def _problem(instance: Instance, terms: Terms) -> Problem:
    n, m = instance.n_tasks, instance.n_agents
    alone = np.array([fits_alone(instance, j) for j in range(n)])
    eligible = np.full((n, m), -1, dtype=np.int64)
    for j in range(n):
        able = np.flatnonzero(alone[j])
        eligible[j, : len(able)] = able
    quota = (
        np.zeros((0, instance.n_resources), dtype=np.int64)
        if instance.quota is None
        else instance.quota
    )
    tenant = np.full(n, -1, dtype=np.int64)
    if instance.quota is not None and instance.tenant is not None:
        tenant = m + instance.tenant
    return Problem(
        np.where(alone, instance.duration[:, instance.agent_type], -1),
        np.ascontiguousarray(instance.demand[:, instance.agent_type]),
        instance.release.copy(),
        tenant,
        np.concatenate([instance.capacity, quota]),
        np.array([o[:3] for o in instance.outages], dtype=np.int64).reshape(-1, 3),
        np.array([float(c) for c in terms.coefficient]),
        np.array([float(low) for low in terms.floor]),
        np.array(terms.origin, dtype=np.int64),
        terms.worst,
        np.arange(m) if instance.quota is None else np.zeros(m, dtype=np.int64),
        eligible,
    )


def _state(problem: Problem, schedule: Schedule) -> State:
    """The tasks of each group in order of (start, task)."""
    n, groups = len(problem.release), int(problem.group.max()) + 1
    row = np.argsort(schedule.task)
    agent, start = schedule.agent[row].copy(), schedule.start[row].copy()
    sequence, length = np.zeros((groups, n), dtype=np.int64), np.zeros(groups, dtype=np.int64)
    for j in np.lexsort((np.arange(n), start)):
        group = problem.group[agent[j]]
        sequence[group, length[group]] = j
        length[group] += 1
    return State(sequence, length, agent, start, np.zeros((groups, 2)))


def _mean_slack(problem: Problem, state: State) -> float:
    """The mean over the tasks of the term less the value it has alone; for the makespan a hundredth of it."""
    if problem.worst:
        return max(1e-9, float(state.cost[:, 0].max()) / 100)
    duration = np.where(problem.duration > 0, problem.duration, np.iinfo(np.int64).max).min(axis=1)
    least = problem.coefficient * np.maximum(
        problem.floor, problem.release + duration - problem.origin
    )
    return max(
        1e-9, float(state.cost[:, 0].sum() - least.sum()) / len(least), 1e-3 * float(least.mean())
    )
