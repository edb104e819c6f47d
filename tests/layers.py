"""Checks the import graph of a checkout: layers, circles, plug-ins, and who knows which library."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from bench.capabilities import CAPABILITIES

TOPS = ("bench", "datasets", "solvers")
LAYERS = (  # parts of bench, lowest first; a part imports its own layer and those below
    {
        *("compiled", "errors", "files", "generators", "instance", "json_content", "limits"),
        *("observation", "paths", "programs", "queue_order"),
        *("renamed", "rounding", "row_labels", "schedule", "setting", "ticks"),
    },
    {"simulator", "verify", "metrics", "workload", "left_shift"},
    {
        *("analysis", "capabilities", "contracts", "instance_set", "logs", "non_anticipation"),
        *("plugins", "pretrained", "protection", "rollout", "settings_hash"),
    },
    {
        *("leaderboard", "learning_curves", "offline_report", "references", "result_tables"),
        *("run", "tracking"),
    },
    {"__main__", "cli", "gpu", "speed"},
)
APART = 1  # the layer whose parts import only themselves and what is below
PROGRAMS = 4
SOLVER_LAYERS = ({"dispatch", "exact", "networks"}, {"rl"}, {"offline"})  # folders, lowest first
BUILDING_BLOCKS = 2  # the highest layer that solvers and datasets build on
DOORS = {  # library -> prefixes of the modules that may import it
    "mlflow": ("bench.tracking",),
    "hydra": ("bench.__main__", "bench.cli", "bench.plugins"),
    "hydra._internal": ("bench.cli.hydra_private",),
    "d3rlpy": ("solvers.offline.d3rlpy_adapter", "solvers.networks.decision_transformer"),
}
DYNAMIC_CALLS = ("import_module", "__import__")
DYNAMIC = (
    "bench.run.policy_server",  # imports the modules of the policy that it is sent
    "bench.speed.__main__",  # imports the benchmark that is named on the command line
    "solvers.networks.registry",  # imports every module of its own package
)


def modules(root: Path) -> dict[str, Path]:
    """Return dotted name -> file of every module of the three packages."""
    found = {}
    for top in TOPS:
        for file in sorted((root / top).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file: Path, known: Mapping[str, Path]) -> set[str]:
    """Return the dotted names of all modules that a file imports, also inside functions.

    `from bench import metrics` is bench.metrics; `import_module("bench.metrics")` counts too.
    """
    found = set()
    for node in _nodes(file.read_text()):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.add("relative")
        elif isinstance(node, ast.ImportFrom):
            if any(alias.name in DYNAMIC_CALLS and alias.asname for alias in node.names):
                found.add("?")
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else str(node.module) for name in names}
        elif isinstance(node, ast.Call) and _called(node) in DYNAMIC_CALLS:
            argument = node.args[0] if node.args else None
            literal = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            found.add(argument.value if literal else "?")
    return found


@functools.cache
def _nodes(source: str) -> tuple[ast.Import | ast.ImportFrom | ast.Call, ...]:
    """Return the imports and calls in a source text; most files of two checkouts are equal."""
    kinds = (ast.Import, ast.ImportFrom, ast.Call)
    return tuple(node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))


def _lookups(known: Mapping[str, Path]) -> Iterator[str]:
    """A capability is declared with a default: nothing asks whether a plug-in has it."""
    for name, file in known.items():
        for node in _nodes(file.read_text()):
            if isinstance(node, ast.Call) and _called(node) in ("getattr", "hasattr"):
                attribute = node.args[1]
                if isinstance(attribute, ast.Constant) and attribute.value in CAPABILITIES:
                    yield f"{name} looks up the capability {attribute.value} by {_called(node)}"


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def problems(root: Path) -> list[str]:
    """Return, in words, every way in which the checkout at `root` breaks the rules."""
    known = modules(root)
    graph = {name: imports(file, known) for name, file in known.items()}
    checks = (_names, _layers, _solver_layers, _circles, _packages, _plug_ins, _doors)
    found = [text for check in checks for text in check(graph)]
    return sorted([*found, *_targets(root, known), *_long_files(root, known), *_lookups(known)])


def part(name: str) -> str:
    """Return the part of bench that a module belongs to: bench.simulator.kernel -> simulator."""
    return name.split(".")[1] if name.startswith("bench.") else ""


def layer(name: str) -> int:
    """Return the layer of a module of bench."""
    if name.endswith(".__main__"):
        return PROGRAMS
    return next((i for i, parts in enumerate(LAYERS) if part(name) in parts), -1)


def _layers(graph: Mapping[str, set[str]]) -> Iterator[str]:
    parts = {part(name) for name in graph if part(name)}
    for name in sorted(set().union(*LAYERS) ^ parts):
        yield f"bench.{name}: is in no layer" if name in parts else f"layer of {name}: no such part"
    for own, used in graph.items():
        for other in sorted(name for name in used if part(own) and part(name)):
            if layer(other) > layer(own):
                yield f"{own} (layer {layer(own)}) imports {other} (layer {layer(other)})"
            elif layer(own) == layer(other) == APART and part(own) != part(other):
                yield f"{own} and {other} are of layer {APART} and may not import each other"


def _names(graph: Mapping[str, set[str]]) -> Iterator[str]:
    """The rules of this file name only modules that exist."""
    prefixes = {name.rpartition(".")[0] for name in graph}
    doors = [module for allowed in DOORS.values() for module in allowed]
    for name in (*doors, *DYNAMIC):
        if name not in graph and name not in prefixes:
            yield f"tests/layers.py: there is no module {name}"


def _solver_layers(graph: Mapping[str, set[str]]) -> Iterator[str]:
    def level(name: str) -> int | None:
        parts = name.split(".")
        if parts[0] != "solvers" or len(parts) < 2 or not _is_package(".".join(parts[:2]), graph):
            return None
        return next((i for i, folders in enumerate(SOLVER_LAYERS) if parts[1] in folders), -1)

    for own, used in graph.items():
        if (here := level(own)) == -1:
            yield f"{own}: its folder is in no layer of solvers/"
        for other in sorted(used & set(graph)):
            there = level(other)
            if here is None or there is None or own.split(".")[1] == other.split(".")[1]:
                continue
            if there >= here:
                yield f"{own} (layer {here} of solvers/) imports {other} (layer {there})"


def _circles(graph: Mapping[str, set[str]]) -> Iterator[str]:
    inside = {
        own: {name for name in used if name in graph and name != own} for own, used in graph.items()
    }
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        yield f"circle: {' -> '.join(error.args[1])}"


def _packages(graph: Mapping[str, set[str]]) -> Iterator[str]:
    for own, used in graph.items():
        top = own.split(".")[0]
        for other in sorted(used):
            foreign = other.split(".")[0] in TOPS and other.split(".")[0] not in (top, "bench")
            if foreign:
                yield f"{own} imports {other}: {top} knows plug-ins only through conf/"
            if top != "bench" and part(other) and layer(other) > BUILDING_BLOCKS:
                yield f"{own} builds on {other}, a service of the suite"
            if other == "relative":
                yield f"{own}: write absolute imports"
            if other == "?" and own not in DYNAMIC:
                yield f"{own} imports a module whose name is computed"


def _plug_ins(graph: Mapping[str, set[str]]) -> Iterator[str]:
    files = {name for name in graph if name.count(".") == 1 and name.startswith("solvers.")}
    folders = {name.rsplit(".", 1)[0] for name in graph if name.count(".") > 1}
    plug_ins = files - folders - {name for name in files if _is_package(name, graph)}
    for own, used in graph.items():
        if own.startswith("solvers.") and own not in plug_ins:
            for other in sorted(used & plug_ins):
                yield f"{own} is a library and imports the plug-in {other}"


def _is_package(name: str, graph: Mapping[str, set[str]]) -> bool:
    return any(other.startswith(f"{name}.") for other in graph)


def _targets(root: Path, known: Mapping[str, Path]) -> Iterator[str]:
    text = "\n".join(path.read_text() for path in (root / "conf").rglob("*.yaml"))
    targeted = set(re.findall(r"_target_: ([\w.]+)\.\w+", text))
    for name, file in known.items():
        if file.parent == root / "solvers" and file.stem != "__init__" and name not in targeted:
            yield f"{name}: lies directly in solvers/, and no yaml of conf/ targets it"


def _doors(graph: Mapping[str, set[str]]) -> Iterator[str]:
    for own, used in graph.items():
        for library, allowed in DOORS.items():
            if not own.startswith(allowed) and any(
                name == library or name.startswith(f"{library}.") for name in used
            ):
                yield f"{own} imports {library}: only {', '.join(allowed)} may"
        outside = {name.split(".")[0] for name in used} - set(sys.stdlib_module_names)
        allowed_here = {"bench", "numpy"} | ({"numba"} if own == "bench.compiled" else set())
        if part(own) and layer(own) == 0 and outside - allowed_here:
            yield f"{own} is of layer 0 and needs more than numpy"
        if part(own) == "verify" and any(part(name) in ("simulator", "rollout") for name in used):
            yield f"{own}: the verifier shares no code with the simulator"


def _long_files(root: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for name, file in known.items():
        lines = len(file.read_text().splitlines())
        if lines > 450 and name != "bench.simulator.kernel":
            yield f"{file.relative_to(root)}: {lines} lines, at most 450"
