"""The capabilities that a plug-in may declare (`bench.contracts.Plugin`): their names and types."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.setting import TRACKS


def _track_names(value: Any) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and all(track in TRACKS for track in value)


METHODS = (
    "warm_up",
    "hashed_settings",
    "reset",
    "facts",
    "distribution",
    "queue_order",
    "record_episodes",
)
CAPABILITIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "tracks": (f"a sequence of tracks, of {', '.join(TRACKS)}", _track_names),
    "observe": ("'all', 'arrived' or None", lambda value: value in ("all", "arrived", None)),
    "clairvoyant": ("True or False", lambda value: isinstance(value, bool)),
    "baseline": ("True or False", lambda value: isinstance(value, bool)),
    "logs": (
        "a LoggedDataset or None",
        lambda value: not isinstance(value, str | int | float),
    ),
    "uses_rules": ("True or False", lambda value: isinstance(value, bool)),
    "certifies": ("True or False", lambda value: isinstance(value, bool)),
    "window": (
        "a positive integer or None",
        lambda value: value is None or (type(value) is int and value > 0),
    ),
    "shaped": ("True or False", lambda value: isinstance(value, bool)),
    **dict.fromkeys(METHODS, ("a method", callable)),
    "draws_actions": ("a property", lambda value: isinstance(value, bool)),
}
DESCRIPTORS = (property, functools.cached_property, dataclasses.Field)
OTHER_WORDS = ("shape",)  # alike, and no misspelling
ALIKE = 0.86  # similarity from which a name counts as a misspelt capability (difflib's ratio)


def capability_problem(owner: str, attributes: Mapping[str, Any]) -> str | None:
    """Describe the first attribute that is misspelt or wrongly typed; None where all are right."""
    for key, value in attributes.items():
        if key in CAPABILITIES:
            form, fits = CAPABILITIES[key]
            if not isinstance(value, DESCRIPTORS) and not fits(value):
                return f"{owner}.{key}: value {value!r}: must be {form}"
        elif not key.startswith("_") and key not in OTHER_WORDS and (meant := _meant(key)):
            return f"{owner}.{key}: no capability has this name; did you mean `{meant}`?"
    return None


def _meant(name: str) -> str | None:
    """Return the capability that `name` misspells: alike, though no other word."""
    close = difflib.get_close_matches(name, CAPABILITIES, n=1, cutoff=ALIKE)
    return close[0] if close else None
