"""A run's own folder: what is finished, what was reached before a kill, the seconds spent, the files to publish."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.instance import Instance, InstanceError, read_json, write_json
from bench.run.record import Certificate, Entry, Row, without_proof

RECORD, TABLE, CONFIG = "result.json", "instances.parquet", "config.yaml"
SCHEDULES, INSTANCES, CERTIFICATES = (
    "schedules.json.gz",
    "instances.json.gz",
    "certificates.json.gz",
)
GANTT, CURVE, TRACEBACK = "gantt.png", "curve.png", "traceback.txt"
PROGRESS, HISTORY, LEARNING, CLOCK, LOCK = (
    "progress.jsonl",
    "history.jsonl",
    "learning.json",
    "clock.json",
    "run.lock",
)
INTERNAL = (PROGRESS, LEARNING, CLOCK, LOCK)  # and what the tracker keeps: not published


class RunFolder:
    """Reads and writes the files of one run. Nothing in it is lost by a kill; half-written lines are ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._spent: dict[str, float] = {
            "train_seconds": 0.0,
            "wall_seconds": 0.0,
            **self._read(CLOCK, {}),
        }
        self._training: float | None = None
        self._saved = 0.0
        self.start_clock()

    def clear(self) -> None:
        """Forget everything but the tracker's run, so that the next one starts anew."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK and not path.name.startswith("mlflow"):
                path.unlink()
        self.__init__(self.path)  # type: ignore[misc]

    # -- results ---------------------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any] | None:
        """The record, if the run finished without an error; what failed is tried again."""
        record = self._read(RECORD, None)
        return (
            record if record and record["status"] == "finished" and not record["errors"] else None
        )

    def entries(self) -> dict[int, Entry]:
        """index -> entry of the instances solved before a kill, without those that crashed."""
        return {
            line["index"]: line["entry"]
            for line in self._lines(PROGRESS)
            if not line["entry"]["error"]
        }

    def add(self, index: int, entry: Entry) -> None:
        """Save one instance's entry at once."""
        self._append(PROGRESS, {"index": index, "entry": entry})
        self.save_clock()

    def rows(self) -> list[Row]:
        """The table of a finished run."""
        import pandas

        return pandas.read_parquet(self.path / TABLE).to_dict("records")

    def stored_entries(self) -> list[Entry]:
        """The entries of a finished run, without proofs."""
        return read_json(self.path / SCHEDULES)

    def write(
        self, record: Mapping[str, Any], rows: Sequence[Row], instances: Sequence[Instance], entries: Sequence[Entry],
        certificates: Sequence[Certificate] = (),
    ) -> None:  # fmt: skip
        """All files of a finished run; the record last, since it says that the others are there."""
        import pandas

        write_json(self.path / INSTANCES, [instance.to_dict() for instance in instances])
        write_json(self.path / SCHEDULES, [without_proof(entry) for entry in entries])
        if certificates:
            write_json(self.path / CERTIFICATES, list(certificates))
        partial = self.path / f"{TABLE}.partial"
        pandas.DataFrame(rows).to_parquet(partial)
        partial.replace(self.path / TABLE)
        self.write_record(record)
        if not record["errors"]:
            (self.path / PROGRESS).unlink(missing_ok=True)

    def write_record(self, record: Mapping[str, Any]) -> None:
        """`result.json`, readable."""
        partial = self.path / f"{RECORD}.partial"
        partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        partial.replace(self.path / RECORD)

    def files(self) -> Iterator[Path]:
        """What is worth publishing."""
        for path in sorted(self.path.iterdir()):
            if (
                path.name not in INTERNAL
                and not path.name.startswith("mlflow")
                and path.suffix not in (".partial", ".lock")
            ):
                yield path

    # -- training history --------------------------------------------------------------------------------------------

    def remember(self, step: int, values: Mapping[str, float]) -> None:
        """Keep step metrics for the learning curve."""
        self._append(
            HISTORY, {"step": step, **{name: float(value) for name, value in values.items()}}
        )
        self.save_clock()

    def history(self) -> dict[str, list[tuple[float, float]]]:
        """name -> (step, value) by step; a step repeated after a kill counts once."""
        points: dict[str, dict[float, float]] = {}
        for line in self._lines(HISTORY):
            step = line.pop("step")
            for name, value in line.items():
                points.setdefault(name, {})[step] = value
        return {name: sorted(series.items()) for name, series in points.items()}

    def learned(self, facts: Mapping[str, Any]) -> None:
        """Keep what a learner says of its training as a whole, beside what it said before."""
        write_json(self.path / LEARNING, {**self.learning(), **facts})

    def learning(self) -> dict[str, Any]:
        """What `learned` kept."""
        return self._read(LEARNING, {})

    # -- seconds -----------------------------------------------------------------------------------------------------

    @contextmanager
    def training(self) -> Iterator[None]:
        """What runs inside counts as training."""
        self._training = time.perf_counter()
        yield
        self._spent["train_seconds"] = self.seconds()["train_seconds"]
        self._training = None

    def start_clock(self) -> None:
        """A session begins now."""
        self._began = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """train_seconds and wall_seconds, over all sessions."""
        now = time.perf_counter()
        training = 0.0 if self._training is None else now - self._training
        spent = self._spent
        return {
            "train_seconds": spent["train_seconds"] + training,
            "wall_seconds": spent["wall_seconds"] + now - self._began,
        }

    def save_clock(self) -> None:
        """Write the seconds down, at most once a second."""
        if time.perf_counter() - self._saved >= 1.0:
            write_json(self.path / CLOCK, self.seconds())
            self._saved = time.perf_counter()

    # -- files -------------------------------------------------------------------------------------------------------

    def _read(self, name: str, default: Any) -> Any:
        try:
            return read_json(self.path / name)
        except (FileNotFoundError, InstanceError):
            return default

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        """A line of its own, even after one that a kill cut short; on the disk when this returns."""
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
