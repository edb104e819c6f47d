"""Batch traces in the Standard Workload Format (Feitelson, https://www.cs.huji.ac.il/labs/parallel/workload/swf.html).

One line per job, 18 fields: 1 id, 2 submit, 3 wait, 4 run time, 5 processors allocated, 8 processors requested, 9 time
requested, ...; -1 = unknown. Lines that begin with `;` are comments, `; MaxProcs: n` among them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.errors import UserError
from bench.instance import Instance
from datasets._files import find, number, read_text, windows

log = logging.getLogger(__name__)
FIELDS = 18
NEED = "a trace in the Standard Workload Format, e.g. from https://www.cs.huji.ac.il/labs/parallel/workload/logs.html"


class Job(NamedTuple):
    """One row, seconds."""

    submit: int
    run: int
    processors: int
    requested: int  # time; the run time where the trace has none


class Swf:
    """Windows of consecutive jobs on one pool of processors (`agents` pools of `processors` each).

    Ticks are seconds, releases the absolute submit times, estimates the requested times, processors the requested ones
    (the allocated where not given). Jobs are counted from 0 in file order, rejected rows left out. `splits`: see
    `datasets._files.Windows`. `downloads`: URL -> SHA-256.

    Raises:
        UserError: for a file that is missing or damaged, naming the line and field; for windows that do not fit.
    """

    def __init__(
        self,
        name: str,
        splits: Mapping[str, Mapping[str, object]],
        path: str | None = None,
        agents: int = 1,
        processors: int | None = None,
        downloads: Mapping[str, str] | None = None,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.splits, self.path, self.agents, self.processors = (
            name,
            splits,
            path,
            agents,
            processors,
        )
        self.downloads, self.hashes = dict(downloads or {}), dict(hashes or {})
        self._trace: tuple[list[Job], int] | None = None

    def instances(self, split: str) -> Iterator[Instance]:
        """The split's windows, in the order of their first jobs as configured."""
        jobs, processors = self.trace()
        starts, size = windows(self.splits, len(jobs))[split]
        for start in starts:
            yield on_pools(
                jobs[start : start + size], processors, self.agents, f"{self.name}-{start}"
            )

    def trace(self) -> tuple[list[Job], int]:
        """All jobs, and the processors of one pool; read once."""
        if self._trace is None:
            [file, *more] = find(self.path, self.downloads, NEED, "*.swf*")
            if more:
                raise UserError(
                    f"dataset.path: {self.path} holds {1 + len(more)} traces; name one of them"
                )
            self._trace = read_swf(file, self.processors)
        return self._trace


def on_pools(jobs: Sequence[Job], processors: int, agents: int, name: str) -> Instance:
    """The instance in which `jobs` wait for `agents` pools of `processors` each."""
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


def read_swf(path: Path, processors: int | None = None) -> tuple[list[Job], int]:
    """Jobs in file order, and the processors of one pool (`processors`, else the file's MaxProcs, else MaxNodes).

    Jobs without a positive run time, a submit time or processors that fit are left out; a log line counts them.
    """
    text = read_text(path)
    size = processors or _header(text, "MaxProcs") or _header(text, "MaxNodes")
    if size is None:
        raise UserError(
            f"dataset.processors: {path} has no `; MaxProcs:` line; set the number of processors"
        )
    rows = [
        _row(path, i, line)
        for i, line in enumerate(text.splitlines(), 1)
        if line.strip() and line.lstrip()[0] != ";"
    ]
    jobs = [job for job in rows if job.submit >= 0 and job.run >= 1 and 1 <= job.processors <= size]
    if len(jobs) < len(rows):
        log.warning("%s: %d of %d jobs left out: no run time, no processors, or more than %d", path, len(rows) - len(jobs),
                    len(rows), size)  # fmt: skip
    if not jobs:
        raise UserError(f"{path}: none of {len(rows)} rows is a job that {size} processors can run")
    return jobs, size


def _row(path: Path, i: int, line: str) -> Job:
    fields = line.split()
    if len(fields) != FIELDS:
        raise UserError(
            f"{path}: line {i}: {len(fields)} fields, expected {FIELDS}; the file may be cut short"
        )
    submit, run, allocated, wanted, requested = (
        int(number(fields[k - 1], f"{path}: line {i}, field {k}")) for k in (2, 4, 5, 8, 9)
    )
    return Job(
        submit, run, wanted if wanted > 0 else allocated, requested if requested > 0 else run
    )


def _header(text: str, field: str) -> int | None:
    found = re.search(rf"^;\s*{field}:\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found and int(found[1]) > 0 else None
