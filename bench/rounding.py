"""Whole-number bounds from the floating-point bounds of solvers.

Every objective but the bounded slowdown is an integer for every schedule, so a lower bound on it
may be rounded up. A floating-point bound is first lowered by its error: 52.99999999999999 and
53.00000000000001 both stand for 53.
"""

from __future__ import annotations

import math
from fractions import Fraction

FRACTIONAL_OBJECTIVES = ("bounded_slowdown",)
# Assumed error of the bound that a solver returns, relative, and absolute below 1 and at most.
RELATIVE_ERROR = 1e-6
LARGEST_ERROR = 0.4  # so that a bound that is an integer stays as it is


def is_integral(objective: str) -> bool:
    """Return whether the objective of that name is an integer for every schedule."""
    return objective not in FRACTIONAL_OBJECTIVES


def least_integer(bound: float | Fraction, error: float | Fraction | None = None) -> int:
    """Return the least integer that a lower bound leaves possible.

    Parameters
    ----------
    bound
        A finite lower bound on an integer.
    error
        The largest rounding error of `bound`. Default: an assumption for the bounds of solvers that
        compute in floating point.
    """
    if error is None:
        error = min(LARGEST_ERROR, RELATIVE_ERROR * max(1.0, abs(float(bound))))
    return math.ceil(Fraction(bound) - Fraction(error))
