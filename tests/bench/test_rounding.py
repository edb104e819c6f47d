"""Integral bounds from floating-point ones."""

from __future__ import annotations

from fractions import Fraction

import pytest

from bench.rounding import is_integral, least_integer
from bench.setting import OBJECTIVES


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        (52.99999999999999, 53),
        (74.00000000000001, 74),
        (73.2, 74),
        (74.0, 74),
        (74.0001, 75),
        (0.0, 0),
        (1e-9, 0),
        (-1e-9, 0),
        (-3.0000000001, -3),
        (-3.5, -3),
        (1e12 + 0.3, 10**12),  # the relative error of a solver is larger than this fraction
        (2.0**53, 2**53),
        (1e300, int(1e300)),
        (Fraction(147, 2), 74),
    ],
)
def test_a_bound_is_rounded_up_to_what_it_proves(bound: float | Fraction, expected: int) -> None:
    assert least_integer(bound) == expected


def test_a_bound_with_a_known_error_is_lowered_by_all_of_it() -> None:
    assert least_integer(100.0, 0) == 100
    assert least_integer(100.0, 3.5) == 97
    assert least_integer(Fraction(100.5), Fraction(1, 2)) == 100
    assert least_integer(2.0**60, 2.0**10) == 2**60 - 2**10


def test_only_the_bounded_slowdown_is_fractional() -> None:
    assert [name for name in OBJECTIVES if not is_integral(name)] == ["bounded_slowdown"]
