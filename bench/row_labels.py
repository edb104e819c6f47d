"""Names of solvers in tables and pictures that show several settings of one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

UNSET = "unset"  # the value of an option that a setting does not have


def label(solver: str, options: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]]) -> str:
    """Return the solver's name, with the options in which its settings differ.

    Parameters
    ----------
    solver
        Its name.
    options
        Its options, dotted name -> value. The last part of a name is shown, where it tells the
        options apart.
    rivals
        The options of all its settings that are shown together.
    """
    differing = [
        name
        for name in sorted({name for one in rivals for name in one})
        if len({str(one.get(name, UNSET)) for one in rivals}) > 1
    ]
    short = [name.rpartition(".")[2] for name in differing]
    shown = [
        f"{last if short.count(last) == 1 else name}={options.get(name, UNSET)}"
        for name, last in zip(differing, short, strict=True)
    ]
    return " ".join([solver, *shown])


def natural_order(name: str) -> list[tuple[str, float]]:
    """Return a key that sorts names by their texts and by the values of their numbers."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [
        (text, float(number)) for text, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)
    ]
