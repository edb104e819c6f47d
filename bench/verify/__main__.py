"""`python -m bench.verify INSTANCE SCHEDULE` or `CERTIFICATE`: judge anyone's schedule, or a certificate of its quality."""

from __future__ import annotations

import argparse
import math
import sys
import zlib
from collections.abc import Sequence
from typing import Any

from bench.instance import Instance, read_json
from bench.metrics import metrics, objective
from bench.schedule import Schedule
from bench.setting import OBJECTIVES
from bench.verify import verify
from bench.verify.certificate import WRONG, Certificate, check

FEASIBLE, INFEASIBLE, UNREADABLE = 0, 1, 2
DAMAGE = (
    ValueError,
    TypeError,
    RecursionError,
    zlib.error,
)  # a traceback would exit with 1, which means infeasible

FORMS = """\
All files are JSON, plain or gzip (.gz). Times are whole ticks.

INSTANCE  (N tasks, M agents, T agent types, R resources)
  {"duration":   N lists of T, ticks on an agent of each type, -1 = not eligible,
   "demand":     N x T x R, units held,   "capacity": M x R, units each agent has,
   "agent_type": M types in 0..T-1}
  and, optionally, release, weight, due, tenant, kind (N each), quota (tenants x R), estimate (N x T),
  outages ([{"agent", "start", "end", "announced"}]), sharing ("time" or "budget"), resources (R names),
  tick_seconds, sense, offset, name, schema.

SCHEDULE  four equally long columns, one entry per piece of work
  {"task": [0, 1], "agent": [2, 0], "start": [0, 5], "end": [4, 9]}

CERTIFICATE  an instance, a schedule, a bound and the proof of it, or a list of these: `certificates.json.gz` of a run
  (form in bench/record.py, proofs in bench/verify/proofs.py). The schedule is verified, its objective recomputed and the proof
  checked in exact arithmetic. What only a tree search has proved is searched again by a second model (HiGHS), as far as it
  fits and --seconds allow. Every claim is checked, confirmed by the second model, could not be checked, or WRONG.

exit status
  0  feasible; of certificates: nothing is wrong
  1  infeasible: a rule is broken; a task left out, or an index of a task or agent that does not exist, is one too;
     of certificates: a claim is WRONG
  2  unreadable: a missing file, not JSON, cut short, NaN, a negative index or time, a newer schema, an instance
     that breaks its own rules, an objective the instance does not have, or a kind of proof that is unknown
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Judge a schedule or the claims of certificates, and print what is found; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.verify",
        usage="%(prog)s [-h] [--objective NAME] INSTANCE SCHEDULE\n       %(prog)s [-h] [--seconds S] CERTIFICATE",
        description="Check a schedule against every rule of its instance and print objective, metrics and violations; "
        "or check every claim of a certificate.",
        epilog=FORMS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "instance", metavar="INSTANCE", help="JSON file of the instance, or of certificates"
    )
    parser.add_argument("schedule", metavar="SCHEDULE", nargs="?", help="JSON file of the schedule")
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="what to score (default: total_time; a certificate has its own)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="of the second model per certificate (default: 60)",
    )
    args = parser.parse_args(argv)
    if args.schedule is None and args.objective is not None:
        parser.error(
            "--objective: a certificate names its own; leave it out, or name a SCHEDULE too"
        )
    if not args.seconds > 0:
        parser.error(f"--seconds: a positive number is needed, got {args.seconds:g}")
    try:
        if args.schedule is None:
            return _certificates(read_json(args.instance), args.seconds)
        return _schedule(
            Instance.read(args.instance),
            Schedule.read(args.schedule),
            args.objective or "total_time",
        )
    except OSError as error:
        return _unreadable(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except DAMAGE as error:
        return _unreadable(str(error))


def _schedule(instance: Instance, schedule: Schedule, name: str) -> int:
    value, violations = (
        instance.original(objective(instance, schedule, name)),
        verify(instance, schedule),
    )
    _report(name, value, metrics(instance, schedule), violations)
    return INFEASIBLE if violations else FEASIBLE


def _certificates(data: Any, seconds: float) -> int:
    """Print what becomes of every claim; one that cannot be read does not keep the others from being checked."""
    every = data if isinstance(data, list) else [data]
    status = FEASIBLE if every else _unreadable("the list holds no certificate")
    for i, one in enumerate(every):
        where = f"certificate {i + 1} of {len(every)}"
        try:
            certificate = Certificate.from_dict(one)
            print(f"{where}: {certificate.title}")
            for finding in check(certificate, seconds):
                print(f"  {finding}", flush=True)
                status = INFEASIBLE if finding.verdict == WRONG else status
        except DAMAGE as error:
            unreadable = _unreadable(f"{where}: {error}")
            status = status or unreadable
    return status


def _unreadable(why: str) -> int:
    print(f"error: {why}", file=sys.stderr)
    return UNREADABLE


def _report(name: str, value: float, values: dict[str, float], violations: list[str]) -> None:
    print(
        f"objective ({name}): {_number(value)}"
        + (", unassigned tasks penalised" if values["unassigned"] else "")
    )
    for key, figure in values.items():
        print(f"  {key:<30}{_number(figure):>16}")
    print(f"infeasible, {len(violations)} violation(s):" if violations else "feasible")
    for sentence in violations:
        print(f"  {sentence}")


def _number(value: float) -> str:
    return "missing" if math.isnan(value) else f"{value:.10g}"


if __name__ == "__main__":
    sys.exit(main())
