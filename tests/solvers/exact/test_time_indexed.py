"""The time-indexed bound against brute force, against its own linear programme, and its proof recomputed tick by tick."""

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
from bench.verify.problem import Costs, Problem
from bench.verify.proofs import KINDS
from solvers.exact.annealing import fastest, improve
from solvers.exact.bounds.packing import STATES, Knapsacks
from solvers.exact.bounds.time_indexed import PricedBound, TimeIndexed
from solvers.exact.objective_terms import Terms, completion
from tests.solvers.test_cpsat import brute_force, random_instance

SUMS = ("total_time", "tardiness", "bounded_slowdown")


def relaxed(
    instance: Instance, terms: Terms, packing: bool = False
) -> tuple[TimeIndexed, PricedBound]:
    """The relaxation and its bound with prices of capacity alone, or with rents and knapsacks."""
    first = fastest(instance)
    problem, target = (
        TimeIndexed(instance, terms, int(first.end.max())),
        float(terms.value(completion(first))),
    )
    prices = problem.priced(target, 60.0)
    return problem, problem.prove(problem.packed(prices, target, 60.0) if packing else prices)


def recomputed(instance: Instance, terms: Terms, proof: dict) -> Fraction:
    """What the prices prove, by looking at every tick: slow and plain."""
    grid, scale = proof["grid"], proof["scale"]
    m, end = (
        instance.n_agents,
        int(
            grid[-1]
            + instance.longest().max()
            + max((o.end for o in instance.outages), default=0)
            + 1
        ),
    )
    interval = np.searchsorted(grid, np.arange(end), side="right") - 1  # of each tick
    inside = (interval >= 0) & (interval < len(grid) - 1)

    def per_tick(prices: list) -> np.ndarray:
        table = np.array(prices, dtype=object)
        return np.where(inside, table[..., np.clip(interval, 0, len(grid) - 2)], 0)

    prices = per_tick(proof["prices"])  # (M, R, H)
    rents = (
        None if proof["kind"] == "capacity_prices" else per_tick(proof["rents"])
    )  # (N, pools, H)
    quotas = per_tick(proof["quota_prices"]) if proof["quota_prices"] is not None else None
    there = np.ones((m, end), dtype=bool)
    for o in instance.outages:
        there[o.agent, o.start : o.end] = False
    alone = np.array([fits_alone(instance, j) for j in range(instance.n_tasks)])
    total = Fraction(0)
    for j in range(instance.n_tasks):
        costs = []
        for a in np.flatnonzero(alone[j]):
            p, demand = (
                instance.duration[j, instance.agent_type[a]],
                instance.demand[j, instance.agent_type[a]],
            )
            rate = demand @ prices[a] + (
                0 if quotas is None else demand @ quotas[instance.tenant[j]]
            )
            rate = rate + (0 if rents is None else rents[j, proof["pool"][a]])
            for t in range(instance.release[j], end - p):
                if there[a, t : t + p].all():
                    term = terms.coefficient[j] * max(terms.floor[j], int(t + p) - terms.origin[j])
                    costs.append(scale * term + sum(rate[t : t + p]))
        total += min(costs)
    for a in range(m):
        total -= sum((instance.capacity[a] @ prices[a])[there[a]])
        if rents is not None:
            fit, until = (
                feasible_sets(instance, a, alone[:, a]),
                np.append(grid[1:], 0)[interval],
            )  # end of each tick's interval
            for tick in np.flatnonzero(there[a] & inside):
                rent = np.where(instance.release < until[tick], rents[:, proof["pool"][a], tick], 0)
                total -= (fit @ rent).max()
    if quotas is not None:
        total -= (instance.quota[..., None] * quotas).sum()
    return total / scale


def feasible_sets(instance: Instance, agent: int, able: np.ndarray) -> np.ndarray:
    """(sets, N) every set of tasks that fit the agent together."""
    sets = np.array(list(itertools.product([0, 1], repeat=instance.n_tasks)))
    held = np.einsum("sj,jr->sr", sets, instance.demand[:, instance.agent_type[agent]])
    return sets[
        (held <= instance.capacity[agent]).all(axis=1) & ~(sets.astype(bool) & ~able).any(axis=1)
    ]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_never_above_the_optimum_and_its_proof_says_so(seed: int, packing: bool) -> None:
    rng = np.random.default_rng([21, seed])
    instance = random_instance(rng, "time")
    optimum = brute_force(instance)
    for name in SUMS:
        terms = Terms.of(instance, name)
        _, bound = relaxed(instance, terms, packing)
        assert bound.value <= Fraction(optimum[name]) + Fraction(1, 10**9), name
        again = recomputed(instance, terms, json.loads(json.dumps(bound.proof())))
        assert bound.value <= again, name
        judged = Problem(instance)
        assert (
            KINDS[bound.proof()["kind"]](
                judged, Costs(judged, name), json.loads(json.dumps(bound.proof()))
            )
            == again
        )
        if (
            not packing or instance.n_resources <= 2
        ):  # knapsacks see two resources, here without rounding
            assert again <= bound.value + Fraction(1, 10**5), name


