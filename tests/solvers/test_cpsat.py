"""CP-SAT against brute force, against published optima, and its own parts by hand."""

from __future__ import annotations

import gzip
import itertools
import os
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import pytest

from bench.contracts import Budget
from bench.instance import Instance, Outage
from bench.metrics import objective
from bench.schedule import Schedule, ScheduleError
from bench.setting import OBJECTIVES, Setting
from bench.verify import verify
from solvers.cpsat import CpSat
from solvers.cpsat_model import Terms, places
from solvers.left_shift import active

BUDGET = Budget(seconds=60, threads=1)


def random_instance(rng: np.random.Generator, sharing: str) -> Instance:
    """Up to 6 tasks x 3 agents with memory, often quotas, and in `time` sharing releases, deadlines and outages."""
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
            parts |= {"tenant": rng.integers(0, tenants, n), "quota": rng.integers(3, 12, (tenants, r))}
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
    """No or up to two outages per agent, announced or not."""
    found = []
    for agent in range(m):
        ticks = np.sort(rng.choice(30, size=2 * rng.integers(0, 3) * (rng.random() < 0.5), replace=False))
        for start, end in ticks.reshape(-1, 2).tolist():
            found.append(Outage(agent, start, end, bool(rng.random() < 0.5)))
    return found


# -- brute force -------------------------------------------------------------------------------------------


@numba.njit
def hold(ticks, start, end, units):
    """Add `units` (R,) to ticks (H, R) in [start, end)."""
    for tick in range(start, end):
        for r in range(len(units)):
            ticks[tick, r] += units[r]


@numba.njit
def enumerate_plans(duration, demand, capacity, release, away, tenant, quota, weight, due, span):
    """Minimum total_time, makespan, tardiness and mean of max(1, T_j / span_j) over all plans worth looking at.

    Every order of the tasks x every choice of agents, each task in turn put at its earliest feasible tick. That set holds an
    optimum of every regular objective: take any feasible plan and place its tasks in order of their starts on their own agents.
    Those placed before j began no later than j and, moved left, end no later than before, so at each tick of [s_j, C_j) they hold a
    subset of what they held; hence s_j is still free (outages and releases do not move) and j starts no later. Capacities and
    quotas only ever see subsets, so this holds with several resources, quotas and outages alike.
    `duration` (N, M), `demand` (N, M, R), `away` (M, H) whether an agent is away at a tick; H must suffice for any plan.
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
        if pick[depth] >= 0:  # take the last try at this depth back
            j, a = pick[depth] // m, pick[depth] % m
            hold(held[a], begin[depth], end[j], -demand[j, a])
            hold(used[tenant[j]], begin[depth], end[j], -demand[j, a])
            placed[j] = False
        pick[depth] += 1
        while pick[depth] < n * m and (placed[pick[depth] // m] or duration[pick[depth] // m, pick[depth] % m] < 0):
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
        hold(held[a], tick, end[j], demand[j, a])
        hold(used[tenant[j]], tick, end[j], demand[j, a])
        if depth < n - 1:
            depth += 1
            continue
        total, late, slow = 0, 0, 0.0
        for i in range(n):
            total += weight[i] * (end[i] - release[i])
            late += weight[i] * max(0, end[i] - due[i])
            slow += max(1.0, (end[i] - release[i]) / span[i]) / n
        for i, value in enumerate((float(total), float(end.max()), float(late), slow)):
            best[i] = min(best[i], value)
    return best


def brute_force(instance: Instance) -> dict[str, float]:
    """The optimum of every objective; inf where nothing is feasible (`budget` sharing)."""
    n, m = instance.n_tasks, instance.n_agents
    duration, demand = instance.duration[:, instance.agent_type].copy(), instance.demand[:, instance.agent_type]
    tenant = np.zeros(n, np.int64) if instance.quota is None else instance.tenant
    quota = demand.max(axis=1).sum(axis=0)[None] if instance.quota is None else instance.quota
    alone = (demand <= instance.capacity).all(axis=2) & (demand <= quota[tenant][:, None]).all(axis=2)
    duration[~alone] = -1
    if instance.sharing == "budget":
        return {"total_time": cheapest(instance, duration, demand, tenant, quota)}
    away = np.zeros((m, 200), bool)
    for outage in instance.outages:
        away[outage.agent, outage.start : outage.end] = True
    span = np.maximum(np.where(duration > 0, duration, 10**9).min(axis=1), 10 / instance.tick_seconds)
    values = enumerate_plans(
        duration, demand, instance.capacity, instance.release, away, tenant, quota, instance.weight, instance.due, span
    )
    return dict(zip(OBJECTIVES, values.tolist(), strict=True))


def cheapest(instance: Instance, duration, demand, tenant, quota) -> float:
    """Minimum cost over all M^N assignments."""
    best, tasks = np.inf, np.arange(instance.n_tasks)
    for agents in itertools.product(range(instance.n_agents), repeat=instance.n_tasks):
        held, used = np.zeros_like(instance.capacity), np.zeros_like(quota)
        np.add.at(held, list(agents), demand[tasks, agents])
        np.add.at(used, tenant, demand[tasks, agents])
        if (duration[tasks, agents] > 0).all() and (held <= instance.capacity).all() and (used <= quota).all():
            best = min(best, float((instance.weight * duration[tasks, agents]).sum()))
    return best


def agrees_with_brute_force(seed: int) -> None:
    rng = np.random.default_rng([7, seed])
    instance = random_instance(rng, "budget" if seed % 5 == 0 else "time")
    track = "assign" if instance.sharing == "budget" else "schedule"
    for name, optimum in brute_force(instance).items():
        result = CpSat().solve(instance, Setting(track=track, objective=name), BUDGET, rng)
        if np.isinf(optimum):
            assert result.status == "infeasible"
            assert len(result.schedule.task) == 0
            continue
        assert result.status == "optimal", name
        assert verify(instance, result.schedule) == []
        assert objective(instance, result.schedule, name) == pytest.approx(optimum, rel=1e-9, abs=1e-12), name
        assert result.lower_bound <= optimum * (1 + 1e-12)
        assert result.lower_bound >= optimum * (1 - 1e-8)


@pytest.mark.parametrize("seed", range(40))
def test_equals_brute_force(seed: int) -> None:
    agrees_with_brute_force(seed)


@pytest.mark.slow
def test_equals_brute_force_on_500_instances() -> None:
    for seed in range(500):
        agrees_with_brute_force(seed)
