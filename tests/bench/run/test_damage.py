"""Damaged and hostile files of a run, and what plug-ins report: nothing fails for ever."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from bench import files
from bench.contracts import Budget, Dataset, Learner, Policy, Result, Solver, TrainingLogger
from bench.errors import UserError
from bench.instance import Instance, read_json
from bench.references import References
from bench.run.job import Job
from bench.run.json_values import json_value
from bench.run.record import Record
from bench.run.run_folder import CLOCK, HISTORY, LEARNING, PROGRESS, RECORD, SCHEDULES, TABLE
from bench.run.runner import run
from bench.schedule import Schedule
from bench.setting import Setting
from bench.tracking import Off

OTHER_TYPES = ["[]", "5", "null", '"text"', "true", "", "{", "\x00\xff"]


class Named(Dataset):
    """Two instances of one task, with given names and resources."""

    name = "named"

    def __init__(self, names: tuple[str, str] = ("a", "b"), resources: Any = (("x",), ("x",))):
        self.names, self.resources = names, resources

    def instances(self, split: str) -> Iterator[Instance]:
        for i, name in enumerate(self.names):
            demand = [[[1] * len(self.resources[i])]]
            capacity = [[1] * len(self.resources[i])]
            yield Instance([[2 + i]], demand, capacity, [0], resources=self.resources[i], name=name)


class Counted(Solver):
    """Starts the only task at 0, counts its calls, and reports what it is told to report."""

    def __init__(self, **claims: Any) -> None:
        self.claims, self.calls = claims, 0

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        self.calls += 1
        return Result(Schedule.from_assignment(instance, [0], [0]), **self.claims)


class First(Policy):
    """Takes the first legal action."""

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        return int(np.argmax(observation.mask))


class Reports(Learner):
    """Reports facts and metrics, then returns a policy."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.reported = facts

    def fit(
        self,
        data: Dataset,
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        logger: TrainingLogger,
    ) -> Policy:
        logger.metrics(np.int64(3), {"loss": np.float32(0.5)})  # type: ignore[arg-type, dict-item]
        logger.summary(self.reported)
        return First()


def job(plugin: Any, data: Dataset | None = None, name: str = "mine") -> Job:
    data = data or Named()
    config = {"solver": {"_target_": "x"}, "dataset": {"_target_": "named"}}
    return Job(name, plugin, data, tuple(data.instances("test")), Setting(), config=config)


@pytest.fixture
def go(tmp_path: Path) -> Any:
    """Run a job in tmp_path without tracking."""

    def run_it(one: Job, pictures: bool = False) -> Record:
        references = References(tmp_path / "cache")
        return run(one, tmp_path / "runs", references, Off(), pictures=pictures)

    return run_it


def folder(tmp_path: Path, one: Job) -> Path:
    path = one.folder(tmp_path / "runs")
    path.mkdir(parents=True, exist_ok=True)
    return path


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", OTHER_TYPES)
@pytest.mark.parametrize("name", [CLOCK, LEARNING, PROGRESS, HISTORY, RECORD])
def test_a_file_of_another_form_counts_as_absent(
    name: str, content: str, tmp_path: Path, go: Any
) -> None:
    one = job(Reports({"learning/x": 1}))
    (folder(tmp_path, one) / name).write_bytes(content.encode("latin-1"))
    record = go(one)
    assert (record["status"], record["errors"], record["learning/x"]) == ("finished", 0, 1)
    assert record["objective_mean"] == 2.5
    assert 0 <= record["train_seconds"] <= record["wall_seconds"] < math.inf


