"""Settings: errors for contradictions, and settings stored by earlier versions."""

from dataclasses import asdict

import pytest

from bench.instance import Instance
from bench.run.runner import evaluate
from bench.setting import Setting, SettingError
from bench.simulator import Simulator
from bench.simulator.gym import SchedulingEnv
from solvers.rules import SJF

BUDGET = Instance([[3]], [[[1]]], [[1]], [0], sharing="budget")
TIME = Instance([[3]], [[[1]]], [[1]], [0])


def test_from_dict_is_the_inverse_of_asdict() -> None:
    for setting in (Setting(), Setting(mode="commit", backfill="easy", event_order="sequential")):
        assert Setting.from_dict(asdict(setting)) == setting
    assert Setting.from_dict({"objective": "makespan"}) == Setting(objective="makespan")


def test_from_dict_reads_the_former_name_of_the_event_order() -> None:
    stored = {"track": "online", "observe": "arrived", "events": "singly"}
    expected = Setting(track="online", observe="arrived", event_order="sequential")
    assert Setting.from_dict(stored) == expected
    assert Setting.from_dict({"events": "together"}) == Setting()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "cost"}, "objective: 'cost' must be one of total_time, makespan"),
        ({"event_order": "random"}, "event_order: 'random' must be one of batched, sequential"),
        ({"events": "random"}, "event_order: 'random' must be one of"),
        ({"track": "online"}, "observe: track=online shows arrived tasks only"),
        ({"backfill": "easy"}, "backfill: easy needs mode=commit"),
        ({"track": "assign", "objective": "makespan"}, "objective: track=assign has no clock"),
        ({"track": "assign", "mode": "commit"}, "mode: track=assign has no clock"),
        (
            {"track": "assign", "event_order": "sequential"},
            "event_order: track=assign has no clock and no events; set event_order=batched",
        ),
        ({"event": "batched"}, "event: unknown field; known are track, objective"),
    ],
)
def test_errors_name_the_field_and_the_rule(fields: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Setting.from_dict(fields)


def test_an_instance_must_suit_the_setting() -> None:
    with pytest.raises(SettingError, match="sharing=budget; set track=assign"):
        Setting().check(BUDGET)
    with pytest.raises(SettingError, match="sharing=time; set track=schedule or online"):
        Setting(track="assign").check(TIME)
    with pytest.raises(SettingError, match="tardiness needs due dates"):
        Setting(objective="tardiness").check(TIME)


def test_budget_sharing_has_no_events_that_could_be_ordered() -> None:
    sequential = Setting(event_order="sequential")
    with pytest.raises(SettingError, match="event_order: track=assign has no clock"):
        evaluate(SJF(), [BUDGET], sequential)
    for played in (
        lambda: Simulator([BUDGET], sequential),
        lambda: SchedulingEnv([BUDGET], sequential),
    ):
        with pytest.raises(SettingError, match="set track=assign"):
            played()


def test_information_is_online_only_if_policies_observe_arrived_tasks() -> None:
    assert Setting().information == "clairvoyant"
    assert Setting(observe="arrived").information == "online"
