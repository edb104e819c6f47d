"""Anytime measures against hand calculations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.analysis.anytime import MEASURES, gap, gap_at, integral, measures

INF = math.inf


@pytest.mark.parametrize(
    ("value", "other", "expected"),
    [
        (0, 0, 0),
        (5, 5, 0),
        (10, 8, 0.2),
        (8, 10, 0.2),
        (0, 3, 1),
        (-2, 3, 1),
        (-10, -8, 0.2),
        (INF, 3, 1),
        (3, -INF, 1),
        (INF, -INF, 1),
        (math.nan, 3, 1),
    ],
)
def test_gap_equals_that_of_berthold(value: float, other: float, expected: float) -> None:
    assert gap(value, other) == pytest.approx(expected)


def test_gap_broadcasts_its_arguments() -> None:
    assert gap([[10.0], [8.0]], [8.0, 10.0]) == pytest.approx(np.array([[0.2, 0.0], [0.0, 0.2]]))


def test_integral_of_a_step_function_within_the_limit() -> None:
    assert integral([], [], 4.0) == 4.0  # no schedule at all
    assert integral([1.0, 3.0], [0.5, 0.0], 10.0) == pytest.approx(1.0 + 2 * 0.5)
    # Changes after the limit do not count.
    assert integral([1.0, 3.0], [0.5, 0.0], 2.0) == pytest.approx(1.0 + 0.5)
    assert integral([3.0], [0.0], 2.0) == 2.0
    assert integral([0.0], [0.25], 4.0) == 1.0


def test_measures_by_hand() -> None:
    points = [(1.0, INF, 4.0), (2.0, 10.0, 4.0), (4.0, 8.0, 4.0), (5.0, 8.0, 8.0)]
    found = measures(points, 8.0, 10.0)
    assert found["primal_integral"] == pytest.approx(2 + 2 * 0.2)
    assert found["primal_dual_integral"] == pytest.approx(2 + 2 * 0.6 + 1 * 0.5)
    assert found["time_to_first"] == 2.0
    assert found["time_to_best"] == 4.0
    assert found["time_to_proof"] == 5.0


def test_measures_of_a_maximised_objective() -> None:
    up = measures([(1.0, 8.0, INF), (2.0, 10.0, 20.0), (3.0, 10.0, 10.0)], 10.0, 4.0)
    assert up["primal_integral"] == pytest.approx(1 + 0.2)
    assert up["primal_dual_integral"] == pytest.approx(1 + 1 + 0.5)
    assert (up["time_to_best"], up["time_to_proof"]) == (2.0, 3.0)


def test_measures_without_schedule_or_reference_are_nan() -> None:
    assert all(math.isnan(value) for value in measures([], 8.0, 10.0).values())
    assert tuple(measures([], 8.0, 10.0)) == MEASURES
    never = measures([(1.0, INF, 4.0)], 8.0, 10.0)
    assert (never["primal_integral"], never["primal_dual_integral"]) == (10.0, 10.0)
    assert all(
        math.isnan(never[name]) for name in ("time_to_first", "time_to_best", "time_to_proof")
    )
    unknown = measures([(1.0, 8.0, -INF)], math.nan, 10.0)
    assert math.isnan(unknown["primal_integral"])
    assert unknown["time_to_first"] == 1.0


def test_gap_at_given_times() -> None:
    points = [(1.0, 10.0, 5.0), (2.0, 10.0, 10.0)]
    assert gap_at(points, [0.0, 1.0, 1.5, 2.0, 9.0]).tolist() == [1.0, 0.5, 0.5, 0.0, 0.0]
    assert gap_at([], [0.0, 9.0]).tolist() == [1.0, 1.0]
