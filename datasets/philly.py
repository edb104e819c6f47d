"""Microsoft's Philly GPU trace (Jeon et al., ATC 2019) as a CSV file.

Columns: timestamp, duration (s), num_gpus, gpu_time, cluster. The trace is published as JSON per
job in msr-fiddle/philly-traces (CC BY 4.0); any CSV with these columns is read. `cluster` is the
virtual cluster; `gpu_time` is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.contracts import Dataset
from bench.errors import UserError
from bench.instance import Instance
from bench.ticks import duration_to_ticks, seconds_between, time_to_ticks
from datasets._files import find_files, other_files, split_windows
from datasets._reading import Reading
from datasets._tables import parse_count, parse_seconds, read_csv

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
            files = find_files(self.path, {}, REQUIRED, "*.csv")
            rows = [job for file in files for job in read_philly(file)]
            reading = Reading(self.path, "jobs", "GPU time")
            kept = [job for job in rows if self._is_used(job, reading)]
            if not kept:
                raise UserError(
                    f"dataset.cluster: value {self.cluster!r}: no job of it fits the agents; "
                    f"check dataset.cluster and dataset.agents ({reading.line})"
                )
            reading.ignore_files(other_files(self.path, files))
            reading.finish()
            self._jobs = sorted(kept, key=lambda job: job.submit)
        return self._jobs

    def _is_used(self, job: PhillyJob, reading: Reading) -> bool:
        """Return whether the agents can run a job, and count it."""
        if self.cluster not in (None, job.cluster):
            reading.leave_out("of other virtual clusters")
            return False
        amount = job.duration * job.gpus
        most = max(self.agents)
        if not amount:
            reading.leave_out("without duration or GPUs")
            return False
        if job.gpus > most:
            reason = f"that need more than the {most} GPUs of the largest agent"
            reading.leave_out(reason, amount=amount)
            return False
        reading.use(amount=amount)
        return True

    def _window(self, jobs: Sequence[PhillyJob], name: str) -> Instance:
        tick = self.tick_seconds
        arrival = seconds_between(jobs[0].submit, [job.submit for job in jobs])
        columns = {
            "duration": duration_to_ticks([[job.duration] for job in jobs], tick),
            "demand": [[[job.gpus]] for job in jobs],
            "capacity": [[gpus] for gpus in self.agents],
            "agent_type": [0] * len(self.agents),
            "release": time_to_ticks(arrival, tick, "release"),
            "resources": ("gpu",),
            "tick_seconds": tick,
            "name": name,
        }
        return Instance.from_dict(columns)


def read_philly(path: Path) -> list[PhillyJob]:
    """Return the rows of one CSV file, plain or compressed.

    Raises
    ------
    UserError
        When the file is damaged; the message names the line and the field.
    """
    jobs = []
    with_zone: bool | None = None  # whether the first timestamp has a time zone
    for where, row in read_csv(path, ("timestamp", "duration", "num_gpus", "cluster")):
        try:
            moment = datetime.fromisoformat(row["timestamp"])
            submit = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise UserError(
                f"{where}, timestamp: value {row['timestamp']!r}: is not a date and time "
                "like 2017-10-01 00:00:45"
            ) from None
        if with_zone is None:
            with_zone = moment.tzinfo is not None
        elif with_zone != (moment.tzinfo is not None):
            raise UserError(
                f"{where}, timestamp: value {row['timestamp']!r}: all timestamps must have a time "
                "zone, or none (then they are UTC)"
            )
        seconds = parse_seconds(row["duration"], f"{where}, duration")
        gpus = parse_count(row["num_gpus"], f"{where}, num_gpus")
        if seconds < 0:
            raise UserError(f"{where}, duration: value {seconds:g}: must not be negative")
        jobs.append(PhillyJob(submit, seconds, gpus, row["cluster"]))
    return jobs
