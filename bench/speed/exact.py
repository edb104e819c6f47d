"""Exact solvers side by side: processor seconds to the proof of an optimum, or the gap that is left at the limit.

Assignments are drawn by the published recipes C, D and E, 100 and 200 tasks x 5, 10 and 20 agents (100x5 = 100 tasks on 5);
schedules are the first `count` test instances of each gangs_* set. Objective: total time. Every solve runs in a process of its
own, after a warm-up on small problems that compiles what is compiled late; processor seconds are those of the solve, user and
system, over all threads. The limit is `limit` processor seconds: a wall clock of limit / threads, or of `limit` for a solver
that has one thread whatever it is given; what takes 1.5 times the limit is killed. Schedules are verified and objectives
recomputed here; all costs are whole numbers, so everyone's bound is rounded up. gap = (objective - bound) / objective.

`only` is a regular expression that must be found in "INSTANCE SOLVER". All of it takes up to four hours. With --json a run that
was cut off goes on where it was when started again: what the file holds is not measured again.
"""

from __future__ import annotations

import importlib
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
from omegaconf import OmegaConf

from bench.contracts import Budget, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.metrics import objective
from bench.plugins import CONF
from bench.setting import Setting
from bench.speed import _peers
from bench.verify import verify

THREADS = 2  # by default
RECIPES, TASKS, AGENTS = ("c", "d", "e"), (100, 200), (5, 10, 20)
GANGS = ("gangs_20x3", "gangs_30x4", "gangs_50x5")
SOLVERS = {
    "assign": ("lagrangian", "cpsat", "highs", "scip"),
    "schedule": ("cpsat", "cpsat_plain", "pyjobshop"),
}  # ours first
PEERS: dict[str, tuple[str, type[Solver]]] = {  # name -> (package it needs, solver)
    "highs": ("highspy", _peers.Highs),
    "scip": ("pyscipopt", _peers.Scip),
    "pyjobshop": ("pyjobshop", _peers.PyJobShop),
}
MEASURED = ("optimal", "feasible", "unknown", "killed")  # a row of another status is tried again
KILL = 1.5  # times the limit
STARTING = 120  # wall seconds a process may take before its solve begins
ROUNDING = 1e-6  # what floating-point solvers may put a bound above a whole number
SHORTEST = 0.01  # seconds: shorter solves count as this long in ratios
SHIFT = 0.001  # of the shifted geometric mean of gaps

Row = dict[str, Any]


def rows(
    threads: int, limit: float = 120.0, only: str = "", count: int = 10, done: Sequence[Row] = ()
) -> Iterator[Row]:
    """One row per instance and solver, as it is measured; first those of `done`, an earlier run's.

    Raises:
        UserError: where `done` was measured with another limit or number of threads.
    """
    kept = {(row["instance"], row["solver"]): row for row in done if row["status"] in MEASURED}
    for row in kept.values():
        if (row["threads"], row["limit"]) != (threads, limit):
            raise UserError(
                f"--json: the file holds threads {row['threads']}, limit {row['limit']}; name another file"
            )
        yield row
    for track, group, instance in instances(count):
        for solver in SOLVERS[track]:
            if re.search(only, f"{instance.name} {solver}") and (instance.name, solver) not in kept:
                row = {"track": track, "group": group, "instance": instance.name, "solver": solver}
                yield (
                    row
                    | {"threads": threads, "limit": limit}
                    | measure(instance, solver, threads, limit)
                )


def instances(count: int) -> Iterator[tuple[str, str, Instance]]:
    """(track, group, instance), in the order in which they are measured."""
    for recipe, tasks, agents in itertools.product(RECIPES, TASKS, AGENTS):
        name = f"{recipe}_{tasks}x{agents}"
        drawn = build(
            read("dataset", "gap_c")
            | {"name": name, "recipe": recipe, "tasks": tasks, "agents": agents}
        )
        yield "assign", f"recipe {recipe}", next(drawn.instances("test"))
    for name in GANGS:
        for instance in itertools.islice(build(read("dataset", name)).instances("test"), count):
            yield "schedule", f"{name} {instance.name.rpartition('-')[2]}", instance


