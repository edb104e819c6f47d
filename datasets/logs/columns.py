"""Columns of a table of jobs as times, numbers and names, of whatever types the file has them.

Values of CSV files are text here; nothing guesses whether a name is a number.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray
from pandas.api import types

NUMBERS = "numbers"
DATES = "dates without a time zone"
ZONED_DATES = "dates with a time zone"
DURATIONS = "durations"
ZONE = re.compile(r"(?:[zZ]|[+-]\d\d:?\d\d)$")  # at the end of an ISO date with a time
DURATION = re.compile(  # as pandas, Python and Slurm write them: 1 days 02:03:04, 1-02:03:04
    r"(?:(\d+)(?: days?,? ?|-|$))?(?:(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?))?"
)


def numbers(column: pandas.Series) -> NDArray[np.float64]:
    """Return a column as finite numbers; NaN for anything else, dates and durations included."""
    if types.is_bool_dtype(column.dtype) or not types.is_numeric_dtype(column.dtype):
        column = pandas.to_numeric(_text(column), errors="coerce")
    values = column.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def times(column: pandas.Series) -> tuple[dict[str, int], NDArray[np.float64]]:
    """Return a column of times in seconds: numbers, dates and times since 1970, or durations.

    Returns
    -------
    kinds
        Kind of times -> number of values of that kind, most frequent first. The values of all kinds
        but the first are NaN, except for dates, with and without a time zone (then UTC).
    seconds
        The times, NaN for what is no time.
    """
    if types.is_datetime64_any_dtype(column.dtype):
        kind = DATES if getattr(column.dtype, "tz", None) is None else ZONED_DATES
        return {kind: int(column.notna().sum())}, _since_1970(column)
    if types.is_timedelta64_dtype(column.dtype):
        seconds = column.dt.total_seconds().to_numpy(dtype=np.float64, na_value=np.nan)
        return {DURATIONS: int(column.notna().sum())}, seconds
    found = {NUMBERS: numbers(column)}
    zoned = np.zeros(len(column), dtype=bool)
    if np.isnan(found[NUMBERS]).any() and not types.is_numeric_dtype(column.dtype):
        text = _text(column)
        found[DATES] = _since_1970(text)
        found[DURATIONS] = np.array([_duration(one) for one in text], dtype=np.float64)
        zoned = text.map(lambda one: ZONE.search(one) is not None).to_numpy(dtype=bool)
    best = max(found, key=lambda kind: int(np.isfinite(found[kind]).sum()))  # the first of equals
    valid = np.isfinite(found[best])
    counts = {best: int(valid.sum())}
    if best == DATES:
        counts = {DATES: int((valid & ~zoned).sum()), ZONED_DATES: int((valid & zoned).sum())}
    return {kind: count for kind, count in counts.items() if count}, found[best]


def names(column: pandas.Series) -> list[str | None]:
    """Return a column of names as text; None where a name is missing."""
    return [_name(value) for value in column.astype(object)]


def _name(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str):
        return value or None
    if pandas.api.types.is_scalar(value) and pandas.isna(value):
        return None
    # a column of integers, some of which are missing, can be stored as floats
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _text(column: pandas.Series) -> pandas.Series:
    """Return the values as text, empty where they are missing."""
    values = [name or "" for name in names(column)]
    return pandas.Series(values, index=column.index, dtype=object)


def _since_1970(column: pandas.Series) -> NDArray[np.float64]:
    """Return dates and times in seconds since 1970, those without a time zone taken as UTC."""
    moments = pandas.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
    seconds = (moments - pandas.Timestamp(0, tz="utc")).dt.total_seconds()
    return np.asarray(seconds.to_numpy(dtype=np.float64, na_value=np.nan))


def _duration(text: str) -> float:
    """Return the seconds of a duration; NaN for anything else."""
    found = DURATION.fullmatch(text.strip())
    if not found or not text.strip() or text.strip().isdecimal():
        return float("nan")
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 86_400 * days + 3_600 * hours + 60 * minutes + seconds
