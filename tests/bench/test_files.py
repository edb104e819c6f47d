"""Writing files: the old content or the new one, whatever happens, and one line on a full disk."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import files
from bench.errors import UserError
from bench.files import CannotWrite, append_line, cannot_write, write_bytes, write_text


def failing(number: int) -> Callable[..., None]:
    def fail(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_as_a_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.json"]


def test_the_older_file_is_kept_where_asked(tmp_path: Path) -> None:
    path, older = tmp_path / "a", tmp_path / "a.previous"
    for content in (b"1", b"2", b"3"):
        write_bytes(path, content, keep=older)
    assert (path.read_bytes(), older.read_bytes()) == (b"3", b"2")


def test_content_is_synced_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"
        done.append(f"sync {kind}")
        sync(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        done.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replaced)
    write_bytes(tmp_path / "a", b"x")
    assert done == ["sync file", "replace", "sync folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_the_old_file_stays_and_one_line_says_what_to_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old", keep=tmp_path / "b")
    monkeypatch.setattr(files.os, "fsync", failing(number))
    with pytest.raises(UserError, match=r"a: cannot be written: the disk is full; free some space"):
        write_bytes(path, b"new", keep=tmp_path / "b")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_line_that_does_not_fit_is_not_appended_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    append_line(path, "one")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(CannotWrite, match="disk is full"):
            append_line(path, "two")
    append_line(path, "three")
    assert path.read_text().split() == ["one", "three"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_full_says_so() -> None:
    with pytest.raises(CannotWrite, match=r"^/dev/full: cannot be written: the disk is full"):
        append_line("/dev/full", "x")


def test_a_forbidden_folder_is_explained_and_other_errors_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.os, "fsync", failing(errno.EROFS))
    with pytest.raises(CannotWrite, match=r"cannot be written .*; change the permissions"):
        write_bytes(tmp_path / "a", b"x")
    monkeypatch.setattr(files.os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_bytes(tmp_path / "a", b"x")


def test_a_full_disk_is_recognised_below_other_errors() -> None:
    def wrapped(cause: BaseException) -> BaseException:
        try:
            try:
                raise cause
            except type(cause) as inner:
                raise RuntimeError("could not save") from inner
        except RuntimeError as outer:
            return outer

    full = OSError(errno.ENOSPC, "No space left on device", "/x/y")
    assert str(cannot_write(wrapped(full))).startswith("/x/y: cannot be written: the disk is full")
    database = sqlite3.OperationalError("database or disk is full")
    assert "the disk is full" in str(cannot_write(wrapped(database)))
    assert cannot_write(wrapped(OSError(errno.ENOENT, "no such file"))) is None
    assert cannot_write(wrapped(PermissionError(errno.EACCES, "reading it"))) is None


def test_text_that_cannot_be_encoded_is_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x\ud800y")
    assert (tmp_path / "a").read_text() == "x\\ud800y"


def test_only_half_written_files_are_removed(tmp_path: Path) -> None:
    kept = ["a", ".hidden", "b.partial"]
    for name in [*kept, ".a.12-34.partial"]:
        (tmp_path / name).write_text("x")
    files.remove_partial_files(tmp_path)
    assert names(tmp_path) == sorted(kept)
