"""Pictures: what is drawn on their axes is checked by value, the files by their size."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from bench.analysis import figures
from bench.analysis.figures import (
    KIND_COLOURS,
    _end_to_end,
    _lanes,
    _running_mean,
    _unit,
    bound_trajectories,
    comparison,
    gantt,
    learning_curve,
)
from bench.instance import KINDS, Instance
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


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list to which the axes of every picture are appended."""
    axes_of_pictures: list[Any] = []
    real = figures._figure

    @contextmanager
    def kept(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with real(*args, **kwargs) as axes:
            axes_of_pictures.append(axes)
            yield axes

    monkeypatch.setattr(figures, "_figure", kept)
    return axes_of_pictures


def bars(axes: Any) -> list[tuple[float, float, float, str, float]]:
    """Return (left, width, lane, colour, alpha) of every bar that is one lane high."""
    return [
        (p.get_x(), p.get_width(), p.get_y() + 0.43 - 0.5, to_hex(p.get_facecolor()), p.get_alpha())
        for p in axes.patches
        if p.get_height() == pytest.approx(0.86)
    ]


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_pieces_that_overlap_never_share_a_lane() -> None:
    rng = np.random.default_rng(0)
    agent = rng.integers(0, 3, 200)
    start = np.sort(rng.integers(0, 100, 200))
    end = start + rng.integers(1, 30, 200)
    lane, lanes = _lanes(3, agent, start, end)
    for i in range(200):
        for j in range(i):
            if agent[i] == agent[j] and lane[i] == lane[j]:
                assert end[j] <= start[i]
    for a in range(3):  # as few lanes as run at once
        at_once = max(int(((agent == a) & (start <= t) & (t < end)).sum()) for t in range(130))
        assert lanes[a] == at_once


def test_an_idle_agent_has_one_lane() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert _lanes(2, none, none, none)[1].tolist() == [1, 1]


def test_budget_tasks_follow_one_another() -> None:
    start, end = _end_to_end(np.array([0, 1, 0]), np.array([5, 7, 2]))
    assert (start.tolist(), end.tolist()) == ([0, 0, 5], [5, 7, 7])


@pytest.mark.parametrize(
    ("tick", "ticks", "scale", "name"),
    [(1, 200, 1, "s"), (60, 30, 1, "min"), (60, 1000, 1 / 60, "h")],
)
def test_unit_of_the_axis_by_length(tick: float, ticks: int, scale: float, name: str) -> None:
    factor, label = _unit(instance(tick_seconds=tick), ticks)
    assert factor == pytest.approx(scale)
    assert label == f"time ({name}); 1 tick = {tick} s"


def test_running_mean_is_exact_at_the_ends() -> None:
    assert _running_mean(np.array([1.0, 2.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.0]


def test_gantt_draws_pieces_by_agent_lane_and_kind(tmp_path: Path, drawn: list[Any]) -> None:
    plain = instance(tick_seconds=1.0)
    gantt(
        plain,
        Schedule.from_assignment(plain, [0, 0, 1, 1], [0, 5, 0, 20]),
        tmp_path / "plain.png",
        "title",
    )
    [axes] = drawn
    colours = [KIND_COLOURS[kind].lower() for kind in KINDS]
    # In order of start: tasks 0 and 1 overlap on agent 0 (lanes 0 and 1), agent 1 has lane 2.
    assert bars(axes) == [
        (0, 10, pytest.approx(0), colours[0], 1.0),
        (0, 10, pytest.approx(2), colours[2], 1.0),
        (5, 10, pytest.approx(1), colours[1], 1.0),
        (20, 10, pytest.approx(2), colours[3], 1.0),
    ]
    assert texts(axes) == ["0", "2", "1", "3"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["agent 0", "agent 1"]
    assert axes.get_yticks().tolist() == [1.0, 2.5]
    assert axes.get_xlim() == (0, 30)
    assert axes.get_title(loc="left") == "title"
    assert picture(tmp_path / "plain.png").shape[1] > 1000


def test_gantt_hatches_outages_and_draws_short_pieces_pale(
    tmp_path: Path, drawn: list[Any]
) -> None:
    failing = instance(outages=[(1, 12, 18, False), (0, 40, 50)], tick_seconds=1.0)
    short = Schedule([0, 0, 1, 2, 3], [1, 0, 0, 1, 1], [8, 12, 0, 0, 18], [12, 22, 10, 10, 28])
    gantt(failing, short, tmp_path / "outages.png")
    [axes] = drawn
    hatched = [p for p in axes.patches if p.get_hatch()]
    # The outage of agent 0 begins after the last end of a piece and is not shown.
    assert [(p.get_x(), p.get_width(), p.get_height()) for p in hatched] == [(12, 6, 2)]
    assert [(left, width) for left, width, *_, alpha in bars(axes) if alpha < 1] == [(8, 4)]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [*KINDS, "outage"]


def test_gantt_ignores_unknown_tasks_and_agents(tmp_path: Path, drawn: list[Any]) -> None:
    broken = Schedule([0, 9, 1], [0, 0, 7], [0, 0, 0], [10, 10, 10])
    gantt(instance(), broken, tmp_path / "broken.png")
    gantt(instance(), Schedule([], [], [], []), tmp_path / "empty.png")
    assert [texts(axes) for axes in drawn] == [["0"], []]
    assert all(picture(tmp_path / f"{name}.png").size for name in ("broken", "empty"))


def test_gantt_of_budget_sharing_shows_costs(tmp_path: Path, drawn: list[Any]) -> None:
    budget = instance(sharing="budget")
    gantt(budget, Schedule.from_assignment(budget, [0, 0, 1, 1]), tmp_path / "budget.png")
    [axes] = drawn
    assert [(left, width) for left, width, *_ in bars(axes)] == [(0, 10), (10, 10)] * 2
    assert axes.get_xlabel() == "cost"
    assert picture(tmp_path / "budget.png").size


def test_gantt_of_500_tasks_is_limited_in_size(tmp_path: Path) -> None:
    many = instance(500, 32)
    rng = np.random.default_rng(0)
    gantt(
        many,
        Schedule.from_assignment(many, rng.integers(0, 32, 500), rng.integers(0, 900, 500)),
        tmp_path / "many.png",
    )
    assert max(picture(tmp_path / "many.png").shape) <= 2100


def test_learning_curve_skips_missing_values(tmp_path: Path, drawn: list[Any]) -> None:
    points = {
        "validation/gap": [(0, 0.5), (10, math.nan)],
        "losses/policy": [(k, k) for k in range(99)],
        "losses/none": [],
    }
    learning_curve(points, tmp_path / "a.png")
    learning_curve({}, tmp_path / "b.png")
    few, many = drawn[0]
    assert (few.get_ylabel(), many.get_ylabel()) == ("validation gap", "losses policy")
    np.testing.assert_array_equal(few.lines[0].get_ydata(), [0.5, math.nan])
    raw, mean = many.lines  # many points get their running mean as well
    assert raw.get_ydata().tolist() == list(range(99))
    assert mean.get_ydata()[50] == 50
    assert mean.get_ydata()[0] == 0.5
    assert all(picture(tmp_path / f"{name}.png").std() > 0.01 for name in "ab")


def test_bound_trajectories_show_one_search_and_the_gaps_of_several(
    tmp_path: Path, drawn: list[Any]
) -> None:
    search = [(0.1, math.inf, -math.inf), (0.5, 20, 3), (2.0, 10, 10)]
    others = [[(0.2, 5, 5)], [(0.3, 7, -math.inf)]]
    bound_trajectories([search], tmp_path / "c.png", "cpsat", "makespan")
    bound_trajectories([], tmp_path / "d.png")
    bound_trajectories([search, *others], tmp_path / "e.png", "cpsat", "makespan")
    one, _, (first, gaps) = drawn
    for axes in (one, first):
        best, bound = axes.lines
        assert best.get_xdata().tolist() == [0.1, 0.5, 2.0]
        np.testing.assert_array_equal(best.get_ydata(), [math.nan, 20, 10])
        np.testing.assert_array_equal(bound.get_ydata(), [math.nan, 3, 10])
    *each, median = gaps.lines
    assert median.get_xdata().tolist() == [0.0, 0.1, 0.2, 0.3, 0.5, 2.0]
    assert [line.get_ydata()[-1] for line in each] == [0, 0, 100]
    assert median.get_ydata().tolist() == pytest.approx([100, 100, 100, 100, 85, 0])
    assert all(picture(tmp_path / f"{name}.png").std() > 0.01 for name in "cde")


def test_comparison_shows_seeds_failures_and_negative_gaps(
    tmp_path: Path, drawn: list[Any]
) -> None:
    rows = [
        {"solver": "ppo", "gap_mean": 0.03, "feasible": 1.0},
        {"solver": "ppo", "gap_mean": 0.05, "feasible": 1.0},
        {"solver": "wrong_bound", "gap_mean": -0.01, "feasible": 1.0},
        {"solver": "broken", "gap_mean": None, "feasible": None},
    ]
    comparison(rows, tmp_path / "rows.png")
    comparison([], tmp_path / "none.png")
    axes = drawn[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["wrong_bound", "ppo", "broken"]
    assert texts(axes) == ["-1.0", "4.0", "no gap known (not always feasible)"]
    seeds = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    assert seeds == [[-1.0], [3.0, 5.0]]
    assert picture(tmp_path / "rows.png").shape[0] > picture(tmp_path / "none.png").shape[0]


def test_matplotlib_is_imported_only_when_a_picture_is_drawn() -> None:
    code = "import sys, bench.analysis.figures; sys.exit('matplotlib' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
