"""Annealing is feasible, never worse than its start, reproducible, and finds small optima."""

from __future__ import annotations

import numpy as np
import pytest

from bench.instance import Instance
from bench.left_shift import active
from bench.metrics import objective
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, Setting
from bench.verify import verify
from solvers.exact.annealing import greedy_schedule, improve_schedule
from solvers.exact.objective_terms import Terms, completion_times
from tests.solvers.brute_force import brute_force, random_schedule, random_small_instance

NO_LIMIT = 600.0  # seconds, which `patience` never needs


@pytest.mark.parametrize("seed", range(40))
def test_small_instances_are_solved_to_the_optimum(seed: int) -> None:
    """Serial generation reaches an optimum of every regular objective.

    With six tasks the search should find it.
    """
    rng = np.random.default_rng([41, seed])
    instance = random_small_instance(rng, "time")
    for name, optimum in brute_force(instance).items():
        terms = Terms.of(instance, name)
        first = random_schedule(instance, Setting(), rng)
        best = improve_schedule(instance, terms, first, NO_LIMIT, rng, patience=4)
        assert verify(instance, best) == []
        assert objective(instance, best, name) == pytest.approx(optimum, rel=1e-9), name


def contended_instance(rng: np.random.Generator, n: int, quotas: bool) -> Instance:
    """Return n gang tasks with memory on four unrelated agents, two of them with an outage."""
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
def test_the_result_is_better_than_the_start_and_every_improvement_is_reported(
    name: str, quotas: bool
) -> None:
    rng = np.random.default_rng([42, quotas])
    instance = contended_instance(rng, 25, quotas)
    terms = Terms.of(instance, name)
    first = greedy_schedule(instance)
    values = []
    assert verify(instance, first) == []

    def on_improvement(schedule: Schedule) -> None:
        assert verify(instance, schedule) == []
        values.append(terms.value(completion_times(schedule)))

    best = improve_schedule(instance, terms, first, NO_LIMIT, rng, on_improvement, patience=1)
    assert values == sorted(set(values), reverse=True)
    assert values[-1] == terms.value(completion_times(best))
    assert values[-1] < terms.value(completion_times(first))


def test_the_same_seed_gives_the_same_schedule() -> None:
    instance = contended_instance(np.random.default_rng(43), 15, True)
    terms = Terms.of(instance, "total_time")
    first = greedy_schedule(instance)
    one, two = (
        improve_schedule(instance, terms, first, NO_LIMIT, np.random.default_rng(5), patience=2)
        for _ in range(2)
    )
    assert one.to_dict() == two.to_dict()


def test_without_time_the_start_is_returned_left_shifted() -> None:
    rng = np.random.default_rng(44)
    instance = random_small_instance(rng, "time")
    terms = Terms.of(instance, "total_time")
    start = random_schedule(instance, Setting(), rng)
    best = improve_schedule(instance, terms, start, 0.0, rng)
    assert verify(instance, best) == []
    assert best.to_dict() == active(instance, start).to_dict()


@pytest.mark.parametrize("quotas", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_tasks_that_start_before_a_tick_keep_their_places(name: str, quotas: bool) -> None:
    """Started tasks stay, though they waited in vain, and the others start at the tick or later."""
    rng = np.random.default_rng([45, quotas])
    instance = contended_instance(rng, 20, quotas)
    terms = Terms.of(instance, name)
    slow = greedy_schedule(instance)
    first = Schedule(slow.task, slow.agent, slow.start + 200, slow.end + 200)
    assert verify(instance, first) == []
    tick = int(np.median(first.start))
    best = improve_schedule(instance, terms, first, NO_LIMIT, rng, patience=2, fixed_before=tick)
    assert verify(instance, best) == []
    assert terms.value(completion_times(best)) < terms.value(completion_times(first))
    before = {piece for piece in pieces(first) if piece[2] < tick}
    assert before == {piece for piece in pieces(best) if piece[2] < tick}


def pieces(schedule: Schedule) -> set[tuple[int, int, int]]:
    """Return (task, agent, start) of every piece."""
    columns = (schedule.task.tolist(), schedule.agent.tolist(), schedule.start.tolist())
    return set(zip(*columns, strict=True))


def test_a_completion_after_the_last_start_is_the_schedule_itself() -> None:
    rng = np.random.default_rng(46)
    instance = contended_instance(rng, 10, False)
    first = greedy_schedule(instance)
    end = int(first.start.max()) + 1
    terms = Terms.of(instance, "total_time")
    best = improve_schedule(instance, terms, first, NO_LIMIT, rng, patience=2, fixed_before=end)
    assert pieces(best) == pieces(first)


def test_a_number_of_moves_limits_the_search() -> None:
    instance = contended_instance(np.random.default_rng(47), 25, False)
    terms = Terms.of(instance, "total_time")
    first = greedy_schedule(instance)
    values = [
        terms.value(
            completion_times(
                improve_schedule(
                    instance, terms, first, NO_LIMIT, np.random.default_rng(1), moves_per_task=moves
                )
            )
        )
        for moves in (0, 20, 2000)
    ]
    assert values == sorted(set(values), reverse=True)


@pytest.mark.parametrize("release", [0, 3000])
def test_the_search_for_a_makespan_does_not_depend_on_when_the_tasks_are_released(
    release: int,
) -> None:
    """The search shortens what lies after the release, early or late."""
    excess = np.zeros(2)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        duration = rng.integers(1, 100, (60, 10))
        demand, capacity = np.ones((60, 10, 1), dtype=int), np.ones((10, 1), dtype=int)
        released = np.full(60, release)
        instance = Instance(duration, demand, capacity, np.arange(10), release=released)
        terms = Terms.of(instance, "makespan")
        first = greedy_schedule(instance)
        best = improve_schedule(instance, terms, first, NO_LIMIT, rng, moves_per_task=900)
        excess += [objective(instance, x, "makespan") - release for x in (first, best)]
    assert excess[1] < 0.85 * excess[0]
