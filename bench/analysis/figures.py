"""Pictures of a run: Gantt chart, learning curve, bound trajectory, comparison of solvers.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish (Wong, Nature
Methods 8:441, 2011). Matplotlib is imported only when a picture is drawn.
"""

from __future__ import annotations

import heapq
import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.analysis import anytime
from bench.errors import printable
from bench.files import write_bytes
from bench.instance import KINDS, Instance, Ints
from bench.schedule import Schedule

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
SKY = "#56B4E9"
VERMILION = "#D55E00"
KIND_COLOURS = dict(zip(KINDS, (SKY, BLUE, ORANGE, GREEN), strict=True))
OUTAGE_STYLE: dict[str, Any] = {"facecolor": "#DDDDDD", "edgecolor": "#666666", "hatch": "////"}
NUMBERED_WIDTH = 0.012  # smallest width, as a fraction of the axis, of a bar with a number on it
NUMBERED_TASKS = 100  # largest number of tasks at which bars have numbers
LEGEND_WIDTH = 40  # characters of a line in the legend of learning curves
SEEDS_OF_A_BAND = 3  # of two seeds the interval is as wide as the picture
MANY_POINTS = 60  # a learning curve with more points is pale, below its running mean

Floats = NDArray[np.float64]
Trajectory = Sequence[tuple[float, float, float]]  # (seconds, best objective, proved bound)


