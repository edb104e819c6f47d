"""Pictures: the layout behind them is checked by value, the files by being pictures that differ with their content."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.analysis.figures import (
    _end_to_end,
    _lanes,
    _running_mean,
    _unit,
    bound_trajectories,
    comparison,
    gantt,
    learning_curve,
)
from bench.instance import Instance
from bench.schedule import Schedule


def instance(n: int = 4, agents: int = 2, **changes: object) -> Instance:
    fields = {
        "duration": [[10]] * n,
        "demand": [[[1]]] * n,
        "capacity": [[2]] * agents,
        "agent_type": [0] * agents,
        "kind": [j % 4 for j in range(n)],
    }
    return Instance(**{**fields, **changes})


def picture(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)


def test_pieces_that_overlap_never_share_a_lane() -> None:
    rng = np.random.default_rng(0)
    agent, start = rng.integers(0, 3, 200), np.sort(rng.integers(0, 100, 200))
    end = start + rng.integers(1, 30, 200)
    lane, lanes = _lanes(3, agent, start, end)
    for i in range(200):
        for j in range(i):
            if agent[i] == agent[j] and lane[i] == lane[j]:
                assert end[j] <= start[i]
    for a in range(3):  # as few lanes as run at once
        at_once = max(int(((agent == a) & (start <= t) & (t < end)).sum()) for t in range(130))
        assert lanes[a] == at_once


def test_an_idle_agent_keeps_a_row() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert _lanes(2, none, none, none)[1].tolist() == [1, 1]


def test_budget_tasks_lie_end_to_end() -> None:
    start, end = _end_to_end(np.array([0, 1, 0]), np.array([5, 7, 2]))
    assert (start.tolist(), end.tolist()) == ([0, 0, 5], [5, 7, 7])


@pytest.mark.parametrize(
    ("tick", "ticks", "scale", "name"),
    [(1, 200, 1, "s"), (60, 30, 1, "min"), (60, 1000, 1 / 60, "h")],
)
def test_the_axis_takes_a_readable_unit(tick: float, ticks: int, scale: float, name: str) -> None:
    factor, label = _unit(instance(tick_seconds=tick), ticks)
    assert factor == pytest.approx(scale)
    assert label == f"time ({name}); 1 tick = {tick} s"


def test_running_mean_is_exact_at_the_ends() -> None:
    assert _running_mean(np.array([1.0, 2.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.0]


def test_gantt_shows_tasks_and_outages(tmp_path: Path) -> None:
    plain, away = instance(), instance(outages=[(1, 12, 18)])
    gantt(
        plain,
        Schedule.from_assignment(plain, [0, 0, 1, 1], [0, 5, 0, 20]),
        tmp_path / "plain.png",
        "title",
    )
    gantt(
        away,
        Schedule.from_assignment(away, [0, 0, 1, 1], [0, 5, 0, 20]),
        tmp_path / "away.png",
        "title",
    )
    first, second = picture(tmp_path / "plain.png"), picture(tmp_path / "away.png")
    assert first.shape[1] > 1000
    assert first.shape != second.shape or (first != second).any()


def test_gantt_takes_what_verify_would_refuse(tmp_path: Path) -> None:
    broken = Schedule([0, 9, 1], [0, 0, 7], [0, 0, 0], [10, 10, 10])
    gantt(instance(), broken, tmp_path / "broken.png")
    gantt(instance(), Schedule([], [], [], []), tmp_path / "empty.png")
    budget = instance(sharing="budget")
    gantt(budget, Schedule.from_assignment(budget, [0, 0, 1, 1]), tmp_path / "budget.png")
    assert all(picture(tmp_path / f"{name}.png").size for name in ("broken", "empty", "budget"))


def test_gantt_stays_of_readable_size_for_500_tasks(tmp_path: Path) -> None:
    many = instance(500, 32)
    rng = np.random.default_rng(0)
    gantt(
        many,
        Schedule.from_assignment(many, rng.integers(0, 32, 500), rng.integers(0, 900, 500)),
        tmp_path / "many.png",
    )
    assert max(picture(tmp_path / "many.png").shape) <= 2100


def test_curves_take_missing_values(tmp_path: Path) -> None:
    learning_curve(
        {
            "validation/gap": [(0, 0.5), (10, math.nan)],
            "losses/policy": [(k, k) for k in range(99)],
        },
        tmp_path / "a.png",
    )
    learning_curve({}, tmp_path / "b.png")
    search = [(0.1, math.inf, -math.inf), (0.5, 20, 3), (2.0, 10, 10)]
    bound_trajectories([search], tmp_path / "c.png", "cpsat", "makespan")
    bound_trajectories([], tmp_path / "d.png")
    bound_trajectories(
        [search, [(0.2, 5, 5)], [(0.3, 7, -math.inf)]], tmp_path / "e.png", "cpsat", "makespan"
    )
    assert all(picture(tmp_path / f"{name}.png").std() > 0.01 for name in "abcde")
    assert picture(tmp_path / "e.png").shape[0] > picture(tmp_path / "c.png").shape[0]


def test_comparison_takes_seeds_failures_and_negative_gaps(tmp_path: Path) -> None:
    rows = [
        {"solver": "ppo", "gap_mean": 0.03, "feasible": 1.0},
        {"solver": "ppo", "gap_mean": 0.05, "feasible": 1.0},
        {"solver": "wrong_bound", "gap_mean": -0.01, "feasible": 1.0},
        {"solver": "broken", "gap_mean": None, "feasible": None},
    ]
    comparison(rows, tmp_path / "rows.png")
    comparison([], tmp_path / "none.png")
    assert picture(tmp_path / "rows.png").shape[0] > picture(tmp_path / "none.png").shape[0]


def test_matplotlib_is_not_loaded_before_it_is_used() -> None:
    code = "import sys, bench.analysis.figures; sys.exit('matplotlib' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
