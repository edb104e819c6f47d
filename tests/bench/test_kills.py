"""Kill commands at any moment, run them again, and compare with a command that nothing disturbed.

`BENCH_KILL_CHAINS=8 python -m pytest -m slow tests/bench/test_kills.py` runs eight chains instead
of 40, and `BENCH_KILL_FIRST=8` those after the first eight. A chain kills a command one to three
times, at a moment or when a file appears, and then lets it end.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas
import pytest

import bench

ROOT = Path(bench.__file__).parents[1]
FIRST = int(os.environ.get("BENCH_KILL_FIRST", "0"))
CHAINS = range(FIRST, FIRST + int(os.environ.get("BENCH_KILL_CHAINS", "40")))
PATIENCE = 900  # seconds of a command before it counts as blocked
RUN = "runs/*/*/"
SWEEP = "runs/sweeps/*/"
NOT_COMPARED = ("system/", "search/")  # points whose number depends on time


@dataclass(frozen=True)
class Scenario:
    """A command, and the files whose appearance is a moment to kill it.

    `fresh` chains start without a database and without the caches of the scenario.
    """

    arguments: tuple[str, ...]
    events: tuple[str, ...]
    fresh: bool = False
    server: bool = False
    module: str = "bench"
    seconds: tuple[float, float] = (0.001, 12.0)
    first: tuple[str, ...] = field(default=())  # a command before, which is not killed


SMALL = ("dataset=tiny", "baselines=[]")
TRAINING = (
    *("+solver=ppo", *SMALL, "budget.decisions=6000", "solver.save_seconds=0"),
    *("solver.num_envs=16", "solver.steps=16", "solver.decoding=greedy"),
)
RULE = ("+solver=sjf", *SMALL)
PUBLISHED = (f"{RUN}result.json", f"{RUN}mlflow_run.json", f"{RUN}mlflow_spool.jsonl")
SCENARIOS = {
    "start": Scenario(
        RULE, (".mlflow.db.*.partial", "mlflow.db", "mlflow.db.lock", *PUBLISHED), fresh=True
    ),
    "rule": Scenario(RULE, (*PUBLISHED, f"{RUN}progress.jsonl", f"{RUN}gantt.png")),
    "training": Scenario(
        TRAINING,
        (f"{RUN}history.jsonl", f"{RUN}training.pt", f"{RUN}clock.json", *PUBLISHED),
    ),
    "sweep": Scenario(
        ("-m", "+solver=sjf,fifo", *SMALL, "seed=0,1"),
        (f"{SWEEP}mlflow_run.json", f"{SWEEP}0.json", f"{SWEEP}3.json", *PUBLISHED),
    ),
    "offline": Scenario(
        ("+solver=bc", "logs=cluster-tiny-random-v0", *SMALL, "solver.steps=200"),
        ("cache/**/*.partial", f"{RUN}training.pt", f"{RUN}history.jsonl", *PUBLISHED),
        fresh=True,
    ),
    "references": Scenario(
        ("+solver=sjf", "dataset=tiny", "baselines=[fifo]", "reference.shipped=false"),
        ("cache/*", "cache/**/*.json", "cache/**/*.lock", *PUBLISHED),
        fresh=True,
    ),
    "leaderboard": Scenario(
        (), ("leaderboard", "leaderboard/*"), module="bench.leaderboard", first=RULE
    ),
    "server": Scenario(TRAINING, (f"{RUN}history.jsonl", *PUBLISHED), server=True),
    "server sweep": Scenario(
        ("-m", "+solver=sjf,fifo", *SMALL, "seed=0,1"),
        (f"{SWEEP}mlflow_run.json", f"{SWEEP}1.json", *PUBLISHED),
        server=True,
    ),
    "outage": Scenario(TRAINING, (f"{RUN}history.jsonl", *PUBLISHED), server=True),
}
NAMES = list(SCENARIOS)


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of a command: the suite from this checkout, a cache in `folder`."""
    given = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return {
        **given,
        "PYTHONPATH": str(ROOT),
        "BENCH_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "140",
    }


