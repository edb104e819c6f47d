"""Statistics of runs as pure functions: gap, score, intervals (bench/docs/problem.md section 7).

Seeds are runs (S), instances are tasks (I). Episodes of one (seed, instance) are averaged before
these functions are called. NaN means missing; a missing input gives a missing output.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

EQUAL = 1e-9  # relative difference up to which two objectives count as equal


def gap(objective: ArrayLike, bound: ArrayLike, sense: str = "min") -> Floats:
    """Return the solver gap (objective - bound) / |objective|, of any shape.

    It is 0 where both are equal, and NaN where the bound is missing or only the objective is 0. A
    negative gap means that the bound is wrong. The "optimality gap" of rliable is another measure.

    Parameters
    ----------
    objective, bound
        In the scale of the instance.
    sense
        `min`, or `max` for a maximised objective, whose bound lies above it.
    """
    value, limit = np.broadcast_arrays(
        np.asarray(objective, dtype=float), np.asarray(bound, dtype=float)
    )
    out = np.full(value.shape, math.nan)
    known = np.isfinite(value) & np.isfinite(limit)
    distance = limit - value if sense == "max" else value - limit
    np.divide(distance, np.abs(value), out=out, where=known & (value != 0))
    out[known & _equal(value, limit)] = 0.0
    return out[()]


def score(objective: ArrayLike, random: ArrayLike, reference: ArrayLike) -> Floats:
    """Return the score: 0 is the mean of random legal play, 100 the reference; of any shape.

    It is linear between these two and beyond. Where both are equal it is 100 if the objective
    equals them, else NaN. All three must be in the same scale, internal or original.
    """
    value, low, high = np.broadcast_arrays(
        *(np.asarray(x, dtype=float) for x in (objective, random, reference))
    )
    known = np.isfinite(low) & np.isfinite(high)
    flat = _equal(low, high)
    out = np.full(value.shape, math.nan)
    np.divide(100.0 * (low - value), low - high, out=out, where=known & ~flat)
    out[known & flat & _equal(value, high)] = 100.0
    return out[()]


def bootstrap_interval(
    values: ArrayLike, rng: np.random.Generator, level: float = 0.95, draws: int = 2000
) -> tuple[float, float]:
    """Return a confidence interval of the grand mean by the stratified percentile bootstrap.

    Instances are the strata: within each of them S seeds are drawn with replacement, independently
    of the other instances (Agarwal et al., NeurIPS 2021, section 4). The results of one seed on two
    instances are taken to be independent. If a seed is one trained policy they are not, and the
    interval is too narrow: use `student_interval`.

    Parameters
    ----------
    values
        Shape (S, I).
    level
        Confidence level.
    draws
        Number of bootstrap samples.

    Returns
    -------
    tuple of float
        (low, high); (NaN, NaN) with one seed.

    Raises
    ------
    ValueError
        When `values` is not a non-empty table.
    """
    table = _table("values", values)
    if len(table) == 1:
        return math.nan, math.nan
    return _percentiles(_resampled_means(table, rng, draws), level)


def student_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Return the grand mean and its confidence interval, by Student's t over the means of seeds.

    A seed that is one trained policy is good or bad on all instances at the same time, so the
    sample size is S, not S * I.

    Parameters
    ----------
    values
        Shape (S, I).
    level
        Confidence level.

    Returns
    -------
    tuple of float
        (mean, low, high); (mean, NaN, NaN) with one seed.

    Raises
    ------
    ValueError
        When `values` is not a non-empty table.
    """
    mean, variance, freedom = _of_means(_table("values", values))
    return mean, *_student(mean, variance, freedom, level)


def paired_difference(
    a: ArrayLike, b: ArrayLike, level: float = 0.95
) -> tuple[float, float, float]:
    """Return the mean difference of two solvers on identical instances, with its interval.

    By Welch's t over the means of seeds (Welch 1947, doi:10.1093/biomet/34.1-2.28). A solver with
    one seed (a deterministic one) is a constant.

    Parameters
    ----------
    a, b
        Values on the same instances in the same order, shapes (S_a, I) and (S_b, I).
    level
        Confidence level.

    Returns
    -------
    tuple of float
        (mean of a - b, low, high); low and high are NaN if both have one seed.

    Raises
    ------
    ValueError
        When the numbers of instances differ or a table is empty.
    """
    first = _table("a", a)
    second = _table("b", b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"a, b: value {first.shape[1]} and {second.shape[1]} instances: "
            "compare on identical instances only"
        )
    sides = [_of_means(first), _of_means(second)]
    difference = sides[0][0] - sides[1][0]
    variance = sum(side[1] for side in sides)
    parts = sum(side[1] ** 2 / side[2] for side in sides if side[2])
    freedom = variance**2 / parts if parts else float(max(side[2] for side in sides))
    return difference, *_student(difference, variance, freedom, level)


def _equal(a: Floats, b: Floats) -> NDArray[np.bool_]:
    return np.isclose(a, b, rtol=EQUAL, atol=0.0)


def _table(name: str, values: ArrayLike) -> Floats:
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(
            f"{name}: value of shape {table.shape}: needs shape (seeds, instances) with at least "
            "one of each"
        )
    return table


def _of_means(table: Floats) -> tuple[float, float, int]:
    """Return (grand mean, its variance over seeds, degrees of freedom) of `table` (S, I).

    With one seed the variance is 0.
    """
    means = table.mean(axis=1)
    seeds = len(table)
    variance = float(means.var(ddof=1) / seeds) if seeds > 1 else 0.0
    return float(means.mean()), variance, seeds - 1


def _student(mean: float, variance: float, freedom: float, level: float) -> tuple[float, float]:
    """Return the (low, high) of Student's t; NaN without degrees of freedom."""
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, freedom)) * math.sqrt(variance) if freedom else math.nan
    return mean - half, mean + half


def _resampled_means(table: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """Return (draws,) grand means of `table` (S, I), each with new seeds in every column."""
    seeds = table.shape[0]
    picks = (rng.integers(seeds, size=table.shape) for _ in range(draws))
    return np.array([np.take_along_axis(table, pick, axis=0).mean() for pick in picks])


def _percentiles(means: Floats, level: float) -> tuple[float, float]:
    low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)
