"""What a run's folder holds is in MLflow once, whenever the run was interrupted before."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.contracts import Budget, Dataset, Learner, Policy, TrainingLogger
from bench.instance import Instance
from bench.references import RandomPlay, Reference, References
from bench.run import rescoring, runner
from bench.run.job import Job
from bench.run.record import Record
from bench.run.run_folder import RunFolder
from bench.setting import Setting
from bench.tracking import Mlflow, Off
from bench.tracking.database import sqlite_path
from bench.tracking.store import Store


class Pair(Dataset):
    """One instance of two tasks."""

    name = "pair"

    def instances(self, split: str) -> Iterator[Instance]:
        yield Instance([[2], [4]], [[[1]], [[1]]], [[1]], [0], name="pair")


class First(Policy):
    """Takes the first legal action."""

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        return int(np.argmax(observation.mask))


class Trained(Learner):
    """Logs two steps, and repeats the first one as a resumed training does."""

    def __init__(self, crash: bool = False) -> None:
        self.crash = crash

    def fit(
        self,
        data: Dataset,
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        logger: TrainingLogger,
    ) -> First:
        logger.metrics(1, {"loss": 0.5, "charts/seconds": 1.0})
        logger.metrics(1, {"loss": 0.5, "charts/seconds": 7.0})
        logger.metrics(2, {"loss": 0.25})
        if self.crash:
            raise ZeroDivisionError("crashed")
        return First()


EXPECTED = {("loss", 1): 1, ("loss", 2): 1, ("charts/seconds", 1): 1, ("instance/objective", 0): 1}


@pytest.fixture
def one(request: pytest.FixtureRequest) -> Job:
    data = Pair()
    config = {"solver": {"_target_": request.node.name}, "dataset": {}}
    instances = tuple(data.instances("test"))
    return Job("trained", Trained(), data, instances, Setting(), config=config)


@pytest.fixture
def tracker(store: Store) -> Mlflow:
    return Mlflow(store.uri, store.experiment, store.artifacts, system_metrics=False)


def go(one: Job, folder: Path, tracker: Any, **options: Any) -> Record:
    references = References(folder / "cache")
    return runner.run(one, folder / "runs", references, tracker, pictures=False, **options)


def stored(store: Store, key: str) -> list[tuple[str, Counter[tuple[str, int]]]]:
    """Return status and points of the runs with a key that are not deleted."""
    path = sqlite_path(store.uri)
    assert path is not None
    with closing(sqlite3.connect(path)) as connection:
        return [
            (
                run.info.status,
                Counter(
                    connection.execute(
                        "SELECT key, step FROM metrics WHERE run_uuid = ?", [run.info.run_id]
                    ).fetchall()
                ),
            )
            for run in store.client.search_runs([store.experiment_id], f"tags.key = '{key}'")
        ]


def check(store: Store, one: Job) -> None:
    """Check that the store holds one finished run with every point once."""
    ((status, points),) = stored(store, one.key)
    assert status == "FINISHED"
    assert set(points.values()) == {1}
    assert points.items() >= EXPECTED.items()
    assert ("objective_mean", 0) in points


def test_run_that_was_not_tracked_is_published_by_the_same_command(
    one: Job, store: Store, tracker: Mlflow, tmp_path: Path
) -> None:
    record = go(one, tmp_path, Off())
    assert go(one, tmp_path, tracker)["objective_mean"] == record["objective_mean"]
    check(store, one)
    before = stored(store, one.key)
    go(one, tmp_path, tracker)
    assert stored(store, one.key) == before


@pytest.mark.parametrize("calls", range(0, 8, 2))
def test_run_that_was_killed_while_it_was_published_is_completed(
    one: Job,
    store: Store,
    tracker: Mlflow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calls: int,
) -> None:
    """Nothing is called after the kill: a real one ends the process."""
    left = [calls]

    class Killed(BaseException):
        pass

    def count(name: str) -> Any:
        before = getattr(Store, name)

        def call(self: Store, *arguments: Any, **options: Any) -> Any:
            if RunFolder(one.folder(tmp_path / "runs")).record() is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return before(self, *arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("metrics", "write", "open", "delete"):
            patch.setattr(Store, name, count(name))
        patch.setattr("bench.tracking.run.TrackedRun.__exit__", lambda *arguments: None)
        try:
            go(one, tmp_path, tracker)
        except Killed:
            pass
        else:
            assert calls >= 5, "it was not killed"
    go(one, tmp_path, tracker)
    check(store, one)


def test_failed_run_is_replaced_by_the_one_that_succeeds(
    one: Job, store: Store, tracker: Mlflow, tmp_path: Path
) -> None:
    one.plugin.crash = True  # type: ignore[union-attr]
    assert go(one, tmp_path, tracker)["status"] == "failed"
    ((status, _),) = stored(store, one.key)
    assert status == "FAILED"
    one.plugin.crash = False  # type: ignore[union-attr]
    go(one, tmp_path, tracker)
    check(store, one)


def test_run_that_is_made_again_replaces_the_one_before(
    one: Job, store: Store, tracker: Mlflow, tmp_path: Path
) -> None:
    go(one, tmp_path, tracker)
    go(one, tmp_path, tracker, rerun=True)
    check(store, one)


@pytest.mark.parametrize("outage", ["none", "one answer", "one command", "off"])
def test_run_that_is_scored_again_has_its_new_score_whatever_fails(
    one: Job,
    store: Store,
    tracker: Mlflow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outage: str,
) -> None:
    before = go(one, tmp_path, tracker)
    known_of = rescoring.known_of

    def improved(*arguments: Any) -> tuple[Reference, RandomPlay]:
        known, random = known_of(*arguments)
        return replace(known, objective=known.objective - 2.0, bound=1.0), random

    monkeypatch.setattr(rescoring, "known_of", improved)
    opened = Store.open
    failures = iter(range({"one answer": 1, "one command": 99}.get(outage, 0)))

    def fail(self: Store, *arguments: Any) -> Any:
        if next(failures, None) is not None:
            raise ConnectionError("no answer")
        return opened(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "open", fail)
        after = go(one, tmp_path, Off() if outage == "off" else tracker)
    assert (after["score"], after["gap_mean"]) != (before["score"], before["gap_mean"])
    for _ in range(2):
        assert go(one, tmp_path, tracker) == after
        check(store, one)
        ((_, points),) = stored(store, one.key)
        assert {step for name, step in points if name == "score"} == {0, 1}
        assert {step for name, step in points if name == "objective_mean"} == {0}
        # what depends on references would be wrong now, and a step has one point only
        per_instance = {name for name, _ in points if name.startswith("instance/")}
        assert per_instance == {"instance/objective", "instance/solve_seconds"}
        (run,) = store.client.search_runs([store.experiment_id], f"tags.key = '{one.key}'")
        assert run.data.metrics["score"] == after["score"]
        assert run.data.metrics["gap_mean"] == after["gap_mean"]
