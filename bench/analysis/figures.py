"""Pictures of a run: Gantt chart, learning curve, bound trajectory, comparison of solvers. Matplotlib is loaded where used.

Colours are Okabe and Ito's, told apart by colour-blind readers (Wong, Nature Methods 8:441, 2011).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis import anytime
from bench.instance import KINDS, Instance, Ints
from bench.schedule import Schedule

BLUE, ORANGE, GREEN, SKY, VERMILION, PURPLE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#56B4E9",
    "#D55E00",
    "#CC79A7",
)
KIND_COLOURS = dict(zip(KINDS, (SKY, BLUE, ORANGE, GREEN), strict=True))
NARROW = 0.012  # a bar below this share of the axis carries no number


def gantt(instance: Instance, schedule: Schedule, path: str | Path, title: str = "") -> None:
    """Agents as rows, pieces as bars coloured by kind; what runs at once on an agent is stacked, outages are hatched.

    With `budget` sharing there is no clock: each agent's tasks are laid end to end, and the axis is their cost. Pieces whose
    task or agent does not exist are left out; pieces cut short by an outage are pale.
    """
    order = np.lexsort((schedule.task, schedule.start))
    rows = order[
        (schedule.task[order] < instance.n_tasks) & (schedule.agent[order] < instance.n_agents)
    ]
    task, agent, start, end = (
        column[rows] for column in (schedule.task, schedule.agent, schedule.start, schedule.end)
    )
    if instance.sharing == "budget":
        start, end = _end_to_end(agent, end - start)
    lane, lanes = _lanes(instance.n_agents, agent, start, end)
    base = np.concatenate([[0], np.cumsum(lanes)])  # (M + 1,) first lane of each agent's row
    scale, unit = (
        (1.0, "cost") if instance.sharing == "budget" else _unit(instance, int(end.max(initial=1)))
    )
    with _figure(path, 11, float(np.clip(1.8 + 0.26 * base[-1], 2.6, 16))) as axes:
        bars = _Bars(axes, instance, scale, NARROW * int(end.max(initial=1)))
        for piece in zip(task, agent, start, end, base[agent] + lane, strict=True):
            bars.draw(*(int(x) for x in piece))
        _draw_outages(axes, instance, base, scale, int(end.max(initial=1)))
        _agent_rows(axes, base)
        axes.set_xlim(0, max(1, int(end.max(initial=1))) * scale)
        axes.set_xlabel(unit)
        axes.set_title(title or instance.name, loc="left")
        _kind_legend(axes, instance)


def learning_curve(
    points: Mapping[str, Sequence[tuple[float, float]]], path: str | Path, title: str = ""
) -> None:
    """One panel per name in `points`, each a sequence of (decisions, value); many points get a running mean over them."""
    from matplotlib.ticker import EngFormatter

    shown = {
        name: np.asarray(series, dtype=float) for name, series in points.items() if len(series)
    }
    with _figure(path, 8, 0.9 + 2.1 * max(1, len(shown)), rows=max(1, len(shown))) as panels:
        for axes, (name, series) in zip(np.atleast_1d(panels), shown.items(), strict=False):
            crowded = len(series) > 60
            axes.plot(
                *series.T,
                color=BLUE,
                alpha=0.35 if crowded else 1.0,
                lw=1.2,
                marker="" if crowded else "o",
                ms=3,
            )
            if crowded:
                axes.plot(
                    series[:, 0], _running_mean(series[:, 1], len(series) // 25), color=BLUE, lw=2
                )
            axes.set_ylabel(name.replace("/", " ").replace("_", " "))
            axes.xaxis.set_major_formatter(EngFormatter())
            axes.grid(alpha=0.3)
        np.atleast_1d(panels)[0].set_title(title, loc="left")
        np.atleast_1d(panels)[-1].set_xlabel("simulator decisions")


def bound_trajectories(
    trajectories: Sequence[Sequence[tuple[float, float, float]]],
    path: str | Path,
    title: str = "",
    objective: str = "objective",
) -> None:
    """Searches, each (seconds, best objective, proved bound): the first one's values, and where there are more, all gaps.

    Steps; infinite values (none yet) are left out. The gap is `anytime.gap`, one thin line per search, their median bold.
    """
    several = len(trajectories) > 1
    with _figure(path, 8, 7 if several else 4, rows=1 + several) as panels:
        first, last = np.atleast_1d(panels)[[0, -1]]
        _bound_trajectory(first, trajectories[0] if trajectories else (), objective)
        first.set_title(title, loc="left")
        if several:
            _gaps_over_time(last, trajectories)
        last.set_xlabel("solver time (s)")
        for axes in (first, last):
            axes.grid(alpha=0.3)
            axes.legend(frameon=False)


def comparison(rows: Sequence[Mapping[str, Any]], path: str | Path, title: str = "") -> None:
    """The mean gap of each solver, smallest on top, the reference at 0; one dot per row (seed) and a bar at their mean.

    Args:
        rows: each with `solver`, `gap_mean` (a fraction, may be missing) and `feasible` (share), as in result.json.
    """
    gaps: dict[str, list[float]] = {}
    for row in rows:
        gap = row.get("gap_mean")
        gaps.setdefault(row["solver"], []).append(math.nan if gap is None else 100.0 * gap)
    infeasible = {row["solver"] for row in rows if (row.get("feasible") or 0.0) < 1.0}
    mean = {solver: float(np.mean(values)) for solver, values in gaps.items()}
    solvers = sorted(mean, key=lambda solver: (math.isnan(mean[solver]), mean[solver], solver))
    known = [x for values in gaps.values() for x in values if math.isfinite(x)]
    reach = max(map(abs, known), default=0.0) or 1.0
    with _figure(path, 8, 1.4 + 0.34 * len(solvers)) as axes:
        for y, solver in enumerate(solvers):
            _gap_row(axes, y, gaps[solver], mean[solver], solver in infeasible, reach)
        axes.axvline(0, color="black", lw=1)
        axes.set_yticks(range(len(solvers)), solvers)
        axes.set_ylim(len(solvers) - 0.4, -0.6)
        axes.set_xlim(1.1 * min([0.0, *known]), 1.25 * reach)
        axes.set_xlabel("mean gap to the reference (%), 0 = proved optimum or best bound")
        axes.set_title(title, loc="left")
        axes.grid(axis="x", alpha=0.3)


# -- parts -----------------------------------------------------------------------------------------------------------


@contextmanager
def _figure(path: str | Path, width: float, height: float, rows: int = 1) -> Iterator[Any]:
    """Axes (an array of them where rows > 1, sharing x) of a picture that is written to `path` in the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, sharex=True)
    for each in np.atleast_1d(axes):
        each.spines[["top", "right"]].set_visible(False)
    yield axes
    figure.savefig(path, dpi=130)


