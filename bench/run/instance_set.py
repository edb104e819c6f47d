"""The identity of a list of instances: one hash, which a configuration can pin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from bench.errors import UserError
from bench.instance import Instance


def set_hash(instances: Iterable[Instance]) -> str:
    """Return the SHA-256 over the instances' own hashes, in their order, in hexadecimal."""
    digest = hashlib.sha256()
    for instance in instances:
        digest.update(bytes.fromhex(instance.hash()))
    return digest.hexdigest()


def check(split: str, instances: Iterable[Instance], hashes: Mapping[str, str]) -> str:
    """Return the set's hash, which must be the one that `hashes` pins for `split`.

    A split that `hashes` does not name passes.

    Raises
    ------
    UserError
        Where the instances are not the pinned ones.
    """
    found = set_hash(instances)
    expected = hashes.get(split) or found
    if found != expected:
        raise UserError(
            f"dataset.hashes.{split}: pinned {expected}, but the instances hash to {found}; the "
            "data or its settings changed. Restore them, or, for a set of your own, drop the pins: "
            "~dataset.hashes"
        )
    return found
