"""The end of the time in which a CP-SAT model may be built."""

from __future__ import annotations

import time


class OutOfTime(Exception):
    """The clock has passed the deadline before the model was complete."""


def check(deadline: float) -> None:
    """Check the clock.

    Parameters
    ----------
    deadline
        In seconds of `time.perf_counter()`.

    Raises
    ------
    OutOfTime
        If the clock has passed the deadline.
    """
    if time.perf_counter() > deadline:
        raise OutOfTime
