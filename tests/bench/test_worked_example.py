"""The worked example (bench/docs/problem.md section 6) in the simulator.

Earliest-finish-time dispatch in three orders.
"""

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench import metrics
from bench.contracts import Budget
from bench.rollout import as_solver, setting_of
from bench.setting import Setting
from bench.verify import verify

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("rule", "total", "makespan"), [("fifo", 550, 325), ("sjf", 600, 375), ("ljf", 650, 250)]
)
def test_earliest_finish_time_dispatch(rule, total, makespan):
    [instance] = instantiate(
        OmegaConf.load(CONF / "dataset" / "seed_example.yaml").dataset
    ).instances("test")
    policy = instantiate(OmegaConf.load(CONF / "solver" / f"{rule}.yaml"))
    setting = setting_of(policy, Setting(mode="commit"))
    schedule = (
        as_solver(policy).solve(instance, setting, Budget(), np.random.default_rng(0)).schedule
    )
    assert verify(instance, schedule) == []
    assert metrics.objective(instance, schedule, "total_time") == total
    assert metrics.objective(instance, schedule, "makespan") == makespan
