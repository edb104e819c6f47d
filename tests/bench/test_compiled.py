"""Machine code on disk belongs to the sources that it was compiled from."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from bench import compiled as module
from bench.compiled import KEPT_FOLDERS, kernel_array, report_compilation, source_digest

ROOT = Path(__file__).parents[2]
KERNEL = """
from bench.compiled import compiled
from small.constants import FACTOR
from small.helpers import add_one


@compiled(nogil=True)
def scale(x):
    return add_one(x) * FACTOR


@compiled(parallel=True)
def scale_in_parallel(x):
    return x * FACTOR
"""
HELPERS = """
from bench.compiled import compiled
from . import offsets


@compiled(forceinline=True)
def add_one(x):
    return x + offsets.ONE
"""
PROGRAM = """
import numba
import numpy as np
from small.kernel import scale, scale_in_parallel

values = scale(3), scale_in_parallel(np.ones(1))[0]
hits = [sum(f.stats.cache_hits.values()) for f in (scale, scale_in_parallel)]
print(*map(int, values), *hits, numba.config.CACHE_DIR or "unset")
"""


@pytest.fixture
def package(tmp_path):
    """A small package whose kernel depends on constants of two other modules."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "constants.py").write_text("FACTOR = 2\n")
    (folder / "offsets.py").write_text("ONE = 1\n")
    (folder / "helpers.py").write_text(HELPERS)
    (folder / "kernel.py").write_text(KERNEL)
    return folder


def run(package, **environment):
    """Run the program; return its two values, its two numbers of cache hits, and CACHE_DIR."""
    inherited = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    paths = os.pathsep.join([str(package.parent), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        cwd=package.parent,
        env={**inherited, "PYTHONPATH": paths, **environment},
    )
    *numbers, folder = done.stdout.split()
    return (*map(int, numbers), folder)


def cache_folders(base):
    """Return the names of the cache folders of the kernel."""
    return {path.name for path in base.glob("small.kernel-*")}


def forget_sources():
    """Let the module read all sources again, as a new process would."""
    for function in (module._cache_folder, module._read, module._imported_modules):
        function.cache_clear()


def chosen_folder(package):
    """Return the cache folder of the kernel in a new process, or None."""
    forget_sources()
    return module._cache_folder("small.kernel", package / "kernel.py")


@pytest.mark.slow
def test_a_changed_constant_of_another_module_is_seen_and_unchanged_code_is_loaded(package):
    assert run(package) == (8, 2, 0, 0, "unset")
    (package / "constants.py").write_text("FACTOR = 5\n")
    assert run(package) == (20, 5, 0, 0, "unset")
    (package / "offsets.py").write_text("ONE = 2\n")  # imported by the inlined function's module
    assert run(package) == (25, 5, 0, 0, "unset")
    (package / "unrelated.py").write_text("FACTOR = 7\n")
    assert run(package) == (25, 5, 1, 1, "unset")


def test_only_the_folders_that_were_used_last_are_kept(package, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    folders = []
    for factor in (2, 3, 4):
        (package / "constants.py").write_text(f"FACTOR = {factor}\n")
        folders.append(chosen_folder(package).name)
        os.utime(package / "__pycache__" / folders[-1], (factor, factor))
    assert len(set(folders)) == 3
    assert cache_folders(package / "__pycache__") == set(folders[-KEPT_FOLDERS:])


def test_the_cache_is_in_the_chosen_folder_or_in_a_writable_one(package, tmp_path, monkeypatch):
    chosen = tmp_path / "chosen"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(chosen))
    assert chosen_folder(package).parent == chosen
    assert not (package / "__pycache__").exists()
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    (package / "__pycache__").write_text("a file: no folder can be made here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert chosen_folder(package).parent == tmp_path / "user" / "numba"
    blocked = tmp_path / "blocked"
    blocked.touch()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(blocked))
    assert chosen_folder(package) is None
    assert module.compiled()(increment)(2) == 3  # compiled without a cache


def increment(x):
    return x + 1


@pytest.mark.slow
def test_processes_use_the_folder_that_the_environment_names(package, tmp_path):
    chosen = str(tmp_path / "chosen")
    assert run(package, NUMBA_CACHE_DIR=chosen) == (8, 2, 0, 0, chosen)
    assert run(package, NUMBA_CACHE_DIR=chosen) == (8, 2, 1, 1, chosen)
    assert not cache_folders(package / "__pycache__")
    (tmp_path / "blocked").touch()
    assert run(package, NUMBA_CACHE_DIR=str(tmp_path / "blocked"))[:4] == (8, 2, 0, 0)


@pytest.mark.slow
def test_several_processes_compile_at_the_same_time(package):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), str(ROOT)])}
    command = [sys.executable, "-c", PROGRAM]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    outputs = [process.communicate()[0].split()[:2] for process in running]
    assert outputs == [["8", "2"]] * 3


def test_the_digest_follows_imports_of_every_form(tmp_path, monkeypatch):
    folder = tmp_path / "pkg" / "sub"
    folder.mkdir(parents=True)
    for name in ("pkg/__init__", "pkg/sub/__init__", "pkg/a", "pkg/b", "pkg/sub/c", "pkg/sub/d"):
        (tmp_path / f"{name}.py").write_text("X = 1\n")
    main = folder / "main.py"
    main.write_text("import pkg.a\nfrom .. import b\nfrom .c import X\n")
    (folder / "c.py").write_text("def late():\n    from pkg.sub import d\n")

    def digest():
        forget_sources()
        return source_digest("pkg.sub.main", main)

    digests = [digest()]
    for name in ("pkg/a", "pkg/b", "pkg/sub/c", "pkg/sub/d", "pkg/sub/__init__"):
        with (tmp_path / f"{name}.py").open("a") as file:
            file.write("Y = 2\n")
        digests.append(digest())
    assert len(set(digests)) == len(digests)
    (tmp_path / "pkg" / "sub" / "unused.py").write_text("X = 1\n")
    assert digest() == digests[-1]


def test_numba_caches_only_through_this_module():
    """`cache=True` of numba itself would ignore constants that other modules define."""
    found = []
    for top in ("bench", "datasets", "solvers", "tests"):
        for file in (ROOT / top).rglob("*.py"):
            source = file.read_text()
            for node in ast.walk(ast.parse(source)) if "cache=" in source else ():
                if isinstance(node, ast.Call) and any(
                    keyword.arg == "cache"
                    and isinstance(keyword.value, ast.Constant)
                    and keyword.value.value is True
                    for keyword in node.keywords
                ):
                    found.append(file.relative_to(ROOT).as_posix())
    assert found == ["bench/compiled.py"]


def test_compilation_is_reported_by_name_and_loading_is_not(tmp_path: Path) -> None:
    reported: list[str] = []

    def square(x: int) -> int:
        return x * x

    @numba.njit
    def cube(x: int) -> int:
        return square_compiled(x) * x

    square_compiled = numba.njit(square)
    with report_compilation(reported.append):
        assert cube(3) == 27
        assert cube(2) == 8
    assert [name for name in reported if name in ("cube", "square", "")] == ["cube", "square", ""]
    numba.njit(square)(2)
    assert reported[-1] == ""


def test_kernels_get_arrays_of_one_type() -> None:
    table = np.arange(12).reshape(3, 4)
    frozen = table.copy()
    frozen.flags.writeable = False
    for array in (table, frozen, table.T, table[:, ::2], table[:1].T):
        kind = numba.typeof(kernel_array(array))
        assert (kind.layout, kind.mutable) == ("C", True)
        assert (kernel_array(array) == array).all()
    assert kernel_array(table) is table
