"""Schedules and results: fields, errors for invalid ones, and the JSON forms."""

import json
import math

import pytest

from bench.contracts import Budget, Result
from bench.errors import UserError
from bench.instance import Instance
from bench.schedule import Schedule, ScheduleError

PLAN = Schedule([0, 1], [2, 0], [0, 5], [4, 9])


def test_from_assignment():
    case = Instance([[4, 2], [6, -1], [3, 5]], [[[1], [1]]] * 3, [[1], [1], [1]], [0, 1, 1])
    plan = Schedule.from_assignment(case, [2, 1, -1], [3, 0, 0])
    assert plan.to_dict() == {
        "schema": 1,
        "task": [0, 1],
        "agent": [2, 1],
        "start": [3, 0],
        "end": [5, 1],
    }
    assert Schedule.from_assignment(case, [0, 0, 0]).end.tolist() == [4, 6, 3]


def test_columns_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        PLAN.start[0] = 1


def test_json_round_trip(tmp_path):
    for name in ("plan.json", "plan.json.gz"):
        PLAN.write(tmp_path / name)
        assert Schedule.read(tmp_path / name).to_dict() == PLAN.to_dict()
    empty = Schedule([], [], [], [])
    assert Schedule.from_dict(json.loads(json.dumps(empty.to_dict()))).to_dict() == empty.to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": [0, -1]}, r"task\[1\]: must not be negative"),
        ({"agent": [0]}, "agent: 1 entries, expected 2 as in `task`"),
        ({"start": [0, 9]}, r"end\[1\]: must lie after start"),
        ({"start": [0, 2.5]}, r"start\[1\]: 2.5 must be an integer"),
        ({"start": [0, math.nan]}, r"start\[1\]: nan must be a number"),
        ({"end": [4, "nine"]}, "end: integers are needed"),
        ({"end": [[4], [9]]}, "end: needs 1 dimensions, got 2"),
        ({"schema": 2}, "schema: 2 is newer than 1"),
        ({"schema": None}, "schema: an integer of at least 1 is needed"),
        ({"finish": [4, 9]}, "finish: unknown column"),
    ],
)
def test_errors_name_column_index_and_rule(changes, message):
    with pytest.raises(ScheduleError, match=message):
        Schedule.from_dict({**PLAN.to_dict(), **changes})


@pytest.mark.parametrize(
    "content",
    [b"{", b'"plan"', b'{"task": [0]}', b'{"task":[0],"agent":[0],"start":[3],"end":[3]}'],
)
def test_errors_of_unreadable_files_name_the_file(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ScheduleError, match=r"plan\.json: .") as caught:
        Schedule.read(tmp_path / "plan.json")
    assert str(caught.value).count("plan.json") == 1


def test_result_round_trip():
    points = ((0.1, math.inf, -math.inf), (0.1, 12.0, 3.0), (2.0, 10.0, 10.0))
    full = Result(PLAN, "optimal", 10.0, points, (0.01, 0.02), {"rule": "sjf", "count": 3})
    for result in (full, Result(PLAN)):
        again = Result.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))
        assert again.to_dict() == result.to_dict()
        assert (again.lower_bound, again.trajectory, again.latency) == (
            result.lower_bound,
            result.trajectory,
            result.latency,
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"status": "done"}, "status: 'done' must be one of"),
        ({"lower_bound": math.nan}, "lower_bound: must not be NaN"),
        ({"trajectory": ((2.0, 1.0, 1.0), (1.0, 1.0, 1.0))}, r"trajectory\[1\]"),
        ({"trajectory": ((2.0, 1.0),)}, r"trajectory\[0\]"),
    ],
)
def test_malformed_results_are_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        Result(PLAN, **fields)


def test_a_newer_result_is_an_error():
    with pytest.raises(ValueError, match="newer than 1"):
        Result.from_dict({**Result(PLAN).to_dict(), "schema": 2})


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "60"])
def test_a_budget_that_is_not_positive_is_an_error(value):
    with pytest.raises(UserError, match=r"budget\.seconds: a positive number is needed"):
        Budget(seconds=value)
