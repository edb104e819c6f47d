"""Runs in MLflow: parameters, metrics, inputs, artifacts.

This is the only package that imports MLflow, and only when it is first used.

Every write goes through `TrackedRun._write`. If the store fails, that write and all later ones of
the run go to `mlflow_spool.jsonl` in the run's folder instead, so that a server that does not
answer costs seconds and nothing is lost. The spool is written to the store when the run ends, when
it is started again, or by `python -m bench.tracking replay FOLDER...`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError, one_line
from bench.tracking.run import TrackedRun, flatten, now_ms, replay
from bench.tracking.store import (
    Store,
    StoredRun,
    absolute,
    read_run_file,
    sqlite_path,
    stored_runs,
)

__all__ = [
    "Mlflow",
    "Off",
    "StoredRun",
    "TrackedRun",
    "UntrackedRun",
    "flatten",
    "replay",
    "stored_runs",
]

_log = logging.getLogger(__name__)


class UntrackedRun:
    """A run that is not tracked: the interface of `TrackedRun`, whose methods are no-ops."""

    id = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> UntrackedRun:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def metrics(self, *arguments: object, **options: object) -> None:
        """Do nothing."""

    summary = metrics
    input = metrics
    artifact = metrics
    finish = metrics


class Off:
    """No tracking: the interface of `Mlflow`, whose runs are not tracked."""

    def prepare(self) -> None:
        """Do nothing."""

    def parent(
        self, key: str, name: str, tags: Mapping[str, Any], folder: str | Path
    ) -> UntrackedRun:
        """Return a run that is not tracked."""
        return UntrackedRun(Path(folder))

    def run(
        self,
        key: str,
        name: str,
        config: Mapping[str, Any],
        tags: Mapping[str, Any],
        folder: str | Path,
        parent: UntrackedRun | None = None,
    ) -> UntrackedRun:
        """Return a run that is not tracked."""
        return UntrackedRun(Path(folder))

    def how_to_open(self) -> str:
        """Return one line for the end of a run."""
        return "MLflow is off (tracking=off)"


class Mlflow:
    """Tracks runs in an MLflow store.

    Parameters
    ----------
    uri
        A database (sqlite:///FILE) or the address of a server.
    experiment
        The MLflow experiment of all runs.
    artifacts
        Folder of the artifacts, used where the store is a database; a server has its own.
    system_metrics
        Whether to log the use of CPU, memory, disk, network and GPU.
    sampling_seconds
        Between two samples of the system metrics.
    flush_seconds
        How long metrics are buffered at most while new ones arrive.

    Raises
    ------
    UserError
        For an empty URI or experiment, or a period that is not positive.
    """

    def __init__(
        self,
        uri: str = "sqlite:///mlflow.db",
        experiment: str = "dl-scheduling-bench",
        artifacts: str = "mlartifacts",
        system_metrics: bool = True,
        sampling_seconds: float = 5.0,
        flush_seconds: float = 3.0,
    ) -> None:
        for field, text in (("uri", uri), ("experiment", experiment)):
            if not isinstance(text, str) or not text:
                raise UserError(f"tracking.{field}: a string is needed, got {text!r}")
        for field, number in (
            ("sampling_seconds", sampling_seconds),
            ("flush_seconds", flush_seconds),
        ):
            if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0:
                raise UserError(f"tracking.{field}: a positive number is needed, got {number!r}")
        self._store = Store(absolute(uri), experiment, str(Path(artifacts).absolute()))
        self._sampling = sampling_seconds if system_metrics else None
        self._flush_seconds = flush_seconds

    def prepare(self) -> None:
        """Create the schema and the experiment before any parallel work.

        Many processes may call it at once. A server that does not answer is only a warning: its
        runs spool. A database that cannot be opened is an error.

        Raises
        ------
        UserError
            For a database that cannot be created or has an older schema.
        """
        try:
            _ = self._store.experiment_id
        except Exception as error:
            reason = one_line(error, 200)
            if not self._store.remote:
                raise UserError(
                    f"tracking.uri: {self._store.uri} cannot be used ({reason})"
                ) from error
            _log.warning(
                "MLflow at %s does not answer (%s); runs will spool in their folders",
                self._store.uri,
                reason,
            )

    def parent(
        self, key: str, name: str, tags: Mapping[str, Any], folder: str | Path
    ) -> TrackedRun:
        """Return the parent of all runs of a sweep, found by its key or created.

        Call it before the jobs start; every job that calls it again, also after a kill, gets the
        same run. End it with `finish`.
        """
        return self._open(key, name, {**tags, "role": "sweep"}, folder, parent=None)

    def run(
        self,
        key: str,
        name: str,
        config: Mapping[str, Any],
        tags: Mapping[str, Any],
        folder: str | Path,
        parent: TrackedRun | None = None,
    ) -> TrackedRun:
        """Return a new run, or the one that `folder` holds (after a kill), for a `with` statement.

        Parameters
        ----------
        key
            Identifies configuration, seed and instance set.
        config
            The resolved configuration, nested; its values become the parameters.
        tags
            git_commit, set_hash, track, solver, dataset, seed, hardware, ...
        folder
            The run's own folder, which must survive a kill.
        parent
            The run of the sweep that this run belongs to.
        """
        above = None if parent is None else {"folder": str(parent.folder), **parent.opening}
        run = self._open(key, name, {**tags, "role": "run"}, folder, above)
        run.params(config)
        if self._sampling is not None:
            run.sample_system(self._sampling)
        return run

    def how_to_open(self) -> str:
        """Return one line that says how to open the runs in a browser."""
        if self._store.remote:
            return f"MLflow: open {self._store.uri}"
        path = sqlite_path(self._store.uri)
        shown = self._store.uri
        if path and path.is_relative_to(Path.cwd()):
            shown = f"sqlite:///{os.path.relpath(path)}"
        # Without its job runner the interface starts in 8 s with 2 processes, not 26 s with 11.
        command = (
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 "
            f"--backend-store-uri {shown}"
        )
        return f"MLflow: {command}  and open http://127.0.0.1:5000"

    def _open(
        self,
        key: str,
        name: str,
        tags: dict[str, Any],
        folder: str | Path,
        parent: dict[str, Any] | None,
    ) -> TrackedRun:
        text = {tag: str(value) for tag, value in {**tags, "key": key}.items() if value is not None}
        start = read_run_file(Path(folder)).get("start", now_ms())
        opening = {"key": key, "name": name, "tags": text, "start": start, "parent": parent}
        return TrackedRun(self._store, Path(folder), opening, self._flush_seconds)
