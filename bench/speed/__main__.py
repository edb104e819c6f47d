"""`python -m bench.speed [BENCHMARK ...]`: measure the speed of the suite."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import os
import pkgutil
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import bench.speed
from bench.errors import UserError, one_line
from bench.files import write_text
from bench.paths import output_file
from bench.programs import ArgumentParser, program

SCHEMA = 1
WIDTH = 160  # characters of a table that is not printed to a terminal

Row = dict[str, Any]
Tables = dict[str, list[Row]]  # title -> rows


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Run the named benchmarks, print their tables, and write them to the --json file.

    Parameters
    ----------
    argv
        Arguments of the command line. Default: those of the process.

    Returns
    -------
    int
        The exit status.
    """
    known = [
        module.name
        for module in pkgutil.iter_modules(bench.speed.__path__)
        if not module.name.startswith("_")
    ]
    parser = _parser(known)
    args, benchmark_args = parser.parse_known_args(argv)
    for name in set(args.benchmark) - set(known):
        parser.error(f"benchmark: {name!r} must be one of {', '.join(known)}")
    if args.threads is not None and args.threads < 1:
        parser.error(f"--threads: at least 1 is needed, got {args.threads}")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: the folder {args.json.absolute().parent} does not exist")
    if args.json:
        output_file("--json", args.json)
    limit_threads(args.threads or 1)
    command = shlex.join(["python", "-m", "bench.speed", *(sys.argv[1:] if argv is None else argv)])
    before: Tables = {}
    if args.json and args.json.exists():
        before = _figures(args.json)
    tables: Tables = {}
    for name in args.benchmark or known:
        benchmark = importlib.import_module(f"bench.speed.{name}")
        earlier = before.get(name, [])
        options = parse_options(name, benchmark.rows, benchmark_args)
        if "done" in inspect.signature(benchmark.rows).parameters:
            options["done"] = earlier
        threads = args.threads or _default_threads(benchmark)
        tables[name] = []
        try:
            for row in benchmark.rows(threads, **options):
                tables[name].append(row)
                # The first rows may be those that the file holds; it keeps the others until then.
                if row not in earlier:
                    write(args.json, command, tables)
        except UserError as error:
            parser.error(str(error))
        if hasattr(benchmark, "summary"):
            tables[f"{name} summary"] = benchmark.summary(tables[name])
        write(args.json, command, tables)
    for name, rows in tables.items():
        if f"{name} summary" not in tables:
            show(name, rows)
    return 0


def _parser(known: Sequence[str]) -> ArgumentParser:
    """Return the parser of the options that all benchmarks share."""
    parser = ArgumentParser(
        prog="python -m bench.speed",
        description=__doc__,
        epilog="Any other --NAME VALUE is an option of the benchmark, described in its docstring: "
        "a parameter of its function `rows`.",
    )
    parser.add_argument("benchmark", nargs="*", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument(
        "--threads", type=int, metavar="T", help="number of threads (default: 1, exact: 2)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the results, the hardware and the versions to this file after each row",
    )
    return parser


def _figures(file: Path) -> Tables:
    """Return the tables of an earlier record.

    Raises
    ------
    UserError
        Where the file is no record.
    """
    try:
        tables: Tables = json.loads(file.read_text())["figures"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--json: {file} is no record of this program ({one_line(error, 100)}); name another "
            "file"
        ) from None
    return tables


def _default_threads(benchmark: ModuleType) -> int:
    return int(getattr(benchmark, "THREADS", 1))


def parse_options(name: str, rows: Callable[..., Any], args: Sequence[str]) -> dict[str, Any]:
    """Return the options in `args` as keyword arguments of a benchmark's function `rows`.

    Its options are the parameters whose default is a number or a string. An unknown option, or a
    number that is not positive and finite, ends the program with an error message.
    """
    parser = ArgumentParser(prog=f"python -m bench.speed {name}", add_help=False)
    for option in inspect.signature(rows).parameters.values():
        if isinstance(option.default, int | float | str):
            parser.add_argument(
                f"--{option.name}", type=type(option.default), default=option.default
            )
    found = vars(parser.parse_args(args))
    for key, value in found.items():
        if isinstance(value, int | float) and not 0 < value < math.inf:
            parser.error(f"--{key}: a positive number is needed, got {value}")
    return found


def write(file: Path | None, command: str, tables: Tables) -> None:
    """Write the record of all rows measured so far; an interrupted run keeps the last one."""
    if file:
        write_text(file, json.dumps(record(command, tables), indent=1))


def limit_threads(threads: int) -> None:
    """Let numba and torch use at most `threads` threads; numba never more than there are cores.

    Call it before numba and torch are imported: OpenMP reads its setting once.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import numba
    import torch

    numba.set_num_threads(min(threads, numba.get_num_threads()))
    torch.set_num_threads(threads)


def show(name: str, rows: Sequence[Row]) -> None:
    """Print one table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"bench.speed {name}")
    for column, value in (rows[0] if rows else {}).items():
        table.add_column(
            column.replace("_", " "), justify="left" if isinstance(value, str) else "right"
        )
    for row in rows:
        table.add_row(*map(cell, row.values()))
    Console(width=None if sys.stdout.isatty() else WIDTH, markup=False).print(table)


def cell(value: str | float | None) -> str:
    """Return a value as the text of a table cell.

    Numbers below 1,000 have four significant digits, larger ones are integers with separators; None
    is an empty cell.
    """
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def record(command: str, tables: Tables) -> dict[str, Any]:
    """Return the tables with the command, date, hardware, system load and versions."""
    from bench.run.provenance import git_commit, hardware, versions

    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "hardware": hardware(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": versions(),
        "git_commit": git_commit(),
        "figures": tables,
    }


if __name__ == "__main__":
    sys.exit(main())