def _bound_trajectory(
    axes: Any, trajectory: Sequence[tuple[float, float, float]], objective: str
) -> None:
    table = np.asarray(trajectory, dtype=float).reshape(-1, 3)
    seconds, value, bound = np.where(np.isfinite(table), table, math.nan).T
    axes.fill_between(
        seconds, bound, value, step="post", color=SKY, alpha=0.25, lw=0, label="gap still open"
    )
    axes.step(
        seconds,
        value,
        where="post",
        color=VERMILION,
        lw=2,
        marker="o",
        ms=4,
        label=f"best {objective}",
    )
    axes.step(
        seconds, bound, where="post", color=BLUE, lw=2, marker="s", ms=3, label="proved bound"
    )
    axes.set_ylabel(objective)


def _gaps_over_time(
    axes: Any, trajectories: Sequence[Sequence[tuple[float, float, float]]]
) -> None:
    """The gap in % of every search and their median, on an axis that is linear below 0.1 % and logarithmic above."""
    seconds = np.unique([0.0, *(point[0] for points in trajectories for point in points)])
    gaps = 100.0 * np.array(
        [anytime.at(points, seconds) for points in trajectories]
    )  # (instances, seconds)
    axes.step(seconds, gaps.T, where="post", color=SKY, alpha=0.5, lw=0.8)
    axes.step(
        seconds,
        np.median(gaps, axis=0),
        where="post",
        color=BLUE,
        lw=2.5,
        label=f"median of {len(gaps)} instances",
    )
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
    axes.set_ylim(-0.01, 130)
    axes.set_ylabel("gap (%)")


class _Bars:
    """Draws pieces as bars, one lane high, with the task's index where it fits (`narrow`: ticks below which it does not)."""

    def __init__(self, axes: Any, instance: Instance, scale: float, narrow: float) -> None:
        self.axes, self.instance, self.scale = axes, instance, scale
        self.narrow = narrow if instance.n_tasks <= 100 else math.inf

    def draw(self, task: int, agent: int, start: int, end: int, lane: int) -> None:
        """One piece on a lane counted over all agents."""
        kind = KINDS[self.instance.kind[task]]
        whole = end - start == self.instance.duration[task, self.instance.agent_type[agent]]
        left, width, middle = start * self.scale, (end - start) * self.scale, lane + 0.5
        colours = {
            "color": KIND_COLOURS[kind],
            "edgecolor": "white",
            "alpha": 1.0 if whole else 0.4,
        }
        self.axes.barh(middle, width, 0.86, left, lw=0.6, **colours)
        if end - start >= self.narrow:
            ink = "white" if kind == "train" else "black"
            self.axes.text(
                left + width / 2,
                middle,
                task,
                ha="center",
                va="center",
                fontsize=7,
                color=ink,
                clip_on=True,
            )


