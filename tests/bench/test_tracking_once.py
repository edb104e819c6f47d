"""After any interruption a store holds a run once, finished, with every point of a metric once."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.tracking import Mlflow, database
from bench.tracking.database import StoreUnavailableError, ensure, sqlite_path, sqlite_uri
from bench.tracking.spool import RUN_FILE, SPOOL, RunFiles
from bench.tracking.store import KIND, KIND_TAG, Store

TAGS = {"track": "schedule", "solver": "sjf", "seed": 0}


@pytest.fixture
def tracker(store: Store) -> Mlflow:
    return Mlflow(store.uri, store.experiment, store.artifacts, system_metrics=False)


def runs(store: Store, key: str) -> list[Any]:
    """Return the runs with a key that are not deleted."""
    return list(store.client.search_runs([store.experiment_id], f"tags.key = '{key}'"))


def points(store: Store, run_id: str) -> Counter[tuple[str, int, float]]:
    """Return how often the database holds each point."""
    path = sqlite_path(store.uri)
    assert path is not None
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT key, step, value FROM metrics WHERE run_uuid = ?"
        return Counter(connection.execute(query, [run_id]).fetchall())


def test_lost_answer_to_the_creation_of_a_run_leaves_one_run(
    tracker: Mlflow, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = store.client.create_run
    client = tracker._store.client

    def lose_the_answer(*arguments: Any, **options: Any) -> None:
        create(*arguments, **options)
        raise ConnectionError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(client, "create_run", lose_the_answer)
        run = tracker.run("lost", "x", {"a": 1}, TAGS, tmp_path)
    assert run.id == ""
    run.metrics(0, {"x": 1.0})
    run.finish("finished")
    (found,) = runs(store, "lost")
    assert found.info.run_id == run.id
    assert found.info.status == "FINISHED"
    assert found.data.params == {"a": "1"}
    assert points(store, run.id) == {("x", 0, 1.0): 1}


def test_run_that_was_created_twice_by_one_request_is_kept_once(
    tracker: Mlflow, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = store.client.create_run

    def repeat(*arguments: Any, **options: Any) -> Any:
        create(*arguments, **options)
        return create(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tracker._store.client, "create_run", repeat)
        run = tracker.run("twice", "x", {}, TAGS, tmp_path)
    run.finish("finished")
    (found,) = runs(store, "twice")
    assert (found.info.run_id, found.info.status) == (run.id, "FINISHED")


def test_points_whose_answer_was_lost_are_stored_once(
    tracker: Mlflow, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.metrics

    def lose_the_answer(self: Store, run_id: str, points: Sequence[Sequence[Any]]) -> None:
        later = [[name, value, time + 5, step] for name, value, time, step in points]
        write(self, run_id, later)  # with another time MLflow itself would store them twice
        raise ConnectionError("no answer")

    tracker._flush_seconds = 1e-9
    run = tracker.run("unclear", "x", {}, TAGS, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "metrics", lose_the_answer)
        run.metrics(0, {"x": 1.0})
        run.metrics(1, {"x": 2.0})
    run.finish("finished")
    assert points(store, run.id) == {("x", 0, 1.0): 1, ("x", 1, 2.0): 1}


def test_resumed_run_that_repeats_its_steps_has_each_point_once(
    tracker: Mlflow, store: Store, tmp_path: Path
) -> None:
    first = tracker.run("repeat", "x", {}, TAGS, tmp_path)
    first.metrics(1, {"loss": 0.5, "seconds": 3.0})  # sent
    first._send()
    first.metrics(2, {"loss": 0.25, "seconds": 4.0})  # killed before it is sent
    with tracker.run("repeat", "x", {}, TAGS, tmp_path) as second:
        second.metrics(1, {"loss": 0.5, "seconds": 9.0})
        second.metrics(2, {"loss": 0.25, "seconds": 9.5})
        second.metrics(3, {"loss": 0.125})
    assert second.id == first.id
    assert points(store, first.id) == dict.fromkeys(
        [
            ("loss", 1, 0.5),
            ("loss", 2, 0.25),
            ("loss", 3, 0.125),
            ("seconds", 1, 3.0),
            ("seconds", 2, 4.0),
        ],
        1,
    )


@pytest.mark.parametrize("damage", ["first line lost", "last line cut", "all lost", "no RUN_FILE"])
def test_damaged_spool_is_completed_by_the_same_command(
    tracker: Mlflow, store: Store, tmp_path: Path, damage: str
) -> None:
    key = damage.replace(" ", "-")

    def log(run: Any) -> None:
        run.metrics(0, {"x": 1.0})
        run.metrics(1, {"x": 2.0})

    killed = tracker.run(key, "x", {"a": 1}, TAGS, tmp_path)
    log(killed)
    killed._send()
    spool = tmp_path / SPOOL
    lines = spool.read_text().splitlines(keepends=True)
    if damage == "first line lost":
        spool.write_text("".join(lines[1:]))
    elif damage == "last line cut":
        spool.write_text("".join(lines)[:-9])
    elif damage == "all lost":
        spool.unlink()
    else:
        (tmp_path / RUN_FILE).write_text('{"start": "soon", "stores": [1], "id": {}}')
        spool.unlink()
    with tracker.run(key, "x", {"a": 1}, TAGS, tmp_path) as resumed:
        log(resumed)
    complete = store.client.get_run(resumed.id)
    assert complete.info.status == "FINISHED"
    assert complete.data.params == {"a": "1"}
    assert points(store, resumed.id) == {("x", 0, 1.0): 1, ("x", 1, 2.0): 1}
    assert not spool.exists()


def test_new_attempt_replaces_the_run_before_when_it_is_finished(
    tracker: Mlflow, store: Store, tmp_path: Path
) -> None:
    with tracker.run("new-attempt", "x", {}, TAGS, tmp_path) as first:
        first.summary({"score": 1.0})
    assert tracker.published("new-attempt", tmp_path, "finished", {"score": 1.0})
    tracker.restart(tmp_path)
    assert not tracker.published("new-attempt", tmp_path, "finished", {"score": 1.0})
    second = tracker.run("new-attempt", "x", {}, TAGS, tmp_path)
    second.summary({"score": 2.0})
    assert {run.info.run_id for run in runs(store, "new-attempt")} == {first.id, second.id}
    second.finish("finished")
    assert [run.info.run_id for run in runs(store, "new-attempt")] == [second.id]
    assert points(store, second.id) == {("score", 0, 2.0): 1}


def test_foreign_folder_cannot_name_a_run_to_write_to_or_to_delete(
    tracker: Mlflow, store: Store, tmp_path: Path
) -> None:
    with tracker.run("victim", "x", {}, TAGS, tmp_path / "mine") as victim:
        pass
    received = RunFiles(tmp_path / "received")
    received.replaces = [victim.id]
    received.note(store.digest, id=victim.id)
    with tracker.run("other", "y", {}, TAGS, tmp_path / "received") as run:
        run.metrics(0, {"x": 1.0})
    assert run.id != victim.id
    (kept,) = runs(store, "victim")
    assert kept.data.metrics == {}


def test_sweep_that_is_finished_twice_has_each_value_once(
    tracker: Mlflow, store: Store, tmp_path: Path
) -> None:
    for failed in (1, 0, 0):
        sweep = tracker.parent("sweep-twice", "sweep", {}, tmp_path)
        sweep.summary({"jobs": 4, "failed": failed})
        sweep.finish("finished")
    assert points(store, sweep.id) == {("jobs", 0, 4): 1, ("failed", 0, 1): 1, ("failed", 1, 0): 1}
    (found,) = runs(store, "sweep-twice")
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"jobs": 4, "failed": 0}


def test_final_values_are_at_the_next_step_where_the_store_has_others(
    tracker: Mlflow, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the store that decides, also where it answers only when the run ends."""
    with tracker.run("final", "x", {}, TAGS, tmp_path) as run:
        run.summary({"score": 1.0, "gap": 0.5, "same": 3.0})
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Store, "open", lambda *arguments: _locked())
            again = tracker.run("final", "x", {}, TAGS, tmp_path)
            again.summary({"score": 4.0, "gap": 0.5, "same": 3.0})  # of a session before the last
            again.summary({"score": 2.0, "gap": None, "same": 3.0, "new": None})
        again.finish("finished")
    found = points(store, run.id)
    assert found[("score", 0, 1.0)] == found[("score", 1, 2.0)] == found[("same", 0, 3.0)] == 1
    assert sorted((name, step) for name, step, _ in found) == [
        *[("gap", 0), ("gap", 1), ("same", 0), ("score", 0), ("score", 1)]
    ]
    last = store.client.get_run(run.id).data.metrics
    assert math.isnan(last.pop("gap"))
    assert last == {"score": 2.0, "same": 3.0}
    now = {"score": 2.0, "gap": math.nan, "same": 3, "new": None}
    assert tracker.published("final", tmp_path, "finished", now)
    for name, value in (("score", 1.0), ("gap", 0.5), ("same", None), ("new", 0.0)):
        assert not tracker.published("final", tmp_path, "finished", {**now, name: value})


