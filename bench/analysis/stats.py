"""Statistics of runs as pure functions: gap, score, intervals (SPEC section 7).

Seeds are runs (S), instances are tasks (I); episodes of one (seed, instance) are averaged before anything here is called.
NaN means missing, and a missing input gives a missing output.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

EQUAL = 1e-9  # relative difference below which two objectives are the same


def gap(objective: ArrayLike, bound: ArrayLike, sense: str = "min") -> Floats:
    """Solver gap (objective - bound) / objective, any shape: 0 if equal, NaN without a bound or where only the objective is 0.

    Give both in the instance's own scale, with its `sense`; for "max" the bound lies above and the sign is turned. A negative
    gap means that the bound is wrong. Not to be confused with rliable's "optimality gap".
    """
    value, limit = np.broadcast_arrays(
        np.asarray(objective, dtype=float), np.asarray(bound, dtype=float)
    )
    out = np.full(value.shape, math.nan)
    known = np.isfinite(value) & np.isfinite(limit)
    distance = limit - value if sense == "max" else value - limit
    np.divide(distance, np.abs(value), out=out, where=known & (value != 0))
    out[known & _same(value, limit)] = 0.0
    return out[()]


def score(objective: ArrayLike, random: ArrayLike, reference: ArrayLike) -> Floats:
    """0 = the mean of random legal play, 100 = the reference, linear between and beyond, of any shape.

    All three are in one scale, internal or original (it only has to be the same). Where both references are equal: 100 if the
    objective equals them, else NaN.
    """
    value, low, high = np.broadcast_arrays(
        *(np.asarray(x, dtype=float) for x in (objective, random, reference))
    )
    flat, known = _same(low, high), np.isfinite(low) & np.isfinite(high)
    out = np.full(value.shape, math.nan)
    np.divide(100.0 * (low - value), low - high, out=out, where=known & ~flat)
    out[known & flat & _same(value, high)] = 100.0
    return out[()]


def bootstrap_interval(
    values: ArrayLike, rng: np.random.Generator, level: float = 0.95, draws: int = 2000
) -> tuple[float, float]:
    """(low, high) of the grand mean of values (S, I), by the stratified percentile bootstrap over seeds.

    Instances are the strata: within each, S seeds are drawn with replacement, independently of the other instances (Agarwal et
    al., NeurIPS 2021, section 4). (NaN, NaN) with a single seed, which says nothing about the spread. It takes what one seed
    does on two instances to be independent: where a seed is one trained policy it is too narrow, see `student_interval`.
    """
    table = _table("values", values)
    return (
        _percentiles(_resampled_means(table, rng, draws), level)
        if len(table) > 1
        else (math.nan, math.nan)
    )


def student_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of the grand mean of values (S, I), by Student's t over the seeds' means.

    A seed that is one trained policy does well or badly on all instances at once, so seeds are what there are S of, not S * I.
    (mean, NaN, NaN) with a single seed.
    """
    mean, variance, freedom = _of_means(_table("values", values))
    return mean, *_student(mean, variance, freedom, level)


def paired_difference(
    a: ArrayLike, b: ArrayLike, level: float = 0.95
) -> tuple[float, float, float]:
    """(mean of a - b, low, high) for two solvers on identical instances, in the same order: a (S_a, I) and b (S_b, I).

    By Welch's t over the seeds' means (Welch 1947, doi:10.1093/biomet/34.1-2.28); a side with one seed (a deterministic solver)
    is constant. (difference, NaN, NaN) where both have one seed.

    Raises:
        ValueError: where the two do not have the same number of instances.
    """
    first, second = _table("a", a), _table("b", b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"a, b: {first.shape[1]} and {second.shape[1]} instances; compare on identical instances only"
        )
    sides = [_of_means(first), _of_means(second)]
    difference, variance = sides[0][0] - sides[1][0], sum(side[1] for side in sides)
    parts = sum(side[1] ** 2 / side[2] for side in sides if side[2])
    freedom = variance**2 / parts if parts else float(max(side[2] for side in sides))
    return difference, *_student(difference, variance, freedom, level)


def _same(a: Floats, b: Floats) -> NDArray[np.bool_]:
    return np.isclose(a, b, rtol=EQUAL, atol=0.0)


def _table(name: str, values: ArrayLike) -> Floats:
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(
            f"{name}: needs shape (seeds, instances) with at least one of each, got {table.shape}"
        )
    return table


def _of_means(table: Floats) -> tuple[float, float, int]:
    """(grand mean, its variance over seeds, degrees of freedom) of `table` (S, I); 0 variance with one seed."""
    means, seeds = table.mean(axis=1), len(table)
    return float(means.mean()), float(means.var(ddof=1) / seeds) if seeds > 1 else 0.0, seeds - 1


def _student(mean: float, variance: float, freedom: float, level: float) -> tuple[float, float]:
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, freedom)) * math.sqrt(variance) if freedom else math.nan
    return mean - half, mean + half


def _resampled_means(table: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """(draws,) grand means of `table` (S, I) with every column's seeds drawn anew."""
    seeds = table.shape[0]
    picks = (rng.integers(seeds, size=table.shape) for _ in range(draws))
    return np.array([np.take_along_axis(table, pick, axis=0).mean() for pick in picks])


def _percentiles(means: Floats, level: float) -> tuple[float, float]:
    low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)
