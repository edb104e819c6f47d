"""Simulated annealing over `time` sharing schedules: the order of tasks and their agents.

A schedule is one sequence of tasks per group of agents, and an agent per task. Each task in turn
gets the earliest start on its agent that release, outages, capacity and quota allow beside the
tasks placed before it (serial schedule generation; Kolisch, EJOR 90, 1996), so every decoded
schedule is active. Without quotas every agent is a group of its own, and a move decodes the one or
two groups that it changes, from the first changed position on. Quotas couple all agents, which are
then one group. The search restarts from the best schedule and proves nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.compiled import kernel_array
from bench.instance import Instance, Ints
from bench.left_shift import active, fits_alone
from bench.schedule import Schedule
from solvers.exact.annealing_kernel import anneal, decode_all
from solvers.exact.objective_terms import Terms, completion_times

FIRST_ROUND_MOVES = 300  # moves per task of the first annealing round; doubled every round
MAX_ROUND_MOVES = 20_000  # moves per task
MOVES_PER_CALL = 40_000  # moves over tasks of one call of the kernel; then the clock is read
MIN_MOVES_PER_CALL = 50
# Temperatures in units of the mean slack of a task: its term less the least value of its term.
FIRST_TEMPERATURES = (0.2, 1.0, 4.0)  # at the start of successive rounds
LAST_TEMPERATURE = 0.01  # at the end of every round

Floats = NDArray[np.float64]


class AnnealingProblem(NamedTuple):
    """What the kernels read: an instance with N tasks, M agents, U tenants, R resources.

    R is at least 1, because an outage is a time without free units: an instance without resources
    gets one of which no task needs any.
    """

    duration: Ints  # (N, M) ticks, -1: not eligible
    demand: Ints  # (N, M, R)
    release: Ints  # (N,)
    tenant: Ints  # (N,) row of the tenant's profile, M + its index; -1 without quotas
    capacity: Ints  # (M + U, R) of the agents, then the quotas of the tenants
    outages: Ints  # (O, 3) agent, start, end, in order of start
    coefficient: Floats  # (N,) of the objective's terms
    lower_limit: Floats  # (N,)
    origin: Ints  # (N,)
    is_maximum: bool
    group: Ints  # (M,) group of each agent
    eligible: Ints  # (N, M) agents a task can run on, then -1
    fixed: Ints  # (groups,) number of tasks at the head of each sequence that keep their starts
    movable: Ints  # (n,) the other tasks


class AnnealingState(NamedTuple):
    """A schedule, which the kernels change in place."""

    sequence: Ints  # (groups, N) tasks in the order of placement
    length: Ints  # (groups,) tasks of each sequence
    agent: Ints  # (N,)
    start: Ints  # (N,)
    cost: Floats  # (groups, 2) objective of the tasks of a group; sum of their completions

    def copy(self) -> AnnealingState:
        """Return an independent copy."""
        return AnnealingState(
            self.sequence.copy(),
            self.length.copy(),
            self.agent.copy(),
            self.start.copy(),
            self.cost.copy(),
        )


def improve_schedule(
    instance: Instance,
    terms: Terms,
    first: Schedule,
    seconds: float,
    rng: np.random.Generator,
    on_improvement: Callable[[Schedule], None] | None = None,
    patience: int | None = None,
    moves_per_task: float = math.inf,
    fixed_before: int = 0,
) -> Schedule:
    """Return the best schedule that annealing finds from `first`; never worse than `first`.

    Parameters
    ----------
    instance
        An instance of `time` sharing.
    terms
        The objective.
    first
        A feasible schedule with one piece per task.
    seconds
        The time limit.
    rng
        The source of all randomness.
    on_improvement
        Called with every better schedule.
    patience
        The search also ends after this many rounds without a better schedule. Where that happens
        before the time limit, the result depends on `rng` alone.
    moves_per_task
        The search also ends after as many moves, over the number of tasks.
    fixed_before
        Tasks that start before this tick in `first` keep their agents and starts; the others start
        then or later.
    """
    deadline = time.perf_counter() + seconds
    if fixed_before == 0:
        first = active(instance, first)
    problem = _annealing_problem(instance, terms, first, fixed_before)
    state = _annealing_state(problem, first)
    decode_all(problem, state)
    best = Schedule.from_assignment(instance, state.agent, state.start)
    best_value = terms.value(completion_times(best))
    best_state = state.copy()
    moves_left = moves_per_task * len(problem.movable)
    moves = FIRST_ROUND_MOVES * instance.n_tasks
    per_call = max(MIN_MOVES_PER_CALL, MOVES_PER_CALL // instance.n_tasks)
    rounds = 0
    rounds_without_improvement = 0
    while (
        time.perf_counter() < deadline
        and rounds_without_improvement != patience
        and moves_left >= 1
    ):
        slack = _mean_slack(problem, state)
        accepted = state.copy()
        hot = slack * FIRST_TEMPERATURES[rounds % len(FIRST_TEMPERATURES)]
        cold = slack * LAST_TEMPERATURE
        rounds += 1
        rounds_without_improvement += 1
        moves = int(min(moves, moves_left))
        moves_left -= moves
        for move in range(0, moves, per_call):
            count = min(per_call, moves - move)
            seed = int(rng.integers(2**31))
            anneal(problem, state, accepted, best_state, hot, cold, move, count, moves, seed)
            schedule = Schedule.from_assignment(instance, best_state.agent, best_state.start)
            value = terms.value(completion_times(schedule))
            if value < best_value:
                best = schedule
                best_value = value
                rounds_without_improvement = 0
                if on_improvement is not None:
                    on_improvement(best)
            if time.perf_counter() > deadline:
                break
        state = best_state.copy()
        moves = min(2 * moves, MAX_ROUND_MOVES * instance.n_tasks)
    return best


def greedy_schedule(instance: Instance) -> Schedule:
    """Return a feasible schedule to start a search from.

    Tasks come in order of release, each on the agent where it would end first. Agents count as busy
    for the durations of their tasks times the share of the agent that the tasks hold.
    """
    problem = _annealing_problem(instance, Terms.of(instance, "total_time"), Schedule.empty(), 0)
    busy_until = np.zeros(instance.n_agents)
    agent = np.zeros(instance.n_tasks, dtype=np.int64)
    for j in np.argsort(instance.release, kind="stable"):
        able = np.flatnonzero(problem.duration[j] > 0)
        demand = instance.demand[j, instance.agent_type]
        share = (demand / np.maximum(instance.capacity, 1)).max(axis=1, initial=0.0)
        ends = np.maximum(busy_until[able], instance.release[j]) + problem.duration[j, able]
        a = able[np.argmin(ends)]
        agent[j] = a
        busy_until[a] += problem.duration[j, a] * max(share[a], 1 / instance.n_tasks)
    longest = np.maximum(instance.longest(), 1)
    last_outage = max((outage.end for outage in instance.outages), default=0)
    undisturbed = max(last_outage, int(instance.release.max()))
    order = np.argsort(instance.release, kind="stable")
    start = np.empty(instance.n_tasks, dtype=np.int64)
    start[order] = undisturbed + np.cumsum(longest[order]) - longest[order]
    return active(instance, Schedule.from_assignment(instance, agent, start))


def _annealing_problem(
    instance: Instance, terms: Terms, first: Schedule, fixed_before: int
) -> AnnealingProblem:
    """Return what the kernels read.

    Tasks that start before `fixed_before` in `first` are fixed, the others start then or later.
    """
    n, m = instance.n_tasks, instance.n_agents
    group = np.arange(m) if instance.quota is None else np.zeros(m, dtype=np.int64)
    early = first.start < fixed_before
    movable = np.setdiff1d(np.arange(n), first.task[early])
    release = instance.release.copy()
    release[movable] = np.maximum(release[movable], fixed_before)
    alone = np.array([fits_alone(instance, j) for j in range(n)])
    eligible = np.full((n, m), -1, dtype=np.int64)
    for j in range(n):
        able = np.flatnonzero(alone[j])
        eligible[j, : len(able)] = able
    quota = instance.quota
    if quota is None:
        quota = np.zeros((0, instance.n_resources), dtype=np.int64)
    tenant = np.full(n, -1, dtype=np.int64)
    if instance.quota is not None and instance.tenant is not None:
        tenant = m + instance.tenant
    demand = instance.demand[:, instance.agent_type]
    capacity = np.concatenate([instance.capacity, quota])
    if not instance.n_resources:
        demand = np.zeros((n, m, 1), dtype=np.int64)
        capacity = np.zeros((len(capacity), 1), dtype=np.int64)
    problem = AnnealingProblem(
        duration=np.where(alone, instance.duration[:, instance.agent_type], -1),
        demand=demand,
        release=release,
        tenant=tenant,
        capacity=capacity,
        outages=np.array([o[:3] for o in instance.outages], dtype=np.int64).reshape(-1, 3),
        coefficient=np.array([float(c) for c in terms.coefficient]),
        lower_limit=np.array([float(limit) for limit in terms.lower_limit]),
        origin=np.array(terms.origin, dtype=np.int64),
        is_maximum=terms.is_maximum,
        group=group,
        eligible=eligible,
        fixed=np.bincount(group[first.agent[early]], minlength=int(group.max()) + 1),
        movable=movable,
    )
    arrays: dict[str, Any] = {
        name: kernel_array(value)
        for name, value in problem._asdict().items()
        if isinstance(value, np.ndarray)
    }
    return problem._replace(**arrays)


def _annealing_state(problem: AnnealingProblem, schedule: Schedule) -> AnnealingState:
    """Return the schedule with the tasks of each group in order of (start, task)."""
    n = len(problem.release)
    groups = int(problem.group.max()) + 1
    row = np.argsort(schedule.task)
    agent = schedule.agent[row].copy()
    start = schedule.start[row].copy()
    sequence = np.zeros((groups, n), dtype=np.int64)
    length = np.zeros(groups, dtype=np.int64)
    for j in np.lexsort((np.arange(n), start)):
        group = problem.group[agent[j]]
        sequence[group, length[group]] = j
        length[group] += 1
    return AnnealingState(sequence, length, agent, start, np.zeros((groups, 2)))


def _mean_slack(problem: AnnealingProblem, state: AnnealingState) -> float:
    """Return the mean over the tasks of the term less the value of a task alone.

    For the makespan it is a hundredth of the makespan.
    """
    if problem.is_maximum:
        return max(1e-9, float(state.cost[:, 0].max()) / 100)
    duration = np.where(problem.duration > 0, problem.duration, np.iinfo(np.int64).max).min(axis=1)
    alone = problem.release + duration - problem.origin
    least = problem.coefficient * np.maximum(problem.lower_limit, alone)
    slack = float(state.cost[:, 0].sum() - least.sum()) / len(least)
    return max(1e-9, slack, 1e-3 * float(least.mean()))
