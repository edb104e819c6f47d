"""Seconds to ticks: rounded up, without floating-point error, in every reader's way of use."""

import math
from fractions import Fraction

import numpy as np
import pytest

from bench.instance import InstanceError
from bench.ticks import duration_to_ticks, seconds_between, time_to_ticks


@pytest.mark.parametrize(
    ("seconds", "tick", "expected"),
    [
        (0.3, 0.1, 3),  # 0.3 / 0.1 is 2.9999999999999996
        (1.1, 0.1, 11),  # 1.1 / 0.1 is 11.000000000000002
        (2.1, 0.3, 7),  # 2.1 / 0.3 is 7.000000000000001
        (60.0, 60, 1),
        (60.001, 60, 2),
        (123_456_789.3, 0.1, 1_234_567_893),
        (0.0, 60, 0),
    ],
)
def test_times_are_rounded_up_without_floating_point_error(seconds, tick, expected):
    assert time_to_ticks(seconds, tick) == expected
    assert duration_to_ticks(seconds, tick) == max(1, expected)


def test_decimal_times_have_the_ticks_of_exact_arithmetic():
    """All multiples of 0.01 s up to 200 s, for ticks of 0.1, 0.3 and 0.7 s."""
    hundredths = np.arange(20_001)
    for tick in ("0.1", "0.3", "0.7"):
        exact = [math.ceil(Fraction(int(n), 100) / Fraction(tick)) for n in hundredths]
        assert time_to_ticks(hundredths / 100, float(tick)).tolist() == exact


def test_differences_of_times_since_1970_are_exact_to_the_microsecond():
    earlier = 1_506_816_044.0
    for hundredths in range(1, 100):
        later = float(f"1506816044.{hundredths:02d}")
        assert seconds_between(earlier, later) == hundredths / 100
        assert time_to_ticks(seconds_between(earlier, later), 0.01) == hundredths


def test_durations_are_at_least_one_tick_and_keep_their_shape():
    found = duration_to_ticks([[0.0, None], [90.0, math.nan]], 60.0)
    assert found.dtype == np.int64
    assert found.tolist() == [[1, -1], [2, -1]]


def test_times_out_of_range_are_errors_that_name_the_entry():
    with pytest.raises(InstanceError, match=r"^due\[1\]: value inf s: must be a number of at most"):
        time_to_ticks([0.0, math.inf], 60.0, "due")
    with pytest.raises(InstanceError, match=r"^duration: value 1e\+300 s: .*raise tick_seconds"):
        duration_to_ticks(1e300, 1e-9)
    assert time_to_ticks(1e12, 1.0) == 10**12
