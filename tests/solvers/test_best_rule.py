"""The best rule in hindsight: never worse than a member, and a plan that CP-SAT can start from."""

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.contracts import Budget
from bench.metrics import objective
from bench.rollout import PolicySolver
from bench.setting import OBJECTIVES, Setting
from bench.verify import verify
from solvers.best_rule import BestRule
from solvers.cpsat import CpSat
from solvers.matching import Sufferage
from solvers.rules import FIFO, SJF

CONF = Path(__file__).parents[2] / "conf"


def instances():
    return list(
        instantiate(OmegaConf.load(CONF / "dataset" / "tiny.yaml").dataset).instances("test")
    )[:4]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_is_the_best_of_its_members(name):
    rules = [FIFO(), SJF(), Sufferage()]
    for instance in instances():
        setting = Setting(objective=name)
        result = BestRule(rules).solve(instance, setting, Budget(), np.random.default_rng(0))
        members = [
            PolicySolver(rule).solve(instance, setting, Budget(), np.random.default_rng(0))
            for rule in rules
        ]
        values = [objective(instance, member.schedule, name) for member in members]
        assert not verify(instance, result.schedule)
        assert objective(instance, result.schedule, name) == min(values)
        assert result.info["rule"] == type(rules[int(np.argmin(values))]).__name__


def test_cpsat_starts_from_it():
    instance, rules = instances()[0], BestRule([SJF(), Sufferage()])
    result = CpSat(threads=1, warm_start=rules).solve(
        instance, Setting(), Budget(), np.random.default_rng(0)
    )
    first = result.trajectory[0][1]
    started = objective(
        instance, rules(instance, Setting(), np.random.default_rng(0)), "total_time"
    )
    assert result.status == "optimal"
    assert first <= started, "the left-shifted plan of the best rule comes first"
