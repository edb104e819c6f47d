"""The conversion of times in seconds to ticks: the one place where times are rounded.

A time is rounded up: a task is not released before it arrives, and a duration covers all of its
seconds. Floating-point error is no time: 0.3 / 0.1 is three ticks, not four.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.instance import NOT_ELIGIBLE, InstanceError, Ints
from bench.limits import MAX_INTEGER

TOLERANCE = 5e-10  # ticks that a time may exceed a whole number of ticks by and not be rounded up
RELATIVE_TOLERANCE = 2.0**-50  # the same for large numbers of ticks: some units in the last place
TIME_DIGITS = 6  # times of outside data are taken to the microsecond


def time_to_ticks(seconds: ArrayLike, tick_seconds: float, name: str = "time") -> Ints:
    """Return points in time (arrivals, due dates, outages) in ticks, rounded up.

    Parameters
    ----------
    seconds
        Times of any shape.
    tick_seconds
        Length of a tick.
    name
        What the times are, for the error message.

    Raises
    ------
    InstanceError
        When a time is not finite or more ticks than an instance can hold.
    """
    values = np.asarray(seconds, dtype=np.float64)
    with np.errstate(all="ignore"):  # what overflows is refused below
        ticks = values / tick_seconds
    holds = np.abs(ticks) <= MAX_INTEGER  # false for NaN
    if not holds.all():
        index = tuple(int(i) for i in np.argwhere(~holds)[0])
        place = f"[{', '.join(map(str, index))}]" if index else ""
        raise InstanceError(
            f"{name}{place}: value {values[index]:g} s: must be a number of at most {MAX_INTEGER} "
            f"ticks of {tick_seconds:g} s; correct it or raise tick_seconds"
        )
    slack = np.maximum(TOLERANCE, RELATIVE_TOLERANCE * np.abs(ticks))
    rounded: Ints = np.ceil(ticks - slack).astype(np.int64)
    return rounded


def duration_to_ticks(seconds: ArrayLike, tick_seconds: float, name: str = "duration") -> Ints:
    """Return durations in ticks, rounded up and at least 1; -1 (not eligible) for NaN or None.

    The parameters and errors are those of `time_to_ticks`.
    """
    values = np.asarray(seconds, dtype=np.float64)
    eligible = ~np.isnan(values)
    ticks = time_to_ticks(np.where(eligible, values, 0.0), tick_seconds, name)
    return np.where(eligible, np.maximum(ticks, 1), NOT_ELIGIBLE)


def seconds_between(earlier: ArrayLike, later: ArrayLike) -> NDArray[np.float64]:
    """Return `later` - `earlier` in seconds, to the microsecond.

    Numbers of seconds since 1970 are exact to some tenths of a microsecond only, so that their
    plain difference can exceed 1.1 s by more than `time_to_ticks` tolerates.
    """
    difference = np.asarray(later, dtype=np.float64) - np.asarray(earlier, dtype=np.float64)
    return np.round(difference, TIME_DIGITS)
