"""CP-SAT against brute force, against published optima, and its own parts by hand."""

from __future__ import annotations

import csv
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
from bench.left_shift import active, fits_alone
from bench.metrics import objective, trivial_bound
from bench.schedule import Schedule, ScheduleError
from bench.setting import OBJECTIVES, Setting
from bench.verify import verify
from solvers.cpsat import CpSat
from solvers.exact.objective_terms import Terms
from solvers.exact.schedule_model import places

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
    """No or up to two outages per agent, announced or not."""
    found = []
    for agent in range(m):
        ticks = np.sort(
            rng.choice(30, size=2 * rng.integers(0, 3) * (rng.random() < 0.5), replace=False)
        )
        for start, end in ticks.reshape(-1, 2).tolist():
            found.append(Outage(agent, start, end, bool(rng.random() < 0.5)))
    return found


def any_plan(instance: Instance, setting: Setting, rng: np.random.Generator) -> Schedule:
    """A feasible plan: random agents, one task after the other, with idle time between them, after every outage."""
    agent = np.array(
        [rng.choice(np.flatnonzero(fits_alone(instance, j))) for j in range(instance.n_tasks)]
    )
    order = rng.permutation(instance.n_tasks)
    length = instance.longest()[order] + rng.integers(0, 4, instance.n_tasks)
    start = np.empty(instance.n_tasks, np.int64)
    start[order] = 40 + np.cumsum(length) - length
    return Schedule.from_assignment(instance, agent, start)


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
    Those placed before j began no later than j and, moved left, end no later than before, so at each tick of [s_j, C_j) they
    hold a subset of what they held; hence s_j is still free (outages and releases do not move) and j starts no later.
    Capacities and quotas only ever see subsets, so this holds with several resources, quotas and outages alike.
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
    duration, demand = (
        instance.duration[:, instance.agent_type].copy(),
        instance.demand[:, instance.agent_type],
    )
    tenant = np.zeros(n, np.int64) if instance.quota is None else instance.tenant
    quota = demand.max(axis=1).sum(axis=0)[None] if instance.quota is None else instance.quota
    alone = (demand <= instance.capacity).all(axis=2) & (demand <= quota[tenant][:, None]).all(
        axis=2
    )
    duration[~alone] = -1
    if instance.sharing == "budget":
        return {"total_time": cheapest(instance, duration, demand, tenant, quota)}
    away = np.zeros((m, 200), bool)
    for outage in instance.outages:
        away[outage.agent, outage.start : outage.end] = True
    span = np.maximum(
        np.where(duration > 0, duration, 10**9).min(axis=1), 10 / instance.tick_seconds
    )
    values = enumerate_plans(
        duration,
        demand,
        instance.capacity,
        instance.release,
        away,
        tenant,
        quota,
        instance.weight,
        instance.due,
        span,
    )
    return dict(zip(OBJECTIVES, values.tolist(), strict=True))


def cheapest(instance: Instance, duration, demand, tenant, quota) -> float:
    """Minimum cost over all M^N assignments."""
    best, tasks = np.inf, np.arange(instance.n_tasks)
    for agents in itertools.product(range(instance.n_agents), repeat=instance.n_tasks):
        held, used = np.zeros_like(instance.capacity), np.zeros_like(quota)
        np.add.at(held, list(agents), demand[tasks, agents])
        np.add.at(used, tenant, demand[tasks, agents])
        if (
            (duration[tasks, agents] > 0).all()
            and (held <= instance.capacity).all()
            and (used <= quota).all()
        ):
            best = min(best, float((instance.weight * duration[tasks, agents]).sum()))
    return best


def agrees_with_brute_force(seed: int) -> None:
    rng = np.random.default_rng([7, seed])
    instance = random_instance(rng, "budget" if seed % 5 == 0 else "time")
    track = "assign" if instance.sharing == "budget" else "schedule"
    for name, optimum in brute_force(instance).items():
        solver = CpSat(warm_start=any_plan if seed % 2 and track == "schedule" else None)
        result = solver.solve(instance, Setting(track=track, objective=name), BUDGET, rng)
        if np.isinf(optimum):
            assert result.status == "infeasible"
            assert len(result.schedule.task) == 0
            continue
        assert result.status == "optimal", name
        assert verify(instance, result.schedule) == []
        assert objective(instance, result.schedule, name) == pytest.approx(
            optimum, rel=1e-9, abs=1e-12
        ), name
        assert result.lower_bound <= optimum * (1 + 1e-12)
        assert result.lower_bound >= optimum * (1 - 1e-8)


@pytest.mark.parametrize("seed", range(40))
def test_equals_brute_force(seed: int) -> None:
    agrees_with_brute_force(seed)


@pytest.mark.slow
def test_equals_brute_force_on_500_instances() -> None:
    for seed in range(500):
        agrees_with_brute_force(seed)


