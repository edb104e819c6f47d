"""The judge: each rule broken once and only once, and the sweep against a naive count tick by tick."""

import gzip
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from bench.instance import Instance
from bench.schedule import Schedule
from bench.verify import verify
from bench.verify.__main__ import main

# Three tasks on two agents: type 0 has one gpu, type 1 has three; task 2 cannot run on type 0.
BASE = {
    "duration": [[4, 2], [6, 3], [-1, 5]],
    "demand": [[[1, 4], [1, 4]], [[1, 4], [2, 4]], [[1, 4], [2, 4]]],
    "capacity": [[1, 8], [3, 8]],
    "agent_type": [0, 1],
    "resources": ["gpu", "memory"],
    "release": [0, 1, 2],
    "tenant": [0, 1, 1],
    "quota": [[1, 100], [3, 100]],
    "outages": [(1, 20, 25)],
}
GOOD = [(0, 0, 0, 4), (1, 1, 1, 4), (2, 1, 4, 9)]


def instance(**changes):
    return Instance(**{**BASE, **changes})


def schedule(*pieces):
    return Schedule(*(list(column) for column in zip(*pieces, strict=True)))


def changed(task, *piece):
    """GOOD with the piece of `task` replaced."""
    return schedule(*(piece if row[0] == task else row for row in GOOD))


def test_a_feasible_schedule_breaks_nothing():
    assert verify(instance(), schedule(*GOOD)) == []


@pytest.mark.parametrize(
    ("pieces", "sentence"),
    [
        (schedule(*GOOD[1:]), "task 0 is not assigned to any agent"),
        (
            schedule(*GOOD, (0, 0, 10, 14)),
            "task 0 is assigned 2 times, must be once: agent 0 [0, 4), agent 0 [10, 14)",
        ),
        (
            changed(0, 0, 0, 0, 3),
            "task 0 on agent 0 in ticks [0, 3) runs 3 ticks, its duration there is 4",
        ),
        (
            changed(0, 0, 0, 0, 5),
            "task 0 on agent 0 in ticks [0, 5) runs 5 ticks, its duration there is 4",
        ),
        (
            changed(2, 2, 0, 4, 9),
            "task 2 on agent 0 in ticks [4, 9): not eligible on agent type 0 (duration -1)",
        ),
        (
            changed(1, 1, 1, 0, 3),
            "task 1 on agent 1 in ticks [0, 3) starts before its release at 1",
        ),
        (
            changed(2, 2, 1, 16, 21),
            "task 2 on agent 1 in ticks [16, 21) overlaps the agent's outage [20, 25)",
        ),
        (
            changed(2, 2, 1, 24, 29),
            "task 2 on agent 1 in ticks [24, 29) overlaps the agent's outage [20, 25)",
        ),
        (
            schedule(*GOOD, (3, 0, 20, 24)),
            "piece 3: task 3 on agent 0 does not exist (tasks 0 to 2, agents 0 to 1)",
        ),
        (
            schedule(*GOOD, (0, 2, 20, 24)),
            "piece 3: task 0 on agent 2 does not exist (tasks 0 to 2, agents 0 to 1)",
        ),
    ],
)
def test_each_rule_broken_once(pieces, sentence):
    assert verify(instance(), pieces) == [sentence]


def test_all_rules_broken_at_once_are_all_listed():
    found = verify(instance(), changed(2, 2, 1, 1, 6))
    assert [sentence.split(",")[0] for sentence in found] == [
        "task 2 on agent 1 in ticks [1",
        "agent 1 holds 4 gpu at tick 1",
        "tenant 1 holds 4 gpu at tick 1",
    ]


def test_a_piece_may_touch_an_outage_at_both_ends():
    assert verify(instance(), changed(2, 2, 1, 15, 20)) == []
    assert verify(instance(), changed(2, 2, 1, 25, 30)) == []


def test_too_large_alone():
    small = instance(capacity=[[1, 3], [3, 8]])
    assert verify(small, schedule(*GOOD)) == [
        "task 0 on agent 0 in ticks [0, 4) alone needs 4 memory, the agent has 3"
    ]


