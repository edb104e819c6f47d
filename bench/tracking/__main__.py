"""`python -m bench.tracking replay FOLDER...`: write to MLflow what runs have spooled."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.errors import one_line
from bench.programs import ArgumentParser, program
from bench.tracking import EXPERIMENT
from bench.tracking.database import absolute
from bench.tracking.run import replay
from bench.tracking.spool import SPOOL
from bench.tracking.store import Store
from bench.tracking.uri import check_uri


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Replay the spools of the named folders; return 2 where something stays spooled.

    Where they are sent to is said here and not in the folders, which may come from somebody else.
    """
    parser = ArgumentParser(
        prog="python -m bench.tracking", description="Write what runs have spooled to MLflow."
    )
    parser.add_argument("command", choices=["replay"])
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help=f"a run's folder, holding {SPOOL}"
    )
    parser.add_argument(
        "--uri",
        default=os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"),
        help="the store to write to (default %(default)s)",
    )
    parser.add_argument("--experiment", default=EXPERIMENT, help="(default %(default)s)")
    parser.add_argument(
        "--artifacts",
        default="mlartifacts",
        help="folder of the artifacts, where the store is a database (default %(default)s)",
    )
    options = parser.parse_args(arguments)
    check_uri("--uri", options.uri)
    artifacts = str(Path(options.artifacts).absolute())
    store = Store(absolute(options.uri), options.experiment, artifacts)
    status = 0
    for folder in options.folders:
        try:
            print(f"{folder}: {replay(folder, store)} records written")
        except Exception as error:
            print(f"{folder}: {one_line(error)}", file=sys.stderr)
            status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
