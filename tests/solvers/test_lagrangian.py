"""The exact assignment solver and its parts against brute force, CP-SAT and published optima."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from bench.contracts import Budget
from bench.errors import UserError
from bench.instance import Instance
from bench.metrics import objective
from bench.setting import Setting
from bench.verify import verify
from bench.verify.problem import ExactObjective, ExactProblem
from bench.verify.proofs import proven_bound
from solvers.cpsat import CpSat
from solvers.exact.assignment.annealing import improve
from solvers.exact.assignment.dual import (
    CandidatePairs,
    DualWorkspace,
    lagrangian_bound,
    pair_bounds,
)
from solvers.exact.assignment.neighbourhoods import LargeNeighbourhoodSearch
from solvers.exact.assignment.relaxation import KnapsackRelaxation
from solvers.exact.assignment.tree import NO_SOLUTION, SOLUTION_FOUND, DepthFirstSearch
from solvers.lagrangian import Lagrangian
from solvers.local_search import LocalSearch
from tests.solvers.brute_force import (
    brute_force,
    cheapest_assignment,
    random_small_instance,
)

ASSIGN = Setting(track="assign")
BUDGET = Budget(seconds=3600, threads=2)  # the searches here end with their proof
GAP = Path(os.environ.get("BENCH_EXTERNAL_DATA", "absent")) / "gap"


def solve(instance: Instance, budget: Budget = BUDGET):
    return Lagrangian().solve(instance, ASSIGN, budget, np.random.default_rng(0))


def generalised(
    rng: np.random.Generator, n: int, m: int, tightness: float = 0.8, unit: int = 1
) -> Instance:
    """Draw an instance whose costs fall with the capacity use, as in class D.

    `tightness` is the ratio of all capacities to the mean total use. `unit` above 1 makes uses and
    capacities about as many times larger.
    """
    use = rng.integers(1, 40, (n, m)) * unit + (rng.integers(0, unit, (n, m)) if unit > 1 else 0)
    cost = 50 - use // unit + rng.integers(0, 10, (n, m))
    capacity = np.maximum(use.min(axis=1).max(), (tightness * use.sum(axis=0) / m).astype(int))
    return Instance(
        duration=cost,
        demand=use[:, :, None],
        capacity=capacity[:, None],
        agent_type=np.arange(m),
        sharing="budget",
        weight=rng.integers(1, 4, n),
    )


def total_cost(instance: Instance, agent) -> int:
    cost = instance.weight[:, None] * instance.duration[:, instance.agent_type]
    return int(cost[np.arange(instance.n_tasks), agent].sum())


# -- the solver --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_optimum_equals_brute_force_with_several_resources_and_quotas(seed: int) -> None:
    instance = random_small_instance(np.random.default_rng([9, seed]), "budget")
    optimum, result = brute_force(instance)["total_time"], solve(instance)
    if np.isinf(optimum):
        assert (result.status, len(result.schedule.task)) == ("infeasible", 0)
        return
    assert (result.status, result.lower_bound) == ("optimal", optimum)
    assert verify(instance, result.schedule) == []
    assert objective(instance, result.schedule, "total_time") == optimum


@pytest.mark.parametrize("seed", range(12))
def test_optimum_equals_cpsat_where_depth_first_search_is_needed(seed: int) -> None:
    rng = np.random.default_rng([10, seed])
    instance = generalised(
        rng, int(rng.integers(12, 30)), int(rng.integers(2, 6)), float(rng.choice([0.7, 0.9]))
    )
    result, reference = solve(instance), CpSat().solve(instance, ASSIGN, BUDGET, rng)
    assert result.status == reference.status
    assert result.lower_bound == reference.lower_bound
    if result.status == "optimal":
        assert verify(instance, result.schedule) == []
        assert objective(instance, result.schedule, "total_time") == result.lower_bound


def test_optimum_with_tasks_that_only_one_agent_can_run() -> None:
    infeasible = 0
    for seed in range(75):
        rng = np.random.default_rng([15, seed])
        n, m = int(rng.integers(3, 9)), 3
        duration, use = rng.integers(1, 60, (n, m)), rng.integers(1, 12, (n, m, 1))
        single = rng.random(n) < 0.5
        duration[single[:, None] & (np.arange(m) != rng.integers(0, m, n)[:, None])] = -1
        capacity = np.maximum((0.9 * use.sum(axis=0) / m).astype(int), use.max())
        parts = {
            "demand": use,
            "capacity": capacity,
            "agent_type": np.arange(m),
            "sharing": "budget",
        }
        instance = Instance(duration=duration, **parts)
        tenant, no_quota = np.zeros(n, np.int64), use.max(axis=1).sum(axis=0)[None]
        optimum = cheapest_assignment(
            instance, np.where(use[:, :, 0] <= capacity[:, 0], duration, -1), use, tenant, no_quota
        )
        result = solve(instance, BUDGET)
        if np.isinf(optimum):
            assert result.status == "infeasible"
            infeasible += 1
            continue
        assert verify(instance, result.schedule) == []
        assert (result.status, result.lower_bound) == ("optimal", optimum)
        assert objective(instance, result.schedule, "total_time") == optimum
    assert infeasible > 3


@pytest.mark.parametrize("largest", [10**4, 10**7, 10**11, 10**13])
def test_optimum_with_costs_of_any_size(largest: int) -> None:
    for seed in range(6):
        rng = np.random.default_rng([16, seed])
        small_costs = generalised(rng, 7, 3, 0.9)
        weight = rng.integers(1, max(2, largest // 50), 7)
        parts = {
            "demand": small_costs.demand,
            "capacity": small_costs.capacity,
            "agent_type": small_costs.agent_type,
        }
        instance = Instance(duration=small_costs.duration, weight=weight, sharing="budget", **parts)
        result, optimum = (
            solve(instance, BUDGET),
            brute_force(instance)["total_time"],
        )
        if np.isinf(optimum):
            assert result.status == "infeasible"
            continue
        assert verify(instance, result.schedule) == []
        assert result.lower_bound <= optimum
        assert result.status == "optimal"
        assert objective(instance, result.schedule, "total_time") == optimum


def test_the_largest_costs_of_an_instance_are_solved_exactly() -> None:
    instance = Instance(
        duration=[[10**8, 10**8 - 1]],
        weight=[9 * 10**7],
        demand=[[[1], [1]]],
        capacity=[[1], [1]],
        agent_type=[0, 1],
        sharing="budget",
    )
    for solver in (Lagrangian(), CpSat()):
        result = solver.solve(instance, ASSIGN, BUDGET, np.random.default_rng(0))
        assert result.status == "optimal"
        assert result.lower_bound == 9 * 10**7 * (10**8 - 1)


def test_optimum_with_a_single_agent_and_without_resources() -> None:
    alone = Instance(
        duration=[[3], [4]], demand=[[[1]], [[1]]], capacity=[[2]], agent_type=[0], sharing="budget"
    )
    free = Instance(
        duration=[[3, 1], [4, 9]],
        demand=np.zeros((2, 2, 0)),
        capacity=np.zeros((2, 0)),
        agent_type=[0, 1],
        sharing="budget",
    )
    for instance, optimum in ((alone, 7), (free, 5)):
        assert (solve(instance).status, solve(instance).lower_bound) == ("optimal", optimum)
        budget = Budget(seconds=1.0)
        found = LocalSearch().solve(instance, ASSIGN, budget, np.random.default_rng(0))
        assert objective(instance, found.schedule, "total_time") == optimum


def test_capacities_too_large_for_a_table_are_rounded_and_solved_by_cpsat() -> None:
    instance = generalised(np.random.default_rng(3), 14, 3, unit=1_000_003)
    relaxation = KnapsackRelaxation.from_instance(instance)
    assert relaxation is not None
    assert not relaxation.exact
    result = solve(instance)
    assert result.status == "optimal"
    assert (
        result.lower_bound
        == CpSat().solve(instance, ASSIGN, BUDGET, np.random.default_rng(0)).lower_bound
    )


def test_uses_with_a_common_divisor_keep_the_relaxation_exact() -> None:
    instance = generalised(np.random.default_rng(4), 14, 3)
    parts = {"agent_type": instance.agent_type, "sharing": "budget", "weight": instance.weight}
    wide = Instance(
        duration=instance.duration,
        demand=instance.demand * 10**6,
        capacity=instance.capacity * 10**6 + 999,
        **parts,
    )
    assert KnapsackRelaxation.from_instance(wide).exact
    assert solve(wide).lower_bound == solve(instance).lower_bound


def test_bounds_and_trajectory_are_valid_under_any_time_limit() -> None:
    instance = generalised(np.random.default_rng(5), 60, 10)
    optimum = solve(instance).lower_bound
    for seconds in (1e-9, 0.05, 0.2):
        result = solve(instance, Budget(seconds=seconds, threads=1))
        assert result.lower_bound <= optimum
        assert result.status in ("unknown", "feasible", "optimal")
        if result.status != "unknown":
            assert verify(instance, result.schedule) == []
            assert objective(instance, result.schedule, "total_time") >= optimum
        times, values, bounds = np.array(result.trajectory).reshape(-1, 3).T
        assert (np.diff(times) >= 0).all()
        assert (np.diff(values) <= 0).all()
        assert (np.diff(bounds) >= 0).all()


def test_an_instance_with_time_sharing_raises_an_error() -> None:
    instance = Instance(duration=[[1]], demand=[[[1]]], capacity=[[1]], agent_type=[0])
    with pytest.raises(UserError, match="use solver=cpsat"):
        Lagrangian().solve(instance, Setting(), BUDGET, np.random.default_rng(0))


@pytest.mark.parametrize("seed", range(20))
def test_verifier_confirms_the_proof_of_the_bound(seed: int) -> None:
    instance = random_small_instance(np.random.default_rng([11, seed]), "budget")
    result = solve(instance)
    if result.status == "infeasible":
        return
    proof, problem = result.info["proof"], ExactProblem(instance)
    shown = proof if proof["kind"] != "search" else proof["root"]
    value = proven_bound(problem, ExactObjective(problem, "total_time"), shown)
    if proof["kind"] == "knapsack_multipliers":
        assert value >= result.lower_bound
    assert value <= brute_force(instance)["total_time"]


@pytest.mark.parametrize("quotas", [False, True])
def test_proof_contains_multipliers_of_constraints_outside_the_knapsacks(quotas: bool) -> None:
    rng = np.random.default_rng([13, quotas])
    instance = generalised(rng, 14, 3, tightness=0.9)
    demand = np.concatenate([instance.demand, rng.integers(1, 40, (14, 3, 1))], axis=2)
    capacity = np.maximum(
        demand.max(axis=0), ((1.5 if quotas else 0.75) * demand.sum(axis=0) / 3).astype(int)
    )
    parts = {
        "duration": instance.duration,
        "demand": demand,
        "capacity": capacity,
        "agent_type": instance.agent_type,
    }
    if quotas:
        parts |= {
            "tenant": np.arange(14) % 2,
            "quota": (0.4 * demand.mean(axis=1).sum(axis=0))[None].repeat(2, 0).astype(int),
        }
    instance = Instance(**parts, weight=instance.weight, sharing="budget")
    result, problem = solve(instance), ExactProblem(instance)
    assert result.status == "optimal"
    total_time = ExactObjective(problem, "total_time")
    proof = json.loads(json.dumps(result.info["proof"]))
    proof = proof if proof["kind"] == "knapsack_multipliers" else proof["root"]
    field = "quota_prices" if quotas else "prices"
    assert np.array(proof[field]).any()
    shown = proven_bound(problem, total_time, proof)
    assert result.info["bounds"]["lagrangian"] <= shown <= result.lower_bound
    assert proven_bound(problem, total_time, {**proof, field: None}) < shown


# -- its parts ---------------------------------------------------------------------------------


def small(seed: int) -> tuple[Instance, KnapsackRelaxation, dict[tuple[int, ...], int]]:
    """Return an instance, its relaxation and the cost of every feasible assignment."""
    instance = generalised(np.random.default_rng([12, seed]), 6, 3, 0.9)
    feasible = {}
    for agent in itertools.product(range(3), repeat=6):
        load = np.zeros(3)
        np.add.at(load, list(agent), instance.demand[np.arange(6), list(agent), 0])
        if (load <= instance.capacity[:, 0]).all():
            feasible[agent] = total_cost(instance, list(agent))
    return instance, KnapsackRelaxation.from_instance(instance), feasible


@pytest.mark.parametrize("seed", range(10))
def test_bounds_are_valid_at_any_multipliers(seed: int) -> None:
    _, relaxation, feasible = small(seed)
    pairs, rng = relaxation.candidate_pairs(relaxation.possible), np.random.default_rng(seed)
    work, count = DualWorkspace.for_pairs(pairs), relaxation.possible.sum(axis=1)
    for _ in range(50):
        u = rng.integers(-relaxation.scale, 200 * relaxation.scale, 6)
        value = lagrangian_bound(pairs, u, np.ones(len(pairs.task), np.uint8), count, work)
        assert relaxation.least_cost(value) <= min(feasible.values())
        pair_bounds(pairs, u, np.ones(len(pairs.task), np.uint8), count, work, value)
        for v, (j, a) in enumerate(zip(pairs.task, pairs.agent, strict=True)):
            with_it = [cost for agent, cost in feasible.items() if agent[j] == a]
            assert relaxation.least_cost(work.pair_bound[v]) <= min(with_it, default=np.inf)
            assert work.pair_bound[v] >= value


@pytest.mark.parametrize("seed", range(10))
def test_single_and_double_precision_tables_agree(seed: int) -> None:
    _, relaxation, _ = small(seed)
    values = []
    for factor in (1, 10**6):  # costs that need double precision
        pairs = CandidatePairs.from_mask(
            relaxation.cost * factor, relaxation.use, relaxation.capacity, relaxation.possible
        )
        work, count = DualWorkspace.for_pairs(pairs), relaxation.possible.sum(axis=1)
        u, active = relaxation.multipliers * factor, np.ones(len(pairs.task), np.uint8)
        value = lagrangian_bound(pairs, u, active, count, work)
        pair_bounds(pairs, u, active, count, work, value)
        finite = work.pair_bound < 2**50  # the bound of impossible pairs has no factor
        values.append([value // factor, *np.where(finite, work.pair_bound // factor, -1)])
    assert values[0] == values[1]


@pytest.mark.parametrize("seed", range(10))
def test_depth_first_search_decides_every_limit_also_when_split(seed: int) -> None:
    _, relaxation, feasible = small(seed)
    optimum = min(feasible.values())
    for cost in (optimum - 1, optimum):
        limit, pairs = relaxation.limit(cost), relaxation.candidate_pairs(relaxation.possible)
        root = np.ones((1, len(pairs.task)), np.uint8)
        searches = [DepthFirstSearch(pairs, limit, root, np.zeros((1, 6), np.int64))]
        found = False
        while searches:
            search = searches.pop()
            status = search.explore(0.0)  # a few nodes at a time
            if status == SOLUTION_FOUND:
                chosen = np.flatnonzero(search.solution)
                assert feasible[tuple(pairs.agent[chosen][np.argsort(pairs.task[chosen])])] <= cost
                found = True
                break
            if status != NO_SOLUTION:
                searches += [search, *([other] if (other := search.split()) else [])]
        assert found == (cost >= optimum)


@pytest.mark.parametrize("seed", range(6))
def test_local_searches_stay_feasible_and_only_improve(seed: int) -> None:
    rng = np.random.default_rng([13, seed])
    instance = generalised(rng, 40, 6)
    costs: list[float] = []
    first = improve(
        instance, None, 0.0, rng, lambda one: costs.append(objective(instance, one, "total_time"))
    )
    assert first is not None
    assert verify(instance, first) == []
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == objective(instance, first, "total_time")
    again = improve(instance, first, 0.0, rng)
    assert objective(instance, again, "total_time") <= costs[-1]
    relaxation = KnapsackRelaxation.from_instance(instance)
    _, u, _ = relaxation.maximise_dual()
    search = LargeNeighbourhoodSearch(relaxation, u, first.agent[np.argsort(first.task)], rng)
    while not search.optimal and search.explore(0.5):
        load = np.zeros(6)
        np.add.at(load, search.agent, instance.demand[np.arange(40), search.agent, 0])
        assert (load <= instance.capacity[:, 0]).all()
        assert total_cost(instance, search.agent) < costs[-1]
        costs.append(total_cost(instance, search.agent))
    assert costs[-1] >= solve(instance).lower_bound
    if search.optimal:
        assert costs[-1] == solve(instance).lower_bound


def test_annealing_respects_every_resource_and_quota() -> None:
    found = 0
    for seed in range(60):
        instance = random_small_instance(np.random.default_rng([14, seed]), "budget")
        schedule = improve(instance, None, 0.0, np.random.default_rng(seed))
        if schedule is not None:
            assert verify(instance, schedule) == []
            found += 1
    assert found > 20


# -- published optima --------------------------------------------------------------------------


def published() -> list[tuple[str, str, float]]:
    """Return (name, sense, optimum) of the published instances that are solved within the budget.

    These are the ones with at most 100 tasks, without d20100.
    """
    if not GAP.is_dir():
        return []
    with (GAP / "optima.csv").open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if int(row["tasks"]) <= 100 and row["name"] != "d20100"
        ]
    senses = [
        (row["name"], sense, row[f"{sense}_optimum"]) for row in rows for sense in ("min", "max")
    ]
    return [(name, sense, float(optimum)) for name, sense, optimum in senses if optimum]


def read(name: str, sense: str) -> Instance:
    with gzip.open(GAP / "instances" / f"{name}.txt.gz", "rt") as file:
        numbers = np.array(file.read().split(), dtype=np.int64)
    m, n = numbers[:2]
    cost, use = (table.T for table in numbers[2 : 2 + 2 * m * n].reshape(2, m, n))
    top = int(cost.max()) + 1
    parts = {
        "demand": use[:, :, None],
        "capacity": numbers[2 + 2 * m * n :, None],
        "agent_type": np.arange(m),
    }
    if sense == "max":
        return Instance(duration=top - cost, sharing="budget", sense="max", offset=top, **parts)
    return Instance(duration=cost, sharing="budget", **parts)


@pytest.mark.external
@pytest.mark.skipif(not GAP.is_dir(), reason="BENCH_EXTERNAL_DATA names no folder with gap/ in it")
@pytest.mark.parametrize(
    ("name", "sense", "optimum"),
    [pytest.param(*row, marks=[pytest.mark.slow] * (row[0] == "d10100")) for row in published()],
)
def test_optimum_equals_the_published_optimum(name: str, sense: str, optimum: float) -> None:
    instance = read(name, sense)
    result = solve(instance, Budget(seconds=600, threads=2))
    assert result.status == "optimal"
    assert verify(instance, result.schedule) == []
    assert instance.original(objective(instance, result.schedule, "total_time")) == optimum
    assert instance.original(result.lower_bound) == optimum
