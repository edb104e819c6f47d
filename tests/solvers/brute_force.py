"""Small random instances and their optima by enumeration, to compare solvers with."""

from __future__ import annotations

import itertools
import math

import numpy as np

from bench.compiled import compiled
from bench.instance import Instance, Ints, Outage
from bench.left_shift import fits_alone
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, Setting


def random_small_instance(rng: np.random.Generator, sharing: str) -> Instance:
    """Return up to 6 tasks x 3 agents with memory, often with quotas.

    With `time` sharing there are releases, due dates and outages too.
    """
    while True:
        n, m, r = rng.integers(1, 7), rng.integers(1, 4), rng.integers(1, 3)
        t = int(rng.integers(1, m + 1))
        capacity = rng.integers(2, 9, (m, r)) * (1 if sharing == "time" else 2)
        agent_type = np.concatenate([np.arange(t), rng.integers(0, t, m - t)])
        if rng.random() < 0.5:  # identical agents
            capacity = capacity[agent_type]
        duration = rng.integers(1, 9, (n, t))
        duration[rng.random((n, t)) < 0.15] = -1
        tenants = int(rng.integers(1, 3))
        parts = {
            "duration": duration,
            "demand": rng.integers(0, 7, (n, t, r)),
            "capacity": capacity,
            "agent_type": agent_type,
            "weight": rng.integers(0, 4, n),
            "sharing": sharing,
        }
        if rng.random() < 0.5:
            parts |= {
                "tenant": rng.integers(0, tenants, n),
                "quota": rng.integers(3, 12, (tenants, r)),
            }
        if sharing == "time":
            release = rng.integers(0, 12, n) * (rng.random() < 0.8)
            parts |= {
                "release": release,
                "due": release + rng.integers(1, 16, n),
                "tick_seconds": float(rng.choice([0.1, 0.75, 1.0, 3.0, 60.0])),
                "outages": random_outages(rng, int(m)),
            }
        try:
            return Instance(**parts)
        except ValueError:  # a task that no agent can run: draw again
            continue


def random_outages(rng: np.random.Generator, m: int) -> list[Outage]:
    """Return up to two outages of each of m agents, announced or not."""
    found = []
    for agent in range(m):
        count = 2 * rng.integers(0, 3) * (rng.random() < 0.5)
        ticks = np.sort(rng.choice(30, size=count, replace=False))
        for start, end in ticks.reshape(-1, 2).tolist():
            found.append(Outage(agent, start, end, bool(rng.random() < 0.5)))
    return found


def random_schedule(
    instance: Instance, setting: Setting, rng: np.random.Generator, seconds: float = math.inf
) -> Schedule:
    """Return a feasible schedule, which also serves as a warm start.

    Agents are random; one task follows the other, with idle time between them, after every outage.
    """
    agent = np.array(
        [rng.choice(np.flatnonzero(fits_alone(instance, j))) for j in range(instance.n_tasks)]
    )
    order = rng.permutation(instance.n_tasks)
    span = instance.longest()[order] + rng.integers(0, 4, instance.n_tasks)
    start = np.empty(instance.n_tasks, np.int64)
    start[order] = 40 + np.cumsum(span) - span
    return Schedule.from_assignment(instance, agent, start)


@compiled()
def reserve(ticks, start, end, units):
    """Add `units` (R,) to ticks (H, R) in [start, end)."""
    for tick in range(start, end):
        for r in range(len(units)):
            ticks[tick, r] += units[r]


