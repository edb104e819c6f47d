"""Attempts to enter `online` with knowledge of the future, by name: each is refused or marked."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.contracts import Budget, Dataset, Learner, Policy, Result, Solver, TrainingLogger
from bench.errors import UserError
from bench.generators import without_seed
from bench.instance import Instance
from bench.observation import Observation
from bench.references import References
from bench.rollout import PolicySolver, play
from bench.run import online
from bench.run.isolated import IsolatedActor, PolicyProcess, pickled
from bench.run.job import Job
from bench.run.record import Record
from bench.run.runner import evaluate, run
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator import Simulator
from bench.tracking import Off
from tests.bench.run.cheats import (
    ATTEMPTS,
    LOOT,
    SECRET,
    Answering,
    Clock,
    Drawing,
    Holding,
    Patching,
    Prying,
    Rewinding,
    Smuggled,
    end_process,
    forged_answers,
    nonsense_answers,
)

ONLINE = Setting(track="online", observe="arrived")


class Waves(Dataset):
    """Two instances of 12 tasks that arrive over time on two agents; estimates are wrong."""

    name = "waves"

    def instances(self, split: str) -> Iterator[Instance]:
        for i in range(2):
            rng = np.random.default_rng(i)
            duration = rng.integers(2, 9, (12, 1))
            yield Instance(
                duration,
                np.ones((12, 1, 1), dtype=int),
                [[1], [2]],
                [0, 0],
                release=np.sort(rng.integers(0, 20, 12)),
                weight=rng.integers(1, 5, 12),
                estimate=duration + 1,
                name=f"wave-{i}",
            )


INSTANCES = tuple(Waves().instances("test"))


class Planned(Solver):
    """Plans with the whole instance: one task after the other."""

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        order = np.argsort(instance.release, kind="stable")
        start = np.zeros(instance.n_tasks, dtype=int)
        now = 0
        for j in order:
            start[j] = max(now, instance.release[j])
            now = start[j] + instance.duration[j, 0]
        return Result(Schedule.from_assignment(instance, np.zeros(12, dtype=int), start))


def job(plugin: Any, setting: Setting = ONLINE, **changes: Any) -> Job:
    fields: dict[str, Any] = {"config": {"solver": {"_target_": type(plugin).__name__}}, **changes}
    return Job("cheat", plugin, Waves(), INSTANCES, setting, **fields)


@pytest.fixture
def go(tmp_path: Path) -> Any:
    """Run a job without tracking and pictures; return its record."""

    def run_it(one: Job) -> Record:
        references = References(tmp_path / "cache")
        return run(one, tmp_path / "runs", references, Off(), pictures=False)

    return run_it


# -- knowing the future by role -------------------------------------------------------------------


class Returning(Learner):
    """A learner that returns what it was given."""

    def __init__(self, trained: Any) -> None:
        self._trained = trained

    def fit(
        self,
        data: Dataset,
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        logger: TrainingLogger,
    ) -> Any:
        return self._trained(data) if callable(self._trained) else self._trained


def test_a_learner_whose_fit_returns_a_solver(go: Any) -> None:
    with pytest.raises(UserError, match=r"cheat plans with the future known .Planned is a Solver"):
        go(job(Returning(Planned())))
    assert go(job(Returning(Planned()), Setting()))["information"] == "clairvoyant"


def test_a_solver_that_declares_not_to_need_the_future() -> None:
    with pytest.raises(
        TypeError, match=r"Honest.clairvoyant: a Solver is given the whole instance"
    ):
        type("Honest", (Planned,), {"clairvoyant": False})


def test_a_solver_that_declares_it_at_run_time() -> None:
    solver = Planned()
    vars(solver)["clairvoyant"] = False
    with pytest.raises(UserError, match=r"Planned.clairvoyant: a Solver is given the whole"):
        job(solver)


def test_a_learner_that_returns_a_solver_which_declares_it_at_run_time(go: Any) -> None:
    solver = Planned()
    vars(solver)["clairvoyant"] = False
    with pytest.raises(UserError, match="may not enter track=online"):
        go(job(Returning(solver)))


def test_a_solver_that_is_a_policy_as_well() -> None:
    both = type("Both", (Planned, Holding), {})(None)
    with pytest.raises(UserError, match="Both is Solver and Policy at once"):
        job(both)


def test_a_learner_that_returns_a_solver_that_is_a_policy_as_well(go: Any) -> None:
    both = type("Both", (Planned, Holding), {})(None)
    with pytest.raises(UserError, match="Both is a Solver"):
        go(job(Returning(both)))


def test_a_solver_whose_class_attribute_says_policy() -> None:
    disguised = type("Disguised", (Planned,), {"__class__": Holding})()
    assert isinstance(disguised, Policy)
    with pytest.raises(UserError, match="plans with the future known"):
        job(disguised)


def test_a_rollout_of_a_policy_with_a_solve_of_its_own(go: Any) -> None:
    own = type("Own", (PolicySolver,), {"solve": Planned.solve})(Holding(None))
    with pytest.raises(UserError, match="Own is a Solver"):
        go(job(Returning(own)))


def test_a_learner_that_returns_neither_solver_nor_policy(go: Any) -> None:
    with pytest.raises(UserError, match="object is neither a solver nor a policy"):
        go(job(Returning(object())))


def test_a_solver_in_python() -> None:
    with pytest.raises(UserError, match="Planned plans with the future known"):
        evaluate(Planned(), INSTANCES, ONLINE)


# -- reaching the future from the process of the policy -------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `Prying` found in its second session, of all attempts."""
    LOOT.append("seen in the suite's process")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, str(tmp_path_factory.mktemp("data") / "test.json.gz"))
        patch.setattr(sys, "argv", ["bench", "dataset=waves", "dataset.path=test.json.gz"])
        snapshot = pickled(Prying(), INSTANCES)
        process = PolicyProcess(snapshot)
        try:
            for _ in range(2):
                rng = without_seed(np.random.default_rng([5, 7]))
                process.start_session()
                actor = IsolatedActor(process, snapshot)
                result = play(actor, INSTANCES[0], ONLINE, rng)
        finally:
            process.close()
    LOOT.clear()
    return dict(result.info)


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_policy_finds_nothing_when_it(attempt: str, found: dict[str, Any]) -> None:
    assert found["found"][attempt] == []


