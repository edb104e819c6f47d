"""Microsoft's Philly GPU trace (Jeon et al., ATC 2019) as a CSV file.

Columns: timestamp, duration (s), num_gpus, gpu_time, cluster. The trace is published as JSON per
job in msr-fiddle/philly-traces (CC BY 4.0); any CSV with these columns is read. `cluster` is the
virtual cluster; `gpu_time` is not used.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.contracts import Dataset
from bench.errors import UserError
from bench.instance import Instance
from bench.workload import seconds_to_ticks
from datasets._files import find_files, parse_number, read_csv, split_windows

log = logging.getLogger(__name__)
REQUIRED = (
    "the Philly trace as CSV with the columns timestamp, duration, num_gpus, cluster (from "
    "https://github.com/msr-fiddle/philly-traces)"
)


class PhillyJob(NamedTuple):
    """One row of the trace."""

    submit: float  # seconds since the epoch
    duration: float  # seconds
    gpus: int
    cluster: str


class Philly(Dataset):
    """Windows of consecutive jobs on machines with GPUs of one type.

    Releases count from the first job of a window.

    Parameters
    ----------
    splits
        Split -> the fields of its `datasets._files.Windows`, over the jobs in order of arrival.
    agents
        Number of GPUs of each machine, shape (M,).
    path
        The CSV file, or a folder of them.
    cluster
        Only the jobs of this virtual cluster. None: all jobs.
    tick_seconds
        Length of a tick.

    Raises
    ------
    UserError
        When a file is missing or damaged (the message names the line and the field), or when
        windows do not fit.
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
                f"dataset.agents: value {list(agents)}: must list the GPUs of each machine, "
                "all at least 1"
            )
        if not tick_seconds > 0:
            raise UserError(f"dataset.tick_seconds: value {tick_seconds}: must be positive")
        self.name = name
        self.splits = splits
        self.agents = list(agents)
        self.path = path
        self.cluster = cluster
        self.tick_seconds = tick_seconds
        self.hashes = dict(hashes or {})
        self._jobs: list[PhillyJob] | None = None

    def instances(self, split: str) -> Iterator[Instance]:
        """Yield the windows of the split in order of time."""
        jobs = self._read()
        starts, size = split_windows(self.splits, len(jobs))[split]
        for start in starts:
            yield self._window(jobs[start : start + size], f"{self.name}-{start}")

    def _read(self) -> list[PhillyJob]:
        """Return the jobs that fit the agents, by time of submission; the files are read once."""
        if self._jobs is None:
            rows = [
                job
                for file in find_files(self.path, {}, REQUIRED, "*.csv*")
                for job in read_philly(file)
                if self.cluster in (None, job.cluster)
            ]
            too_large = sum(job.gpus > max(self.agents) for job in rows)
            empty = sum(job.duration <= 0 or job.gpus < 1 for job in rows)
            log.info(
                "%s: %d jobs, left out: %d that need more GPUs than any agent has, "
                "%d without duration or GPUs",
                self.name,
                len(rows),
                too_large,
                empty,
            )
            kept = [job for job in rows if 1 <= job.gpus <= max(self.agents) and job.duration > 0]
            if not kept:
                raise UserError(
                    f"dataset.cluster: value {self.cluster!r}: no job of it fits the agents; "
                    "check dataset.cluster and dataset.agents"
                )
            self._jobs = sorted(kept, key=lambda job: job.submit)
        return self._jobs

    def _window(self, jobs: Sequence[PhillyJob], name: str) -> Instance:
        tick = self.tick_seconds
        zero = jobs[0].submit
        columns = {
            "duration": [[seconds_to_ticks(job.duration, tick)] for job in jobs],
            "demand": [[[job.gpus]] for job in jobs],
            "capacity": [[gpus] for gpus in self.agents],
            "agent_type": [0] * len(self.agents),
            "release": [math.ceil((job.submit - zero) / tick) for job in jobs],
            "resources": ("gpu",),
            "tick_seconds": tick,
            "name": name,
        }
        return Instance.from_dict(columns)


def read_philly(path: Path) -> list[PhillyJob]:
    """Return the rows of one CSV file, plain or gzip.

    Raises
    ------
    UserError
        When the file is damaged; the message names the line and the field.
    """
    jobs = []
    for where, row in read_csv(path, ("timestamp", "duration", "num_gpus", "cluster")):
        try:
            moment = datetime.fromisoformat(row["timestamp"])
            submit = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except ValueError:
            raise UserError(
                f"{where}, timestamp: value {row['timestamp']!r}: is not a date and time "
                "like 2017-10-01 00:00:45"
            ) from None
        seconds = parse_number(row["duration"], f"{where}, duration")
        gpus = parse_number(row["num_gpus"], f"{where}, num_gpus")
        if seconds < 0:
            raise UserError(f"{where}, duration: value {seconds:g}: must not be negative")
        if gpus != int(gpus) or gpus < 0:
            raise UserError(f"{where}, num_gpus: value {gpus:g}: must be an integer of at least 0")
        jobs.append(PhillyJob(submit, seconds, int(gpus), row["cluster"]))
    return jobs
