"""The local search: always feasible, never worse than its start, the same for the same seed, and near the optimum."""

from __future__ import annotations

import numpy as np
import pytest

from bench.instance import Instance
from bench.metrics import objective
from bench.setting import OBJECTIVES, Setting
from bench.verify import verify
from solvers.exact.annealing import fastest, improve
from solvers.exact.objective_terms import Terms, completion
from tests.solvers.test_cpsat import any_plan, brute_force, random_instance

LONG = 600.0  # seconds that `patience` never needs


@pytest.mark.parametrize("seed", range(40))
def test_small_instances_are_solved_to_the_optimum(seed: int) -> None:
    """Serial generation reaches an optimum of every regular objective; with six tasks the search should find it."""
    rng = np.random.default_rng([41, seed])
    instance = random_instance(rng, "time")
    for name, optimum in brute_force(instance).items():
        best = improve(
            instance,
            Terms.of(instance, name),
            any_plan(instance, Setting(), rng),
            LONG,
            rng,
            patience=4,
        )
        assert verify(instance, best) == []
        assert objective(instance, best, name) == pytest.approx(optimum, rel=1e-9), name


def crowd(rng: np.random.Generator, n: int, quotas: bool) -> Instance:
    """n gangs with memory on four unrelated agents, one of them away for a while."""
    parts = {"tenant": rng.integers(0, 3, n), "quota": np.full((3, 2), 9)} if quotas else {}
    release = rng.integers(0, 3 * n, n)
    return Instance(
        duration=rng.integers(10, 100, (n, 4)),
        demand=np.repeat(rng.integers(1, 5, (n, 1, 2)), 4, axis=1),
        capacity=[[4, 4], [4, 6], [8, 8], [8, 6]],
        agent_type=[0, 1, 2, 3],
        release=release,
        weight=rng.integers(0, 4, n),
        due=release + rng.integers(50, 200, n),
        outages=[(1, 50, 90), (2, 20, 30, False)],  # type: ignore[arg-type]
        **parts,
    )


@pytest.mark.parametrize("quotas", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_better_than_its_start_and_told_of_every_step(name: str, quotas: bool) -> None:
    rng = np.random.default_rng([42, quotas])
    instance = crowd(rng, 25, quotas)
    terms, first, seen = Terms.of(instance, name), fastest(instance), []
    assert verify(instance, first) == []

    def found(schedule) -> None:
        assert verify(instance, schedule) == []
        seen.append(terms.value(completion(schedule)))

    best = improve(instance, terms, first, LONG, rng, found, patience=1)
    assert seen == sorted(set(seen), reverse=True)
    assert seen[-1] == terms.value(completion(best)) < terms.value(completion(first))


def test_the_same_seed_gives_the_same_schedule() -> None:
    instance = crowd(np.random.default_rng(43), 15, True)
    terms = Terms.of(instance, "total_time")
    one, two = (
        improve(
            instance, terms, fastest(instance), LONG, np.random.default_rng(5), patience=2
        ).to_dict()
        for _ in range(2)
    )
    assert one == two


def test_without_time_the_start_comes_back_left_shifted() -> None:
    rng = np.random.default_rng(44)
    instance = random_instance(rng, "time")
    terms, plan = Terms.of(instance, "total_time"), any_plan(instance, Setting(), rng)
    best = improve(instance, terms, plan, 0.0, rng)
    assert verify(instance, best) == []
    assert terms.value(completion(best)) <= terms.value(completion(plan))
