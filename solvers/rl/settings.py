"""Ranges of settings, checked when a learner is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.errors import UserError

Range = tuple[str, Callable[[float], bool]]
ABOVE_0: Range = ("must be above 0", lambda x: x > 0)
AT_LEAST_0: Range = ("must not be negative", lambda x: x >= 0)
SHARE: Range = ("must lie between 0 and 1", lambda x: 0 <= x <= 1)


def check_settings(plugin: object, where: str, ranges: Mapping[str, Range]) -> None:
    """Raise UserError for an integer setting below 1 or a number outside its range; None passes."""
    for name, value in vars(plugin).items():
        if type(value) is int and name not in ranges and value < 1:
            raise UserError(f"{where}.{name}: at least 1 is needed, got {value}")
        if name in ranges and value is not None and not ranges[name][1](value):
            raise UserError(f"{where}.{name}: {ranges[name][0]}, got {value}")