def _end_to_end(agent: Ints, length: Ints) -> tuple[Ints, Ints]:
    """(start, end) of pieces (P,) laid one after another on their agents."""
    end = np.zeros(len(agent), dtype=np.int64)
    for a in np.unique(agent):
        end[agent == a] = np.cumsum(length[agent == a])
    return end - length, end


def _lanes(n_agents: int, agent: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """((P,) lane of each piece within its agent, (M,) lanes of each agent, at least 1); pieces come sorted by start."""
    lane, lanes = np.zeros(len(agent), dtype=np.int64), np.ones(n_agents, dtype=np.int64)
    busy: list[list[tuple[int, int]]] = [[] for _ in range(n_agents)]  # (end, lane) of what runs
    free: list[list[int]] = [[0] for _ in range(n_agents)]
    for i, (a, begin) in enumerate(zip(agent, start, strict=True)):
        while busy[a] and busy[a][0][0] <= begin:
            heapq.heappush(free[a], heapq.heappop(busy[a])[1])
        if not free[a]:
            free[a].append(int(lanes[a]))
            lanes[a] += 1
        lane[i] = heapq.heappop(free[a])
        heapq.heappush(busy[a], (int(end[i]), int(lane[i])))
    return lane, lanes


def _unit(instance: Instance, ticks: int) -> tuple[float, str]:
    """(axis units in a tick, axis label): seconds, minutes or hours, by the length shown."""
    seconds = ticks * instance.tick_seconds
    size, name = next(
        (pair for pair in ((86400, "d"), (3600, "h"), (60, "min")) if seconds > 4 * pair[0]),
        (1, "s"),
    )
    return instance.tick_seconds / size, f"time ({name}); 1 tick = {instance.tick_seconds:g} s"


def _draw_outages(axes: Any, instance: Instance, base: Ints, scale: float, last: int) -> None:
    for outage in instance.outages:
        low, high = base[outage.agent], base[outage.agent + 1]
        width = (min(outage.end, last) - outage.start) * scale
        if width > 0:
            axes.barh(low, width, high - low, outage.start * scale, align="edge", color="#DDDDDD", edgecolor="#666666",
                      hatch="////", lw=0.0, zorder=0.5)  # fmt: skip


def _agent_rows(axes: Any, base: Ints) -> None:
    """Ticks in the middle of each agent's row, lines between the rows, the first agent on top."""
    n_agents = len(base) - 1
    every = max(1, n_agents // 40)
    axes.set_yticks(
        (base[:-1] + base[1:])[::every] / 2, [f"agent {a}" for a in range(0, n_agents, every)]
    )
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.hlines(base, 0, 1, transform=axes.get_yaxis_transform(), color="#BBBBBB", lw=0.6)
    axes.set_ylim(base[-1], 0)


def _kind_legend(axes: Any, instance: Instance) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=KIND_COLOURS[KINDS[k]], label=KINDS[k]) for k in np.unique(instance.kind)
    ]
    if instance.outages:
        handles.append(
            Patch(facecolor="#DDDDDD", edgecolor="#666666", hatch="////", label="agent away")
        )
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(handles),
        frameon=False,
        fontsize=8,
    )


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """(n,) mean over the `width` values around each (fewer at the ends)."""
    width = max(1, width)
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _gap_row(
    axes: Any, y: int, gaps: Sequence[float], mean: float, infeasible: bool, reach: float
) -> None:
    """One solver: a line from the reference to its mean gap, a dot per seed, the number beside it."""
    note = " (not always feasible)" if infeasible else ""
    if math.isnan(mean):
        axes.text(0.01 * reach, y, "no gap known" + note, va="center", fontsize=8, color="#666666")
        return
    axes.hlines(y, 0, mean, color=BLUE, lw=5, alpha=0.35)
    axes.plot(gaps, [y] * len(gaps), "o", ms=5, color=BLUE, mfc="white" if infeasible else BLUE)
    axes.text(max(mean, *gaps, 0.0) + 0.02 * reach, y, f"{mean:.1f}{note}", va="center", fontsize=8)
