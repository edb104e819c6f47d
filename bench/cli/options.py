"""Checks a configuration against the signatures of its `_target_`s, before anything is built."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.errors import UserError

SPECIAL = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    list: "a list",
}


def check(where: str, config: Any, find: Callable[[str], Any]) -> None:
    """Check every mapping with a `_target_` in `config`.

    Its options must be parameters of the target, its values of their types.

    Parameters
    ----------
    where
        The dotted name of `config`, for messages.
    find
        Turns a `_target_` into the class or function.

    Raises
    ------
    UserError
        Naming the option and what there is.
    """
    if isinstance(config, list):
        for i, value in enumerate(config):
            check(f"{where}[{i}]", value, find)
    if not isinstance(config, Mapping):
        return
    if "_target_" in config:
        _arguments(where, config, find(config["_target_"]))
    for key, value in config.items():
        check(f"{where}.{key}", value, find)


def _arguments(where: str, config: Mapping[str, Any], target: Callable[..., Any]) -> None:
    taken = parameters(target)
    given = [key for key in config if key not in SPECIAL]
    if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        for key in given:
            if key not in taken:
                raise unknown(f"{where}.{key}", f"{target.__name__} takes", key, taken)
    hints = _hints(target)
    for key in given:
        if key in hints and not fits(config[key], hints[key]):
            is_number = fits(config[key], float) and fits("", hints[key])
            fix = f"; quote a name of digits: \"{where}.{key}='...'\"" if is_number else ""
            needed = words(hints[key])
            raise UserError(f"{where}.{key}: {needed} is needed, got {config[key]!r}{fix}")
    for name, p in taken.items():
        optional = (
            p.default is not p.empty
            or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            or config.get("_partial_")
        )
        if name not in config and not optional:
            raise UserError(f"{where}.{name}: missing; {target.__name__} needs it")


def parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters that a class or function takes."""
    return inspect.signature(target).parameters


def unknown(where: str, holder: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist: close matches, then all there is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known)
    guess = f" Did you mean {' or '.join(close)}?" if close else ""
    return UserError(f"{where}: unknown.{guess} {holder} {', '.join(known)}")


def fits(value: Any, hint: Any) -> bool:
    """Return whether a plain value is of an annotated type; other types fit every value."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint in (int, str, bool):
        return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if hint is list:
        return isinstance(value, list)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and (
            origin is tuple or all(fits(one, inner[0]) for one in value)
        )
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(fits(one, inner[1]) for one in value.values())
    return True


def words(hint: Any) -> str:
    """Return a type in words."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(words(one) for one in typing.get_args(hint))
    if hint in (None, type(None)):
        return "null"
    return WORDS.get(hint, str(hint).replace("collections.abc.", "").replace("typing.", ""))


def _hints(target: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        if dataclasses.is_dataclass(target):
            # by class, so that an inherited annotation is resolved where it was written
            return typing.get_type_hints(target)
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except NameError:  # annotations that exist for type checkers only
        return {}
