"""Runs in MLflow: parameters, metrics, inputs, artifacts. The only package that knows MLflow, which it imports when first used.

Every write goes through `Run._write`. Where the store fails it goes to `mlflow_spool.jsonl` in the run's folder instead, and so
does everything after it: a dead server costs seconds and loses nothing. What is spooled is written when the run ends, when it
is started again, or by `python -m bench.tracking replay FOLDER...`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.tracking.run import Run, flatten, now, replay
from bench.tracking.store import Store, StoredRun, absolute, line, sqlite_path, stored, stored_runs

__all__ = ["Mlflow", "Off", "OffRun", "Run", "StoredRun", "flatten", "replay", "stored_runs"]

_log = logging.getLogger(__name__)


class OffRun:
    """A run nobody records; the interface of `Run`."""

    id = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> OffRun:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def metrics(self, *arguments: object, **options: object) -> None:
        """Nothing."""

    summary = input = artifact = finish = metrics


class Off:
    """No tracking; the interface of `Mlflow`."""

    def prepare(self) -> None:
        """Nothing."""

    def parent(self, key: str, name: str, tags: Mapping[str, Any], folder: str | Path) -> OffRun:
        """A run nobody records."""
        return OffRun(Path(folder))

    def run(
        self, key: str, name: str, config: Mapping[str, Any], tags: Mapping[str, Any], folder: str | Path,
        parent: OffRun | None = None,
    ) -> OffRun:  # fmt: skip
        """A run nobody records."""
        return OffRun(Path(folder))

    def how_to_open(self) -> str:
        """One line for the end of a run."""
        return "MLflow is off (tracking=off)"


class Mlflow:
    """Tracks runs in an MLflow store: a database URI (sqlite:///FILE by default) or a server's address.

    Raises:
        UserError: for an empty URI or experiment, or a period that is not positive.
    """

    def __init__(
        self, uri: str = "sqlite:///mlflow.db", experiment: str = "dl-scheduling-bench", artifacts: str = "mlartifacts",
        system_metrics: bool = True, sampling_seconds: float = 5.0, flush_seconds: float = 3.0,
    ) -> None:  # fmt: skip
        for field, text in (("uri", uri), ("experiment", experiment)):
            if not isinstance(text, str) or not text:
                raise UserError(f"tracking.{field}: a text is needed, got {text!r}")
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
        """Make the schema and the experiment, once, before any parallel work; safe to call from many processes at once.

        A server that does not answer is only a warning (runs spool); a database that cannot be opened is an error.

        Raises:
            UserError: for a database that cannot be made or has an older schema.
        """
        try:
            _ = self._store.experiment_id
        except Exception as error:
            if not self._store.remote:
                raise UserError(
                    f"tracking.uri: {self._store.uri} cannot be used ({line(error)})"
                ) from error
            _log.warning(
                "MLflow at %s does not answer (%s); runs will spool in their folders",
                self._store.uri,
                line(error),
            )

    def parent(self, key: str, name: str, tags: Mapping[str, Any], folder: str | Path) -> Run:
        """The run above all runs of a sweep, found by its key or made; end it with `finish`.

        Called before the jobs start, it is the same run for every job that calls it again and after a kill.
        """
        return self._open(key, name, {**tags, "role": "sweep"}, folder, parent=None)

    def run(
        self, key: str, name: str, config: Mapping[str, Any], tags: Mapping[str, Any], folder: str | Path,
        parent: Run | None = None,
    ) -> Run:  # fmt: skip
        """Open a run, or the one that `folder` holds already (after a kill); use it in a `with` statement.

        Args:
            key: identifies configuration, seed and instance set.
            config: the resolved configuration, nested; becomes the parameters.
            tags: git_commit, set_hash, track, solver, dataset, seed, hardware, ...
            folder: the run's own folder, which must survive a kill.
        """
        above = None if parent is None else {"folder": str(parent.folder), **parent.opening}
        run = self._open(key, name, {**tags, "role": "run"}, folder, above)
        run.params(config)
        if self._sampling is not None:
            run.sample_system(self._sampling)
        return run

    def how_to_open(self) -> str:
        """One line that says how to see the runs."""
        if self._store.remote:
            return f"MLflow: open {self._store.uri}"
        path = sqlite_path(self._store.uri)
        shown = (
            f"sqlite:///{os.path.relpath(path)}"
            if path and path.is_relative_to(Path.cwd())
            else self._store.uri
        )
        quick = (
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"  # 8 s and 2 processes instead of 26 s and 11
        )
        return f"MLflow: {quick} mlflow ui --workers 1 --backend-store-uri {shown}  and open http://127.0.0.1:5000"

    def _open(
        self,
        key: str,
        name: str,
        tags: dict[str, Any],
        folder: str | Path,
        parent: dict[str, Any] | None,
    ) -> Run:
        text = {tag: str(value) for tag, value in {**tags, "key": key}.items() if value is not None}
        start = stored(Path(folder)).get("start", now())
        opening = {"key": key, "name": name, "tags": text, "start": start, "parent": parent}
        return Run(self._store, Path(folder), opening, self._flush_seconds)
