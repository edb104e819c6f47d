"""Names of solvers in tables and pictures that show several settings of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def label(solver: str, options: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]]) -> str:
    """Return the solver's name, with the options in which its settings differ.

    Parameters
    ----------
    solver
        Its name.
    options
        Its options, dotted name -> value. The last part of a name is shown.
    rivals
        The options of all its settings that are shown together.
    """
    differing = [
        f"{name.rpartition('.')[2]}={options.get(name)}"
        for name in sorted({name for one in rivals for name in one})
        if len({str(one.get(name)) for one in rivals}) > 1
    ]
    return " ".join([solver, *differing])
