"""AlloX: the matching against enumeration, machines of agents that take several tasks, and the published optima."""

import csv
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.contracts import Budget
from bench.instance import Instance
from bench.rollout import PolicySolver
from bench.setting import Setting
from bench.verify import verify
from solvers.allox import AlloX, matching

DATA = Path(os.environ.get("BENCH_EXTERNAL_DATA", "absent")) / "hydra"
CONF = Path(__file__).parents[2] / "conf" / "dataset" / "hydra.yaml"
ONLINE = Setting(track="online", observe="arrived")


def play(instance, setting=ONLINE):
    schedule = (
        PolicySolver(AlloX()).solve(instance, setting, Budget(), np.random.default_rng(0)).schedule
    )
    assert verify(instance, schedule) == []
    return schedule


def placement(schedule):
    """task -> (agent, start)."""
    columns = (schedule.task.tolist(), schedule.agent.tolist(), schedule.start.tolist())
    return {task: (agent, start) for task, agent, start in zip(*columns, strict=True)}


def instance_of(duration, demand=None, capacity=None, **other):
    """One agent per type; by default one task at a time."""
    n, t = np.shape(duration)
    demand = (
        np.ones((n, t, 1))
        if demand is None
        else np.repeat(np.reshape(demand, (n, 1, -1)), t, axis=1)
    )
    capacity = np.ones((t, 1)) if capacity is None else capacity
    return Instance.from_dict(
        {"duration": duration, "demand": demand, "capacity": capacity, "agent_type": range(t)}
        | other
    )


def total(ticks, wait, machine, position):
    """Sum of completions of the sequence that a matching stands for."""
    found = 0
    for s in range(len(wait)):
        own = np.flatnonzero(machine == s)
        assert sorted(position[own]) == list(range(1, len(own) + 1))
        found += (wait[s] + np.cumsum(ticks[own[np.argsort(-position[own])], s])).sum()
    return found


def least(ticks, wait):
    """The optimum by enumeration: every choice of machines, shortest first on each."""
    n, s = ticks.shape
    choices = (np.array(choice) for choice in itertools.product(range(s), repeat=n))
    return min(
        sum(
            (wait[a] + np.cumsum(np.sort(ticks[choice == a, a]))).sum()
            for a in range(s)
            if (choice == a).any()
        )
        for choice in choices
    )


def test_matching_equals_enumeration():
    rng = np.random.default_rng(1)
    for _ in range(40):
        n, s = rng.integers(1, 7), rng.integers(1, 4)
        ticks, wait = rng.integers(1, 30, (n, s)).astype(float), rng.integers(0, 20, s)
        ticks[rng.random((n, s)) < 0.2] = np.inf
        ticks[np.arange(n), rng.integers(0, s, n)] = 5.0
        assert total(ticks, wait, *matching(ticks, wait)) == least(ticks, wait)


def test_positions_grow_where_one_machine_takes_all():
    ticks = np.array([[1.0 + j, 10_000.0] for j in range(20)])
    machine, position = matching(ticks, np.zeros(2, int))
    assert machine.tolist() == [0] * 20
    assert position.tolist() == list(range(20, 0, -1))


def test_worked_example():
    schedule = play(instance_of([[500, 250, 125], [200, 100, 50], [800, 400, 200]]))
    assert schedule.end.sum() == 550


def test_a_busy_machine_is_worth_waiting_for_only_where_it_ends_first():
    schedule = play(instance_of([[4, 90], [2, 9], [20, 21]], release=[0, 1, 1]))
    assert placement(schedule) == {0: (0, 0), 1: (0, 4), 2: (1, 1)}


def test_an_agent_counts_as_as_many_machines_as_typical_tasks_fit():
    demand = [[2, 1], [2, 1], [1, 3], [2, 1], [4, 1]]
    schedule = play(instance_of([[5], [6], [7], [8], [9]], demand, [[4, 9]]))
    placed = placement(schedule)
    assert [placed[j][1] for j in range(4)] == [0, 0, 5, 6]  # two at a time
    assert placed[4] == (
        0,
        14,
    )  # planned on the machine free at 12, where it does not fit beside task 3


def test_a_task_that_does_not_fit_yet_is_not_overtaken_on_its_agent():
    demand = [[2], [2], [2], [4], [1]]
    schedule = play(
        instance_of([[9], [10], [8], [11], [30]], demand, [[4]], release=[0, 0, 0, 0, 18])
    )
    placed = placement(schedule)
    assert placed[3][1] < placed[4][1]


def test_in_commit_mode_a_task_that_can_start_goes_before_one_that_must_wait_longer():
    # two machines, one busy until 10; task 1 is planned first on the other one but needs both
    instance = instance_of([[10], [1], [5], [5]], [[2], [4], [2], [2]], [[4]], release=[0, 1, 1, 1])
    placed = placement(play(instance, Setting(track="online", observe="arrived", mode="commit")))
    assert placed[2] == (0, 1)
    assert placed[1][1] >= 10


def test_agents_that_are_away_do_not_count():
    away = {"agent": 0, "start": 0, "end": 50, "announced": True}
    soon = {"agent": 0, "start": 4, "end": 50, "announced": True}
    for outage in (away, soon):
        assert placement(play(instance_of([[5, 40]], outages=[outage]))) == {0: (1, 0)}
        assert placement(play(instance_of([[5, -1]], outages=[outage]))) == {0: (0, 50)}


@pytest.mark.external
@pytest.mark.skipif(
    not DATA.is_dir(), reason="BENCH_EXTERNAL_DATA names no folder with hydra/ in it"
)
def test_optima_of_the_published_jobs():
    with open(DATA / "sumC_optimum.csv", newline="") as file:
        optima = {int(row["n"]): float(row["opt_sumC_over_n"]) for row in csv.DictReader(file)}
    config = OmegaConf.load(CONF).dataset
    config.path, config.jobs = str(DATA / "20_ddl.csv.gz"), list(optima)
    assert len(optima) == 40
    for (n, optimum), instance in zip(
        optima.items(), instantiate(config).instances("test"), strict=True
    ):
        assert instance.n_tasks == n
        assert play(instance).end.mean() == pytest.approx(optimum, abs=1e-6)
    assert optima[400] == 29028.1825