def test_the_same_attempts_find_something_in_the_suites_own_process() -> None:
    """The attempts are real: without a process of its own the policy reaches the instance."""
    result = PolicySolver(Prying()).solve(
        INSTANCES[0], ONLINE, Budget(), np.random.default_rng([5, 7])
    )
    found = result.info["found"]
    assert "Simulator" in found["walks the call stack"]
    assert "Instance" in found["lists all objects of the garbage collector"]
    assert "Instance" in found["inspects its callers"]
    assert found["finds the runner"]
    assert "5, 7" in result.info["entropy"]
    LOOT.clear()


def test_a_policy_that_reads_the_base_of_an_observed_array(found: dict[str, Any]) -> None:
    assert found["bases"] == []
    assert found["attributes"] == sorted(Observation.__dataclass_fields__)


@pytest.mark.parametrize("setting", [ONLINE, Setting()])
def test_no_observed_array_is_a_view_of_the_simulator(setting: Setting) -> None:
    """The base of `duration` held the true durations beside the estimates."""
    simulator = Simulator(INSTANCES, setting)
    reachable = [*simulator.tables, *simulator.state]
    for _ in range(10):
        observation = simulator.observation(0)
        for name, value in vars(observation).items():
            if isinstance(value, np.ndarray):
                assert value.base is None, name
                for array in reachable:
                    assert not (isinstance(array, np.ndarray) and np.shares_memory(value, array))
        simulator.step(simulator.state.mask.argmax(axis=1))


def test_a_policy_that_reads_the_seed_of_its_generator(found: dict[str, Any]) -> None:
    assert "5, 7" not in found["entropy"]
    again = without_seed(np.random.default_rng([5, 7]))
    assert "5, 7" not in str(again.bit_generator.seed_seq.entropy)  # type: ignore[attr-defined]
    assert np.array_equal(again.random(9), np.random.default_rng([5, 7]).random(9))


# -- bringing the future along --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "named"),
    [
        (INSTANCES[1], "the instance wave-1"),
        ({"deep": [{"down": INSTANCES[0]}]}, "the instance wave-0"),
        (Waves(), "a Waves"),
        (Simulator(INSTANCES, Setting()), "a Simulator"),
        (lambda: INSTANCES[0], "the instance wave-0"),
    ],
    ids=["an instance", "an instance deep inside", "the dataset", "a simulator", "a function"],
)
def test_a_policy_that_holds(held: Any, named: str, go: Any) -> None:
    with pytest.raises(UserError, match=f"Holding holds {named}"):
        go(job(Holding(held)))


def test_a_learner_whose_policy_keeps_the_data(go: Any) -> None:
    with pytest.raises(UserError, match="Holding holds a TrainingData"):
        go(job(Returning(lambda data: Holding(data))))


def test_a_policy_may_hold_other_instances(go: Any) -> None:
    other = Instance([[1]], [[[1]]], [[1]], [0])
    assert go(job(Holding(other)))["non_anticipation"] == "checked"


def test_a_policy_that_cannot_be_sent(go: Any) -> None:
    with pytest.raises(
        UserError, match=r"Holding cannot be sent to a process of its own .*isolate"
    ):
        go(job(Holding(threading.Lock())))


# -- the future by another way: non-anticipation --------------------------------------------------


