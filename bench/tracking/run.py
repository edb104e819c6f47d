"""One tracked run: everything goes to the spool in its folder first, and from there to the store.

So a run that is killed, or whose store fails, loses nothing: the next session sends the spool
again. Nothing is stored twice: of a metric there is one point per step, and points that the store
has already are not sent.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError, one_line
from bench.tracking.spool import MAX_POINTS, STATUS, RunFiles
from bench.tracking.store import Store
from bench.tracking.system_metrics import SystemMetricsSampler
from bench.tracking.values import (
    allowed_name,
    final_values,
    finite,
    flatten,
    is_stored,
    now_ms,
    shorten_param,
)

_log = logging.getLogger(__name__)


class TrackedRun:
    """One MLflow run; leaving its `with` block ends it, as failed where an exception leaves it.

    Parameters
    ----------
    files
        The tracker's files in the run's folder, with the opening.
    flush_seconds
        How long metrics are buffered at most while new ones arrive.
    offline
        Whether the store is known not to answer; then it is tried when the run ends.
    replay
        The command that sends the spool later.

    Attributes
    ----------
    id
        MLflow's run id, empty while nothing could be written.
    folder
        The run's own folder.
    opening
        What the store needs to open the run: key, name, tags, start (ms since 1970), parent.
    attempt
        Identifies this attempt at a job.
    """

    def __init__(
        self,
        store: Store,
        files: RunFiles,
        flush_seconds: float = 3.0,
        offline: bool = False,
        replay: str = "",
    ) -> None:
        self.id = ""
        self.folder = files.folder
        self.opening = files.opening
        self.attempt = files.attempt
        self._store = store
        self._files = files
        self._flush_seconds = flush_seconds
        self._offline = offline
        self._replay = replay
        self._sent = 0  # bytes of the spool
        self._waiting = 0  # points that are not sent
        self._flushed = time.monotonic()
        self._stored: set[tuple[str, int]] = set()  # (name, step) of what the store holds
        self._last: dict[str, tuple[int, float]] = {}  # name -> last step there, and its value
        self._known = {  # what it had when it was opened, and what is in the spool: (name, step)
            (name, step)
            for record, _ in files.records()
            if record["record"] == "metrics"
            for name, _, _, step in record["points"]
        }
        self._open = True
        self._warned = False
        self._lock = threading.RLock()
        self._sampler: SystemMetricsSampler | None = None
        files.note(store.digest, published=False)
        self._send()

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

    def metrics(self, step: int, values: Mapping[str, Any], time_ms: int | None = None) -> None:
        """Log step metrics, without missing and infinite values.

        They are buffered: one call to MLflow takes up to 1000 points. The first value of a metric
        at a step counts; a resumed run repeats what it logged after its last checkpoint.

        Parameters
        ----------
        time_ms
            When they were measured, in ms since 1970; None is now.
        """
        time_ms = now_ms() if time_ms is None else time_ms
        with self._lock:
            points = []
            for key, value in finite(values).items():
                point = (allowed_name(key), int(step))
                if point not in self._known:
                    self._known.add(point)
                    points.append([point[0], value, time_ms, point[1]])
            for i in range(0, len(points), MAX_POINTS):
                self._files.append({"record": "metrics", "points": points[i : i + MAX_POINTS]})
            self._waiting += len(points)
            age = time.monotonic() - self._flushed
            if self._waiting >= MAX_POINTS or age >= self._flush_seconds:
                self._send()

    def summary(self, values: Mapping[str, Any], time_ms: int | None = None) -> None:
        """Log the numbers among `values` as the run's final metrics, all at step 0.

        Where the store holds another value of a name, as of a run that is scored once more, the new
        one is at the next step; it is NaN where the value is missing now. Which step that is
        is decided when the record is sent: before, it is not known what the store holds.
        """
        time_ms = now_ms() if time_ms is None else time_ms
        self._write("summary", values=final_values(values), time=time_ms)

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

    def artifact(self, path: str | Path) -> None:
        """Log a file or a folder in the run's folder.

        It must stay where it is until it is written.
        """
        relative = Path(path).absolute().relative_to(self.folder.absolute())
        self._write("artifact", path=relative.as_posix())

    def finish(self, status: str, error: str | None = None) -> None:
        """End the run as finished, failed or killed, and try once more where the store failed."""
        if not self._open:
            return
        self._open = False
        if self._sampler is not None:
            self._sampler.stop()
        with self._lock:
            self._files.append(
                {"record": "finish", "status": STATUS[status], "error": error, "end": now_ms()}
            )
            self._offline = False
            self._send()

    def close(self) -> None:
        """Log nothing more; what is in the spool is all of this session."""
        self._open = False

    def sample_system(self, seconds: float) -> None:
        """Log system metrics every `seconds` until the run ends, and then once more."""
        self._sampler = SystemMetricsSampler(
            self._store.system_monitor(self.id), self.metrics, self.opening["start"], seconds
        )

    def _write(self, record: str, **values: Any) -> None:
        with self._lock:
            self._files.append({"record": record, **values})
            self._send()

    def _send(self) -> None:
        """Send what is in the spool; where the store fails, keep it until the run ends."""
        with self._lock:
            self._flushed = time.monotonic()
            if self._offline:
                return
            try:
                self.send()
            except Exception as error:
                self._offline = True
                self.id = ""  # what the store has got is not known: the run is opened once more
                level = logging.DEBUG if self._warned else logging.WARNING
                self._warned = True
                _log.log(
                    level,
                    "MLflow at %s failed (%s); kept in %s: the same command writes it later, or %s",
                    self._store.uri,
                    one_line(error, 200),
                    self.folder,
                    self._replay,
                )

    def send(self) -> int:
        """Send what is in the spool and return the number of records.

        Raises
        ------
        Exception
            What the store raises; the records that are not written by then stay in the spool.
        """
        files = self._files
        if not self.id:
            self._connect()
        files.sync()
        count = 0
        ended = not self._open  # otherwise an end in the spool is that of a session before
        records = list(files.records(self._sent))
        final = {  # name -> the last record with its final value, which alone counts
            name: i
            for i, (record, _) in enumerate(records)
            if record["record"] == "summary"
            for name in record["values"]
        }
        for i, (record, end) in enumerate(records):
            if record["record"] == "metrics":
                self._send_points(record["points"])
            elif record["record"] == "summary":
                values = {name: one for name, one in record["values"].items() if final[name] == i}
                self._send_points(self._final_points(values, record["time"]))
            elif record["record"] != "finish" or (ended and i == len(records) - 1):
                self._store.write(self.id, self.folder, record)
            self._sent = end
            count += 1
        self._waiting = 0
        if ended and records and records[-1][0]["record"] == "finish":
            self._published()
        return count

    def _connect(self) -> None:
        """Open the run and learn what the store has of it."""
        store, files = self._store, self._files
        run_id, new = store.open(files.opening, files.attempt, files.id(store.digest))
        files.note(store.digest, id=run_id)
        points = {} if new else store.points(run_id)
        self._stored, self._last = set(), {}
        self._note_stored((name, step, value) for (name, step), value in points.items())
        self._known |= self._stored
        self._sent = 0
        self.id = run_id

    def _note_stored(self, points: Iterable[tuple[str, int, float]]) -> None:
        """Remember (name, step, value) of points that the store holds."""
        for name, step, value in points:
            self._stored.add((name, step))
            self._last[name] = max(self._last.get(name, (-1, 0.0)), (step, value), key=_step)

    def _send_points(self, points: Sequence[Sequence[Any]]) -> None:
        """Send those of the points (name, value, time in ms, step) that the store does not hold."""
        new = [one for one in points if (one[0], one[3]) not in self._stored]
        for i in range(0, len(new), MAX_POINTS):
            self._store.metrics(self.id, new[i : i + MAX_POINTS])
            self._note_stored((one[0], one[3], one[1]) for one in new[i : i + MAX_POINTS])

    def _final_points(self, values: Mapping[str, float | None], time_ms: int) -> list[list[Any]]:
        """Return the points that give the names their final values, None for a missing one."""
        points: list[list[Any]] = []
        for name, value in values.items():
            step, stored = self._last.get(name, (-1, None))
            if not is_stored(stored, value):
                points.append([name, math.nan if value is None else value, time_ms, step + 1])
        return points

    def _published(self) -> None:
        """Note that the store holds everything, and delete the runs of earlier attempts."""
        files = self._files
        for replaced in files.replaces:
            self._store.delete(replaced, files.opening["key"])
        files.replaces = []
        files.remove_spool()
        files.note(self._store.digest, published=True)
        self._sent = 0


def _step(point: tuple[int, float]) -> int:
    return point[0]


def replay(folder: str | Path, store: Store) -> int:
    """Send the spool of a run's folder to a store, in order, and delete it where the run has ended.

    Returns
    -------
    int
        The number of records written.

    Raises
    ------
    UserError
        Where there is no spool, or where it is not known what run it belongs to.
    Exception
        Whatever the store raises; the records that are not written by then stay in the spool.
    """
    files = RunFiles(Path(folder))
    if not files.spooled:
        raise UserError(f"{folder}: nothing is spooled there")
    if not files.opening:
        raise UserError(
            f"{folder}: the spool does not say which run it belongs to; start the command that "
            "made this folder again: it publishes the run"
        )
    run = TrackedRun(store, files, offline=True)
    run.close()
    return run.send()
