"""The jobs published with Hydra (Yang et al., TPDS 2023): run times on three types of GPU.

Source: https://github.com/dos-lab/Hydra. Each job uses one GPU (A100, V100 or GTX 2080 Ti). A CSV
with the columns (index), job_name, norm_job_submit_time (s), ddl (s from submission, inf = none),
and one column of run times (s) per type of GPU. In the published experiments the first n jobs are
scheduled, all released at 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.contracts import Dataset
from bench.errors import UserError
from bench.instance import Instance
from bench.limits import MAX_INTEGER
from bench.ticks import duration_to_ticks, seconds_between, time_to_ticks
from datasets._files import find_file, other_files, split_windows
from datasets._reading import Reading
from datasets._tables import parse_seconds, read_csv

REQUIRED = (
    "a job file as CSV with the columns norm_job_submit_time, ddl and one per GPU type "
    "(from https://github.com/dos-lab/Hydra)"
)
# The due tick of a job without a deadline: in an instance all tasks have a due date, or none has.
NO_DUE = MAX_INTEGER


class HydraJob(NamedTuple):
    """One row of the file; all times in seconds."""

    submit: float
    due: float  # on the time axis of `submit`; inf = no deadline
    seconds: tuple[float, ...]  # run time on each type of GPU


class Hydra(Dataset):
    """The first n jobs of a file on a cluster of single-GPU agents, for each n of `jobs` (test).

    Jobs without a deadline get one that is never missed. Releases are rounded up to ticks like all
    times.

    Parameters
    ----------
    agents
        Type of GPU (a column of the file) -> number of agents.
    jobs
        The numbers n of jobs of the test instances.
    splits
        The fields of `datasets._files.Windows` of train and validation, over the jobs in the order
        of the file. They must not touch the first max(jobs) jobs.
    path
        The CSV file, or a folder with one.
    tick_seconds
        Length of a tick.

    Raises
    ------
    UserError
        When the file is missing or damaged (the message names the line and the field), or when
        windows do not fit.
    """

    def __init__(
        self,
        agents: Mapping[str, int],
        jobs: Sequence[int],
        splits: Mapping[str, Mapping[str, object]],
        name: str = "hydra",
        path: str | None = None,
        tick_seconds: float = 1.0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        if not agents or min(agents.values()) < 1:
            raise UserError(
                f"dataset.agents: value {dict(agents)}: must give each type at least 1 agent"
            )
        if not jobs or min(jobs) < 1:
            raise UserError(
                f"dataset.jobs: value {list(jobs)}: must list numbers of jobs, all at least 1"
            )
        if not tick_seconds > 0:
            raise UserError(f"dataset.tick_seconds: value {tick_seconds}: must be positive")
        self.name = name
        self.agents = {str(name): count for name, count in agents.items()}
        self.jobs = list(jobs)
        self.path = path
        self.tick_seconds = tick_seconds
        self.splits = {**splits, "test": {"jobs": max(jobs), "starts": [0]}}
        self.hashes = dict(hashes or {})
        self._jobs: list[HydraJob] | None = None

    def instances(self, split: str) -> Iterator[Instance]:
        """Yield the first n jobs for each n (test), or the windows of the split."""
        if self._jobs is None:
            file = find_file(self.path, {}, REQUIRED, "*.csv")
            self._jobs = read_hydra(file, list(self.agents))
            reading = Reading(file, "jobs")
            reading.use(len(self._jobs))
            reading.ignore_files(other_files(self.path, [file]))
            reading.finish()
        starts, size = split_windows(self.splits, len(self._jobs))[split]
        if split == "test":
            yield from (self._instance(self._jobs[:n], f"{self.name}-{n}") for n in self.jobs)
            return
        for start in starts:
            yield self._instance(self._jobs[start : start + size], f"{self.name}-{split}-{start}")

    def _instance(self, jobs: Sequence[HydraJob], name: str) -> Instance:
        tick = self.tick_seconds
        zero = min(job.submit for job in jobs)
        due = seconds_between(zero, [job.due for job in jobs])
        has_due = np.isfinite(due)
        counts = list(self.agents.values())
        columns = {
            "duration": duration_to_ticks([job.seconds for job in jobs], tick),
            "demand": [[[1]] * len(counts)] * len(jobs),
            "capacity": [[1]] * sum(counts),
            "agent_type": [t for t, count in enumerate(counts) for _ in range(count)],
            "release": time_to_ticks(
                seconds_between(zero, [job.submit for job in jobs]), tick, "release"
            ),
            "due": np.where(
                has_due, time_to_ticks(np.where(has_due, due, 0.0), tick, "due"), NO_DUE
            ),
            "resources": ("gpu",),
            "tick_seconds": tick,
            "name": name,
        }
        return Instance.from_dict(columns)


def read_hydra(path: Path, types: Sequence[str]) -> list[HydraJob]:
    """Return the rows of one CSV file, plain or compressed, with the run times on `types`.

    Raises
    ------
    UserError
        When the file is damaged; the message names the line and the field.
    """
    jobs = []
    for where, row in read_csv(path, ("norm_job_submit_time", "ddl", *types)):
        submit = parse_seconds(row["norm_job_submit_time"], f"{where}, norm_job_submit_time")
        due = math.inf
        if row["ddl"].lower() != "inf":
            due = submit + parse_seconds(row["ddl"], f"{where}, ddl")
        seconds = tuple(parse_seconds(row[name], f"{where}, {name}") for name in types)
        if submit < 0 or due < submit:
            raise UserError(f"{where}: norm_job_submit_time and ddl must not be negative")
        if min(seconds) <= 0:
            column = types[seconds.index(min(seconds))]
            raise UserError(f"{where}, {column}: value {min(seconds):g}: must be positive")
        jobs.append(HydraJob(submit, due, seconds))
    return jobs
