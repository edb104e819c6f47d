"""Exact solvers in comparison: processor seconds to a proven optimum, or the gap at the limit.

Assignments are drawn by the published recipes C, D and E with 100 and 200 tasks on 5, 10 and 20
agents (`100x5`: 100 tasks on 5 agents). Schedules are the first `count` test instances of each
gangs_* dataset. The objective is total time.

Every solve runs in a process of its own, after a warm-up on small instances that compiles the
numba kernels. Processor seconds are user and system time of the solve over all threads. The limit
is `limit` processor seconds: a wall clock of limit / threads, or of `limit` for a solver that has
one thread whatever it is given. A process that takes 1.5 times the limit is killed. Schedules are
verified and objectives recomputed here. All costs are integers, so the lower bounds of all solvers
are rounded up. gap = (objective - bound) / objective.

`only` is a regular expression that must match in "INSTANCE SOLVER". All of it takes up to four
hours. With --json an interrupted run can be started again: it resumes after the rows in the file.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

from bench.contracts import Budget, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.metrics import objective
from bench.plugins import CONF, load
from bench.rounding import least_integer
from bench.setting import Setting, clairvoyant_track
from bench.speed import _peers
from bench.verify import verify

THREADS = 2  # by default
RECIPES = ("c", "d", "e")
TASKS = (100, 200)
AGENTS = (5, 10, 20)
GANGS = ("gangs_20x3", "gangs_30x4", "gangs_50x5")
SOLVERS = {  # track -> names; the first one is the solver of the suite that others are compared to
    "assign": ("lagrangian", "cpsat", "highs", "scip"),
    "schedule": ("cpsat", "cpsat_plain", "pyjobshop"),
}
PEERS: dict[str, tuple[str, type[Solver]]] = {  # name -> (package it needs, solver)
    "highs": ("highspy", _peers.Highs),
    "scip": ("pyscipopt", _peers.Scip),
    "pyjobshop": ("pyjobshop", _peers.PyJobShop),
}
MEASURED = ("optimal", "feasible", "unknown", "killed")  # rows of another status are tried again
KILL = 1.5  # multiple of the limit after which a process is killed
STARTING = 120  # wall seconds that a process may take before its solve begins
SHORTEST = 0.01  # seconds: shorter solves count as this long in ratios
SHIFT = 0.001  # of the shifted geometric mean of gaps

Row = dict[str, Any]


def rows(
    threads: int, limit: float = 120.0, only: str = "", count: int = 10, done: Sequence[Row] = ()
) -> Iterator[Row]:
    """Yield one row per instance and solver.

    Parameters
    ----------
    threads
        Of each solver.
    limit
        Processor seconds of one solve.
    only
        Regular expression that must match in "INSTANCE SOLVER".
    count
        Schedule instances per dataset.
    done
        Rows of an earlier run. Those that were measured are yielded first and not measured again.

    Raises
    ------
    UserError
        If `done` was measured with another limit or number of threads.
    """
    kept = {(row["instance"], row["solver"]): row for row in done if row["status"] in MEASURED}
    for row in kept.values():
        if (row["threads"], row["limit"]) != (threads, limit):
            raise UserError(
                f"--json: the file holds threads {row['threads']}, limit {row['limit']}; "
                "name another file"
            )
        yield row
    for track, group, instance in instances(count):
        for solver in SOLVERS[track]:
            if re.search(only, f"{instance.name} {solver}") and (instance.name, solver) not in kept:
                row = {
                    "track": track,
                    "group": group,
                    "instance": instance.name,
                    "solver": solver,
                    "threads": threads,
                    "limit": limit,
                }
                yield row | measure(instance, solver, threads, limit)


def instances(count: int) -> Iterator[tuple[str, str, Instance]]:
    """Yield (track, group, instance) in the order in which they are measured."""
    for recipe, tasks, agents in itertools.product(RECIPES, TASKS, AGENTS):
        name = f"{recipe}_{tasks}x{agents}"
        dataset = load("dataset", "gap_c", name=name, recipe=recipe, tasks=tasks, agents=agents)
        yield "assign", f"recipe {recipe}", next(dataset.instances("test"))
    for name in GANGS:
        for instance in itertools.islice(load("dataset", name).instances("test"), count):
            yield "schedule", f"{name} {instance.name.rpartition('-')[2]}", instance


# -- one solve -----------------------------------------------------------------------------------


def reason_missing(solver: str) -> str:
    """Return why `solver` cannot be measured, empty if it can."""
    if solver in PEERS:
        return "" if importlib.util.find_spec(PEERS[solver][0]) else "not installed"
    return "" if (CONF / "solver" / f"{solver}.yaml").exists() else f"no conf/solver/{solver}.yaml"


def create_solver(name: str) -> Solver:
    """Return the solver of conf/solver/NAME.yaml, or the peer of that name."""
    solver: Solver = PEERS[name][1]() if name in PEERS else load("solver", name)
    return solver


def measure(instance: Instance, solver: str, threads: int, limit: float) -> Row:
    """Solve an instance once in a new process.

    Returns
    -------
    Row
        Status, objective, bound, gap and seconds; None where there is no number. The status is
        `optimal` (proven), `feasible`, `unknown` (no schedule), `killed`, `not installed`, or
        `failed: ` and the last line of the error message.
    """
    row: Row = dict.fromkeys(("status", "objective", "bound", "gap", "cpu_seconds", "wall_seconds"))
    reason = reason_missing(solver)
    if reason:
        return row | {"status": reason}
    request = {"instance": instance.to_dict(), "solver": solver, "threads": threads, "limit": limit}
    thread_variables = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    try:
        child = subprocess.run(
            [sys.executable, "-m", "bench.speed.exact"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=STARTING + KILL * limit,
            cwd=Path(__file__).parents[2],
            env=os.environ | thread_variables,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return row | {"status": "killed"}
    if child.returncode in (-signal.SIGKILL, -signal.SIGXCPU):
        return row | {"status": "killed"}
    if child.returncode:
        return row | {"status": f"failed: {(child.stderr.strip() or '?').splitlines()[-1]}"}
    measured: Row = json.loads(child.stdout.splitlines()[-1])
    return row | measured


def solve(instance: Instance, solver: str, threads: int, limit: float) -> Row:
    """Warm up, solve and verify; this runs in the process that `measure` starts."""
    setting = Setting(track=clairvoyant_track(instance))
    plugin = create_solver(solver)
    rng = np.random.default_rng(0)
    plugin.warm_up()
    plugin.solve(small_instance(instance), setting, Budget(seconds=1.0, threads=threads), rng)
    cpu_limit = math.ceil(time.process_time() + KILL * limit)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_limit, cpu_limit + 5))
    processor = time.process_time()
    wall = time.perf_counter()
    result = plugin.solve(instance, setting, Budget(seconds=limit / threads, threads=threads), rng)
    seconds: Row = {
        "cpu_seconds": round(time.process_time() - processor, 3),
        "wall_seconds": round(time.perf_counter() - wall, 3),
    }
    bound = least_integer(result.lower_bound) if math.isfinite(result.lower_bound) else 0
    if len(result.schedule.task) == 0:
        return {"status": "unknown", "bound": bound} | seconds
    violations = verify(instance, result.schedule)
    value = objective(instance, result.schedule, setting.objective)
    if violations or bound > value:
        reason = violations[0] if violations else "the bound is above the objective"
        return {"status": f"failed: {reason}"} | seconds
    return {
        "status": "optimal" if bound == value else "feasible",
        "objective": value,
        "bound": bound,
        "gap": (value - bound) / value,
    } | seconds


def small_instance(instance: Instance) -> Instance:
    """Return two tasks on two agents, with the sharing and the resources of `instance`."""
    return Instance(
        duration=np.array([[1, 2], [2, 1]]),
        demand=np.ones((2, 2, instance.n_resources), dtype=np.int64),
        capacity=np.full((2, instance.n_resources), 2),
        agent_type=np.arange(2),
        sharing=instance.sharing,
        resources=instance.resources,
    )


# -- the summary ---------------------------------------------------------------------------------


def summary(measured: Sequence[Row]) -> list[Row]:
    """Return per group and per track one row for each solver.

    `instances`: how many were measured. `proved`: on how many the optimum was proven. `wins`: on
    how many no solver did better, that is, proved the optimum in less time or, where none proved
    it, left a smaller gap. `note`: why instances are missing. The other columns compare the solver
    with ours, the first of the track, see `compare`.
    """
    complete = [row for row in measured if row["status"] in MEASURED]
    best: dict[str, tuple[bool, float]] = {}
    for row in complete:
        best[row["instance"]] = min(rank(row), best.get(row["instance"], rank(row)))
    lines = []
    for label in dict.fromkeys(row[part] for part in ("group", "track") for row in measured):
        chosen = [row for row in measured if label in (row["group"], row["track"])]
        solvers = SOLVERS[chosen[0]["track"]]
        by_solver = {
            solver: {
                row["instance"]: row
                for row in chosen
                if row["solver"] == solver and row["status"] in MEASURED
            }
            for solver in solvers
        }
        for solver, own in by_solver.items():
            reasons = [
                row["status"]
                for row in chosen
                if row["solver"] == solver and row["status"] not in MEASURED
            ]
            lines.append(
                {
                    "group": label,
                    "solver": solver,
                    "instances": len(own),
                    "proved": sum(row["status"] == "optimal" for row in own.values()),
                    "wins": sum(rank(row) == best[name] for name, row in own.items()),
                    **compare(own, by_solver[solvers[0]]),
                    "note": ", ".join(dict.fromkeys(reasons)),
                }
            )
    return lines


def rank(row: Row) -> tuple[bool, float]:
    """Return a key that orders rows, best first.

    Rows with a proven optimum come first, by seconds; the others follow, by gap.
    """
    proved = row["status"] == "optimal"
    return not proved, _seconds(row) if proved else _gap(row)


def compare(own: Mapping[str, Row], ours: Mapping[str, Row]) -> Row:
    """Compare a solver with ours on the instances that both were measured on.

    Parameters
    ----------
    own, ours
        Instance name -> row.

    Returns
    -------
    Row
        `cpu_ratio`: geometric mean of its processor seconds over ours, where at least one proved
        the optimum; the other counts with the seconds it took, so that the ratio is a bound.
        `gap`: shifted geometric mean where neither did; `gap_ratio`: the same over ours.
    """
    pairs = [(row, ours[name]) for name, row in own.items() if name in ours]
    proved = [pair for pair in pairs if "optimal" in (pair[0]["status"], pair[1]["status"])]
    unproved = [pair for pair in pairs if pair not in proved]
    cpu_ratios = [_seconds(row) / _seconds(other) for row, other in proved]
    gaps = [_gap(row) + SHIFT for row, _ in unproved]
    gap_ratios = [(_gap(row) + SHIFT) / (_gap(other) + SHIFT) for row, other in unproved]
    return {
        "cpu_ratio": geometric_mean(cpu_ratios) if cpu_ratios else None,
        "gap": geometric_mean(gaps) - SHIFT if gaps else None,
        "gap_ratio": geometric_mean(gap_ratios) if gap_ratios else None,
    }


def _seconds(row: Row) -> float:
    """Return the processor seconds of a row; a killed one counts until it was killed."""
    spent = KILL * row["limit"] if row["cpu_seconds"] is None else row["cpu_seconds"]
    return max(float(spent), SHORTEST)


def _gap(row: Row) -> float:
    return 1.0 if row["gap"] is None else float(row["gap"])


def _child() -> None:
    """Read a request from the standard input, and print the row as the last line."""
    request = json.load(sys.stdin)
    print(json.dumps(solve(Instance.from_dict(request.pop("instance")), **request)))


if __name__ == "__main__":
    _child()
