"""The house plan: imports only go down, bench names no plug-in, and `import bench` stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(f for top in ("bench", "datasets", "solvers") for f in (ROOT / top).rglob("*.py"))
FLOORS = {
    0: {"instance", "schedule", "setting", "observation"},
    1: {"simulator", "verify", "metrics", "workload", "left_shift"},
    2: {"contracts", "rollout", "instance_set", "replay", "episodes", "dope"},
}
HEAVY = (
    "torch",
    "mlflow",
    "ortools",
    "numba",
    "matplotlib",
    "pandas",
    "scipy",
    "gymnasium",
    "hydra",
)


def module(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file):
    """Dotted names of all modules a file imports, also inside functions; `from bench import metrics` is bench.metrics."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {
                n if (ROOT / n.replace(".", "/")).with_suffix(".py").exists() else node.module
                for n in names
            }
            found |= {n for n in names if (ROOT / n.replace(".", "/") / "__init__.py").exists()}
    return found


def part(name):
    """The part of bench a module belongs to: bench.simulator.kernel -> simulator."""
    return name.split(".")[1] if name.startswith("bench.") else ""


def floor(name):
    """0 to 3 for parts of bench, 4 for programs."""
    if name.endswith(("__main__", "bench.speed")) or part(name) in ("speed", "speeds"):
        return 4
    return next((level for level, parts in FLOORS.items() if part(name) in parts), 3)


IDS = {"ids": lambda f: str(f.relative_to(ROOT))}


@pytest.mark.parametrize("file", [f for f in FILES if module(f).startswith("bench.")], **IDS)
def test_bench_imports_only_go_down(file):
    own = module(file)
    for name in imports(file):
        if not name.startswith("bench."):
            continue
        assert floor(name) <= floor(own), (
            f"{own} (floor {floor(own)}) imports {name} (floor {floor(name)})"
        )
        if floor(own) == 1:
            assert floor(name) == 0 or part(name) == part(own), (
                f"{own} and {name} are neighbours and may not import each other"
            )


@pytest.mark.parametrize("file", FILES, **IDS)
def test_plug_ins_and_the_suite_know_each_other_only_through_the_floors(file):
    own, used = module(file).split(".")[0], imports(file)
    tops = {name.split(".")[0] for name in used}
    allowed = {
        "bench": {"bench"},
        "datasets": {"bench", "datasets"},
        "solvers": {"bench", "solvers"},
    }[own]
    assert tops & {"bench", "datasets", "solvers"} <= allowed
    if own != "bench":
        services = {name for name in used if name.startswith("bench.") and floor(name) > 2}
        assert not services - {"bench.progress"}, (
            f"{module(file)} builds on the suite's services {services}"
        )


@pytest.mark.parametrize("file", FILES, **IDS)
def test_mlflow_and_hydra_have_one_door_each(file):
    own, tops = module(file), {name.split(".")[0] for name in imports(file)}
    if part(own) != "tracking":
        assert "mlflow" not in tops
    if own.startswith("bench") and own != "bench.__main__":
        assert "hydra" not in tops


@pytest.mark.parametrize(
    "file", [f for f in FILES if floor(module(f)) == 0 and module(f).startswith("bench.")], **IDS
)
def test_the_ground_floor_needs_numpy_only(file):
    outside = (
        {name.split(".")[0] for name in imports(file)}
        - set(sys.stdlib_module_names)
        - {"bench", "numpy"}
    )
    assert not outside


def test_the_judge_shares_no_code_with_simulator_and_solvers():
    for file in (ROOT / "bench" / "verify").glob("*.py"):
        assert not {name for name in imports(file) if part(name) in ("simulator", "rollout")}


@pytest.mark.parametrize(
    "statement",
    ["import bench", "import bench.instance, bench.schedule, bench.setting", "import bench.verify"],
)
def test_importing_the_core_is_light(statement):
    code = f"import sys; {statement}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.split() == []
