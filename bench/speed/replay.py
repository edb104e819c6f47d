"""CPU seconds to replay long traces under queue rules, over the number of tasks.

Traces are drawn: log-normal durations, 1 to 8 GPUs a task, agents of 8 GPUs, load 0.9. Up to 1,000
tasks the general simulator with the rule in Python stands beside the compiled replay; `ratio`: its
CPU seconds over those of the replay. `exponent`: of the growth of the CPU seconds since the row
before. Compilation is not counted. Longer queues (load above 1) and demands that all differ cost
more than shown here.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from bench import plugins
from bench.contracts import Budget
from bench.errors import UserError
from bench.instance import Instance
from bench.rollout import PolicySolver
from bench.setting import Setting
from bench.simulator.replay import replay

RULES = ("fifo", "sjf", "hrrn")
SETTING = Setting(track="online", observe="arrived")
GPUS = 8  # of an agent
SIMULATED_TASKS = 1000  # at most, in the general simulator

Row = dict[str, Any]


def draw_trace(tasks: int, agents: int, load: float = 0.9) -> Instance:
    """Return a drawn trace."""
    rng = np.random.default_rng(0)
    duration = np.maximum(1, rng.lognormal(6, 1.5, tasks)).astype(np.int64)
    gpus = rng.choice([1, 2, 4, 8], tasks, p=[0.8, 0.1, 0.05, 0.05])
    span = float(duration @ gpus) / (load * GPUS * agents)
    return Instance(
        duration[:, None],
        gpus[:, None, None],
        np.full((agents, 1), GPUS),
        np.zeros(agents, dtype=np.int64),
        release=np.sort((rng.random(tasks) * span).astype(np.int64)),
    )


def rows(threads: int, agents: int = 100, largest: int = 1_000_000) -> list[Row]:
    """Return one row per rule and number of tasks.

    Parameters
    ----------
    threads
        Not used: a replay takes one thread.
    agents
        M.
    largest
        Number of tasks of the longest trace, at least 1,000; the others have 1,000, 10,000, ...

    Raises
    ------
    UserError
        If `largest` is below 1,000.
    """
    if largest < 1000:
        raise UserError(f"largest: value {largest}: must be at least 1,000")
    sizes = [10**k for k in range(3, 1 + round(math.log10(largest))) if 10**k < largest]
    found = plugins.rules()
    table: list[Row] = []
    for name in RULES:
        order = found[name].queue_order()
        assert order is not None, f"{name} is no queue rule"
        replay(draw_trace(100, agents), SETTING, order)  # compiles
        before: tuple[int, float] | None = None
        for tasks in [*sizes, largest]:
            trace = draw_trace(tasks, agents)
            began = time.process_time()
            replay(trace, SETTING, order)
            seconds = time.process_time() - began
            exponent = None
            if before is not None:
                exponent = round(math.log(seconds / before[1]) / math.log(tasks / before[0]), 2)
            ratio = None
            if tasks <= SIMULATED_TASKS:
                solver = PolicySolver(found[name])
                solver.solve(draw_trace(20, agents), SETTING, Budget(), np.random.default_rng(0))
                began = time.process_time()
                solver.solve(trace, SETTING, Budget(), np.random.default_rng(0))
                ratio = round((time.process_time() - began) / seconds, 1)
            table.append(
                {
                    "rule": name,
                    "tasks": tasks,
                    "agents": agents,
                    "cpu_seconds": round(seconds, 4),
                    "exponent": exponent,
                    "ratio": ratio,
                }
            )
            before = tasks, seconds
    return table