def gantt(instance: Instance, schedule: Schedule, path: str | Path, title: str = "") -> None:
    """Draw a Gantt chart: a row per agent, a bar per piece, coloured by the kind of its task.

    Pieces that overlap on an agent are stacked, and outages are hatched. Pieces that are shorter
    than their task (an outage ended them) are pale. Pieces of unknown tasks or agents are left out.
    With `budget` sharing there are no times: the tasks of an agent are drawn one after another, and
    the axis shows their cost.
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
    first_lane = np.concatenate([[0], np.cumsum(lanes)])  # (M + 1,) of each agent's row
    last = int(end.max(initial=1))
    scale, unit = (1.0, "cost") if instance.sharing == "budget" else _unit(instance, last)
    with _figure(path, 11, float(np.clip(1.8 + 0.26 * first_lane[-1], 2.6, 16))) as axes:
        bars = _Bars(axes, instance, scale, NUMBERED_WIDTH * last)
        for piece in zip(task, agent, start, end, first_lane[agent] + lane, strict=True):
            bars.draw(*(int(x) for x in piece))
        _draw_outages(axes, instance, first_lane, scale, last)
        _label_agents(axes, first_lane)
        axes.set_xlim(0, max(1, last) * scale)
        axes.set_xlabel(unit)
        axes.set_title(title or instance.name, loc="left")
        _kind_legend(axes, instance)


def learning_curve(
    points: Mapping[str, Sequence[tuple[float, float]]], path: str | Path, title: str = ""
) -> None:
    """Draw one panel per metric against the number of simulator decisions.

    Parameters
    ----------
    points
        Name of the metric -> its (decisions, value). More than MANY_POINTS of them get their
        running mean as well.
    """
    from matplotlib.ticker import EngFormatter

    shown = {
        name: np.asarray(series, dtype=float) for name, series in points.items() if len(series)
    }
    with _figure(path, 8, 0.9 + 2.1 * max(1, len(shown)), rows=max(1, len(shown))) as panels:
        for axes, (name, series) in zip(np.atleast_1d(panels), shown.items(), strict=False):
            crowded = len(series) > MANY_POINTS
            axes.plot(
                *series.T,
                color=BLUE,
                alpha=0.35 if crowded else 1.0,
                lw=1.2,
                marker="" if crowded else "o",
                ms=3,
            )
            if crowded:
                mean = _running_mean(series[:, 1], len(series) // 25)
                axes.plot(series[:, 0], mean, color=BLUE, lw=2)
            axes.set_ylabel(name.replace("/", " ").replace("_", " "))
            axes.xaxis.set_major_formatter(EngFormatter())
            axes.grid(alpha=0.3)
        np.atleast_1d(panels)[0].set_title(title, loc="left")
        np.atleast_1d(panels)[-1].set_xlabel("simulator decisions")


class CostCurve(NamedTuple):
    """The quality that a kind of training reaches, over what it costs: (n,) each, means of seeds.

    Seconds are CPU seconds, or those of the wall clock on a GPU. Low and high limit its confidence
    interval; NaN with one seed.
    """

    label: str
    seeds: int
    decisions: Floats
    seconds: Floats
    mean: Floats
    low: Floats
    high: Floats


def learning_costs(problems: Mapping[str, Sequence[CostCurve]], path: str | Path) -> None:
    """Draw for each problem its curves over decisions and over CPU seconds.

    Intervals are drawn from SEEDS_OF_A_BAND seeds on.

    Parameters
    ----------
    problems
        Problem and what is drawn of it -> its curves.
    """
    from matplotlib.ticker import EngFormatter, NullFormatter

    colours = (BLUE, ORANGE, GREEN, VERMILION, SKY)
    with _figure(path, 13, 0.6 + 3.2 * len(problems), rows=len(problems), columns=2) as panels:
        for row, (title, curves) in zip(panels, problems.items(), strict=True):
            for i, curve in enumerate(curves):
                style: dict[str, Any] = {
                    "color": colours[i % len(colours)],
                    "ls": ("-", "--", ":")[i // len(colours) % 3],
                }
                seeds = f"{curve.label} ({curve.seeds} seed{'s' * (curve.seeds > 1)})"
                seeds = textwrap.fill(seeds, LEGEND_WIDTH)
                for axes, cost in zip(row, (curve.decisions, curve.seconds), strict=True):
                    axes.plot(cost, curve.mean, label=seeds, **style)
                    if curve.seeds >= SEEDS_OF_A_BAND:
                        axes.fill_between(
                            cost, curve.low, curve.high, color=style["color"], alpha=0.2, lw=0
                        )
            row[0].set_title(title, loc="left", fontsize=9)
            row[1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
            for axes, unit in zip(row, ("decisions", "CPU (GPU) seconds"), strict=True):
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(EngFormatter())
                axes.xaxis.set_minor_formatter(NullFormatter())
                axes.set_xlabel(f"{unit} of training")
                axes.grid(alpha=0.3)


def bound_trajectories(
    trajectories: Sequence[Trajectory],
    path: str | Path,
    title: str = "",
    objective: str = "objective",
) -> None:
    """Draw objective and bound of the first search over time, and the gaps of all if several.

    Infinite values (no schedule or bound yet) are left out. The gap is `anytime.gap`: a thin line
    per search and a bold line for their median.
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
    """Draw the mean gap of each solver, the smallest on top; the reference is at 0.

    Parameters
    ----------
    rows
        One per solver and seed, with `solver`, `gap_mean` (a fraction, or None) and `feasible` (the
        fraction of instances), as in result.json. Each row is a dot; a bar shows the mean.
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
        axes.set_xlabel("mean gap to the reference (%), 0 = proven optimum or best bound")
        axes.set_title(title, loc="left")
        axes.grid(axis="x", alpha=0.3)


# -- parts ---------------------------------------------------------------------------------------


@contextmanager
def _figure(
    path: str | Path, width: float, height: float, rows: int = 1, columns: int = 1
) -> Iterator[Any]:
    """Yield the axes of a picture that is written to `path` afterwards.

    With rows > 1 they are an array of axes that share x, with columns > 1 a table of axes that do
    not. Names of solvers and data appear as they are: a $ does not begin a formula.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, sharex=columns == 1, squeeze=columns == 1)
        for each in np.atleast_1d(axes).flat:
            each.spines[["top", "right"]].set_visible(False)
        yield axes
        for text in figure.findobj(Text):
            text.set_text(printable(text.get_text()))
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=130, format=Path(path).suffix[1:])
        write_bytes(path, buffer.getvalue())


def _bound_trajectory(axes: Any, trajectory: Trajectory, objective: str) -> None:
    """Draw best objective and bound as step functions, and the area between them."""
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


