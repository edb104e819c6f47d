"""The calls to MLflow that write a run; it is imported when a store is first used."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from bench.errors import UserError
from bench.paths import CACHE
from bench.tracking import database
from bench.tracking.database import sqlite_path
from bench.tracking.uri import SERVERS

MAX_PARAMS = 100  # parameters that MLflow takes in one call
ENVIRONMENT = {  # set unless the user has set them
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# Without this tag, `mlflow ui` guesses what an experiment holds and may open a view for language
# models, which shows no runs. MLflow's own guesses end with "inferred" or are "no_inferred_type".
KIND_TAG = "mlflow.experimentKind"
KIND = "custom_model_development"
ATTEMPT = "attempt"  # the tag by which a run is found whose id was lost

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """An MLflow store, with one method per kind of record.

    A record of a spool holds the arguments of one of these methods, so that writing it later is the
    same call; `bench.tracking.run` makes metrics of a `summary`. Each may be repeated without a
    change of the result. All methods may raise what MLflow raises.

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
        return self.uri.startswith(SERVERS)

    @cached_property
    def client(self) -> Any:
        """MLflow's client; a database is created where there is none.

        Raises
        ------
        StoreUnavailableError
            Where the database is locked.
        UserError
            Where it cannot be used.
        """
        import_mlflow()
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        path = sqlite_path(self.uri)
        if path is None:
            return MlflowClient(self.uri)
        database.ensure(path, self._build, is_complete)
        client = MlflowClient(sqlalchemy_uri(path))
        try:
            client.search_experiments(max_results=1)
        except MlflowException as error:
            if "out-of-date" not in str(error):
                raise
            with database.locked(path):
                database.rebuild(path, self._build)
        return client

    @cached_property
    def experiment_id(self) -> str:
        """The id of the experiment, found by name or created, and shown as runs by MLflow."""
        from mlflow.exceptions import MlflowException

        client = self.client
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            location = None if self.remote else Path(self.artifacts).as_uri()
            try:
                return str(client.create_experiment(self.experiment, location, {KIND_TAG: KIND}))
            except MlflowException:  # another process was quicker
                found = client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise UserError(
                f"tracking.experiment: {self.experiment!r} is deleted in {self.uri}; restore it: "
                f"mlflow experiments restore -x {found.experiment_id}; or name another one"
            )
        if "inferred" in found.tags.get(KIND_TAG, "inferred"):
            client.set_experiment_tag(found.experiment_id, KIND_TAG, KIND)
        return str(found.experiment_id)

    @property
    def digest(self) -> str:
        """Identifies the store in a file, without the password that a URI may hold."""
        return hashlib.sha256(f"{self.uri} {self.experiment}".encode()).hexdigest()[:16]

    # -- runs ------------------------------------------------------------------------------------

    def open(self, opening: Mapping[str, Any], attempt: str, run_id: str) -> tuple[str, bool]:
        """Return the id of a run, which is running now, and whether it is new.

        An answer of the store may have been lost, so a run is searched before it is created, by
        `attempt` or, for a sweep, by its key. MLflow's client repeats a request that is not
        answered: of two runs of one attempt the second is deleted.

        Parameters
        ----------
        opening
            key, name, tags, start (ms since 1970), parent.
        attempt
            Identifies this attempt at a job.
        run_id
            Where it is known; empty otherwise.
        """
        experiment = self.experiment_id  # outside of the lock, which the client takes itself
        with self._lock():
            run = self._find(opening, attempt, run_id)
            if run is None:
                tags = {**opening["tags"], ATTEMPT: attempt}
                if opening["parent"] is not None:
                    tags["mlflow.parentRunId"] = self._parent(opening["parent"])
                self.client.create_run(experiment, opening["start"], tags, opening["name"])
                created = self._find(opening, attempt, "")
                return str(created.info.run_id), True
        self.client.update_run(run.info.run_id, status="RUNNING")
        if run.data.tags.get(ATTEMPT) is None:
            self.client.set_tag(run.info.run_id, ATTEMPT, attempt)
        return str(run.info.run_id), False

    def state(self, run_id: str, key: str) -> tuple[str, dict[str, float]]:
        """Return status (empty: there is no run with this key) and last values of the metrics."""
        run = self._get(run_id)
        if run is None or run.data.tags.get("key") != key:
            return "", {}
        return str(run.info.status), dict(run.data.metrics)

    def points(self, run_id: str) -> dict[tuple[str, int], float]:
        """Return (name, step) -> value of all metric points of a run."""
        run = self._get(run_id)
        return {
            (name, point.step): point.value
            for name in (run.data.metrics if run is not None else ())
            for point in self.client.get_metric_history(run_id, name)
        }

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        for name, value in tags.items():
            self.client.set_tag(run_id, name, value)

    def delete(self, run_id: str, key: str) -> None:
        """Delete a run with this key, where there is one; MLflow can restore it."""
        if self.state(run_id, key)[0]:
            self.client.delete_run(run_id)

    # -- records ---------------------------------------------------------------------------------

    def write(self, run_id: str, folder: Path, record: Mapping[str, Any]) -> None:
        """Write a record of the spool in `folder`, which `bench.tracking.spool` has checked."""
        values = {key: value for key, value in record.items() if key != "record"}
        if record["record"] == "artifact":
            self.artifact(run_id, folder, **values)
        else:
            getattr(self, record["record"])(run_id, **values)

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

    def artifact(self, run_id: str, folder: Path, path: str) -> None:
        """Upload a file or a folder that lies in `folder`, without links out of it.

        Parameters
        ----------
        path
            Relative to `folder`.
        """
        for file in files_inside(folder, path):
            target = PurePosixPath(file).parent
            self.client.log_artifact(
                run_id, str(folder / file), None if target.name == "" else str(target)
            )

    def finish(self, run_id: str, status: str, error: str | None, end: int) -> None:
        """End a run."""
        if error:
            self.client.set_tag(run_id, "error", error[:4000])
        elif "error" in self.client.get_run(run_id).data.tags:  # of a session that failed
            self.client.delete_tag(run_id, "error")
        self.client.set_terminated(run_id, status, end)

    def system_monitor(self, run_id: str) -> Any:
        """Return MLflow's collector of system metrics, not started.

        Its own thread would give up at the first call that fails. It only collects here, and is
        given an address that it never uses, since it connects to a database when it is built.
        """
        import_mlflow()
        from mlflow.system_metrics import system_metrics_monitor

        monitor: Any = system_metrics_monitor.SystemMetricsMonitor
        return monitor(run_id, tracking_uri="http://127.0.0.1")

    # -- parts -----------------------------------------------------------------------------------

    def _get(self, run_id: str) -> Any:
        """Return the run with an id, None where there is none or it is deleted."""
        from mlflow.exceptions import MlflowException

        if not run_id:
            return None
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _find(self, opening: Mapping[str, Any], attempt: str, run_id: str) -> Any:
        """Return the run of an attempt or of a sweep, or None; delete its duplicates."""
        run = self._get(run_id)
        tags = {} if run is None else run.data.tags
        same = tags.get(ATTEMPT, attempt) == attempt or _is_sweep(opening)
        if tags.get("key") == opening["key"] and same:
            return run
        wanted = f"tags.{ATTEMPT} = '{attempt}'"
        if _is_sweep(opening):
            wanted = f"tags.role = 'sweep' and tags.key = '{opening['key']}'"
        runs = self._search(wanted)
        for other in runs[1:]:
            if other.data.tags.get(ATTEMPT) == runs[0].data.tags.get(ATTEMPT):
                self.client.delete_run(other.info.run_id)
        return next(iter(runs), None)

    def _search(self, wanted: str) -> list[Any]:
        """Return the runs that a filter selects, oldest first."""
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        return list(self.client.search_runs([self.experiment_id], wanted, order_by=order))

    def _parent(self, opening: Mapping[str, Any]) -> str:
        """Return the id of the run of a sweep."""
        run = self._find(opening, opening["attempt"], "")
        if run is None:
            tags = {**opening["tags"], ATTEMPT: opening["attempt"]}
            run = self.client.create_run(
                self.experiment_id, opening["start"], tags, opening["name"]
            )
        return str(run.info.run_id)

    def _lock(self) -> AbstractContextManager[None]:
        """Return a lock for one process at a time: beside the database, else in the user's cache.

        A folder that several users share, such as the one for temporary files, is no place for it.
        """
        path = sqlite_path(self.uri)
        if path is None:
            import pooch

            path = Path(pooch.os_cache(CACHE)) / "locks" / f"mlflow-{self.digest}"
        return database.locked(path)

    def _build(self, path: Path) -> None:
        """Create a complete database in a new file."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store: Any = SqlAlchemyStore(  # type: ignore[no-untyped-call]
            sqlalchemy_uri(path), self.artifacts or "."
        )
        store.engine.dispose()


def files_inside(folder: Path, path: str) -> list[str]:
    """Return the regular files that `path` names in `folder`, relative to it.

    A run's folder may come from somebody else: nothing that is reached through a link, `..` or an
    absolute path counts.
    """
    root = folder.resolve()
    relative = PurePosixPath(path)
    full = root / relative
    if relative.is_absolute() or ".." in relative.parts or full == root or full.resolve() != full:
        _log.warning("%s: %s does not lie in this folder; it is not uploaded", folder, path)
        return []
    if not full.exists():
        _log.warning("%s is gone; it is not among the run's artifacts", full)
    found = [full] if full.is_file() else sorted(full.rglob("*"))
    return [
        str(file.relative_to(root)) for file in found if file.is_file() and file.resolve() == file
    ]


def import_mlflow() -> None:
    """Import MLflow with fewer requests, without telemetry, and without its notes and tracebacks.

    What it reports as a traceback it also raises.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow.tracking  # noqa: F401

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def is_complete(tables: set[str]) -> bool:
    """Return whether these are all tables of MLflow's schema; it adds those that are missing."""
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.tracking import sqlalchemy_store  # noqa: F401  # defines the tables

    return {*Base.metadata.tables, "alembic_version"} <= tables


def sqlalchemy_uri(path: Path) -> str:
    """Return the URI for the SQLAlchemy that is installed; 2.1 decodes the path, 2.0 does not."""
    from sqlalchemy.engine import URL

    driver = database.sqlite_uri(path).partition(":")[0]
    return URL.create(driver, database=str(path)).render_as_string(hide_password=False)


def _is_sweep(opening: Mapping[str, Any]) -> bool:
    return bool(opening["tags"]["role"] == "sweep")