# -- plug-ins, by the files of conf/ -----------------------------------------------------------------------------


def read(group: str, name: str) -> dict[str, Any]:
    """conf/GROUP/NAME.yaml as plain values. Its `defaults` name files to extend, FILE or {/GROUP@_here_: FILE}, or FILE@KEY.

    What a data set overrides elsewhere (`override ...`) is left out.
    """
    config: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
    config = config.get("dataset", config)
    for entry in config.pop("defaults", []):
        if isinstance(entry, dict):
            where, file = next(iter(entry.items()))
            if where.endswith("@_here_"):
                config = read(where.strip("/").removesuffix("@_here_"), file) | config
        elif entry != "_self_":
            file, _, at = entry.partition("@")
            config = config | {at: read(group, file)} if at else read(group, file) | config
    return config


def build(config: Any) -> Any:
    """`config` with every mapping that has a `_target_` replaced by what the target makes of the rest of it."""
    if isinstance(config, list):
        return [build(value) for value in config]
    if not isinstance(config, Mapping):
        return config
    values = {name: build(value) for name, value in config.items() if name != "_target_"}
    if "_target_" not in config:
        return values
    module, _, name = config["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**values)


def absent(solver: str) -> str:
    """Why `solver` cannot be measured, empty if it can."""
    if solver in PEERS:
        return "" if importlib.util.find_spec(PEERS[solver][0]) else "not installed"
    return "" if (CONF / "solver" / f"{solver}.yaml").exists() else f"no conf/solver/{solver}.yaml"


# -- one solve ---------------------------------------------------------------------------------------------------


def measure(instance: Instance, solver: str, threads: int, limit: float) -> Row:
    """Status, objective, bound, gap and seconds of one solve in a fresh process; numbers are None where there are none.

    Status: optimal (proved) | feasible | unknown (no plan) | killed | not installed | failed, with the last line of why.
    """
    row: Row = dict.fromkeys(("status", "objective", "bound", "gap", "cpu_seconds", "wall_seconds"))
    why = absent(solver)
    if why:
        return row | {"status": why}
    request = {"instance": instance.to_dict(), "solver": solver, "threads": threads, "limit": limit}
    own_threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    try:
        child = subprocess.run(
            [sys.executable, "-m", "bench.speed.exact"], input=json.dumps(request), capture_output=True, text=True,
            timeout=STARTING + KILL * limit, cwd=Path(__file__).parents[2], env=os.environ | own_threads, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return row | {"status": "killed"}
    if child.returncode in (-signal.SIGKILL, -signal.SIGXCPU):
        return row | {"status": "killed"}
    if child.returncode:
        return row | {"status": f"failed: {(child.stderr.strip() or '?').splitlines()[-1]}"}
    return row | json.loads(child.stdout.splitlines()[-1])


def solve(instance: Instance, solver: str, threads: int, limit: float) -> Row:
    """What the fresh process does: warm up, solve, judge."""
    setting = Setting(track="assign" if instance.sharing == "budget" else "schedule")
    plugin: Solver = PEERS[solver][1]() if solver in PEERS else build(read("solver", solver))
    rng = np.random.default_rng(0)
    getattr(plugin, "warm_up", lambda: None)()
    plugin.solve(small(instance), setting, Budget(seconds=1.0, threads=threads), rng)
    most = math.ceil(time.process_time() + KILL * limit)
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))
    processor, wall = time.process_time(), time.perf_counter()
    result = plugin.solve(instance, setting, Budget(seconds=limit / threads, threads=threads), rng)
    spent: Row = {
        "cpu_seconds": round(time.process_time() - processor, 3),
        "wall_seconds": round(time.perf_counter() - wall, 3),
    }
    bound = math.ceil(result.lower_bound - ROUNDING) if math.isfinite(result.lower_bound) else 0
    if len(result.schedule.task) == 0:
        return {"status": "unknown", "bound": bound} | spent
    violations = verify(instance, result.schedule)
    value = objective(instance, result.schedule, setting.objective)
    if violations or bound > value:
        return {
            "status": f"failed: {violations[0] if violations else 'the bound is above the objective'}"
        } | spent
    status = "optimal" if bound == value else "feasible"
    return {
        "status": status,
        "objective": value,
        "bound": bound,
        "gap": (value - bound) / value,
    } | spent


