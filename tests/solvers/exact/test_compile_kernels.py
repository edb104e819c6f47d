"""After `warm_up`, no instance makes the exact solvers compile anything more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# A new process: within one, an earlier test would have compiled what `warm_up` leaves out.
PROGRAM = """
import sys
import numpy as np
from numba.core.dispatcher import Dispatcher
from bench.contracts import Budget
from bench.instance import Instance
from bench.setting import OBJECTIVES, Setting
from solvers.{module} import {name}
from tests.solvers.exact.warm_up_instances import instances

def signatures():
    modules = [m for n, m in sys.modules.items() if n.startswith(("bench.", "solvers."))]
    return {{
        (function.py_func.__module__, function.py_func.__name__, str(signature))
        for module in modules
        for function in vars(module).values()
        if isinstance(function, Dispatcher)
        for signature in function.signatures
    }}

solver = {name}({options})
solver.warm_up()
compiled = signatures()
assert compiled, "warm_up compiles nothing"
for instance in instances({sharing!r}):
    track = "assign" if {sharing!r} == "budget" else "schedule"
    for objective in OBJECTIVES if track == "schedule" else ("total_time",):
        if objective == "tardiness" and instance.due is None:
            continue
        setting = Setting(track=track, objective=objective)
        solver.solve(instance, setting, Budget(seconds=1.0, threads=1), np.random.default_rng(0))
new = signatures() - compiled
assert not new, sorted(new)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "options", "sharing"),
    [
        ("cpsat", "CpSat", "", "time"),
        ("lagrangian", "Lagrangian", "", "budget"),
        ("local_search", "LocalSearch", "patience=1", "time"),
        ("local_search", "LocalSearch", "patience=1", "budget"),
    ],
)
def test_nothing_is_compiled_after_warm_up(
    module: str, name: str, options: str, sharing: str
) -> None:
    program = PROGRAM.format(module=module, name=name, options=options, sharing=sharing)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
