"""The verifier: each rule broken once, and random schedules against a check tick by tick."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from bench.instance import Instance
from bench.schedule import Schedule
from bench.verify import verify
from tests.bench.verify.examples import GOOD, Piece, changed, schedule_of, three_tasks


def test_feasible_schedule_has_no_violation() -> None:
    assert verify(three_tasks(), schedule_of(*GOOD)) == []


@pytest.mark.parametrize(
    ("schedule", "violation"),
    [
        (schedule_of(*GOOD[1:]), "task 0 is not assigned to any agent"),
        (
            schedule_of(*GOOD, (0, 0, 10, 14)),
            "task 0 is assigned 2 times, must be once: agent 0 [0, 4), agent 0 [10, 14)",
        ),
        (
            changed(0, 0, 0, 3),
            "task 0 on agent 0 in ticks [0, 3) runs 3 ticks, its duration there is 4",
        ),
        (
            changed(0, 0, 0, 5),
            "task 0 on agent 0 in ticks [0, 5) runs 5 ticks, its duration there is 4",
        ),
        (
            changed(2, 0, 4, 9),
            "task 2 on agent 0 in ticks [4, 9): not eligible on agent type 0 (duration -1)",
        ),
        (
            changed(1, 1, 0, 3),
            "task 1 on agent 1 in ticks [0, 3) starts before its release at 1",
        ),
        (
            changed(2, 1, 16, 21),
            "task 2 on agent 1 in ticks [16, 21) overlaps the agent's outage [20, 25)",
        ),
        (
            changed(2, 1, 24, 29),
            "task 2 on agent 1 in ticks [24, 29) overlaps the agent's outage [20, 25)",
        ),
        (
            schedule_of(*GOOD, (3, 0, 20, 24)),
            "piece 3: task 3 on agent 0 does not exist (tasks 0 to 2, agents 0 to 1)",
        ),
        (
            schedule_of(*GOOD, (0, 2, 20, 24)),
            "piece 3: task 0 on agent 2 does not exist (tasks 0 to 2, agents 0 to 1)",
        ),
    ],
)
def test_each_rule_broken_once_is_one_violation(schedule: Schedule, violation: str) -> None:
    assert verify(three_tasks(), schedule) == [violation]


def test_several_rules_broken_at_once_are_all_listed() -> None:
    found = verify(three_tasks(), changed(2, 1, 1, 6))
    assert [violation.split(",")[0] for violation in found] == [
        "task 2 on agent 1 in ticks [1",
        "agent 1 holds 4 gpu at tick 1",
        "tenant 1 holds 4 gpu at tick 1",
    ]


def test_piece_may_end_where_an_outage_starts_and_start_where_it_ends() -> None:
    assert verify(three_tasks(), changed(2, 1, 15, 20)) == []
    assert verify(three_tasks(), changed(2, 1, 25, 30)) == []


def test_task_that_does_not_fit_its_agent_alone() -> None:
    small = three_tasks(capacity=[[1, 3], [3, 8]])
    assert verify(small, schedule_of(*GOOD)) == [
        "task 0 on agent 0 in ticks [0, 4) alone needs 4 memory, the agent has 3"
    ]


def test_overload_is_listed_once_per_maximal_interval() -> None:
    no_quota = three_tasks(quota=None)
    found = verify(no_quota, changed(2, 1, 3, 8))  # tasks 1 and 2 overlap on agent 1 in [3, 4)
    assert found == ["agent 1 holds 4 gpu at tick 3, capacity 3, exceeded in [3, 4) (tasks 1, 2)"]
    five = Instance([[2]] * 5, [[[1]]] * 5, [[1]], [0])
    schedule = schedule_of((0, 0, 0, 2), (1, 0, 1, 3), (2, 0, 2, 4), (3, 0, 6, 8), (4, 0, 6, 8))
    assert verify(five, schedule) == [
        "agent 0 holds 2 resource0 at tick 1, capacity 1, exceeded in [1, 3) (tasks 0, 1)",
        "agent 0 holds 2 resource0 at tick 6, capacity 1, exceeded in [6, 8) (tasks 3, 4)",
    ]


def test_piece_may_start_where_another_ends() -> None:
    instance = Instance([[2]] * 2, [[[1]]] * 2, [[1]], [0])
    assert verify(instance, schedule_of((0, 0, 0, 2), (1, 0, 2, 4))) == []


def test_quota_limits_the_sum_over_agents() -> None:
    found = verify(three_tasks(tenant=[0, 0, 1]), schedule_of(*GOOD))
    assert found == ["tenant 0 holds 3 gpu at tick 1, quota 1, exceeded in [1, 4) (tasks 0, 1)"]


BUDGET = Instance(
    duration=[[3, 5], [4, 2], [6, 1]],
    demand=[[[2], [2]], [[3], [4]], [[4], [4]]],
    capacity=[[6], [7]],
    agent_type=[0, 1],
    sharing="budget",
    tenant=[0, 1, 1],
    quota=[[9], [8]],
)


def test_budget_sharing() -> None:
    assert verify(BUDGET, Schedule.from_assignment(BUDGET, [0, 0, 1])) == []
    overload = Schedule.from_assignment(BUDGET, [0, 1, 1])
    assert verify(BUDGET, overload) == [
        "agent 1 holds 8 resource0 in total, capacity 7 (tasks 1, 2)"
    ]
    late = schedule_of((0, 0, 1, 4), (1, 0, 0, 4), (2, 1, 0, 1))
    assert verify(BUDGET, late) == [
        "task 0 on agent 0 in ticks [1, 4) must start at 0: `budget` sharing has no clock"
    ]
    small_quota = Instance(**{**BUDGET.to_dict(), "quota": [[9], [6]], "capacity": [[9], [9]]})
    assert verify(small_quota, Schedule.from_assignment(small_quota, [0, 0, 1])) == [
        "tenant 1 holds 7 resource0 in total, quota 6 (tasks 1, 2)"
    ]


# -- pieces lost to an outage ----------------------------------------------------------------------

KILLS: dict[str, Any] = {"outages": [(1, 20, 25, False)]}
LOST = (2, 1, 18, 20)


def test_task_killed_by_an_unannounced_outage_runs_again_in_full() -> None:
    assert verify(three_tasks(**KILLS), schedule_of(*GOOD[:2], LOST, (2, 1, 25, 30))) == []


@pytest.mark.parametrize(
    ("pieces", "violation"),
    [
        ([LOST], "task 2 was cut short by outages (1 lost pieces) and never assigned again"),
        (
            [(2, 1, 10, 15), LOST],
            "task 2 on agent 1 in ticks [10, 15) completes it, yet it runs again on agent 1",
        ),
    ],
)
def test_lost_piece_needs_a_complete_one_after_it(pieces: list[Piece], violation: str) -> None:
    assert verify(three_tasks(**KILLS), schedule_of(*GOOD[:2], *pieces)) == [violation]


@pytest.mark.parametrize("short", [(2, 1, 17, 19), (2, 1, 18, 21)])
def test_short_piece_that_does_not_end_at_the_outage_is_not_lost(short: Piece) -> None:
    found = verify(three_tasks(**KILLS), schedule_of(*GOOD[:2], short, (2, 1, 25, 30)))
    assert found[0].startswith("task 2 is assigned 2 times")
    assert found[1].endswith("its duration there is 5")


def test_lost_piece_may_not_overlap_the_next() -> None:
    three_agents = three_tasks(**KILLS, capacity=[[1, 8], [3, 8], [3, 8]], agent_type=[0, 1, 1])
    found = verify(three_agents, schedule_of(*GOOD[:2], LOST, (2, 2, 19, 24)))
    assert found[0] == (
        "task 2 on agent 1 in ticks [18, 20) overlaps its next piece, on agent 2 from 19"
    )
    assert verify(three_agents, schedule_of(*GOOD[:2], LOST, (2, 2, 20, 25))) == []


def test_announced_outage_with_exact_estimates_loses_no_piece() -> None:
    found = verify(three_tasks(), schedule_of(*GOOD[:2], LOST, (2, 1, 25, 30)))
    assert len(found) == 2
    assert found[0].startswith("task 2 is assigned 2 times")
    assert found[1] == "task 2 on agent 1 in ticks [18, 20) runs 2 ticks, its duration there is 5"


# -- random schedules against a check tick by tick -------------------------------------------------

Overload = tuple[str, int, int, int | None]  # noun, owner, resource, tick (None: in total)


def _random_case(rng: np.random.Generator) -> tuple[Instance, Schedule]:
    """Return a small instance with outages and tenants, and a schedule, often infeasible."""
    n, m, t, r, u = rng.integers([1, 1, 1, 1, 1], [8, 4, 3, 3, 3])
    duration = rng.integers(1, 5, (n, t))
    duration[rng.random((n, t)) < 0.15] = -1
    duration[:, 0] = np.where((duration < 0).all(axis=1), 2, duration[:, 0])
    agent_type = np.append(np.arange(t), rng.integers(t, size=m))
    m = len(agent_type)
    demand = rng.integers(0, 4, (n, t, r))
    budget = bool(rng.random() < 0.25)
    fields: dict[str, Any] = {
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
    instance = Instance(**fields)
    pieces: list[Piece] = []
    for task in rng.permutation(n)[: n - int(rng.random() < 0.2)].tolist():
        agent = int(rng.integers(m))
        length = max(1, int(duration[task, agent_type[agent]]))
        start = 0 if budget else int(rng.integers(0, 14))
        pieces.append((task, agent, start, start + length + int(rng.random() < 0.05)))
        for outage in instance.outages:
            if outage.agent != agent or not start < outage.start < start + length:
                continue
            if rng.random() < 0.8:  # killed, and runs again
                pieces[-1] = (task, agent, start, outage.start)
                pieces.append((task, agent, outage.end, outage.end + length))
    return instance, schedule_of(*pieces)


def _rows(schedule: Schedule) -> list[Piece]:
    columns = (schedule.task, schedule.agent, schedule.start, schedule.end)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _pieces_are_valid(instance: Instance, schedule: Schedule) -> bool:
    """Return whether all rules but those on capacities and quotas hold, piece by piece."""
    rows = _rows(schedule)
    complete: dict[int, list[int]] = {j: [] for j in range(instance.n_tasks)}  # starts
    valid = True
    for j, a, start, end in rows:
        agent_type = instance.agent_type[a]
        duration = instance.duration[j, agent_type]
        misestimated = instance.estimate[j, agent_type] != duration
        outages = [outage for outage in instance.outages if outage.agent == a]
        lost = end - start < duration and any(
            outage.start == end and (misestimated or not outage.announced) for outage in outages
        )
        complete[j] += [] if lost else [start]
        valid &= bool(duration >= 1 and (lost or end - start == duration))
        valid &= bool(start >= instance.release[j])
        valid &= bool(np.all(instance.demand[j, agent_type] <= instance.capacity[a]))
        valid &= not (instance.sharing == "budget" and start)
        valid &= not any(
            tick in range(outage.start, outage.end)
            for outage in outages
            for tick in range(start, end)
        )
    valid &= all(len(starts) == 1 for starts in complete.values())
    for j, a, start, end in rows:
        others = [row for row in rows if row[0] == j and row != (j, a, start, end)]
        valid &= not any(tick in range(*row[2:]) for row in others for tick in range(start, end))
        valid &= not complete[j] or start <= max(complete[j])
    return valid


def _overloads_by_tick(instance: Instance, schedule: Schedule) -> set[Overload]:
    """Return every overload at every tick; with `budget` sharing in total."""
    rows = _rows(schedule)
    last = max((row[3] for row in rows), default=0)
    ticks: list[int | None] = list(range(last)) if instance.sharing == "time" else [None]
    assert instance.tenant is not None
    assert instance.quota is not None
    limits = {"agent": instance.capacity, "tenant": instance.quota}
    found: set[Overload] = set()
    for tick in ticks:
        held: dict[tuple[str, int, int], int] = {}
        for j, a, start, end in rows:
            agent_type = instance.agent_type[a]
            if instance.duration[j, agent_type] < 1 or (
                tick is not None and not start <= tick < end
            ):
                continue
            units = instance.demand[j, agent_type]
            owners = [("tenant", int(instance.tenant[j]))]
            if np.all(units <= instance.capacity[a]):
                owners.append(("agent", a))
            for noun, owner in owners:
                for r in range(instance.n_resources):
                    held[noun, owner, r] = held.get((noun, owner, r), 0) + int(units[r])
        found |= {
            (noun, owner, r, tick)
            for (noun, owner, r), units in held.items()
            if units > limits[noun][owner, r]
        }
    return found


INTERVAL = re.compile(
    r"(agent|tenant) (\d+) holds \d+ resource(\d+) .*exceeded in \[(\d+), (\d+)\)"
)
TOTAL = re.compile(r"(agent|tenant) (\d+) holds \d+ resource(\d+) in total")


def _listed_overloads(violations: list[str]) -> set[Overload]:
    """Return the overloads that violations list, which must not list one twice."""
    listed: list[Overload] = []
    for violation in violations:
        if match := INTERVAL.match(violation):
            owner, r, start, end = map(int, match.groups()[1:])
            listed += [(match[1], owner, r, tick) for tick in range(start, end)]
        elif match := TOTAL.match(violation):
            listed.append((match[1], int(match[2]), int(match[3]), None))
    assert len(set(listed)) == len(listed)
    return set(listed)


def test_verifier_agrees_with_a_check_tick_by_tick() -> None:
    rng = np.random.default_rng(7)
    cases = {"feasible": 0, "infeasible": 0, "overloaded": 0, "feasible with kills": 0}
    for _ in range(1500):
        instance, schedule = _random_case(rng)
        found = verify(instance, schedule)
        overloads = _overloads_by_tick(instance, schedule)
        feasible = _pieces_are_valid(instance, schedule) and not overloads
        assert (found == []) == feasible, (instance.to_dict(), schedule.to_dict(), found)
        assert _listed_overloads(found) == overloads
        cases["feasible" if feasible else "infeasible"] += 1
        cases["overloaded"] += bool(overloads)
        cases["feasible with kills"] += feasible and len(schedule.task) > instance.n_tasks
    assert min(cases.values()) >= 10, cases
