"""What-if scheduling: no worse than any rule where all tasks are known, and feasible elsewhere."""

import numpy as np
import pytest

from bench.contracts import Budget
from bench.errors import UserError
from bench.metrics import objective
from bench.rollout import PolicySolver
from bench.setting import OBJECTIVES, Setting
from bench.verify import verify
from solvers.matching import EFT, Sufferage
from solvers.portfolio import RulePortfolio
from solvers.rules import HRRN, LJF, SJF
from tests.solvers.learning import random_instance
from tests.solvers.test_rolling import ONLINE, one_at_a_time, placement

RULES = (LJF(), SJF(), EFT())


def play(policy, instance, setting=ONLINE):
    """Return the schedule of a policy, verified."""
    schedule = PolicySolver(policy).solve(instance, setting, Budget(), np.random.default_rng(0))
    assert verify(instance, schedule.schedule) == []
    return schedule.schedule


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_equals_the_best_rule_where_all_tasks_arrive_at_once(name):
    setting = Setting(track="online", observe="arrived", objective=name)
    best_rules = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        instance = one_at_a_time(
            rng.integers(5, 40, (7, 2)), weight=rng.integers(1, 5, 7), due=rng.integers(5, 90, 7)
        )
        values = [objective(instance, play(rule, instance, setting), name) for rule in RULES]
        best_rules.add(int(np.argmin(values)))
        played = play(RulePortfolio(RULES, objective=name), instance, setting)
        assert objective(instance, played, name) <= min(values)
    assert len(best_rules) > 1  # no single rule is always the best one


def test_the_schedule_that_is_followed_stays_a_candidate():
    """At 3 a new task arrives; by its rule alone the policy would then start the longest task."""
    instance = one_at_a_time([[4], [9], [5], [30]], release=[0, 0, 0, 3])

    class LongestFirstAfterwards(SJF):
        def priority(self, observation):
            sign = -1 if len(observation.release) + len(observation.running_end) > 3 else 1
            return sign * super().priority(observation)

    policy = RulePortfolio((LongestFirstAfterwards(),))
    placed = placement(play(policy, instance))
    assert [placed[task][1] for task in range(4)] == [0, 9, 4, 18]


@pytest.mark.parametrize("mode", ["fit", "commit"])
def test_schedules_are_feasible_with_outages_and_quotas(mode):
    setting = Setting(track="online", observe="arrived", mode=mode)
    for seed in range(5):
        play(RulePortfolio(RULES), random_instance(np.random.default_rng(seed)), setting)


def test_rules_know_when_tasks_really_arrived():
    # At 10 the response ratios are 10/5 and 9/3; by waiting times from now on both would be 0.
    instance = one_at_a_time([[10], [5], [3]], release=[0, 0, 1])
    rules = (HRRN(),)
    assert placement(play(RulePortfolio(rules), instance)) == placement(play(HRRN(), instance))
    assert placement(play(HRRN(), instance)) == {0: (0, 0), 2: (0, 10), 1: (0, 13)}


def test_by_default_every_rule_takes_part():
    policy = RulePortfolio(first=["sufferage"], exclude=["fifo"])
    policy.warm_up()
    assert isinstance(policy.rules[0], Sufferage)
    assert len(policy.rules) > 12


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"rules": []}, "rules"),
        ({"objective": "speed"}, "objective"),
        ({"horizon_tasks": 0}, "horizon_tasks"),
        ({"first": ["ppo"]}, r"first\[0\]"),
        ({"rules": [EFT()], "first": ["sjf"]}, "first"),
    ],
)
def test_invalid_options_are_errors_that_name_the_field(options, field):
    with pytest.raises(UserError, match=rf"^solver\.{field}[:,] "):
        RulePortfolio(**options)
