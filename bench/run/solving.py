"""One instance solved by one solver: whatever happens becomes an entry."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

import numpy as np

from bench.contracts import Budget, Result, Solver
from bench.errors import CRASHES, one_line
from bench.instance import Instance
from bench.protection import solve_copy
from bench.run.evaluation import Entry
from bench.run.json_values import json_result
from bench.setting import Setting


def solve(
    solver: Solver,
    instance: Instance,
    setting: Setting,
    budget: Budget,
    rng: np.random.Generator,
    keep_traceback: Callable[[str], None] | None = None,
) -> Entry:
    """Solve a copy of one instance.

    A crash and a changed copy become the entry's error; a traceback may be kept.
    """
    found = None
    error = None
    began = time.perf_counter()
    try:
        result = solve_copy(solver, instance, setting, budget, rng, "the solver")
        if not isinstance(result, Result):
            raise TypeError(f"solve returned {type(result).__name__}, not a bench.contracts.Result")
        found = json_result(result)
    except CRASHES as crash:
        error = one_line(crash)
        if keep_traceback is not None:
            keep_traceback(traceback.format_exc())
    seconds = time.perf_counter() - began
    return Entry(instance.hash(), found, error, seconds)
