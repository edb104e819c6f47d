"""JSON values of what plug-ins report: facts, claims and measured seconds of any type."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bench.contracts import Result
from bench.errors import printable


def json_value(value: Any) -> Any:
    """Return `value` as a JSON value.

    Numbers of numpy and torch become those of Python, arrays, tensors and sets lists, numbers that
    are not finite None, keys strings, and anything else its text.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {printable(str(key)): json_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(one) for one in value]
    plain = value.tolist() if hasattr(value, "tolist") else None  # of numpy and torch
    if isinstance(plain, bool | int | float | str | list):
        return json_value(plain)
    return printable(str(value))


def json_result(result: Result) -> Result:
    """Return a result of a plug-in with numbers of Python and with JSON values in `info`.

    Raises
    ------
    TypeError, ValueError
        Where something that must be a number is none.
    """
    return replace(
        result,
        lower_bound=_number(result.lower_bound),
        trajectory=tuple(
            (_number(seconds), _number(value), _number(bound))
            for seconds, value, bound in result.trajectory
        ),
        latency=tuple(_number(seconds) for seconds in result.latency),
        info=json_value(dict(result.info)),
    )


def _number(value: Any) -> float:
    number = value.item() if isinstance(value, np.generic) else value
    return number if isinstance(number, int) else float(number)
