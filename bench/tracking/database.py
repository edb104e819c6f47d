"""The SQLite file of a store: its URI, its lock, and a schema that is built whole or not at all.

MLflow creates and migrates a schema in place, table by table. An interruption leaves a file with
which it can never start again ("table already exists"). So a new database is built under another
name in the same folder and renamed, and a schema in the file itself is never changed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import filelock

from bench.errors import UserError, one_line

LOCKED_SECONDS = 20.0  # to wait for a database that another program has locked
LOCK_SECONDS = 120.0  # to wait for another process of the suite; a new schema takes seconds
EMPTY_TABLES = ("alembic_version", "experiments", "workspaces")  # those with rows in a new database

_log = logging.getLogger(__name__)


class StoreUnavailableError(Exception):
    """The store cannot be used now, but perhaps later: it is locked or does not answer."""


# -- URIs ------------------------------------------------------------------------------------------


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite store, None for other stores.

    The path in a URI is percent-encoded, as SQLAlchemy 2.1 reads it.
    """
    match = re.match(r"sqlite(?:\+pysqlite)?:///([^?]*)", uri)
    return Path(unquote(match[1])) if match else None


def sqlite_uri(path: Path) -> str:
    """Return the URI of an SQLite file.

    MLflow makes the folders that a URI beginning with `sqlite:///` names without decoding it; so a
    path with characters that are encoded begins with `sqlite+pysqlite:///`, which means the same.
    """
    encoded = quote(str(path), safe="/ +~@,=()!$&'*;:")
    return f"{'sqlite' if encoded == str(path) else 'sqlite+pysqlite'}:///{encoded}"


def absolute(uri: str) -> str:
    """Return the URI with an absolute path of a database, so that it holds in every folder."""
    path = sqlite_path(uri)
    return uri if path is None else sqlite_uri(path.absolute())


def shown(uri: str) -> str:
    """Return a URI as a word of a shell command, relative to the working folder if below it."""
    path = sqlite_path(uri)
    if path is not None and path.is_relative_to(Path.cwd()):
        uri = sqlite_uri(path.relative_to(Path.cwd()))
    return shlex.quote(uri)


# -- locks -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time in; the lock is the file `path`.lock.

    Raises
    ------
    StoreUnavailableError
        Where another process keeps it for minutes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=5)
    except filelock.Timeout:
        _log.warning("waiting for another process, which holds %s", lock.lock_file)
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except filelock.Timeout:
            raise StoreUnavailableError(f"another process holds {lock.lock_file}") from None
    try:
        yield
    finally:
        lock.release()


def wait_until_unlocked(path: Path, seconds: float = LOCKED_SECONDS) -> None:
    """Wait until an SQLite file can be written.

    Raises
    ------
    StoreUnavailableError
        Where another program keeps it locked.
    UserError
        Where it is no database, or cannot be opened or written.
    """
    end = time.monotonic() + seconds
    pause = 0.1
    warned = False
    while path.exists() and path.stat().st_size:
        try:
            with contextlib.closing(_connect(path)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            return
        except sqlite3.Error as error:
            if "locked" not in str(error) and "busy" not in str(error):
                raise UserError(
                    f"tracking.uri: {path} cannot be used as a database ({one_line(error, 200)}); "
                    "name another one, or make it readable and writable"
                ) from None
            if time.monotonic() >= end:
                raise StoreUnavailableError(f"{path} is locked by another program") from None
        if not warned:
            _log.warning("%s is locked by another program; waiting %.0f s", path, seconds)
            warned = True
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


# -- the schema ------------------------------------------------------------------------------------


def ensure(path: Path, build: Callable[[Path], None], complete: Callable[[set[str]], bool]) -> None:
    """Make sure that `path` is a complete database.

    Parameters
    ----------
    build
        Creates a complete database in a new file.
    complete
        Whether these are the names of all tables.

    Raises
    ------
    StoreUnavailableError
        Where it is locked.
    UserError
        Where it is no database, or an incomplete one that holds something.
    """
    with locked(path):
        for leftover in path.parent.glob(f".{path.name}.*.partial*"):  # of a killed process
            leftover.unlink(missing_ok=True)
        wait_until_unlocked(path)
        if not path.exists() or not path.stat().st_size:
            _build(path, build)
        elif not complete(tables(path)):
            rebuild(path, build)


def rebuild(path: Path, build: Callable[[Path], None]) -> None:
    """Replace a database that MLflow cannot use, if it holds nothing; call it in `locked`.

    Raises
    ------
    UserError
        Where it holds something.
    """
    if not is_empty(path):
        raise UserError(unusable(path))
    _log.warning("%s was left incomplete and holds no runs; it is built again", path)
    _build(path, build)


def unusable(path: Path) -> str:
    """Return what to do with a database that holds something and that MLflow cannot use."""
    name = shlex.quote(str(path))
    return (
        f"tracking.uri: {path} has an incomplete schema or that of another MLflow version; move "
        f"it away (mv {name} {name}.old), or migrate a copy of it: cp {name} {name}.old && "
        f"mlflow db upgrade {shlex.quote(sqlite_uri(path))}"
    )


def tables(path: Path) -> set[str]:
    """Return the names of a database's tables."""
    with contextlib.closing(_connect(path)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in rows}


def is_empty(path: Path) -> bool:
    """Return whether a database holds nothing but what a new one holds."""
    found = tables(path)
    queries = [f'SELECT 1 FROM "{table}" LIMIT 1' for table in sorted(found - set(EMPTY_TABLES))]
    if "experiments" in found:
        queries.append("SELECT 1 FROM experiments WHERE name <> 'Default' LIMIT 1")
    with contextlib.closing(_connect(path)) as connection:
        return not any(connection.execute(query).fetchone() for query in queries)


def _build(path: Path, build: Callable[[Path], None]) -> None:
    """Build under another name, then rename."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        build(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        partial.with_name(f"{partial.name}-journal").unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, timeout=0.5, isolation_level=None
    )
