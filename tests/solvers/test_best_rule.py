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
from bench.simulator import Simulator
from bench.verify import verify
from solvers.best_rule import BestRule, RandomisedRule
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


def test_a_randomised_rule_takes_its_choices_by_a_geometric_distribution():
    instance = Instance([[1], [2], [3], [4]], np.ones((4, 1, 1), dtype=int), [[1]], [0])
    observation = Simulator([instance], Setting()).observation(0)
    rule, rng = RandomisedRule(SJF(), 0.4), np.random.default_rng(0)
    ranks = np.array([rule.act(observation, rng) for _ in range(4000)])
    share = np.bincount(ranks, minlength=4) / len(ranks)
    expected = 0.6 * 0.4 ** np.arange(4)
    expected[0] += 0.4**4  # where every task is masked, the rule decides among all
    assert share == pytest.approx(expected, abs=4 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_randomised_episodes_only_improve_the_best_rule(name):
    rules, setting, better = [FIFO(), SJF(), Sufferage()], Setting(objective=name), 0
    for instance in instances():
        values = []
        for rollouts in (0, 30):
            solver = BestRule(rules, rollouts=rollouts, probability=0.2)
            result = solver.solve(instance, setting, Budget(), np.random.default_rng(0))
            assert not verify(instance, result.schedule)
            values.append(objective(instance, result.schedule, name))
            again = solver.solve(instance, setting, Budget(), np.random.default_rng(0))
            assert again.schedule.to_dict() == result.schedule.to_dict()
        assert values[1] <= values[0]
        better += values[1] < values[0]
    assert better or name != "total_time"


def test_randomisation_counts_in_the_hash_only_where_there_is_any():
    assert set(BestRule([SJF()], probability=0.3).hashed_settings()) == {"rules"}
    assert BestRule([SJF()], rollouts=3).hashed_settings()["rollouts"] == 3


@pytest.mark.parametrize("changes", [{"rollouts": -1}, {"probability": 1.0}], ids=str)
def test_bad_settings_are_refused(changes):
    with pytest.raises(UserError, match=f"solver.{next(iter(changes))}: value"):
        BestRule([SJF()], **changes)
