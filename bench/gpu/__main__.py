"""`python -m bench.gpu --minutes 9 --out DIR [--resume DIR]`: all there is to do on a GPU machine.

The parts of `bench.gpu.parts` run one after the other in a second process, which this one ends at
the deadline. Each leaves its result in DIR/results.json at once, so nothing that is finished is
lost. DIR gets at most eight files of at most 15 MB each: results.json, and for every file of
conf/gpu a policy and the state from which `--resume` goes on.

`python -m bench.gpu wheels DIR` fills a folder with what the machine lacks, and `python -m
bench.gpu adopt DIR` brings a run's results home.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import write_text
from bench.gpu import adopt, wheels
from bench.gpu.parts import GIVEN_UP, PARTS, RESULTS, SPARE, read_results, run_all
from bench.paths import output_folder
from bench.programs import ArgumentParser, program

COMMANDS = {"wheels": wheels.main, "adopt": adopt.main}


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:])
    options = _options(arguments)
    output_folder("--out", options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    if options.child:
        run_all(options, deadline - SPARE)
        return 0
    if (options.out / RESULTS).exists():
        raise UserError(f"--out: {options.out} holds the results of a run; name another folder")
    write_text(options.out / RESULTS, json.dumps({"schema": 1, "parts": {}}))
    return _watch(arguments, options.out, deadline)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="default %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--resume", type=Path, help="the --out of an earlier run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", default="", help=f"parts, of {', '.join(PARTS)}; default all")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes: value {options.minutes}: must be positive")
    if options.resume is not None and not (options.resume / RESULTS).exists():
        parser.error(f"--resume: {options.resume} holds no {RESULTS}; name the --out of a run")
    if unknown := set(filter(None, options.only.split(","))) - set(PARTS):
        parser.error(f"--only: {', '.join(unknown)}: must be of {', '.join(PARTS)}")
    return options


def _watch(arguments: list[str], out: Path, deadline: float) -> int:
    """Run the parts in a process, again from the next part where it dies, until the deadline."""
    crashed: set[str] = set()
    while (left := deadline - time.monotonic()) > 0:
        minutes = ["--minutes", str(left / 60)]
        child = subprocess.Popen(
            [sys.executable, "-m", "bench.gpu", *arguments, *minutes, "--child"],
            start_new_session=True,
        )
        try:
            child.wait(left)
        except BaseException as error:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            break
        if child.returncode == 0:
            break
        part = _note_crash(out, child.returncode)
        if part in crashed:
            break
        crashed.add(part)
    results = read_results(out)
    print(f"{out / RESULTS}: " + ", ".join(_line(*one) for one in results["parts"].items()))
    return 0 if any("error" not in part for part in results["parts"].values()) else 1


def _note_crash(out: Path, status: int) -> str:
    """Write that the part that was running ended the process; return its name."""
    results = read_results(out)
    running = [name for name, part in results["parts"].items() if "seconds" not in part]
    for name in running:
        error = f"ended the process with status {status}"
        if status == GIVEN_UP:
            error = "took more than its share of the time"
        results["parts"][name] |= {"error": error, "seconds": 0}
    write_text(out / RESULTS, json.dumps(results))
    return running[0] if running else ""


def _line(name: str, part: dict[str, Any]) -> str:
    if "seconds" not in part:
        return f"{name} cut off"
    return f"{name} {'failed' if 'error' in part else 'done'} in {part['seconds']:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