@compiled()
def enumerate_schedules(
    duration, demand, capacity, release, away, tenant, quota, weight, due, slowdown_duration
):
    """Return the minimum total_time, makespan, tardiness and bounded slowdown.

    It enumerates every order of the tasks x every choice of agents; each task in turn starts at its
    earliest feasible tick. These schedules include an optimum of every regular objective: take any
    feasible schedule and place its tasks in order of their starts on their own agents. The tasks
    placed before j start no later than j and, moved left, end no later than before, so at each tick
    of [s_j, C_j) they hold a subset of what they held. Hence s_j is still free (outages and
    releases do not move) and j starts no later. This holds with several resources, quotas and
    outages alike, because capacities and quotas only ever see subsets.

    Sizes: `duration` (N, M), `demand` (N, M, R), `away` (M, H) whether an agent has an outage at a
    tick, where H must suffice for any schedule. The slowdown is the mean of
    max(1, T_j / slowdown_duration_j).
    """
    n, m = duration.shape
    best = np.full(4, np.inf)
    held = np.zeros((m, away.shape[1], demand.shape[2]), np.int64)
    used = np.zeros((len(quota), away.shape[1], demand.shape[2]), np.int64)
    pick = np.full(n, -1)  # candidate j * m + a at each depth
    begin = np.zeros(n, np.int64)
    placed = np.zeros(n, np.bool_)
    end = np.zeros(n, np.int64)
    depth = 0
    while depth >= 0:
        if pick[depth] >= 0:  # remove the last candidate at this depth
            j, a = pick[depth] // m, pick[depth] % m
            reserve(held[a], begin[depth], end[j], -demand[j, a])
            reserve(used[tenant[j]], begin[depth], end[j], -demand[j, a])
            placed[j] = False
        pick[depth] += 1
        while pick[depth] < n * m and (
            placed[pick[depth] // m] or duration[pick[depth] // m, pick[depth] % m] < 0
        ):
            pick[depth] += 1
        if pick[depth] == n * m:
            pick[depth] = -1
            depth -= 1
            continue
        j, a = pick[depth] // m, pick[depth] % m
        tick = release[j]
        run = 0
        while run < duration[j, a]:
            free = not away[a, tick + run]
            for r in range(demand.shape[2]):
                free &= held[a, tick + run, r] + demand[j, a, r] <= capacity[a, r]
                free &= used[tenant[j], tick + run, r] + demand[j, a, r] <= quota[tenant[j], r]
            tick, run = (tick, run + 1) if free else (tick + run + 1, 0)
        begin[depth], end[j], placed[j] = tick, tick + duration[j, a], True
        reserve(held[a], tick, end[j], demand[j, a])
        reserve(used[tenant[j]], tick, end[j], demand[j, a])
        if depth < n - 1:
            depth += 1
            continue
        total, late, slow = 0, 0, 0.0
        for i in range(n):
            total += weight[i] * (end[i] - release[i])
            late += weight[i] * max(0, end[i] - due[i])
            slow += max(1.0, (end[i] - release[i]) / slowdown_duration[i]) / n
        for i, value in enumerate((float(total), float(end.max()), float(late), slow)):
            best[i] = min(best[i], value)
    return best


def brute_force(instance: Instance) -> dict[str, float]:
    """Return the optimum of every objective; inf where nothing is feasible (`budget` sharing)."""
    n, m = instance.n_tasks, instance.n_agents
    duration = instance.duration[:, instance.agent_type].copy()
    demand = instance.demand[:, instance.agent_type]
    tenant = np.zeros(n, np.int64) if instance.quota is None else instance.tenant
    quota = demand.max(axis=1).sum(axis=0)[None] if instance.quota is None else instance.quota
    fits_agent = (demand <= instance.capacity).all(axis=2)
    fits_quota = (demand <= quota[tenant][:, None]).all(axis=2)
    duration[~(fits_agent & fits_quota)] = -1
    if instance.sharing == "budget":
        return {"total_time": cheapest_assignment(instance, duration, demand, tenant, quota)}
    away = np.zeros((m, 200), bool)
    for outage in instance.outages:
        away[outage.agent, outage.start : outage.end] = True
    shortest = np.where(duration > 0, duration, 10**9).min(axis=1)
    arrays = (
        duration,
        demand,
        instance.capacity,
        instance.release,
        away,
        tenant,
        quota,
        instance.weight,
        instance.due,
        np.maximum(shortest, 10 / instance.tick_seconds),
    )
    # copies: one memory layout, for which the function is compiled once
    values = enumerate_schedules(*(np.array(x, order="C") for x in arrays))
    return dict(zip(OBJECTIVES, values.tolist(), strict=True))


def cheapest_assignment(
    instance: Instance, duration: Ints, demand: Ints, tenant: Ints, quota: Ints
) -> float:
    """Return the minimum cost over all M^N assignments, inf where none is feasible."""
    best, tasks = np.inf, np.arange(instance.n_tasks)
    for agents in itertools.product(range(instance.n_agents), repeat=instance.n_tasks):
        held, used = np.zeros_like(instance.capacity), np.zeros_like(quota)
        np.add.at(held, list(agents), demand[tasks, agents])
        np.add.at(used, tenant, demand[tasks, agents])
        eligible = (duration[tasks, agents] > 0).all()
        if eligible and (held <= instance.capacity).all() and (used <= quota).all():
            best = min(best, float((instance.weight * duration[tasks, agents]).sum()))
    return best
