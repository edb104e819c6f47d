"""Microsoft's Philly GPU trace (Jeon et al., ATC 2019) as a CSV: timestamp, duration (s), num_gpus, gpu_time, cluster.

The published form is msr-fiddle/philly-traces (CC BY 4.0): JSON per job. Any CSV with these columns is read; `cluster` is the
virtual cluster, `gpu_time` is not used.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.errors import UserError
from bench.instance import Instance
from bench.workload import ticks
from datasets._files import find, number, read_text, windows

log = logging.getLogger(__name__)
NEED = (
    "the Philly trace as CSV with the columns timestamp, duration, num_gpus, cluster (from "
    "https://github.com/msr-fiddle/philly-traces)"
)


class Job(NamedTuple):
    """One row."""

    submit: float  # seconds since the epoch
    duration: float  # seconds
    gpus: int
    cluster: str


class Philly:
    """Windows of consecutive jobs on machines of `agents` GPUs each, all of one type.

    `cluster`: only jobs of that virtual cluster. Releases count from the window's first job; splits lie in separate
    stretches of time (`datasets._files.Windows` over the jobs in order of arrival).

    Raises:
        UserError: for a file that is missing or damaged, naming the line and field; for windows that do not fit.
    """

    def __init__(
        self,
        splits: Mapping[str, Mapping[str, object]],
        agents: Sequence[int],
        name: str = "philly",
        path: str | None = None,
        cluster: str | None = None,
        tick_seconds: float = 60.0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        if not agents or min(agents) < 1:
            raise UserError(
                f"dataset.agents: {list(agents)} must list the GPUs of each machine, all at least 1"
            )
        if not tick_seconds > 0:
            raise UserError(f"dataset.tick_seconds: {tick_seconds} must be positive")
        self.name, self.splits, self.agents, self.path = name, splits, list(agents), path
        self.cluster, self.tick_seconds, self.hashes = cluster, tick_seconds, dict(hashes or {})
        self._jobs: list[Job] | None = None

    def instances(self, split: str) -> Iterator[Instance]:
        """The split's windows in order of time."""
        jobs = self._read()
        starts, size = windows(self.splits, len(jobs))[split]
        for start in starts:
            yield self._window(jobs[start : start + size], f"{self.name}-{start}")

    def _read(self) -> list[Job]:
        if self._jobs is None:
            files = find(self.path, {}, NEED, "*.csv*")
            rows = [
                job
                for file in files
                for job in read_philly(file)
                if self.cluster in (None, job.cluster)
            ]
            wide = sum(job.gpus > max(self.agents) for job in rows)
            empty = sum(job.duration <= 0 or job.gpus < 1 for job in rows)
            log.info("%s: %d jobs, %d left out as wider than every agent, %d without time or GPUs", self.name, len(rows), wide,
                     empty)  # fmt: skip
            kept = [job for job in rows if 1 <= job.gpus <= max(self.agents) and job.duration > 0]
            if not kept:
                raise UserError(
                    f"dataset.cluster: no job of {self.cluster!r} fits the agents; check cluster and agents"
                )
            self._jobs = sorted(kept, key=lambda job: job.submit)
        return self._jobs

    def _window(self, jobs: Sequence[Job], name: str) -> Instance:
        tick, zero = self.tick_seconds, jobs[0].submit
        columns = {
            "duration": [[ticks(job.duration, tick)] for job in jobs],
            "demand": [[[job.gpus]] for job in jobs],
            "capacity": [[gpus] for gpus in self.agents],
            "agent_type": [0] * len(self.agents),
            "release": [math.ceil((job.submit - zero) / tick) for job in jobs],
            "resources": ("gpu",),
            "tick_seconds": tick,
            "name": name,
        }
        return Instance.from_dict(columns)


def read_philly(path: Path) -> list[Job]:
    """The rows of one CSV, gzip or plain. Raises UserError naming the line and field."""
    rows = csv.reader(read_text(path).splitlines())
    header = next(rows, [])
    missing = [
        column
        for column in ("timestamp", "duration", "num_gpus", "cluster")
        if column not in header
    ]
    if missing:
        raise UserError(
            f"{path}: line 1: column {missing[0]} is missing; found {', '.join(header) or 'nothing'}"
        )
    when, duration, gpus, cluster = (
        header.index(column) for column in ("timestamp", "duration", "num_gpus", "cluster")
    )
    jobs = []
    for i, row in enumerate(rows, 2):
        where = f"{path}: line {i}"
        if len(row) != len(header):
            raise UserError(
                f"{where}: {len(row)} fields, expected {len(header)}; the file may be cut short"
            )
        try:
            moment = datetime.fromisoformat(row[when])
            submit = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except ValueError:
            raise UserError(
                f"{where}, timestamp: {row[when]!r} is not a date and time like 2017-10-01 00:00:45"
            ) from None
        seconds, held = (
            number(row[duration], f"{where}, duration"),
            number(row[gpus], f"{where}, num_gpus"),
        )
        if seconds < 0:
            raise UserError(f"{where}, duration: {seconds:g} must not be negative")
        if held != int(held) or held < 0:
            raise UserError(f"{where}, num_gpus: {held:g} must be a whole number, not negative")
        jobs.append(Job(submit, seconds, int(held), row[cluster]))
    return jobs
