"""Fields of an instance, errors for invalid ones, and the JSON form."""

import gzip
import json
import math

import numpy as np
import pytest

from bench.instance import Instance, InstanceError, Outage

FORM = {
    "duration": [[4, 2], [6, -1], [3, 5]],
    "demand": [[[1, 4], [1, 4]], [[1, 4], [2, 4]], [[1, 4], [2, 4]]],
    "capacity": [[1, 8], [3, 8], [2, 4]],
    "agent_type": [0, 1, 1],
    "release": [0, 1, 2],
    "weight": [1, 0, 3],
    "due": [10, 20, 30],
    "tenant": [0, 1, 1],
    "quota": [[4, 100], [4, 100]],
    "kind": [0, 1, 2],
    "estimate": [[5, 2], [6, -1], [3, 1]],
    "outages": [
        {"agent": 1, "start": 20, "end": 25, "announced": False},
        {"agent": 0, "start": 3, "end": 4},
    ],
    "resources": ["gpu", "memory"],
    "tick_seconds": 2.5,
    "name": "hand",
}


def build(**changes):
    return Instance.from_dict({**FORM, **changes})


def test_sizes_and_defaults():
    case = build()
    sizes = (case.n_tasks, case.n_agents, case.n_types, case.n_resources, case.n_tenants)
    assert sizes == (3, 3, 2, 2, 2)
    assert case.outages == (Outage(0, 3, 4, True), Outage(1, 20, 25, False))
    plain = Instance([[2]], [[[1]]], [[1]], [0])
    assert (plain.release.tolist(), plain.weight.tolist(), plain.kind.tolist()) == ([0], [1], [1])
    assert np.array_equal(plain.estimate, plain.duration)
    assert plain.resources == ("resource0",)


def test_arrays_are_read_only_copies():
    raw = np.array([[2]])
    case = Instance(raw, [[[1]]], [[1]], [0])
    raw[0, 0] = 9
    assert case.duration[0, 0] == 2
    with pytest.raises(ValueError, match="read-only"):
        case.duration[0, 0] = 3
    with pytest.raises(AttributeError):
        case.duration = raw


def test_runnable_needs_eligibility_capacity_and_quota():
    # tenant 1 may hold one gpu, so task 2 cannot run on type 1
    case = build(quota=[[4, 100], [1, 100]])
    assert case.runnable().tolist() == [[True, True], [True, False], [True, False]]
    assert case.shortest().tolist() == [2, 6, 3]
    assert case.longest().tolist() == [4, 6, 3]


def test_outages_may_kill_unless_they_are_announced_and_estimates_are_exact():
    assert build().may_kill
    assert not build(outages=[]).may_kill
    announced = [{"agent": 1, "start": 20, "end": 25}]
    assert build(outages=announced).may_kill  # the estimate is wrong
    assert not build(outages=announced, estimate=None).may_kill


def test_original_undoes_the_cost_mapping():
    costs = Instance([[7], [3]], [[[1]]] * 2, [[2]], [0], sharing="budget", offset=4)
    assert costs.original(10) == 2
    profits = Instance(
        [[7], [3]], [[[1]]] * 2, [[2]], [0], sharing="budget", sense="max", offset=10, weight=[2, 1]
    )
    assert profits.original(17) == 2 * (10 - 7) + (10 - 3)
    assert build().original(5.0) == 5.0


