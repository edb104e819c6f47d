"""Random small instances with edge cases, and random settings to play them under.

`edge_instance` draws among others: no resources, agents without capacity, tasks without demand,
weight 0, quotas of 0, tenants without quotas, pairs that are not eligible, estimates that differ,
equal releases, adjacent outages, one task, one agent, and numbers at the limits of `bench.limits`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bench.instance import Instance, InstanceError, Outage
from bench.limits import MAX_INTEGER, MAX_OBJECTIVE
from bench.setting import Setting

MOST_TASKS = 4
TICKS = 12  # outages start before this tick
FAR = 10**6  # a due date that no small schedule reaches


class EdgeCase(NamedTuple):
    """An instance, and the small one that it is a multiple of, to enumerate its schedules."""

    instance: Instance
    small: Instance | None  # None: the instance is a multiple of no small one
    time_factor: int = 1  # ticks of `instance` / ticks of `small`
    weight_factor: int = 1

    def factor(self, objective: str) -> int:
        """Return the objective of `instance` / the objective of `small`."""
        return {
            "makespan": self.time_factor,
            "bounded_slowdown": 1,
        }.get(objective, self.time_factor * self.weight_factor)


def edge_case(rng: np.random.Generator) -> EdgeCase:
    """Return a random case; more than half of them have numbers at the limits."""
    while True:
        parts = _small_parts(rng)
        kind = rng.random()
        try:
            small = Instance(**parts)
            if kind < 0.4:
                return EdgeCase(small, small)
            case = _at_the_limits(small, rng)
            return case if kind < 0.7 else EdgeCase(_ragged(case, rng), None)
        except InstanceError:  # a task that no agent can run
            continue


def _small_parts(rng: np.random.Generator) -> dict[str, Any]:
    n = int(rng.integers(1, MOST_TASKS + 1))
    m = int(rng.integers(1, 4))
    t = int(rng.integers(1, m + 1))
    r = int(rng.choice([0, 1, 1, 2, 2, 3]))
    sharing = "budget" if rng.random() < 0.25 else "time"
    agent_type = np.concatenate([np.arange(t), rng.integers(0, t, m - t)])
    capacity = rng.integers(0, 7, (m, r)) * (rng.random((m, r)) < 0.85)
    if rng.random() < 0.4:  # identical agents
        capacity = capacity[agent_type]
    duration = rng.integers(1, 8, (n, t))
    duration[rng.random((n, t)) < 0.15] = -1
    demand = rng.integers(0, 5, (n, t, r)) * (rng.random((n, 1, 1)) < 0.8)
    parts: dict[str, Any] = {
        "duration": duration,
        "demand": demand,
        "capacity": capacity,
        "agent_type": agent_type,
        "weight": rng.integers(0, 4, n) * (rng.random() < 0.9),
        "kind": rng.integers(0, 4, n),
        "sharing": sharing,
    }
    if rng.random() < 0.5:
        tenants = int(rng.integers(1, 4))
        parts["tenant"] = rng.integers(0, tenants, n)
        if rng.random() < 0.7:
            quota = rng.integers(0, 9, (tenants, r)) * (rng.random((tenants, r)) < 0.9)
            parts["quota"] = quota
    if sharing == "budget":
        if rng.random() < 0.5:
            parts |= {"sense": str(rng.choice(["min", "max"])), "offset": int(rng.integers(0, 9))}
        return parts
    release = rng.integers(0, 10, n) * (rng.random() < 0.7)
    parts["release"] = release
    parts["tick_seconds"] = float(rng.choice([0.1, 1.0, 3.0, 60.0]))
    if rng.random() < 0.6:
        parts["due"] = rng.integers(0, 20, n)
    if rng.random() < 0.6:
        parts["outages"] = _outages(rng, m)
    if rng.random() < 0.3:
        changed = np.maximum(1, duration + rng.integers(-3, 4, duration.shape))
        parts["estimate"] = np.where(duration == -1, -1, changed)
    return parts


def _outages(rng: np.random.Generator, m: int) -> list[Outage]:
    """Return up to two outages of each of m agents; some begin at 0 or meet."""
    found = []
    for agent in range(m):
        ticks = np.sort(rng.choice(TICKS + 8, size=int(rng.choice([0, 2, 3, 4])), replace=False))
        announced = rng.random() < 0.7
        if len(ticks) == 3:  # two that meet
            ticks = ticks[[0, 1, 1, 2]]
        for start, end in ticks.reshape(-1, 2).tolist():
            found.append(Outage(agent, start, end, bool(announced or rng.random() < 0.5)))
    return found


def _at_the_limits(small: Instance, rng: np.random.Generator) -> EdgeCase:
    """Return the case with times, weights and units multiplied until a limit is reached."""
    longest = np.maximum(small.duration, small.estimate).max(axis=1)
    last_outage = max((outage.end for outage in small.outages), default=0)
    last = max(int(small.release.max()), last_outage) + int(longest.sum())
    times = MAX_INTEGER // last if rng.random() < 0.6 else int(rng.integers(1, 1000))
    due = None
    if small.due is not None:
        times = min(times, MAX_INTEGER // max(1, int(small.due.max())))
        never = rng.random(small.n_tasks) < 0.2
    cost = int((small.weight * longest).sum())
    if small.sharing == "time":
        cost = int(small.weight.sum()) * last
    offset = abs(small.offset) * int(small.weight.sum())
    most = (MAX_OBJECTIVE - 1) // max(1, cost + offset)
    times = min(times, most)
    largest_weight = max(1, int(small.weight.max()))
    weights = max(1, min(most // times, MAX_INTEGER // largest_weight))
    units = MAX_INTEGER // max(
        [1, *small.demand.ravel().tolist(), *small.capacity.ravel().tolist()]
        + ([] if small.quota is None else small.quota.ravel().tolist())
    )
    if rng.random() < 0.4:
        units = int(rng.integers(1, 1000))

    if due is not None:
        due = np.where(never, MAX_INTEGER, small.due * times)
        small = replace(small, due=np.where(never, FAR, small.due))

    def scaled(ticks: Any) -> Any:
        return np.where(ticks == -1, -1, ticks * times)

    instance = Instance(
        duration=scaled(small.duration),
        demand=small.demand * units,
        capacity=small.capacity * units,
        agent_type=small.agent_type,
        release=small.release * times,
        weight=small.weight * weights,
        due=due,
        tenant=small.tenant,
        quota=None if small.quota is None else small.quota * units,
        kind=small.kind,
        estimate=scaled(small.estimate),
        outages=tuple(
            outage._replace(start=outage.start * times, end=outage.end * times)
            for outage in small.outages
        ),
        sharing=small.sharing,
        tick_seconds=small.tick_seconds / times,
        sense=small.sense,
        offset=small.offset * times,
    )
    return EdgeCase(instance, small, times, weights)


def _ragged(case: EdgeCase, rng: np.random.Generator) -> Instance:
    """Return the instance with slightly smaller ticks and units, without a common divisor."""
    large = case.instance
    times = max(1, case.time_factor // 100)  # the noise is below a hundredth of a small tick
    units = max(1, int(large.capacity.max(initial=0)) // 100)
    shift = np.sort(rng.integers(0, times, 40))  # of each small tick, so that the order stays

    def later(ticks: Any) -> Any:
        small_ticks = np.minimum(np.asarray(ticks) // case.time_factor, len(shift) - 1)
        return np.asarray(ticks) // 10 * 9 + shift[small_ticks]

    def changed(numbers: Any, noise: int) -> Any:
        more = rng.integers(0, noise, numbers.shape) * (rng.random(numbers.shape) < 0.7)
        return np.where(numbers > 0, np.maximum(1, numbers // 10 * 9) + more, numbers)

    duration = changed(large.duration, times)
    same = np.array_equal(large.estimate, large.duration)
    parts = large.to_dict() | {
        "duration": duration,
        "estimate": duration if same else changed(large.estimate, times),
        "demand": changed(large.demand, units),
        "capacity": changed(large.capacity, units),
        "quota": None if large.quota is None else changed(large.quota, units),
        "weight": large.weight // 10 * 9,
    }
    if large.sharing == "time":
        parts |= {
            "release": later(large.release),
            "due": None if large.due is None else later(large.due),
            "outages": [
                outage._replace(start=int(later(outage.start)), end=int(later(outage.end)))
                for outage in large.outages
            ],
        }
    return Instance.from_dict(parts)


def random_setting(instance: Instance, rng: np.random.Generator) -> Setting:
    """Return a random setting under which the instance can be played."""
    if instance.sharing == "budget":
        return Setting(track="assign", observe=str(rng.choice(["all", "arrived"])))
    objectives = ["total_time", "makespan", "bounded_slowdown"]
    if instance.due is not None:
        objectives += ["tardiness"] * 2
    track = str(rng.choice(["schedule", "online"]))
    mode = str(rng.choice(["fit", "fit", "commit"]))
    return Setting(
        track=track,
        objective=str(rng.choice(objectives)),
        mode=mode,
        backfill=str(rng.choice(["none", "easy"])) if mode == "commit" else "none",
        observe="arrived" if track == "online" else str(rng.choice(["all", "arrived"])),
        event_order=str(rng.choice(["batched", "batched", "sequential"])),
    )
