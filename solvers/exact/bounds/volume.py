"""The volume algorithm: ascent of a concave piecewise linear function along running averages of its subgradients."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SHARE = 0.1  # of the newest subgradient in the average
FIRST_FACTOR, LARGEST_FACTOR, LEAST_FACTOR = 0.1, 2.0, 1e-5  # of Polyak's step
GROWTH, DECAY, FAILURES = (
    1.1,
    0.7,
    10,
)  # the factor grows with a good step and falls after so many steps without a rise
PATIENCE, STALLED = (
    300,
    2e-5,
)  # the ascent ends where so many steps raise the value by less than this, relative

Floats = NDArray[np.float64]
Value = Callable[[Floats], tuple[float, Floats]]


def ascend(value: Value, start: Floats, target: float, deadline: float) -> Floats:
    """The best x >= 0 found by stepping from the best so far (Barahona & Anbil, Math. Programming 87, 2000).

    `value(x)` gives the function and a subgradient at x. `target`: a value that it cannot exceed, which scales the steps
    (Polyak 1969). `deadline`: of time.perf_counter.
    """
    x = start
    best, slope = value(x)
    average, factor, failures, steps, mark = slope, FIRST_FACTOR, 0, 0, best
    while time.perf_counter() < deadline:
        length = float(average @ average)
        gap = max(target - best, 1e-3 * abs(target))
        if length <= 1e-12 * gap:
            break
        tried = np.maximum(0.0, x + factor * gap / length * average)
        bound, slope = value(tried)
        if bound > best:
            if slope @ average > 0:
                factor = min(LARGEST_FACTOR, factor * GROWTH)
            best, x, failures = bound, tried, 0
        else:
            failures += 1
            if failures == FAILURES:
                factor, failures = max(factor * DECAY, LEAST_FACTOR), 0
        average = (1 - SHARE) * average + SHARE * slope
        steps += 1
        if steps % PATIENCE == 0:
            if best - mark <= STALLED * abs(best):
                break
            mark = best
    return x
