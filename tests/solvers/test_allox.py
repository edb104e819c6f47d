"""AlloX: the matching against enumeration, agents with several machines, published optima."""

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
from solvers.allox import AlloX, optimal_matching

DATA = Path(os.environ.get("BENCH_EXTERNAL_DATA", "absent")) / "hydra"
CONF = Path(__file__).parents[2] / "conf" / "dataset" / "hydra.yaml"
ONLINE = Setting(track="online", observe="arrived")


def roll_out(instance, setting=ONLINE):
    """Return the schedule of AlloX, verified."""
    result = PolicySolver(AlloX()).solve(instance, setting, Budget(), np.random.default_rng(0))
    assert verify(instance, result.schedule) == []
    return result.schedule


def placement(schedule):
    """Return task -> (agent, start)."""
    columns = (schedule.task.tolist(), schedule.agent.tolist(), schedule.start.tolist())
    return {task: (agent, start) for task, agent, start in zip(*columns, strict=True)}


def instance_of(duration, demand=None, capacity=None, **other):
    """Return an instance with one agent per type, by default for one task at a time."""
    n, t = np.shape(duration)
    if demand is None:
        demand = np.ones((n, t, 1))
    else:
        demand = np.repeat(np.reshape(demand, (n, 1, -1)), t, axis=1)
    capacity = np.ones((t, 1)) if capacity is None else capacity
    parts = {"duration": duration, "demand": demand, "capacity": capacity, "agent_type": range(t)}
    return Instance.from_dict(parts | other)


def total_completion(duration, wait, machine, position):
    """Return the sum of completions of the sequences that a matching stands for."""
    total = 0
    for s in range(len(wait)):
        own = np.flatnonzero(machine == s)
        assert sorted(position[own]) == list(range(1, len(own) + 1))
        total += (wait[s] + np.cumsum(duration[own[np.argsort(-position[own])], s])).sum()
    return total


def least_total_completion(duration, wait):
    """Return the optimum by enumeration of machines, with shortest tasks first on each."""
    n, s = duration.shape
    choices = (np.array(choice) for choice in itertools.product(range(s), repeat=n))
    return min(
        sum(
            (wait[a] + np.cumsum(np.sort(duration[choice == a, a]))).sum()
            for a in range(s)
            if (choice == a).any()
        )
        for choice in choices
    )


def test_matching_equals_enumeration():
    rng = np.random.default_rng(1)
    for _ in range(40):
        n, s = rng.integers(1, 7), rng.integers(1, 4)
        duration, wait = rng.integers(1, 30, (n, s)).astype(float), rng.integers(0, 20, s)
        duration[rng.random((n, s)) < 0.2] = np.inf
        duration[np.arange(n), rng.integers(0, s, n)] = 5.0
        machine, position = optimal_matching(duration, wait)
        total = total_completion(duration, wait, machine, position)
        assert total == least_total_completion(duration, wait)


def test_positions_are_added_where_one_machine_takes_all_tasks():
    ticks = np.array([[1.0 + j, 10_000.0] for j in range(20)])
    machine, position = optimal_matching(ticks, np.zeros(2, int))
    assert machine.tolist() == [0] * 20
    assert position.tolist() == list(range(20, 0, -1))


def test_worked_example():
    schedule = roll_out(instance_of([[500, 250, 125], [200, 100, 50], [800, 400, 200]]))
    assert schedule.end.sum() == 550


def test_a_task_waits_for_a_busy_machine_only_where_it_ends_earlier():
    schedule = roll_out(instance_of([[4, 90], [2, 9], [20, 21]], release=[0, 1, 1]))
    assert placement(schedule) == {0: (0, 0), 1: (0, 4), 2: (1, 1)}


def test_an_agent_counts_as_as_many_machines_as_typical_tasks_fit():
    demand = [[2, 1], [2, 1], [1, 3], [2, 1], [4, 1]]
    schedule = roll_out(instance_of([[5], [6], [7], [8], [9]], demand, [[4, 9]]))
    placed = placement(schedule)
    assert [placed[j][1] for j in range(4)] == [0, 0, 5, 6]  # two at a time
    # planned on the machine that is free at 12, where it does not fit beside task 3
    assert placed[4] == (0, 14)


def test_a_task_that_does_not_fit_yet_is_not_overtaken_on_its_agent():
    demand = [[2], [2], [2], [4], [1]]
    schedule = roll_out(
        instance_of([[9], [10], [8], [11], [30]], demand, [[4]], release=[0, 0, 0, 0, 18])
    )
    placed = placement(schedule)
    assert placed[3][1] < placed[4][1]


def test_in_commit_mode_a_task_that_can_start_goes_before_one_that_must_wait_longer():
    # two machines, one busy until 10; task 1 is planned first on the other one but needs both
    instance = instance_of([[10], [1], [5], [5]], [[2], [4], [2], [2]], [[4]], release=[0, 1, 1, 1])
    placed = placement(
        roll_out(instance, Setting(track="online", observe="arrived", mode="commit"))
    )
    assert placed[2] == (0, 1)
    assert placed[1][1] >= 10


def test_agents_with_an_outage_now_or_soon_do_not_count():
    away = {"agent": 0, "start": 0, "end": 50, "announced": True}
    soon = {"agent": 0, "start": 4, "end": 50, "announced": True}
    for outage in (away, soon):
        assert placement(roll_out(instance_of([[5, 40]], outages=[outage]))) == {0: (1, 0)}
        assert placement(roll_out(instance_of([[5, -1]], outages=[outage]))) == {0: (0, 50)}


@pytest.mark.slow
@pytest.mark.external
@pytest.mark.skipif(
    not DATA.is_dir(), reason="BENCH_EXTERNAL_DATA names no folder with hydra/ in it"
)
def test_mean_completion_equals_the_published_optima():
    with open(DATA / "sumC_optimum.csv", newline="") as file:
        optima = {int(row["n"]): float(row["opt_sumC_over_n"]) for row in csv.DictReader(file)}
    config = OmegaConf.load(CONF).dataset
    config.path, config.jobs = str(DATA / "20_ddl.csv.gz"), list(optima)
    assert len(optima) == 40
    for (n, optimum), instance in zip(
        optima.items(), instantiate(config).instances("test"), strict=True
    ):
        assert instance.n_tasks == n
        assert roll_out(instance).end.mean() == pytest.approx(optimum, abs=1e-6)
    assert optima[400] == 29028.1825
