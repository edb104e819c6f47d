"""Find or download the files of outside data, and cut traces into windows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn

from bench.contracts import SPLITS
from bench.errors import UserError
from bench.files import file_hash
from bench.paths import CACHE

# Endings of names that editors, backup programs and downloads give to copies of a file.
COPY_ENDINGS = (
    *("~", ".bak", ".backup", ".old", ".orig", ".save", ".copy", ".tmp", ".temp", ".swp", ".swo"),
    *(".part", ".partial", ".crdownload", ".download", ".rej"),
)


def find_files(
    path: str | Path | None,
    downloads: Mapping[str, str],
    required: str,
    pattern: str = "*",
    download_base: str = "",
    may_be_equal: bool = False,
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
        Shell pattern of the names of the files in a folder, in upper or lower case, with or without
        .gz. Hidden files and copies (such as `a.csv~`, `a.csv.bak`) never match.
    download_base
        The part that the addresses in `downloads` have in common.
    may_be_equal
        Whether two files of a folder may have the same content; never a file and its .gz.

    Raises
    ------
    UserError
        When there is nothing to read: the message says what to obtain and how to pass it. When two
        files of a folder are copies of each other: the message names both.
    """
    files = _matching_files(path, downloads, required, pattern, download_base)
    if path is not None:
        pairs = [*_compressed_twins(files), *([] if may_be_equal else equal_files(files))]
        for first, second in pairs:
            raise UserError(
                f"dataset.path: value {path}: {first.name} and {second.name} are copies of "
                "one file; delete one of them, or name a file"
            )
    return files


def _matching_files(
    path: str | Path | None,
    downloads: Mapping[str, str],
    required: str,
    pattern: str,
    download_base: str,
) -> list[Path]:
    """Return the files of a dataset, copies in a folder included; see `find_files`."""
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
    files = [f for f in _visible_files(path) if _matches(f.name, pattern)]
    if not files:
        _raise_missing(f"value {path}: no file in it matches {pattern!r}", required)
    return files


def other_files(path: str | Path | None, files: Sequence[Path]) -> list[str]:
    """Return the names of the visible files beside `files`, which were found in a folder."""
    folder = Path(path or "").expanduser()
    if path is None or not folder.is_dir():
        return []
    return [file.name for file in _visible_files(folder) if file not in files]


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
    first, *others = _matching_files(path, downloads, required, pattern, download_base)
    if others:
        names = ", ".join(file.name for file in (first, *others))
        raise UserError(
            f"dataset.path: value {path}: holds {1 + len(others)} files that match {pattern!r}; "
            f"name one of them: {names}"
        )
    return first


def without_gz(name: str) -> str:
    """Return the name of a file without the ending .gz."""
    return name[:-3] if name.lower().endswith(".gz") else name


def _visible_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))


def _matches(name: str, pattern: str) -> bool:
    bare = without_gz(name).lower()
    if bare.endswith(COPY_ENDINGS) or bare.startswith("#"):
        return False
    return any(fnmatchcase(one, pattern.lower()) for one in (name.lower(), bare))


def equal_files(files: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Return each file whose content an earlier one has too, after that one."""
    sizes = Counter(file.stat().st_size for file in files)
    candidates = [file for file in files if sizes[file.stat().st_size] > 1]
    return _pairs(candidates, file_hash)


def _compressed_twins(files: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Return each file whose name an earlier one has too but for the ending .gz, after that one."""
    return _pairs(files, lambda file: without_gz(file.name))


def _pairs(files: Sequence[Path], key: Callable[[Path], str]) -> list[tuple[Path, Path]]:
    first: dict[str, Path] = {}
    keyed = [(first.setdefault(key(file), file), file) for file in files]
    return [(one, other) for one, other in keyed if one != other]


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
