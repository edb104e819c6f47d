"""Reading the fields of a proof: whole numbers and nested lists of them, of one shape; every error is one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Proof = Mapping[str, Any]


class ProofError(ValueError):
    """A proof that proves nothing; the message names the field and the rule."""


class UncheckableError(ValueError):
    """A proof that cannot be checked here; the message says why."""


def scale_of(proof: Proof) -> int:
    """S, by which all dual values are multiplied."""
    return checked("proof.scale", field(proof, "scale"), (), 1)


def table(proof: Proof, name: str, shape: tuple[int, ...], least: int | None = None) -> Any:
    """A nested list of whole numbers of this shape, none below `least`."""
    return checked(f"proof.{name}", field(proof, name), shape, least)


def optional(proof: Proof, name: str, shape: tuple[int, ...]) -> Any:
    """Likewise, none of it negative; None where the proof has none."""
    return None if proof.get(name) is None else table(proof, name, shape, 0)


def listed(proof: Proof, name: str) -> list[Any]:
    """A list of anything."""
    value = field(proof, name)
    if not isinstance(value, list):
        raise ProofError(f"proof.{name}: a list is needed")
    return value


def field(proof: Proof, name: str) -> Any:
    """Anything but nothing."""
    if proof.get(name) is None:
        raise ProofError(f"proof.{name}: missing")
    return proof[name]


def checked(where: str, value: Any, shape: tuple[int, ...], least: int | None = None) -> Any:
    """`value` if it is a nested list of whole numbers of this shape, none below `least`."""
    if not shape:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ProofError(f"{where}: a whole number is needed, got {str(value)[:40]}")
        if least is not None and value < least:
            raise ProofError(f"{where}: {value} must be at least {least}")
    elif not isinstance(value, list) or len(value) != shape[0]:
        raise ProofError(f"{where}: a list of {shape[0]} is needed")
    else:
        for i, each in enumerate(value):
            checked(f"{where}[{i}]", each, shape[1:], least)
    return value
