"""Writing files: a kill, a power cut or a full disk leaves the old content or the new one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from bench.errors import UserError

PARTIAL = ".partial"  # suffix of the names of files that are being written
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class CannotWrite(UserError):
    """A file cannot be written, because the disk is full or the folder forbids it."""


def write_bytes(path: str | Path, data: bytes, keep: Path | None = None) -> None:
    """Write a file as a whole: it is synced to the disk and then replaces an older one in one step.

    Parameters
    ----------
    keep
        Where the older one is kept.

    Raises
    ------
    CannotWrite
        Saying what to do, where the disk is full or writing is forbidden. An older file stays.
    OSError
        For anything else.
    """
    path = Path(path)
    # a name of its own for each writer, hidden from whatever lists the folder's files
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    with explained(path):
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                path.replace(keep)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as `write_bytes` does; what UTF-8 cannot encode is escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_line(path: str | Path, line: str) -> None:
    """Append a line and sync it to the disk; it begins a new line after a half-written one.

    Raises
    ------
    CannotWrite, OSError
        As in `write_bytes`; nothing is appended then.
    """
    path = Path(path)
    with explained(path), path.open("ab") as file:
        size = file.tell()
        try:
            file.write(b"\n" + line.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), size)
            raise


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to the disk where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_partial_files(folder: Path) -> None:
    """Delete what killed processes left half-written; nobody else may write to the folder now."""
    for path in folder.glob(f".*{PARTIAL}"):
        if path.is_file():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Turn errors of a full disk or a forbidden folder into `CannotWrite`, which names `path`."""
    try:
        yield
    except OSError as error:
        if (found := cannot_write(error, path)) is not None:
            raise found from error
        raise


def cannot_write(error: BaseException, path: str | Path | None = None) -> CannotWrite | None:
    """Return what to tell the user about an error of a full disk; None for any other error.

    Where `path`, the file that was written, is given, a forbidden folder is explained too. The
    error may also be the cause of `error`, or what it was raised after.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, CannotWrite):
            return seen
        name = path or (seen.filename if isinstance(seen, OSError) else None) or "a file"
        sqlite = type(seen).__name__ == "OperationalError" and "disk is full" in str(seen)
        if sqlite or (isinstance(seen, OSError) and seen.errno in FULL):
            return CannotWrite(
                f"{name}: cannot be written: the disk is full; free some space and give the same "
                "command again: it resumes with all that was saved"
            )
        if path and isinstance(seen, OSError) and seen.errno in FORBIDDEN:
            return CannotWrite(
                f"{name}: cannot be written ({os.strerror(seen.errno)}); change the permissions, "
                "or choose other folders: runs=FOLDER, cache=FOLDER"
            )
        seen = seen.__cause__ or seen.__context__
    return None