def test_capacity_is_listed_once_per_maximal_interval():
    wide = instance(quota=None)
    found = verify(wide, changed(2, 2, 1, 3, 8))  # tasks 1 and 2 share agent 1 in [3, 4)
    assert found == ["agent 1 holds 4 gpu at tick 3, capacity 3, exceeded in [3, 4) (tasks 1, 2)"]
    apart = Instance([[2]] * 5, [[[1]]] * 5, [[1]], [0])
    pieces = schedule((0, 0, 0, 2), (1, 0, 1, 3), (2, 0, 2, 4), (3, 0, 6, 8), (4, 0, 6, 8))
    assert verify(apart, pieces) == [
        "agent 0 holds 2 resource0 at tick 1, capacity 1, exceeded in [1, 3) (tasks 0, 1)",
        "agent 0 holds 2 resource0 at tick 6, capacity 1, exceeded in [6, 8) (tasks 3, 4)",
    ]


def test_a_piece_may_start_where_another_ends():
    line = Instance([[2]] * 2, [[[1]]] * 2, [[1]], [0])
    assert verify(line, schedule((0, 0, 0, 2), (1, 0, 2, 4))) == []


def test_quota_sums_over_agents():
    found = verify(instance(tenant=[0, 0, 1]), schedule(*GOOD))
    assert found == ["tenant 0 holds 3 gpu at tick 1, quota 1, exceeded in [1, 4) (tasks 0, 1)"]


BUDGET = Instance(
    duration=[[3, 5], [4, 2], [6, 1]], demand=[[[2], [2]], [[3], [4]], [[4], [4]]], capacity=[[6], [7]], agent_type=[0, 1],
    sharing="budget", tenant=[0, 1, 1], quota=[[9], [8]],
)  # fmt: skip


def test_budget_sharing():
    assert verify(BUDGET, Schedule.from_assignment(BUDGET, [0, 0, 1])) == []
    over = Schedule.from_assignment(BUDGET, [0, 1, 1])
    assert verify(BUDGET, over) == ["agent 1 holds 8 resource0 in total, capacity 7 (tasks 1, 2)"]
    late = schedule((0, 0, 1, 4), (1, 0, 0, 4), (2, 1, 0, 1))
    assert verify(BUDGET, late) == [
        "task 0 on agent 0 in ticks [1, 4) must start at 0: `budget` sharing has no clock"
    ]
    tight = Instance(**{**BUDGET.to_dict(), "quota": [[9], [6]], "capacity": [[9], [9]]})
    assert verify(tight, Schedule.from_assignment(tight, [0, 0, 1])) == [
        "tenant 1 holds 7 resource0 in total, quota 6 (tasks 1, 2)"
    ]


# -- pieces lost to an outage ----------------------------------------------------------------------------------

KILLS = {"outages": [(1, 20, 25, False)]}
LOST = (2, 1, 18, 20)


def test_a_task_caught_by_an_unannounced_outage_runs_again_in_full():
    assert verify(instance(**KILLS), schedule(*GOOD[:2], LOST, (2, 1, 25, 30))) == []


@pytest.mark.parametrize(
    ("pieces", "sentence"),
    [
        ([LOST], "task 2 was cut short by outages (1 lost pieces) and never assigned again"),
        (
            [(2, 1, 10, 15), LOST],
            "task 2 on agent 1 in ticks [10, 15) completes it, yet it runs again on agent 1",
        ),
    ],
)
def test_pieces_that_do_not_make_a_task(pieces, sentence):
    assert verify(instance(**KILLS), schedule(*GOOD[:2], *pieces)) == [sentence]


@pytest.mark.parametrize("stump", [(2, 1, 17, 19), (2, 1, 18, 21)])
def test_a_piece_cut_short_elsewhere_is_not_lost_to_the_outage(stump):
    found = verify(instance(**KILLS), schedule(*GOOD[:2], stump, (2, 1, 25, 30)))
    assert found[0].startswith("task 2 is assigned 2 times")
    assert found[1].endswith("its duration there is 5")


def test_a_lost_piece_may_not_overlap_the_next():
    two = instance(**KILLS, capacity=[[1, 8], [3, 8], [3, 8]], agent_type=[0, 1, 1])
    found = verify(two, schedule(*GOOD[:2], LOST, (2, 2, 19, 24)))
    assert (
        found[0]
        == "task 2 on agent 1 in ticks [18, 20) overlaps its next piece, on agent 2 from 19"
    )
    assert verify(two, schedule(*GOOD[:2], LOST, (2, 2, 20, 25))) == []


def test_nothing_is_lost_where_outages_cannot_surprise():
    found = verify(instance(), schedule(*GOOD[:2], LOST, (2, 1, 25, 30)))
    assert len(found) == 2
    assert found[0].startswith("task 2 is assigned 2 times")
    assert found[1] == "task 2 on agent 1 in ticks [18, 20) runs 2 ticks, its duration there is 5"


# -- against a naive count ---------------------------------------------------------------------------------------


