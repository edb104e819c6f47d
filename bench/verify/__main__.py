"""`python -m bench.verify INSTANCE SCHEDULE`, or `CERTIFICATE`: verify what the files claim."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

from bench.errors import one_line
from bench.instance import Instance, InstanceError, read_json
from bench.metrics import metrics, objective
from bench.programs import ArgumentParser
from bench.schedule import Schedule, ScheduleError
from bench.setting import OBJECTIVES
from bench.verify import verify
from bench.verify.certificate import (
    Certificate,
    CertificateError,
    check,
    is_proven,
    is_wrong,
)

PROVEN, WRONG, UNREADABLE, UNPROVEN = 0, 1, 2, 3
BY_WEIGHT = (WRONG, UNREADABLE, UNPROVEN, PROVEN)  # the first that occurs is the exit status

FORMS = """\
All files are JSON, plain or gzip (.gz). Times are integers, in ticks.

INSTANCE  (N tasks, M agents, T agent types, R resources)
  {"duration":   N lists of T, ticks on an agent of each type, -1 = not eligible,
   "demand":     N x T x R, units held,   "capacity": M x R, units each agent has,
   "agent_type": M types in 0..T-1}
  and, optionally, release, weight, due, tenant, kind (N each), quota (tenants x R),
  estimate (N x T), outages ([{"agent", "start", "end", "announced"}]), sharing ("time" or
  "budget"), resources (R names), tick_seconds, sense, offset, name, schema.

SCHEDULE  four equally long columns, one entry per piece of work
  {"task": [0, 1], "agent": [2, 0], "start": [0, 5], "end": [4, 9]}

CERTIFICATE  an instance, a schedule, a bound and its proof, or a list of these:
  `certificates.json.gz` of a run (form in bench/run/record.py, proofs in
  bench/verify/proofs.py). The schedule is verified, its objective recomputed and the proof checked
  in exact arithmetic. A bound that only a tree search has proved is computed again by a second
  model (HiGHS), if that is not too large, for at most --seconds. The outcome for every claim is
  `checked`, `confirmed by second model`, `could not be checked`, `not proven` or `INVALID`.

exit status
  0  feasible; certificates: every claim was checked, or confirmed by the second model
  1  infeasible: a rule is broken, a task is left out, or a task or an agent does not exist;
     certificates: a claim is INVALID
  2  unreadable: a missing file, not JSON, cut short, NaN, a negative index or time, a newer schema,
     an instance that breaks its own rules, an objective that the instance does not have, or an
     unknown kind of proof
  3  certificates: no claim is INVALID, but one is not proven: its proof is a search, and the second
     model did not confirm it within --seconds
  Of several certificates the status is 1 if one has 1, else 2, else 3.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Verify a schedule or certificates, print the findings and return the exit status."""
    args = _arguments(argv)
    try:
        if args.schedule is None:
            return _check_certificates(read_json(args.instance), args.seconds)
        return _verify_schedule(
            Instance.read(args.instance),
            Schedule.read(args.schedule),
            args.objective or "total_time",
        )
    except OSError as error:
        return _unreadable(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:  # a traceback would exit with 1, which means infeasible
        return _unreadable(_described(error))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m bench.verify",
        usage=(
            "%(prog)s [-h] [--objective NAME] INSTANCE SCHEDULE\n"
            "       %(prog)s [-h] [--seconds S] CERTIFICATE"
        ),
        description=(
            "Check a schedule against every rule of its instance and print objective, metrics and "
            "violations; or check every claim of a certificate."
        ),
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
        help="the objective of the schedule (default: total_time; a certificate names its own)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="time limit of the second model per certificate (default: 60)",
    )
    args = parser.parse_args(argv)
    if args.schedule is None and args.objective is not None:
        parser.error(
            "--objective: a certificate names its own; leave it out, or name a SCHEDULE too"
        )
    if not args.seconds > 0:
        parser.error(f"--seconds: a positive number is needed, got {args.seconds:g}")
    return args


def _verify_schedule(instance: Instance, schedule: Schedule, name: str) -> int:
    value = instance.original(objective(instance, schedule, name))
    violations = verify(instance, schedule)
    _print_report(name, value, metrics(instance, schedule), violations)
    return WRONG if violations else PROVEN


def _check_certificates(data: Any, seconds: float) -> int:
    """Print the findings of each certificate; those after an unreadable one are checked too."""
    certificates = data if isinstance(data, list) else [data]
    if not certificates:
        return _unreadable("the list holds no certificate")
    found = {
        _check_certificate(form, f"certificate {i + 1} of {len(certificates)}", seconds)
        for i, form in enumerate(certificates)
    }
    return next(status for status in BY_WEIGHT if status in found)


def _check_certificate(form: Any, label: str, seconds: float) -> int:
    """Print the findings of one certificate and return its exit status."""
    findings = []
    try:
        certificate = Certificate.from_dict(form)
        print(f"{label}: {certificate.title}")
        for finding in check(certificate, seconds):
            findings.append(finding)
            print(f"  {finding}", flush=True)
    except Exception as error:  # as in `main`
        unreadable = _unreadable(f"{label}: {_described(error)}")
        return WRONG if is_wrong(findings) else unreadable
    if is_wrong(findings):
        return WRONG
    return PROVEN if is_proven(findings) else UNPROVEN


def _described(error: Exception) -> str:
    """Return the message of an error in one line, with its type where it is not one of ours."""
    own = isinstance(error, CertificateError | InstanceError | ScheduleError)
    return one_line(ValueError(str(error))).removeprefix("ValueError: ") if own else one_line(error)


def _unreadable(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return UNREADABLE


def _print_report(name: str, value: float, values: dict[str, float], violations: list[str]) -> None:
    penalised = ", unassigned tasks penalised" if values["unassigned"] else ""
    print(f"objective ({name}): {_number(value)}{penalised}")
    for key, figure in values.items():
        print(f"  {key:<30}{_number(figure):>16}")
    print(f"infeasible, {len(violations)} violation(s):" if violations else "feasible")
    for violation in violations:
        print(f"  {violation}")


def _number(value: float) -> str:
    return "missing" if math.isnan(value) else f"{value:.10g}"


if __name__ == "__main__":
    sys.exit(main())
