"""The runs that a store holds, for reading alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError, one_line
from bench.tracking import database
from bench.tracking.database import absolute, sqlite_path
from bench.tracking.store import import_mlflow, is_complete, sqlalchemy_uri
from bench.tracking.uri import check_uri


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
    client = _reader(uri)
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


def _reader(uri: str) -> Any:
    """Return MLflow's client of a store that exists, for reading alone."""
    path = sqlite_path(absolute(check_uri("uri", uri)))
    if path is not None and not path.exists():
        raise UserError(
            f"uri: there is no store {uri}; "
            "start a run with tracking=local first or name another with --uri"
        )
    import_mlflow()
    from mlflow.tracking import MlflowClient

    if path is None:
        return MlflowClient(uri)
    try:
        complete = is_complete(database.tables(path))
    except sqlite3.Error as error:
        raise UserError(
            f"uri: {path} cannot be read as a database ({one_line(error, 200)})"
        ) from None
    if not complete:
        raise UserError(database.unusable(path))
    return MlflowClient(sqlalchemy_uri(path))