# -- by hand -----------------------------------------------------------------------------------------------

WORK = np.array([500, 200, 800])
GPUS = np.array([1, 2, 4])


def example(**parts) -> Instance:
    """SPEC section 6: p = compute / GPUs, and each agent runs one task at a time."""
    rows = {
        "demand": np.ones((3, 3, 1), int),
        "capacity": [[1], [1], [1]],
        "agent_type": [0, 1, 2],
    } | parts
    return Instance(duration=WORK[:, None] // GPUS, **rows)


@pytest.mark.parametrize(("name", "optimum"), [("total_time", 550), ("makespan", 250)])
def test_worked_example_with_one_task_at_a_time(name: str, optimum: int) -> None:
    result = CpSat().solve(example(), Setting(objective=name), BUDGET, np.random.default_rng(0))
    assert (result.status, result.lower_bound) == ("optimal", optimum)
    assert objective(example(), result.schedule, name) == optimum


@pytest.mark.parametrize(("units", "optimum"), [([3, 3, 3], 375), ([1, 1, 1], 650)])
def test_worked_example_as_an_assignment(units: list[int], optimum: int) -> None:
    instance = example(capacity=np.array(units)[:, None], sharing="budget")
    result = CpSat().solve(instance, Setting(track="assign"), BUDGET, np.random.default_rng(0))
    assert (result.status, result.lower_bound) == ("optimal", optimum)
    assert objective(instance, result.schedule, "total_time") == optimum


def test_too_little_capacity_is_infeasible() -> None:
    instance = Instance(
        duration=[[1], [1]], demand=[[[2]], [[2]]], capacity=[[3]], agent_type=[0], sharing="budget"
    )
    result = CpSat().solve(instance, Setting(track="assign"), BUDGET, np.random.default_rng(0))
    assert result.status == "infeasible"
    assert len(result.schedule.task) == 0


def test_without_time_the_warm_start_is_returned_left_shifted() -> None:
    rng = np.random.default_rng(3)
    instance, setting, hurry = (
        random_instance(rng, "time"),
        Setting(),
        Budget(seconds=1e-9, threads=1),
    )
    plan = any_plan(instance, setting, rng)
    result = CpSat(warm_start=lambda *_: plan).solve(instance, setting, hurry, rng)
    assert result.schedule.to_dict() == active(instance, plan).to_dict()
    assert result.lower_bound == trivial_bound(instance, "total_time")
    nothing = CpSat().solve(instance, setting, hurry, rng)
    assert (nothing.status, len(nothing.schedule.task)) == ("unknown", 0)
    assert nothing.lower_bound == trivial_bound(instance, "total_time")


def test_a_warm_start_that_leaves_a_task_out_is_not_returned() -> None:
    partial = Schedule.from_assignment(example(), [0, 1, -1])
    hurry = Budget(seconds=1e-9, threads=1)
    result = CpSat(warm_start=lambda *_: partial).solve(
        example(), Setting(), hurry, np.random.default_rng(0)
    )
    assert result.status == "unknown"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_trajectory_closes_in_and_ends_at_the_result(name: str) -> None:
    rng = np.random.default_rng(11)
    instance = random_instance(rng, "time")
    result = CpSat(warm_start=any_plan).solve(instance, Setting(objective=name), BUDGET, rng)
    seconds, values, bounds = np.array(result.trajectory).T
    assert (np.diff(seconds) >= 0).all()
    assert (np.diff(values) <= 0).all()
    assert (np.diff(bounds) >= 0).all()
    assert values[-1] == pytest.approx(objective(instance, result.schedule, name), rel=1e-12)
    assert bounds[-1] == result.lower_bound


@pytest.mark.parametrize("name", OBJECTIVES)
def test_terms_are_the_objective(name: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        instance = random_instance(rng, "time")
        plan = any_plan(instance, Setting(), rng)
        assert float(Terms.of(instance, name).value(plan.end)) == pytest.approx(
            objective(instance, plan, name), rel=1e-12
        )


def test_slowdown_is_exact_in_fractions() -> None:
    instance = Instance(
        duration=[[3], [40]],
        demand=[[[1]], [[1]]],
        capacity=[[1]],
        agent_type=[0],
        tick_seconds=0.5,
    )
    slowdown = Terms.of(instance, "bounded_slowdown").value(np.array([23, 43]))
    assert slowdown == (Fraction(23, 20) + Fraction(43, 40)) / 2  # 10 s are 20 ticks


def test_equal_agents_are_pooled_only_where_counting_tasks_is_enough() -> None:
    def slots(demand: list[int], **parts) -> list[tuple[tuple[int, ...], int]]:
        rows = {"capacity": [[4], [4]], "agent_type": [0, 0]} | parts
        instance = Instance(
            duration=np.ones((len(demand), 1), int), demand=np.reshape(demand, (-1, 1, 1)), **rows
        )
        return [(place.agents, place.slots) for place in places(instance)]

    assert slots([3, 3, 4]) == [((0, 1), 1)]
    assert slots([2, 2, 2]) == [((0, 1), 2)]
    assert slots([0, 1]) == [((0, 1), 2)]  # all fit at once
    assert slots([1, 3, 3]) == [((0,), 0), ((1,), 0)]  # 1 + 3 fit, 3 + 3 do not
    assert slots([3, 3], outages=[(1, 2, 3)]) == [((0,), 1), ((1,), 1)]
    assert slots([3, 3], capacity=[[4], [5]]) == [((0,), 1), ((1,), 1)]


# -- left shift --------------------------------------------------------------------------------------------


def test_left_shift_makes_nothing_later_and_leaves_nothing_to_shift() -> None:
    rng, moved = np.random.default_rng(9), 0
    for _ in range(200):
        instance = random_instance(rng, "time")
        plan = any_plan(instance, Setting(), rng)
        assert verify(instance, plan) == []
        shifted = active(instance, plan)
        assert verify(instance, shifted) == []
        assert (shifted.agent == plan.agent).all()
        assert (shifted.start <= plan.start).all()
        assert active(instance, shifted).to_dict() == shifted.to_dict()
        for j in range(instance.n_tasks):  # no task alone can start earlier
            for start in range(instance.release[j], shifted.start[j]):
                starts = np.where(np.arange(instance.n_tasks) == j, start, shifted.start)
                earlier = Schedule.from_assignment(instance, shifted.agent, starts)
                away = [o for o in instance.outages if o.agent == shifted.agent[j]]
                caught = any(o.start < earlier.end[j] and start < o.end for o in away)
                assert caught or verify(instance, earlier)
        moved += int((shifted.start < plan.start).sum())
    assert moved > 100


def test_left_shift_by_hand() -> None:
    parts = {
        "duration": [[3], [2], [4]],
        "demand": np.ones((3, 1, 1), int),
        "capacity": [[1]],
        "agent_type": [0],
    }
    instance = Instance(**parts, outages=[(0, 2, 5, False)])
    shifted = active(instance, Schedule.from_assignment(instance, [0, 0, 0], [10, 20, 30]))
    assert shifted.start.tolist() == [5, 0, 8]  # task 1 slips into the gap before the outage


def test_left_shift_needs_every_task_and_an_agent_that_can_run_it() -> None:
    for agents in ([0, 1, -1], [0, 1, 2]):
        instance = example(capacity=[[1], [1], [0]])
        with pytest.raises(ScheduleError, match="task 2"):
            active(instance, Schedule.from_assignment(instance, agents))


# -- published optima --------------------------------------------------------------------------------------


GAP = Path(os.environ.get("BENCH_EXTERNAL_DATA", "absent")) / "gap"


def gap_rows() -> list[dict[str, str]]:
    """The GAP instances with at most 100 tasks of types A, B and C and of Cattrysse et al.; none without the data."""
    if not GAP.is_dir():
        return []
    with (GAP / "optima.csv").open() as file:
        return [
            row
            for row in csv.DictReader(file)
            if int(row["tasks"]) <= 100 and row["type"] in ("cattrysse", "a", "b", "c")
        ]


@pytest.mark.external
@pytest.mark.skipif(not GAP.is_dir(), reason="BENCH_EXTERNAL_DATA names no folder with gap/ in it")
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[] if row["name"].endswith("-0") else pytest.mark.slow)
        for row in gap_rows()
    ],
    ids=lambda row: row["name"],
)
def test_agrees_with_published_gap_optima(row: dict[str, str]) -> None:
    with gzip.open(GAP / "instances" / f"{row['name']}.txt.gz", "rt") as file:
        numbers = np.array(file.read().split(), dtype=np.int64)
    m, n = numbers[:2]
    cost, usage = (table.T for table in numbers[2 : 2 + 2 * m * n].reshape(2, m, n))
    parts = {
        "demand": usage[:, :, None],
        "capacity": numbers[2 + 2 * m * n :, None],
        "agent_type": np.arange(m),
    }
    cases = [(Instance(duration=cost, sharing="budget", **parts), row["min_optimum"])]
    if row["max_optimum"]:
        top = int(cost.max()) + 1
        cases.append(
            (
                Instance(duration=top - cost, sharing="budget", sense="max", offset=top, **parts),
                row["max_optimum"],
            )
        )
    for instance, optimum in cases:
        result = CpSat(threads=2).solve(
            instance, Setting(track="assign"), Budget(seconds=300), np.random.default_rng(0)
        )
        assert verify(instance, result.schedule) == []
        assert result.status == "optimal"
        assert instance.original(objective(instance, result.schedule, "total_time")) == float(
            optimum
        )
        assert instance.original(result.lower_bound) == float(optimum)
