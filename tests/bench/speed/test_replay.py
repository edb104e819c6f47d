"""The speed benchmark of replays: its rows, and what it refuses."""

import pytest

from bench.errors import UserError
from bench.speed.replay import GPUS, RULES, draw_trace, rows


def test_a_row_per_rule_and_size_with_the_growth_and_the_ratio_of_the_smallest():
    table = rows(1, agents=4, largest=3000)
    assert [(row["rule"], row["tasks"]) for row in table] == [
        (rule, tasks) for rule in RULES for tasks in (1000, 3000)
    ]
    assert all((row["exponent"] is None) == (row["tasks"] == 1000) for row in table)
    assert all((row["ratio"] is None) == (row["tasks"] > 1000) for row in table)


def test_the_drawn_trace_has_the_load_that_it_is_drawn_for():
    trace = draw_trace(5000, 10, load=0.8)
    work = float((trace.duration[:, 0] * trace.demand[:, 0, 0]).sum())
    assert work / (10 * GPUS * trace.release.max()) == pytest.approx(0.8, rel=0.01)


def test_too_few_tasks_are_refused():
    with pytest.raises(UserError, match=r"largest: value 10: must be at least 1,000"):
        rows(1, largest=10)
