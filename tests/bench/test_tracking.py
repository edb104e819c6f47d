"""Tracking in a real MLflow store, with a restart, a kill and a server that does not answer."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from sqlalchemy.engine import make_url

import bench
from bench.errors import UserError
from bench.tracking import Mlflow, Off, flatten, replay, stored_runs
from bench.tracking.__main__ import main
from bench.tracking.database import sqlite_uri
from bench.tracking.spool import RUN_FILE, SPOOL
from bench.tracking.store import Store
from bench.tracking.values import finite, shorten_param

NO_SERVER = "http://127.0.0.1:1"
TAGS = {"track": "schedule", "solver": "sjf", "seed": 0}


@pytest.fixture
def tracker(store: Store) -> Mlflow:
    return Mlflow(store.uri, store.experiment, store.artifacts, system_metrics=False)


def history(store: Store, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.client.get_metric_history(run_id, key)]


def test_run_holds_parameters_tags_metrics_input_and_artifacts(
    tracker: Mlflow, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text("{}")
    config = {
        "seed": 3,
        "solver": {"name": "ppo", "layers": [64, 64], "window": None},
        "long": "x" * 9000,
    }
    with tracker.run("all", "ppo-s3", config, TAGS, tmp_path) as run:
        run.metrics(7, {"losses/policy": 0.5, "charts/bad": math.nan})
        run.summary({"score": 98.5, "gap_mean": math.inf, "solver": "ppo", "missing": None})
        run.input("small", "ab" * 32, 20, "conf/dataset/small.yaml")
        run.artifact(tmp_path / "result.json")
    found = store.client.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.data.params["solver.layers"] == "[64, 64]"
    assert found.data.params["seed"] == "3"
    assert len(found.data.params["long"]) <= 6000
    assert (
        found.data.tags.items()
        >= {"key": "all", "track": "schedule", "seed": "0", "role": "run"}.items()
    )
    assert found.data.metrics == {"losses/policy": 0.5, "score": 98.5}
    assert history(store, run.id, "losses/policy") == [(7, 0.5)]
    assert found.inputs.dataset_inputs[0].dataset.digest == ("ab" * 32)[:36]
    assert [file.path for file in store.client.list_artifacts(run.id)] == ["result.json"]


def test_restart_resumes_the_same_run(tracker: Mlflow, store: Store, tmp_path: Path) -> None:
    first = tracker.run("again", "sjf-s0", {"a": 1}, TAGS, tmp_path)
    first.metrics(0, {"x": 1.0})
    first._send()  # killed here, without finish
    with tracker.run("again", "sjf-s0", {"a": 1, "b": 2}, TAGS, tmp_path) as second:
        second.metrics(1, {"x": 2.0})
    assert second.id == first.id
    assert second.opening["start"] == first.opening["start"]
    assert store.client.get_run(first.id).data.params == {"a": "1", "b": "2"}
    assert history(store, first.id, "x") == [(0, 1.0), (1, 2.0)]
    assert store.client.get_run(first.id).info.status == "FINISHED"


def test_run_of_a_deleted_store_becomes_a_new_run(
    tracker: Mlflow, store: Store, tmp_path: Path
) -> None:
    (tmp_path / RUN_FILE).write_text(json.dumps({"id": "0" * 32, "start": 5}))
    with tracker.run("new", "sjf-s0", {}, TAGS, tmp_path) as run:
        pass
    assert run.id not in ("", "0" * 32)
    assert not (tmp_path / SPOOL).exists()


def test_sweep_is_found_by_its_key_and_holds_its_runs(
    tracker: Mlflow, store: Store, tmp_path: Path
) -> None:
    sweep = tracker.parent("sweep", "2 solvers", {"git_commit": "abc"}, tmp_path / "sweep")
    again = tracker.parent("sweep", "2 solvers", {"git_commit": "abc"}, tmp_path / "elsewhere")
    assert again.id == sweep.id
    with tracker.run("child", "sjf-s0", {}, TAGS, tmp_path / "child", parent=again) as run:
        pass
    sweep.finish("finished")
    assert store.client.get_run(run.id).data.tags["mlflow.parentRunId"] == sweep.id
    assert store.client.get_run(sweep.id).info.status == "FINISHED"
    listed = [other.id for other in stored_runs(store.uri, store.experiment)]
    assert run.id in listed
    assert sweep.id not in listed


def test_exception_fails_the_run_with_its_message(
    tracker: Mlflow, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(ZeroDivisionError), tracker.run("crash", "x", {}, TAGS, tmp_path) as run:
        raise ZeroDivisionError("no agents")
    found = store.client.get_run(run.id)
    assert found.info.status == "FAILED"
    assert found.data.tags["error"] == "ZeroDivisionError: no agents"


def test_metrics_are_written_in_batches(
    tracker: Mlflow, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    write_metrics = Store.metrics

    def count_and_write(self: Store, run_id: str, points: Sequence[Sequence[Any]]) -> None:
        sizes.append(len(points))
        write_metrics(self, run_id, points)

    monkeypatch.setattr(Store, "metrics", count_and_write)
    tracker._flush_seconds = 1e9
    with tracker.run("batch", "x", {}, TAGS, tmp_path) as run:
        for step in range(1250):
            run.metrics(step, {"a": step, "b": -step})
    assert sizes == [1000, 1000, 500]
    assert len(history(store, run.id, "a")) == 1250


def test_system_metrics_are_sampled_and_no_thread_is_left(store: Store, tmp_path: Path) -> None:
    tracker = Mlflow(store.uri, store.experiment, store.artifacts, sampling_seconds=0.05)
    with tracker.run("system", "x", {}, TAGS, tmp_path) as run:
        pass  # every run takes a last sample when it ends
    assert any(key.startswith("system/cpu") for key in store.client.get_run(run.id).data.metrics)
    assert "system-metrics" not in [thread.name for thread in threading.enumerate()]


def test_nothing_is_lost_without_a_server(
    store: Store,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # instead of 2, to save time
    offline = Mlflow(NO_SERVER, store.experiment, store.artifacts, system_metrics=False)
    with caplog.at_level(logging.WARNING):
        sweep = offline.parent("offline-sweep", "sweep", {}, tmp_path / "sweep")
        with offline.run(
            "offline", "sjf-s0", {"a": 1}, TAGS, tmp_path / "run", parent=sweep
        ) as run:
            (tmp_path / "run" / "result.json").write_text("{}")
            for step in range(2500):
                run.metrics(step, {"x": step})
            run.input("small", "cd" * 32, 20, "here")
            run.artifact(tmp_path / "run" / "result.json")
            run.summary({"score": 12.0})
        sweep.finish("finished")
    assert run.id == ""
    warnings = [
        record.getMessage() for record in caplog.records if record.name == "bench.tracking.run"
    ]
    assert len(warnings) == 2  # one per run
    assert f"python -m bench.tracking replay {tmp_path / 'run'} --uri {NO_SERVER}" in warnings[1]
    with (tmp_path / "run" / SPOOL).open("a") as file:
        file.write('{"record": "metr')  # a line cut short by a kill
    folders = [str(tmp_path / "run"), str(tmp_path / "sweep")]
    options = ["--uri", store.uri, "--experiment", "test", "--artifacts", store.artifacts]
    assert main(["replay", *folders, *options]) == 0
    assert "records written" in capsys.readouterr().out
    assert not (tmp_path / "run" / SPOOL).exists()
    (found,) = [
        other
        for other in stored_runs(store.uri, store.experiment)
        if other.tags["key"] == "offline"
    ]
    data = store.client.get_run(found.id)
    assert history(store, found.id, "x") == [(step, step) for step in range(2500)]
    assert data.data.params == {"a": "1"}
    assert data.data.metrics["score"] == 12.0
    assert data.info.status == "FINISHED"
    assert data.inputs.dataset_inputs[0].dataset.name == "small"
    assert found.artifact("result.json", tmp_path).read_text() == "{}"
    parent = store.client.get_run(found.tags["mlflow.parentRunId"])
    assert (parent.info.run_name, parent.info.status) == ("sweep", "FINISHED")


def test_run_whose_server_fails_is_written_when_the_server_is_back(
    tracker: Mlflow, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(self: Store, run_id: str, points: Sequence[Sequence[Any]]) -> None:
        calls.append(len(points))
        raise ConnectionError("gone")

    tracker._flush_seconds = 1e-9
    run = tracker.run("failing", "x", {}, TAGS, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "metrics", fail)
        for step in range(5):
            run.metrics(step, {"x": step})
    assert len(calls) == 1  # no second try before the run ends
    run.finish("finished")
    assert history(store, run.id, "x") == [(step, step) for step in range(5)]
    assert store.client.get_run(run.id).info.status == "FINISHED"
    assert not (tmp_path / SPOOL).exists()


def test_failed_replay_keeps_the_spool(
    tracker: Mlflow, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracker.run("halfway", "x", {}, TAGS, tmp_path)
    run._offline = True
    run.metrics(0, {"x": 1.0})
    run.input("small", "ef" * 32, 20, "here")

    def fail(*arguments: object, **options: object) -> None:
        raise ConnectionError("gone again")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "input", fail)
        with pytest.raises(ConnectionError):
            replay(tmp_path, store)
    assert history(store, run.id, "x") == [(0, 1.0)]
    assert (tmp_path / SPOOL).exists()
    with tracker.run("halfway", "x", {}, TAGS, tmp_path) as resumed:  # sends what is left
        assert resumed.id == run.id
    assert not (tmp_path / SPOOL).exists()
    assert history(store, run.id, "x") == [(0, 1.0)]
    assert store.client.get_run(run.id).inputs.dataset_inputs[0].dataset.name == "small"


def test_replay_without_a_spool_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(tmp_path)]) == 2
    assert "nothing is spooled" in capsys.readouterr().err


def test_off_has_the_interface_of_mlflow_and_writes_nothing(tmp_path: Path) -> None:
    off = Off()
    off.prepare()
    off.restart(tmp_path)
    assert off.published("k", tmp_path, "finished", {})
    sweep = off.parent("k", "n", {}, tmp_path)
    with off.run("k", "n", {}, {}, tmp_path, parent=sweep) as run:
        run.metrics(0, {"x": 1.0})
        run.summary({})
        run.input("small", "0", 1, "here")
        run.artifact(tmp_path / "nothing")
        run.finish("finished")
    sweep.finish("finished")
    assert "off" in off.how_to_open()
    assert list(tmp_path.iterdir()) == []


def test_how_to_open_names_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--backend-store-uri sqlite:///mlflow.db " in Mlflow().how_to_open()
    uri = sqlite_uri(Path("/data/a%2Fb c?/mlflow.db"))
    words = shlex.split(Mlflow(uri).how_to_open())
    named = words[words.index("--backend-store-uri") + 1]
    assert make_url(named).database == "/data/a%2Fb c?/mlflow.db"
    assert Mlflow("http://host:5000").how_to_open().endswith("http://host:5000")


def test_how_to_open_a_sweep_names_its_table_and_charts(
    tracker: Mlflow, store: Store, tmp_path: Path
) -> None:
    sweep = tracker.parent("shown", "sweep-shown", {}, tmp_path / "sweep")
    with tracker.run("shown-run", "sjf-s0", {}, TAGS, tmp_path / "run", parent=sweep) as run:
        pass
    sweep.finish("finished")
    _, table, charts = tracker.how_to_open(sweep).splitlines()
    assert table.endswith("&compareRunsMode=TABLE")
    assert charts.endswith("&compareRunsMode=CHART")
    address = f"http://127.0.0.1:5000/#/experiments/{store.experiment_id}/runs?"
    assert f": {address}" in table
    query = parse_qs(table.partition("?")[2])
    found = store.client.search_runs([store.experiment_id], query["searchFilter"][0])
    assert [one.info.run_id for one in found] == [run.id]


@pytest.mark.parametrize(
    ("field", "value"),
    [("uri", ""), ("experiment", 3), ("sampling_seconds", 0), ("flush_seconds", "soon")],
)
def test_invalid_setting_is_an_error_that_names_the_field(field: str, value: Any) -> None:
    settings: dict[str, Any] = {field: value}
    with pytest.raises(UserError, match=rf"tracking\.{field}: .*{value!r}"):
        Mlflow(**settings)


def test_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database" * 99)
    with pytest.raises(UserError, match=r"tracking\.uri"):
        Mlflow(f"sqlite:///{tmp_path}/mlflow.db").prepare()


def test_error_names_the_store_or_experiment_that_is_missing(store: Store, tmp_path: Path) -> None:
    _ = store.experiment_id
    with pytest.raises(UserError, match="there is no store"):
        stored_runs(f"sqlite:///{tmp_path}/none.db", "test")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(UserError, match=r"'other' is not in .*test"):
        stored_runs(store.uri, "other")


def test_values_are_flattened_shortened_and_filtered() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [1]}, "e": {}}) == {"a.b.c": 1, "a.d": [1], "e": {}}
    assert len({shorten_param(text) for text in ("x" * 9000, "x" * 9001, "x" * 8999 + "y")}) == 3
    assert finite({"a": 1, "b": True, "c": math.nan, "d": -math.inf, "e": "1", "f": None}) == {
        "a": 1.0,
        "b": 1.0,
    }


START = """
import sys
from pathlib import Path
from bench.tracking import Mlflow
tracker = Mlflow(sys.argv[1], "concurrent", "artifacts", system_metrics=False)
tracker.prepare()
sweep = tracker.parent("sweep", "sweep", {}, Path(sys.argv[2]) / "sweep")
with tracker.run("key", "run", {"a": 1}, {}, Path(sys.argv[2]), sweep) as run:
    run.summary({"x": 1.0})
sys.exit(0 if run.id else 3)
"""


@pytest.mark.slow
def test_four_processes_start_at_once_on_a_new_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/fresh.db"
    command = [sys.executable, "-c", START, uri]
    places = {**os.environ, "PYTHONPATH": str(Path(bench.__file__).parents[1])}
    jobs = [
        subprocess.Popen([*command, str(tmp_path / str(job))], cwd=tmp_path, env=places)
        for job in range(4)
    ]
    assert [job.wait() for job in jobs] == [0, 0, 0, 0]
    runs = stored_runs(uri, "concurrent")
    assert [run.status for run in runs] == ["finished"] * 4
    assert len({run.tags["mlflow.parentRunId"] for run in runs}) == 1


def test_mlflow_is_not_imported_before_it_is_used() -> None:
    code = (
        "import sys; from bench.tracking import Mlflow; Mlflow(); sys.exit('mlflow' in sys.modules)"
    )
    root = Path(bench.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
