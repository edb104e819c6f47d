"""The limits on the numbers of an instance, so that every result of it is exact.

`MAX_INTEGER` limits every entry of every array and every tick of a schedule, `MAX_OBJECTIVE` every
objective: sums of weights times ticks below it are exact in float64 and far inside int64. Section 1
of `bench/docs/problem.md` states and derives the rules.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_INTEGER = 10**12  # the largest absolute value of an entry, and the last tick of a schedule
MAX_OBJECTIVE = 2**53  # float64 holds every integer up to here
MAX_TENANTS = 10**6
MIN_TICK_SECONDS = 1e-15  # then 10 seconds, the threshold of slowdowns, are ticks that fit int64

Ints = NDArray[np.int64]


class InstanceError(ValueError):
    """An instance that breaks a rule; the message names the field, the index and the rule."""


def integer_array(field: str, value: ArrayLike, ndim: int) -> Ints:
    """Return `value` as a new int64 array.

    Parameters
    ----------
    field
        Name for error messages.
    value
        Array or nested lists of integers, possibly given as floats.
    ndim
        Number of dimensions that it must have.

    Raises
    ------
    InstanceError
        If it is anything else; the message names the field and the index.
    """
    try:
        raw = np.array(value)
    except ValueError:
        raise InstanceError(f"{field}: rows of different length") from None
    if raw.size == 0:
        raw = raw.astype(np.int64)
    if raw.ndim != ndim:
        raise InstanceError(f"{field}: needs {ndim} dimensions, got {raw.ndim}")
    if raw.dtype.kind == "f":
        require(field, raw, np.isfinite(raw), "must be a number")
        require(field, raw, raw == np.floor(raw), "must be an integer")
    elif raw.dtype.kind not in "iu":
        raise InstanceError(f"{field}: integers are needed, got {raw.dtype}")
    within = (raw >= -MAX_INTEGER) & (raw <= MAX_INTEGER)
    require(field, raw, within, f"must not exceed {MAX_INTEGER} in size")
    return raw.astype(np.int64)


def require(field: str, value: NDArray[np.generic], holds: NDArray[np.bool_], rule: str) -> None:
    """Raise InstanceError for the first entry of `value` where `holds` is false."""
    if not holds.all():
        index = tuple(int(i) for i in np.argwhere(~holds)[0])
        where = ", ".join(map(str, index))
        raise InstanceError(f"{field}[{where}]: {value[index]} {rule}")


def last_tick(release: Ints, duration: Ints, estimate: Ints, last_outage: int) -> int:
    """Return the last tick at which a schedule without needless idling can end.

    After the last release and the last outage some task runs at every tick, so it is their maximum
    plus the sum of the longest durations.

    Parameters
    ----------
    release
        (N,) ticks.
    duration, estimate
        (N, T) ticks; planners count with the estimates.
    last_outage
        The end of the last outage, 0 without outages.

    Raises
    ------
    InstanceError
        If it exceeds MAX_INTEGER; the message names the largest of the fields that it depends on.
    """
    last_release = int(release.max())
    work = int(np.maximum(duration, estimate).max(axis=1).sum())
    last = max(last_release, last_outage) + work
    if last <= MAX_INTEGER:
        return last
    if 2 * work >= last:
        name, array = max(("duration", duration), ("estimate", estimate), key=lambda x: x[1].max())
        largest = _largest(name, array)
    elif last_outage > last_release:
        largest = f"outages: value {last_outage}"
    else:
        largest = _largest("release", release)
    raise InstanceError(
        f"{largest}: a schedule may end as late as {last} (last release or end of an outage + sum "
        f"of the longest durations), which must not exceed {MAX_INTEGER}; use longer ticks"
    )


def check_objective(weight: Ints, longest: Ints | int, offset: int) -> None:
    """Check that the objective of every schedule without needless idling is exact in float64.

    It is at most sum_j w_j * longest_j.

    Parameters
    ----------
    weight
        (N,).
    longest
        Ticks that each task can take at most, (N,) or the same for all.
    offset
        K of the cost mapping, by which the objective in the original sense differs per task.

    Raises
    ------
    InstanceError
        If it can reach MAX_OBJECTIVE.
    """
    total = int(weight.sum())
    largest = int((weight.astype(object) * longest).sum())
    if max(largest, total) + abs(offset) * total < MAX_OBJECTIVE:
        return
    field = (
        f"offset: value {offset}" if abs(offset) * total > largest else _largest("weight", weight)
    )
    raise InstanceError(
        f"{field}: an objective may be as large as {largest + abs(offset) * total} (sum of weights "
        f"times ticks), which must stay below 2**53 = {MAX_OBJECTIVE} to be exact; divide the "
        "weights by a common factor or use longer ticks"
    )


def _largest(field: str, array: Ints) -> str:
    """Return `field[index]: value VALUE` of the largest entry."""
    index = np.unravel_index(int(array.argmax()), array.shape)
    return f"{field}[{', '.join(map(str, index))}]: value {array[index]}"
