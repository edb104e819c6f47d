"""R || sum C_j as a linear assignment problem: the optimum where agents hold a fixed number of tasks, else a lower bound.

A task k-th from the end of an agent's queue adds k times its duration to the sum of completions (Horn, Operations Research 21,
1973; Bruno, Coffman & Sethi, CACM 17, 1974). An agent that holds up to s tasks at a time is s such queues.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from bench.instance import Instance, Ints
from bench.left_shift import active, fits_alone
from bench.schedule import Schedule
from bench.verify import verify
from solvers.exact.schedule_model import most_at_once

LARGEST_TABLE = 4_000_000  # entries of the cost table; larger instances are left alone
NEVER = 2**40  # costs of what is not eligible, above any other in use


def assignment(instance: Instance) -> tuple[Fraction, dict[str, Any], Schedule | None] | None:
    """A bound on total_time, its proof (see `solvers.exact.bounds`) and the matched schedule if feasible; None where too large."""
    n = instance.n_tasks
    alone = np.array([fits_alone(instance, j) for j in range(n)])
    queues = np.repeat(np.arange(instance.n_agents), _slots(instance, alone))
    matched = _match(np.where(alone, instance.duration[:, instance.agent_type], NEVER), queues)
    if matched is None:
        return None
    queue, position, tasks, columns = matched
    least = int(instance.weight.min())
    start, common = instance.shortest(), int(instance.release.min())
    total = (
        sum(tasks.tolist())
        + sum(int(v) for *_, v in columns)
        + n * common
        - int(instance.release.sum())
    )
    value = (
        sum(int(w - least) * int(p) for w, p in zip(instance.weight, start, strict=True))
        + least * total
    )
    listed = [[int(queues[q]), int(k), int(v)] for q, k, v in columns if v]
    proof = {"kind": "assignment_duals", "task_duals": tasks.tolist(), "column_duals": listed}
    return Fraction(value), proof, _schedule(instance, queues, queue, position)


def _slots(instance: Instance, alone: NDArray[np.bool_]) -> Ints:
    """(M,) tasks an agent can hold at once; 0 where it can run none."""
    demand = instance.demand[:, instance.agent_type]
    rows = [
        most_at_once(demand[alone[:, a], a], instance.capacity[a]) for a in range(instance.n_agents)
    ]
    return np.array(rows, dtype=np.int64)


def _match(
    duration: Ints, queues: Ints
) -> tuple[Ints, Ints, Ints, list[tuple[int, int, int]]] | None:
    """Each task's queue and position from the end, its dual, and (queue, position, dual) of all columns; None: too large.

    The number of positions grows until every queue leaves its last one empty: then it has dual 0, and so have those beyond.
    """
    n = len(duration)
    depth = min(n, 2 + n // max(1, len(queues)))
    while n * len(queues) * depth <= LARGEST_TABLE:
        position = np.tile(np.arange(1, depth + 1), len(queues))  # of each column
        queue = np.repeat(np.arange(len(queues)), depth)
        cost = np.minimum(duration[:, queues[queue]] * position, NEVER)
        if len(queue) >= n:
            column = linear_sum_assignment(cost)[1]
            if (cost[np.arange(n), column] < NEVER).all() and (
                depth >= n or position[column].max() < depth
            ):
                dual = _column_duals(cost, column)
                tasks = cost[np.arange(n), column] - dual[column]
                return (
                    queue[column],
                    position[column],
                    tasks,
                    list(zip(queue.tolist(), position.tolist(), dual.tolist(), strict=True)),
                )
        if depth >= n:
            return None
        depth = min(n, 2 * depth)
    return None


def _column_duals(cost: Ints, column: Ints) -> Ints:
    """(columns,) v <= 0 with v_c <= v_c(i) + cost_ic - cost_ic(i) for all i, c: shortest paths in the residual graph."""
    reduced = cost - cost[np.arange(len(cost)), column][:, None]
    dual = np.zeros(cost.shape[1], dtype=np.int64)
    while True:
        better = np.minimum(dual, (dual[column][:, None] + reduced).min(axis=0))
        if (better == dual).all():
            return dual
        dual = better


def _schedule(instance: Instance, queues: Ints, queue: Ints, position: Ints) -> Schedule | None:
    """Every queue in its order, from the last release on, then left-shifted; None where that is not feasible."""
    agent, start = (
        queues[queue],
        np.full(instance.n_tasks, int(instance.release.max()), dtype=np.int64),
    )
    duration = instance.duration[np.arange(instance.n_tasks), instance.agent_type[agent]]
    for q in np.unique(queue):
        own = np.flatnonzero(queue == q)
        own = own[np.argsort(-position[own])]
        start[own] += np.cumsum(duration[own]) - duration[own]
    schedule = Schedule.from_assignment(instance, agent, start)
    return None if verify(instance, schedule) else active(instance, schedule)
