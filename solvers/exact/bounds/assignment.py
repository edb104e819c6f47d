"""R || sum C_j as a linear assignment problem: a lower bound on total_time.

A task k-th from the end of an agent's queue adds k times its duration to the sum of completions
(Horn, Operations Research 21, 1973, doi:10.1287/opre.21.3.846; Bruno, Coffman & Sethi, CACM 17,
1974). An agent that holds up to s tasks at a time is modelled by s such queues. Where every agent
holds a fixed number of tasks, the bound is the optimum.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from bench.instance import Instance, Ints
from bench.left_shift import active, fits_alone
from bench.schedule import Schedule
from bench.verify import verify
from solvers.exact.agent_pools import max_tasks_at_once

LARGEST_TABLE = 4_000_000  # entries of the cost table; larger instances get no bound
NOT_ELIGIBLE_COST = 2**40  # above any other cost in use


class Matching(NamedTuple):
    """An optimal assignment of N tasks to columns, each a (queue, position from the end)."""

    queue: Ints  # (N,)
    position: Ints  # (N,) counted from 1
    task_duals: Ints  # (N,)
    column_duals: list[tuple[int, int, int]]  # (queue, position, dual) of every column


def assignment_bound(instance: Instance) -> tuple[Fraction, dict[str, Any], Schedule | None] | None:
    """Return a bound on total_time, its proof and the schedule of the assignment.

    The schedule is None where it is not feasible. The result is None where the cost table would be
    too large. The form of the proof is in `solvers.exact.bounds`.
    """
    n = instance.n_tasks
    alone = np.array([fits_alone(instance, j) for j in range(n)])
    queues = np.repeat(np.arange(instance.n_agents), _tasks_at_once(instance, alone))
    eligible = np.where(alone, instance.duration[:, instance.agent_type], NOT_ELIGIBLE_COST)
    matching = _optimal_matching(eligible, queues)
    if matching is None:
        return None
    columns = matching.column_duals
    dual = sum(matching.task_duals.tolist()) + sum(int(v) for *_, v in columns)
    first_release = int(instance.release.min())
    total = dual + n * first_release - int(instance.release.sum())
    least = int(instance.weight.min())
    weights = zip(instance.weight, instance.shortest(), strict=True)
    value = sum(int(w - least) * int(p) for w, p in weights) + least * total
    proof = {
        "kind": "assignment_duals",
        "task_duals": matching.task_duals.tolist(),
        "column_duals": [[int(queues[q]), int(k), int(v)] for q, k, v in columns if v],
    }
    return Fraction(value), proof, _schedule(instance, queues, matching)


def _tasks_at_once(instance: Instance, alone: NDArray[np.bool_]) -> Ints:
    """Return the number of tasks an agent can hold at a time (M,), 0 where it can run none.

    `alone` (N, M): whether the task fits the agent alone.
    """
    demand = instance.demand[:, instance.agent_type]
    rows = [
        max_tasks_at_once(demand[alone[:, a], a], instance.capacity[a])
        for a in range(instance.n_agents)
    ]
    return np.array(rows, dtype=np.int64)


def _optimal_matching(duration: Ints, queues: Ints) -> Matching | None:
    """Return the cheapest assignment with its duals; None where the cost table is too large.

    The number of positions grows until every queue leaves its last one empty: then that has dual 0,
    and so have those beyond it. `duration` (N, M); `queues`: the agent of each queue.
    """
    n = len(duration)
    depth = min(n, 2 + n // max(1, len(queues)))
    while n * len(queues) * depth <= LARGEST_TABLE:
        position = np.tile(np.arange(1, depth + 1), len(queues))  # of each column
        queue = np.repeat(np.arange(len(queues)), depth)
        cost = np.minimum(duration[:, queues[queue]] * position, NOT_ELIGIBLE_COST)
        if len(queue) >= n:
            column = linear_sum_assignment(cost)[1]
            matched = cost[np.arange(n), column]
            deep_enough = depth >= n or position[column].max() < depth
            if (matched < NOT_ELIGIBLE_COST).all() and deep_enough:
                dual = _column_duals(cost, column)
                columns = zip(queue.tolist(), position.tolist(), dual.tolist(), strict=True)
                tasks = matched - dual[column]
                return Matching(queue[column], position[column], tasks, list(columns))
        if depth >= n:
            return None
        depth = min(n, 2 * depth)
    return None


def _column_duals(cost: Ints, column: Ints) -> Ints:
    """Return the duals v <= 0 (columns,) of an optimal assignment `column` (N,).

    They satisfy v_c <= v_c(i) + cost_ic - cost_ic(i) for all tasks i and columns c: shortest paths
    in the residual graph.
    """
    reduced = cost - cost[np.arange(len(cost)), column][:, None]
    dual = np.zeros(cost.shape[1], dtype=np.int64)
    while True:
        better = np.minimum(dual, (dual[column][:, None] + reduced).min(axis=0))
        if (better == dual).all():
            return dual
        dual = better


def _schedule(instance: Instance, queues: Ints, matching: Matching) -> Schedule | None:
    """Return every queue in its order after the last release, left-shifted; None if infeasible."""
    agent = queues[matching.queue]
    start = np.full(instance.n_tasks, int(instance.release.max()), dtype=np.int64)
    duration = instance.duration[np.arange(instance.n_tasks), instance.agent_type[agent]]
    for q in np.unique(matching.queue):
        own = np.flatnonzero(matching.queue == q)
        own = own[np.argsort(-matching.position[own])]
        start[own] += np.cumsum(duration[own]) - duration[own]
    schedule = Schedule.from_assignment(instance, agent, start)
    return None if verify(instance, schedule) else active(instance, schedule)