def test_a_clock_with_impossible_seconds_starts_at_zero_with_a_line(
    tmp_path: Path, go: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one = job(Counted())
    clock = folder(tmp_path, one) / CLOCK
    clock.write_text('{"train_seconds": NaN, "wall_seconds": "long"}')
    record = go(one)
    assert record["train_seconds"] == 0.0
    assert record["wall_seconds"] < 3600
    assert [text for text in caplog.messages if "seconds are not counted" in text]


def test_seconds_of_earlier_sessions_still_count(tmp_path: Path, go: Any) -> None:
    one = job(Counted())
    (folder(tmp_path, one) / CLOCK).write_text('{"train_seconds": 7, "wall_seconds": 10000}')
    record = go(one)
    assert record["train_seconds"] == 7.0
    assert record["wall_seconds"] >= 10000


def damaged_lines(good: Mapping[str, Any]) -> Iterator[Any]:
    """Yield lines that look like `good`, the one of instance 0, with one part damaged."""
    yield 5
    yield []
    yield {}
    for key in ("index", "entry"):
        yield {**good, key: None}
    for index in (-1, 2, 10**30, "0", 0.5):
        yield {**good, "index": index}
    yield {**good, "index": 1}  # the entry of another instance
    entry = good["entry"]
    for key, value in [("instance_hash", "0"), ("solve_seconds", "1"), ("error", 5), ("result", 1)]:
        yield {**good, "entry": {**entry, key: value}}
    yield {**good, "entry": {**entry, "result": None}}  # neither a result nor an error
    result = entry["result"]
    for key, value in [
        *[("schedule", None), ("schedule", {"task": [0]}), ("status", "good"), ("schema", 99)],
        *[("lower_bound", "1"), ("latency", ["1"]), ("latency", 1), ("trajectory", [[1, 2]])],
        *[("trajectory", [["a", 1, 1]]), ("info", 5)],
    ]:
        yield {**good, "entry": {**entry, "result": {**result, key: value}}}


def test_a_damaged_line_is_solved_again_and_a_good_one_is_not(
    tmp_path: Path, go: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = job(Counted(), name="first")
    progress = folder(tmp_path, first) / PROGRESS
    kept: list[dict[str, Any]] = []
    unlink = Path.unlink

    def keep(path: Path, missing_ok: bool = False) -> None:
        if path == progress:
            kept.extend(json.loads(text) for text in path.read_text().split())
        unlink(path, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", keep)
        expected = go(first)
    lines = list(damaged_lines(kept[0]))
    for i, line in enumerate([kept[0], *lines]):
        again = job(Counted(), name=f"again{i}")
        content = "\n".join(json.dumps(one) for one in (line, kept[1]))
        (folder(tmp_path, again) / PROGRESS).write_text(content)
        caplog.clear()
        record = go(again)
        assert again.plugin.calls == (i > 0), line
        assert bool([text for text in caplog.messages if "1 lines are damaged" in text]) == (i > 0)
        assert record["objective_mean"] == expected["objective_mean"] == 2.5


@pytest.mark.parametrize("name", [TABLE, SCHEDULES])
@pytest.mark.parametrize("damage", ["empty", "cut", "gone", "short"])
def test_a_finished_run_with_a_damaged_table_is_made_again(
    name: str, damage: str, tmp_path: Path, go: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one = job(Counted())
    expected = go(one)
    path = folder(tmp_path, one) / name
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        if name == TABLE:
            pandas.read_parquet(path)[:1].to_parquet(path)
        else:
            files.write_bytes(path, json.dumps(read_json(path)[:1]).encode())
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-9])
    record = go(one)
    assert one.plugin.calls == 4
    assert record["objective_mean"] == expected["objective_mean"]
    assert [text for text in caplog.messages if TABLE in text]
    go(one)
    assert one.plugin.calls == 4  # whole again


def test_damaged_points_are_left_out_of_the_learning_curve(tmp_path: Path, go: Any) -> None:
    one = job(Reports({}))
    lines = ["5", "[]", '{"x": 1}', '{"step": null, "x": 1}', '{"step": 2, "x": "y"}']
    (folder(tmp_path, one) / HISTORY).write_text("\n".join([*lines, '{"step": 1, "loss": 2}']))
    assert go(one, pictures=True)["status"] == "finished"
    assert (folder(tmp_path, one) / "curve.png").stat().st_size > 1000


# -- what plug-ins report ------------------------------------------------------------------------


def test_facts_of_any_type_become_json_values(tmp_path: Path, go: Any) -> None:
    torch = pytest.importorskip("torch")
    facts = {
        "nan": math.nan,
        "inf": np.float32(np.inf),
        "count": np.int64(3),
        "share": np.float32(0.5),
        "flag": np.bool_(True),
        "array": np.array([[1.0, math.nan]]),
        "tensor": torch.tensor([1, 2]),
        "scalar": torch.tensor(1.5),
        "path": Path("a/b"),
        "set": {1},
        "nested": {5: (1, None)},
        "text": "x\ud800",
        "object": type("Thing", (), {"__str__": lambda self: "a thing"})(),
    }
    one = job(Reports({f"facts/{key}": value for key, value in facts.items()}))
    record = go(one)
    stored = read_json(folder(tmp_path, one) / RECORD)
    assert record["status"] == "finished"
    assert {key: stored[f"facts/{key}"] for key in facts} == {
        "nan": None,
        "inf": None,
        "count": 3,
        "share": 0.5,
        "flag": True,
        "array": [[1.0, None]],
        "tensor": [1, 2],
        "scalar": 1.5,
        "path": "a/b",
        "set": [1],
        "nested": {"5": [1, None]},
        "text": "x\\ud800",
        "object": "a thing",
    }


def test_claims_of_numpy_types_are_stored_with_their_values(tmp_path: Path, go: Any) -> None:
    one = job(
        Counted(
            lower_bound=np.int64(1),
            trajectory=((np.float32(0.5), np.int64(3), np.float64(1.0)),),
            latency=(np.float32(0.25),),
            info={"array": np.arange(2), "bad": object},
        )
    )
    record = go(one)
    assert record["errors"] == 0
    (stored, _) = read_json(folder(tmp_path, one) / SCHEDULES)
    result = stored["result"]
    assert (result["lower_bound"], result["latency"]) == (1, [0.25])
    assert result["trajectory"] == [[0.5, 3, 1.0]]
    assert result["info"] == {"array": [0, 1], "bad": "<class 'object'>"}


@pytest.mark.parametrize(
    "claims", [{"latency": ("a",)}, {"latency": 5}, {"info": 5}, {"lower_bound": None}]
)
def test_claims_that_are_no_numbers_are_an_error_row(claims: Any, go: Any) -> None:
    record = go(job(Counted(**claims)))
    assert (record["status"], record["errors"]) == ("failed", 2)
    assert "Error" in str(record["error"])


def test_json_values_keep_what_is_json() -> None:
    value = {"a": [1, 2.5, None, True, "x"], "b": {"c": 10**30}}
    assert json_value(value) == value


# -- names ---------------------------------------------------------------------------------------


def test_resources_may_differ_between_instances(tmp_path: Path, go: Any) -> None:
    data = Named(resources=(("gpu",), ("cpu", "memory")))
    record = go(job(Counted(), data), pictures=True)
    assert record["errors"] == 0
    assert record["utilisation_gpu"] == 1.0
    assert record["utilisation_memory"] == 1.0
    assert go(job(Counted(), data))["utilisation_cpu"] == 1.0  # the stored one


@pytest.mark.parametrize(
    "name", ["$x$", r"$\frac{1}{$", "a_{b", "[/]", "[red]", "{x}", "x\ud800", "\n"]
)
def test_names_are_no_formulas_and_no_markup(name: str, tmp_path: Path, go: Any) -> None:
    from bench.cli import report

    one = job(Counted(trajectory=((0.0, 2.0, 1.0),)), Named((name, f"{name}2"), ((name,), (name,))))
    record = go(one, pictures=True)
    assert (record["status"], record["errors"]) == ("finished", 0)
    assert (folder(tmp_path, one) / "gantt.png").stat().st_size > 1000
    console = report.output()
    with console.capture() as captured:
        failed: Any = {**record, "solver": "[/x]", "error": f"error {name}"}
        report.show(console, [failed], [], tmp_path)
    assert "[/x]" in captured.get()


# -- a full disk ---------------------------------------------------------------------------------


def test_a_full_disk_is_bad_input_and_damages_nothing(
    tmp_path: Path, go: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(Counted())
    path = folder(tmp_path, one)
    sync, left = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    for space in range(1000):  # the disk is full a little later at each retry
        left[0] = space
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", fsync)
            try:
                record = go(one)
                break
            except UserError as error:
                message = str(error)
        assert "the disk is full; free some space" in message
    assert space > 4
    assert record["objective_mean"] == 2.5
    assert one.plugin.calls < 2 + space  # what was saved was not solved again
    assert not list(path.glob("*.partial")) + list(path.glob(".*.partial"))


def test_a_full_disk_within_training_is_no_failed_run(tmp_path: Path, go: Any) -> None:
    class Fills(Learner):
        def fit(self, *arguments: Any) -> Policy:
            try:
                raise OSError(errno.ENOSPC, "No space left on device", "model.bin")
            except OSError as error:
                raise RuntimeError("could not be saved") from error

    one = job(Fills())
    with pytest.raises(UserError, match=r"^model\.bin: cannot be written: the disk is full"):
        go(one)
    assert not (folder(tmp_path, one) / RECORD).exists()