def random_case(rng):
    """A small instance with outages and tenants, and a schedule that breaks a few rules or none."""
    n, m, t, r, u = rng.integers([1, 1, 1, 1, 1], [8, 4, 3, 3, 3])
    duration = rng.integers(1, 5, (n, t))
    duration[rng.random((n, t)) < 0.15] = -1
    duration[:, 0] = np.where((duration < 0).all(axis=1), 2, duration[:, 0])
    agent_type = np.append(np.arange(t), rng.integers(t, size=m))
    m = len(agent_type)
    demand = rng.integers(0, 4, (n, t, r))
    budget = bool(rng.random() < 0.25)
    fields = {
        "duration": duration,
        "demand": demand,
        "capacity": rng.integers(3, 6, (m, r)) * (3 if budget else 1),
        "agent_type": agent_type,
        "tenant": rng.integers(u, size=n),
        "quota": rng.integers(4, 9, (u, r)),
        "sharing": "budget" if budget else "time",
    }
    if not budget:
        fields["release"] = rng.integers(0, 4, n)
        fields["outages"] = [
            (a, s := int(rng.integers(3, 10)), s + 2, bool(rng.random() < 0.5)) for a in range(m)
        ]
    case = Instance(**fields)
    rows = []
    for task in rng.permutation(n)[: n - int(rng.random() < 0.2)]:
        agent = int(rng.integers(m))
        length = max(1, int(duration[task, agent_type[agent]]))
        start = 0 if budget else int(rng.integers(0, 14))
        rows.append((task, agent, start, start + length + int(rng.random() < 0.05)))
        for outage in case.outages:
            if (
                outage.agent == agent
                and start < outage.start < start + length
                and rng.random() < 0.8
            ):
                rows[-1] = (task, agent, start, outage.start)
                rows.append((task, agent, outage.end, outage.end + length))
    return case, schedule(*rows) if rows else Schedule([], [], [], [])


def naive(case, plan):
    """(feasible, overloads as (noun, owner, resource, tick)) by walking over every tick, piece and rule."""
    rows = list(
        zip(
            *(column.tolist() for column in (plan.task, plan.agent, plan.start, plan.end)),
            strict=True,
        )
    )
    kind, sound, full = case.agent_type, True, {j: [] for j in range(case.n_tasks)}
    for j, a, s, e in rows:
        needed = case.duration[j, kind[a]]
        wrong = (
            case.estimate[j, kind[a]] != needed
        )  # an announced outage catches only what was expected to end before it
        cut = e - s < needed and any(
            o.agent == a and o.start == e and (wrong or not o.announced) for o in case.outages
        )
        full[j] += [] if cut else [s]
        sound &= bool(needed >= 1 and (cut or e - s == needed) and s >= case.release[j])
        sound &= all(case.demand[j, kind[a]] <= case.capacity[a])
        sound &= not (case.sharing == "budget" and s)
        sound &= not any(
            o.agent == a and tick in range(o.start, o.end)
            for o in case.outages
            for tick in range(s, e)
        )
    sound &= all(len(starts) == 1 for starts in full.values())
    for j, _, s, e in rows:
        others = [row for row in rows if row[0] == j and row != (j, _, s, e)]
        sound &= not any(tick in range(row[2], row[3]) for row in others for tick in range(s, e))
        sound &= not full[j] or s <= max(full[j])
    over = set()
    for tick in (
        range(max((row[3] for row in rows), default=0)) if case.sharing == "time" else [None]
    ):
        held = {}
        for j, a, s, e in rows:
            if tick is None or s <= tick < e:
                units = case.demand[j, kind[a]]
                if case.duration[j, kind[a]] >= 1:
                    for r in range(case.n_resources):
                        held["tenant", case.tenant[j], r] = (
                            held.get(("tenant", case.tenant[j], r), 0) + units[r]
                        )
                        if all(units <= case.capacity[a]):
                            held["agent", a, r] = held.get(("agent", a, r), 0) + units[r]
        limits = {"agent": case.capacity, "tenant": case.quota}
        over |= {
            (noun, int(o), r, tick) for (noun, o, r), x in held.items() if x > limits[noun][o, r]
        }
    return sound and not over, over


