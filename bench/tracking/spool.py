"""The tracker's files in a run's folder: what the run is in each store, and what is still to send.

Every record is in the spool before it is sent, and the spool is deleted when the store holds the
finished run. A folder may come from somebody else, so nothing in it says where to send to, and
nothing in it counts that has not the form of a record.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.instance import InstanceError, read_json, write_json
from bench.tracking.values import now_ms

RUN_FILE = "mlflow_run.json"
# One JSON record per line, each the arguments of a method of `Store`, or a `summary`: final values,
# whose steps are chosen when they are sent.
SPOOL = "mlflow_spool.jsonl"
MAX_POINTS = 1000  # metric points that MLflow takes in one call
STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class RunFiles:
    """Reads and writes the tracker's files in one folder.

    Attributes
    ----------
    attempt
        Identifies this attempt at a job; a run that is made again is another attempt.
    start
        When the attempt began, in ms since 1970.
    opening
        What the store needs to open the run: key, name, tags, start, parent; empty if not known.
    replaces
        The ids of the runs of earlier attempts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        data = _read(folder / RUN_FILE)
        known = isinstance(data.get("start"), int)
        self.attempt: str = _id(data.get("attempt")) or uuid.uuid4().hex
        self.start: int = data["start"] if known else now_ms()
        self.opening: dict[str, Any] = _opening(data.get("opening"))
        self._stores: dict[str, dict[str, Any]] = _stores(data.get("stores"))
        self.replaces: list[str] = _ids(data.get("replaces"))
        self._unnamed = _id(data.get("id"))  # written by an older version, of a store not named

    def id(self, store: str) -> str:
        """Return the run's id in a store, empty if not known."""
        return _id(self._stores.get(store, {}).get("id")) or self._unnamed

    def published(self, store: str) -> bool:
        """Return whether a store holds all of the run."""
        return self._stores.get(store, {}).get("published") is True and not self.spooled

    def note(self, store: str, **values: Any) -> None:
        """Save what the run is in a store: its id, whether all of it is published there."""
        self._stores[store] = {**self._stores.get(store, {}), **values}
        self.save()

    def restart(self) -> None:
        """Begin another attempt; the runs of the attempts before are replaced when it finishes."""
        ids = {self._unnamed, *(self.id(store) for store in self._stores)} - {""}
        self.replaces = sorted({*self.replaces, *ids})
        self.attempt, self.start, self.opening = uuid.uuid4().hex, now_ms(), {}
        self._stores, self._unnamed = {}, ""
        self.save()
        self.remove_spool()

    def save(self) -> None:
        """Write the file."""
        data = {
            "attempt": self.attempt,
            "start": self.start,
            "opening": self.opening,
            "stores": self._stores,
            "replaces": self.replaces,
            **({"id": self._unnamed} if self._unnamed else {}),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            write_json(self.folder / RUN_FILE, data)

    # -- the spool -------------------------------------------------------------------------------

    @property
    def spooled(self) -> bool:
        """Whether there is a spool."""
        return (self.folder / SPOOL).exists()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record, on a line of its own even after one that a kill has cut short."""
        text = json.dumps(record, separators=(",", ":"))
        with self._lock(), (self.folder / SPOOL).open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    text = f"\n{text}"
            file.write(f"{text}\n".encode())

    def sync(self) -> None:
        """Write the spool through to the disk, before the store knows more than the spool."""
        if self.spooled:
            with (self.folder / SPOOL).open("rb") as file:
                os.fsync(file.fileno())

    def records(self, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the records from an offset in bytes on, each with the offset behind it.

        Points of metrics that follow one another come together, as many as MLflow takes at once.
        """
        points: list[Any] = []
        end = offset
        for record, behind in self._lines(offset):
            if record["record"] != "metrics" or len(points) + len(record["points"]) > MAX_POINTS:
                if points:
                    yield {"record": "metrics", "points": points}, end
                points = []
            end = behind
            if record["record"] == "metrics":
                points = [*points, *record["points"]]
            else:
                yield record, end
        if points:
            yield {"record": "metrics", "points": points}, end

    def remove_spool(self) -> None:
        """Delete the spool."""
        (self.folder / SPOOL).unlink(missing_ok=True)

    def _lines(self, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the records, without what a kill has cut short or what is none."""
        if not self.spooled:
            return
        with (self.folder / SPOOL).open("rb") as file:
            file.seek(offset)
            for line in file:
                offset += len(line)
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if is_record(record):
                    yield record, offset

    def _lock(self) -> FileLock:
        return FileLock(self.folder / f"{SPOOL}.lock")


def is_record(record: Any) -> bool:
    """Return whether a value has the form of a record."""
    if not isinstance(record, dict) or not isinstance(record.get("record"), str):
        return False
    form = FORMS.get(record["record"])
    return (
        form is not None
        and record.keys() == {"record", *form}
        and all(_fits(record[name], kind) for name, kind in form.items())
    )


FORMS: dict[str, dict[str, Any]] = {  # record -> name -> type, or what it is checked by
    "params": {"values": lambda values: _is_map(values)},
    "metrics": {"points": lambda points: isinstance(points, list) and all(map(_is_point, points))},
    "summary": {"values": lambda values: _are_numbers(values), "time": int},
    "input": {"name": str, "set_hash": str, "n_instances": int, "source": str, "context": str},
    "artifact": {"path": str},
    "finish": {
        "status": lambda status: status in STATUS.values(),
        "error": (str, type(None)),
        "end": int,
    },
}


def _fits(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) if isinstance(kind, type | tuple) else bool(kind(value))


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and [type(value) for value in point] in (
        [str, float, int, int],
        [str, int, int, int],
    )


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        type(one) in (float, int, type(None)) for one in value.values()
    )


def _is_map(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(part, str) for item in value.items() for part in item
    )


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file that holds an object, empty for any other file."""
    try:
        data = read_json(path)
    except (OSError, InstanceError):
        return {}
    return data if isinstance(data, dict) else {}


def _id(value: Any) -> str:
    """Return an identity as MLflow writes it, empty for anything else."""
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32}", value) else ""


def _ids(value: Any) -> list[str]:
    return [one for one in value if _id(one)] if isinstance(value, list) else []


def _stores(value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict):
        return {}
    return {name: one for name, one in value.items() if isinstance(one, dict)}


def _opening(value: Any) -> dict[str, Any]:
    """Return an opening of the right form, empty for anything else."""
    if not isinstance(value, dict) or not value.keys() >= {"key", "name", "tags", "start"}:
        return {}
    fits = (
        isinstance(value["key"], str)
        and re.fullmatch(r"[\w.-]+", value["key"])
        and isinstance(value["name"], str)
        and isinstance(value["start"], int)
        and _is_map(value["tags"])
        and value["tags"].get("key") == value["key"]
        and value["tags"].get("role") in ("run", "sweep")
    )
    if not fits:
        return {}
    parent = value.get("parent")
    if parent is not None:
        above = _opening(parent)
        parent = above and {**above, "attempt": _id(parent.get("attempt"))}
        if not (parent and parent["attempt"]):
            return {}
    kept = {name: value[name] for name in ("key", "name", "tags", "start")}
    return {**kept, "parent": parent}
