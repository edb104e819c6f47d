"""What plug-ins are given: no test split to learn from, and no instance of the suite's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.contracts import Budget, Dataset, Learner, Policy, Result, Solver, TrainingLogger
from bench.errors import UserError
from bench.instance import Instance, Outage, read_json
from bench.protection import AlteredInstance, TrainingData, check_unaltered, copy_of
from bench.references import References
from bench.run.job import Job
from bench.run.record import Record
from bench.run.runner import evaluate, run
from bench.schedule import Schedule
from bench.setting import Setting
from bench.tracking import Off


def instance(name: str = "one", duration: int = 5) -> Instance:
    """Two tasks of `duration` and 2 ticks on one agent that holds one of them."""
    return Instance(
        [[duration], [2]],
        [[[1]], [[1]]],
        [[1]],
        [0],
        due=[9, 9],
        tenant=[0, 0],
        quota=[[1]],
        outages=[Outage(0, 90, 95)],
        name=name,
    )


class Kept(Dataset):
    """A dataset that keeps its instances: what changes them once changes them for everybody."""

    name = "kept"

    def __init__(self) -> None:
        self.kept = {
            split: [instance(f"{split}-{i}", 5 + i) for i in range(2)]
            for split in ("train", "validation", "test")
        }

    def instances(self, split: str) -> Iterator[Instance]:
        yield from self.kept[split]


class First(Policy):
    """Takes the first legal action."""

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        return int(np.argmax(observation.mask))


class Fits(Learner):
    """Calls a function with the data that it is given."""

    def __init__(self, use: Callable[[Dataset], object]) -> None:
        self.use = use

    def fit(
        self,
        data: Dataset,
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        logger: TrainingLogger,
    ) -> Policy:
        self.use(data)
        return First()


class Changes(Solver):
    """Changes instance `victim` by a function, then returns a correct schedule of what it got."""

    def __init__(self, change: Callable[[Instance], None], victim: str = "test-0") -> None:
        self.change, self.victim = change, victim

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        if instance.name == self.victim:
            self.change(instance)
        first = int(instance.duration[0, 0])
        return Result(Schedule.from_assignment(instance, [0, 0], [0, first]))


def write_flags(one: Instance) -> None:
    one.duration.flags.writeable = True
    one.duration[:] = 1


def set_attribute(one: Instance) -> None:
    object.__setattr__(one, "duration", np.ones((2, 1), dtype=np.int64))


def swap_attributes(one: Instance) -> None:
    vars(one)["due"], vars(one)["release"] = one.release, one.due


def delete_attribute(one: Instance) -> None:
    object.__delattr__(one, "quota")


def rename(one: Instance) -> None:
    object.__setattr__(one, "name", "test-1")


def other_type(one: Instance) -> None:
    object.__setattr__(one, "due", one.due.astype(float))  # type: ignore[union-attr]


CHANGES = {
    write_flags: "duration",
    set_attribute: "duration",
    swap_attributes: "release",
    delete_attribute: "quota",
    rename: "name",
    other_type: "due",
}


def job(plugin: Any, data: Dataset | None = None) -> Job:
    data = data or Kept()
    config = {"solver": {"_target_": "x"}, "dataset": {"_target_": "kept"}}
    return Job("mine", plugin, data, tuple(data.instances("test")), Setting(), config=config)


@pytest.fixture
def go(tmp_path: Path) -> Any:
    """Run a job in tmp_path without tracking."""

    def run_it(one: Job) -> Record:
        return run(one, tmp_path / "runs", References(tmp_path / "cache"), Off(), pictures=False)

    return run_it


def test_a_copy_is_equal_shares_no_array_and_is_frozen() -> None:
    one = instance()
    copied = copy_of(one)
    assert copied.hash() == one.hash()
    assert copied.name == one.name
    for field in fields(Instance):
        value, other = getattr(one, field.name), getattr(copied, field.name)
        if isinstance(value, np.ndarray):
            assert not np.shares_memory(value, other)
            assert not other.flags.writeable
    check_unaltered(one, copied, "mine")


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_of_a_copy_is_found_and_named(change: Callable[[Instance], None]) -> None:
    one = instance()
    lent = copy_of(one)
    change(lent)
    with pytest.raises(AlteredInstance, match=f"^mine changed {CHANGES[change]} of instance one"):
        check_unaltered(one, lent, "mine")


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_solver_that_changes_an_instance_gets_an_error_row_for_that_one(
    change: Callable[[Instance], None], go: Any
) -> None:
    data = Kept()
    hashes = [one.hash() for one in data.kept["test"]]
    record = go(job(Changes(change), data))
    assert record["errors"] == 1
    assert f"changed {CHANGES[change]} of instance test-0" in str(record["error"])
    assert [one.hash() for one in data.kept["test"]] == hashes
    table = evaluate(Changes(change), data.kept["test"])
    assert list(table["status"]) == ["error", "feasible"]
    assert table["objective"][1] == 6 + 8  # of the instance as it is: 6 ticks, then 2


def test_the_next_solver_gets_the_instance_as_it_was(tmp_path: Path, go: Any) -> None:
    data = Kept()
    go(job(Changes(write_flags), data))
    record = go(job(Changes(lambda one: None), data))
    assert record["errors"] == 0
    assert record["objective_mean"] == ((5 + 7) + (6 + 8)) / 2
    stored = read_json(
        job(Changes(lambda one: None), data).folder(tmp_path / "runs") / "instances.json.gz"
    )
    assert [one["duration"] for one in stored] == [[[5], [2]], [[6], [2]]]


def test_a_result_of_a_wrong_type_is_an_error_row() -> None:
    class Words(Solver):
        def solve(self, *arguments: Any) -> Any:
            return "optimal"

    (row,) = evaluate(Words(), [instance()]).to_dict("records")
    assert row["status"] == "error"
    assert "str, not a bench.contracts.Result" in row["error"]
    assert row["feasible"] == 0.0


@pytest.mark.parametrize("split", ["test", "Test", "", "all"])
def test_a_learner_that_asks_for_the_test_split_is_an_error(split: str, go: Any) -> None:
    with pytest.raises(UserError, match=rf"^dataset\.instances: value '{split}': mine asked for"):
        go(job(Fits(lambda data: data.instances(split))))


def test_asking_is_an_error_even_if_the_learner_catches_it(go: Any) -> None:
    def ask(data: Dataset) -> None:
        try:
            list(data.instances("test"))
        except UserError:
            list(data.instances("train"))

    with pytest.raises(UserError, match="value 'test': mine asked for this split"):
        go(job(Fits(ask)))


def test_no_attribute_of_the_data_leads_to_the_dataset(go: Any) -> None:
    data = TrainingData(Kept(), "mine")
    closures = {"_instances", "_check", "_training_instance"}
    assert set(vars(data)) == {"name", "hashes", "endless", *closures}
    assert not any(isinstance(value, Dataset | Instance) for value in vars(data).values())
    with pytest.raises(AttributeError):
        data.kept  # type: ignore[attr-defined]  # noqa: B018


def test_a_learner_gets_copies_the_same_ones_at_every_call() -> None:
    kept = Kept()
    data = TrainingData(kept, "mine")
    first, again = list(data.instances("train")), list(data.instances("train"))
    assert [one.hash() for one in first] == [one.hash() for one in kept.kept["train"]]
    assert [id(one) for one in first] == [id(one) for one in again]
    assert not {id(one) for one in first} & {id(one) for one in kept.kept["train"]}
    data.check()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_learner_that_changes_an_instance_fails_and_the_next_one_does_not(
    change: Callable[[Instance], None], go: Any
) -> None:
    kept = Kept()

    def change_last(data: Dataset) -> None:
        change(list(data.instances("train"))[-1])

    record = go(job(Fits(change_last), kept))
    assert record["status"] == "failed"
    assert f"mine changed {CHANGES[change]} of instance train-1" in str(record["error"])
    assert go(job(Fits(lambda data: list(data.instances("train"))), kept))["status"] == "finished"


def test_a_reference_solver_that_changes_its_instance_gives_no_reference(tmp_path: Path) -> None:
    one = replace(instance(), name="test-0")
    digest = one.hash()
    honest = References(tmp_path / "honest", Changes(lambda one: None), seconds=1.0, shipped=False)
    cheats = References(tmp_path / "cheats", Changes(write_flags), seconds=1.0, shipped=False)
    for references in (honest, cheats):
        references.ensure([one], Setting(), lambda *progress: None)
    assert honest.known(one, "total_time").objective == 5 + 7
    assert cheats.known(one, "total_time").objective == np.inf
    assert one.hash() == digest
