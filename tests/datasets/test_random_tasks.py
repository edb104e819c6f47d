"""Five to ten tasks at tick 0, drawn by the built-in function or the user's own."""

import pytest

from bench.errors import UserError
from bench.instance_set import set_hash
from bench.workload import Task
from datasets.random_tasks import RandomTasks

AGENTS = [
    {"type": "slow", "gpus": 1, "cpus": 4, "memory": 32768},
    {"type": "fast", "gpus": 2, "cpus": 8, "memory": 65536},
]


def test_instances_have_five_to_ten_tasks_at_tick_0():
    instances = list(RandomTasks(AGENTS, test=60).instances("test"))
    assert {i.n_tasks for i in instances} == set(range(5, 11))
    assert not any(i.release.any() for i in instances)
    assert all((i.weight == 1).all() and i.due is None and i.quota is None for i in instances)


def test_the_drawing_function_can_be_replaced():
    def hours(rng, n):
        return [Task("net", 3600.0) for _ in range(n)]

    [instance] = RandomTasks(AGENTS, hours, tasks=[4, 4], test=1).instances("test")
    assert instance.duration.tolist() == [[120, 60]] * 4
    with pytest.raises(UserError, match=r"dataset\.generate: returned 3 tasks; it must return 4"):
        list(RandomTasks(AGENTS, lambda rng, n: hours(rng, 3), tasks=[4, 4]).instances("test"))


def test_sets_are_reproducible_and_differ_by_seed():
    sets = [
        set_hash(RandomTasks(AGENTS, test=4, seed=seed).instances("test")) for seed in (0, 0, 1)
    ]
    assert sets[0] == sets[1] != sets[2]


def test_invalid_sizes_are_user_errors():
    with pytest.raises(UserError, match=r"dataset\.tasks"):
        RandomTasks(AGENTS, tasks=[3])
