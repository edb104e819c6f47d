"""The architecture: imports go down only, without circles; `import bench` stays light."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.layers import problems

ROOT = Path(__file__).parents[2]
HEAVY = (
    *("torch", "mlflow", "ortools", "numba", "matplotlib", "pandas", "scipy", "gymnasium"),
    "hydra",
)


def test_the_import_graph_has_no_problem() -> None:
    assert problems(ROOT) == []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the code, to break."""
    for top in ("bench", "conf", "datasets", "solvers"):
        shutil.copytree(ROOT / top, tmp_path / top, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("bench/schedule.py", "import bench.metrics", "bench.schedule (layer 0) imports"),
        ("bench/stats.py", "", "bench.stats: is in no layer"),
        ("bench/contracts.py", "from bench.run import job", "bench.contracts (layer 2) imports"),
        ("bench/metrics.py", "from bench import verify", "may not import each other"),
        ("bench/setting.py", "from bench.schedule import Schedule as S\n", ""),
        ("bench/instance.py", "from bench import setting", "circle: "),
        ("bench/verify/fields.py", "from bench.simulator import kernel", "may not import each"),
        ("solvers/helper.py", "", "solvers.helper: lies directly in solvers/"),
        ("solvers/rl/rollouts.py", "import solvers.ppo", "is a library and imports the plug-in"),
        ("solvers/rl/rollouts.py", "def f():\n    import solvers.ppo", "imports the plug-in"),
        ("solvers/rl/beam.py", "from solvers.rl import decoding", "circle: "),
        (
            "bench/speed/exact.py",
            "from importlib import import_module\nimport_module('solvers.ppo')",
            "bench.speed.exact imports solvers.ppo",
        ),
        (
            "bench/speed/exact.py",
            "from importlib import import_module\nimport_module(str(1))",
            "bench.speed.exact imports a module whose name is computed",
        ),
        (
            "solvers/networks/mlp.py",
            "import solvers.offline.rewards",
            "(layer 0 of solvers/) imports",
        ),
        (
            "solvers/networks/mlp.py",
            "import solvers.dispatch.rule",
            "(layer 0 of solvers/) imports",
        ),
        ("solvers/rl/beam.py", "import solvers.offline.rewards", "(layer 1 of solvers/) imports"),
        ("solvers/search/tabu.py", "", "its folder is in no layer of solvers/"),
        ("solvers/rl/beam.py", "from . import decoding", "solvers.rl.beam: write absolute imports"),
        (
            "bench/schedule.py",
            "from importlib import import_module as load\nload('bench.metrics')",
            "imports a module whose name is computed",
        ),
        ("solvers/rules.py", "import bench.run.runner", "a service of the suite"),
        ("solvers/rules.py", "import datasets.cluster", "only through conf/"),
        ("bench/run/runner.py", "import mlflow", "bench.run.runner imports mlflow"),
        ("bench/cli/jobs.py", "import hydra._internal.utils", "imports hydra._internal"),
        ("solvers/rules.py", "import d3rlpy", "solvers.rules imports d3rlpy"),
        ("bench/schedule.py", "import pandas", "bench.schedule is of layer 0"),
        ("bench/metrics.py", "\n" * 450, "bench/metrics.py: "),
        ("bench/rollout.py", "hasattr(PolicySolver, 'warm_up')", "looks up the capability warm_up"),
        ("solvers/ppo.py", "getattr(PPO, 'observe', None)", "looks up the capability observe"),
    ],
)
def test_a_broken_rule_is_found(checkout: Path, file: str, line: str, expected: str) -> None:
    path = checkout / file
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    found = problems(checkout)
    assert any(expected in text for text in found) if expected else found == []


@pytest.mark.parametrize(
    "statement",
    ["import bench", "import bench.instance, bench.schedule, bench.setting", "import bench.verify"],
)
def test_importing_the_core_is_light(statement: str) -> None:
    code = f"import sys; {statement}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.split() == []
