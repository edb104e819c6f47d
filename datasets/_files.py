"""What every reader of outside data shares: find or download its files, read them, cut traces into windows."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.contracts import SPLITS
from bench.errors import UserError

CACHE = "dl-scheduling-bench"


def find(
    path: str | Path | None, downloads: Mapping[str, str], need: str, pattern: str = "*"
) -> list[Path]:
    """The file `path`, or the files of the folder `path` that match `pattern`, sorted; without a path, the downloads.

    `downloads`: URL -> SHA-256. `need` says what to get, and where from.

    Raises:
        UserError: where there is nothing to read; it says what to get and where to put it.
    """
    if path is None:
        return [_download(url, sha256, need) for url, sha256 in downloads.items()] or _missing(
            "no file was given", need
        )
    path = Path(path).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        return _missing(f"{path} does not exist", need)
    files = sorted(f for f in path.glob(pattern) if f.is_file() and not f.name.startswith("."))
    return files or _missing(f"no file in {path} matches {pattern!r}", need)


def read_text(path: Path) -> str:
    """A text file, gzip or plain. Raises UserError where it is cut short, corrupt or not text."""
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not readable as text ({error}); the file may be cut short or corrupt"
        ) from None


def number(text: str, where: str) -> float:
    """`text` as a finite number. Raises UserError beginning with `where`."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise UserError(f"{where}: {text!r} is not a number")
    return value


@dataclass(frozen=True)
class Windows:
    """`windows` runs of `jobs` consecutive jobs, evenly spaced in [first, last) of a trace, or at given `starts`.

    `first` and `last` are job indices, or shares of the trace where they are written with a decimal point.
    """

    jobs: int
    windows: int = 1
    first: int | float = 0
    last: int | float = 1.0
    starts: Sequence[int] | None = None

    def bounds(self, total: int) -> tuple[int, int]:
        """The range of jobs, of `total`, that these windows may touch."""
        if self.starts is not None:
            return min(self.starts), max(self.starts) + self.jobs
        first, last = (
            int(x * total) if isinstance(x, float) else x for x in (self.first, self.last)
        )
        return first, last

    def begin(self, total: int) -> list[int]:
        """First job index of each window."""
        first, last = self.bounds(total)
        if self.starts is not None:
            return list(self.starts)
        room = last - first - self.jobs
        return [first + (i * room) // max(self.windows - 1, 1) for i in range(self.windows)]


def windows(
    splits: Mapping[str, Mapping[str, object]], total: int
) -> dict[str, tuple[list[int], int]]:
    """split -> (first job of each window, jobs per window), checked: inside the trace, no split touching another's jobs.

    Raises:
        UserError: naming the split and the field.
    """
    out: dict[str, tuple[list[int], int]] = {}
    taken: list[tuple[int, int, str]] = []
    for split in SPLITS:
        try:
            spec = Windows(**dict(splits[split]))  # type: ignore[arg-type]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"dataset.splits.{split}: needs jobs, and windows, first, last or starts ({error})"
            ) from None
        low, high = spec.bounds(total)
        begin = spec.begin(total)
        if not (spec.jobs >= 1 and low >= 0 and high <= total and high - low >= spec.jobs):
            raise UserError(
                f"dataset.splits.{split}: {spec.jobs} jobs do not fit in [{low}, {high}) of a trace of {total}"
            )
        if len(set(begin)) < len(begin) or not begin:
            raise UserError(
                f"dataset.splits.{split}.windows: {spec.windows} different windows do not fit in [{low}, {high})"
            )
        taken.append((low, high, split))
        out[split] = begin, spec.jobs
    taken.sort()
    for (_, end, before), (start, _, after) in itertools.pairwise(taken):
        if start < end:
            raise UserError(
                f"dataset.splits: {before} and {after} share jobs [{start}, {end}); give them separate ranges"
            )
    return out


def _download(url: str, sha256: str, need: str) -> Path:
    import pooch

    try:
        folder = (
            pooch.os_cache(CACHE) / sha256[:16]
        )  # one folder per file, so that files keep their own names
        return Path(
            pooch.retrieve(url, f"sha256:{sha256}", fname=url.rsplit("/", 1)[-1], path=folder)
        )
    except (
        Exception
    ) as error:  # whatever the network does, the answer is the same: get the file by hand
        reason = str(error).splitlines()[0][:160]
        return _missing(f"{url} could not be downloaded ({reason})", need)[0]


def _missing(problem: str, need: str) -> list[Path]:
    raise UserError(
        f"dataset.path: {problem}. Needed: {need}; put it anywhere and set dataset.path=FILE_OR_FOLDER"
    )
