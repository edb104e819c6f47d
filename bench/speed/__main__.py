"""`python -m bench.speed [BENCHMARK ...]`: how fast the suite is on this machine, as a table and as JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bench.speed

SCHEMA = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named benchmarks (default: all), print a table each, write JSON where asked; returns the exit status."""
    known = [module.name for module in pkgutil.iter_modules(bench.speed.__path__) if not module.name.startswith("_")]
    parser = argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__)
    parser.add_argument("benchmark", nargs="*", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--threads", type=int, default=1, metavar="T", help="threads that numba and torch may use (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, hardware and versions here")
    args = parser.parse_args(argv)
    for name in set(args.benchmark) - set(known):
        parser.error(f"benchmark: {name!r} must be one of {', '.join(known)}")
    if args.threads < 1:
        parser.error(f"--threads: at least 1 is needed, got {args.threads}")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: the folder {args.json.absolute().parent} does not exist")
    limit_threads(args.threads)
    figures = {name: importlib.import_module(f"bench.speed.{name}").rows(args.threads) for name in args.benchmark or known}
    for name, rows in figures.items():
        show(name, rows)
    if args.json:
        words = " ".join(figures)
        args.json.write_text(json.dumps(record(f"python -m bench.speed {words} --threads {args.threads}", figures), indent=1))
    return 0


def limit_threads(threads: int) -> None:
    """Before numba and torch are loaded: no more than `threads` (numba never more than there are cores)."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import numba
    import torch

    numba.set_num_threads(min(threads, numba.get_num_threads()))
    torch.set_num_threads(threads)


def show(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """One table; whole numbers from 1,000 on are grouped."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"bench.speed {name}")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
                        for value in row.values()))  # fmt: skip
    Console().print(table)


def record(command: str, figures: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Figures with all that is needed to judge them: date, command, hardware, load of the machine, versions."""
    from bench.provenance import git_commit, hardware, versions

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
