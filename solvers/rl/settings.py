"""Ranges of settings, checked when a learner is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bench.errors import UserError

Range = tuple[str, Callable[[float], bool]]  # (the rule in words, whether a value satisfies it)
ABOVE_0: Range = ("must be above 0", lambda x: x > 0)
AT_LEAST_0: Range = ("must not be negative", lambda x: x >= 0)
SHARE: Range = ("must lie between 0 and 1", lambda x: 0 <= x <= 1)


def check_settings(plugin: object, where: str, ranges: Mapping[str, Range]) -> None:
    """Check the attributes of a plug-in. None passes, an integer without a range must be positive.

    Parameters
    ----------
    plugin
        The object whose attributes are checked.
    where
        The configuration key of the plug-in, such as `solver.imitation`, for error messages.
    ranges
        Attribute -> its range.

    Raises
    ------
    UserError
        For a value outside its range.
    """
    for name, value in vars(plugin).items():
        if type(value) is int and name not in ranges and value < 1:
            raise UserError(f"{where}.{name}: value {value}: must be at least 1")
        if name in ranges and value is not None and not ranges[name][1](value):
            raise UserError(f"{where}.{name}: value {value}: {ranges[name][0]}")


def check_choice(where: str, value: str, choices: Iterable[str]) -> None:
    """Raise UserError where the option `where` has a value that is none of the choices."""
    known = list(choices)
    if value not in known:
        raise UserError(f"{where}: value {value!r}: must be one of {', '.join(known)}")


def check_group(group: int, num_envs: int) -> None:
    """Check the number of episodes of one instance that are compared with one another.

    Raises
    ------
    UserError
        If it is below 2, or does not divide the number of environments.
    """
    if group < 2 or num_envs % group:
        raise UserError(
            f"solver.group: value {group}: must be at least 2 and divide solver.num_envs={num_envs}"
        )
