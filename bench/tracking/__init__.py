"""Runs in MLflow: parameters, metrics, inputs, artifacts.

This is the only package that imports MLflow, and only when it is first used.

Whatever happens, the store holds each run once, finished, with every metric point once: a run is
found by a tag that was chosen before it was created, every record goes to `mlflow_spool.jsonl` in
the run's folder before it is sent, and points that the store has are not sent again. The spool is
deleted when the store holds the finished run. If the store fails, the run goes on, and the spool is
sent when it ends, when the same command is started again, or by `python -m bench.tracking replay
FOLDER...`.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.errors import UserError, one_line
from bench.paths import output_folder
from bench.tracking.database import (
    StoreUnavailableError,
    absolute,
    shown,
    sqlite_path,
    wait_until_unlocked,
)
from bench.tracking.run import TrackedRun, replay
from bench.tracking.spool import STATUS, RunFiles
from bench.tracking.store import Store
from bench.tracking.stored import StoredRun, stored_runs
from bench.tracking.uri import check_uri
from bench.tracking.values import final_values, flatten, is_stored

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

EXPERIMENT = "dl-scheduling-bench"
LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` answers

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
        sample: bool = True,
    ) -> UntrackedRun:
        """Return a run that is not tracked."""
        return UntrackedRun(Path(folder))

    def restart(self, folder: str | Path) -> None:
        """Do nothing."""

    def published(
        self,
        key: str,
        folder: str | Path,
        status: str,
        summary: Mapping[str, Any],
        parent: UntrackedRun | None = None,
    ) -> bool:
        """Return that there is nothing to publish."""
        return True

    def how_to_open(self, sweep: UntrackedRun | None = None) -> str:
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
        For a URI that names no store, an empty experiment, artifacts that are no folder, or a
        period that is not positive.
    """

    def __init__(
        self,
        uri: str = "sqlite:///mlflow.db",
        experiment: str = EXPERIMENT,
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
        check_uri("tracking.uri", uri)
        output_folder("tracking.artifacts", artifacts)
        self._store = Store(absolute(uri), experiment, str(Path(artifacts).absolute()))
        self._artifacts = artifacts
        self._sampling = sampling_seconds if system_metrics else None
        self._flush_seconds = flush_seconds
        self._offline = False  # whether the store did not answer when it was prepared

    def prepare(self) -> None:
        """Create the schema and the experiment before any parallel work.

        Many processes may call it at once. A server that does not answer and a database that stays
        locked are only a warning: the runs spool.

        Raises
        ------
        UserError
            For a database that cannot be used.
        """
        try:
            path = sqlite_path(self._store.uri)
            if path is not None:
                wait_until_unlocked(path)
            _ = self._store.experiment_id
            self._offline = False
        except UserError:
            raise
        except Exception as error:
            if not (self._store.remote or isinstance(error, StoreUnavailableError)):
                reason = one_line(error, 200)
                raise UserError(
                    f"tracking.uri: {self._store.uri} cannot be used ({reason})"
                ) from error
            self._offline = True
            _log.warning(
                "MLflow at %s does not answer (%s); runs will spool in their folders",
                self._store.uri,
                one_line(error, 200),
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
        sample: bool = True,
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
        sample
            Whether something runs now, whose use of the machine is logged.
        """
        above = None
        if parent is not None:
            above = {**parent.opening, "attempt": parent.attempt}
            tags = {**tags, **_sweep_tag(parent)}
        run = self._open(key, name, {**tags, "role": "run"}, folder, above)
        run.params(config)
        if sample and self._sampling is not None:
            run.sample_system(self._sampling)
        return run

    def restart(self, folder: str | Path) -> None:
        """Let the next run in a folder be a new one, which replaces the one before.

        That is deleted when the new one is finished; MLflow can restore it.
        """
        RunFiles(Path(folder)).restart()

    def published(
        self,
        key: str,
        folder: str | Path,
        status: str,
        summary: Mapping[str, Any],
        parent: TrackedRun | None = None,
    ) -> bool:
        """Return whether the store holds all of a finished run; make it one of the sweep `parent`.

        What the run's folder says counts where the store does not answer.

        Parameters
        ----------
        status
            finished or failed.
        summary
            The final metrics; they may have changed while another store or none was used.
        """
        files = RunFiles(Path(folder))
        store = self._store
        run_id = files.id(store.digest)
        if self._offline:
            return files.published(store.digest)
        try:
            if not run_id or files.spooled:
                return False
            stored, last = store.state(run_id, key)
            final = final_values(summary).items()
            if stored != STATUS[status] or not all(
                is_stored(last.get(name), value) for name, value in final
            ):
                return False
            if parent is not None:
                store.tag(run_id, _sweep_tag(parent))
        except Exception as error:
            _log.warning("MLflow at %s does not answer (%s)", self._store.uri, one_line(error, 200))
        return True

    def how_to_open(self, sweep: TrackedRun | None = None) -> str:
        """Return what opens the runs in a browser: a command or an address.

        For a sweep also where its table and its charts are.
        """
        address = self._store.uri if self._store.remote else LOCAL
        # Without its job runner the interface starts in 8 s with 2 processes, not 26 s with 11.
        command = (
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 "
            f"--backend-store-uri {shown(self._store.uri)}"
        )
        first = f"open {address}" if self._store.remote else f"{command}  and open {address}"
        if sweep is None or not sweep.id:
            return f"MLflow: {first}"
        (tag,) = _sweep_tag(sweep)
        wanted = quote(f"tags.`{tag}` = 'true'", safe="")
        experiment = self._store.experiment_id
        table = f"{address}/#/experiments/{experiment}/runs?searchFilter={wanted}"
        return (
            f"MLflow: {first}\n  runs of this sweep: {table}&compareRunsMode=TABLE\n"
            f"  charts: {table}&compareRunsMode=CHART"
        )

    def _open(
        self,
        key: str,
        name: str,
        tags: dict[str, Any],
        folder: str | Path,
        parent: dict[str, Any] | None,
    ) -> TrackedRun:
        text = {tag: str(value) for tag, value in {**tags, "key": key}.items() if value is not None}
        files = RunFiles(Path(folder))
        files.opening = {
            "key": key,
            "name": name,
            "tags": text,
            "start": files.start,
            "parent": parent,
        }
        return TrackedRun(
            self._store, files, self._flush_seconds, self._offline, self._replay(folder)
        )

    def _replay(self, folder: str | Path) -> str:
        """Return the command that sends the spool of a folder."""
        options = [f"--uri {shown(self._store.uri)}"]
        if self._store.experiment != EXPERIMENT:
            options.append(f"--experiment {shlex.quote(self._store.experiment)}")
        if not self._store.remote and self._artifacts != "mlartifacts":
            options.append(f"--artifacts {shlex.quote(self._artifacts)}")
        return f"python -m bench.tracking replay {shlex.quote(str(folder))} {' '.join(options)}"


def _sweep_tag(parent: TrackedRun) -> dict[str, str]:
    """Return the tag that all runs of a sweep have, also those that an earlier sweep has made."""
    return {parent.opening["name"]: "true"}
