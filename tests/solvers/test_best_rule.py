"""The best rule in hindsight: never worse than a member, and a schedule that CP-SAT starts from."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench import plugins
from bench.contracts import Budget
from bench.errors import UserError
from bench.instance import Instance
from bench.metrics import objective
from bench.rollout import PolicySolver
from bench.setting import OBJECTIVES, Setting
from bench.verify import verify
from solvers.best_rule import BestRule
from solvers.cpsat import CpSat
from solvers.matching import Sufferage
from solvers.rules import FIFO, LJF, SJF

CONF = Path(__file__).parents[2] / "conf"


def instances():
    config = OmegaConf.load(CONF / "dataset" / "tiny.yaml")
    return list(instantiate(config.dataset).instances("test"))[:4]


def configured():
    return instantiate(OmegaConf.load(CONF / "solver" / "best_rule.yaml"))


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


class SlowSJF(SJF):
    """SJF whose every decision takes a second of a clock."""

    clock = 0.0

    def act(self, observation, rng):
        SlowSJF.clock += 1.0
        return super().act(observation, rng)


@pytest.mark.parametrize(
    ("rules", "seconds", "best", "end"),
    [
        ([SlowSJF()], 0.5, None, []),
        ([LJF(), SlowSJF()], 0.5, "LJF", [5, 6]),
        ([LJF(), SlowSJF()], 100, "SlowSJF", [6, 1]),
    ],
)
def test_a_rule_counts_where_the_budget_allows_for_its_rollout(
    rules, seconds, best, end, monkeypatch
):
    clock = SimpleNamespace(perf_counter=lambda: SlowSJF.clock)
    monkeypatch.setattr("solvers.best_rule.time", clock)
    monkeypatch.setattr("bench.rollout.time", clock)
    ones = np.ones((2, 1, 1), dtype=int)
    instance = Instance([[5], [1]], ones, [[1]], [0])
    budget = Budget(seconds=seconds)
    result = BestRule(rules).solve(instance, Setting(), budget, np.random.default_rng(0))
    assert (result.info.get("rule"), result.schedule.end.tolist()) == (best, end)


def test_warm_up_builds_the_rules():
    rules = BestRule(first=["sjf"])
    assert rules._rules is None
    CpSat(warm_start=rules).warm_up()
    assert rules._rules is not None


def test_the_configured_rules_keep_their_order():
    names = ["Sufferage", "MinMin", "MaxMin", "EFT", "WSPT", "SJF", "EDF", "F1", "FIFO"]
    rules = configured().rules
    assert [type(rule).__name__ for rule in rules] == names
    assert rules[-1].skip


def test_every_rule_of_conf_is_used_by_default():
    found = plugins.rules()
    rules = BestRule().rules
    assert [type(rule) for rule in rules] == [type(found[name]) for name in sorted(found)]
    assert len(rules) >= 16
    assert "wfp3_published" not in found


def test_a_new_rule_of_conf_takes_part_after_the_configured_ones(monkeypatch):
    class NewRule(LJF):
        """A rule that no configuration names."""

    found = plugins.rules() | {"a_new_rule": NewRule()}
    monkeypatch.setattr(plugins, "rules", lambda: found)
    assert [type(rule).__name__ for rule in configured().rules][-2:] == ["FIFO", "NewRule"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": ["sjf", "speed"]}, r"solver\.first\[1\]: value 'speed': is no dispatch rule"),
        ({"exclude": ["random"]}, r"solver\.exclude\[0\]: value 'random': is no dispatch rule"),
        ({"first": ["sjf"], "exclude": ["sjf"]}, r"solver\.first\[0\]: value 'sjf': .*once"),
    ],
)
def test_unknown_and_repeated_names_are_user_errors(options, message):
    with pytest.raises(UserError, match=message):
        _ = BestRule(**options).rules


def test_at_least_one_rule_must_remain():
    with pytest.raises(UserError, match=r"solver\.exclude: .* excludes every rule"):
        _ = BestRule(exclude=list(plugins.rules())).rules


def test_cpsat_starts_from_its_schedule():
    instance = instances()[0]
    rules = BestRule([SJF(), Sufferage()])
    result = CpSat(threads=1, warm_start=rules).solve(
        instance, Setting(), Budget(), np.random.default_rng(0)
    )
    start = rules(instance, Setting(), np.random.default_rng(0))
    first = result.trajectory[0][1]
    assert result.status == "optimal"
    assert first <= objective(instance, start, "total_time"), "first the left-shifted schedule"
