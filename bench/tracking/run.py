"""One tracked run: it writes to the store, or to the spool in its folder where the store fails."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import numbers
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.errors import UserError, one_line
from bench.tracking.store import Store, absolute

# A file in a run's folder: first a header with the store and what opens the run, then one JSON
# record per line, each the arguments of one method of `Store`.
SPOOL = "mlflow_spool.jsonl"
MAX_POINTS = 1000  # metric points that MLflow takes in one call
MAX_PARAM_LENGTH = 6000  # characters of a parameter
STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}

_log = logging.getLogger(__name__)


class TrackedRun:
    """One MLflow run; leaving its `with` block ends it, as failed where an exception leaves it.

    Attributes
    ----------
    id
        MLflow's run id, empty while nothing could be written.
    folder
        The run's own folder.
    opening
        What the store needs to open the run: key, name, tags, start (ms since 1970), parent.
    """

    def __init__(
        self, store: Store, folder: Path, opening: dict[str, Any], flush_seconds: float
    ) -> None:
        self.id = ""
        self.folder = folder
        self.opening = opening
        self._store = store
        self._flush_seconds = flush_seconds
        self._buffer: list[tuple[str, float, int, int]] = []  # (name, value, time in ms, step)
        self._flushed = time.monotonic()
        self._spooling = False
        self._open = True
        self._lock = threading.RLock()
        self._sampler: SystemMetricsSampler | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / SPOOL).exists():
            self._replay()
        self._write()

    def __enter__(self) -> TrackedRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if kind is None:
            self.finish("finished")
        else:
            status = "failed" if issubclass(kind, Exception) else "killed"
            self.finish(status, f"{kind.__name__}: {error}")

    def params(self, config: Mapping[str, Any]) -> None:
        """Log a nested configuration as parameters `a.b.c`.

        Those that the run has already (after a kill) stay as they are.
        """
        values = {allowed_name(key): shorten_param(value) for key, value in flatten(config).items()}
        self._write("params", values=values)

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Log step metrics, without missing and infinite values.

        They are buffered: one call to MLflow takes up to 1000 points.
        """
        time_ms = now_ms()
        with self._lock:
            self._buffer += [
                (allowed_name(key), value, time_ms, int(step))
                for key, value in finite(values).items()
            ]
            age = time.monotonic() - self._flushed
            if len(self._buffer) >= MAX_POINTS or age >= self._flush_seconds:
                self._flush()

    def summary(self, values: Mapping[str, Any]) -> None:
        """Log the numbers among `values` as the run's final metrics, all at step 0."""
        self.metrics(0, values)

    def input(
        self, name: str, set_hash: str, n_instances: int, source: str, context: str = "test"
    ) -> None:
        """Log an instance set as the run's MLflow input; `context` is the split it was used for."""
        self._write(
            "input",
            name=name,
            set_hash=set_hash,
            n_instances=n_instances,
            source=source,
            context=context,
        )

    def artifact(self, path: str | Path, folder: str = "") -> None:
        """Log a file or a folder, under `folder` of the run's artifacts.

        It must stay where it is until it is written.
        """
        self._write("artifact", path=str(Path(path).absolute()), folder=folder)

    def finish(self, status: str, error: str | None = None) -> None:
        """End the run as finished, failed or killed, and try once more to write the spool."""
        if not self._open:
            return
        self._open = False
        if self._sampler is not None:
            self._sampler.stop()
        with self._lock:
            self._flush()
            self._write("finish", status=STATUS[status], error=error, end=now_ms())
            if self._spooling:
                self._replay()

    def sample_system(self, seconds: float) -> None:
        """Log system metrics every `seconds` until the run ends, and then once more."""
        self._sampler = SystemMetricsSampler(self, seconds)

    def _flush(self) -> None:
        while self._buffer:
            batch = self._buffer[:MAX_POINTS]
            self._buffer = self._buffer[MAX_POINTS:]
            self._write("metrics", points=batch)
        self._flushed = time.monotonic()

    def _write(self, record: str = "", **values: Any) -> None:
        """Call the method `record` of the store, or spool the call where the store has failed.

        Without a record only open the run.
        """
        with self._lock:
            if not self._spooling:
                try:
                    self.id = self.id or self._store.open(self.folder, self.opening)
                    if record:
                        self._store.write(self.id, record, values)
                    return
                except Exception as error:
                    self._start_spooling(error)
            if record:
                _append(self.folder, {"record": record, **values})

    def _start_spooling(self, error: Exception) -> None:
        if self._spooling:
            return
        self._spooling = True
        if not (self.folder / SPOOL).exists():
            _append(self.folder, {"store": asdict(self._store), "opening": self.opening})
        _log.warning(
            "MLflow at %s failed (%s); kept in %s, to write it later: %s",
            self._store.uri,
            one_line(error, 200),
            self.folder / SPOOL,
            f"python -m bench.tracking replay {self.folder}",
        )

    def _replay(self) -> None:
        try:
            replay(self.folder)
            self._spooling = False
        except Exception as error:
            self._start_spooling(error)


