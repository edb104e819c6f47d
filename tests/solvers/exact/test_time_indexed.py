"""The time-indexed bound against brute force and its linear programme, and its proof by ticks."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog

from bench.instance import Instance
from bench.left_shift import active, fits_alone
from bench.schedule import Schedule
from bench.verify.problem import ExactObjective, ExactProblem
from bench.verify.proofs import KINDS
from solvers.exact.annealing import greedy_schedule, improve_schedule
from solvers.exact.bounds.packing import MAX_TABLE_SIZE, AgentKnapsacks
from solvers.exact.bounds.time_indexed import MultiplierBound, TimeIndexedRelaxation
from solvers.exact.objective_terms import Terms, completion_times
from tests.solvers.brute_force import brute_force, random_small_instance

SUMS = ("total_time", "tardiness", "bounded_slowdown")


def relax(
    instance: Instance, terms: Terms, packing: bool = False
) -> tuple[TimeIndexedRelaxation, MultiplierBound]:
    """Return the relaxation and its bound, with multipliers of tasks where `packing`."""
    first = greedy_schedule(instance)
    relaxation = TimeIndexedRelaxation(instance, terms, int(first.end.max()))
    target = float(terms.value(completion_times(first)))
    multipliers = relaxation.capacity_multipliers(target, 60.0)
    if packing:
        multipliers = relaxation.task_multipliers(multipliers, target, 60.0)
    return relaxation, relaxation.exact_bound(multipliers)


def proof_bound(instance: Instance, terms: Terms, proof: dict) -> Fraction:
    """Return the bound that a proof gives, computed tick by tick."""
    grid, scale = proof["grid"], proof["scale"]
    m = instance.n_agents
    last_outage = max((o.end for o in instance.outages), default=0)
    end = int(grid[-1] + instance.longest().max() + last_outage + 1)
    interval = np.searchsorted(grid, np.arange(end), side="right") - 1  # of each tick
    inside = (interval >= 0) & (interval < len(grid) - 1)

    def per_tick(multipliers: list) -> np.ndarray:
        table = np.array(multipliers, dtype=object)
        return np.where(inside, table[..., np.clip(interval, 0, len(grid) - 2)], 0)

    capacity = per_tick(proof["prices"])  # (M, R, H)
    quota = None if proof["quota_prices"] is None else per_tick(proof["quota_prices"])
    task = per_tick(proof["rents"]) if proof["kind"] == "packing_prices" else None  # (N, pools, H)
    available = np.ones((m, end), dtype=bool)
    for o in instance.outages:
        available[o.agent, o.start : o.end] = False
    alone = np.array([fits_alone(instance, j) for j in range(instance.n_tasks)])
    total = Fraction(0)
    for j in range(instance.n_tasks):
        costs = []
        for a in np.flatnonzero(alone[j]):
            p = instance.duration[j, instance.agent_type[a]]
            demand = instance.demand[j, instance.agent_type[a]]
            rate = demand @ capacity[a]
            rate = rate + (0 if quota is None else demand @ quota[instance.tenant[j]])
            rate = rate + (0 if task is None else task[j, proof["pool"][a]])
            for t in range(instance.release[j], end - p):
                if available[a, t : t + p].all():
                    flow = int(t + p) - terms.origin[j]
                    term = terms.coefficient[j] * max(terms.lower_limit[j], flow)
                    costs.append(scale * term + sum(rate[t : t + p]))
        total += min(costs)
    interval_end = np.append(grid[1:], 0)[interval]  # of each tick
    for a in range(m):
        total -= sum((instance.capacity[a] @ capacity[a])[available[a]])
        if task is not None:
            sets = feasible_sets(instance, a, alone[:, a])
            for tick in np.flatnonzero(available[a] & inside):
                released = instance.release < interval_end[tick]
                values = np.where(released, task[:, proof["pool"][a], tick], 0)
                total -= (sets @ values).max()
    if quota is not None:
        total -= (instance.quota[..., None] * quota).sum()
    return total / scale


def feasible_sets(instance: Instance, agent: int, able: np.ndarray) -> np.ndarray:
    """Return every set (sets, N) of tasks that fit the agent together."""
    sets = np.array(list(itertools.product([0, 1], repeat=instance.n_tasks)))
    held = np.einsum("sj,jr->sr", sets, instance.demand[:, instance.agent_type[agent]])
    fits = (held <= instance.capacity[agent]).all(axis=1)
    return sets[fits & ~(sets.astype(bool) & ~able).any(axis=1)]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_the_bound_is_never_above_the_optimum_and_its_proof_gives_it(
    seed: int, packing: bool
) -> None:
    rng = np.random.default_rng([21, seed])
    instance = random_small_instance(rng, "time")
    optimum = brute_force(instance)
    for name in SUMS:
        terms = Terms.of(instance, name)
        _, bound = relax(instance, terms, packing)
        assert bound.value <= Fraction(optimum[name]) + Fraction(1, 10**9), name
        proof = json.loads(json.dumps(bound.proof()))
        by_ticks = proof_bound(instance, terms, proof)
        assert bound.value <= by_ticks, name
        problem = ExactProblem(instance)
        assert KINDS[proof["kind"]](problem, ExactObjective(problem, name), proof) == by_ticks
        # the knapsacks count two resources, here without rounding
        if not packing or instance.n_resources <= 2:
            assert by_ticks <= bound.value + Fraction(1, 10**5), name


def linear_programme(instance: Instance, terms: Terms, end: int) -> float:
    """Return min sum x_jat * term_j(t + p) over x >= 0, with starts t before `end`.

    Every task is started once; capacities and quotas hold at every tick.
    """
    rows, columns, values, costs, owner = [], [], [], [], []
    m, r = instance.capacity.shape
    quota = np.zeros((0, r), int) if instance.quota is None else instance.quota
    for j in range(instance.n_tasks):
        for a in np.flatnonzero(fits_alone(instance, j)):
            p = int(instance.duration[j, instance.agent_type[a]])
            demand = instance.demand[j, instance.agent_type[a]]
            for t in range(int(instance.release[j]), end - p + 1):
                if any(o.agent == a and t < o.end and o.start < t + p for o in instance.outages):
                    continue
                for tick in range(t, t + p):
                    for i in range(r):
                        limits = [a * r + i]
                        if instance.quota is not None:
                            limits.append((m + instance.tenant[j]) * r + i)
                        for limit in limits:
                            rows.append(limit * end + tick)
                            columns.append(len(costs))
                            values.append(demand[i])
                flow = t + p - terms.origin[j]
                costs.append(float(terms.coefficient[j] * max(terms.lower_limit[j], flow)))
                owner.append(j)
    n = instance.n_tasks
    capacity = np.repeat(np.concatenate([instance.capacity, quota]).ravel(), end)
    held = sparse.csr_matrix((values, (rows, columns)), shape=(len(capacity), len(costs)))
    entries = (np.ones(len(costs)), (owner, range(len(costs))))
    once = sparse.csr_matrix(entries, shape=(n, len(costs)))
    return float(linprog(costs, held, capacity, once, np.ones(n), method="highs").fun)


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("seed", range(6))
def test_the_bound_reaches_the_linear_programme(seed: int, name: str) -> None:
    rng = np.random.default_rng([22, seed])
    instance = random_small_instance(rng, "time")
    terms = Terms.of(instance, name)
    relaxation, bound = relax(instance, terms)
    optimum = linear_programme(instance, terms, relaxation.end + int(instance.longest().max()))
    assert 0.99 * optimum - 1e-6 <= float(bound.value) <= optimum + 1e-6 * max(1.0, optimum)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_variable_fixing_keeps_every_schedule_that_is_no_worse(seed: int, packing: bool) -> None:
    rng = np.random.default_rng([23, seed])
    instance = random_small_instance(rng, "time")
    for name in SUMS:
        terms = Terms.of(instance, name)
        relaxation, bound = relax(instance, terms, packing)
        first = greedy_schedule(instance)
        best = improve_schedule(instance, terms, first, 3600.0, rng, patience=2)
        limit = terms.value(completion_times(best))
        windows = relaxation.start_windows(bound, limit)
        for schedule in [best, *(neighbour(instance, best, rng) for _ in range(50))]:
            if terms.value(completion_times(schedule)) > limit:
                continue
            for j, a, start in zip(schedule.task, schedule.agent, schedule.start, strict=True):
                pool = next(g for g, agents in enumerate(windows.pools) if a in agents)
                assert windows.first[j, pool] <= start <= windows.last[j, pool]


def neighbour(instance: Instance, schedule: Schedule, rng: np.random.Generator) -> Schedule:
    """Return an active schedule of another task order, with one task perhaps on another agent."""
    row = np.argsort(schedule.task)
    agent = schedule.agent[row].copy()
    j = rng.integers(instance.n_tasks)
    agent[j] = rng.choice(np.flatnonzero(fits_alone(instance, j)))
    longest = instance.longest()
    order = rng.permutation(instance.n_tasks)
    start = np.empty(instance.n_tasks, np.int64)
    start[order] = 40 + np.cumsum(longest[order]) - longest[order]
    return active(instance, Schedule.from_assignment(instance, agent, start))


def test_capacity_multipliers_count_contention() -> None:
    instance = Instance(duration=[[4], [4]], demand=[[[1]], [[1]]], capacity=[[1]], agent_type=[0])
    _, bound = relax(instance, Terms.of(instance, "total_time"))
    assert 11.9 <= float(bound.value) <= 12  # 4 + 8; without contention 8


def test_the_packing_bound_counts_which_tasks_fit_together() -> None:
    """Two tasks run at a time, although there are units for two and a half."""
    instance = Instance(
        duration=np.full((4, 1), 6),
        demand=np.full((4, 1, 1), 4),
        capacity=[[10]],
        agent_type=[0],
    )
    terms = Terms.of(instance, "total_time")
    assert float(relax(instance, terms)[1].value) < 35
    assert 35.9 <= float(relax(instance, terms, packing=True)[1].value) <= 36


def test_knapsacks_take_the_best_set_and_steps_round_down() -> None:
    demand = np.array([[6, 2], [5, 1], [4, 9]])[:, None]
    knapsacks = AgentKnapsacks(np.ones((3, 1), int), demand, np.array([[10, 10]]))
    ticks, available = np.zeros((3, 1, 1)), np.ones((1, 1), int)
    multipliers = np.array([3.0, 4.0, 2.0])[:, None, None]
    grid, release = np.array([0, 1]), np.zeros(3, int)
    values = knapsacks.best_values(grid, multipliers, release, ticks, available)
    assert values == 6  # tasks 1 and 2; 0 and 1 do not fit
    assert ticks.ravel().tolist() == [0, -1, -1]
    large = AgentKnapsacks(np.ones((3, 1), int), 10**6 * demand + 1, np.array([[10**7, 10**7]]))
    assert ((large.capacity_steps + 1).prod(axis=1) <= MAX_TABLE_SIZE).all()
    assert (large.sizes[:, 0].sum(axis=0) >= large.capacity_steps[0]).all()


def test_a_long_horizon_has_a_coarse_grid_and_a_useful_bound() -> None:
    rng = np.random.default_rng(24)
    instance = Instance(
        duration=rng.integers(10**4, 10**5, (12, 2)),
        demand=rng.integers(1, 4, (12, 2, 1)),
        capacity=[[4], [4]],
        agent_type=[0, 1],
        release=rng.integers(0, 10**5, 12),
    )
    terms = Terms.of(instance, "total_time")
    _, bound = relax(instance, terms)
    first = greedy_schedule(instance)
    schedule = improve_schedule(instance, terms, first, 3600.0, rng, patience=2)
    best = terms.value(completion_times(schedule))
    alone = terms.value(instance.release + instance.shortest())
    assert len(bound.multipliers.grid) <= 1025
    assert alone + (best - alone) / 3 < bound.value <= best
