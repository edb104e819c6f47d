"""What all logs have in common: a name, a place in the cache, and a data card.

The cache is the folder whose `logs` holds them, one folder each, as `datasets.logs.minari_files` writes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.errors import UserError
from bench.logs.episodes import Episodes
from datasets._files import CACHE
from datasets.logs import minari_files


def silent(done: int, total: int, note: str) -> None:
    """Progress shown to nobody."""


class StoredLogs:
    """A log that is kept under its name.

    Attributes:
        cache: its folder; None: BENCH_CACHE or the user's.
        command: what makes the log again, for its card; None where nobody said.
        rejected: rows of a user's own log that were left out, from 0, and why.

    Raises:
        UserError: for a name under which Minari, or a file system, may not find it again.
    """

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+-v\d+", name):
            better = re.sub(r"[^A-Za-z0-9_-]", "_", re.sub(r"-v\d+$", "", name)) or "mine"
            raise UserError(f"logs.name: {name!r} must be letters, digits, _ and -, then -v and a number, as Minari has it; "
                            f"such as {better}-v0")  # fmt: skip
        self.name = name
        self.cache: Path | None = None
        self.command: str | None = None
        self.rejected: list[tuple[int, str]] = []

    @property
    def folder(self) -> Path:
        """Where the log lies."""
        return cache_folder(self.cache) / "logs" / self.name

    def locked(self) -> FileLock:
        """A lock for as long as the folder is looked at or written."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder.with_name(f".{self.name}.lock"))

    def write(self, log: Episodes, facts: Mapping[str, Any]) -> None:
        """Keep the log with its card, in place of whatever lies there; to be called under the lock."""
        minari_files.write(self.folder, log, {**describe(log), **facts, "command": self.command})

    def store(self, log: Episodes, facts: Mapping[str, Any]) -> None:
        """Keep a log that is made anew from what is stored elsewhere, unless it lies there already."""
        with self.locked():
            if not self.folder.exists() or minari_files.card(self.folder)["hash"] != log.hash:
                self.write(log, facts)


def describe(log: Episodes) -> dict[str, Any]:
    """The facts of a data card: size, returns, coverage (distinct legal actions taken per distinct state, over those legal)."""
    returns, rows = log.returns, log.observation[log.state]
    states = {row.tobytes() for row in rows}
    pairs = {
        row.tobytes() + bytes(action) for row, action in zip(rows, log.action[:, None], strict=True)
    }
    legal = log.mask.sum(axis=1)
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
        "legal_per_state": float(legal.mean()),
        "probabilities": log.probability is not None,
    }


def cache_folder(cache: Path | None) -> Path:
    """`cache`, or BENCH_CACHE, or the user's own."""
    if cache is None and "BENCH_CACHE" in os.environ:
        return Path(os.environ["BENCH_CACHE"])
    if cache is None:
        import pooch

        return Path(pooch.os_cache(CACHE))
    return cache