class SystemMetricsSampler:
    """A thread that logs MLflow's system metrics into a run.

    The step is the number of seconds since the run began.
    """

    def __init__(self, run: TrackedRun, seconds: float) -> None:
        self._monitor = run._store.system_monitor(run.id)
        self._run = run
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end the thread."""
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(self._seconds)
            self._monitor.collect_metrics()
            values = {
                f"system/{key}": value for key, value in self._monitor.aggregate_metrics().items()
            }
            self._run.metrics((now_ms() - self._run.opening["start"]) // 1000, values)
            for monitor in self._monitor.monitors:
                monitor.clear_metrics()


# -- the spool -------------------------------------------------------------------------------------


def replay(folder: str | Path, uri: str = "") -> int:
    """Write the spool of a run's folder to the store, in order, and remove it.

    Parameters
    ----------
    uri
        Another store than the one that failed; empty: the same.

    Returns
    -------
    int
        The number of records written.

    Raises
    ------
    UserError
        Where there is no spool.
    Exception
        Whatever the store raises; the records that are not written by then stay spooled.
    """
    folder = Path(folder)
    with FileLock(folder / f"{SPOOL}.lock"):
        header, *records = _read_spool(folder)
        store = Store(**{**header["store"], **({"uri": absolute(uri)} if uri else {})})
        remaining = list(records)
        try:
            run_id = store.open(folder, header["opening"])
            while remaining:
                values = dict(remaining[0])
                store.write(run_id, values.pop("record"), values)
                remaining.pop(0)
        except Exception:
            _write_spool(folder, [header, *remaining])
            raise
        (folder / SPOOL).unlink()
    return len(records)


def _append(folder: Path, record: Mapping[str, Any]) -> None:
    with FileLock(folder / f"{SPOOL}.lock"), (folder / SPOOL).open("a") as file:
        file.write(json.dumps(record) + "\n")


def _read_spool(folder: Path) -> list[dict[str, Any]]:
    """Return the header and the records, without a line that a kill has cut short."""
    if not (folder / SPOOL).exists():
        raise UserError(f"{folder}: nothing is spooled there (no {SPOOL})")
    records = []
    for text in (folder / SPOOL).read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(text))
    return records


def _write_spool(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    partial = folder / f"{SPOOL}.partial"
    partial.write_text("".join(json.dumps(record) + "\n" for record in records))
    partial.replace(folder / SPOOL)


# -- values in the form that MLflow takes ----------------------------------------------------------


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"a": {"b": 1}} as {"a.b": 1}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers among `values`."""
    real = {key: float(value) for key, value in values.items() if isinstance(value, numbers.Real)}
    return {key: value for key, value in real.items() if math.isfinite(value)}


def allowed_name(name: str) -> str:
    """Return `name` with each character that MLflow does not allow replaced by `_`."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def shorten_param(value: Any) -> str:
    """Return a parameter as a string that is short enough for MLflow.

    A longer one is cut, and ends with its length and hash, so that different values stay different.
    """
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) <= MAX_PARAM_LENGTH:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    end = f"... ({len(text)} characters, sha256 {digest})"
    return text[: MAX_PARAM_LENGTH - len(end)] + end


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
