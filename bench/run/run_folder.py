"""A run's own folder: its files, what a killed run had reached, the seconds spent."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from bench.instance import Instance, InstanceError, read_json, write_json
from bench.paths import own_folder
from bench.renamed import current_setting
from bench.run.evaluation import Entry
from bench.run.record import Record, Row, StoredCertificate

RECORD = "result.json"
TABLE = "instances.parquet"
CONFIG = "config.yaml"
SCHEDULES = "schedules.json.gz"
INSTANCES = "instances.json.gz"
CERTIFICATES = "certificates.json.gz"
GANTT = "gantt.png"
CURVE = "curve.png"
TRACEBACK = "traceback.txt"
PROGRESS = "progress.jsonl"
HISTORY = "history.jsonl"
LEARNING = "learning.json"
CLOCK = "clock.json"
LOCK = "run.lock"
INTERNAL = (PROGRESS, LEARNING, CLOCK, LOCK)  # not published, nor are the tracker's own files
WRITTEN = (  # what `rerun` deletes
    *(RECORD, TABLE, CONFIG, SCHEDULES, INSTANCES, CERTIFICATES, GANTT, CURVE, TRACEBACK),
    *(PROGRESS, HISTORY, LEARNING, CLOCK),
    *("training.pt", "policy.pt", "rejected.csv"),  # written by learners
    *("demonstrations.json.gz", "lessons.json.gz"),
)
PARTS = ("offline",)  # folders in which parts of a solver train, with files of the same names


class RunFolder:
    """Reads and writes the files of one run.

    A kill loses nothing that was written; half-written lines are ignored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        own_folder("runs", path, (*WRITTEN, *PARTS))
        self._open()

    def _open(self) -> None:
        self._spent: dict[str, float] = {
            "train_seconds": 0.0,
            "wall_seconds": 0.0,
            **self._read(CLOCK, {}),
        }
        self._training: float | None = None
        self._saved = 0.0
        self._points: set[tuple[str, int]] | None = None  # (name, step) in the history, once read
        self.start_clock()

    def clear(self) -> None:
        """Delete what a run writes but the tracker's run, so that the next session starts anew.

        Files that the suite does not write are left alone.
        """
        for folder in (self.path, *(self.path / part for part in PARTS)):
            for name in WRITTEN:
                (folder / name).unlink(missing_ok=True)
                (folder / f"{name}.partial").unlink(missing_ok=True)
        self._open()

    # -- results ---------------------------------------------------------------------------------

    def record(self) -> Record | None:
        """Return the record if the run finished without an error; what failed is tried again."""
        record = self._read(RECORD, None)
        if not record or record["status"] != "finished" or record["errors"]:
            return None
        return cast("Record", current_setting(record))

    def stored_record(self) -> Record | None:
        """Return the record, also of a run that failed; None without one."""
        record = self._read(RECORD, None)
        return cast("Record", current_setting(record)) if record else None

    def entries(self) -> dict[int, Entry]:
        """Return index -> entry of the instances solved before a kill, without crashed ones."""
        lines = self._lines(PROGRESS)
        return {
            line["index"]: Entry.from_dict(line["entry"])
            for line in lines
            if not line["entry"]["error"]
        }

    def failed(self) -> bool:
        """Return whether there is a record of a run that failed."""
        record = self._read(RECORD, None)
        return bool(record) and self.record() is None

    def add(self, index: int, entry: Entry) -> None:
        """Save one instance's entry at once."""
        self._append(PROGRESS, {"index": index, "entry": entry.to_dict()})
        self.save_clock()

    def rows(self) -> list[Row]:
        """Return the table of a finished run."""
        import pandas

        rows = pandas.read_parquet(self.path / TABLE).to_dict("records")
        return cast("list[Row]", rows)

    def stored_entries(self) -> list[Entry]:
        """Return the entries of a finished run, without proofs."""
        return [Entry.from_dict(data) for data in read_json(self.path / SCHEDULES)]

    def write(
        self,
        record: Record,
        rows: Sequence[Row],
        instances: Sequence[Instance],
        entries: Sequence[Entry],
        certificates: Sequence[StoredCertificate] = (),
    ) -> None:
        """Write all files of a finished run.

        The record is written last, because it marks the folder as complete.
        """
        write_json(self.path / INSTANCES, [instance.to_dict() for instance in instances])
        write_json(self.path / SCHEDULES, [entry.without_proof().to_dict() for entry in entries])
        if certificates:
            write_json(self.path / CERTIFICATES, list(certificates))
        self.write_rows(record, rows)
        if not record["errors"]:
            (self.path / PROGRESS).unlink(missing_ok=True)

    def write_rows(self, record: Record, rows: Sequence[Row]) -> None:
        """Write the table and then the record."""
        import pandas

        partial = self.path / f"{TABLE}.partial"
        pandas.DataFrame(rows).to_parquet(partial)
        partial.replace(self.path / TABLE)
        self.write_record(record)

    def write_record(self, record: Record) -> None:
        """Write `result.json`, indented."""
        partial = self.path / f"{RECORD}.partial"
        partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        partial.replace(self.path / RECORD)

    def files(self) -> Iterator[Path]:
        """Yield the files to publish."""
        for path in sorted(self.path.iterdir()):
            internal = path.name in INTERNAL or path.name.startswith("mlflow")
            if not internal and path.suffix not in (".partial", ".lock"):
                yield path

    # -- training history ------------------------------------------------------------------------

    def add_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Save step metrics for the learning curve and the tracker.

        A resumed run repeats what it logged after its last checkpoint; the first value counts.
        """
        if self._points is None:
            self._points = {(name, known) for known, line in self.metrics() for name in line}
        numbers = {
            name: float(value) for name, value in values.items() if (name, step) not in self._points
        }
        if numbers:
            self._points |= {(name, step) for name in numbers}
            self._append(HISTORY, {"step": step, **numbers})
        self.save_clock()

    def metrics(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield what `add_metrics` has saved: step and name -> value, as it was logged."""
        for line in self._lines(HISTORY):
            step = line.pop("step")
            yield step, line

    def history(self) -> dict[str, list[tuple[float, float]]]:
        """Return name -> (step, value) by step; of a step repeated after a kill the first value."""
        points: dict[str, dict[float, float]] = {}
        for step, values in self.metrics():
            for name, value in values.items():
                points.setdefault(name, {}).setdefault(step, value)
        return {name: sorted(series.items()) for name, series in points.items()}

    def add_training_facts(self, facts: Mapping[str, Any]) -> None:
        """Save facts about the training as a whole, beside those saved before."""
        write_json(self.path / LEARNING, {**self.training_facts(), **facts})

    def training_facts(self) -> dict[str, Any]:
        """Return what `add_training_facts` saved."""
        facts: dict[str, Any] = self._read(LEARNING, {})
        return facts

    # -- seconds ---------------------------------------------------------------------------------

    @contextmanager
    def training(self) -> Iterator[None]:
        """Count the time inside as training."""
        self._training = time.perf_counter()
        yield
        self._spent["train_seconds"] = self.seconds()["train_seconds"]
        self._training = None

    def start_clock(self) -> None:
        """Start the clock of a session."""
        self._began = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """Return train_seconds and wall_seconds over all sessions."""
        now = time.perf_counter()
        training = 0.0 if self._training is None else now - self._training
        return {
            "train_seconds": self._spent["train_seconds"] + training,
            "wall_seconds": self._spent["wall_seconds"] + now - self._began,
        }

    def save_clock(self) -> None:
        """Write the seconds, at most once a second."""
        if time.perf_counter() - self._saved >= 1.0:
            write_json(self.path / CLOCK, self.seconds())
            self._saved = time.perf_counter()

    # -- files -----------------------------------------------------------------------------------

    def _read(self, name: str, default: Any) -> Any:
        try:
            return read_json(self.path / name)
        except (FileNotFoundError, InstanceError):
            return default

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        """Append a line of its own, even after a half-written one, and sync it to the disk."""
        with (self.path / name).open("a") as file:
            file.write("\n" + json.dumps(line, separators=(",", ":")))
            file.flush()
            os.fsync(file.fileno())

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        path = self.path / name
        for text in path.read_text().splitlines() if path.exists() else ():
            try:
                yield json.loads(text)
            except ValueError:  # empty, or cut short by a kill
                continue
