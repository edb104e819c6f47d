"""Checks plain configuration values against Python annotations, down to the list item at fault."""

from __future__ import annotations

import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Required

from bench.errors import UserError, shortened
from bench.settings_hash import OWN

WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "a mapping",
    None: "null",
}
MAX_INTEGER = 2**63 - 1  # what arrays and generators of random numbers hold


@dataclass(frozen=True)
class Rule:
    """What a value must satisfy beside its type, as metadata of `typing.Annotated`."""

    words: str  # such as "must not be negative"
    holds: Callable[[Any], bool]


NOT_NEGATIVE = Rule("must not be negative", lambda value: value >= 0)


def one_of(*values: str) -> Any:
    """Return the annotation of a value that must be one of `values`."""
    return Literal.__getitem__(values)


def check_value(where: str, value: Any, hint: Any) -> None:
    """Check a plain value (of YAML) against an annotation; annotations of other kinds fit all.

    Numbers must be finite, integers fit 64 bits, strings not be empty; true and false are no
    numbers. A mapping with a `_target_` fits wherever an object is wanted.

    Parameters
    ----------
    where
        The dotted name of the value, for messages.

    Raises
    ------
    UserError
        Naming the place, what is needed, and what was given.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        check_value(where, value, inner[0])
        for rule in inner[1:]:
            if not rule.holds(value):
                raise UserError(f"{where}: {rule.words}, got {shown(value)}")
    elif origin in (Required, NotRequired):
        check_value(where, value, inner[0])
    elif origin in (typing.Union, types.UnionType):
        _check_union(where, value, hint)
    elif origin is Literal:
        if not any(value == one and type(value) is type(one) for one in inner):
            close = did_you_mean(value, map(str, inner))
            there = ", ".join(map(str, inner))
            raise UserError(f"{where}: {shown(value)} must be one of {there}.{close}")
    elif not _has_target(value):
        _check_plain(where, value, hint, origin, inner)


def _check_plain(where: str, value: Any, hint: Any, origin: Any, inner: Sequence[Any]) -> None:
    """Check a value that is no object against an annotation that is no union or literal."""
    kind = origin or hint
    if typing.is_typeddict(hint):
        _check_fields(where, value, hint)
    elif hint in (int, float, str, bool, list, None, type(None), Path):
        _check_basic(where, value, str if hint is Path else hint)
    elif kind in (list, tuple, Sequence, Iterable):
        if not isinstance(value, list | tuple):
            raise needed(where, hint, value)
        for i, item in enumerate(value if inner else ()):
            fixed = kind is tuple and ... not in inner
            check_value(f"{where}[{i}]", item, inner[i % len(inner)] if fixed else inner[0])
    elif kind in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise needed(where, hint, value)
        for key, item in value.items() if inner else ():
            check_value(f"{where}: the key {key!r}", key, inner[0])
            check_value(f"{where}.{key}", item, inner[1])
    elif _is_object(kind) and isinstance(value, str | int | float | list):
        raise needed(where, hint, value)


def _check_union(where: str, value: Any, hint: Any) -> None:
    """Check against each alternative; where only one can be meant, name its error."""
    errors = []
    for one in typing.get_args(hint):
        try:
            return check_value(where, value, one)
        except UserError as error:
            errors.append((one, error))
    if isinstance(value, list | Mapping):
        for one, found in errors:
            if (typing.get_origin(one) or one) not in (int, float, str, bool, type(None)):
                raise found
    if isinstance(value, float) and not math.isfinite(value) and float in typing.get_args(hint):
        raise next(found for one, found in errors if one is float)
    raise needed(where, hint, value)


def _check_basic(where: str, value: Any, hint: Any) -> None:
    kinds = {float: (int, float), type(None): (type(None),)}.get(hint, (hint,))
    if hint is None:
        kinds = (type(None),)
    if not isinstance(value, kinds) or (isinstance(value, bool) and hint is not bool):
        raise needed(where, hint, value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: a finite number is needed, got {value}")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise UserError(f"{where}: must be at most {MAX_INTEGER}, got {shown(value)}")
    if value == "":
        raise UserError(f"{where}: must not be empty; give a value or leave the option out")


def _check_fields(where: str, value: Any, hint: Any) -> None:
    """Check a mapping against a TypedDict."""
    if not isinstance(value, Mapping):
        raise needed(where, dict, value)
    fields = typing.get_type_hints(hint, include_extras=True)
    for key in value:
        if key not in fields:
            raise unknown(f"{where}.{key}", "Options:", str(key), fields)
    for key, one in fields.items():
        if key in value:
            check_value(f"{where}.{key}", value[key], one)
        elif typing.get_origin(one) is not NotRequired and key in hint.__required_keys__:
            raise UserError(f"{where}.{key}: missing; options are {', '.join(fields)}")


def _has_target(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _is_object(kind: Any) -> bool:
    """Return whether an annotation names a class or a function, which YAML writes as a mapping."""
    return kind is Callable or (
        inspect.isclass(kind) and kind is not object and kind.__module__.split(".")[0] in OWN
    )


# -- messages ------------------------------------------------------------------------------------


def needed(where: str, hint: Any, value: Any) -> UserError:
    """Return the error for a value of the wrong type."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fix = f"; quote a name of digits: \"{where}='...'\"" if is_number and _takes_text(hint) else ""
    return UserError(f"{where}: {words(hint)} is needed, got {shown(value)}{fix}")


def _takes_text(hint: Any) -> bool:
    return hint is str or str in typing.get_args(hint)


def words(hint: Any) -> str:
    """Return a type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Annotated, Required, NotRequired):
        return words(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(words(one) for one in inner))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if hint is type(None):
        return "null"
    if hint is Path:
        return "a string"
    if origin in (list, tuple, Sequence, Iterable):
        return "a list"
    if origin in (dict, Mapping):
        return "a mapping"
    if _is_object(origin or hint):
        return "a mapping with the _target_ of a class or function"
    return WORDS.get(hint, str(hint))


def shown(value: Any) -> str:
    """Return a value as a message shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else shortened(text, quoted=False)


def unknown(where: str, holder: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist: close matches, then all there is."""
    known = sorted(known)
    return UserError(f"{where}: unknown.{did_you_mean(name, known)} {holder} {', '.join(known)}")


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """Return a sentence with the close matches of a name, empty without any."""
    if not isinstance(name, str):
        return ""
    close = [one for one in difflib.get_close_matches(name, list(known)) if one != name]
    return f" Did you mean {' or '.join(close)}?" if close else ""
