"""What the transition function reads and writes: `Tables` (instances, constant) and `State` (environments), all plain arrays.

I instances are stacked and padded to the largest N, M, T, R, U, E (outages per agent); B environments each play one of them.
Inside, tasks are numbered by (release, index), so the queue is always in increasing order; column ORDER maps back.
Related columns share an array, because every array is several arguments to compiled code; the constants name the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.instance import NOT_ELIGIBLE, Instance, Ints
from bench.setting import OBJECTIVES, Setting

NEVER = np.iinfo(np.int64).max // 4  # a tick that never comes; sums of a few stay inside int64

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

# Tables.size, .task, .work, .agents, .outages, .real
N_TASKS, N_AGENTS = range(2)
ORDER, RELEASE, WEIGHT, DUE, TENANT, KIND = range(
    6
)  # DUE is NEVER without due dates; ORDER the index in the instance
DURATION, VISIBLE, DEMAND = range(
    3
)  # ticks, -1 = not eligible; VISIBLE is what a policy is shown; DEMAND + r
TYPE, CAPACITY = range(2)  # CAPACITY + r
OUTAGE_START, OUTAGE_END, ANNOUNCED = range(
    3
)  # ticks, NEVER behind an agent's last outage; 1 = announced
SCALE, PENALTY = range(
    2
)  # the return is -objective / SCALE; PENALTY per task left out with `budget` sharing

# State.env, .task, .agents, .tenants
(
    INSTANCE,
    TIME,
    NEXT_ARRIVAL,
    N_PENDING,
    N_RUNNING,
    N_FINISHED,
    WEIGHT_INSIDE,
    LATEST,
    N_LOST,
    ROWS_FRESH,
    DECISIONS,
    STATUS,
) = range(12)
PENDING, RUNNERS, AGENT, START, END, VISIBLE_END = range(6)
DIRTY, UP, OUTAGE, NEXT_OUTAGE, NEXT_END, LAST_END, FREE = range(7)  # FREE + r
LEFT = 1  # tenants: DIRTY, then units of quota left: LEFT + r

RUNNING, TERMINATED, DEAD_END, TRUNCATED, ILLEGAL = range(5)  # values of env[:, STATUS]
LEAVE = -1  # the action that leaves a finished environment as it is


class Tables(NamedTuple):
    """Constant during play. The scalars at the end are the setting."""

    size: Ints  # (I, 2) N_TASKS, N_AGENTS
    task: Ints  # (I, N, 6) ORDER, RELEASE, WEIGHT, DUE, TENANT, KIND
    work: Ints  # (I, N, T, 2 + R) DURATION, VISIBLE, DEMAND + r
    agents: Ints  # (I, M, 1 + R) TYPE, CAPACITY + r
    quota: Ints  # (I, U, R)
    outages: Ints  # (I, M, E + 1, 3) OUTAGE_START, OUTAGE_END, ANNOUNCED
    floor: Floats  # (I, N) max(shortest p_j, 10 s) in ticks, the divisor of bounded slowdown
    real: Floats  # (I, 2) SCALE, PENALTY
    objective: int  # index into OBJECTIVES
    budget: bool  # `budget` sharing: no clock
    commit: bool
    backfill: bool
    observe_all: bool
    singly: bool  # events of a tick one at a time, arrivals first
    shaped: bool  # rewards at assignment, for training
    limit: int  # decisions after which an episode is truncated


class State(NamedTuple):
    """Changed by every step."""

    env: Ints  # (B, 12) INSTANCE ... STATUS: WEIGHT_INSIDE of the arrived, unfinished tasks; LATEST end so far;
    #                    N_LOST pieces cut short; ROWS_FRESH mask rows, from the first, that are up to date
    task: Ints  # (B, 6, N) PENDING, RUNNERS: task numbers (increasing; in start order); AGENT (-1 = not started), START, END, ...
    agents: Ints  # (B, M, 6 + R) DIRTY mask column, UP, OUTAGE that is on or comes next, NEXT_OUTAGE announced start,
    #                             NEXT_END / LAST_END visible of the tasks running there (TIME if none), FREE + r
    tenants: Ints  # (B, U, 1 + R) DIRTY mask rows, LEFT + r
    lost: Ints  # (B, L, 4) pieces cut short by an outage: task number, agent, start, end
    window: Ints  # (B, K) task numbers of the first K in the queue, -1 = none
    mask: Bytes  # (B, K * M + 1) legal actions, last = wait
    reward: Floats  # (B,) of the last step


def stack(
    instances: Sequence[Instance],
    setting: Setting,
    scale: Floats,
    penalty: Floats,
    shaped: bool,
    limit: int,
) -> Tables:
    """Tables of I instances that share sharing and number of resources. `scale`, `penalty`: (I,)."""
    count = len(instances)
    n = max(i.n_tasks for i in instances)
    m = max(i.n_agents for i in instances)
    t = max(i.n_types for i in instances)
    r = instances[0].n_resources
    u = max(i.n_tenants for i in instances)
    if u:  # beside one with quotas, an instance without has tenants too, with NEVER units each
        u = max(u, *(int(i.tenant.max()) + 1 for i in instances if i.tenant is not None))
    e = max(
        (
            sum(o.agent == a for o in i.outages)
            for i in instances
            for a in {o.agent for o in i.outages}
        ),
        default=0,
    )
    if any(i.n_resources != r or i.sharing != instances[0].sharing for i in instances):
        raise ValueError(
            "instances: all of a batch need the same sharing and the same number of resources"
        )

    def full(shape: tuple[int, ...], value: int = 0) -> Ints:
        return np.full((count, *shape), value, dtype=np.int64)

    tables = Tables(
        size=np.array([(i.n_tasks, i.n_agents) for i in instances]),
        task=full((n, 6)),
        work=full((n, t, 2 + r)),
        agents=full((m, 1 + r)),
        quota=full((u, r), NEVER),
        outages=full((m, e + 1, 3), NEVER),
        floor=np.ones((count, n)),
        real=np.stack([scale, penalty], axis=1),
        objective=OBJECTIVES.index(setting.objective),
        budget=instances[0].sharing == "budget",
        commit=setting.mode == "commit",
        backfill=setting.backfill == "easy",
        observe_all=setting.observe == "all",
        singly=setting.events == "singly",
        shaped=shaped,
        limit=limit,
    )
    tables.task[..., RELEASE] = tables.task[..., DUE] = NEVER
    tables.work[..., :DEMAND] = NOT_ELIGIBLE
    for k, instance in enumerate(instances):
        _fill(tables, k, instance, clairvoyant=setting.observe == "all")
    return tables


def _fill(tables: Tables, k: int, instance: Instance, clairvoyant: bool) -> None:
    n, m, t = instance.n_tasks, instance.n_agents, instance.n_types
    order = np.lexsort((np.arange(n), instance.release))
    tables.task[k, :n, ORDER] = order
    for column, value in (
        (RELEASE, instance.release), (WEIGHT, instance.weight), (DUE, instance.due),
        (TENANT, instance.tenant), (KIND, instance.kind),
    ):  # fmt: skip
        if value is not None:
            tables.task[k, :n, column] = value[order]
    tables.work[k, :n, :t, DURATION] = instance.duration[order]
    tables.work[k, :n, :t, VISIBLE] = (instance.duration if clairvoyant else instance.estimate)[
        order
    ]
    tables.work[k, :n, :t, DEMAND:] = instance.demand[order]
    tables.agents[k, :m, TYPE] = instance.agent_type
    tables.agents[k, :m, CAPACITY:] = instance.capacity
    if instance.quota is not None:
        tables.quota[k, : instance.n_tenants] = instance.quota
    position = [0] * m
    for outage in instance.outages:
        tables.outages[k, outage.agent, position[outage.agent]] = (
            outage.start,
            outage.end,
            outage.announced,
        )
        position[outage.agent] += 1
    tables.floor[k, :n] = np.maximum(instance.shortest()[order], 10.0 / instance.tick_seconds)


def allocate(tables: Tables, n_envs: int, window: int, lost: int) -> State:
    """State of B environments that show K = `window` tasks; `lost` pieces cut short can be kept per environment."""
    n, m = tables.task.shape[1], tables.agents.shape[1]
    u, r = tables.quota.shape[1:]

    def ints(*shape: int) -> Ints:
        return np.zeros((n_envs, *shape), dtype=np.int64)

    return State(
        env=ints(12),
        task=ints(6, n),
        agents=ints(m, 6 + r),
        tenants=ints(u, 1 + r),
        lost=ints(lost, 4),
        window=ints(window),
        mask=np.zeros((n_envs, window * m + 1), dtype=np.uint8),
        reward=np.zeros(n_envs),
    )
