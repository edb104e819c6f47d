"""No bound exceeds the optimum, and each proof gives the bound.

The proofs are evaluated from the text of `solvers.exact.bounds` alone.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections import Counter
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from bench.contracts import Budget
from bench.instance import Instance
from bench.left_shift import fits_alone
from bench.metrics import objective
from bench.setting import OBJECTIVES, Setting
from bench.verify import verify
from solvers.cpsat import CpSat
from solvers.exact.agent_pools import agent_groups, max_tasks_at_once
from solvers.exact.annealing import greedy_schedule
from solvers.exact.bounds import Bound, relaxation_bounds, trivial
from solvers.exact.bounds.assignment import assignment_bound
from solvers.exact.objective_terms import Terms
from tests.solvers.brute_force import brute_force, random_small_instance

KINDS = ("trivial", "assignment_duals", "capacity_prices", "packing_prices", "energy_duals")


def alone(instance: Instance) -> np.ndarray:
    """Return whether each task fits each agent alone (N, M)."""
    return np.array([fits_alone(instance, j) for j in range(instance.n_tasks)])


def assignment_proof_bound(instance: Instance, proof: dict) -> int:
    """Return the bound of these duals, and fail where they break a rule."""
    assert set(proof) == {"kind", "task_duals", "column_duals"}
    tasks, able = proof["task_duals"], alone(instance)
    for (a, _), entries in Counter((a, k) for a, k, _ in proof["column_duals"]).items():
        demand = instance.demand[able[:, a], instance.agent_type[a]]
        assert entries <= max_tasks_at_once(demand, instance.capacity[a])
    columns = {(a, k): dual for a, k, dual in proof["column_duals"]}
    assert max(columns.values(), default=0) <= 0
    for j, u in enumerate(tasks):
        for a in np.flatnonzero(able[j]):
            duration = instance.duration[j, instance.agent_type[a]]
            for k in range(1, instance.n_tasks + 2):  # u <= k * p for one k holds for all above
                assert u + columns.get((a, k), 0) <= k * duration
    dual = sum(tasks) + sum(v for *_, v in proof["column_duals"])
    least, first = instance.weight.min(), instance.release.min()
    return int(
        (instance.weight - least) @ instance.shortest()
        + least * (dual + (first - instance.release).sum())
    )


def energy_proof_bound(instance: Instance, proof: dict) -> Fraction:
    """Return the bound of these duals."""
    assert set(proof) == {"kind", "thresholds", "prices", "quota_prices", "task_duals"}
    y = np.array(proof["prices"], object)
    z = proof["task_duals"]
    thresholds = proof["thresholds"]
    q = np.zeros((0, instance.n_resources, len(thresholds)), object)
    q = q if proof["quota_prices"] is None else np.array(proof["quota_prices"], object)
    assert min([*y.ravel(), *q.ravel(), *z]) >= 0
    assert max(thresholds) <= instance.release.max()
    norm, total = sum(z), 0
    for h, tick in enumerate(thresholds):
        units = (y[:, :, h] * instance.capacity).sum()
        units += (q[:, :, h] * instance.quota).sum() if len(q) else 0
        norm, total = norm + units, total + units * tick
    for j, able in enumerate(alone(instance)):
        costs = []
        for a in np.flatnonzero(able):
            agent_type = instance.agent_type[a]
            rate = z[j]
            for h, tick in enumerate(thresholds):
                if tick <= instance.release[j]:
                    multipliers = y[a, :, h] + (q[instance.tenant[j], :, h] if len(q) else 0)
                    rate += instance.demand[j, agent_type] @ multipliers
            costs.append(int(instance.duration[j, agent_type]) * rate)
        total += z[j] * int(instance.release[j]) + min(costs)
    return Fraction(int(total), int(norm)) if norm else Fraction(0)


def check_proof(instance: Instance, name: str, bound: Bound) -> None:
    """Check that a proof gives its bound after a round trip through JSON.

    `test_time_indexed` checks the proofs of the time-indexed relaxation.
    """
    proof = json.loads(json.dumps(bound.proof))
    if proof["kind"] == "trivial":
        assert bound == trivial(instance, Terms.of(instance, name))
    elif proof["kind"] == "assignment_duals":
        assert assignment_proof_bound(instance, proof) == bound.value
    elif proof["kind"] == "energy_duals":
        assert ceil(energy_proof_bound(instance, proof)) == bound.value
    else:
        assert proof["kind"] in ("capacity_prices", "packing_prices")


@pytest.mark.parametrize("seed", range(60))
def test_no_bound_exceeds_the_optimum(seed: int) -> None:
    instance = random_small_instance(np.random.default_rng([31, seed]), "time")
    for name, optimum in brute_force(instance).items():
        terms = Terms.of(instance, name)
        relaxation = relaxation_bounds(instance, terms, name, greedy_schedule(instance), 3600.0)
        assert relaxation.bounds[0].name == "trivial"
        assert relaxation.best.value == max(bound.value for bound in relaxation.bounds)
        for bound in relaxation.bounds:
            assert float(bound.value) <= optimum * (1 + 1e-12) + 1e-12, (name, bound.name)
            check_proof(instance, name, bound)
        if relaxation.schedule is not None:
            assert verify(instance, relaxation.schedule) == []


def one_at_a_time(rng: np.random.Generator) -> Instance:
    """Return an instance that the assignment problem solves.

    Agents hold one task at a time; weights and releases are equal.
    """
    n, m = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    duration = rng.integers(1, 9, (n, m))
    duration[rng.random((n, m)) < 0.2] = -1
    duration[:, 0] = rng.integers(1, 9, n)
    units = int(rng.integers(1, 3))
    return Instance(
        duration=duration,
        demand=np.full((n, m, 1), units),
        capacity=np.full((m, 1), units),
        agent_type=np.arange(m),
        release=np.full(n, 3),
        weight=np.full(n, 2),
        due=np.full(n, 9),
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_assignment_bound_is_the_optimum_where_agents_hold_one_task(seed: int) -> None:
    rng = np.random.default_rng([32, seed])
    instance = one_at_a_time(rng)
    optimum = brute_force(instance)["total_time"]
    value, proof, schedule = assignment_bound(instance)  # type: ignore[misc]
    assert value == optimum == objective(instance, schedule, "total_time")
    assert assignment_proof_bound(instance, proof) == optimum
    result = CpSat().solve(instance, Setting(), Budget(seconds=3600, threads=1), rng)
    assert (result.status, result.lower_bound) == ("optimal", optimum)
    assert objective(instance, result.schedule, "total_time") == optimum
    assert result.info["bound"] in ("assignment", "trivial")


def test_the_assignment_bound_counts_slots() -> None:
    """Two tasks of demand 4 fit an agent of 9 units at a time, three do not."""
    instance = Instance(
        duration=[[5], [2], [3]], demand=np.full((3, 1, 1), 4), capacity=[[9]], agent_type=[0]
    )
    value, proof, _ = assignment_bound(instance)  # type: ignore[misc]
    assert value == 2 + 3 + (2 + 5)
    assert assignment_proof_bound(instance, proof) == value


def test_energy_bound_by_hand() -> None:
    """Two tasks, of 6 ticks and 3 of 4 units each, are released at tick 10.

    They hold 36 unit-ticks, and 4 units are there: 10 + 9. One alone ends at 16.
    """
    instance = Instance(
        duration=[[6], [6]],
        demand=np.full((2, 1, 1), 3),
        capacity=[[4]],
        agent_type=[0],
        release=[10, 10],
    )
    terms = Terms.of(instance, "makespan")
    relaxation = relaxation_bounds(instance, terms, "makespan", greedy_schedule(instance), 3600.0)
    energy = next(bound for bound in relaxation.bounds if bound.name == "energy")
    assert float(energy.value) == pytest.approx(19)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_result_names_its_bound_and_holds_the_proof(name: str) -> None:
    rng = np.random.default_rng(33)
    for _ in range(5):
        instance = random_small_instance(rng, "time")
        budget = Budget(seconds=3600, threads=1)
        info = CpSat().solve(instance, Setting(objective=name), budget, rng).info
        assert json.loads(json.dumps(info)) == info
        assert info["bound"] in info["bounds"]
        if info["bound"] == "cpsat":
            assert info["proof"]["kind"] == "search"
            assert info["proof"]["root"]["kind"] in KINDS


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("seed", range(5))
def test_the_optimum_is_the_same_with_and_without_relaxations_and_local_search(
    seed: int, name: str
) -> None:
    """Three identical agents without slots, so that the model breaks their symmetry."""
    rng = np.random.default_rng([34, seed])
    n = 9
    release = rng.integers(0, 8, n)
    instance = Instance(
        duration=rng.integers(2, 12, (n, 2)),
        demand=np.repeat(rng.integers(1, 4, (n, 1, 1)), 2, axis=1),
        capacity=[[3], [3], [3], [2 + 2]],
        agent_type=[0, 0, 0, 1],
        release=release,
        due=release + rng.integers(2, 20, n),
    )
    assert any(not group.slots for group in agent_groups(instance))
    setting, budget = Setting(objective=name), Budget(seconds=3600, threads=1)
    values = []
    for options in (
        {},
        {"bounds": False},
        {"local_search": False},
        {"bounds": False, "local_search": False},
    ):
        solver = CpSat(**options)
        result = solver.solve(instance, setting, budget, np.random.default_rng(seed))
        assert result.status == "optimal"
        assert verify(instance, result.schedule) == []
        values.append(objective(instance, result.schedule, name))
    assert values == pytest.approx([values[0]] * 4, rel=1e-9)


# -- published optima -----------------------------------------------------------------------------

HYDRA = Path(os.environ.get("BENCH_EXTERNAL_DATA", "absent")) / "hydra"


def hydra(n: int) -> Instance:
    """Return the first n jobs of Hydra's trace, released at once, with ticks of 1 ms.

    The agents are 15 A100, 15 V100 and 15 GTX2080Ti, which run one job at a time.
    """
    with gzip.open(HYDRA / "20_ddl.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))[:n]
    seconds = [[float(row[gpu]) for gpu in ("A100", "V100", "GTX2080Ti")] for row in rows]
    assert all(x == int(x) for row in seconds for x in row)
    return Instance(
        duration=np.array(seconds).astype(int),
        demand=np.ones((n, 3, 1), int),
        capacity=np.ones((45, 1), int),
        agent_type=np.repeat([0, 1, 2], 15),
    )


@pytest.mark.external
@pytest.mark.skipif(
    not HYDRA.is_dir(), reason="BENCH_EXTERNAL_DATA names no folder with hydra/ in it"
)
def test_the_assignment_bound_equals_the_optima_of_hydras_jobs() -> None:
    with (HYDRA / "sumC_optimum.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        n, optimum = int(row["n"]), float(row["opt_sumC_over_n"])
        instance = hydra(n)
        value, proof, schedule = assignment_bound(instance)  # type: ignore[misc]
        assert float(value) / n == pytest.approx(optimum, rel=1e-6)
        assert objective(instance, schedule, "total_time") == value
        if n <= 50:
            assert assignment_proof_bound(instance, proof) == value
            result = CpSat().solve(
                instance, Setting(), Budget(seconds=600, threads=2), np.random.default_rng(0)
            )
            assert (result.status, result.lower_bound) == ("optimal", value)
