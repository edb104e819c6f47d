"""What is computed from a solver's result: integral bounds."""

from __future__ import annotations

import math

import pytest

from bench.contracts import Result
from bench.instance import Instance
from bench.run.evaluation import Entry, certificate, evaluate_entry
from bench.schedule import Schedule


def two_tasks() -> Instance:
    """Return two tasks of 30 and 23 ticks on an agent each."""
    return Instance(
        duration=[[30], [23]], demand=[[[1]]] * 2, capacity=[[1]] * 2, agent_type=[0, 0]
    )


@pytest.mark.parametrize(
    ("claimed", "bound"), [(52.99999999999999, 53), (53.00000000000001, 53), (52.2, 53)]
)
def test_an_integral_objective_gets_an_integral_bound(claimed: float, bound: int) -> None:
    instance = two_tasks()
    schedule = Schedule.from_assignment(instance, [0, 1], [0, 0])
    points = ((0.0, 60.0, -math.inf), (0.1, 53.0, claimed))
    result = Result(schedule, "optimal", claimed, points, info={"proof": {"kind": "search"}})
    entry = Entry(instance.hash(), result, None, 0.1)
    evaluation = evaluate_entry(instance, entry, "total_time")
    assert evaluation.result.lower_bound == bound
    assert evaluation.result.trajectory == ((0.0, 60.0, -math.inf), (0.1, 53.0, bound))
    stored = certificate(instance, entry, evaluation, "total_time", {})
    assert stored is not None
    assert stored["bound_internal"] == stored["objective_internal"] == bound
    evaluation = evaluate_entry(instance, entry, "bounded_slowdown")
    assert evaluation.result.lower_bound == claimed
