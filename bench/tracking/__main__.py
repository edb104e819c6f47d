"""`python -m bench.tracking replay FOLDER...`: write to MLflow what runs have spooled."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.errors import one_line
from bench.tracking.run import SPOOL, replay


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay the spools of the named folders; return 2 where something stays spooled."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.tracking", description="Write what runs have spooled to MLflow."
    )
    parser.add_argument("command", choices=["replay"])
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help=f"a run's folder, holding {SPOOL}"
    )
    parser.add_argument("--uri", default="", help="another store than the one that failed")
    options = parser.parse_args(arguments)
    status = 0
    for folder in options.folders:
        try:
            print(f"{folder}: {replay(folder, options.uri)} records written")
        except Exception as error:
            print(f"{folder}: {one_line(error)}", file=sys.stderr)
            status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