def test_json_round_trip(tmp_path):
    case = build()
    again = Instance.from_dict(json.loads(json.dumps(case.to_dict())))
    assert again.to_dict() == case.to_dict()
    assert again.hash() == case.hash()
    for name in ("case.json", "case.json.gz"):
        case.write(tmp_path / name)
        assert Instance.read(tmp_path / name).to_dict() == case.to_dict()
    assert (tmp_path / "case.json.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert not list(tmp_path.glob("*.partial"))


def test_the_hash_depends_on_the_problem_and_not_on_its_name():
    assert build(name="other").hash() == build().hash()
    for changes in (
        {"release": [0, 1, 3]},
        {"tick_seconds": 1.0},
        {"outages": []},
        {"resources": ["gpu", "ram"]},
    ):
        assert build(**changes).hash() != build().hash()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"duration": [[4, 2], [math.nan, 3], [-1, 5]]}, r"duration\[1, 0\]: nan must be a number"),
        ({"duration": [[4, 2], [math.inf, 3], [-1, 5]]}, r"duration\[1, 0\]: inf must be a number"),
        (
            {"duration": [[4, 2], [6.5, 3], [-1, 5]]},
            r"duration\[1, 0\]: 6.5 must be an integer",
        ),
        (
            {"duration": [[4, 2], [-2, -1], [3, 5]]},
            r"duration\[1, 0\]: -2 must be at least 1, or exactly -1",
        ),
        ({"duration": [[4, 2], [0, -1], [3, 5]]}, r"duration\[1, 0\]: 0 must be at least 1"),
        (
            {"duration": [[4, 2], [10**13, -1], [3, 5]]},
            r"duration\[1, 0\]: 10000000000000 must not exceed",
        ),
        ({"duration": [[4, 2], ["six", -1], [3, 5]]}, "duration: integers are needed"),
        ({"duration": [[4, 2], [6], [3, 5]]}, "duration: rows of different length"),
        ({"duration": [4, 6, 3]}, "duration: needs 2 dimensions, got 1"),
        ({"duration": []}, "duration: needs 2 dimensions, got 1"),
        ({"duration": None}, "duration: missing"),
        (
            {"estimate": [[5, 2], [6, 1], [3, 1]]},
            r"estimate\[1, 1\]: 1 must be -1 exactly where duration is -1",
        ),
        (
            {"demand": [[[1, 4], [1, -4]], *FORM["demand"][1:]]},
            r"demand\[0, 1, 1\]: -4 must not be negative",
        ),
        ({"demand": FORM["demand"][:2]}, r"demand: shape \(2, 2, 2\), expected \(3, 2, 2\)"),
        ({"capacity": [[True, False]]}, "capacity: integers are needed, got bool"),
        ({"agent_type": [0, 1, 2]}, r"agent_type\[2\]: 2 must be a type in \[0, 2\)"),
        ({"release": [0, -1, 0]}, r"release\[1\]: -1 must not be negative"),
        ({"weight": [1, 1]}, r"weight: shape \(2,\), expected \(3,\)"),
        ({"kind": [0, 1, 4]}, r"kind\[2\]: 4 must be in \[0, 4\)"),
        ({"tenant": [0, 1, 2]}, r"tenant\[2\]: 2 must be in \[0, 2\), a row of quota"),
        ({"tenant": None}, "tenant: needed where quota is given"),
        ({"outages": [[3, 0, 1]]}, r"outages\[0\].agent: 3 is outside \[0, 3\)"),
        ({"outages": [[0, 5, 5]]}, r"outages\[0\]: \[5, 5\) must satisfy 0 <= start < end"),
        ({"outages": [[0, 5, 9], [0, 8, 10]]}, "outages: two overlap on agent 0 at tick 8"),
        ({"outages": [[0, 5]]}, r"outages\[0\]: needs agent, start, end"),
        ({"outages": [[0, 5, 9, 1]]}, r"outages\[0\].announced: true or false is needed"),
        ({"resources": ["gpu", "gpu"]}, r"resources: .* must be 2 different names"),
        ({"tick_seconds": 0}, "tick_seconds: a positive number is needed, got 0"),
        ({"tick_seconds": "1"}, "tick_seconds: a positive number is needed, got '1'"),
        ({"tick_seconds": math.nan}, "tick_seconds: a positive number is needed, got nan"),
        ({"sharing": "lease"}, "sharing: 'lease' must be 'time' or 'budget'"),
        ({"sharing": "budget"}, "release: must be 0 with `budget` sharing"),
        (
            {"sharing": "budget", "release": [0, 0, 0]},
            "due, outages: must be absent with `budget` sharing",
        ),
        ({"sense": "max"}, "sense, offset: only `budget` sharing maps costs"),
        ({"offset": 1.5}, "offset: an integer is needed"),
        ({"schema": 2}, "schema: 2 is newer than 1, the newest this version reads"),
        ({"schema": "1"}, "schema: an integer of at least 1 is needed"),
        ({"deadline": [1, 2, 3]}, "deadline: unknown field; known are"),
    ],
)
def test_errors_name_field_index_and_rule(changes, message):
    with pytest.raises(InstanceError, match=message):
        build(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"duration": [[4, 2], [-1, -1], [3, 5]], "estimate": None},  # eligible nowhere
        # two gpus on type 0, whose agent has one
        {"demand": [FORM["demand"][0], [[2, 4], [2, 4]], FORM["demand"][2]]},
        {"quota": [[4, 100], [4, 3]]},  # memory 4, quota 3
    ],
)
def test_a_task_that_no_agent_can_run_is_an_error(changes):
    with pytest.raises(InstanceError, match=r"demand\[1\]: no agent can run task 1"):
        build(**changes)


def test_a_type_without_an_agent_cannot_run_a_task():
    with pytest.raises(InstanceError, match="no agent can run task 0"):
        Instance([[-1, 3]], [[[1], [1]]], [[1]], [0])


GOOD = json.dumps(FORM).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.json", GOOD[: len(GOOD) // 2], "may be cut short"),
        ("cut.json.gz", gzip.compress(GOOD)[:-20], "may be cut short"),
        ("binary.json", b"\xff\xfe\x00", "not readable as JSON"),
        (
            "twice.json",
            GOOD[:-1] + b', "weight": [1, 2]}',
            "key 'weight' stands twice in one object; remove one of them",
        ),
        ("deep.json", b"[" * 100_000, "not readable as JSON"),
        ("list.json", b"[]", "a JSON object is needed, got list"),
        (
            "nan.json",
            GOOD.replace(b"[4, 2]", b"[NaN, 2]", 1),
            r"duration\[0, 0\]: nan must be a number",
        ),
        (
            "null.json",
            GOOD.replace(b"[4, 2]", b"[null, 2]", 1),
            "duration: integers are needed",
        ),
    ],
)
def test_errors_of_unreadable_files_name_the_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InstanceError, match=message) as caught:
        Instance.read(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Instance.read(tmp_path / "absent.json")