def test_error_of_an_interrupted_session_is_not_that_of_the_finished_run(
    tracker: Mlflow, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt), tracker.run("interrupted", "x", {}, TAGS, tmp_path):
        raise KeyboardInterrupt
    (killed,) = runs(store, "interrupted")
    assert (killed.info.status, "error" in killed.data.tags) == ("KILLED", True)
    assert not tracker.published("interrupted", tmp_path, "finished", {})
    with tracker.run("interrupted", "x", {}, TAGS, tmp_path):
        pass
    (finished,) = runs(store, "interrupted")
    assert finished.info.run_id == killed.info.run_id
    assert (finished.info.status, "error" in finished.data.tags) == ("FINISHED", False)


# -- the database ----------------------------------------------------------------------------------


def test_locked_database_lets_the_run_go_on_and_is_written_later(
    tracker: Mlflow, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sqlite_path(store.uri)
    assert path is not None
    _ = store.experiment_id
    monkeypatch.setattr(database.wait_until_unlocked, "__defaults__", (0.2,))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        tracker.prepare()
        with tracker.run("locked", "x", {"a": 1}, TAGS, tmp_path) as run:
            run.metrics(0, {"x": 1.0})
            monkeypatch.setattr(Store, "client", property(lambda self: _locked()))
    monkeypatch.undo()
    assert run.id == ""
    tracker.prepare()
    assert not tracker.published("locked", tmp_path, "finished", {})
    with tracker.run("locked", "x", {"a": 1}, TAGS, tmp_path) as again:
        again.metrics(0, {"x": 1.0})
    assert points(store, again.id) == {("x", 0, 1.0): 1}


def test_system_metrics_are_collected_without_the_store(tmp_path: Path) -> None:
    absent = Store(sqlite_uri(tmp_path / "none" / "mlflow.db"), "test", "")
    monitor = absent.system_monitor("")
    monitor.collect_metrics()
    assert monitor.aggregate_metrics()
    assert list(tmp_path.iterdir()) == []


def _locked() -> None:
    raise StoreUnavailableError("locked")


def create_tables(path: Path, names: Sequence[str] = ("experiments", "runs", "metrics")) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for name in names:
            connection.execute(f"CREATE TABLE {name} (name TEXT)")
        connection.commit()


def is_complete(names: set[str]) -> bool:
    return names >= {"experiments", "runs", "metrics"}


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError("no space left on device")])
def test_interrupted_creation_leaves_nothing(tmp_path: Path, interruption: Any) -> None:
    path = tmp_path / "mlflow.db"

    def stop(partial: Path) -> None:
        create_tables(partial, ["experiments"])
        raise interruption

    with pytest.raises((KeyboardInterrupt, OSError)):
        ensure(path, stop, is_complete)
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db.lock"]
    (tmp_path / ".mlflow.db.0123.partial").write_text("of a process that was killed")
    ensure(path, create_tables, is_complete)
    assert database.tables(path) == {"experiments", "runs", "metrics"}
    assert {file.name for file in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_incomplete_database_is_built_again_unless_it_holds_something(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()
    ensure(path, create_tables, is_complete)
    path.unlink()
    create_tables(path, ["runs"])
    ensure(path, create_tables, is_complete)
    assert database.tables(path) == {"experiments", "runs", "metrics"}
    path.unlink()
    create_tables(path, ["runs"])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO runs VALUES ('mine')")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"tracking\.uri: .*mlflow\.db.*mlflow db upgrade"):
        ensure(path, create_tables, is_complete)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_database_that_an_older_version_was_interrupted_in_is_built_again(
    store: Store, tmp_path: Path
) -> None:
    complete = sqlite_path(store.uri)
    assert complete is not None
    _ = store.experiment_id
    path = tmp_path / "mlflow.db"
    path.write_bytes(complete.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        kept = ("alembic_version", "runs", "experiments", "metrics", "params", "tags")
        for name in database.tables(path) - set(kept):
            connection.execute(f'DROP TABLE IF EXISTS "{name}"')
        for name in ("runs", "experiments", "metrics", "params", "tags"):
            connection.execute(f"DELETE FROM {name}")
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        connection.commit()
    half = Store(sqlite_uri(path), "test", store.artifacts)
    Mlflow(half.uri, "test", store.artifacts).prepare()
    assert [found.name for found in half.client.search_experiments()] == ["test", "Default"]


# -- the view --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ({}, KIND),
        ({KIND_TAG: "genai_development_inferred"}, KIND),
        ({KIND_TAG: "no_inferred_type"}, KIND),
        ({KIND_TAG: "finetuning"}, "finetuning"),
    ],
)
def test_experiment_is_shown_as_runs_unless_the_user_has_chosen_a_view(
    store: Store, tags: dict[str, str], kind: str
) -> None:
    name = f"view-{json.dumps(tags)}"
    store.client.create_experiment(name, tags=tags)
    again = Store(store.uri, name, store.artifacts)
    assert store.client.get_experiment(again.experiment_id).tags[KIND_TAG] == kind


def test_new_experiment_is_shown_as_runs(store: Store) -> None:
    fresh = Store(store.uri, "fresh", store.artifacts)
    assert store.client.get_experiment(fresh.experiment_id).tags[KIND_TAG] == KIND


# -- paths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["feature%2Fx", "a?b", "c#d", "e f", "100%", "ü'\"&;", "%25"])
def test_path_in_a_uri_is_the_path_again(tmp_path: Path, name: str) -> None:
    from sqlalchemy.engine import make_url

    path = tmp_path / name / "mlflow.db"
    assert sqlite_path(sqlite_uri(path)) == path
    assert make_url(sqlite_uri(path)).database == str(path)
