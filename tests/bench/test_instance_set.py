"""The instances of a set: their hash, and what they must have in common."""

import dataclasses

import pytest

from bench.errors import UserError
from bench.instance import Instance
from bench.instance_set import check

BUDGET = Instance([[3]], [[[1]]], [[1]], [0], sharing="budget", name="a")
TIME = Instance([[3]], [[[1]]], [[1]], [0], name="b")


@pytest.mark.parametrize(
    ("one", "change", "message"),
    [
        (
            BUDGET,
            {"sense": "max", "offset": 9, "name": "c"},
            r"dataset: sense: instance 1 \(c\) has max, instance 0 \(a\) has min; the mean over a",
        ),
        (TIME, {"tick_seconds": 60.0}, r"tick_seconds: instance 1 \(b\) has 60.0, instance 0"),
    ],
)
def test_instances_whose_objectives_have_no_common_mean_are_refused(one, change, message):
    other = dataclasses.replace(one, **change)
    with pytest.raises(UserError, match=message):
        check("test", [one, other], {})
    assert check("test", iter([one, one]), {}) == check("test", [one, one], {})
    assert check("test", [other, other], {}) != check("test", [one, one], {})
