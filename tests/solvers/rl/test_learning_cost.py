"""The training cost: the right row of the history, the costs of the rules, and the clocks."""

import time

import numpy as np
import pytest

from bench.contracts import Budget
from bench.metrics import objective
from bench.plugins import rules
from bench.rollout import PolicySolver, setting_of
from bench.setting import Setting
from solvers.rl.learning_cost import NEAR_FINAL, LearningCost
from tests.solvers.learning import budget_instance, complex_instance, random_instance

SETTINGS = {
    "schedule": (random_instance, Setting()),
    "online": (
        complex_instance,
        Setting(track="online", observe="arrived", objective="tardiness"),
    ),
    "assign": (budget_instance, Setting(track="assign")),
}


def problem(name: str = "schedule"):
    """Return instances, their setting, and made-up scales."""
    make, setting = SETTINGS[name]
    instances = [make(np.random.default_rng(k)) for k in range(3)]
    return instances, setting, [3.0, 5.0, 7.0]


def rule_costs(instances, setting, scale) -> dict[str, float]:
    """Return the mean of objective / scale of the schedules of every rule."""
    costs = {}
    for name, rule in rules().items():
        solver, rng = PolicySolver(rule), np.random.default_rng(0)
        results = [solver.solve(i, setting_of(rule, setting), Budget(), rng) for i in instances]
        values = [
            objective(i, result.schedule, setting.objective)
            for i, result in zip(instances, results, strict=True)
        ]
        costs[name] = float(np.mean(np.array(values) / scale))
    return costs


def summary(cost: LearningCost, history, scale):
    """Return the facts after this history of (decisions, CPU seconds, seconds, mean cost)."""
    for decisions, cost.cpu_seconds, cost.seconds, value in history:
        cost.record_validation(decisions, value)
    return cost.summary(scale)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_goal_is_reached_at_the_first_row_that_is_better(name):
    instances, setting, scale = problem(name)
    costs = rule_costs(instances, setting, scale)
    sjf, best, low = costs["sjf"], min(costs.values()), 0.5 * min(costs.values())
    above = max(sjf, best) + 1.0
    history = [
        (10, 1.0, 2.0, above),
        (20, 3.0, 5.0, sjf - 1e-9),
        (30, 4.0, 7.0, best - 1e-9),
        (40, 6.0, 9.0, low),
        (50, 8.0, 11.0, low),
    ]
    facts = summary(LearningCost(instances, setting), history, scale)
    best_rules = {type(rule).__name__ for key, rule in rules().items() if costs[key] == best}
    assert facts["learning/best_rule"] in best_rules
    rows = {
        "sjf": history[1],
        "best_rule": history[1] if sjf == best else history[2],
        "nearly_final": history[3],
    }
    for goal, (decisions, cpu, seconds, _) in rows.items():
        assert facts[f"learning/decisions_to_{goal}"] == decisions, goal
        assert facts[f"learning/cpu_seconds_to_{goal}"] == cpu, goal
        assert facts[f"learning/seconds_to_{goal}"] == seconds, goal
    assert (facts["learning/cpu_seconds"], facts["learning/seconds"]) == (8.0, 11.0)


def test_a_goal_that_is_never_reached_is_none_and_equal_cost_does_not_reach_it():
    instances, setting, scale = problem()
    sjf = rule_costs(instances, setting, scale)["sjf"]
    history = [(10, 1.0, 2.0, sjf), (20, 2.0, 3.0, sjf + 1)]
    facts = summary(LearningCost(instances, setting), history, scale)
    for column in ("decisions", "cpu_seconds", "seconds"):
        assert facts[f"learning/{column}_to_sjf"] is None
        assert facts[f"learning/{column}_to_best_rule"] is None
    assert facts["learning/decisions_to_nearly_final"] == 10


def test_nearly_final_is_reached_even_if_the_final_cost_is_zero():
    instances, setting, scale = problem()
    history = [(10, 1.0, 1.0, 1.0), (20, 2.0, 2.0, 0.0)]
    facts = summary(LearningCost(instances, setting), history, scale)
    assert facts["learning/decisions_to_nearly_final"] == 20


def test_nearly_final_refers_to_the_best_value_not_to_the_last():
    instances, setting, scale = problem()
    low = 2.0
    history = [
        (10, 1.0, 1.0, low * (1 + 2 * NEAR_FINAL)),
        (20, 2.0, 2.0, low * (1 + NEAR_FINAL / 2)),
        (30, 3.0, 3.0, low),
        (40, 4.0, 4.0, 9.0),
    ]
    facts = summary(LearningCost(instances, setting), history, scale)
    assert facts["learning/decisions_to_nearly_final"] == 20


def test_only_measured_time_counts_and_a_restored_cost_continues(monkeypatch):
    clocks = {"process_time": 100.0, "perf_counter": 500.0}
    for name in clocks:
        monkeypatch.setattr(time, name, lambda name=name: clocks[name])

    def spend(cpu: float, seconds: float) -> None:
        clocks["process_time"] += cpu
        clocks["perf_counter"] += seconds

    instances, setting, _ = problem()
    cost = LearningCost(instances, setting)
    with cost.measure():
        spend(2.0, 3.0)
    spend(16.0, 32.0)
    assert (cost.cpu_seconds, cost.seconds) == (2.0, 3.0)
    cost.record_validation(5, 2.0)
    with cost.measure():  # after the last validation: saved all the same
        spend(4.0, 8.0)
    restored = LearningCost(instances, setting)
    restored.restore(cost.state())
    assert (restored.cpu_seconds, restored.seconds) == (6.0, 11.0)
    assert restored.history == [(5, 2.0, 3.0, 2.0)]
    with restored.measure():
        spend(1.0, 1.0)
    assert (restored.cpu_seconds, restored.seconds) == (7.0, 12.0)
