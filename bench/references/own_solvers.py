"""Whether a solver is one of the suite's own, as its source files define it.

A bound without a proof that can be checked is accepted only from these. The test is against
mistakes and against plug-ins that use a name, a class or a function of the suite. It is no
protection against code that changes this module too: whoever runs a foreign plug-in runs its code.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from bench.plugins import SOLVERS

PACKAGE = "solvers"


class Source(NamedTuple):
    """What the file of a module defines."""

    functions: Mapping[str, CodeType]  # qualified name -> code, without functions in functions
    imported: tuple[tuple[str, str, str], ...]  # (name, module, name there) of the suite's own


def is_own_exact_solver(plugin: Any) -> bool:
    """Return whether `plugin` is a certifying solver of the suite's own `solvers` package.

    Its class is the one that its module holds, no method is replaced in the object, and no function
    or imported name of that module and of `solvers.exact` differs from what their files say.
    """
    kind = type(plugin)
    module = sys.modules.get(kind.__module__)
    return (
        module is not None
        and _is_own(module)
        and kind.__qualname__ in vars(module)
        and vars(module)[kind.__qualname__] is kind
        and vars(kind).get("certifies") is True
        and not any(callable(getattr(kind, name, None)) for name in vars(plugin))
        and not any(patched(one) for one in (module, *_exact_modules()))
    )


def patched(module: ModuleType) -> list[str]:
    """Return the names in a module that are not what its file defines or imports."""
    source = _source(str(module.__file__))
    wrong = [
        name
        for name, code in source.functions.items()
        if _code_of(module, name) not in (code, None)
    ]
    for name, origin, original in source.imported:
        there = sys.modules.get(origin)
        if there is not None and hasattr(there, original):
            expected = getattr(there, original)
            if vars(module).get(name, expected) is not expected:
                wrong.append(name)
    return wrong


def _exact_modules() -> list[ModuleType]:
    """Return the loaded modules of the library of the exact solvers."""
    names = [name for name in sys.modules if f"{name}.".startswith(f"{PACKAGE}.exact.")]
    return [sys.modules[name] for name in sorted(names)]


def _is_own(module: ModuleType) -> bool:
    """Return whether a module was loaded from its place in the suite's `solvers` folder."""
    parts = module.__name__.split(".")
    file = getattr(module, "__file__", None)
    if parts[0] != PACKAGE or file is None:
        return False
    place = SOLVERS.joinpath(*parts[1:])
    return Path(file).resolve() in (place.with_suffix(".py"), place / "__init__.py")


@functools.cache
def _source(file: str) -> Source:
    text = Path(file).read_text()
    tree = ast.parse(text)
    imported = [
        (one.asname or one.name, node.module, one.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        if node.module.partition(".")[0] in (PACKAGE, "bench")
        for one in node.names
    ]
    return Source(dict(_functions(compile(tree, file, "exec"))), tuple(imported))


def _functions(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    """Yield (qualified name, code) of the functions and methods in compiled code."""
    for constant in code.co_consts:
        if not isinstance(constant, CodeType) or "<" in constant.co_qualname:
            continue
        if constant.co_flags & 0x2:  # CO_NEWLOCALS: a function; else the body of a class
            yield constant.co_qualname, constant
        else:
            yield from _functions(constant)


def _code_of(module: ModuleType, name: str) -> CodeType | str | None:
    """Return the code behind a qualified name; None where nothing is to be compared.

    That is where a decorator of another module has replaced the function. A name that is gone, or
    no function any more, is an empty text.
    """
    owner: Any = module
    for part in name.split("."):
        if part not in vars(owner):
            return ""
        owner = vars(owner)[part]
    for attribute in ("fget", "__func__", "func", "py_func", "__wrapped__"):
        if not isinstance(owner, FunctionType):
            owner = getattr(owner, attribute, owner)
    if not isinstance(owner, FunctionType):
        return ""
    return None if hasattr(owner, "__wrapped__") else owner.__code__
