"""What all logged datasets have in common: a name, a folder in the cache, and a data card.

The cache folder has a folder `logs` with one folder for each log, in the form that
`datasets.logs.minari_files` writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.contracts import LoggedDataset
from bench.errors import UserError
from bench.logs.episodes import LoggedEpisodes
from bench.paths import CACHE, path_component
from datasets.logs import minari_files


class StoredLogs(LoggedDataset):
    """A logged dataset that is kept in the cache under its name.

    Attributes
    ----------
    cache
        The cache folder; None: the environment variable BENCH_CACHE, or the user's cache.
    command
        The command that makes the log again, for its data card; None where it is unknown.
    rejected
        (row, reason) of each row of a user's own log that was left out; rows count from 0.

    Raises
    ------
    UserError
        For a name that Minari or a file system may not find again.
    """

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+-v[0-9]+", name):
            better = re.sub(r"[^A-Za-z0-9_-]", "_", re.sub(r"-v[0-9]+$", "", name)) or "mine"
            raise UserError(
                f"logs.name: value {name!r}: must be letters, digits, _ and -, then -v and an "
                f"integer, as Minari requires; such as {better}-v0"
            )
        self.name = path_component("logs.name", name)
        self.cache: Path | None = None
        self.command: str | None = None
        self.rejected: list[tuple[int, str]] = []

    @property
    def folder(self) -> Path:
        """The folder of the log."""
        return cache_folder(self.cache) / "logs" / self.name

    def lock(self) -> FileLock:
        """Return a lock to hold while the folder is read or written."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder.with_name(f".{self.name}.lock"))

    def write(self, log: LoggedEpisodes, facts: Mapping[str, Any]) -> None:
        """Write the log and its card, in place of an older one; call it while holding the lock."""
        minari_files.write(self.folder, log, {**describe(log), **facts, "command": self.command})

    def store(self, log: LoggedEpisodes, facts: Mapping[str, Any]) -> None:
        """Write a log that is derived from other stored data, unless it is stored already."""
        with self.lock():
            if not self.folder.exists() or minari_files.read_card(self.folder)["hash"] != log.hash:
                self.write(log, facts)


def describe(log: LoggedEpisodes) -> dict[str, Any]:
    """Return the facts of a data card: size, returns and coverage.

    Coverage is the number of distinct legal actions taken per distinct state
    (`actions_per_state`), beside the mean number of legal ones (`legal_per_state`).
    """
    returns = log.returns
    rows = log.observation[log.state]
    states = {row.tobytes() for row in rows}
    pairs = {
        row.tobytes() + bytes(action) for row, action in zip(rows, log.action[:, None], strict=True)
    }
    return {
        "episodes": len(log.length),
        "decisions": len(log.action),
        "instances": len(set(log.instance)),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "return_by_behaviour": log.return_by_behaviour,
        "distinct_states": len(states),
        "actions_per_state": len(pairs) / len(states),
        "legal_per_state": float(log.mask.sum(axis=1).mean()),
        "probabilities": log.probability is not None,
    }


def cache_folder(cache: Path | None) -> Path:
    """Return `cache`, or BENCH_CACHE where it is None, or the user's cache without either."""
    if cache is None and "BENCH_CACHE" in os.environ:
        return Path(os.environ["BENCH_CACHE"])
    if cache is None:
        import pooch

        return Path(pooch.os_cache(CACHE))
    return cache
