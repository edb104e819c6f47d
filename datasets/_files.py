"""Find or download the files of outside data, read them, and cut traces into windows."""

from __future__ import annotations

import csv
import gzip
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bench.contracts import SPLITS
from bench.errors import UserError

CACHE = "dl-scheduling-bench"  # the name of the suite's folder in the user's cache


def find_files(
    path: str | Path | None,
    downloads: Mapping[str, str],
    required: str,
    pattern: str = "*",
    download_base: str = "",
) -> list[Path]:
    """Return the files of a dataset: given by the user, or else downloaded.

    Parameters
    ----------
    path
        A file, or a folder of which the files that match `pattern` are taken, sorted by name.
        None: the files in `downloads`.
    downloads
        Address of each file -> its SHA-256. The address follows `download_base`.
    required
        What data is needed and where it can be obtained, for the error message.
    pattern
        Shell pattern of the names of the files in a folder.
    download_base
        The part that the addresses in `downloads` have in common.

    Raises
    ------
    UserError
        When there is nothing to read. The message says what to obtain and how to pass it.
    """
    if path is None:
        if not downloads:
            _raise_missing("no file was given", required)
        return [
            _download(download_base + address, sha256, required)
            for address, sha256 in downloads.items()
        ]
    path = Path(path).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        _raise_missing(f"value {path}: does not exist", required)
    files = sorted(f for f in path.glob(pattern) if f.is_file() and not f.name.startswith("."))
    if not files:
        _raise_missing(f"value {path}: no file in it matches {pattern!r}", required)
    return files


def find_file(
    path: str | Path | None,
    downloads: Mapping[str, str],
    required: str,
    pattern: str = "*",
    download_base: str = "",
) -> Path:
    """Return the only file that `find_files` finds.

    Raises
    ------
    UserError
        When there is no file or more than one.
    """
    first, *others = find_files(path, downloads, required, pattern, download_base)
    if others:
        raise UserError(
            f"dataset.path: value {path}: holds {1 + len(others)} files that match {pattern!r}; "
            "name one of them"
        )
    return first


def read_text(path: Path) -> str:
    """Return the content of a text file, plain or compressed by gzip.

    Raises
    ------
    UserError
        When the file cannot be read, is cut short or corrupt, or is not UTF-8 text.
    """
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not readable as text ({error}); the file may be cut short or corrupt"
        ) from None


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row of a CSV file, plain or compressed by gzip.

    Parameters
    ----------
    columns
        Names of the columns that the header must have.

    Yields
    ------
    tuple of str and dict
        The place of the row for error messages ("FILE: line N"), and column -> value.

    Raises
    ------
    UserError
        When a column is missing or a row has another number of fields than the header.
    """
    rows = csv.reader(read_text(path).splitlines())
    header = next(rows, [])
    missing = [column for column in columns if column not in header]
    if missing:
        raise UserError(
            f"{path}: line 1: column {missing[0]} is missing; "
            f"found {', '.join(header) or 'nothing'}"
        )
    for i, row in enumerate(rows, 2):
        where = f"{path}: line {i}"
        if len(row) != len(header):
            raise UserError(
                f"{where}: {len(row)} fields, expected {len(header)}; the file may be cut short"
            )
        yield where, dict(zip(header, row, strict=True))


def parse_number(text: str, where: str) -> float:
    """Return `text` as a finite number.

    Raises
    ------
    UserError
        When it is not one; the message begins with `where`.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise UserError(f"{where}: value {text!r}: is not a number; correct the file")
    return value


@dataclass(frozen=True)
class Windows:
    """Windows of `jobs` consecutive jobs of a trace, as one split is configured.

    There are `windows` of them, evenly spaced in [first, last), or one at each of `starts`.
    `first` and `last` are indices of jobs (int) or fractions of the trace (float).
    """

    jobs: int
    windows: int = 1
    first: int | float = 0
    last: int | float = 1.0
    starts: Sequence[int] | None = None

    def bounds(self, total: int) -> tuple[int, int]:
        """Return the range [low, high) of the `total` jobs that these windows may use."""
        if self.starts is not None:
            return min(self.starts), max(self.starts) + self.jobs
        first, last = (
            int(x * total) if isinstance(x, float) else x for x in (self.first, self.last)
        )
        return first, last

    def first_jobs(self, total: int) -> list[int]:
        """Return the index of the first job of each window, of a trace of `total` jobs."""
        first, last = self.bounds(total)
        if self.starts is not None:
            return list(self.starts)
        slack = last - first - self.jobs
        return [first + (i * slack) // max(self.windows - 1, 1) for i in range(self.windows)]


def split_windows(
    splits: Mapping[str, Mapping[str, object]], total: int
) -> dict[str, tuple[list[int], int]]:
    """Place the windows of all splits in a trace and check that no two splits share a job.

    Parameters
    ----------
    splits
        Split -> the fields of its `Windows`.
    total
        Number of jobs of the trace.

    Returns
    -------
    dict
        Split -> (index of the first job of each window, jobs per window).

    Raises
    ------
    UserError
        When windows do not fit or splits overlap; the message names the split and the field.
    """
    placed: dict[str, tuple[list[int], int]] = {}
    ranges: list[tuple[int, int, str]] = []
    for split in SPLITS:
        try:
            spec = Windows(**dict(splits[split]))  # type: ignore[arg-type]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"dataset.splits.{split}: needs jobs, and windows, first, last or starts ({error})"
            ) from None
        low, high = spec.bounds(total)
        first_jobs = spec.first_jobs(total)
        if not (spec.jobs >= 1 and low >= 0 and high <= total and high - low >= spec.jobs):
            raise UserError(
                f"dataset.splits.{split}: {spec.jobs} jobs do not fit in [{low}, {high}) "
                f"of a trace of {total} jobs; change jobs or the range"
            )
        if len(set(first_jobs)) < len(first_jobs) or not first_jobs:
            raise UserError(
                f"dataset.splits.{split}.windows: {spec.windows} different windows do not fit "
                f"in [{low}, {high}); give at least 1 and fewer than now"
            )
        ranges.append((low, high, split))
        placed[split] = first_jobs, spec.jobs
    ranges.sort()
    for (_, end, before), (start, _, after) in itertools.pairwise(ranges):
        if start < end:
            raise UserError(
                f"dataset.splits: {before} and {after} share jobs [{start}, {end}); "
                "give them separate ranges"
            )
    return placed


def _download(url: str, sha256: str, required: str) -> Path:
    """Return the downloaded file, from the user's cache if it is there already."""
    import pooch

    try:
        # One folder per file, so that files of equal names can be kept under their own names.
        folder = pooch.os_cache(CACHE) / sha256[:16]
        return Path(
            pooch.retrieve(url, f"sha256:{sha256}", fname=url.rsplit("/", 1)[-1], path=folder)
        )
    except Exception as error:  # whatever failed, the user has to obtain the file in another way
        reason = str(error).splitlines()[0][:160]
        _raise_missing(f"{url} could not be downloaded ({reason})", required)


def _raise_missing(problem: str, required: str) -> NoReturn:
    raise UserError(
        f"dataset.path: {problem}. Needed: {required}; put it anywhere and set "
        "dataset.path=FILE_OR_FOLDER"
    )
