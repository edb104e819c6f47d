"""Roles and capabilities of plug-ins: defaults, misspelt names, wrong types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bench.capabilities import CAPABILITIES
from bench.contracts import (
    Dataset,
    Learner,
    Plugin,
    Policy,
    Result,
    Solver,
    TrainingLogger,
    check_plugin,
)
from bench.errors import UserError, one_line
from bench.instance import Instance
from bench.observation import Observation
from bench.rollout import PolicySolver, as_solver, setting_of
from bench.setting import TRACKS, Setting


class FirstLegal(Policy):
    """Takes the first legal action."""

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        return int(observation.mask.argmax())


class Nothing(Solver):
    """Returns nothing."""

    def solve(self, instance: Instance, *arguments: Any) -> Result:
        raise NotImplementedError


def test_every_capability_has_a_default_of_its_type() -> None:
    policy = FirstLegal()
    check_plugin("solver", policy)
    check_plugin("solver", Nothing())
    roles = (Plugin, Solver, Policy, Learner)
    declared = {name for role in roles for name in vars(role) if not name.startswith("_")}
    assert declared - {"solve", "act", "fit"} == set(CAPABILITIES)
    assert (policy.tracks, policy.observe, policy.window, policy.logs) == (TRACKS, None, None, None)
    assert (policy.clairvoyant, Nothing().clairvoyant) == (False, True)
    assert (policy.facts(), policy.draws_actions, policy.baseline) == ({}, False, False)


@pytest.mark.parametrize("value", [False, property(lambda self: True), None])
def test_a_solver_class_cannot_declare_that_it_does_not_need_the_future(value: Any) -> None:
    with pytest.raises(TypeError, match=r"Mine\.clairvoyant"):
        type("Mine", (Nothing,), {"clairvoyant": value})


def test_a_plug_in_has_one_role() -> None:
    both = type("Both", (FirstLegal, Nothing), {"clairvoyant": True})()
    with pytest.raises(UserError, match="solver: Both is Solver and Policy at once"):
        check_plugin("solver", both)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"observ": "arrived"}, r"Mine.observ: no capability .* did you mean `observe`\?"),
        ({"warmup": lambda self: None}, "did you mean `warm_up`"),
        ({"fact": lambda self: {}}, "did you mean `facts`"),
        ({"track": ("assign",)}, "did you mean `tracks`"),
        ({"tracks": "assign"}, "Mine.tracks: value 'assign': must be a sequence of tracks"),
        ({"tracks": 5}, "Mine.tracks: value 5: must be a sequence of tracks"),
        ({"tracks": ("offline",)}, "Mine.tracks: .* of assign, schedule, online"),
        ({"observe": "everything"}, "Mine.observe: value 'everything': must be 'all', 'arrived'"),
        ({"clairvoyant": 1}, "Mine.clairvoyant: value 1: must be True or False"),
        ({"window": 0}, "Mine.window: value 0: must be a positive integer or None"),
        ({"facts": {"a": 1}}, "Mine.facts: .* must be a method"),
    ],
)
def test_a_misspelt_or_wrongly_typed_capability_is_an_error(
    attributes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(TypeError, match=expected):
        type("Mine", (FirstLegal,), attributes)
    instance = FirstLegal()
    vars(instance).update(attributes)
    with pytest.raises(UserError, match=expected.replace("Mine", "solver: FirstLegal")):
        check_plugin("solver", instance)


def test_other_names_are_free() -> None:
    class Mine(FirstLegal):
        width = 3
        rounds = 2
        log = True
        shape = (1, 2)

    check_plugin("solver", Mine())


def test_a_class_with_the_method_alone_is_an_error_that_names_the_base_classes() -> None:
    class Bare:
        def act(self, observation: Observation, rng: np.random.Generator) -> int:
            return 0

    with pytest.raises(UserError, match="derive it from Solver, Policy or Learner"):
        check_plugin("solver", Bare())
    with pytest.raises(UserError, match="neither a solver nor a policy"):
        as_solver(Bare())


def test_logs_that_are_no_log_are_refused() -> None:
    policy = FirstLegal()
    vars(policy)["logs"] = object()
    with pytest.raises(UserError, match=r"solver\.logs: object is no log; derive it from Logged"):
        check_plugin("solver", policy)


def test_a_plug_in_without_its_method_cannot_be_made() -> None:
    class Mine(Policy):
        pass

    with pytest.raises(TypeError, match="act"):
        Mine()  # type: ignore[abstract]


def test_a_policy_becomes_a_solver_and_a_solver_stays() -> None:
    solver = Nothing()
    assert as_solver(solver) is solver
    assert isinstance(as_solver(FirstLegal()), PolicySolver)


def test_what_a_plug_in_observes_replaces_the_setting() -> None:
    class Blind(FirstLegal):
        observe = "arrived"

    assert setting_of(Blind(), Setting()).observe == "arrived"
    assert setting_of(FirstLegal(), Setting()) == Setting()


def test_recording_a_learner_without_episodes_is_an_error() -> None:
    class Mine(Learner):
        def fit(
            self,
            data: Dataset,
            setting: Setting,
            budget: Any,
            rng: np.random.Generator,
            logger: TrainingLogger,
        ) -> Policy:
            return FirstLegal()

    recorder: Any = None
    with pytest.raises(UserError, match="Mine plays no episodes"):
        Mine().record_episodes(recorder)


def test_a_data_set_pins_nothing_unless_it_declares_hashes() -> None:
    class Empty(Dataset):
        name = "empty"

        def instances(self, split: str) -> Iterator[Instance]:
            yield from ()

    assert dict(Empty().hashes) == {}


def test_an_exception_in_one_line() -> None:
    assert one_line(UserError("seed:\n  bad")) == "seed: bad"
    assert one_line(ValueError("a\n\nb")) == "ValueError: a b"
    assert len(one_line(ValueError("x" * 1000))) == 500
