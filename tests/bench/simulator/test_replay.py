"""The compiled replay of queue rules makes the schedules of the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench import plugins
from bench.contracts import Budget
from bench.instance import Instance
from bench.observation import Observation
from bench.queue_order import QueueOrder
from bench.rollout import PolicySolver
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator.replay import replay, supports
from bench.verify import verify
from solvers.rules import HRRN, SJF

SETTINGS = {"known": Setting(), "online": Setting(track="online", observe="arrived")}
RULES = {
    name: rule
    for name, rule in {
        **plugins.rules(),
        **{name: plugins.load("solver", name) for name in ("wfp3_published", "unicep_published")},
        "sjf_blocking": SJF(skip=False),
        "hrrn_blocking": HRRN(skip=False),
    }.items()
    if rule.queue_order() is not None
}


def contended(seed: int, n: int = 30) -> Instance:
    """Return n tasks on four agents of two types, with quotas, estimates and ties in turn."""
    rng = np.random.default_rng(seed)
    duration = rng.integers(1, 30 if seed % 4 else 4, (n, 2))
    duration[rng.random((n, 2)) < 0.1] = -1
    duration[(duration == -1).all(axis=1)] = 5
    release = rng.integers(0, 60, n)
    fields = {
        "duration": duration,
        "demand": rng.integers(0, 4, (n, 2, 2)),
        "capacity": [[4, 6], [3, 3], [5, 4], [4, 6]],
        "agent_type": [0, 1, 0, 0],
        "release": release,
        "weight": rng.integers(0, 5, n),
        "due": release + rng.integers(0, 40, n),
        "tick_seconds": 60.0,
    }
    if seed % 5 == 4:
        fields |= {"due": None, "tenant": rng.integers(0, 3, n)}
    if seed % 2:
        fields |= {"tenant": rng.integers(0, 3, n), "quota": [[6, 7], [7, 6], [5, 5]]}
    if seed % 3 == 0:
        wrong = np.maximum(1, duration + rng.integers(-4, 5, (n, 2)))
        fields["estimate"] = np.where(duration == -1, -1, wrong)
    return Instance(**fields)


def rows(schedule: Schedule) -> list[tuple[int, ...]]:
    """Return task, agent, start and end of each piece, in the order of tasks."""
    columns = (schedule.task, schedule.agent, schedule.start, schedule.end)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def test_most_rules_of_conf_can_be_replayed() -> None:
    assert {"fifo", "fifo_skip", "sjf", "edf", "f1", "hrrn", "wfp3", "unicep"} <= set(RULES)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", RULES)
def test_the_schedule_is_that_of_the_rule_in_the_simulator(name: str, setting: str) -> None:
    rule, played = RULES[name], SETTINGS[setting]
    order = rule.queue_order()
    assert order is not None
    for seed in range(8):
        instance = contended(seed)
        assert supports(instance, played)
        replayed = replay(instance, played, order)
        solver = PolicySolver(rule)
        simulated = solver.solve(instance, played, Budget(), np.random.default_rng(0)).schedule
        assert rows(replayed) == rows(simulated)
        assert verify(instance, replayed) == []
        assert (np.diff(replayed.start) >= 0).all()  # in the order of the starts


def test_tasks_without_resources_start_at_once() -> None:
    instance = Instance([[5], [2]], np.zeros((2, 1, 0)), np.zeros((1, 0)), [0], release=[0, 1])
    order = SJF().queue_order()
    assert order is not None
    assert rows(replay(instance, Setting(), order)) == [(0, 0, 0, 5), (1, 0, 1, 3)]


def test_keys_of_many_agents_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = contended(1)
    orders = [rule.queue_order() for rule in (SJF(), HRRN())]
    whole = [rows(replay(instance, Setting(), order)) for order in orders if order is not None]
    monkeypatch.setattr("bench.simulator.replay.PAIRS_AT_ONCE", 8)
    parts = [rows(replay(instance, Setting(), order)) for order in orders if order is not None]
    assert parts == whole


def test_many_resources_are_added_in_one_order() -> None:
    rng = np.random.default_rng(2)
    units = rng.integers(3, 9, 9)
    instance = Instance(
        rng.integers(5, 7, (20, 1)),
        rng.integers(0, 3, (20, 1, 9)),
        np.stack([np.roll(units, shift) for shift in range(9)]),
        np.zeros(9, dtype=np.int64),
    )
    order = SJF().queue_order()
    assert order is not None
    solver = PolicySolver(SJF())
    simulated = solver.solve(instance, Setting(), Budget(), np.random.default_rng(0)).schedule
    assert rows(replay(instance, Setting(), order)) == rows(simulated)


def test_a_rule_with_keys_of_its_own_is_left_to_the_simulator() -> None:
    class ByQueueLength(SJF):
        def priority(self, observation: Observation) -> Any:
            return super().priority(observation) * (-1) ** len(observation.release)

    class ByAgeOfTheQueue(HRRN):
        def utility_seconds(self, observation: Observation) -> Any:
            return super().utility_seconds(observation) ** 2

    class StillStatic(SJF):
        static = True

        def priority(self, observation: Observation) -> Any:
            return -super().priority(observation)

    assert ByQueueLength().queue_order() is ByAgeOfTheQueue().queue_order() is None
    assert StillStatic().queue_order() is not None


def test_keys_that_are_no_numbers_are_refused() -> None:
    order = QueueOrder(lambda observation: np.full(len(observation.release), np.nan), skip=True)
    with pytest.raises(ValueError, match="a key is NaN"):
        replay(contended(1), Setting(), order)


def test_what_is_not_supported_is_left_to_the_simulator() -> None:
    instance = contended(1)
    assert not supports(instance, Setting(mode="commit"))
    assert not supports(instance, Setting(event_order="sequential"))
    outage = Instance([[5]], [[[1]]], [[1]], [0], outages=[(0, 9, 12)])  # type: ignore[list-item]
    assert not supports(outage, Setting())
    order = SJF().queue_order()
    assert order is not None
    with pytest.raises(ValueError, match="use the simulator"):
        replay(outage, Setting(), order)
