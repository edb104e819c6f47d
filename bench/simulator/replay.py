"""Long traces under a queue rule: an event loop in compiled code, without a decision in Python.

The general simulator (`bench.simulator.kernel`) keeps a mask of all (task, agent) pairs and asks a
policy at every decision. A rule that orders the queue needs neither: from its keys, which it
computes for all tasks at once (`bench.queue_order`), this loop makes the same schedule.
Tests compare the schedules of the two.

At one tick, starting a task only takes capacity. A task that does not fit therefore fits at no
later decision of the tick, and no other task with its demand and tenant does. Tasks that are alike
in these form a *class*. A class whose first task did not fit is *blocked*; it is tried again after
a completion that may have made room for it. So a start or a completion takes work in proportion to
the number of classes, not to the length of the queue; with keys that depend on the waiting time
also to the waiting tasks of the classes that are not blocked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.compiled import kernel_array
from bench.instance import NOT_ELIGIBLE, Instance, Ints
from bench.observation import Observation
from bench.queue_order import QueueOrder, sum_of_fractions
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator.replay_kernel import ReplayTables, replay_all
from bench.simulator.tables import NEVER

PAIRS_AT_ONCE = 2**22  # (task, agent) pairs of an observation from which keys are computed
Floats = NDArray[np.float64]


def supports(instance: Instance, setting: Setting) -> bool:
    """Return whether schedules of queue rules can be made here.

    Not in commit mode, with events one at a time, with outages, and without a clock.
    """
    return (
        instance.sharing == "time"
        and not instance.outages
        and setting.mode == "fit"
        and setting.event_order == "batched"
    )


def replay(instance: Instance, setting: Setting, order: QueueOrder) -> Schedule:
    """Return the schedule of the rule that orders the queue by `order`, in the order of the starts.

    Parameters
    ----------
    instance, setting
        For which `supports` holds.
    order
        The rule's.

    Raises
    ------
    ValueError
        If the instance is not supported under the setting, or a key is NaN.
    """
    if not supports(instance, setting):
        raise ValueError(
            f"setting: value {setting.mode}, {setting.event_order}: replays are for mode=fit, "
            "batched events and instances of time sharing without outages; use the simulator"
        )
    number = np.lexsort((np.arange(instance.n_tasks), instance.release))
    visible = instance.duration if setting.observe == "all" else instance.estimate
    values = _values(instance, visible, number, order)
    rank = np.zeros(0, dtype=np.int64)
    if not order.waiting:
        rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    total = np.maximum(instance.capacity.sum(axis=0), 1).astype(float)
    representative, group = _classes(instance, visible, number)
    members = number[representative]
    demand = instance.demand[members]
    counts = np.bincount(group, minlength=len(representative))
    tenant, quota = np.full(len(members), -1), np.zeros((0, len(total)), dtype=np.int64)
    if instance.quota is not None and instance.tenant is not None:
        tenant, quota = instance.tenant[members], instance.quota
    tables = ReplayTables(
        release=instance.release[number],
        duration=kernel_array(instance.duration[number]),
        visible=kernel_array(visible[number]),
        demand=kernel_array(demand),
        held=kernel_array(sum_of_fractions(demand, total)),
        tenant=tenant,
        group=group,
        first=np.concatenate([[0], np.cumsum(counts)]),
        capacity=kernel_array(instance.capacity),
        agent_type=kernel_array(instance.agent_type),
        total=total,
        quota=kernel_array(quota),
        rank=rank,
        waiting_key=values if order.waiting else np.zeros((0, 2)),
        offset=float(order.offset_seconds),
        tick_seconds=float(instance.tick_seconds),
        skip=order.skip,
    )
    started = np.empty(instance.n_tasks, dtype=np.int64)
    agent = np.empty(instance.n_tasks, dtype=np.int64)
    start = np.empty(instance.n_tasks, dtype=np.int64)
    count = replay_all(tables, started, agent, start)
    assert count == instance.n_tasks, "an instance has only tasks that fit on some agent"
    end = start + tables.duration[started, instance.agent_type[agent]]
    return Schedule(number[started], agent, start, end)


def _values(instance: Instance, visible: Ints, number: Ints, order: QueueOrder) -> Floats:
    """Return the keys (n,) of all tasks, or (n, 2) what they are made of, some at a time."""
    count = max(1, PAIRS_AT_ONCE // instance.n_agents)
    parts = [
        order.values(_observation(instance, visible, number[i : i + count]))
        for i in range(0, len(number), count)
    ]
    values = np.concatenate(parts).astype(float)
    if np.isnan(values).any():
        raise ValueError("order.values: a key is NaN: must be a number or infinite")
    return values


def _observation(instance: Instance, visible: Ints, tasks: Ints) -> Observation:
    """Return an observation of `tasks` that have all arrived, with every agent free."""
    n_agents, n_resources = instance.capacity.shape
    none = np.zeros(0, dtype=np.int64)
    has_tenants = instance.tenant is not None
    return Observation(
        time=int(instance.release[tasks].max()),
        tick_seconds=float(instance.tick_seconds),
        release=instance.release[tasks],
        duration=visible[tasks],
        demand=instance.demand[tasks],
        weight=instance.weight[tasks],
        due=None if instance.due is None else instance.due[tasks],
        tenant=instance.tenant[tasks] if has_tenants else None,  # type: ignore[index]
        kind=instance.kind[tasks],
        agent_type=instance.agent_type,
        capacity=instance.capacity,
        free=instance.capacity,
        up=np.ones(n_agents, dtype=bool),
        next_outage=np.full(n_agents, NEVER),
        running_agent=none,
        running_end=none,
        running_demand=np.zeros((0, n_resources), dtype=np.int64),
        running_tenant=none if has_tenants else None,
        tenant_free=instance.quota,
        mask=np.ones(len(tasks) * n_agents + 1, dtype=bool),
    )


def _classes(instance: Instance, visible: Ints, number: Ints) -> tuple[Ints, Ints]:
    """Return (c,) a member of each class and (n,) the class of each task."""
    columns = [
        instance.demand[number].reshape(len(number), -1),
        visible[number] == NOT_ELIGIBLE,
    ]
    if instance.quota is not None and instance.tenant is not None:
        columns.append(instance.tenant[number][:, None])
    _, member, group = np.unique(
        np.concatenate(columns, axis=1), axis=0, return_index=True, return_inverse=True
    )
    return member, group.reshape(-1)
