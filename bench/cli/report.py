"""What a run prints: progress bars, the table at the end, the list of plug-ins."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from bench.analysis import figures
from bench.compiled import report_compilation
from bench.run.record import Record, problem

COMPILING = "compiling, once per machine"
WIDE = 140  # characters that a table may take
LEFT = ("", "solver", "information")  # columns of text
COLUMNS = (
    *LEFT,
    "objective",
    "gap",
    "score",
    "feasible",
    "mean JCT",
    "p99 JCT",
    "util.",
    "latency p50",
    "p99",
    "wall",
)


class _ErrorOutput(logging.Handler):
    """Prints each message as a line on standard error, whatever stands for that by then."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)


def show_readers() -> None:
    """Show the lines of the readers in datasets/: what they read, used and left out."""
    logger = logging.getLogger("datasets")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _ErrorOutput) for handler in logger.handlers):
        logger.addHandler(_ErrorOutput())


class Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """Return the rate as a string such as `1,234/s`."""
        return Text(f"{task.speed:,.3g}/s" if task.speed else "", style="progress.data.speed")


class Bars:
    """Progress bars on a terminal's error output, one per label; nothing elsewhere.

    Use it in a `with` statement: it is a `bench.contracts.Progress`.
    """

    def __init__(self, shown: bool = True) -> None:
        console = Console(file=sys.stderr)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeElapsedColumn(),
            TextColumn("remaining"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self._bars = Progress(
            *columns, console=console, transient=True, disable=not (shown and console.is_terminal)
        )
        self._tasks: dict[str, Any] = {}
        self._compilation = contextlib.ExitStack()
        self._compiled = 0

    def __enter__(self) -> Bars:
        self._bars.start()
        self._compilation.enter_context(report_compilation(self._compiling))
        return self

    def __exit__(self, *exception: object) -> None:
        self._compilation.close()
        self._bars.stop()

    def _compiling(self, function: str) -> None:
        """Show which function is being compiled; where there are no bars, say so once."""
        self._compiled += bool(function)
        self(COMPILING, self._compiled, self._compiled + bool(function), function)
        if self._bars.disable and self._compiled == 1 and function:
            print(f"{COMPILING} ...", file=sys.stderr, flush=True)

    def __call__(self, label: str, done: int, total: int, note: str) -> None:
        """Show `done` of `total`; a full bar disappears."""
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=total, note=note)
        self._bars.update(self._tasks[label], completed=done, total=total, note=note)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(label))


def output() -> Console:
    """Return standard output, wide enough for the tables; names in [] are no markup."""
    console = Console(highlight=False)
    return Console(
        highlight=False,
        markup=False,
        width=max(console.width, WIDE),
        no_color=not console.is_terminal,
    )


