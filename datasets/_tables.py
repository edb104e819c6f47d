"""Read text, rows of CSV files and the numbers in them, with errors that name the place."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.errors import UserError
from bench.limits import MAX_INTEGER

# first bytes of a compressed file -> what decompresses it
COMPRESSIONS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
}
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
END_OF_FILE = b"\x1a"  # ends text files of DOS
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")  # bytes that no text has
DELIMITERS = ",;\t"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
SHOWN_CHARACTERS = 60  # of a damaged value or header in an error message


def read_text(path: Path) -> str:
    """Return the content of a text file, plain or compressed by gzip, bzip2 or xz.

    It is UTF-8 with or without byte-order mark, or UTF-16 with one. A line that is not UTF-8 is
    Latin-1, in which older traces write comments.

    Raises
    ------
    UserError
        When the file cannot be read, is cut short or corrupt, or is no text.
    """
    try:
        raw = path.read_bytes()
        for magic, decompress in COMPRESSIONS.items():
            if raw.startswith(magic):
                raw = decompress(raw)
                break
        return _decode(raw)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise UserError(
            f"{path}: not readable as text ({error}); the file may be cut short or corrupt"
        ) from None


def _decode(raw: bytes) -> str:
    if raw.startswith(UTF_16):
        return raw.decode("utf-16")
    raw = raw.removeprefix(codecs.BOM_UTF8).rstrip(END_OF_FILE)
    if control := CONTROL.search(raw):
        raise ValueError(f"byte {control[0][0]:#04x} at position {control.start()}")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "".join(_decode_line(line) for line in raw.splitlines(keepends=True))


def _decode_line(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of each line of a text file that is not blank.

    The place ("FILE: line N") is for error messages. Lines end in \\n, \\r\\n or \\r only.
    """
    for i, line in enumerate(io.StringIO(read_text(path), newline=None), 1):
        if line.strip():
            yield f"{path}: line {i}", line.rstrip("\n")


def read_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, fields) of each row of a CSV file in which any field is not blank.

    Fields are separated by commas, semicolons or tabs: by the one that the first row has most of.

    Raises
    ------
    UserError
        When the file is no CSV file; the message names the line.
    """
    text = read_text(path)
    first = next((line for line in io.StringIO(text, newline=None) if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        try:
            fields = next(rows, None)
        except csv.Error as error:
            raise UserError(
                f"{path}: line {rows.line_num}: {error}; the file may be cut short"
            ) from None
        if fields is None:
            return
        if any(field.strip() for field in fields):
            yield f"{path}: line {rows.line_num}", [field.strip() for field in fields]


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row of a CSV file, its values as text.

    Parameters
    ----------
    columns
        Names of the columns that the header must have, once.

    Yields
    ------
    tuple of str and dict
        The place of the row for error messages ("FILE: line N"), and column -> value.

    Raises
    ------
    UserError
        When a column is missing or stands twice, a row has another number of fields than the
        header, or there is no row.
    """
    rows = read_rows(path)
    where, header = next(rows, (f"{path}: line 1", []))
    for column in columns:
        if header.count(column) != 1:
            problem = "is missing" if column not in header else "stands more than once"
            raise UserError(
                f"{where}: column {column} {problem}; found {', '.join(header) or 'nothing'}"
            )
    empty = True
    for where, row in rows:
        empty = False
        if len(row) != len(header):
            raise UserError(
                f"{where}: {len(row)} fields, expected {len(header)}; the file may be cut short"
            )
        yield where, dict(zip(header, row, strict=True))
    if empty:
        raise UserError(f"{path}: no rows below the header; the file may be cut short")


def parse_number(text: str, where: str) -> float:
    """Return `text` as a finite number.

    Raises
    ------
    UserError
        When it is not one; the message begins with `where`.
    """
    value = float(text) if NUMBER.fullmatch(text.strip()) else float("nan")
    if not abs(value) < float("inf"):
        shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
        raise UserError(f"{where}: value {shown!r}: is not a number; correct the file")
    return value


def parse_count(text: str, where: str) -> int:
    """Return `text` as an integer of at least 0 and at most 10**12.

    Raises
    ------
    UserError
        When it is not one; the message begins with `where`.
    """
    value = parse_number(text, where)
    if value != int(value) or not 0 <= value <= MAX_INTEGER:
        raise UserError(
            f"{where}: value {text}: must be an integer of at least 0 and at most {MAX_INTEGER}"
        )
    return int(value)


def parse_seconds(text: str, where: str) -> float:
    """Return `text` as a time in seconds of at most 10**12, which is 31,700 years.

    Raises
    ------
    UserError
        When it is not one; the message begins with `where`.
    """
    value = parse_number(text, where)
    if abs(value) > MAX_INTEGER:
        raise UserError(f"{where}: value {value:g}: must be at most {MAX_INTEGER} s in size")
    return value
