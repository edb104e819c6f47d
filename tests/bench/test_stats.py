"""Gap, score and intervals against hand calculations."""

import math

import numpy as np
import pytest

from bench.stats import bootstrap_interval, gap, paired_difference, score


@pytest.mark.parametrize(
    ("value", "bound", "expected"),
    [(110, 100, 10 / 110), (100, 100, 0), (0, 0, 0), (0, -5, math.nan), (100, -math.inf, math.nan), (90, 100, -10 / 90)],
)
def test_gap(value, bound, expected):
    assert gap(value, bound) == pytest.approx(expected, nan_ok=True)


def test_gap_of_a_maximised_objective():
    assert gap(80, 100, sense="max") == pytest.approx(0.25)
    assert gap(100, 100, sense="max") == 0


def test_gap_works_on_tables():
    np.testing.assert_allclose(gap([[110, 100], [0, 4]], [[100, 100], [0, np.nan]]), [[10 / 110, 0], [0, np.nan]])


@pytest.mark.parametrize(
    ("value", "random", "reference", "expected"),
    [
        (100, 200, 100, 100),
        (200, 200, 100, 0),
        (150, 200, 100, 50),
        (300, 200, 100, -100),
        (80, 200, 100, 120),  # better than the best known
        (100, 100, 100, 100),
        (0, 0, 0, 100),
        (101, 100, 100, math.nan),
        (100, 200, math.nan, math.nan),
    ],
)
def test_score(value, random, reference, expected):
    assert score(value, random, reference) == pytest.approx(expected, nan_ok=True)


def test_score_works_on_tables():
    np.testing.assert_allclose(score([150, 7], [200, 7], [100, 7]), [50, 100])


def test_interval_resamples_seeds_within_instances():
    """Large differences between instances are no spread; differences between seeds are."""
    rng = np.random.default_rng(0)
    apart = np.tile([0.0, 1000.0], (5, 1))
    assert bootstrap_interval(apart, rng) == (500, 500)
    low, high = bootstrap_interval(apart + np.arange(5)[:, None], rng)
    assert 500 < low < 502 < high < 504


def test_interval_is_that_of_the_exact_bootstrap_distribution():
    """Two seeds 0 and 1, one instance: the mean is 0, 1/2, 1 with probability 1/4, 1/2, 1/4."""
    two = np.array([[0.0], [1.0]])
    assert bootstrap_interval(two, np.random.default_rng(1), level=0.4) == (0.5, 0.5)
    assert bootstrap_interval(two, np.random.default_rng(1), level=0.6) == (0.0, 1.0)


def test_interval_narrows_with_instances_drawn_independently():
    """Var of the grand mean = p (1 - p) / (S I) for 0/1 values with half ones per instance."""
    table = np.tile([[0.0], [1.0]], (2, 100))  # S = 4, I = 100
    low, high = bootstrap_interval(table, np.random.default_rng(2), draws=4000)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(400), rel=0.1)


def test_interval_is_reproducible_and_covers():
    rng = np.random.default_rng(3)
    table = rng.normal(size=(10, 4))
    one, two = (bootstrap_interval(table, np.random.default_rng(9)) for _ in range(2))
    assert one == two
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(size=(10, 4)), rng, draws=200)
        covered += low <= 0 <= high
    assert 170 <= covered <= 200


def test_one_seed_has_no_interval_and_missing_stays_missing():
    rng = np.random.default_rng(0)
    assert all(math.isnan(x) for x in bootstrap_interval([[1.0, 2.0]], rng))
    assert all(math.isnan(x) for x in bootstrap_interval([[1.0, np.nan], [1.0, 2.0]], rng))
    with pytest.raises(ValueError, match=r"values: needs shape \(seeds, instances\)"):
        bootstrap_interval([1.0, 2.0], rng)


def test_paired_difference():
    rng = np.random.default_rng(4)
    a = np.array([[1.0, 101.0], [3.0, 103.0], [2.0, 102.0]])
    rule = np.array([[4.0, 104.0]])
    difference, low, high = paired_difference(a, rule, rng)
    assert difference == -2
    assert -3 <= low < -2 < high <= -1
    assert paired_difference(rule, rule - 1, rng)[0] == 1
    assert all(math.isnan(x) for x in paired_difference(rule, rule, rng)[1:])
    with pytest.raises(ValueError, match="identical instances"):
        paired_difference(a, [[1.0]], rng)


def test_paired_difference_spread_adds_both_sides():
    rng = np.random.default_rng(5)
    table = np.tile([[0.0], [1.0]], (2, 100))
    single = np.subtract(*reversed(bootstrap_interval(table, rng, draws=4000)))
    _, low, high = paired_difference(table, table, rng, draws=4000)
    assert high - low == pytest.approx(single * math.sqrt(2), rel=0.1)
