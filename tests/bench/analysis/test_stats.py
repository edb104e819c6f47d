"""Gap, score and intervals against hand calculations."""

import math

import numpy as np
import pytest

from bench.analysis.stats import bootstrap_interval, gap, paired_difference, score, student_interval


@pytest.mark.parametrize(
    ("value", "bound", "expected"),
    [
        (110, 100, 10 / 110),
        (100, 100, 0),
        (0, 0, 0),
        (0, -5, math.nan),
        (100, -math.inf, math.nan),
        (90, 100, -10 / 90),
    ],
)
def test_gap_by_hand(value, bound, expected):
    assert gap(value, bound) == pytest.approx(expected, nan_ok=True)


def test_gap_of_a_maximised_objective():
    assert gap(80, 100, sense="max") == pytest.approx(0.25)
    assert gap(100, 100, sense="max") == 0


def test_gap_works_on_tables():
    np.testing.assert_allclose(
        gap([[110, 100], [0, 4]], [[100, 100], [0, np.nan]]), [[10 / 110, 0], [0, np.nan]]
    )


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
def test_score_by_hand(value, random, reference, expected):
    assert score(value, random, reference) == pytest.approx(expected, nan_ok=True)


def test_score_works_on_tables():
    np.testing.assert_allclose(score([150, 7], [200, 7], [100, 7]), [50, 100])


def test_interval_resamples_seeds_within_instances():
    """Differences between instances do not widen the interval; differences between seeds do."""
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


def test_interval_is_reproducible_and_covers_the_mean():
    rng = np.random.default_rng(3)
    table = rng.normal(size=(10, 4))
    one, two = (bootstrap_interval(table, np.random.default_rng(9)) for _ in range(2))
    assert one == two
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(size=(10, 4)), rng, draws=200)
        covered += low <= 0 <= high
    assert 170 <= covered <= 200


def test_one_seed_has_no_interval_and_missing_values_give_nan():
    rng = np.random.default_rng(0)
    assert all(math.isnan(x) for x in bootstrap_interval([[1.0, 2.0]], rng))
    assert all(math.isnan(x) for x in bootstrap_interval([[1.0, np.nan], [1.0, 2.0]], rng))
    with pytest.raises(ValueError, match=r"values: value of shape \(2,\): needs shape \(seeds"):
        bootstrap_interval([1.0, 2.0], rng)


def test_student_interval_does_not_shrink_with_dependent_instances():
    rng = np.random.default_rng(6)
    means = np.array([1.0, 2.0, 4.0])
    mean, low, high = student_interval(means[:, None] + np.array([-5.0, 5.0]))
    half = 4.302653 * means.std(ddof=1) / math.sqrt(3)  # Student's t with two degrees of freedom
    assert (mean, low, high) == (
        pytest.approx(7 / 3),
        pytest.approx(7 / 3 - half),
        pytest.approx(7 / 3 + half),
    )
    dependent = np.tile(means[:, None], 32)
    assert student_interval(dependent) == pytest.approx((mean, low, high))
    narrow = bootstrap_interval(dependent, rng)  # as if there were 96 runs
    assert narrow[1] - narrow[0] < half / 4
    assert all(math.isnan(x) for x in student_interval([[1.0, 2.0]])[1:])


def test_paired_difference_by_hand():
    a = np.array([[1.0, 101.0], [3.0, 103.0], [2.0, 102.0]])
    rule = np.array([[4.0, 104.0]])
    half = 4.302653 / math.sqrt(3)
    assert paired_difference(a, rule) == (-2, pytest.approx(-2 - half), pytest.approx(-2 + half))
    assert paired_difference(rule, a) == (2, pytest.approx(2 - half), pytest.approx(2 + half))
    assert paired_difference(a, rule, level=0.5)[2] < -1
    assert paired_difference(rule, rule - 1)[0] == 1
    assert all(math.isnan(x) for x in paired_difference(rule, rule)[1:])
    assert paired_difference(a, a + 1)[0] == -1
    assert paired_difference(np.ones((3, 2)), np.zeros((2, 2))) == (1, 1, 1)
    assert math.isnan(paired_difference(a, [[np.nan, 1.0]])[1])
    with pytest.raises(ValueError, match="identical instances"):
        paired_difference(a, [[1.0]])


def test_paired_difference_equals_welchs_t_test():
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(5)
    a = rng.normal(size=(5, 8))
    b = rng.normal(1.0, 3.0, size=(3, 8))
    expected = ttest_ind(a.mean(axis=1), b.mean(axis=1), equal_var=False).confidence_interval()
    assert paired_difference(a, b)[1:] == (
        pytest.approx(expected.low),
        pytest.approx(expected.high),
    )


def test_paired_difference_covers_with_dependent_instances():
    """95 % intervals contain the true difference 0 in 95 % of 400 draws, within 4 standard errors.

    The results of one seed on ten instances have a common random part.
    """
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        a, b = (rng.normal(size=(5, 1)) + 0.1 * rng.normal(size=(5, 10)) for _ in range(2))
        _, low, high = paired_difference(a, b)
        covered += low <= 0 <= high
    assert 362 <= covered <= 398
