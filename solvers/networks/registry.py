"""Find the networks of this package by the kind that each class declares."""

from __future__ import annotations

import importlib
import pkgutil

import solvers.networks
from solvers.networks.base import Network


def network_kinds() -> dict[str, type[Network]]:
    """Return kind -> class of every network in a module of `solvers.networks`, sorted by kind.

    Raises
    ------
    TypeError
        If two classes declare the same kind.
    """
    kinds: dict[str, type[Network]] = {}
    for found in pkgutil.iter_modules(solvers.networks.__path__, "solvers.networks."):
        module = importlib.import_module(found.name)
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, Network)):
                continue
            if value.__module__ != found.name or "kind" not in vars(value):
                continue
            if value.kind in kinds:
                raise TypeError(
                    f"{value.__name__}.kind: value {value.kind!r}: {kinds[value.kind].__name__} "
                    "has the same kind; choose another one"
                )
            kinds[value.kind] = value
    return dict(sorted(kinds.items()))


def trainable_kinds() -> list[str]:
    """Return the kinds that learners which collect rollouts can train, sorted."""
    return [kind for kind, network in network_kinds().items() if network.trainable_by_play]
