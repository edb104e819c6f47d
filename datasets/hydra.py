"""The jobs published with Hydra (Yang et al., TPDS 2023): run times on A100, V100 and GTX 2080 Ti, one GPU each.

https://github.com/dos-lab/Hydra, a CSV: (index), job_name, norm_job_submit_time (s), ddl (s from submission, inf = none), then
one column of run times (s) per type of GPU. In the published experiments the first n jobs are scheduled, all at 0.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.errors import UserError
from bench.instance import LARGEST, Instance
from bench.workload import ticks
from datasets._files import find, number, read_text, windows

NEED = "a job file as CSV with the columns norm_job_submit_time, ddl and one per GPU type (from https://github.com/dos-lab/Hydra)"
NO_DUE = LARGEST  # tick: due dates are all or none in an instance


class Job(NamedTuple):
    """One row, seconds."""

    submit: float
    due: float  # from the same zero as `submit`, inf = none
    seconds: tuple[float, ...]  # per type


class Hydra:
    """The first n jobs of a file on a cluster of single-GPU agents, for each n of `jobs`: the test split.

    `agents`: type, a column of the file -> number of agents. `splits`: where train and validation come from
    (`datasets._files.Windows` over the jobs in the file's order), apart from the first max(jobs). Jobs without a deadline get
    one that never comes; releases are rounded up to ticks like all times.

    Raises:
        UserError: for a file that is missing or damaged, naming the line and field; for windows that do not fit.
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
            raise UserError(f"dataset.agents: {dict(agents)} must give each type at least 1 agent")
        if not jobs or min(jobs) < 1:
            raise UserError(f"dataset.jobs: {list(jobs)} must list numbers of jobs, all at least 1")
        if not tick_seconds > 0:
            raise UserError(f"dataset.tick_seconds: {tick_seconds} must be positive")
        self.name, self.agents, self.jobs, self.path, self.tick_seconds = (
            name,
            dict(agents),
            list(jobs),
            path,
            tick_seconds,
        )
        self.splits = {**splits, "test": {"jobs": max(jobs), "starts": [0]}}
        self.hashes = dict(hashes or {})
        self._jobs: list[Job] | None = None

    def instances(self, split: str) -> Iterator[Instance]:
        """`test`: the first n jobs for each n; others: the split's windows."""
        if self._jobs is None:
            [file, *more] = find(self.path, {}, NEED, "*.csv*")
            if more:
                raise UserError(
                    f"dataset.path: {self.path} holds {1 + len(more)} CSV files; name one of them"
                )
            self._jobs = read_hydra(file, list(self.agents))
        starts, size = windows(self.splits, len(self._jobs))[split]
        if split == "test":
            yield from (self._instance(self._jobs[:n], f"{self.name}-{n}") for n in self.jobs)
            return
        for start in starts:
            yield self._instance(self._jobs[start : start + size], f"{self.name}-{split}-{start}")

    def _instance(self, jobs: Sequence[Job], name: str) -> Instance:
        tick, zero = self.tick_seconds, min(job.submit for job in jobs)
        counts = list(self.agents.values())
        columns = {
            "duration": [[ticks(seconds, tick) for seconds in job.seconds] for job in jobs],
            "demand": [[[1]] * len(counts)] * len(jobs),
            "capacity": [[1]] * sum(counts),
            "agent_type": [t for t, count in enumerate(counts) for _ in range(count)],
            "release": [math.ceil((job.submit - zero) / tick) for job in jobs],
            "due": [
                NO_DUE if math.isinf(job.due) else math.ceil((job.due - zero) / tick)
                for job in jobs
            ],
            "resources": ("gpu",),
            "tick_seconds": tick,
            "name": name,
        }
        return Instance.from_dict(columns)


def read_hydra(path: Path, types: Sequence[str]) -> list[Job]:
    """The rows of one CSV, gzip or plain, with the run times of `types`. Raises UserError naming the line and field."""
    rows = csv.reader(read_text(path).splitlines())
    header = next(rows, [])
    missing = [column for column in ("norm_job_submit_time", "ddl", *types) if column not in header]
    if missing:
        raise UserError(
            f"{path}: line 1: column {missing[0]} is missing; found {', '.join(header) or 'nothing'}"
        )
    jobs = []
    for i, row in enumerate(rows, 2):
        where = f"{path}: line {i}"
        if len(row) != len(header):
            raise UserError(
                f"{where}: {len(row)} fields, expected {len(header)}; the file may be cut short"
            )
        field = dict(zip(header, row, strict=True))
        submit = number(field["norm_job_submit_time"], f"{where}, norm_job_submit_time")
        due = math.inf if field["ddl"] == "inf" else submit + number(field["ddl"], f"{where}, ddl")
        seconds = tuple(number(field[name], f"{where}, {name}") for name in types)
        if submit < 0 or due < submit:
            raise UserError(f"{where}: norm_job_submit_time and ddl must not be negative")
        if min(seconds) <= 0:
            raise UserError(
                f"{where}, {types[seconds.index(min(seconds))]}: {min(seconds):g} must be positive"
            )
        jobs.append(Job(submit, due, seconds))
    return jobs
