"""Checks a configuration against the signatures of its `_target_`s, before anything is built."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from bench.cli.value_types import NOT_NEGATIVE, check_value, unknown
from bench.contracts import SPLITS
from bench.errors import UserError
from bench.paths import input_file
from bench.pretrained import checkpoint_file

# The directives of Hydra's `instantiate`. `_args_` is not among them: options have names.
SPECIAL: Mapping[str, Any] = {
    "_target_": str,
    "_partial_": bool,
    "_convert_": typing.Literal["none", "partial", "object", "all"],
    "_recursive_": bool,
}
FILES = ("checkpoint",)  # options that name a file to read
COUNTS = ("seed", *SPLITS)  # integer options that are nowhere negative: sizes are per split


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
        for key, kind in SPECIAL.items():
            if key in config:
                check_value(f"{where}.{key}", config[key], kind)
        _arguments(where, config, find(config["_target_"]))
    for key, value in config.items():
        check(f"{where}.{key}", value, find)


def _arguments(where: str, config: Mapping[str, Any], target: Callable[..., Any]) -> None:
    taken = parameters(target)
    given = [key for key in config if key not in SPECIAL]
    if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        for key in given:
            if key not in taken:
                raise unknown(f"{where}.{key}", f"{name_of(target)} takes", str(key), taken)
    hints = {
        key: Annotated[int, NOT_NEGATIVE] if key in COUNTS and hint is int else hint
        for key, hint in _hints(target).items()
    }
    for key in given:
        default = taken[key].default if key in taken else inspect.Parameter.empty
        same = type(config[key]) is type(default) and config[key] == default
        if key in hints and not same:
            check_value(f"{where}.{key}", config[key], hints[key])
        if key in FILES and isinstance(config[key], str):
            input_file(f"{where}.{key}", checkpoint_file(config[key]))
    for name, p in taken.items():
        optional = (
            p.default is not p.empty
            or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            or config.get("_partial_")
        )
        if name not in config and not optional:
            raise UserError(f"{where}.{name}: missing; {name_of(target)} needs it")


def parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters that a class or function takes; none where they cannot be found."""
    try:
        return inspect.signature(target).parameters
    except ValueError:
        return {}


def name_of(target: Callable[..., Any]) -> str:
    """Return the name of a class or function."""
    return str(getattr(target, "__name__", target))


def _hints(target: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        if dataclasses.is_dataclass(target):
            # by class, so that an inherited annotation is resolved where it was written
            return typing.get_type_hints(target, include_extras=True)
        function = target.__init__ if inspect.isclass(target) else target
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # annotations for type checkers only; no Python function
        return {}
