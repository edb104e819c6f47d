"""`python -m bench.speed [BENCHMARK ...]`: how fast the suite is on this machine, as a table and as JSON."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import pkgutil
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bench.speed
from bench.errors import UserError

SCHEMA = 1
WIDTH = 160  # of a table that goes to a file


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named benchmarks (default: all), print a table each, write JSON where asked; returns the exit status."""
    known = [
        module.name
        for module in pkgutil.iter_modules(bench.speed.__path__)
        if not module.name.startswith("_")
    ]
    more = "Any other --NAME VALUE is an option of the benchmark: a keyword of its `rows`, as its docstring says."
    parser = argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__, epilog=more)
    parser.add_argument("benchmark", nargs="*", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument(
        "--threads", type=int, metavar="T", help="threads that may be used (default: 1, exact: 2)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the figures, hardware and versions here, row by row",
    )
    args, own = parser.parse_known_args(argv)
    for name in set(args.benchmark) - set(known):
        parser.error(f"benchmark: {name!r} must be one of {', '.join(known)}")
    if args.threads is not None and args.threads < 1:
        parser.error(f"--threads: at least 1 is needed, got {args.threads}")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: the folder {args.json.absolute().parent} does not exist")
    limit_threads(args.threads or 1)
    command = shlex.join(["python", "-m", "bench.speed", *(sys.argv[1:] if argv is None else argv)])
    before = (
        json.loads(args.json.read_text())["figures"] if args.json and args.json.exists() else {}
    )
    figures: dict[str, list[dict[str, Any]]] = {}
    for name in args.benchmark or known:
        benchmark = importlib.import_module(f"bench.speed.{name}")
        options = own_options(name, benchmark.rows, own)
        if "done" in inspect.signature(benchmark.rows).parameters:
            options["done"] = before.get(name, [])
        figures[name] = []
        try:
            for row in benchmark.rows(args.threads or getattr(benchmark, "THREADS", 1), **options):
                figures[name].append(row)
                if row not in before.get(
                    name, []
                ):  # the file keeps what it holds until all of it is here again
                    write(args.json, command, figures)
        except UserError as error:
            parser.error(str(error))
        if hasattr(benchmark, "summary"):
            figures[f"{name} summary"] = benchmark.summary(figures[name])
        write(args.json, command, figures)
    for name, rows in figures.items():
        if f"{name} summary" not in figures:
            show(name, rows)
    return 0


def own_options(name: str, rows: Callable[..., Any], words: Sequence[str]) -> dict[str, Any]:
    """`words` as keywords of a benchmark's `rows`, those whose default is a number or a text."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.speed {name}", add_help=False)
    for option in inspect.signature(rows).parameters.values():
        if isinstance(option.default, int | float | str):
            parser.add_argument(
                f"--{option.name}", type=type(option.default), default=option.default
            )
    return vars(parser.parse_args(words))


def write(file: Path | None, command: str, figures: dict[str, list[dict[str, Any]]]) -> None:
    """The record of what is measured so far, so that a killed run keeps it."""
    if file:
        partial = file.with_name(file.name + ".partial")
        partial.write_text(json.dumps(record(command, figures), indent=1))
        partial.replace(file)


def limit_threads(threads: int) -> None:
    """Before numba and torch are loaded: no more than `threads` (numba never more than there are cores)."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import numba
    import torch

    numba.set_num_threads(min(threads, numba.get_num_threads()))
    torch.set_num_threads(threads)


def show(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """One table; whole numbers from 1,000 on are grouped, None is left empty."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"bench.speed {name}")
    for column, value in (rows[0] if rows else {}).items():
        table.add_column(
            column.replace("_", " "), justify="left" if isinstance(value, str) else "right"
        )
    for row in rows:
        table.add_row(*map(cell, row.values()))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def cell(value: str | float | None) -> str:
    """A value of a table in words."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def record(command: str, figures: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Figures with all that is needed to judge them: date, command, hardware, load of the machine, versions."""
    from bench.run.provenance import git_commit, hardware, versions

    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "hardware": hardware(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": versions(),
        "git_commit": git_commit(),
        "figures": figures,
    }


if __name__ == "__main__":
    sys.exit(main())
