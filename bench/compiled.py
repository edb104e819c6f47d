"""Numba functions with an on-disk cache that is valid only for the sources they were compiled from.

Numba freezes global constants into machine code, but its cache checks the decorated function's
own file only: after a change of a constant that is imported from another module, it would load the
old machine code. `compiled` therefore keeps the cache in a folder that is named after a digest of
the module and of all modules of the project that the module imports, directly or indirectly.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import event as numba_event
from numpy.typing import NDArray

KEPT_FOLDERS = 2  # cache folders that are kept per module: the current one and one older version
DIGEST_LENGTH = 16  # hexadecimal digits in the name of a cache folder

_locator_lock = threading.Lock()  # `numba.config.CACHE_DIR` is global


def compiled(**njit_options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator: `numba.njit(**njit_options)` with on-disk caching.

    The cache lies in the folder `NUMBA_CACHE_DIR` if it is set, else in the `__pycache__` beside
    the module if it is writable, else in the user's cache folder. If the cache cannot be written,
    the function is compiled in every process. Several processes may use the cache at the same time.

    Parameters
    ----------
    **njit_options
        Options of `numba.njit`, such as `nogil=True` or `parallel=True`; not `cache`.

    Returns
    -------
    Callable
        A decorator that returns numba's dispatcher of the function.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        folder = _cache_folder(function.__module__, Path(function.__code__.co_filename))
        if folder is None:
            return numba.njit(**njit_options)(function)
        with _locator_lock, _numba_cache_dir(folder):
            return numba.njit(cache=True, **njit_options)(function)

    return decorate


def kernel_array(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array, or a copy, such that its type is the same for every instance.

    Numba compiles a function anew for an array that is read-only or has another memory layout; what
    it gets is therefore always writable and in C order.
    """
    return np.require(array, requirements=["C", "W"])


@contextlib.contextmanager
def report_compilation(report: Callable[[str], None]) -> Iterator[None]:
    """Inside the context, call `report` with the name of every function before it is compiled.

    It is called with an empty name when nothing is being compiled any more. Functions that are
    loaded from the cache are not reported.
    """
    with numba_event.install_listener("numba:compile", _CompilationListener(report)):
        yield


class _CompilationListener(numba_event.Listener):  # type: ignore[misc]  # numba has no types
    """Passes the names of functions on."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._depth = 0  # functions that are compiled for one another

    def on_start(self, event: Any) -> None:
        """Report the function whose compilation begins."""
        self._depth += 1
        self._report(event.data["dispatcher"].py_func.__name__)

    def on_end(self, event: Any) -> None:
        """Report the end of the outermost compilation."""
        self._depth -= 1
        if not self._depth:
            self._report("")


@contextlib.contextmanager
def _numba_cache_dir(folder: Path) -> Iterator[None]:
    """Let numba choose `folder` for the functions that are decorated inside the context."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


# -- where the cache lies --------------------------------------------------------------------------


@cache
def _cache_folder(module: str, file: Path) -> Path | None:
    """Return the cache folder of a module's current sources, or None where none is writable.

    The first call in a process removes folders of older versions of the same module.
    """
    place = hashlib.sha256(str(file.parent.resolve()).encode()).hexdigest()[:8]
    prefix = f"{module}-{place}-"
    name = prefix + source_digest(module, file)
    for base in _base_folders(file):
        folder = base / name
        if _make_writable(folder):
            _prune(base, prefix, folder)
            return folder
    return None


def _base_folders(file: Path) -> Iterator[Path]:
    """Yield the folders that may hold the cache of a module, the preferred one first."""
    if numba.config.CACHE_DIR:
        yield Path(numba.config.CACHE_DIR)
        return
    yield file.parent / "__pycache__"
    with contextlib.suppress(RuntimeError):  # a user without a home folder
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"


def _make_writable(folder: Path) -> bool:
    """Create a folder, mark it as used now, and return whether files can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _prune(base: Path, prefix: str, current: Path) -> None:
    """Remove the cache folders of a module except the `KEPT_FOLDERS` that were used last.

    Errors are ignored: another process may remove the same folder. A process that still uses a
    removed folder compiles again, and numba creates the folder again when it saves the result.
    """
    pattern = re.compile(re.escape(prefix) + rf"[0-9a-f]{{{DIGEST_LENGTH}}}")
    used = []
    with contextlib.suppress(OSError):
        for folder in base.iterdir():
            if folder != current and pattern.fullmatch(folder.name):
                with contextlib.suppress(OSError):
                    used.append((folder.stat().st_mtime, folder))
    for _, folder in sorted(used, reverse=True)[KEPT_FOLDERS - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)


# -- what the machine code depends on --------------------------------------------------------------


def source_digest(module: str, file: Path) -> str:
    """Return a digest of a module's source and of the project modules that it imports.

    Imports are followed transitively into the top-level package of the module and into the one of
    this file. Imports inside functions and under `TYPE_CHECKING` count too.

    Parameters
    ----------
    module
        Dotted name of the module.
    file
        Its source file.

    Returns
    -------
    str
        `DIGEST_LENGTH` hexadecimal digits.
    """
    roots = {
        module.partition(".")[0]: _root(module, file),
        __name__.partition(".")[0]: _root(__name__, Path(__file__)),
    }
    sources = {module: file}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        for found, path in _imported_modules(name, sources[name], tuple(roots.items())):
            if found not in sources:
                sources[found] = path
                waiting.append(found)
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(f"{name}\0".encode())
        digest.update(_read(sources[name]))
    return digest.hexdigest()[:DIGEST_LENGTH]


@cache
def _read(file: Path) -> bytes:
    """Return the content of a source file, empty where it cannot be read."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _root(module: str, file: Path) -> Path:
    """Return the folder that holds the top-level package of a module."""
    depth = module.count(".") + (file.name == "__init__.py")
    return file.parents[depth]


@cache
def _imported_modules(
    module: str, file: Path, roots: tuple[tuple[str, Path], ...]
) -> tuple[tuple[str, Path], ...]:
    """Return names and files of the modules of the packages `roots` that a module imports."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found: dict[str, Path] = {}
    for name in _imported_names(ast.parse(_read(file)), package):
        for top, root in roots:
            path = _source_file(root, name) if name.partition(".")[0] == top else None
            if path is not None:
                found[name] = path
    return tuple(found.items())


def _imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the dotted names that may be modules in all import statements of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            above = parents[: len(parents) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def _source_file(root: Path, module: str) -> Path | None:
    """Return the source file of a module below `root`, or None where there is no such module."""
    path = root.joinpath(*module.split("."))
    for file in (path.with_name(path.name + ".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None
