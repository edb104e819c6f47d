"""A run's folder that somebody else has made sends nothing that it does not hold, nowhere else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench.tracking.__main__ import main
from bench.tracking.spool import RUN_FILE, SPOOL, is_record
from bench.tracking.store import Store, files_inside


class RecordingStore(Store):
    """A store that keeps what it is sent."""

    sent: list[tuple[str, Any]]

    def open(self, opening: Any, attempt: str, run_id: str) -> tuple[str, bool]:
        return "0" * 32, True

    def write(self, run_id: str, folder: Path, record: Any) -> None:
        files = files_inside(folder, record["path"]) if record["record"] == "artifact" else []
        SENT.append((self.uri, record["record"], [(folder / file).read_text() for file in files]))

    def delete(self, run_id: str, key: str) -> None:
        raise AssertionError("nothing is to be deleted")


SENT: list[tuple[str, str, list[str]]] = []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    SENT.clear()
    monkeypatch.setattr("bench.tracking.__main__.Store", RecordingStore)
    (tmp_path / "secret.txt").write_text("secret")
    received = tmp_path / "received"
    received.mkdir()
    (received / "result.json").write_text("result")
    (received / "offline").mkdir()
    (received / "offline" / "policy.pt").write_text("policy")
    (received / "linked.txt").symlink_to(tmp_path / "secret.txt")
    (received / "offline" / "linked.txt").symlink_to(tmp_path / "secret.txt")
    (received / "up").symlink_to(tmp_path)
    opening = {"key": "k", "name": "n", "tags": {"key": "k", "role": "run"}, "start": 1}
    data = {"attempt": "a" * 32, "start": 1, "opening": {**opening, "parent": None}}
    (received / RUN_FILE).write_text(json.dumps(data))
    return received


def spool(folder: Path, *records: Any) -> None:
    (folder / SPOOL).write_text("".join(json.dumps(record) + "\n" for record in records))


def test_only_regular_files_of_the_folder_are_uploaded(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    paths = [
        *(str(secret), "../secret.txt", "offline/../../secret.txt", "linked.txt"),
        *("up/secret.txt", "up", ".", "", f"/{RUN_FILE}", "/etc/hostname"),
    ]
    spool(folder, *({"record": "artifact", "path": path} for path in paths))
    with (folder / SPOOL).open("a") as file:
        for path in ("result.json", "offline"):
            file.write(json.dumps({"record": "artifact", "path": path}) + "\n")
    assert main(["replay", str(folder), "--uri", "http://mine"]) == 0
    assert [files for _, _, files in SENT if files] == [["result"], ["policy"]]


def test_spool_does_not_say_where_it_is_sent_to(folder: Path) -> None:
    header = {"store": {"uri": "http://evil", "experiment": "e", "artifacts": "/"}, "opening": {}}
    spool(folder, header, {"record": "params", "values": {"a": "1"}})
    assert main(["replay", str(folder), "--uri", "http://mine"]) == 0
    assert SENT == [("http://mine", "params", [])]


@pytest.mark.parametrize(
    "record",
    [
        {"record": "delete", "run_id": "0" * 32},
        {"record": "client"},
        {"record": ["params"]},
        {"record": "artifact", "path": 3},
        {"record": "artifact", "path": "a", "folder": "../b"},
        {"record": "params", "values": {"a": 1}},
        {"record": "metrics", "points": [["x", "1", 0, 0]]},
        {"record": "metrics", "points": [["x", 1.0, 0]]},
        {"record": "finish", "status": "SCHEDULED", "error": None, "end": 0},
        ["params"],
        None,
    ],
)
def test_what_is_no_record_is_left_out(folder: Path, record: Any) -> None:
    assert not is_record(record)
    spool(folder, record, {"record": "params", "values": {}})
    assert main(["replay", str(folder), "--uri", "http://mine"]) == 0
    assert [name for _, name, _ in SENT] == ["params"]


@pytest.mark.parametrize(
    "opening",
    [
        {"key": "k' or tags.key like '%", "tags": {"key": "k' or tags.key like '%"}},
        {"tags": {"key": "other", "role": "run"}},
        {"tags": {"key": "k", "role": "admin"}},
        {"start": "now"},
        {"parent": {"key": "p"}},
    ],
)
def test_opening_of_another_form_is_not_used(
    folder: Path, opening: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads((folder / RUN_FILE).read_text())
    data["opening"] |= opening
    (folder / RUN_FILE).write_text(json.dumps(data))
    spool(folder, {"record": "params", "values": {}})
    assert main(["replay", str(folder), "--uri", "http://mine"]) == 2
    assert "start the command" in capsys.readouterr().err
    assert SENT == []


def test_lock_of_a_server_is_not_in_a_folder_that_users_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Store("http://host:5000", "test", "")._lock():
        (lock,) = (tmp_path / "cache").rglob("*.lock")
    assert lock.parent.stat().st_uid == os.getuid()
