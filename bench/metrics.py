"""Objectives and metrics of SPEC section 3, recomputed from (instance, schedule) alone.

A task is done where its last piece is a full one: C_j is the end of that piece. Objectives are in ticks and minimised;
JCT and queueing delay are in seconds. What has no meaning for an instance is NaN: clock metrics with `budget` sharing, QoS
without due dates, Jain's index without tenants. Means and percentiles are over the tasks done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.instance import KINDS, Instance, Ints
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, Setting, SettingError

SLOWDOWN_FLOOR = 10.0  # seconds: the bound of the bounded slowdown (Feitelson et al., JSSPP 1997)

Floats = NDArray[np.float64]


class Outcome(NamedTuple):
    """What became of each task. Times are ticks and mean nothing where a task is not done."""

    done: NDArray[np.bool_]  # (N,) its last piece is a full one
    first: Ints  # (N,) start of its first piece
    completion: Ints  # (N,) C_j
    flow: Floats  # (N,) T_j = C_j - r_j; with `budget` sharing p_j


# -- objectives --------------------------------------------------------------------------------------------------


def objective(instance: Instance, schedule: Schedule, name: str) -> float:
    """The internal (minimised) value of objective `name`: that of the tasks done, plus `penalty` for each task that is not.

    Raises:
        SettingError: for an unknown objective or one the instance does not have.
    """
    return _objective(instance, _outcome(instance, schedule), name)


def penalty(instance: Instance, name: str) -> float:
    """What one unassigned task adds to objective `name`: 1 + the value it has when every task ends as late as it can.

    With `budget` sharing that is 1 + sum_j w_j longest_j. With `time` sharing every C_j is put at `horizon`, so one task left
    out costs more than any whole schedule without needless idling.
    """
    _check(instance, name)
    everything = np.ones(instance.n_tasks, dtype=bool)
    if instance.sharing == "budget":
        latest = instance.longest()
    else:
        latest = np.full(instance.n_tasks, horizon(instance))
    return 1.0 + _value(
        instance,
        Outcome(everything, latest, latest, (latest - instance.release).astype(float)),
        name,
    )


def horizon(instance: Instance) -> int:
    """A tick by which every schedule that never idles needlessly is over.

    After the last release and the last outage some task runs at every tick, so: max(r_j, outage ends) + sum_j longest_j.
    """
    settled = max(
        int(instance.release.max()), max((outage.end for outage in instance.outages), default=0)
    )
    return settled + int(instance.longest().sum())


def trivial_bound(instance: Instance, name: str) -> float:
    """A lower bound on objective `name` that ignores contention: every task alone, from its release, on its fastest agent.

    The makespan also has the energy bound: the work released from r on cannot end before r + work / capacity.
    """
    _check(instance, name)
    everything, shortest = np.ones(instance.n_tasks, dtype=bool), instance.shortest()
    alone = instance.release + shortest
    bound = _value(
        instance, Outcome(everything, instance.release, alone, shortest.astype(float)), name
    )
    return max(bound, _energy_bound(instance)) if name == "makespan" else bound


def _energy_bound(instance: Instance) -> float:
    """max over r and resources of r + ceil(least unit-ticks of the tasks released from r on / units of all agents)."""
    work = np.where(
        instance.runnable()[..., None],
        instance.duration[..., None].astype(float) * instance.demand,
        np.inf,
    )
    order = np.argsort(-instance.release, kind="stable")
    least = np.cumsum(work.min(axis=1)[order], axis=0)
    units = np.maximum(instance.capacity.sum(axis=0), 1)
    return float((instance.release[order][:, None] + np.ceil(least / units)).max(initial=0.0))


def _check(instance: Instance, name: str) -> None:
    """Raise SettingError where `instance` does not have objective `name`."""
    Setting(track="assign" if instance.sharing == "budget" else "schedule", objective=name).check(
        instance
    )


def _objective(instance: Instance, outcome: Outcome, name: str) -> float:
    missing = int((~outcome.done).sum())
    _check(instance, name)
    return _value(instance, outcome, name) + (missing * penalty(instance, name) if missing else 0.0)


def _value(instance: Instance, outcome: Outcome, name: str) -> float:
    """Objective `name` over the tasks done."""
    done, weight = outcome.done, instance.weight.astype(float)
    if name == "total_time":
        return float(weight[done] @ outcome.flow[done])
    if name == "makespan":
        return float(outcome.completion[done].max(initial=0))
    if name == "tardiness":
        assert instance.due is not None  # _check saw to it
        return float(weight[done] @ np.maximum(0, outcome.completion - instance.due)[done])
    return float(_bounded_slowdown(instance, outcome)[done].sum() / instance.n_tasks)


def _bounded_slowdown(instance: Instance, outcome: Outcome) -> Floats:
    """(N,) max(1, T_j / max(p_j, 10 s)), p_j the shortest duration over the types that can run j."""
    tick = instance.tick_seconds
    return np.maximum(
        1.0, outcome.flow * tick / np.maximum(instance.shortest() * tick, SLOWDOWN_FLOOR)
    )


def _outcome(instance: Instance, schedule: Schedule) -> Outcome:
    """Read each task's fate off its pieces; pieces whose task or agent does not exist are left to `verify`."""
    exists = (schedule.task < instance.n_tasks) & (schedule.agent < instance.n_agents)
    rows = np.flatnonzero(exists)
    rows = rows[np.lexsort((schedule.end[rows], schedule.task[rows]))]
    task, agent, start, end = (
        column[rows] for column in (schedule.task, schedule.agent, schedule.start, schedule.end)
    )
    last = np.append(task[1:] != task[:-1], True)[: len(task)]
    done, completion = (
        np.zeros(instance.n_tasks, dtype=bool),
        np.zeros(instance.n_tasks, dtype=np.int64),
    )
    done[task[last]] = (end - start == instance.duration[task, instance.agent_type[agent]])[last]
    completion[task[last]] = end[last]
    first, origin = np.full(instance.n_tasks, np.iinfo(np.int64).max), instance.release.copy()
    np.minimum.at(first, task, start)
    if instance.sharing == "budget":
        origin[task[last]] = start[last]
    return Outcome(done, first, completion, (completion - origin).astype(float))


