"""The calls to MLflow: the only file that imports it, and only when a store is first used."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.errors import UserError, one_line
from bench.instance import read_json, write_json

# A file in a run's folder: the id of its MLflow run, and when that began (ms since 1970).
RUN_FILE = "mlflow_run.json"
MAX_PARAMS = 100  # parameters that MLflow takes in one call
ENVIRONMENT = {  # set unless the user has set them
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """An MLflow store, with one method per kind of record.

    A record of a spool holds the arguments of one of these methods, so that writing it later is the
    same call. All methods may raise what MLflow raises.

    Attributes
    ----------
    uri
        A database (sqlite:///FILE) or the address of a server.
    experiment
        Name of the experiment.
    artifacts
        Absolute folder of the artifacts, used where the store is a database.
    """

    uri: str
    experiment: str
    artifacts: str

    @property
    def remote(self) -> bool:
        """Whether it is a server."""
        return self.uri.startswith(("http://", "https://"))

    @cached_property
    def client(self) -> Any:
        """MLflow's client.

        The schema of a database is created under a lock, so that many processes may start at once.
        """
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
        """The id of the experiment, found by name or created."""
        client = self.client
        with self._lock():
            found = client.get_experiment_by_name(self.experiment)
            if found is not None:
                return str(found.experiment_id)
            location = None if self.remote else Path(self.artifacts).as_uri()
            return str(client.create_experiment(self.experiment, artifact_location=location))

    def open(self, folder: Path, opening: Mapping[str, Any]) -> str:
        """Return the id of the run that `folder` holds, set to running again, or of a new run."""
        experiment = self.experiment_id
        with self._lock() if opening["tags"]["role"] == "sweep" else contextlib.nullcontext():
            run = self._find(folder, opening)
            if run is not None:
                self.client.update_run(run.info.run_id, status="RUNNING")
            else:
                run = self.client.create_run(
                    experiment, opening["start"], self._tags(opening), opening["name"]
                )
        write_json(folder / RUN_FILE, {"id": run.info.run_id, "start": run.info.start_time})
        return str(run.info.run_id)

    def write(self, run_id: str, record: str, values: Mapping[str, Any]) -> None:
        """Call the method `record`, one of those below, with `values`."""
        getattr(self, record)(run_id, **values)

    def params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Log the parameters that the run does not have yet."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        new = [Param(key, value) for key, value in values.items() if key not in known]
        for i in range(0, len(new), MAX_PARAMS):
            self.client.log_batch(run_id, params=new[i : i + MAX_PARAMS])

    def metrics(self, run_id: str, points: Sequence[Sequence[Any]]) -> None:
        """Log up to 1000 points (name, value, time in ms, step)."""
        from mlflow.entities import Metric

        self.client.log_batch(run_id, metrics=[Metric(*point) for point in points])

    def input(
        self, run_id: str, name: str, set_hash: str, n_instances: int, source: str, context: str
    ) -> None:
        """Log a dataset input.

        MLflow's digest holds the first 36 digits of the hash, the profile all of them.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        profile = json.dumps({"num_rows": n_instances, "set_hash": set_hash})
        data = Dataset(name, set_hash[:36], "local", json.dumps({"uri": source}), profile=profile)
        tag = InputTag("mlflow.data.context", context)
        self.client.log_inputs(run_id, [DatasetInput(data, [tag])])

    def artifact(self, run_id: str, path: str, folder: str) -> None:
        """Upload a file, or the content of a folder."""
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
        """Return MLflow's collector of system metrics, not started.

        Its own thread would give up at the first call that fails.
        """
        from mlflow.system_metrics import system_metrics_monitor

        monitor: Any = system_metrics_monitor.SystemMetricsMonitor
        return monitor(run_id, tracking_uri=self.uri)

    def _find(self, folder: Path, opening: Mapping[str, Any]) -> Any:
        """Return the run whose id `folder` holds; for a sweep else the run with its key; or None.

        Another folder may have opened the run of a sweep.
        """
        from mlflow.exceptions import MlflowException

        if run_id := read_run_file(folder).get("id"):
            try:
                run = self.client.get_run(run_id)
            except MlflowException as error:  # the id is of another store or of a deleted one
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                if run.info.lifecycle_stage == "active":
                    return run
        if opening["tags"]["role"] != "sweep":
            return None
        wanted = f"tags.role = 'sweep' and tags.key = '{opening['key']}'"
        runs = self.client.search_runs([self.experiment_id], wanted, max_results=1)
        return next(iter(runs), None)

    def _tags(self, opening: Mapping[str, Any]) -> dict[str, str]:
        """Return the tags of a new run, with the id of its sweep's run where it has one."""
        tags: dict[str, str] = opening["tags"]
        parent = opening["parent"]
        if parent is None:
            return tags
        folder = Path(parent["folder"])
        run = self._find(folder, parent)
        return {**tags, "mlflow.parentRunId": run.info.run_id if run else self.open(folder, parent)}

    def _lock(self) -> FileLock:
        """Return a lock for one process at a time: beside the database, else on this machine."""
        path = sqlite_path(self.uri)
        if path is None:
            digest = hashlib.sha256(self.uri.encode()).hexdigest()[:16]
            path = Path(tempfile.gettempdir()) / f"mlflow-{digest}"
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
        """Download one artifact to `folder`.

        Raises
        ------
        FileNotFoundError
            Where the run does not have it.
        """
        from mlflow.exceptions import MlflowException

        try:
            return Path(self._client.download_artifacts(self.id, name, str(folder)))
        except MlflowException as error:
            raise FileNotFoundError(
                f"{name}: not among the run's artifacts ({one_line(error, 200)})"
            ) from None


def stored_runs(uri: str, experiment: str) -> list[StoredRun]:
    """Return the runs of an experiment, newest first, without the parents of sweeps.

    Raises
    ------
    UserError
        Where the store or the experiment does not exist or does not answer.
    """
    path = sqlite_path(absolute(uri))
    if path is not None and not path.exists():
        raise UserError(
            f"uri: there is no store {uri}; "
            "start a run with tracking=local first or name another with --uri"
        )
    client = Store(absolute(uri), experiment, "").client
    try:
        found = client.get_experiment_by_name(experiment)
        known = [other.name for other in client.search_experiments()]
    except Exception as error:
        raise UserError(f"uri: the store {uri} cannot be read ({one_line(error, 200)})") from error
    if found is None:
        raise UserError(f"experiment: {experiment!r} is not in {uri}; it holds {', '.join(known)}")
    return [
        StoredRun(
            id=run.info.run_id,
            name=run.info.run_name,
            status=run.info.status.lower(),
            started=run.info.start_time,
            tags=run.data.tags,
            params=run.data.params,
            _client=client,
        )
        for run in _newest_first(client, found.experiment_id)
        if run.data.tags.get("role") == "run"
    ]


def _newest_first(client: Any, experiment_id: str) -> Iterator[Any]:
    """Yield all runs of an experiment, of which MLflow returns one page at a time."""
    order = ["attributes.start_time DESC"]
    page = client.search_runs([experiment_id], order_by=order)
    yield from page
    while page.token:
        page = client.search_runs([experiment_id], order_by=order, page_token=page.token)
        yield from page


def read_run_file(folder: Path) -> dict[str, Any]:
    """Return the id and start of the MLflow run that `folder` holds; empty without one."""
    path = folder / RUN_FILE
    data: dict[str, Any] = read_json(path) if path.exists() else {}
    return data


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite store, None for other stores."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def absolute(uri: str) -> str:
    """Return the URI with an absolute path of a database, so that it holds in every folder."""
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path.absolute()}"