def small(instance: Instance) -> Instance:
    """Two tasks on two agents, of the same kind as `instance`."""
    return Instance(
        duration=[[1, 2], [2, 1]],  # type: ignore[arg-type]
        demand=np.ones((2, 2, instance.n_resources), dtype=np.int64),
        capacity=np.full((2, instance.n_resources), 2),
        agent_type=np.arange(2),
        sharing=instance.sharing,
        resources=instance.resources,
    )


# -- the summary -------------------------------------------------------------------------------------------------


def summary(found: Sequence[Row]) -> list[Row]:
    """Per group and per track, each solver compared with ours, the first of the track.

    `wins`: instances on which nobody did better, that is proved it in less time or, where nobody did, left a smaller gap.
    `note`: why instances are missing.
    """
    measured = [row for row in found if row["status"] in MEASURED]
    best: dict[str, tuple[bool, float]] = {}
    for row in measured:
        best[row["instance"]] = min(rank(row), best.get(row["instance"], rank(row)))
    out = []
    for label in dict.fromkeys(row[part] for part in ("group", "track") for row in found):
        chosen = [row for row in found if label in (row["group"], row["track"])]
        solvers = SOLVERS[chosen[0]["track"]]
        ours = {
            row["instance"]: row
            for row in chosen
            if row in measured and row["solver"] == solvers[0]
        }
        for solver in solvers:
            every = [row for row in chosen if row["solver"] == solver]
            own = {row["instance"]: row for row in every if row in measured}
            out.append(
                {
                    "group": label,
                    "solver": solver,
                    "instances": len(own),
                    "proved": sum(row["status"] == "optimal" for row in own.values()),
                    "wins": sum(rank(row) == best[name] for name, row in own.items()),
                    **compare(own, ours),
                    "note": ", ".join(
                        dict.fromkeys(row["status"] for row in every if row not in measured)
                    ),
                }
            )
    return out


def rank(row: Row) -> tuple[bool, float]:
    """The less the better: a proof before none, then seconds, else the gap."""
    proved = row["status"] == "optimal"
    return not proved, _seconds(row) if proved else _gap(row)


def compare(own: Mapping[str, Row], ours: Mapping[str, Row]) -> Row:
    """A solver's rows against ours, both by instance, on the instances that both were measured on.

    `cpu_ratio`: geometric mean of its processor seconds over ours, where either proved the optimum (the other counts with the
    seconds it took, so that the ratio is a bound). `gap`: shifted geometric mean where neither did; `gap_ratio`: over ours.
    """
    pairs = [(row, ours[name]) for name, row in own.items() if name in ours]
    proved = [pair for pair in pairs if "optimal" in (pair[0]["status"], pair[1]["status"])]
    open_ = [pair for pair in pairs if pair not in proved]
    cpu = [_seconds(row) / _seconds(other) for row, other in proved]
    left = [_gap(row) + SHIFT for row, _ in open_]
    ratio = [(_gap(row) + SHIFT) / (_gap(other) + SHIFT) for row, other in open_]
    return {
        "cpu_ratio": geometric_mean(cpu) if cpu else None,
        "gap": geometric_mean(left) - SHIFT if left else None,
        "gap_ratio": geometric_mean(ratio) if ratio else None,
    }


def _seconds(row: Row) -> float:
    return max(KILL * row["limit"] if row["cpu_seconds"] is None else row["cpu_seconds"], SHORTEST)


def _gap(row: Row) -> float:
    return 1.0 if row["gap"] is None else row["gap"]


def _child() -> None:
    """Read a request, write a row as the last line."""
    request = json.load(sys.stdin)
    print(json.dumps(solve(Instance.from_dict(request.pop("instance")), **request)))


if __name__ == "__main__":
    _child()