def command(scenario: Scenario, uri: str) -> list[str]:
    options = (f"tracking.uri={uri}",) if uri and scenario.module == "bench" else ()
    tracking = ("tracking=server", *options) if uri.startswith("http") else options
    return [sys.executable, "-m", scenario.module, *scenario.arguments, *tracking]


def start(arguments: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    log = (folder / "output.txt").open("ab")
    return subprocess.Popen(
        arguments,
        cwd=folder,
        env=environment(folder),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end(arguments: Sequence[str], folder: Path) -> None:
    """Run a command to its end, which must be a success."""
    process = start(arguments, folder)
    try:
        status = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        kill(process)
        status = -1
    text = (folder / "output.txt").read_text(errors="replace")
    assert status == 0, f"status {status}: {text[-3000:]}"


def kill_at(arguments: Sequence[str], folder: Path, event: str, delay: float) -> tuple[str, bool]:
    """Start a command and kill it `delay` seconds after an event.

    The event is the start, or the change of a file.

    Returns
    -------
    tuple of str and bool
        The event, and whether the command was killed before its end.
    """
    before = time.time_ns()
    process = start(arguments, folder)
    while event and process.poll() is None:
        try:
            changed = any(path.lstat().st_mtime_ns >= before for path in folder.glob(event))
        except OSError:  # gone since
            changed = True
        if changed:
            break
        time.sleep(0.002)
    try:
        process.wait(delay)
        return event, False
    except subprocess.TimeoutExpired:
        kill(process)
        return event, True


class Server:
    """`mlflow server` on a port of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.process is not None:
            return
        arguments = ["-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        stores = ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "./art"]
        log = (self.folder / "server.txt").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, *arguments, *stores],
            cwd=self.folder,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for _ in range(2000):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError((self.folder / "server.txt").read_text())

    def stop(self) -> None:
        if self.process is not None:
            kill(self.process)
            self.process = None


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("server"))
    yield one
    one.stop()


# -- what a store and the folders hold -------------------------------------------------------------


def stored(database: Path, experiment: str) -> dict[str, dict[str, Any]]:
    """Return what a database holds: role and key of a run -> status and points.

    The points are (metric, step) -> how often.
    """
    found: dict[str, dict[str, Any]] = {}
    with closing(sqlite3.connect(database)) as connection:
        query = (
            "SELECT run_uuid, status FROM runs JOIN experiments USING (experiment_id) "
            "WHERE runs.lifecycle_stage = 'active' AND experiments.name = ?"
        )
        for run, status in connection.execute(query, [experiment]).fetchall():
            tags = dict(connection.execute("SELECT key, value FROM tags WHERE run_uuid = ?", [run]))
            points = Counter(
                connection.execute("SELECT key, step FROM metrics WHERE run_uuid = ?", [run])
            )
            name = f"{tags['role']} {tags['key']}"
            assert name not in found, f"two runs {name}"
            artifacts = [tags.get("mlflow.parentRunId", "") != ""]
            found[name] = {"status": status, "points": points, "child": artifacts}
    return found


def rows(folder: Path) -> dict[str, Any]:
    """Return key of a run -> its objectives and its metrics that do not depend on time."""
    found = {}
    for path in sorted(folder.glob(f"{RUN}result.json")):
        record = json.loads(path.read_text())
        if "sweeps" in path.parts:
            continue
        table = pandas.read_parquet(path.with_name("instances.parquet"))
        history = path.with_name("history.jsonl")
        lines = history.read_text().splitlines() if history.exists() else []
        losses = {
            (line["step"], name): value
            for line in map(json.loads, filter(None, lines))
            for name, value in line.items()
            if name.startswith(("losses/", "validation/"))
        }
        assert record["status"] == "finished", record
        found[record["key"]] = {"objective": list(table["objective"]), "losses": losses}
    return found


def compared(points: Counter[tuple[str, int]]) -> set[tuple[str, int]]:
    return {point for point in points if not point[0].startswith(NOT_COMPARED)}


# -- the chains ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def undisturbed() -> dict[str, tuple[Path, Path]]:
    """Hold folder and database of the scenarios that have run without a kill."""
    return {}


def prepared(name: str, folder: Path, server: Server, done: Path | None) -> tuple[str, Path, str]:
    """Prepare the folder of a chain; return the store's URI, its database and its experiment."""
    scenario = SCENARIOS[name]
    folder.mkdir(parents=True, exist_ok=True)
    if not scenario.fresh and done is not None and (done / "cache").exists():
        shutil.copytree(done / "cache", folder / "cache")
    if not scenario.server:
        return "", folder / "mlflow.db", "dl-scheduling-bench"
    server.start()
    return server.uri, server.folder / "server.db", folder.name


def arguments_of(name: str, uri: str, experiment: str) -> list[str]:
    extra = [f"tracking.experiment={experiment}"] if uri else []
    return [*command(SCENARIOS[name], uri), *extra]


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_killed_command_ends_with_the_same_results_once(
    chain: int,
    tmp_path_factory: pytest.TempPathFactory,
    server: Server,
    undisturbed: dict[str, tuple[Path, Path]],
) -> None:
    rng = random.Random(chain)
    name = NAMES[chain % len(NAMES)]
    scenario = SCENARIOS[name]
    if name not in undisturbed:
        whole = tmp_path_factory.mktemp("undisturbed")
        uri, database, experiment = prepared(name, whole, server, None)
        if scenario.first:
            end([sys.executable, "-m", "bench", *scenario.first], whole)
        end(arguments_of(name, uri, experiment), whole)
        undisturbed[name] = whole, database
    whole, whole_database = undisturbed[name]
    folder = tmp_path_factory.mktemp(f"chain{chain}")
    uri, database, experiment = prepared(name, folder, server, whole)
    if not (scenario.fresh or scenario.server or scenario.first):
        copy_empty_database(whole_database, database)
    if scenario.first:
        end([sys.executable, "-m", "bench", *scenario.first], folder)
    arguments = arguments_of(name, uri, experiment)
    kills = []
    for _ in range(rng.randint(1, 3)):
        if name == "outage" and rng.random() < 0.5:
            server.stop()
        event = rng.choice(["", "", *scenario.events])
        delay = rng.uniform(*scenario.seconds) if not event else rng.choice([0.0, 0.05, 0.5])
        kills.append(kill_at(arguments, folder, event, delay))
        if scenario.server and rng.random() < 0.3:
            server.stop()
        if scenario.server:
            server.start()
    end(arguments, folder)
    if name == "outage":  # down while the command ends: the same command sends what is kept
        server.stop()
        end(arguments, folder)
        server.start()
        end(arguments, folder)
    check(folder, database, experiment, whole, whole_database, kills)


def check(
    folder: Path,
    database: Path,
    experiment: str,
    whole: Path,
    whole_database: Path,
    kills: Sequence[tuple[str, bool]],
) -> None:
    """Check that a chain has left what the command leaves that nothing disturbed."""
    assert rows(folder) == rows(whole), kills
    found = stored(database, experiment)
    name = whole.name if database == whole_database else "dl-scheduling-bench"
    expected = stored(whole_database, name)
    assert found.keys() == expected.keys(), kills
    for run, data in found.items():
        assert data["status"] == "FINISHED", (kills, run)
        doubled = {point: count for point, count in data["points"].items() if count > 1}
        assert not doubled, (kills, run, doubled)
        lost = compared(expected[run]["points"]) - compared(data["points"])
        assert not lost, (kills, run, sorted(lost)[:10])
        added = {
            (metric, step)  # a score that was computed once more has its new value at step 1
            for metric, step in compared(data["points"]) - compared(expected[run]["points"])
            if "/" in metric or (metric, step - 1) not in data["points"]
        }
        assert not added, (kills, run, sorted(added)[:10])
    left = [
        path
        for pattern in (f"{RUN}mlflow_spool.jsonl", ".mlflow.db.*")
        for path in folder.glob(pattern)
    ]
    assert not left, (kills, left)


def copy_empty_database(source: Path, target: Path) -> None:
    """Copy a database without its runs: a new schema takes seconds."""
    shutil.copy(source, target)
    with closing(sqlite3.connect(target)) as connection:
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        kept = ("alembic_version", "workspaces")
        for table in tables:
            condition = " WHERE name <> 'Default'" if table == "experiments" else ""
            if table not in kept:
                connection.execute(f'DELETE FROM "{table}"{condition}')
        connection.commit()