class StackReader(Policy):
    """Finds the simulator on the call stack and decides by the tasks to come."""

    observe = "arrived"

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        frame = sys._getframe()
        while frame.f_back is not None and "simulator" not in frame.f_locals:
            frame = frame.f_back
        (instance,) = frame.f_locals["simulator"].instances
        legal = np.flatnonzero(observation.mask)
        return int(legal[(instance.release > observation.time).sum() % len(legal)])


def test_a_reader_of_the_call_stack_in_the_suites_own_process(go: Any, tmp_path: Path) -> None:
    one = job(StackReader(), isolate=False)
    record = go(one)
    assert (record["status"], record["errors"], record["isolated"]) == ("failed", 2, False)
    assert record["non_anticipation"] == "failed"
    assert record["error"].startswith("decisions depend on the future: wave-")
    assert record["optimal"] == 0.0
    assert go(one)["status"] == "failed"  # run again, failed again


def test_a_reader_of_the_call_stack_in_a_process_of_its_own(go: Any) -> None:
    record = go(job(StackReader()))
    assert (record["status"], record["errors"]) == ("failed", 2)
    assert record["error"] == "KeyError: 'simulator'"


def test_a_plug_in_that_changes_the_simulator_to_show_the_future(
    go: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Simulator.observation

    def observation(self: Simulator, b: int) -> Observation:
        shown = honest(self, b)
        shown.kind[:] = (self.instances[0].release > shown.time).sum()
        return shown

    monkeypatch.setattr(Simulator, "observation", observation)
    record = go(job(Smuggled()))
    assert (record["status"], record["isolated"]) == ("failed", True)
    assert record["non_anticipation"] == "failed"
    assert "something has changed the simulator" in record["error"]


def test_a_policy_that_decides_differently_each_time_is_marked(go: Any) -> None:
    record = go(job(Clock()))
    assert (record["status"], record["non_anticipation"]) == ("finished", "not reproducible")


def test_an_honest_policy_is_checked(go: Any) -> None:
    record = go(job(Drawing()))
    assert (record["status"], record["information"]) == ("finished", "online")
    assert (record["isolated"], record["non_anticipation"]) == (True, "checked")


def test_a_solver_that_knows_the_future_says_so(go: Any) -> None:
    record = go(job(Planned(), Setting()))
    assert (record["information"], record["isolated"]) == ("clairvoyant", False)
    assert record["non_anticipation"] == "not applicable"


# -- answers that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (10**30, "IllegalAction: act: value 1000000000000000000000000000000 at tick"),
        (-1, "IllegalAction: act: value -1 at tick"),
        ("0", "IllegalAction: act: value \"'0'\" at tick"),
        (np.float64(0.0), "IllegalAction: act: value"),
        (sys.exit, "SystemExit"),
        (forged_answers, "the policy's process: unreadable answer (a message of"),
        (nonsense_answers, "the policy's process: unreadable answer"),
    ],
    ids=["a huge action", "-1", "a text", "a float", "exit", "a forged length", "no JSON"],
)
def test_a_policy_that_answers_with(action: Any, error: str, go: Any) -> None:
    record = go(job(Answering(action)))
    assert (record["status"], record["errors"]) == ("failed", 2)
    assert record["error"].startswith(error)


def test_a_policy_that_ends_its_process(go: Any) -> None:
    record = go(job(Answering(end_process)))
    assert (record["status"], record["errors"]) == ("failed", 2)
    assert record["error"] == "the policy ended its process (exit status 7)"


def test_a_policy_whose_facts_are_no_json(go: Any) -> None:
    record = go(job(Answering(None, {"a": {1, 2}})))
    assert record["errors"] == 2
    assert record["error"].startswith("TypeError: Object of type set is not JSON serializable")


def test_a_policy_that_turns_back_the_clock(go: Any) -> None:
    record = go(job(Rewinding()))
    assert record["errors"] == 2
    assert "is no action and time" in record["error"]


def test_a_policy_that_replaces_the_verifier(go: Any) -> None:
    """It replaces that of its own process; the suite's numbers stay those of an honest policy."""
    record = go(job(Patching()))
    honest = go(job(Holding(None)))
    assert record["feasible"] == 1.0
    assert record["objective_mean"] == honest["objective_mean"] > 0


# -- the same decisions ---------------------------------------------------------------------------


def test_a_policy_decides_the_same_in_both_processes() -> None:
    schedules = []
    for isolate in (False, True):
        solver = online.entrant(Drawing(), job(Drawing(), isolate=isolate))
        try:
            results = [
                solver.solve(one, ONLINE, Budget(), np.random.default_rng([0, i]))
                for i, one in enumerate(INSTANCES)
            ]
        finally:
            online.close(solver)
        schedules.append([result.schedule.to_dict() for result in results])
    assert schedules[0] == schedules[1]
