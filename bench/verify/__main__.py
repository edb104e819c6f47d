"""`python -m bench.verify INSTANCE SCHEDULE`: judge anyone's schedule from two files."""

from __future__ import annotations

import argparse
import math
import sys
import zlib
from collections.abc import Sequence

from bench.instance import Instance
from bench.metrics import metrics, objective
from bench.schedule import Schedule
from bench.setting import OBJECTIVES
from bench.verify import verify

FEASIBLE, INFEASIBLE, UNREADABLE = 0, 1, 2
DAMAGE = (ValueError, TypeError, RecursionError, zlib.error)  # a traceback would exit with 1, which means infeasible

FORMS = """\
Both files are JSON, plain or gzip (.gz). Times are whole ticks.

INSTANCE  (N tasks, M agents, T agent types, R resources)
  {"duration":   N lists of T, ticks on an agent of each type, -1 = not eligible,
   "demand":     N x T x R, units held,   "capacity": M x R, units each agent has,
   "agent_type": M types in 0..T-1}
  and, optionally, release, weight, due, tenant, kind (N each), quota (tenants x R), estimate (N x T),
  outages ([{"agent", "start", "end", "announced"}]), sharing ("time" or "budget"), resources (R names),
  tick_seconds, sense, offset, name, schema.

SCHEDULE  four equally long columns, one entry per piece of work
  {"task": [0, 1], "agent": [2, 0], "start": [0, 5], "end": [4, 9]}

exit status
  0  feasible
  1  infeasible: a rule is broken; a task left out, or an index of a task or agent that does not exist, is one too
  2  unreadable: a missing file, not JSON, cut short, NaN, a negative index or time, a newer schema, an instance
     that breaks its own rules, or an objective the instance does not have
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print objective, metrics and violations of a schedule file; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.verify",
        description="Check a schedule against every rule of its instance and print objective, metrics and violations.",
        epilog=FORMS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("instance", metavar="INSTANCE", help="JSON file of the instance")
    parser.add_argument("schedule", metavar="SCHEDULE", help="JSON file of the schedule")
    parser.add_argument("--objective", choices=OBJECTIVES, default="total_time", help="what to score (default: total_time)")
    args = parser.parse_args(argv)
    try:
        instance, schedule = Instance.read(args.instance), Schedule.read(args.schedule)
        value = instance.original(objective(instance, schedule, args.objective))
    except OSError as error:
        return _unreadable(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except DAMAGE as error:
        return _unreadable(str(error))
    violations = verify(instance, schedule)
    _report(args.objective, value, metrics(instance, schedule), violations)
    return INFEASIBLE if violations else FEASIBLE


def _unreadable(why: str) -> int:
    print(f"error: {why}", file=sys.stderr)
    return UNREADABLE


def _report(name: str, value: float, values: dict[str, float], violations: list[str]) -> None:
    print(f"objective ({name}): {_number(value)}" + (", unassigned tasks penalised" if values["unassigned"] else ""))
    for key, figure in values.items():
        print(f"  {key:<30}{_number(figure):>16}")
    print(f"infeasible, {len(violations)} violation(s):" if violations else "feasible")
    for sentence in violations:
        print(f"  {sentence}")


def _number(value: float) -> str:
    return "missing" if math.isnan(value) else f"{value:.10g}"


if __name__ == "__main__":
    sys.exit(main())
