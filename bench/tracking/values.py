"""Values in the form that MLflow takes."""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import re
import time
from collections.abc import Mapping
from typing import Any

MAX_PARAM_LENGTH = 6000  # characters of a parameter


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"a": {"b": 1}} as {"a.b": 1}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers among `values`."""
    real = {key: float(value) for key, value in values.items() if isinstance(value, numbers.Real)}
    return {key: value for key, value in real.items() if math.isfinite(value)}


def final_values(values: Mapping[str, Any]) -> dict[str, float | None]:
    """Return MLflow's name -> number; None for one that is missing or not finite."""
    known = finite(values)
    return {
        allowed_name(key): known.get(key)
        for key, value in values.items()
        if value is None or isinstance(value, numbers.Real)
    }


def is_stored(stored: float | None, value: float | None) -> bool:
    """Return whether the last value in a store (None: none) is a final value (None: missing).

    A missing value is stored as NaN, and a number as exactly as the store's database keeps it.
    """
    if stored is None or math.isnan(stored):
        return value is None
    return value is not None and math.isclose(stored, value, rel_tol=1e-12)


def allowed_name(name: str) -> str:
    """Return `name` with each character that MLflow does not allow replaced by `_`."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def shorten_param(value: Any) -> str:
    """Return a parameter as a string that is short enough for MLflow.

    A longer one is cut, and ends with its length and hash, so that different values stay different.
    """
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) <= MAX_PARAM_LENGTH:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    end = f"... ({len(text)} characters, sha256 {digest})"
    return text[: MAX_PARAM_LENGTH - len(end)] + end


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
