"""R || C_max without starts: where it holds, and that it finds the optimum of all schedules."""

from dataclasses import replace

import numpy as np
import pytest

from bench.contracts import Budget
from bench.instance import Instance, Outage
from bench.metrics import objective
from bench.setting import Setting
from bench.verify import verify
from solvers.cpsat import CpSat
from solvers.exact.objective_terms import Terms
from solvers.exact.parallel_machines import is_parallel_machines
from tests.solvers.brute_force import brute_force

MAKESPAN = Setting(objective="makespan")


def machines(rng: np.random.Generator, n: int = 6, m: int = 3, release: int = 0) -> Instance:
    """Return n tasks on m agents, not all eligible, of which none runs two tasks at a time."""
    duration = rng.integers(1, 12, (n, m))
    duration[rng.random((n, m)) < 0.2] = -1
    duration[:, 0] = np.abs(duration[:, 0])
    return Instance(
        duration,
        rng.integers(2, 4, (n, m, 1)),
        np.full((m, 1), 3),
        np.arange(m),
        release=np.full(n, release),
        due=np.full(n, 9),
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_optimum_is_that_of_enumeration(seed: int) -> None:
    instance = machines(np.random.default_rng(seed), release=5 * (seed % 2))
    assert is_parallel_machines(instance, Terms.of(instance, "makespan"))
    budget = Budget(3600.0)
    result = CpSat(threads=1).solve(instance, MAKESPAN, budget, np.random.default_rng(0))
    assert result.status == "optimal"
    assert verify(instance, result.schedule) == []
    assert objective(instance, result.schedule, "makespan") == brute_force(instance)["makespan"]
    plain = CpSat(threads=1, bounds=False, local_search=False)
    other = plain.solve(instance, MAKESPAN, budget, np.random.default_rng(0))
    assert objective(instance, other.schedule, "makespan") == result.lower_bound


@pytest.mark.parametrize(
    "changes",
    [
        {"release": [0, 0, 0, 0, 0, 1]},
        {"capacity": [[3], [6], [3]]},  # agent 1 may run two tasks at a time
        {"outages": (Outage(0, 2, 3),)},
        {"tenant": [0] * 6, "quota": [[9]]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_problems_need_starts(changes: dict) -> None:
    instance = machines(np.random.default_rng(0))
    changed = replace(instance, **changes)
    assert is_parallel_machines(instance, Terms.of(instance, "makespan"))
    assert not is_parallel_machines(instance, Terms.of(instance, "total_time"))
    assert not is_parallel_machines(changed, Terms.of(changed, "makespan"))