def test_the_sweep_agrees_with_a_naive_count():
    rng = np.random.default_rng(7)
    seen = {True: 0, False: 0, "over": 0, "kills": 0}
    for _ in range(1500):
        case, plan = random_case(rng)
        found, (sound, over) = verify(case, plan), naive(case, plan)
        assert (found == []) == sound, (case.to_dict(), plan.to_dict(), found)
        listed = set()
        for sentence in found:
            if match := re.match(
                r"(agent|tenant) (\d+) holds \d+ resource(\d+) .*exceeded in \[(\d+), (\d+)\)",
                sentence,
            ):
                noun, owner, r, start, end = match[1], *map(int, match.groups()[1:])
                new = {(noun, owner, r, tick) for tick in range(start, end)}
                assert not new & listed
                listed |= new
            elif match := re.match(
                r"(agent|tenant) (\d+) holds \d+ resource(\d+) in total", sentence
            ):
                listed.add((match[1], int(match[2]), int(match[3]), None))
        assert listed == over
        seen[sound] += 1
        seen["over"] += bool(over)
        seen["kills"] += sound and len(plan.task) > case.n_tasks
    assert min(seen.values()) >= 10, seen  # the cases were of every sort


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    instance().write(tmp_path / "instance.json.gz")
    schedule(*GOOD).write(tmp_path / "schedule.json")
    return str(tmp_path / "instance.json.gz"), str(tmp_path / "schedule.json")


def test_command_feasible(files, capsys):
    assert main([*files, "--objective", "makespan"]) == 0
    out = capsys.readouterr().out
    assert "objective (makespan): 9\n" in out
    assert re.search(r"jct_mean +4\.666666667\n", out)
    assert "qos_violation_rate" in out
    assert "missing" in out
    assert out.endswith("feasible\n")


def test_command_infeasible(files, tmp_path, capsys):
    changed(0, 0, 0, 0, 3).write(files[1])
    assert main(list(files)) == 1
    assert "runs 3 ticks, its duration there is 4" in capsys.readouterr().out
    schedule(*GOOD, (9, 9, 20, 24)).write(
        files[1]
    )  # an index that does not exist is a violation, and is scored without it
    assert main(list(files)) == 1
    assert "piece 3: task 9 on agent 9 does not exist" in capsys.readouterr().out
    schedule(*GOOD[1:]).write(files[1])
    assert main(list(files)) == 1
    assert "unassigned tasks penalised" in capsys.readouterr().out


def broken(name, text):
    def write(files):
        target = files[0] if name == "instance" else files[1]
        with open(target, "wb") as out:
            out.write(text)

    return write


ONE = b'{"duration": [[2]], "demand": [[[1]]], "capacity": [[1]], "agent_type": [0]}'
GOOD_JSON = json.dumps(schedule(*GOOD).to_dict()).encode()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (broken("schedule", b"not json"), "not readable as JSON"),
        (broken("schedule", GOOD_JSON[:-9]), "may be cut short"),
        (broken("schedule", GOOD_JSON.replace(b"[0, 1, 2]", b"[0, 1, NaN]", 1)), "task[2]: nan must be a number"),
        (broken("schedule", GOOD_JSON.replace(b"[0, 1, 2]", b"[0, 1, -2]", 1)), "task[2]: must not be negative"),
        (broken("schedule", GOOD_JSON.replace(b'"schema": 1', b'"schema": 2')), "schema: 2 is newer than 1"),
        (broken("schedule", b"[1, 2]"), "a JSON object is needed"),
        (broken("schedule", b'{"task": [0]}'), "agent: missing"),
        (broken("instance", b"\x1f\x8b\x08\x00\x00"), "may be cut short"),
        (broken("instance", ONE.replace(b"[[2]]", b"[[NaN]]")), "duration[0, 0]: nan must be a number"),
        (broken("instance", b'{"duration": [[1]]}'), "demand: missing"),
        (broken("instance", b"[" * 100_000), "recursion"),
        (broken("instance", ONE[:-1] + b', "resources": 5}'), ""),
        (broken("instance", gzip.compress(ONE)[:12] + b"\xff" + gzip.compress(ONE)[13:]), ""),
    ],
)  # fmt: skip
def test_command_unreadable(files, damage, says, capsys):
    damage(files)
    assert main(list(files)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert says in captured.err


def test_command_missing_file_and_objective_the_instance_lacks(files, capsys):
    assert main([files[0], files[1] + ".absent"]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main([*files, "--objective", "tardiness"]) == 2
    assert "due dates" in capsys.readouterr().err


def test_command_as_a_module(files):
    command = [sys.executable, "-m", "bench.verify"]
    assert subprocess.run([*command, *files], check=False, capture_output=True).returncode == 0
    done = subprocess.run(
        [*command, files[0], "nowhere.json"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere.json")
    shown = subprocess.run([*command, "--help"], check=True, capture_output=True, text=True).stdout
    assert "exit status" in shown
