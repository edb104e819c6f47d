"""`python -m bench.references [NAME ...]`: compute the shipped references again and compare.

For each file and objective it runs the recorded command with an empty cache and without the shipped
files. Every optimum that the file holds as proven must be proven again at the same value, and no
result may contradict the file. With --write the files then hold the new references, and the old
ones only where those were better.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.contracts import Result
from bench.files import write_text
from bench.instance import read_json
from bench.programs import ArgumentParser, program
from bench.references import SHIPPED, Reference, References
from bench.schedule import Schedule

# Options of a recorded command that are replaced or left out here; `ship` is the old name of
# `update_references` and stands in the recorded commands.
REPLACED = ("ship=", "update_references=", "cache=", "runs=", "rerun=", "reference.")


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line per file and objective; return 1 where a command failed or a mismatch exists."""
    names = sorted(path.stem for path in SHIPPED.glob("*.json"))
    parser = ArgumentParser(prog="python -m bench.references", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument(
        "--write", action="store_true", help="write what was found into the shipped files"
    )
    options = parser.parse_args(arguments)
    for name in options.name:
        if name not in names:
            parser.error(f"name: {name!r} must be one of {', '.join(names)}")
    failed = [recompute(name, options.write) for name in options.name or names]
    return int(any(failed))


def recompute(name: str, write: bool) -> bool:
    """Compute one file again; return whether a command failed or a mismatch exists."""
    path = SHIPPED / f"{name}.json"
    data = read_json(path)
    failed = False
    for objective, command in sorted(data["commands"].items()):
        shipped = {
            digest: Reference(**known[objective])
            for digest, known in data["references"].items()
            if objective in known
        }
        with tempfile.TemporaryDirectory() as folder:
            status = run(command, Path(folder))
            computed = References(Path(folder) / "cache")
            found = {digest: computed.cached(digest, objective) for digest in shipped}
        lines = [
            f"{digest[:12]}: {text}"
            for digest, old in shipped.items()
            if (text := mismatch(old, found[digest]))
        ]
        if status:
            lines.append(f"exit status {status} of: {command}")
        proven = sum(one.proved for one in found.values())
        before = sum(one.proved for one in shipped.values())
        counts = f"{proven} of {len(shipped)} optima proven ({before} in the file)"
        print(f"{name} {objective}: {counts}", *lines, sep="\n  ", flush=True)
        failed |= bool(lines)
        if write and not lines:
            for digest, new in found.items():
                best = new if new.proved else new.merge(shipped[digest])
                data["references"][digest][objective] = best.to_dict()
            data["date"] = datetime.now(UTC).date().isoformat()
            write_text(path, json.dumps(data, indent=1, sort_keys=True) + "\n")
    return failed


def run(command: str, folder: Path) -> int:
    """Run a recorded command without any known reference; return its exit status.

    Its cache and its runs are in `folder`.
    """
    return subprocess.run(
        [sys.executable, "-m", "bench", *recomputation(command, folder)],
        stdout=subprocess.DEVNULL,
        check=False,
    ).returncode


def recomputation(command: str, folder: Path) -> list[str]:
    """Return the options of `python -m bench` that compute a recorded command's results anew."""
    words = [word for word in shlex.split(command)[3:] if not word.startswith(REPLACED)]
    return [
        *words,
        f"cache={folder}/cache",
        f"runs={folder}/runs",
        "reference.shipped=false",
        "reference.seconds=0",
    ]


def mismatch(old: Reference, new: Reference) -> str:
    """Return, in words, how a new reference conflicts with the shipped one; empty: it does not."""
    claim = Result(Schedule.empty(), "optimal" if new.proved else "feasible", new.bound)
    if text := old.contradiction(new.objective, True, claim):
        return f"CONTRADICTION: {text}"
    if old.proved and not new.proved:
        return "the file holds a proven optimum, which was not proven again"
    return ""


if __name__ == "__main__":
    sys.exit(main())