def linear_programme(instance: Instance, terms: Terms, end: int) -> float:
    """min sum x_jat * term_j(t + p) with every task started once and the capacities and quotas kept at every tick."""
    rows, columns, values, costs, owner = [], [], [], [], []
    m, r = instance.capacity.shape
    quota = np.zeros((0, r), int) if instance.quota is None else instance.quota
    for j in range(instance.n_tasks):
        for a in np.flatnonzero(fits_alone(instance, j)):
            p, demand = (
                int(instance.duration[j, instance.agent_type[a]]),
                instance.demand[j, instance.agent_type[a]],
            )
            for t in range(int(instance.release[j]), end - p + 1):
                if any(o.agent == a and t < o.end and o.start < t + p for o in instance.outages):
                    continue
                for tick in range(t, t + p):
                    for i in range(r):
                        keys = [a * r + i] + (
                            [] if instance.quota is None else [(m + instance.tenant[j]) * r + i]
                        )
                        for key in keys:
                            (
                                rows.append(key * end + tick),
                                columns.append(len(costs)),
                                values.append(demand[i]),
                            )
                costs.append(
                    float(terms.coefficient[j] * max(terms.floor[j], t + p - terms.origin[j]))
                )
                owner.append(j)
    capacity = np.repeat(np.concatenate([instance.capacity, quota]).ravel(), end)
    held = sparse.csr_matrix((values, (rows, columns)), shape=(len(capacity), len(costs)))
    once = sparse.csr_matrix(
        (np.ones(len(costs)), (owner, range(len(costs)))), shape=(instance.n_tasks, len(costs))
    )
    return float(
        linprog(costs, held, capacity, once, np.ones(instance.n_tasks), method="highs").fun
    )


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("seed", range(6))
def test_reaches_the_linear_programme(seed: int, name: str) -> None:
    rng = np.random.default_rng([22, seed])
    instance = random_instance(rng, "time")
    terms = Terms.of(instance, name)
    problem, bound = relaxed(instance, terms)
    optimum = linear_programme(instance, terms, problem.end + int(instance.longest().max()))
    assert 0.99 * optimum - 1e-6 <= float(bound.value) <= optimum + 1e-6 * max(1.0, optimum)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_fixing_keeps_every_schedule_that_is_no_worse(seed: int, packing: bool) -> None:
    rng = np.random.default_rng([23, seed])
    instance = random_instance(rng, "time")
    for name in SUMS:
        terms = Terms.of(instance, name)
        problem, bound = relaxed(instance, terms, packing)
        best = improve(instance, terms, fastest(instance), 60.0, rng, patience=2)
        limit = terms.value(completion(best))
        windows = problem.windows(bound, limit)
        for schedule in [best, *(neighbour(instance, best, rng) for _ in range(50))]:
            if terms.value(completion(schedule)) > limit:
                continue
            for j, a, start in zip(schedule.task, schedule.agent, schedule.start, strict=True):
                pool = next(g for g, agents in enumerate(windows.pools) if a in agents)
                assert windows.first[j, pool] <= start <= windows.last[j, pool]


def neighbour(instance: Instance, schedule: Schedule, rng: np.random.Generator) -> Schedule:
    """Some active schedule: the tasks of another order, one of them perhaps on another agent."""
    row = np.argsort(schedule.task)
    agent = schedule.agent[row].copy()
    j = rng.integers(instance.n_tasks)
    agent[j] = rng.choice(np.flatnonzero(fits_alone(instance, j)))
    length = instance.longest()
    order = rng.permutation(instance.n_tasks)
    start = np.empty(instance.n_tasks, np.int64)
    start[order] = 40 + np.cumsum(length[order]) - length[order]
    return active(instance, Schedule.from_assignment(instance, agent, start))


def test_two_equal_tasks_on_one_agent() -> None:
    instance = Instance(duration=[[4], [4]], demand=[[[1]], [[1]]], capacity=[[1]], agent_type=[0])
    _, bound = relaxed(instance, Terms.of(instance, "total_time"))
    assert 11.9 <= float(bound.value) <= 12  # 4 + 8; without contention 8


def test_packing_counts_what_fits_together() -> None:
    """Two at a time, although the units of two and a half are there."""
    parts = {
        "duration": np.full((4, 1), 6),
        "demand": np.full((4, 1, 1), 4),
        "capacity": [[10]],
        "agent_type": [0],
    }
    instance = Instance(**parts)  # type: ignore[arg-type]
    terms = Terms.of(instance, "total_time")
    assert float(relaxed(instance, terms)[1].value) < 35
    assert 35.9 <= float(relaxed(instance, terms, packing=True)[1].value) <= 36


def test_knapsacks_take_the_best_set_and_steps_round_down() -> None:
    demand = np.array([[6, 2], [5, 1], [4, 9]])[:, None]
    knapsacks = Knapsacks(np.ones((3, 1), int), demand, np.array([[10, 10]]))
    ticks, present = np.zeros((3, 1, 1)), np.ones((1, 1), int)
    rents = np.array([3.0, 4.0, 2.0])[:, None, None]
    assert (
        knapsacks.worth(np.array([0, 1]), rents, np.zeros(3, int), ticks, present) == 6
    )  # tasks 1 and 2; 0 and 1 do not fit
    assert ticks.ravel().tolist() == [0, -1, -1]
    many = Knapsacks(np.ones((3, 1), int), 10**6 * demand + 1, np.array([[10**7, 10**7]]))
    assert ((many.room + 1).prod(axis=1) <= STATES).all()
    assert (many.pieces[:, 0].sum(axis=0) >= many.room[0]).all()


def test_a_long_horizon_needs_no_tick_of_its_own() -> None:
    rng = np.random.default_rng(24)
    instance = Instance(
        duration=rng.integers(10**4, 10**5, (12, 2)),
        demand=rng.integers(1, 4, (12, 2, 1)),
        capacity=[[4], [4]],
        agent_type=[0, 1],
        release=rng.integers(0, 10**5, 12),
    )
    terms = Terms.of(instance, "total_time")
    _, bound = relaxed(instance, terms)
    best = terms.value(
        completion(improve(instance, terms, fastest(instance), 60.0, rng, patience=2))
    )
    alone = terms.value(instance.release + instance.shortest())
    assert len(bound.prices.grid) <= 1025
    assert alone + (best - alone) / 3 < bound.value <= best
