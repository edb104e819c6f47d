"""Reading the fields of a proof: integers, and nested lists of integers of one shape.

Every error is one line that names the field. Numbers are integers of any size, so that the checks
are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Proof = Mapping[str, Any]


class ProofError(ValueError):
    """A proof that proves nothing; the message names the field and the rule."""


class UncheckableError(ValueError):
    """A proof that cannot be checked here; the message says why."""


def read_scale(proof: Proof) -> int:
    """Return S, the positive integer by which all dual values are multiplied."""
    scale: int = check_table("proof.scale", read_field(proof, "scale"), (), 1)
    return scale


def read_table(proof: Proof, name: str, shape: tuple[int, ...], least: int | None = None) -> Any:
    """Return field `name`, a nested list of integers of this shape, none below `least`."""
    return check_table(f"proof.{name}", read_field(proof, name), shape, least)


def read_optional_table(proof: Proof, name: str, shape: tuple[int, ...]) -> Any:
    """Return field `name` like `read_table`, none of it negative; None where it is missing."""
    return None if proof.get(name) is None else read_table(proof, name, shape, 0)


def read_list(proof: Proof, name: str) -> list[Any]:
    """Return field `name`, a list of anything."""
    value = read_field(proof, name)
    if not isinstance(value, list):
        raise ProofError(f"proof.{name}: a list is needed")
    return value


def read_field(proof: Proof, name: str) -> Any:
    """Return field `name`, which must be there and not null."""
    if proof.get(name) is None:
        raise ProofError(f"proof.{name}: missing")
    return proof[name]


def check_table(field: str, value: Any, shape: tuple[int, ...], least: int | None = None) -> Any:
    """Return `value` if it is a nested list of integers of this shape, none below `least`.

    The shape () means a single integer.

    Raises
    ------
    ProofError
        Naming the first entry of `field` that breaks a rule.
    """
    if not shape:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ProofError(f"{field}: an integer is needed, got {str(value)[:40]}")
        if least is not None and value < least:
            raise ProofError(f"{field}: {value} must be at least {least}")
    elif not isinstance(value, list) or len(value) != shape[0]:
        raise ProofError(f"{field}: a list of {shape[0]} is needed")
    else:
        for i, entry in enumerate(value):
            check_table(f"{field}[{i}]", entry, shape[1:], least)
    return value
