"""Batch traces in the Standard Workload Format (Feitelson).

Source: https://www.cs.huji.ac.il/labs/parallel/workload/swf.html. One line per job, 18 fields:
1 id, 2 submit, 3 wait, 4 run time, 5 processors allocated, 8 processors requested, 9 time
requested, ...; -1 = unknown. Lines that begin with `;` are comments; one of them can be
`; MaxProcs: n`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.contracts import Dataset
from bench.errors import UserError
from bench.instance import Instance
from datasets._files import find_file, parse_number, read_text, split_windows

log = logging.getLogger(__name__)
FIELDS = 18
REQUIRED = (
    "a trace in the Standard Workload Format, e.g. from "
    "https://www.cs.huji.ac.il/labs/parallel/workload/logs.html"
)


class SwfJob(NamedTuple):
    """One row of the trace; times in seconds."""

    submit: int
    run: int
    processors: int
    requested: int  # requested time; the run time where the trace has none


class Swf(Dataset):
    """Windows of consecutive jobs on pools of processors.

    Ticks are seconds, releases the absolute submit times, estimates the requested times. The demand
    is the number of requested processors, or of allocated ones where it is not given. Jobs are
    counted from 0 in the order of the file, without the rejected rows.

    Parameters
    ----------
    splits
        Split -> the fields of its `datasets._files.Windows`.
    path
        File, or folder with one trace; None: the file in `downloads`.
    agents
        Number of pools.
    processors
        Number of processors of one pool. None: the MaxProcs of the file.
    downloads, download_base
        Address of the file, after `download_base`, -> its SHA-256.

    Raises
    ------
    UserError
        When the file is missing or damaged (the message names the line and the field), or when
        windows do not fit.
    """

    def __init__(
        self,
        name: str,
        splits: Mapping[str, Mapping[str, object]],
        path: str | None = None,
        agents: int = 1,
        processors: int | None = None,
        downloads: Mapping[str, str] | None = None,
        download_base: str = "",
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.splits = splits
        self.path = path
        self.agents = agents
        self.processors = processors
        self.downloads = dict(downloads or {})
        self.download_base = download_base
        self.hashes = dict(hashes or {})
        self._trace: tuple[list[SwfJob], int] | None = None

    def instances(self, split: str) -> Iterator[Instance]:
        """Yield the windows of the split in the configured order."""
        jobs, processors = self.trace()
        starts, size = split_windows(self.splits, len(jobs))[split]
        for start in starts:
            yield on_pools(
                jobs[start : start + size], processors, self.agents, f"{self.name}-{start}"
            )

    def trace(self) -> tuple[list[SwfJob], int]:
        """Return all jobs and the number of processors of one pool; the file is read once."""
        if self._trace is None:
            file = find_file(self.path, self.downloads, REQUIRED, "*.swf*", self.download_base)
            self._trace = read_swf(file, self.processors)
        return self._trace


def on_pools(jobs: Sequence[SwfJob], processors: int, agents: int, name: str) -> Instance:
    """Return the instance of `jobs` on `agents` pools of `processors` processors each."""
    submit, run, demand, requested = np.array(jobs, dtype=np.int64).T
    return Instance(
        duration=run[:, None],
        estimate=requested[:, None],
        demand=demand[:, None, None],
        capacity=np.full((agents, 1), processors),
        agent_type=np.zeros(agents, dtype=np.int64),
        release=submit,
        resources=("processor",),
        tick_seconds=1.0,
        name=name,
    )


def read_swf(path: Path, processors: int | None = None) -> tuple[list[SwfJob], int]:
    """Return the jobs in the order of the file, and the number of processors of one pool.

    The number is `processors`, else MaxProcs of the file, else MaxNodes. Jobs without a positive
    run time, without a submit time, or that need no or too many processors are left out; a warning
    in the log counts them.

    Raises
    ------
    UserError
        When the file is damaged, states no number of processors, or has no valid job.
    """
    text = read_text(path)
    size = processors or _header(text, "MaxProcs") or _header(text, "MaxNodes")
    if size is None:
        raise UserError(
            f"dataset.processors: value {processors}: {path} has no `; MaxProcs:` line; "
            "set the number of processors"
        )
    rows = [
        _row(path, i, line)
        for i, line in enumerate(text.splitlines(), 1)
        if line.strip() and line.lstrip()[0] != ";"
    ]
    jobs = [job for job in rows if job.submit >= 0 and job.run >= 1 and 1 <= job.processors <= size]
    if len(jobs) < len(rows):
        log.warning(
            "%s: %d of %d jobs left out: no run time, no processors, or more than %d processors",
            path,
            len(rows) - len(jobs),
            len(rows),
            size,
        )
    if not jobs:
        raise UserError(
            f"{path}: none of {len(rows)} rows is a job that {size} processors can run; "
            "check the file and dataset.processors"
        )
    return jobs, size


def _row(path: Path, i: int, line: str) -> SwfJob:
    """Return the job in line i."""
    fields = line.split()
    if len(fields) != FIELDS:
        raise UserError(
            f"{path}: line {i}: {len(fields)} fields, expected {FIELDS}; the file may be cut short"
        )
    submit, run, allocated, wanted, requested = (
        int(parse_number(fields[k - 1], f"{path}: line {i}, field {k}")) for k in (2, 4, 5, 8, 9)
    )
    return SwfJob(
        submit, run, wanted if wanted > 0 else allocated, requested if requested > 0 else run
    )


def _header(text: str, field: str) -> int | None:
    """Return the positive integer of a header comment `; FIELD: n`, or None."""
    found = re.search(rf"^;\s*{field}:\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found and int(found[1]) > 0 else None
