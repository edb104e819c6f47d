"""Check the address of an MLflow store before MLflow does, which fails late and at length."""

from __future__ import annotations

import re
from pathlib import Path

from bench.errors import UserError, shortened
from bench.tracking.database import sqlite_path

SQLITE_HEADER = b"SQLite format 3\0"
SERVERS = ("http://", "https://")


def check_uri(field: str, uri: object) -> str:
    """Return the address of a store where it can be one.

    Parameters
    ----------
    field
        Where it was given, for the message, such as `tracking.uri` or `--uri`.

    Raises
    ------
    UserError
        For anything but `sqlite:///FILE` or the address of a server or of another database, and for
        a file that is no SQLite database.
    """
    if not isinstance(uri, str) or not re.match(r"[A-Za-z][\w+]*:/{2,}", uri):
        value = repr(uri) if not isinstance(uri, str) else shortened(uri)
        raise UserError(
            f"{field}: value {value}: is no store; write sqlite:///FILE or http://HOST:PORT"
        )
    if uri.startswith(SERVERS) and not re.match(r"https?://[^/\s:]+(:\d+)?(/\S*)?$", uri):
        raise UserError(f"{field}: value {shortened(uri)}: is no address; write http://HOST:PORT")
    if uri.startswith("sqlite:"):
        _check_sqlite(field, uri)
    return uri


def _check_sqlite(field: str, uri: str) -> None:
    text = uri.removeprefix("sqlite:///")
    if text == uri or not text:
        raise UserError(f"{field}: value {shortened(uri)}: names no file; write sqlite:///FILE")
    path = sqlite_path(uri) or Path(text)
    try:
        if path.is_dir():
            raise UserError(f"{field}: {path} is a folder; name the file of the database")
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(len(SQLITE_HEADER))
            if start and start != SQLITE_HEADER:
                raise UserError(f"{field}: {path} is no SQLite database; name another file")
        elif path.exists():
            raise UserError(f"{field}: {path} is no file; name the file of the database")
    except OSError as error:
        raise UserError(f"{field}: {shortened(uri)} cannot be used ({error.strerror})") from None
