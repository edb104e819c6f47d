"""`python -m bench.references [NAME ...]`: prove the shipped references again, from scratch.

Runs the command that each file records for each objective, with an empty cache and without the shipped files, and compares:
what was proved must be proved again at the same value, and nothing may contradict what is shipped. With --write the files then
hold what was found now, and what was shipped only where that was better.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.contracts import Result
from bench.instance import read_json
from bench.references import SHIPPED, Reference, References, plain
from bench.schedule import Schedule

OWN = (
    "ship=",
    "cache=",
    "runs=",
    "rerun=",
    "reference.",
)  # what a recorded command may say, and is said here


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line per file and objective; exit status 1 where something contradicts, failed or was not proved again."""
    names = sorted(path.stem for path in SHIPPED.glob("*.json"))
    parser = argparse.ArgumentParser(prog="python -m bench.references", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument(
        "--write", action="store_true", help="write what was found into the shipped files"
    )
    options = parser.parse_args(arguments)
    for name in options.name:
        if name not in names:
            parser.error(f"name: {name!r} must be one of {', '.join(names)}")
    wrong = [again(name, options.write) for name in options.name or names]
    return int(any(wrong))


def again(name: str, write: bool) -> bool:
    """Prove one file again; whether anything is wrong."""
    path = SHIPPED / f"{name}.json"
    data, wrong = read_json(path), False
    for objective, command in sorted(data["commands"].items()):
        held = {
            digest: Reference(**known[objective])
            for digest, known in data["references"].items()
            if objective in known
        }
        with tempfile.TemporaryDirectory() as folder:
            status = run(command, Path(folder))
            found = {digest: cached(Path(folder), digest, objective) for digest in held}
        lines = [
            f"{digest[:12]}: {why}"
            for digest, old in held.items()
            if (why := objection(old, found[digest]))
        ]
        if status:
            lines.append(f"exit status {status} of: {command}")
        proved, before = (sum(one.proved for one in side.values()) for side in (found, held))
        counts = f"{proved} of {len(held)} proved from scratch ({before} were)"
        print(f"{name} {objective}: {counts}", *lines, sep="\n  ", flush=True)
        wrong |= bool(lines)
        if write and not lines:
            for digest, new in found.items():
                data["references"][digest][objective] = plain(
                    new if new.proved else new.merge(held[digest])
                )
            path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
    return wrong


def run(command: str, folder: Path) -> int:
    """The exit status of a recorded command that knows nothing yet and keeps all it finds in `folder`."""
    words = [word for word in shlex.split(command)[3:] if not word.startswith(OWN)]
    own = [
        f"cache={folder}/cache",
        f"runs={folder}/runs",
        "reference.shipped=false",
        "reference.seconds=0",
    ]
    return subprocess.run(
        [sys.executable, "-m", "bench", *words, *own], stdout=subprocess.DEVNULL, check=False
    ).returncode


def cached(folder: Path, digest: str, objective: str) -> Reference:
    """What the run in `folder` found out about an instance."""
    file: dict[str, Any] = References(folder / "cache").read(digest)
    return Reference(**file["references"].get(objective, {}))


def objection(old: Reference, new: Reference) -> str:
    """What is wrong with a new finding beside the shipped one; empty where nothing is."""
    claim = Result(Schedule.empty(), "optimal" if new.proved else "feasible", new.bound)
    if why := old.contradiction(new.objective, True, claim):
        return f"CONTRADICTION: {why}"
    return "not proved again" if old.proved and not new.proved else ""


if __name__ == "__main__":
    sys.exit(main())