def _gaps_over_time(axes: Any, trajectories: Sequence[Trajectory]) -> None:
    """Draw the gap in % of every search and their median.

    The axis is linear below 0.1 % and logarithmic above.
    """
    seconds = np.unique([0.0, *(point[0] for points in trajectories for point in points)])
    gaps = 100.0 * np.array([anytime.gap_at(points, seconds) for points in trajectories])
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
    """Pieces drawn as bars of the height of one lane.

    A bar of at least `numbered_from` ticks has the index of its task on it.
    """

    def __init__(self, axes: Any, instance: Instance, scale: float, numbered_from: float) -> None:
        self.axes = axes
        self.instance = instance
        self.scale = scale  # units of the axis per tick
        self.numbered_from = numbered_from if instance.n_tasks <= NUMBERED_TASKS else math.inf

    def draw(self, task: int, agent: int, start: int, end: int, lane: int) -> None:
        """Draw one piece; lanes are counted over all agents."""
        kind = KINDS[self.instance.kind[task]]
        whole = end - start == self.instance.duration[task, self.instance.agent_type[agent]]
        left = start * self.scale
        width = (end - start) * self.scale
        middle = lane + 0.5
        self.axes.barh(
            middle,
            width,
            0.86,
            left,
            lw=0.6,
            color=KIND_COLOURS[kind],
            edgecolor="white",
            alpha=1.0 if whole else 0.4,
        )
        if end - start >= self.numbered_from:
            self.axes.text(
                left + width / 2,
                middle,
                task,
                ha="center",
                va="center",
                fontsize=7,
                color="white" if kind == "train" else "black",
                clip_on=True,
            )


def _end_to_end(agent: Ints, length: Ints) -> tuple[Ints, Ints]:
    """Return (start, end) of pieces (P,) that follow one another on their agents."""
    end = np.zeros(len(agent), dtype=np.int64)
    for a in np.unique(agent):
        end[agent == a] = np.cumsum(length[agent == a])
    return end - length, end


def _lanes(n_agents: int, agent: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Return (P,) the lane of each piece on its agent, and (M,) the number of lanes, at least 1.

    Pieces must be sorted by start. Each gets the lowest lane that is free.
    """
    lane = np.zeros(len(agent), dtype=np.int64)
    lanes = np.ones(n_agents, dtype=np.int64)
    busy: list[list[tuple[int, int]]] = [[] for _ in range(n_agents)]  # heaps of (end, lane)
    free: list[list[int]] = [[0] for _ in range(n_agents)]  # heaps of lanes
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
    """Return (units of the axis per tick, label of the axis) for a length in ticks."""
    seconds = ticks * instance.tick_seconds
    size, name = next(
        (pair for pair in ((86400, "d"), (3600, "h"), (60, "min")) if seconds > 4 * pair[0]),
        (1, "s"),
    )
    return instance.tick_seconds / size, f"time ({name}); 1 tick = {instance.tick_seconds:g} s"


def _draw_outages(axes: Any, instance: Instance, first_lane: Ints, scale: float, last: int) -> None:
    for outage in instance.outages:
        low = first_lane[outage.agent]
        height = first_lane[outage.agent + 1] - low
        width = (min(outage.end, last) - outage.start) * scale
        if width > 0:
            left = outage.start * scale
            axes.barh(low, width, height, left, align="edge", lw=0.0, zorder=0.5, **OUTAGE_STYLE)


def _label_agents(axes: Any, first_lane: Ints) -> None:
    """Label the middle of each agent's row and draw lines between rows, the first agent on top."""
    n_agents = len(first_lane) - 1
    every = max(1, n_agents // 40)
    axes.set_yticks(
        (first_lane[:-1] + first_lane[1:])[::every] / 2,
        [f"agent {a}" for a in range(0, n_agents, every)],
    )
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.hlines(first_lane, 0, 1, transform=axes.get_yaxis_transform(), color="#BBBBBB", lw=0.6)
    axes.set_ylim(first_lane[-1], 0)


def _kind_legend(axes: Any, instance: Instance) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=KIND_COLOURS[KINDS[k]], label=KINDS[k]) for k in np.unique(instance.kind)
    ]
    if instance.outages:
        handles.append(Patch(**OUTAGE_STYLE, label="outage"))
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(handles),
        frameon=False,
        fontsize=8,
    )


def _running_mean(values: Floats, width: int) -> Floats:
    """Return (n,) the mean over the `width` values around each (fewer at the ends)."""
    width = max(1, width)
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _gap_row(
    axes: Any, y: int, gaps: Sequence[float], mean: float, infeasible: bool, reach: float
) -> None:
    """Draw one solver: a line from the reference to its mean gap, a dot per seed, the number."""
    note = " (not always feasible)" if infeasible else ""
    if math.isnan(mean):
        axes.text(0.01 * reach, y, "no gap known" + note, va="center", fontsize=8, color="#666666")
        return
    axes.hlines(y, 0, mean, color=BLUE, lw=5, alpha=0.35)
    axes.plot(gaps, [y] * len(gaps), "o", ms=5, color=BLUE, mfc="white" if infeasible else BLUE)
    axes.text(max(mean, *gaps, 0.0) + 0.02 * reach, y, f"{mean:.1f}{note}", va="center", fontsize=8)