def show(
    console: Console, records: Sequence[Record], baselines: Sequence[Record], pictures: Path
) -> None:
    """Print one table per problem, and draw it in the folder `pictures`.

    It holds the runs, the reference, the baselines of the same problem and random play, best first.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(problem(record), []).append(record)
    for shared, runs in groups.items():
        ran = {record["solver"] for record in runs}
        others = [
            record
            for record in baselines
            if problem(record) == shared and record["solver"] not in ran
        ]
        console.print(comparison(runs, others))
        rows = [record for record in (*runs, *others) if record.get("gap_mean") is not None]
        if rows:
            name = "comparison.png" if len(groups) == 1 else f"comparison-{runs[0]['dataset']}.png"
            figures.comparison(rows, pictures / name, _title(runs[0]))
    for record in records:
        if record.get("error"):
            what = f"{record['solver']} on {record['dataset']}, seed {record['seed']}"
            note = (
                f" ({record['errors']} of {record['n_instances']} instances)"
                if record.get("n_instances")
                else ""
            )
            console.print(Text(record["status"], style="bold red"), end="")
            console.print(f": {what}{note}: {record['error']}", soft_wrap=True)


def comparison(runs: Sequence[Record], baselines: Sequence[Record]) -> Table:
    """Return the table of one problem."""
    first = next((record for record in runs if record.get("reference_proved") is not None), runs[0])
    unit = " (JCT in seconds)" if first.get("jct_mean") is not None else ""
    table = Table(
        title=f"{_title(first)}{unit}",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        padding=(0, 1),
        collapse_padding=True,
    )
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)
    for cells in _references(first):
        table.add_row(*cells, style="italic")
    seeds = len({record.get("seed") for record in runs}) > 1
    mine = {id(record) for record in runs}
    for record in sorted([*runs, *baselines], key=_rank):
        own = id(record) in mine
        name = f"{record['solver']} s{record['seed']}" if own and seeds else record["solver"]
        table.add_row("→" if own else "", name, *_cells(record), style="bold" if own else "")
    return table


def trials(console: Console, found: Mapping[str, Any]) -> None:
    """Print the trials of a search (`bench.cli.tuning.report`), best first."""
    shared = found["problem"]
    value = found["value"].removesuffix("_mean")
    title = f"{shared['solver']} on {shared['dataset']}, {shared['split']}: {value}"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for name in ("trial", *(key.rpartition(".")[2] for key in found["space"]), "value", "wall"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [{**found["default"], "number": "default"}, *found["trials"]]
    for row in sorted(rows, key=lambda row: math.inf if row["value"] is None else row["value"]):
        given = [
            f"{value:.3g}" if isinstance(value, float) else str(value)
            for value in row["parameters"].values()
        ]
        shown = "failed" if row["value"] is None else f"{row['value']:.5g}"
        table.add_row(
            str(row["number"]),
            *given,
            shown,
            _seconds(row["seconds"]),
            style="italic" if row["number"] == "default" else "",
        )
    console.print(table)
    for row in rows:
        if row["error"]:
            console.print(f"trial {row['number']}: {row['error']}", soft_wrap=True)


def _title(record: Record) -> str:
    names = [record["dataset"], record.get("split"), record.get("track"), record.get("objective")]
    if record.get("mode") == "commit":
        names.append(f"commit, backfill {record['backfill']}")
    count = record.get("n_instances")
    return ", ".join(str(name) for name in names if name) + (
        f": {count} instances" if count else ""
    )


def _references(record: Record) -> list[list[str]]:
    """Return the rows of the reference and of random play."""
    share = record.get("reference_proved")
    if share is None:
        return []
    certified = "certified optimum" if share == 1 else f"best known, {share:.0%} proved"
    lines = [["", certified, "", _number(record.get("reference_mean")), "", "100"]]
    if share < 1:
        lines.append(["", "bound", "", _number(record.get("bound_mean"))])
    dead = record.get("random_dead_ends")
    note = f", {dead:.0%} dead ends" if dead else ""
    lines.append(["", f"random play{note}", "online", _number(record.get("random_mean")), "", "0"])
    return lines


def _cells(record: Mapping[str, Any]) -> list[str]:
    if record.get("objective_mean") is None:
        return ["", "failed"]
    gap, feasible, score = record.get("gap_mean"), record["feasible"], record.get("score")
    return [
        record["information"],
        _number(record["objective_mean"]),
        "–" if gap is None else f"{gap:.2%}",
        "–" if score is None else f"{score:.1f}",
        f"{feasible:.0%}",
        _number(record.get("jct_mean")),
        _number(record.get("jct_p99")),
        _share(_utilisation(record)),
        _seconds(record.get("decision_latency_p50")),
        _seconds(record.get("decision_latency_p99")),
        _seconds(record.get("wall_seconds")),
    ]


def _utilisation(record: Mapping[str, Any]) -> float | None:
    """Utilisation of the GPUs, or of the first resource there is."""
    found = {key: value for key, value in record.items() if key.startswith("utilisation_")}
    return found.get("utilisation_gpu", next(iter(found.values()), None))


def _rank(record: Record) -> tuple[float, float]:
    """Sort key: best score first, without a score by gap, failed runs last."""
    score, gap = record.get("score"), record.get("gap_mean")
    return (-score if score is not None else math.inf, gap if gap is not None else math.inf)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.5g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 1:
        return f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.2g} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def listing(console: Console, groups: Mapping[str, Mapping[str, str]], example: str) -> None:
    """Print the plug-ins: group -> name -> one line."""
    for group, members in groups.items():
        table = Table(
            title=group,
            box=None,
            show_header=False,
            title_justify="left",
            title_style="bold",
            padding=(0, 1),
        )
        for name, words in sorted(members.items()):
            table.add_row(f"  {name}", Text(words))
        console.print(table)
    console.print(example)


def describe_job(record: Record) -> str:
    """Describe a job of a sweep in one line."""
    what = f"{record['solver']} on {record['dataset']}, seed {record['seed']}"
    if record.get("objective_mean") is None:
        return f"{what}: failed: {record['error']}"
    score, gap = record.get("score"), record.get("gap_mean")
    numbers = [
        f"score {score:.1f}" if score is not None else "",
        f"gap {gap:.2%}" if gap is not None else "",
    ]
    return f"{what}: objective {_number(record['objective_mean'])} {' '.join(numbers)}".rstrip()


def say(console: Console, *lines: str) -> None:
    """Print lines as they are."""
    for text in lines:
        console.print(text, soft_wrap=True)
