"""`python -m bench.offline_report`: write the offline evaluation report.

It reads runs (`--runs`), adds them to a data file (`--data`) and writes the page (`--page`) from
that file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError, one_line
from bench.files import write_text
from bench.instance import InstanceError, read_json, write_json
from bench.offline_report.page import page
from bench.offline_report.runs import (
    collect,
    is_offline,
    merge,
    under_current_names,
    with_gaps,
)
from bench.paths import output_file
from bench.programs import ArgumentParser, program

RUNS = Path("runs")


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Collect and merge runs and write the page; return the exit status, 2 without offline runs."""
    options = _parser().parse_args(arguments)
    if options.runs != RUNS and not options.runs.is_dir():
        raise UserError(f"--runs: {options.runs} is no folder; name the folder of finished runs")
    output_file("--page", options.page)
    output_file("--data", options.data)
    known = _known(options.data) if options.data.exists() else []
    new = collect(options.runs) if options.runs.is_dir() else []
    runs = merge(known, new)
    if not any(map(is_offline, runs)):
        print(
            f"no finished run that was trained on a log in {options.runs} or {options.data}; run "
            "one, such as python -m bench +solver=bc logs=cluster-tiny-random-v0",
            file=sys.stderr,
        )
        return 2
    if new:
        write_json(options.data, runs)
    command = (
        f"python -m bench.offline_report --runs RUNS --data {options.data} --page {options.page}"
    )
    write_text(options.page, page([with_gaps(run) for run in runs], command))
    print(options.page)
    return 0


def _known(data: Path) -> list[Any]:
    """Return the runs of a data file, under their current names."""
    try:
        runs = [under_current_names(run) for run in read_json(data)]
        _ = [is_offline(with_gaps(run)) for run in merge(runs, [])]
    except (AttributeError, KeyError, TypeError, ValueError, InstanceError) as error:
        raise UserError(
            f"--data: {data} holds no runs that this program collected ({one_line(error, 100)}); "
            "name another file"
        ) from None
    return runs


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m bench.offline_report", description="Write the offline evaluation report."
    )
    options: dict[str, tuple[str | Path, str]] = {
        "--runs": (RUNS, "folder of finished runs"),
        "--data": ("offline.json.gz", "runs collected so far; new ones are added"),
        "--page": ("offline.md", "the page to write"),
    }
    for name, (default, text) in options.items():
        parser.add_argument(
            name, type=Path, default=Path(default), help=f"{text} (default %(default)s)"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
