"""One run: what it logs goes to the store, or to the spool in its folder where the store fails; `replay` writes a spool."""

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

from bench.errors import UserError
from bench.tracking.store import Store, absolute, line

SPOOL = "mlflow_spool.jsonl"  # file in a run's folder: what could not be written yet, one JSON record a line
BATCH = 1000  # metric points MLflow takes in one call
LONGEST = 6000  # characters of a parameter
STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}

_log = logging.getLogger(__name__)


class Run:
    """One MLflow run. Leaving its `with` block ends it: finished, or failed with the exception's message."""

    def __init__(
        self, store: Store, folder: Path, opening: dict[str, Any], flush_seconds: float
    ) -> None:
        self.id = ""  # MLflow's run id; empty while nothing could be written
        self.folder = folder
        self.opening = opening
        self._store = store
        self._flush_seconds = flush_seconds
        self._buffer: list[tuple[str, float, int, int]] = []  # (name, value, time in ms, step)
        self._flushed = time.monotonic()
        self._spooling = False
        self._open = True
        self._lock = threading.RLock()
        self._sampler: Sampler | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / SPOOL).exists():
            self._replay()
        self._write()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if kind is None:
            self.finish("finished")
        else:
            self.finish(
                "failed" if issubclass(kind, Exception) else "killed", f"{kind.__name__}: {error}"
            )

    def params(self, config: Mapping[str, Any]) -> None:
        """Log a nested configuration as parameters `a.b.c`; those the run has already (after a kill) are left alone."""
        self._write(
            "params", values={clean(key): cut(value) for key, value in flatten(config).items()}
        )

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Buffer step metrics; missing and non-finite values are left out. One call to MLflow takes up to 1000 points."""
        time_ms = now()
        with self._lock:
            self._buffer += [
                (clean(key), value, time_ms, int(step)) for key, value in finite(values).items()
            ]
            if (
                len(self._buffer) >= BATCH
                or time.monotonic() - self._flushed >= self._flush_seconds
            ):
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
        """Log a file or a folder, under `folder` of the run's artifacts; it must stay where it is until it is written."""
        self._write("artifact", path=str(Path(path).absolute()), folder=folder)

    def finish(self, status: str, error: str | None = None) -> None:
        """End the run as finished, failed or killed; what could not be written before is tried once more."""
        if not self._open:
            return
        self._open = False
        if self._sampler is not None:
            self._sampler.stop()
        with self._lock:
            self._flush()
            self._write("finish", status=STATUS[status], error=error, end=now())
            if self._spooling:
                self._replay()

    def sample_system(self, seconds: float) -> None:
        """Log system metrics every `seconds`, and at the end, until the run ends; needs psutil."""
        self._sampler = Sampler(self, seconds)

    def _flush(self) -> None:
        while self._buffer:
            batch, self._buffer = self._buffer[:BATCH], self._buffer[BATCH:]
            self._write("metrics", points=batch)
        self._flushed = time.monotonic()

    def _write(self, record: str = "", **values: Any) -> None:
        """The only way out: to the store while it answers, else to the spool. Without a record: make sure the run exists."""
        with self._lock:
            if not self._spooling:
                try:
                    self.id = self.id or self._store.open(self.folder, self.opening)
                    if record:
                        getattr(self._store, record)(self.id, **values)
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
        again = f"python -m bench.tracking replay {self.folder}"
        _log.warning("MLflow at %s failed (%s); kept in %s, to write it later: %s",
                     self._store.uri, line(error), self.folder / SPOOL, again)  # fmt: skip

    def _replay(self) -> None:
        try:
            replay(self.folder)
            self._spooling = False
        except Exception as error:
            self._start_spooling(error)


class Sampler:
    """A thread that logs MLflow's system metrics into a run, the step being the seconds since the run began."""

    def __init__(self, run: Run, seconds: float) -> None:
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
            self._run.metrics((now() - self._run.opening["start"]) // 1000, values)
            for monitor in self._monitor.monitors:
                monitor.clear_metrics()


def replay(folder: str | Path, uri: str = "") -> int:
    """Write what a run's folder has spooled, in order, and remove the spool; the number of records written.

    Args:
        uri: another store than the one that failed.

    Raises:
        UserError: where there is no spool. Whatever the store raises: what was not written by then stays spooled.
    """
    folder = Path(folder)
    with FileLock(folder / f"{SPOOL}.lock"):
        head, *records = _read_spool(folder)
        store = Store(**{**head["store"], **({"uri": absolute(uri)} if uri else {})})
        left = list(records)
        try:
            run_id = store.open(folder, head["opening"])
            while left:
                record = dict(left[0])
                getattr(store, record.pop("record"))(run_id, **record)
                left.pop(0)
        except Exception:
            _write_spool(folder, [head, *left])
            raise
        (folder / SPOOL).unlink()
    return len(records)


def _append(folder: Path, record: Mapping[str, Any]) -> None:
    with FileLock(folder / f"{SPOOL}.lock"), (folder / SPOOL).open("a") as file:
        file.write(json.dumps(record) + "\n")


def _read_spool(folder: Path) -> list[dict[str, Any]]:
    """The spooled records; a line cut short by a kill is left out."""
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


def flatten(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among `values`."""
    real = {key: float(value) for key, value in values.items() if isinstance(value, numbers.Real)}
    return {key: value for key, value in real.items() if math.isfinite(value)}


def clean(key: str) -> str:
    """A key in the characters MLflow takes."""
    return re.sub(r"[^\w\-. /:]", "_", key)[:250]


def cut(value: Any) -> str:
    """A parameter's text; a too long one is cut, and its hash and length keep it told apart from others."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) <= LONGEST:
        return text
    mark = f"... ({len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]})"
    return text[: LONGEST - len(mark)] + mark


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
