"""The dispatch rules of conf/solver, in an order that a solver's settings choose."""

from __future__ import annotations

from collections.abc import Sequence

from bench.contracts import Policy
from bench.errors import UserError


def configured_rules(first: Sequence[str], exclude: Sequence[str]) -> list[Policy]:
    """Return the rules named in `first` in that order, then the others by name.

    Parameters
    ----------
    first, exclude
        Names of files in conf/solver; the rules in `exclude` are left out.

    Raises
    ------
    UserError
        When a name is no dispatch rule, occurs twice, or no rule is left.
    """
    from bench import plugins

    found = plugins.rules()
    named = [*first, *exclude]
    for field, names in (("first", first), ("exclude", exclude)):
        for i, name in enumerate(names):
            if name not in found:
                raise UserError(
                    f"solver.{field}[{i}]: value {name!r}: is no dispatch rule of conf/solver; "
                    f"use {', '.join(found)}"
                )
            if named.count(name) > 1:
                raise UserError(
                    f"solver.{field}[{i}]: value {name!r}: first and exclude name it more than "
                    "once; name it once"
                )
    others = [name for name in sorted(found) if name not in named]
    if not first and not others:
        raise UserError(
            f"solver.exclude: value {list(exclude)}: excludes every rule; leave one out"
        )
    return [found[name] for name in [*first, *others]]
