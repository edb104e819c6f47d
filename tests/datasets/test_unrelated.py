"""R || C_max: the durations, the errors, and an optimum by enumeration."""

import itertools

import numpy as np
import pytest

from bench.contracts import Budget
from bench.errors import UserError
from bench.metrics import objective
from bench.setting import Setting
from datasets.unrelated import Unrelated
from solvers.cpsat import CpSat

MAKESPAN = Setting(objective="makespan")


def test_durations_are_uniform_and_agents_take_one_task_at_a_time():
    instances = list(Unrelated("u", 100, 20, train=10).instances("train"))
    duration = np.concatenate([i.duration.ravel() for i in instances])
    counts = np.bincount(duration, minlength=101)[1:]
    assert counts.sum() == 20_000
    # 99 degrees of freedom: mean 99, standard deviation 14
    assert ((counts - 200) ** 2 / 200).sum() == pytest.approx(99, abs=5 * 14)
    for one in instances:
        assert (one.n_tasks, one.n_agents, one.release.max()) == (100, 20, 0)
        assert (one.demand == 1).all()
        assert (one.capacity == 1).all()


def test_the_optimum_is_that_of_all_assignments():
    for instance in Unrelated("u", 6, 3, (1, 9), train=5).instances("train"):
        loads = [
            [sum(instance.duration[j, a] for j, a in enumerate(agents) if a == b) for b in range(3)]
            for agents in itertools.product(range(3), repeat=6)
        ]
        result = CpSat(threads=1).solve(
            instance, MAKESPAN, Budget(3600.0), np.random.default_rng(0)
        )
        assert result.status == "optimal"
        assert objective(instance, result.schedule, "makespan") == min(map(max, loads))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": 0}, r"dataset\.tasks: value 0: must be at least 1"),
        ({"agents": -1}, r"dataset\.agents: value -1: must be at least 1"),
        ({"duration": [0, 5]}, r"dataset\.duration: value \[0, 5\]: .*1 <= SMALLEST"),
        ({"duration": [5]}, r"dataset\.duration: value \[5\]"),
    ],
)
def test_bad_parameters_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Unrelated("u", **({"tasks": 4, "agents": 2} | changes))
