"""The volume algorithm: maximise a concave piecewise linear function by averaged subgradients."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

NEWEST_SHARE = 0.1  # of the newest subgradient in the average
# The factor of Polyak's step grows with a good step and falls after FAILURES steps without a rise.
FIRST_FACTOR = 0.1
LARGEST_FACTOR = 2.0
LEAST_FACTOR = 1e-5
GROWTH = 1.1
DECAY = 0.7
FAILURES = 10
# The ascent ends where PATIENCE steps raise the value by less than LEAST_RISE, relative.
PATIENCE = 300
LEAST_RISE = 2e-5

Floats = NDArray[np.float64]
Function = Callable[[Floats], tuple[float, Floats]]


def maximise_concave(
    function: Function, start: Floats, upper_bound: float, deadline: float
) -> Floats:
    """Return the best x >= 0 found by the volume algorithm.

    Every step starts from the best x so far (Barahona & Anbil, Mathematical Programming 87, 2000,
    doi:10.1007/s101070050002).

    Parameters
    ----------
    function
        Returns the value and a subgradient at x.
    start
        The first x.
    upper_bound
        A value that the function cannot exceed; it scales the steps (Polyak 1969).
    deadline
        On the clock `time.perf_counter`.
    """
    x = start
    best, slope = function(x)
    average = slope
    factor = FIRST_FACTOR
    failures = 0
    steps = 0
    last_best = best
    while time.perf_counter() < deadline:
        length = float(average @ average)
        gap = max(upper_bound - best, 1e-3 * abs(upper_bound))
        if length <= 1e-12 * gap:
            break
        candidate = np.maximum(0.0, x + factor * gap / length * average)
        value, slope = function(candidate)
        if value > best:
            if slope @ average > 0:
                factor = min(LARGEST_FACTOR, factor * GROWTH)
            best = value
            x = candidate
            failures = 0
        else:
            failures += 1
            if failures == FAILURES:
                factor = max(factor * DECAY, LEAST_FACTOR)
                failures = 0
        average = (1 - NEWEST_SHARE) * average + NEWEST_SHARE * slope
        steps += 1
        if steps % PATIENCE == 0:
            if best - last_best <= LEAST_RISE * abs(best):
                break
            last_best = best
    return x
