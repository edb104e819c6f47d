"""Quality of a solver over time: gaps integrated over its time limit, and times to milestones.

Berthold, "Measuring the impact of primal heuristics", Operations Research Letters 41(6), 2013,
doi:10.1016/j.orl.2013.08.007.

A trajectory has the shape (P, 3): seconds (not decreasing), best objective and best bound so far,
infinite while there is none, in the sense and scale of the instance. It is a step function of time:
each point is valid until the next one, and the last one from then on.
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
    """Return Berthold's gap |value - other| / max(|value|, |other|), in [0, 1], of any shape.

    It is 0 where both are 0, and 1 where either is missing (not finite) or their signs differ.
    `stats.gap` divides by the objective instead.
    """
    a, b = np.broadcast_arrays(np.asarray(value, dtype=float), np.asarray(other, dtype=float))
    with np.errstate(invalid="ignore"):
        known = np.isfinite(a) & np.isfinite(b) & (np.sign(a) * np.sign(b) >= 0)
        largest = np.maximum(np.abs(a), np.abs(b))
        out = np.where(known & (largest == 0), 0.0, 1.0)
        np.divide(np.abs(a - b), largest, out=out, where=known & (largest > 0))
    return out


def integral(seconds: ArrayLike, gaps: ArrayLike, limit: float) -> float:
    """Return the integral over [0, limit] of the gap, in seconds.

    Parameters
    ----------
    seconds
        Times at which the gap changes, shape (P,); before the first of them the gap is 1.
    gaps
        The gap from each of these times on, shape (P,).
    limit
        The time limit in seconds.
    """
    edges = np.clip(np.concatenate([[0.0], np.asarray(seconds, dtype=float), [limit]]), 0.0, limit)
    return float(np.diff(edges) @ np.concatenate([[1.0], np.asarray(gaps, dtype=float)]))


def measures(trajectory: ArrayLike, reference: float, limit: float) -> dict[str, float]:
    """Return the MEASURES of a trajectory.

    An integral of x seconds equals that of a solver that has no schedule for x seconds and a
    perfect one from then on. Divided by `limit` it is a fraction of the time limit.

    Parameters
    ----------
    trajectory
        Shape (P, 3).
    reference
        The reference objective.
    limit
        The time limit in seconds.

    Returns
    -------
    dict
        All in seconds, and all NaN if the trajectory has no point.

        * `primal_integral`: integral over [0, limit] of the gap between objective and reference;
          NaN without a reference.
        * `primal_dual_integral`: integral of the gap between objective and bound; `limit` if no
          bound was ever proved.
        * `time_to_first`, `time_to_best`: until the first and the best schedule; NaN without one.
        * `time_to_proof`: until objective and bound agree (`stats.EQUAL`); NaN if they never do.
    """
    table = np.asarray(trajectory, dtype=float).reshape(-1, 3)
    if not len(table):
        return dict.fromkeys(MEASURES, math.nan)
    seconds, value, bound = table.T
    found = np.isfinite(value)
    proved = found & np.isfinite(bound)
    proved[proved] = np.abs(value[proved] - bound[proved]) <= stats.EQUAL * np.abs(value[proved])
    primal = math.nan
    if math.isfinite(reference):
        primal = integral(seconds, gap(value, reference), limit)
    return {
        "primal_integral": primal,
        "primal_dual_integral": integral(seconds, gap(value, bound), limit),
        "time_to_first": _first_time(seconds, found),
        "time_to_best": _first_time(seconds, found & (value == value[-1])),
        "time_to_proof": _first_time(seconds, proved),
    }


def gap_at(trajectory: ArrayLike, seconds: ArrayLike) -> Floats:
    """Return (S,) the gap between objective and bound at times (S,); 1 before the first point."""
    table = np.asarray(trajectory, dtype=float).reshape(-1, 3)
    gaps = np.concatenate([[1.0], gap(table[:, 1], table[:, 2])])
    return gaps[np.searchsorted(table[:, 0], np.asarray(seconds, dtype=float), side="right")]


def _first_time(seconds: Floats, condition: NDArray[np.bool_]) -> float:
    """Return the first of `seconds` (P,) at which `condition` (P,) holds, or NaN."""
    return float(seconds[condition.argmax()]) if condition.any() else math.nan
