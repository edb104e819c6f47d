"""The arrays of the transition function: `InstanceTables` (constant) and `SimulatorState`.

I instances are stacked and padded to the largest N, M, T, R, U and E (outages per agent). Each of B
environments plays one of them. In the tables, tasks are numbered by (release tick, index in the
instance), so that the queue is always in increasing order; column ORDER maps back.

Compiled code receives every array as several arguments. Therefore related columns share an array;
the constants below name the columns. `X + r` means one column per resource r, the first one at X.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.instance import NOT_ELIGIBLE, Instance, Ints
from bench.setting import OBJECTIVES, SLOWDOWN_THRESHOLD_SECONDS, Setting

NEVER = int(np.iinfo(np.int64).max) // 4  # a tick that never comes; sums of a few fit int64

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

# InstanceTables.size
N_TASKS, N_AGENTS = range(2)
# InstanceTables.task: ORDER is the index in the instance; DUE is NEVER without due dates
ORDER, RELEASE, WEIGHT, DUE, TENANT, KIND = range(6)
# InstanceTables.task_on_type: ticks, -1 = not eligible; VISIBLE is the duration in observations
DURATION, VISIBLE, DEMAND = range(3)
# InstanceTables.agents
TYPE, CAPACITY = range(2)
# InstanceTables.outages: ticks, NEVER after the last outage of an agent; ANNOUNCED 1 = yes
OUTAGE_START, OUTAGE_END, ANNOUNCED = range(3)
# InstanceTables.reward_constants: the return is -objective / SCALE;
# PENALTY is the cost of a task that is not assigned (`budget` sharing)
SCALE, PENALTY = range(2)

# SimulatorState.env
(
    INSTANCE,
    TIME,
    NEXT_ARRIVAL,  # number of the task that is released next
    N_PENDING,
    N_RUNNING,
    N_FINISHED,
    WEIGHT_IN_SYSTEM,  # total weight of the tasks that have arrived and are not finished
    LATEST_END,  # of the tasks paid for so far (objective makespan)
    N_KILLED,  # rows of SimulatorState.killed in use
    N_VALID_ROWS,  # rows of the mask, from the first one on, that are up to date
    DECISIONS,  # made in this episode
    STATUS,
) = range(12)
# SimulatorState.task: PENDING holds N_PENDING task numbers in increasing order, RUNNING_TASKS holds
# N_RUNNING in order of their starts; AGENT is -1 for a task that has not started
PENDING, RUNNING_TASKS, AGENT, START, END, VISIBLE_END = range(6)
# SimulatorState.agents: DIRTY 1 = the mask column must be computed again; OUTAGE_INDEX of the
# outage that is on or comes next; NEXT_OUTAGE is the next announced start; NEXT_END and LAST_END
# are the first and last visible end of the tasks running there (TIME if there is none)
DIRTY, UP, OUTAGE_INDEX, NEXT_OUTAGE, NEXT_END, LAST_END, FREE = range(7)
# SimulatorState.tenants: DIRTY 1 = the tenant's mask rows must be computed again
QUOTA_LEFT = 1  # units of quota left: QUOTA_LEFT + r

# values of SimulatorState.env[:, STATUS]
RUNNING, TERMINATED, DEAD_END, TRUNCATED, ILLEGAL = range(5)

NO_ACTION = -1  # the action for an environment whose episode is over: nothing changes


class InstanceTables(NamedTuple):
    """Instances and setting; constant during play."""

    size: Ints  # (I, 2) N_TASKS, N_AGENTS
    task: Ints  # (I, N, 6) ORDER, RELEASE, WEIGHT, DUE, TENANT, KIND
    task_on_type: Ints  # (I, N, T, 2 + R) DURATION, VISIBLE, DEMAND + r
    agents: Ints  # (I, M, 1 + R) TYPE, CAPACITY + r
    quota: Ints  # (I, U, R) units
    outages: Ints  # (I, M, E + 1, 3) OUTAGE_START, OUTAGE_END, ANNOUNCED
    slowdown_divisor: Floats  # (I, N) max(shortest p_j, 10 s) in ticks
    reward_constants: Floats  # (I, 2) SCALE, PENALTY
    objective: int  # index into OBJECTIVES
    budget_sharing: bool  # no clock
    commit: bool  # commit mode
    easy_backfill: bool
    observe_all: bool  # policies observe unreleased tasks and true durations
    sequential_events: bool  # a decision after each event of a tick, arrivals first
    shaped: bool  # rewards are paid at assignment (training only)
    max_decisions: int  # an episode is truncated after as many decisions


class SimulatorState(NamedTuple):
    """State of B environments; changed by every step."""

    env: Ints  # (B, 12) INSTANCE ... STATUS
    task: Ints  # (B, 6, N) PENDING, RUNNING_TASKS, AGENT, START, END, VISIBLE_END
    agents: Ints  # (B, M, 6 + R) DIRTY, UP, OUTAGE_INDEX, NEXT_OUTAGE, NEXT_END, LAST_END, FREE + r
    tenants: Ints  # (B, U, 1 + R) DIRTY, QUOTA_LEFT + r
    killed: Ints  # (B, L, 4) pieces cut short by an outage: task number, agent, start, end
    window: Ints  # (B, K) task numbers of the first K in the queue, -1 = none
    mask: Bytes  # (B, K * M + 1) 1 = legal action; the last one is `wait`
    reward: Floats  # (B,) of the last step


def stack_instances(
    instances: Sequence[Instance],
    setting: Setting,
    scale: Floats,
    penalty: Floats,
    shaped: bool,
    max_decisions: int,
) -> InstanceTables:
    """Return the tables of several instances.

    Parameters
    ----------
    instances
        I instances with the same sharing and the same number of resources.
    setting
        Setting under which they are played.
    scale, penalty
        The two columns of `InstanceTables.reward_constants`, each (I,).
    shaped
        Whether rewards are paid at assignment.
    max_decisions
        Number of decisions after which an episode is truncated.

    Returns
    -------
    InstanceTables
        All arrays padded to the largest instance.

    Raises
    ------
    ValueError
        If the instances differ in sharing or in the number of resources.
    """
    n_resources = instances[0].n_resources
    sharing = instances[0].sharing
    if any(i.n_resources != n_resources or i.sharing != sharing for i in instances):
        raise ValueError(
            "instances: all of a batch need the same sharing and the same number of resources"
        )
    tables = _padding(instances, setting, scale, penalty, shaped, max_decisions)
    for k, instance in enumerate(instances):
        _fill(tables, k, instance, clairvoyant=setting.observe == "all")
    return tables


def _padding(
    instances: Sequence[Instance],
    setting: Setting,
    scale: Floats,
    penalty: Floats,
    shaped: bool,
    max_decisions: int,
) -> InstanceTables:
    """Return tables of the size of the largest instance that hold only padding values."""
    count = len(instances)
    n = max(i.n_tasks for i in instances)
    m = max(i.n_agents for i in instances)
    t = max(i.n_types for i in instances)
    r = instances[0].n_resources
    u = _n_tenants(instances)
    e = max((_most_outages(i) for i in instances), default=0)

    def empty(*shape: int) -> Ints:
        return np.empty((count, *shape), dtype=np.int64)

    tables = InstanceTables(
        size=np.array([(i.n_tasks, i.n_agents) for i in instances]),
        task=empty(n, 6),
        task_on_type=empty(n, t, 2 + r),
        agents=empty(m, 1 + r),
        quota=empty(u, r),
        outages=empty(m, e + 1, 3),
        slowdown_divisor=np.empty((count, n)),
        reward_constants=np.stack([scale, penalty], axis=1),
        objective=OBJECTIVES.index(setting.objective),
        budget_sharing=instances[0].sharing == "budget",
        commit=setting.mode == "commit",
        easy_backfill=setting.backfill == "easy",
        observe_all=setting.observe == "all",
        sequential_events=setting.event_order == "sequential",
        shaped=shaped,
        max_decisions=max_decisions,
    )
    _pad(tables, np.arange(count))
    return tables


def _pad(tables: InstanceTables, rows: Ints) -> None:
    """Write padding values into the instances `rows`, except their sizes and reward constants."""
    tables.task[rows] = 0
    tables.task[rows, :, RELEASE] = NEVER
    tables.task[rows, :, DUE] = NEVER
    tables.task_on_type[rows] = 0
    tables.task_on_type[rows, ..., :DEMAND] = NOT_ELIGIBLE
    tables.agents[rows] = 0
    tables.quota[rows] = NEVER
    tables.outages[rows] = NEVER
    tables.slowdown_divisor[rows] = 1.0


def replace_instances(tables: InstanceTables, rows: Sequence[int], new: InstanceTables) -> None:
    """Overwrite the instances `rows` with those of `new`, in order; the rest is padding.

    Raises
    ------
    ValueError
        If an instance of `new` is larger than the tables; the message names what.
    """
    pairs = {
        name: (column, getattr(new, name))
        for name, column in tables._asdict().items()
        if isinstance(column, np.ndarray)
    }
    for name, (column, other) in pairs.items():
        if any(a > b for a, b in zip(other.shape[1:], column.shape[1:], strict=True)):
            raise ValueError(f"{name}: shape {other.shape[1:]} exceeds {column.shape[1:]}")
    chosen = np.asarray(rows, dtype=np.int64)
    _pad(tables, chosen)
    for column, other in pairs.values():
        place: tuple[Any, ...] = (chosen, *map(slice, other.shape[1:]))
        column[place] = other


def _n_tenants(instances: Sequence[Instance]) -> int:
    """Return U, the number of tenants in the tables; 0 if no instance has quotas.

    If some instances have quotas and others only name tenants, the latter need rows too; they get
    NEVER units each, so that their quotas never bind.
    """
    count = max(i.n_tenants for i in instances)
    if count == 0:
        return 0
    return max(count, *(int(i.tenant.max()) + 1 for i in instances if i.tenant is not None))


def _most_outages(instance: Instance) -> int:
    """Return the largest number of outages of one agent."""
    if not instance.outages:
        return 0
    return int(np.bincount([outage.agent for outage in instance.outages]).max())


def _fill(tables: InstanceTables, k: int, instance: Instance, clairvoyant: bool) -> None:
    """Write one instance into row k of the tables."""
    n = instance.n_tasks
    m = instance.n_agents
    t = instance.n_types
    order = np.lexsort((np.arange(n), instance.release))
    columns = {
        RELEASE: instance.release,
        WEIGHT: instance.weight,
        DUE: instance.due,
        TENANT: instance.tenant,
        KIND: instance.kind,
    }
    tables.task[k, :n, ORDER] = order
    for column, value in columns.items():
        if value is not None:
            tables.task[k, :n, column] = value[order]
    visible = instance.duration if clairvoyant else instance.estimate
    tables.task_on_type[k, :n, :t, DURATION] = instance.duration[order]
    tables.task_on_type[k, :n, :t, VISIBLE] = visible[order]
    tables.task_on_type[k, :n, :t, DEMAND:] = instance.demand[order]
    tables.agents[k, :m, TYPE] = instance.agent_type
    tables.agents[k, :m, CAPACITY:] = instance.capacity
    if instance.quota is not None:
        tables.quota[k, : instance.n_tenants] = instance.quota
    position = [0] * m
    for agent, start, end, announced in instance.outages:
        tables.outages[k, agent, position[agent]] = (start, end, announced)
        position[agent] += 1
    threshold = SLOWDOWN_THRESHOLD_SECONDS / instance.tick_seconds
    tables.slowdown_divisor[k, :n] = np.maximum(instance.shortest()[order], threshold)


def allocate(tables: InstanceTables, num_envs: int, window: int, max_killed: int) -> SimulatorState:
    """Return the state of environments that have not been reset yet.

    Parameters
    ----------
    tables
        Instances that the environments play.
    num_envs
        B, the number of environments.
    window
        K, the number of tasks that flat actions name.
    max_killed
        L, the number of pieces cut short by outages that are kept per environment.

    Returns
    -------
    SimulatorState
        All arrays zero.
    """
    n = tables.task.shape[1]
    m = tables.agents.shape[1]
    u, r = tables.quota.shape[1:]

    def ints(*shape: int) -> Ints:
        return np.zeros((num_envs, *shape), dtype=np.int64)

    return SimulatorState(
        env=ints(12),
        task=ints(6, n),
        agents=ints(m, 6 + r),
        tenants=ints(u, 1 + r),
        killed=ints(max_killed, 4),
        window=ints(window),
        mask=np.zeros((num_envs, window * m + 1), dtype=np.uint8),
        reward=np.zeros(num_envs),
    )
