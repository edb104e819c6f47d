"""The identity of a list of instances: one hash, which a configuration can pin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from bench.contracts import Dataset
from bench.errors import UserError, one_line
from bench.instance import Instance

_HASHES: dict[int, tuple[Dataset, dict[str, str]]] = {}  # by id; holding the dataset keeps the id


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
        Where the instances are not the pinned ones, or where their objectives have no common mean:
        where some are minimised and some maximised, or where their ticks differ in length.
    """
    instances = tuple(instances)
    for field in ("sense", "tick_seconds"):
        _check_equal(field, instances)
    return check_pin(split, instances, hashes)


def check_pin(split: str, instances: Iterable[Instance], hashes: Mapping[str, str]) -> str:
    """Return the set's hash, which must be the one that `hashes` pins for `split`, if any.

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


def _check_equal(field: str, instances: Sequence[Instance]) -> None:
    """Raise a UserError where a field is not equal in all instances."""
    first = getattr(instances[0], field) if instances else None
    for i, instance in enumerate(instances):
        value = getattr(instance, field)
        if value != first:
            raise UserError(
                f"dataset: {field}: instance {i} ({instance.name or 'no name'}) has {value}, "
                f"instance 0 ({instances[0].name or 'no name'}) has {first}; the mean over a set "
                "needs one value, put them into sets of their own"
            )


def split_hash(data: Dataset, split: str) -> str:
    """Return the identity of a split without reading it where its hash is pinned.

    Whoever reads a pinned split checks the pin (`bench.protection.TrainingData`). Without a pin the
    instances are read, once per process. A split that cannot be read is identified by the error.
    """
    if pinned := data.hashes.get(split):
        return pinned
    _, known = _HASHES.setdefault(id(data), (data, {}))
    if split not in known:
        try:
            known[split] = set_hash(data.instances(split))
        except Exception as error:  # the learner says more, if it needs the split
            known[split] = one_line(error)
    return known[split]
