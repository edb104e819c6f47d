"""A run's own folder: its files, what a killed run had reached, the seconds spent."""

from __future__ import annotations

import io
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from bench.errors import one_line
from bench.files import PARTIAL, append_line, remove_partial_files, write_bytes, write_text
from bench.instance import Instance, InstanceError, read_json, write_json
from bench.paths import own_folder
from bench.renamed import current_setting
from bench.run.evaluation import Entry
from bench.run.json_values import json_value
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
SECONDS = ("train_seconds", "wall_seconds")
# not published, nor are the tracker's own files
INTERNAL = (PROGRESS, LEARNING, CLOCK, LOCK, "training.pt.previous")
WRITTEN = (  # what `rerun` deletes
    *(RECORD, TABLE, CONFIG, SCHEDULES, INSTANCES, CERTIFICATES, GANTT, CURVE, TRACEBACK),
    *(PROGRESS, HISTORY, LEARNING, CLOCK),
    *("training.pt", "training.pt.previous", "policy.pt", "rejected.csv"),  # written by learners
    *("demonstrations.json.gz", "lessons.json.gz"),
)
PARTS = ("offline",)  # folders in which parts of a solver train, with files of the same names


class RunFolder:
    """Reads and writes the files of one run.

    A kill loses nothing that was written; half-written lines are ignored. What is damaged, or of
    another form than was written, counts as absent, and a warning says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        own_folder("runs", path, (*WRITTEN, *PARTS))
        self._open()

    def _open(self) -> None:
        stored = self._read_mapping(CLOCK)
        self._spent = {name: self._stored_seconds(stored, name) for name in SECONDS}
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
            remove_partial_files(folder)
        self._open()

    # -- results ---------------------------------------------------------------------------------

    def record(self) -> Record | None:
        """Return the record if the run finished without an error; what failed is tried again."""
        record = self._read_mapping(RECORD)
        if record.get("status") != "finished" or record.get("errors") != 0:
            return None
        try:
            complete = len(self.rows()) == len(self.stored_entries()) == record["n_instances"]
        except Exception as error:  # pyarrow and others raise many kinds for a damaged file
            self._warn(TABLE, f"a table of the finished run cannot be read ({one_line(error)})")
            return None
        if not complete:
            self._warn(TABLE, "the tables of the finished run do not hold all of its instances")
            return None
        return cast("Record", current_setting(record))

    def stored_record(self) -> Record | None:
        """Return the record, also of a run that failed; None without one."""
        record = self._read_mapping(RECORD)
        return cast("Record", current_setting(record)) if record else None

    def entries(self, hashes: Sequence[str]) -> dict[int, Entry]:
        """Return index -> entry of the instances solved before a kill, without crashed ones.

        Parameters
        ----------
        hashes
            Of the run's instances. A line about another instance is ignored, as a damaged one is.
        """
        found = {}
        damaged = 0
        for line in self._lines(PROGRESS):
            try:
                entry = Entry.from_dict(line["entry"])
                if entry.instance_hash != hashes[line["index"]] or not _is_whole(entry):
                    raise ValueError
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                damaged += 1
                continue
            if not entry.error:
                found[line["index"]] = entry
        if damaged:
            self._warn(PROGRESS, f"{damaged} lines are damaged; those instances are solved again")
        return found

    def add(self, index: int, entry: Entry) -> None:
        """Save one instance's entry at once."""
        self._append(PROGRESS, {"index": index, "entry": entry.to_dict()})
        self.save_clock()

    def rows(self) -> list[Row]:
        """Return the table of a finished run."""
        from pyarrow import parquet

        return cast("list[Row]", parquet.ParquetFile(self.path / TABLE).read().to_pylist())

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
        import pyarrow
        from pyarrow import parquet

        columns = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            # NaN is stored as a missing value; a column without any value is one of numbers
            column = pyarrow.array([row.get(name) for row in rows], from_pandas=True)
            empty = pyarrow.types.is_null(column.type)
            columns[name] = column.cast(pyarrow.float64()) if empty else column
        table = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), table)
        write_bytes(self.path / TABLE, table.getvalue())
        self.write_record(record)

    def write_record(self, record: Record) -> None:
        """Write `result.json`, indented."""
        text = json.dumps(json_value(record), indent=1, allow_nan=False)
        write_text(self.path / RECORD, text + "\n")

    def files(self) -> Iterator[Path]:
        """Yield the files to publish."""
        for path in sorted(self.path.iterdir()):
            internal = path.name in INTERNAL or path.name.startswith("mlflow")
            if not internal and path.suffix not in (PARTIAL, ".lock"):
                yield path

    # -- training history ------------------------------------------------------------------------

    def add_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Save step metrics for the learning curve and the tracker.

        A resumed run repeats what it logged after its last checkpoint; the first value counts.
        """
        if self._points is None:
            self._points = {(name, known) for known, line in self.metrics() for name in line}
        step = int(step)
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
            if isinstance(line, dict) and all(map(_is_number, [line.get("step"), *line.values()])):
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
        write_json(self.path / LEARNING, {**self.training_facts(), **json_value(facts)})

    def training_facts(self) -> dict[str, Any]:
        """Return what `add_training_facts` saved."""
        return self._read_mapping(LEARNING)

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

    def _stored_seconds(self, stored: Mapping[str, Any], name: str) -> float:
        seconds = stored.get(name, 0.0)
        if not (_is_number(seconds) and math.isfinite(seconds) and seconds >= 0):
            self._warn(CLOCK, f"{name} is {seconds!r}; those seconds are not counted")
            return 0.0
        return float(seconds)

    def save_clock(self) -> None:
        """Write the seconds, at most once a second."""
        if time.perf_counter() - self._saved >= 1.0:
            write_json(self.path / CLOCK, self.seconds())
            self._saved = time.perf_counter()

    # -- files -----------------------------------------------------------------------------------

    def _read_mapping(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file; what is no mapping counts as an absent file."""
        try:
            content = read_json(self.path / name)
        except FileNotFoundError:
            return {}
        except InstanceError as error:
            self._warn(name, str(error))
            return {}
        if not isinstance(content, dict):
            self._warn(name, f"holds a {type(content).__name__}, not the values of a run")
            return {}
        return content

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        append_line(self.path / name, json.dumps(line, separators=(",", ":")))

    def _lines(self, name: str) -> Iterator[Any]:
        path = self.path / name
        for text in path.read_bytes().splitlines() if path.exists() else ():
            try:
                yield json.loads(text)
            except (ValueError, RecursionError):  # empty, or cut short by a kill
                continue

    def _warn(self, name: str, problem: str) -> None:
        logging.getLogger(__name__).warning("%s: %s", self.path / name, problem)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(entry: Entry) -> bool:
    """Return whether the parts of an entry that was read have the types of one that was made."""
    result = entry.result
    numbers = [entry.solve_seconds]
    if result is not None:
        points = [x for point in result.trajectory for x in point]
        numbers += [result.lower_bound, *result.latency, *points]
    error_is_text = entry.error is None or isinstance(entry.error, str)
    info_is_mapping = result is None or isinstance(result.info, Mapping)
    parts = (error_is_text, info_is_mapping, bool(result or entry.error))
    return all(map(_is_number, numbers)) and all(parts)
