"""The price of learning: the right row of the history, the rules' own costs, and a clock that goes on."""

import numpy as np
import pytest

from bench.contracts import Budget
from bench.metrics import objective
from bench.rollout import PolicySolver, played_as
from bench.setting import Setting
from solvers.rl.learning_cost import NEARLY, RULES, Price
from tests.solvers.learning import random_instance, rough, without_clock

SETTINGS = {
    "schedule": (random_instance, Setting()),
    "online": (rough, Setting(track="online", observe="arrived", objective="tardiness")),
    "assign": (without_clock, Setting(track="assign")),
}


def problem(name: str = "schedule"):
    """Instances, their setting, and made-up scales."""
    make, setting = SETTINGS[name]
    instances = [make(np.random.default_rng(k)) for k in range(3)]
    return instances, setting, [3.0, 5.0, 7.0]


def rule_costs(instances, setting, scale) -> dict[str, float]:
    """Mean of objective / scale of every rule's schedules."""
    costs = {}
    for rule in RULES:
        solver = PolicySolver(rule())
        values = [
            objective(
                i,
                solver.solve(
                    i, played_as(rule(), setting), Budget(), np.random.default_rng(0)
                ).schedule,
                setting.objective,
            )
            for i in instances
        ]
        costs[rule.__name__] = float(np.mean(np.array(values) / scale))
    return costs


def told(price: Price, history, scale):
    """The facts after this history of (decisions, CPU seconds, seconds, cost)."""
    for decisions, price.cpu_seconds, price.seconds, cost in history:
        price.tried(decisions, cost)
    return price.summary(scale)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_goal_is_reached_at_the_first_row_that_is_better(name):
    instances, setting, scale = problem(name)
    costs = rule_costs(instances, setting, scale)
    sjf, best, low = costs["SJF"], min(costs.values()), 0.5 * min(costs.values())
    above = max(sjf, best) + 1.0
    history = [
        (10, 1.0, 2.0, above),
        (20, 3.0, 5.0, sjf - 1e-9),
        (30, 4.0, 7.0, best - 1e-9),
        (40, 6.0, 9.0, low),
        (50, 8.0, 11.0, low),
    ]
    facts = told(Price(instances, setting), history, scale)
    assert costs[facts["learning/best_rule"]] == pytest.approx(best)
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


def test_a_goal_never_reached_is_none_and_equality_is_no_victory():
    instances, setting, scale = problem()
    costs = rule_costs(instances, setting, scale)
    facts = told(
        Price(instances, setting),
        [(10, 1.0, 2.0, costs["SJF"]), (20, 2.0, 3.0, costs["SJF"] + 1)],
        scale,
    )
    for column in ("decisions", "cpu_seconds", "seconds"):
        assert facts[f"learning/{column}_to_sjf"] is None
        assert facts[f"learning/{column}_to_best_rule"] is None
    assert facts["learning/decisions_to_nearly_final"] == 10


def test_nearly_final_is_reached_even_where_the_final_cost_is_zero():
    instances, setting, scale = problem()
    facts = told(Price(instances, setting), [(10, 1.0, 1.0, 1.0), (20, 2.0, 2.0, 0.0)], scale)
    assert facts["learning/decisions_to_nearly_final"] == 20


def test_nearly_final_looks_at_the_best_value_not_the_last():
    instances, setting, scale = problem()
    low = 2.0
    history = [
        (10, 1.0, 1.0, low * (1 + 2 * NEARLY)),
        (20, 2.0, 2.0, low * (1 + NEARLY / 2)),
        (30, 3.0, 3.0, low),
        (40, 4.0, 4.0, 9.0),
    ]
    assert (
        told(Price(instances, setting), history, scale)["learning/decisions_to_nearly_final"] == 20
    )


def test_only_what_happens_on_the_clock_costs_and_a_resumed_one_goes_on():
    instances, setting, _ = problem()
    price = Price(instances, setting)
    with price.clock():
        sum(range(200_000))
    spent = price.cpu_seconds, price.seconds
    assert 0 < spent[0] <= spent[1] * 1.5 + 0.02
    sum(range(200_000))
    assert (price.cpu_seconds, price.seconds) == spent
    price.tried(5, 2.0)
    with price.clock():  # after the last trial: saved all the same
        sum(range(200_000))
    again = Price(instances, setting)
    again.restore(price.state())
    assert (again.cpu_seconds, again.seconds, again.history) == (
        price.cpu_seconds,
        price.seconds,
        price.history,
    )
    before = again.cpu_seconds
    with again.clock():
        sum(range(200_000))
    assert again.cpu_seconds > before
