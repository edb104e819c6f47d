"""The one hash of settings: what makes two runs, logs or rows of a table the same configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bench.renamed import current_plugin


def settings_hash(settings: Any, length: int = 16) -> str:
    """Hash nested settings by their content.

    A class counts by its name alone (`_target_: solvers.ppo.PPO` as `PPO`), so that moving a module
    changes no hash, and renamed keys count under their new names (`bench.renamed`).

    Parameters
    ----------
    settings
        Nested mappings and lists of JSON values; anything else counts by its `str`.
    length
        Number of hexadecimal digits, at most 64.

    Returns
    -------
    str
        The first `length` digits of the SHA-256 of the canonical JSON.
    """
    text = json.dumps(_canonical(current_plugin(settings)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _canonical(settings: Any) -> Any:
    """Reduce every `_target_` to the name of its class; make tuples lists."""
    if isinstance(settings, Mapping):
        return {
            str(key): value.rpartition(".")[2]
            if key == "_target_" and isinstance(value, str)
            else _canonical(value)
            for key, value in settings.items()
        }
    if isinstance(settings, list | tuple):
        return [_canonical(value) for value in settings]
    return settings
