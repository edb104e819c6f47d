"""Objectives and metrics, computed from (instance, schedule) alone.

Their definitions are in bench/docs/problem.md section 3. A task is done if its last piece has the
full length; C_j is the end of that piece. Objectives are in ticks and minimised; JCT and queueing
delay are in seconds. A metric without a meaning for the instance is NaN: clock metrics with
`budget` sharing, QoS without due dates, Jain's index without tenants. Means and percentiles are
over the tasks that are done.

In array shapes N is the number of tasks, R of resources, and E of event ticks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.instance import KINDS, Instance, Ints
from bench.limits import MAX_INTEGER
from bench.schedule import Schedule
from bench.setting import (
    OBJECTIVES,
    SLOWDOWN_THRESHOLD_SECONDS,
    Setting,
    SettingError,
    clairvoyant_track,
)

Floats = NDArray[np.float64]


class Outcome(NamedTuple):
    """The result of each task; times are in ticks and mean nothing for a task that is not done."""

    done: NDArray[np.bool_]  # (N,) the last piece has the full length
    first: Ints  # (N,) start of the first piece
    completion: Ints  # (N,) C_j
    flow: Floats  # (N,) T_j = C_j - r_j; with `budget` sharing p_j


# -- objectives ----------------------------------------------------------------------------------


def objective(instance: Instance, schedule: Schedule, name: str) -> float:
    """Return the internal (minimised) value of objective `name`.

    It is the value over the tasks that are done, plus `penalty` for each task that is not.

    Raises
    ------
    SettingError
        When the objective is unknown or the instance does not have it.
    """
    return _objective(instance, _outcome(instance, schedule), name)


def penalty(instance: Instance, name: str) -> float:
    """Return what one unassigned task adds to objective `name`.

    It is 1 + the value that the objective has when every task ends as late as possible. With
    `budget` sharing that is 1 + sum_j w_j longest_j. With `time` sharing every C_j is set to
    `horizon`, so one unassigned task costs more than any schedule without needless idling.

    Raises
    ------
    SettingError
        When the objective is unknown or the instance does not have it.
    """
    _check(instance, name)
    every_task = np.ones(instance.n_tasks, dtype=bool)
    if instance.sharing == "budget":
        latest = instance.longest()
    else:
        latest = np.full(instance.n_tasks, horizon(instance))
    flow = (latest - instance.release).astype(float)
    return 1.0 + _value(instance, Outcome(every_task, latest, latest, flow), name)


def horizon(instance: Instance) -> int:
    """Return a tick at which every schedule without needless idling has ended.

    After the last release and the last outage some task runs at every tick, so the horizon is
    max(r_j, ends of outages) + sum_j longest_j.
    """
    last_outage = max((outage.end for outage in instance.outages), default=0)
    last_change = max(int(instance.release.max()), last_outage)
    return last_change + int(instance.longest().sum())


def trivial_bound(instance: Instance, name: str) -> float:
    """Return a lower bound on objective `name` that ignores that tasks compete for agents.

    Every task runs alone, from its release on, on its fastest agent. The bound on the makespan is
    also at least the energy bound: the work released from tick r on cannot end before
    r + work / capacity.

    Raises
    ------
    SettingError
        When the objective is unknown or the instance does not have it.
    """
    _check(instance, name)
    every_task = np.ones(instance.n_tasks, dtype=bool)
    shortest = instance.shortest()
    completion = instance.release + shortest
    alone = Outcome(every_task, instance.release, completion, shortest.astype(float))
    bound = _value(instance, alone, name)
    return max(bound, _energy_bound(instance)) if name == "makespan" else bound


def _energy_bound(instance: Instance) -> float:
    """Return the largest r + ceil(work released from r on / capacity) over r and resources.

    The work of a task is its smallest duration * demand over the types that can run it, in
    unit-ticks of the resource; the capacity is that of all agents. It is computed in Python's
    integers, which are exact.
    """
    work = instance.duration[..., None].astype(object) * instance.demand  # (N, T, R)
    possible = np.broadcast_to(instance.runnable()[..., None], work.shape)
    least = np.where(possible, work, MAX_INTEGER**2).min(axis=1)  # (N, R)
    latest_first = np.argsort(-instance.release, kind="stable")
    released = np.cumsum(least[latest_first], axis=0)
    units = np.maximum(instance.capacity.sum(axis=0), 1)
    ends = instance.release[latest_first][:, None] - (-released // units)
    return float(ends.max(initial=0))


def _check(instance: Instance, name: str) -> None:
    """Raise SettingError if `instance` does not have objective `name`."""
    Setting(track=clairvoyant_track(instance), objective=name).check(instance)


def _objective(instance: Instance, outcome: Outcome, name: str) -> float:
    missing = int((~outcome.done).sum())
    _check(instance, name)
    return _value(instance, outcome, name) + (missing * penalty(instance, name) if missing else 0.0)


def _value(instance: Instance, outcome: Outcome, name: str) -> float:
    """Return objective `name` over the tasks that are done."""
    done = outcome.done
    weight = instance.weight.astype(float)
    if name == "total_time":
        return float(weight[done] @ outcome.flow[done])
    if name == "makespan":
        return float(outcome.completion[done].max(initial=0))
    if name == "tardiness":
        assert instance.due is not None  # checked by _check
        return float(weight[done] @ np.maximum(0, outcome.completion - instance.due)[done])
    if name == "bounded_slowdown":
        return float(_bounded_slowdown(instance, outcome)[done].sum() / instance.n_tasks)
    raise NotImplementedError(f"objective: {name} has no value yet; define it here")


def _bounded_slowdown(instance: Instance, outcome: Outcome) -> Floats:
    """Return (N,) max(1, T_j / max(p_j, 10 s)).

    p_j is the shortest duration over the types that can run j.
    """
    tick = instance.tick_seconds
    duration = np.maximum(instance.shortest() * tick, SLOWDOWN_THRESHOLD_SECONDS)
    slowdown: Floats = np.maximum(1.0, outcome.flow * tick / duration)
    return slowdown


def _outcome(instance: Instance, schedule: Schedule) -> Outcome:
    """Return the outcome of each task; pieces of unknown tasks or agents are ignored."""
    exists = (schedule.task < instance.n_tasks) & (schedule.agent < instance.n_agents)
    rows = np.flatnonzero(exists)
    rows = rows[np.lexsort((schedule.end[rows], schedule.task[rows]))]
    task, agent, start, end = (
        column[rows] for column in (schedule.task, schedule.agent, schedule.start, schedule.end)
    )
    last = np.append(task[1:] != task[:-1], True)[: len(task)]  # the last piece of each task
    done = np.zeros(instance.n_tasks, dtype=bool)
    completion = np.zeros(instance.n_tasks, dtype=np.int64)
    done[task[last]] = (end - start == instance.duration[task, instance.agent_type[agent]])[last]
    completion[task[last]] = end[last]
    first = np.full(instance.n_tasks, np.iinfo(np.int64).max)
    np.minimum.at(first, task, start)
    origin = instance.release.copy()
    if instance.sharing == "budget":
        origin[task[last]] = start[last]
    return Outcome(done, first, completion, (completion - origin).astype(float))


# -- metrics -------------------------------------------------------------------------------------


def metrics(instance: Instance, schedule: Schedule) -> dict[str, float]:
    """Return every metric of bench/docs/problem.md section 3 but the decision latency.

    The four objectives contain the penalty of the tasks that are not done (`unassigned` counts
    them). total_time is given in the sense and scale of the instance.
    """
    outcome = _outcome(instance, schedule)
    timed = outcome.done & (instance.sharing == "time")  # (N,) tasks whose times have a meaning
    jct = outcome.flow * instance.tick_seconds
    delay = (outcome.first - instance.release).astype(float) * instance.tick_seconds
    slowdown = _bounded_slowdown(instance, outcome)
    return {
        **_objectives(instance, outcome),
        "bounded_slowdown_p50": _percentile(slowdown[timed], 50),
        "bounded_slowdown_p99": _percentile(slowdown[timed], 99),
        **_summary("jct", jct[timed]),
        **_summary("queueing_delay", delay[timed]),
        **_utilisation(instance, schedule),
        "qos_violation_rate": _qos_violation_rate(instance, outcome),
        "jain_index": _jain_index(instance, outcome, timed),
        "finish_time_fairness_worst": _largest(_finish_time_fairness(instance, outcome)[timed]),
        **{
            f"jct_mean_{kind}": _mean(jct[timed & (instance.kind == k)])
            for k, kind in enumerate(KINDS)
        },
        "unassigned": float((~outcome.done).sum()),
    }


def latency_metrics(latency_seconds: Sequence[float]) -> dict[str, float]:
    """Return median and 99th percentile of the seconds per decision; NaN without a decision."""
    values = np.asarray(latency_seconds, dtype=float)
    return {f"decision_latency_p{q}": _percentile(values, q) for q in (50, 99)}


def _objectives(instance: Instance, outcome: Outcome) -> dict[str, float]:
    out = dict.fromkeys(OBJECTIVES, math.nan)
    for name in OBJECTIVES:
        try:
            out[name] = _objective(instance, outcome, name)
        except SettingError:
            continue  # the instance does not have this objective: it stays NaN
    return {**out, "total_time": instance.original(out["total_time"])}


def _utilisation(instance: Instance, schedule: Schedule) -> dict[str, float]:
    """Return per resource the busy unit-ticks / the available unit-ticks, over [0, last end).

    Agents are available while they are not in an outage. Work that an outage destroyed counts as
    busy.
    """
    exists = (schedule.task < instance.n_tasks) & (schedule.agent < instance.n_agents)
    task = schedule.task[exists]
    agent = schedule.agent[exists]
    length = (schedule.end - schedule.start)[exists]
    end = int(schedule.end[exists].max(initial=0))
    busy = length.astype(float) @ instance.demand[task, instance.agent_type[agent]]  # (R,)
    up = np.full(instance.n_agents, float(end))  # (M,) ticks without an outage
    for outage in instance.outages:
        up[outage.agent] -= max(0, min(outage.end, end) - outage.start)
    available = up @ instance.capacity  # (R,)
    share = np.full(instance.n_resources, math.nan)
    if instance.sharing == "time":
        np.divide(busy, available, out=share, where=available > 0)
    return {
        f"utilisation_{name}": float(x) for name, x in zip(instance.resources, share, strict=True)
    }


def _qos_violation_rate(instance: Instance, outcome: Outcome) -> float:
    """Return the fraction of tasks that end after their due date or are not done."""
    if instance.due is None:
        return math.nan
    return float((~outcome.done | (outcome.completion > instance.due)).mean())


def _jain_index(instance: Instance, outcome: Outcome, timed: NDArray[np.bool_]) -> float:
    """Return (sum x)^2 / (n sum x^2), where x are the mean slowdowns T_j / p_j of n tenants.

    Jain, Chiu & Hawe, DEC TR-301, 1984.
    """
    if instance.tenant is None or not timed.any():
        return math.nan
    tenants, member = np.unique(instance.tenant[timed], return_inverse=True)
    slowdown = (outcome.flow / instance.shortest())[timed]
    x = np.bincount(member, weights=slowdown) / np.bincount(member)
    return float(x.sum() ** 2 / (len(tenants) * (x**2).sum()))


def _finish_time_fairness(instance: Instance, outcome: Outcome) -> Floats:
    """Return (N,) rho_j = T_j / (p_j * mean contention over [r_j, C_j)); above 1 is unfair.

    Themis (NSDI 2020), with the contention as in Gavel and Shockwave. The contention is max(1,
    demanded / available) of the scarcest resource. Demanded: by the tasks in the system, each on
    its fastest type. Available: on the agents that are up, or on all agents while no agent that has
    the resource is up.
    """
    done = outcome.done
    release = instance.release
    # (N,) the tick at which each task leaves the system
    leave = np.where(done, outcome.completion, np.maximum(release, outcome.completion.max()))
    outage_ticks = [t for outage in instance.outages for t in (outage.start, outage.end)]
    tick = np.unique(np.concatenate([release, leave, np.array(outage_ticks, dtype=np.int64)]))
    ticks_on_type = np.where(instance.runnable(), instance.duration, np.iinfo(np.int64).max)
    demand = instance.demand[np.arange(instance.n_tasks), ticks_on_type.argmin(axis=1)]  # (N, R)
    demanded = _sum_over_time(tick, release, leave, demand)  # (E, R)
    none = np.zeros((0, instance.n_resources))
    down = np.asarray([instance.capacity[outage.agent] for outage in instance.outages] or none)
    total = instance.capacity.sum(axis=0)
    available = total - _sum_over_time(tick, outage_ticks[::2], outage_ticks[1::2], down)
    available = np.where(available > 0, available, np.maximum(total, 1))
    # (E,) the contention over [tick_i, tick_i+1), and its integral over [tick_0, tick_i)
    contention = np.maximum(1.0, (demanded / available).max(axis=1, initial=0.0))
    integral = np.concatenate([[0.0], np.cumsum(contention[:-1] * np.diff(tick))])
    in_system = integral[np.searchsorted(tick, leave)] - integral[np.searchsorted(tick, release)]
    rho = np.full(instance.n_tasks, math.nan)
    fair = instance.shortest() * in_system
    np.divide(outcome.flow**2, fair, out=rho, where=done & (in_system > 0))
    return rho


def _sum_over_time(
    tick: Ints, start: Sequence[int] | Ints, end: Sequence[int] | Ints, amount: NDArray[Any]
) -> Floats:
    """Return the sum of the amounts that are present at each tick.

    Parameters
    ----------
    tick
        Sorted ticks, among them every start and end, shape (E,).
    start, end
        Amount k is present over [start_k, end_k), shape (K,).
    amount
        Units of each resource, shape (K, R).

    Returns
    -------
    array of shape (E, R)
    """
    change = np.zeros((len(tick), amount.shape[1]))
    np.add.at(change, np.searchsorted(tick, start), amount)
    np.subtract.at(change, np.searchsorted(tick, end), amount)
    total: Floats = np.cumsum(change, axis=0)
    return total


def _summary(name: str, values: Floats) -> dict[str, float]:
    return {
        f"{name}_mean": _mean(values),
        **{f"{name}_p{q}": _percentile(values, q) for q in (50, 99)},
    }


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _percentile(values: Floats, q: float) -> float:
    return float(np.percentile(values, q)) if len(values) else math.nan


def _largest(values: Floats) -> float:
    return float(values.max()) if len(values) else math.nan
