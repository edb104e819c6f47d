"""What is asked of MLflow. The only file that imports it, and only when a store is first used."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.errors import UserError
from bench.instance import read_json, write_json

RUN = (
    "mlflow_run.json"  # file in a run's folder: the id of its MLflow run, and when that began (ms)
)
PARAMS = 100  # parameters MLflow takes in one call
ENVIRONMENT = {  # unless the user set them
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """What is asked of MLflow, one method per kind of record: a live call and a replayed one are the same. All may raise."""

    uri: str
    experiment: str
    artifacts: str  # absolute folder, used where the store is a database

    @property
    def remote(self) -> bool:
        """True for a server."""
        return self.uri.startswith(("http://", "https://"))

    @cached_property
    def client(self) -> Any:
        """MLflow's client; the schema is made under a lock, so that many processes may start at once."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._lock():
            client = MlflowClient(self.uri)
            if not self.remote:
                client.search_experiments(max_results=1)
        return client

    @cached_property
    def experiment_id(self) -> str:
        """The experiment, found by name or made."""
        client = self.client
        with self._lock():
            found = client.get_experiment_by_name(self.experiment)
            if found is not None:
                return found.experiment_id
            location = None if self.remote else Path(self.artifacts).as_uri()
            return client.create_experiment(self.experiment, artifact_location=location)

    def open(self, folder: Path, opening: Mapping[str, Any]) -> str:
        """The id of the run that `folder` holds, running again, or of a new one."""
        experiment = self.experiment_id
        with self._lock() if opening["tags"]["role"] == "sweep" else contextlib.nullcontext():
            run = self._find(folder, opening)
            if run is not None:
                self.client.update_run(run.info.run_id, status="RUNNING")
            else:
                run = self.client.create_run(
                    experiment, opening["start"], self._tags(opening), opening["name"]
                )
        write_json(folder / RUN, {"id": run.info.run_id, "start": run.info.start_time})
        return run.info.run_id

    def params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Log the parameters the run does not have yet."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        new = [Param(key, value) for key, value in values.items() if key not in known]
        for i in range(0, len(new), PARAMS):
            self.client.log_batch(run_id, params=new[i : i + PARAMS])

    def metrics(self, run_id: str, points: Sequence[Sequence[Any]]) -> None:
        """Log up to 1000 points (name, value, time in ms, step)."""
        from mlflow.entities import Metric

        self.client.log_batch(run_id, metrics=[Metric(*point) for point in points])

    def input(
        self, run_id: str, name: str, set_hash: str, n_instances: int, source: str, context: str
    ) -> None:
        """Log a dataset input; MLflow's digest holds the first 36 digits of the hash, the profile all."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        profile = json.dumps({"num_rows": n_instances, "set_hash": set_hash})
        data = Dataset(name, set_hash[:36], "local", json.dumps({"uri": source}), profile=profile)
        self.client.log_inputs(
            run_id, [DatasetInput(data, [InputTag("mlflow.data.context", context)])]
        )

    def artifact(self, run_id: str, path: str, folder: str) -> None:
        """Upload a file, or a folder's content."""
        if not Path(path).exists():
            _log.warning("%s is gone; it is not among the run's artifacts", path)
        elif Path(path).is_dir():
            self.client.log_artifacts(run_id, path, folder or Path(path).name)
        else:
            self.client.log_artifact(run_id, path, folder or None)

    def finish(self, run_id: str, status: str, error: str | None, end: int) -> None:
        """End a run."""
        if error:
            self.client.set_tag(run_id, "error", error[:4000])
        self.client.set_terminated(run_id, status, end)

    def system_monitor(self, run_id: str) -> Any:
        """MLflow's collector of system metrics, not started: its own thread would give up at the first failed call."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        return SystemMetricsMonitor(run_id, tracking_uri=self.uri)

    def _find(self, folder: Path, opening: Mapping[str, Any]) -> Any:
        """The run whose id lies in `folder`; a sweep also by its key, from wherever it is looked for."""
        from mlflow.exceptions import MlflowException

        if run_id := stored(folder).get("id"):
            try:
                run = self.client.get_run(run_id)
            except MlflowException as error:  # another store, or this one was made anew
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                if run.info.lifecycle_stage == "active":
                    return run
        if opening["tags"]["role"] != "sweep":
            return None
        wanted = f"tags.role = 'sweep' and tags.key = '{opening['key']}'"
        return next(
            iter(self.client.search_runs([self.experiment_id], wanted, max_results=1)), None
        )

    def _tags(self, opening: Mapping[str, Any]) -> dict[str, str]:
        """The tags of a new run, under its sweep's run where it has one."""
        parent = opening["parent"]
        if parent is None:
            return opening["tags"]
        folder = Path(parent["folder"])
        run = self._find(folder, parent)
        return {
            **opening["tags"],
            "mlflow.parentRunId": run.info.run_id if run else self.open(folder, parent),
        }

    def _lock(self) -> FileLock:
        """One process at a time: beside the database file, else on this machine."""
        path = sqlite_path(self.uri)
        if path is None:
            path = (
                Path(tempfile.gettempdir())
                / f"mlflow-{hashlib.sha256(self.uri.encode()).hexdigest()[:16]}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{path}.lock")


@dataclass(frozen=True)
class StoredRun:
    """A run as the store holds it."""

    id: str
    name: str
    status: str  # finished | failed | killed | running
    started: int  # ms since 1970
    tags: Mapping[str, str]
    params: Mapping[str, str]
    _client: Any

    def artifact(self, name: str, folder: str | Path) -> Path:
        """Download one artifact to `folder`. Raises OSError where the run does not have it."""
        from mlflow.exceptions import MlflowException

        try:
            return Path(self._client.download_artifacts(self.id, name, str(folder)))
        except MlflowException as error:
            raise FileNotFoundError(
                f"{name}: not among the run's artifacts ({line(error)})"
            ) from None


def stored_runs(uri: str, experiment: str) -> list[StoredRun]:
    """The runs of an experiment, newest first, without the runs above sweeps.

    Raises:
        UserError: where the store or the experiment does not exist or does not answer.
    """
    path = sqlite_path(absolute(uri))
    if path is not None and not path.exists():
        raise UserError(
            f"uri: there is no store {uri}; start a run with tracking=local first or name another with --uri"
        )
    client = Store(absolute(uri), experiment, "").client
    try:
        found = client.get_experiment_by_name(experiment)
        known = [other.name for other in client.search_experiments()]
    except Exception as error:
        raise UserError(f"uri: the store {uri} cannot be read ({line(error)})") from error
    if found is None:
        raise UserError(f"experiment: {experiment!r} is not in {uri}; it holds {', '.join(known)}")
    page = client.search_runs([found.experiment_id], order_by=["attributes.start_time DESC"])
    runs = list(page)
    while page.token:
        page = client.search_runs(
            [found.experiment_id], order_by=["attributes.start_time DESC"], page_token=page.token
        )
        runs += page
    return [
        StoredRun(run.info.run_id, run.info.run_name, run.info.status.lower(), run.info.start_time, run.data.tags,
                  run.data.params, client)
        for run in runs
        if run.data.tags.get("role") == "run"
    ]  # fmt: skip


def stored(folder: Path) -> dict[str, Any]:
    """The id and start of the MLflow run that `folder` holds; empty without one."""
    path = folder / RUN
    return read_json(path) if path.exists() else {}


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store, none for other stores."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def absolute(uri: str) -> str:
    """The URI with a database file's path made absolute, so that it means the same from everywhere."""
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path.absolute()}"


def line(error: Exception) -> str:
    """An error in one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