# -- metrics -----------------------------------------------------------------------------------------------------


def metrics(instance: Instance, schedule: Schedule) -> dict[str, float]:
    """Every metric of SPEC section 3 but the decision latency (`latency_metrics`).

    The four objectives are penalised where tasks are not done (`unassigned` counts them), and total_time is given in the
    instance's own sense and scale.
    """
    outcome = _outcome(instance, schedule)
    timed = outcome.done & (instance.sharing == "time")  # (N,) tasks that have times to speak of
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
        "finish_time_fairness_worst": _worst(_finish_time_fairness(instance, outcome)[timed]),
        **{
            f"jct_mean_{kind}": _mean(jct[timed & (instance.kind == k)])
            for k, kind in enumerate(KINDS)
        },
        "unassigned": float((~outcome.done).sum()),
    }


def latency_metrics(latency_seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile of the seconds each decision took; NaN where none was timed."""
    values = np.asarray(latency_seconds, dtype=float)
    return {f"decision_latency_p{q}": _percentile(values, q) for q in (50, 99)}


def _objectives(instance: Instance, outcome: Outcome) -> dict[str, float]:
    out = dict.fromkeys(OBJECTIVES, math.nan)
    for name in OBJECTIVES:
        try:
            out[name] = _objective(instance, outcome, name)
        except SettingError:
            continue  # an objective this instance does not have: missing
    return {**out, "total_time": instance.original(out["total_time"])}


def _utilisation(instance: Instance, schedule: Schedule) -> dict[str, float]:
    """Per resource: busy unit-ticks / unit-ticks of the agents while they are there, over [0, last end).

    Work lost to an outage was busy too and counts.
    """
    exists = (schedule.task < instance.n_tasks) & (schedule.agent < instance.n_agents)
    task, agent = schedule.task[exists], schedule.agent[exists]
    length, end = (schedule.end - schedule.start)[exists], int(schedule.end[exists].max(initial=0))
    busy = length.astype(float) @ instance.demand[task, instance.agent_type[agent]]
    present = np.full(instance.n_agents, float(end))
    for outage in instance.outages:
        present[outage.agent] -= max(0, min(outage.end, end) - outage.start)
    available = present @ instance.capacity
    share = np.full(instance.n_resources, math.nan)
    if instance.sharing == "time":
        np.divide(busy, available, out=share, where=available > 0)
    return {
        f"utilisation_{name}": float(x) for name, x in zip(instance.resources, share, strict=True)
    }


def _qos_violation_rate(instance: Instance, outcome: Outcome) -> float:
    """Share of tasks that end after their due date or not at all."""
    if instance.due is None:
        return math.nan
    return float((~outcome.done | (outcome.completion > instance.due)).mean())


def _jain_index(instance: Instance, outcome: Outcome, timed: NDArray[np.bool_]) -> float:
    """(sum x)^2 / (n sum x^2) over the n tenants' mean slowdowns x = mean T_j / p_j (Jain, Chiu, Hawe, DEC TR-301, 1984)."""
    if instance.tenant is None or not timed.any():
        return math.nan
    tenants, member = np.unique(instance.tenant[timed], return_inverse=True)
    slowdown = (outcome.flow / instance.shortest())[timed]
    x = np.bincount(member, weights=slowdown) / np.bincount(member)
    return float(x.sum() ** 2 / (len(tenants) * (x**2).sum()))


def _finish_time_fairness(instance: Instance, outcome: Outcome) -> Floats:
    """(N,) rho_j = T_j / (p_j * mean over [r_j, C_j) of the contention), above 1 where j fared worse than its fair share.

    Themis (NSDI 2020) in the contention form of Gavel and Shockwave. Contention is max(1, demanded / available) of the scarcest
    resource: demanded by the tasks in the system, each on its fastest type; available on the agents that are not away, or on
    all agents while none that has the resource is there.
    """
    done, release = outcome.done, instance.release
    stay = np.where(
        done, outcome.completion, np.maximum(release, outcome.completion.max())
    )  # (N,) in the system till then
    edges = [edge for outage in instance.outages for edge in (outage.start, outage.end)]
    tick = np.unique(np.concatenate([release, stay, np.array(edges, dtype=np.int64)]))  # (E,)
    fastest = np.where(instance.runnable(), instance.duration, np.iinfo(np.int64).max).argmin(
        axis=1
    )
    demanded = _level(
        tick, release, stay, instance.demand[np.arange(instance.n_tasks), fastest]
    )  # (E, R)
    away = [instance.capacity[outage.agent] for outage in instance.outages] or np.zeros(
        (0, instance.n_resources)
    )
    available = instance.capacity.sum(axis=0) - _level(
        tick, edges[::2], edges[1::2], np.asarray(away)
    )
    available = np.where(available > 0, available, np.maximum(instance.capacity.sum(axis=0), 1))
    contention = np.maximum(
        1.0, (demanded / available).max(axis=1, initial=0.0)
    )  # (E,) over [tick_i, tick_i+1)
    integral = np.concatenate([[0.0], np.cumsum(contention[:-1] * np.diff(tick))])
    over_stay = integral[np.searchsorted(tick, stay)] - integral[np.searchsorted(tick, release)]
    rho = np.full(instance.n_tasks, math.nan)
    return np.divide(
        outcome.flow**2, instance.shortest() * over_stay, out=rho, where=done & (over_stay > 0)
    )


def _level(
    tick: Ints, start: Sequence[int] | Ints, end: Sequence[int] | Ints, amount: NDArray[np.number]
) -> Floats:
    """(E, R) sum of the amounts (K, R) whose [start, end) covers each of the ticks (E,): sorted, with every start and end."""
    change = np.zeros((len(tick), amount.shape[1]))
    np.add.at(change, np.searchsorted(tick, start), amount)
    np.subtract.at(change, np.searchsorted(tick, end), amount)
    return np.cumsum(change, axis=0)


def _summary(name: str, values: Floats) -> dict[str, float]:
    return {
        f"{name}_mean": _mean(values),
        **{f"{name}_p{q}": _percentile(values, q) for q in (50, 99)},
    }


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _percentile(values: Floats, q: float) -> float:
    return float(np.percentile(values, q)) if len(values) else math.nan


def _worst(values: Floats) -> float:
    return float(values.max()) if len(values) else math.nan
