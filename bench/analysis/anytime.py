"""How good a solver is at any time: gaps integrated over its time budget, and the seconds until it got somewhere.

Berthold, "Measuring the impact of primal heuristics", Operations Research Letters 41(6), 2013, doi:10.1016/j.orl.2013.08.007.
A trajectory is (P, 3): seconds (not decreasing), best objective and best bound so far, infinite where there is none yet, in
the instance's own sense and scale. It is a step function of time: each point holds until the next, the last one for good.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.analysis import stats

MEASURES = (
    "primal_integral",
    "primal_dual_integral",
    "time_to_first",
    "time_to_best",
    "time_to_proof",
)

Floats = NDArray[np.float64]


def gap(value: ArrayLike, other: ArrayLike) -> Floats:
    """Berthold's gap |value - other| / max(|value|, |other|), in [0, 1], of any shape.

    0 where both are 0; 1 where either is missing (not finite) or their signs differ. `stats.gap` divides by the objective.
    """
    a, b = np.broadcast_arrays(np.asarray(value, dtype=float), np.asarray(other, dtype=float))
    with np.errstate(invalid="ignore"):
        known = np.isfinite(a) & np.isfinite(b) & (np.sign(a) * np.sign(b) >= 0)
        largest = np.maximum(np.abs(a), np.abs(b))
        out = np.where(known & (largest == 0), 0.0, 1.0)
        np.divide(np.abs(a - b), largest, out=out, where=known & (largest > 0))
    return out


def integral(seconds: ArrayLike, gaps: ArrayLike, limit: float) -> float:
    """Seconds: integral over [0, limit] of the step function that is 1 before the first of `seconds` (P,), then `gaps` (P,)."""
    edges = np.clip(np.concatenate([[0.0], np.asarray(seconds, dtype=float), [limit]]), 0.0, limit)
    return float(np.diff(edges) @ np.concatenate([[1.0], np.asarray(gaps, dtype=float)]))


def measures(trajectory: ArrayLike, reference: float, limit: float) -> dict[str, float]:
    """The MEASURES of a trajectory (P, 3), all in seconds; all NaN without any point.

    | measure | meaning |
    |---|---|
    | primal_integral | of the gap between objective and `reference` over [0, limit]; NaN without a reference |
    | primal_dual_integral | of the gap between objective and bound; `limit` where no bound was ever proved |
    | time_to_first, time_to_best | until the first schedule, until the best one; NaN without one |
    | time_to_proof | until objective and bound agree (`stats.EQUAL`); NaN where they never do |

    An integral of x seconds is that of x seconds without a schedule and a perfect one after; divide by `limit` for a share.
    """
    table = np.asarray(trajectory, dtype=float).reshape(-1, 3)
    if not len(table):
        return dict.fromkeys(MEASURES, math.nan)
    seconds, value, bound = table.T
    found = np.isfinite(value)
    proved = found & np.isfinite(bound)
    proved[proved] = np.abs(value[proved] - bound[proved]) <= stats.EQUAL * np.abs(value[proved])
    return {
        "primal_integral": integral(seconds, gap(value, reference), limit)
        if math.isfinite(reference)
        else math.nan,
        "primal_dual_integral": integral(seconds, gap(value, bound), limit),
        "time_to_first": _first(seconds, found),
        "time_to_best": _first(seconds, found & (value == value[-1])),
        "time_to_proof": _first(seconds, proved),
    }


def at(trajectory: ArrayLike, seconds: ArrayLike) -> Floats:
    """(S,) the gap between objective and bound at the `seconds` (S,), 1 before the first point."""
    table = np.asarray(trajectory, dtype=float).reshape(-1, 3)
    gaps = np.concatenate([[1.0], gap(table[:, 1], table[:, 2])])
    return gaps[np.searchsorted(table[:, 0], np.asarray(seconds, dtype=float), side="right")]


def _first(seconds: Floats, where: NDArray[np.bool_]) -> float:
    return float(seconds[where.argmax()]) if where.any() else math.nan
