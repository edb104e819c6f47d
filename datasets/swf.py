"""Batch traces in the Standard Workload Format (Feitelson).

Source: https://www.cs.huji.ac.il/labs/parallel/workload/swf.html. One line per job, 18 fields; -1 =
unknown. Read are: 1 job number, 2 submit time, 4 run time, 5 allocated processors, 8 requested
processors, 9 requested time, 11 status (0 failed, 1 completed, 5 cancelled; 2, 3, 4: one execution
of a job that was swapped out, which has a summary line too) and 17 the preceding job. Times are in
seconds and may have fractions. Lines that begin with `;` are comments; one of them can be
`; MaxProcs: n`.

Not used: 3 wait time and 12 to 16, which belong to the system that made the trace, 6 CPU time, 7
and 10 memory (the only resource is processors), and 18 think time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.contracts import Dataset
from bench.errors import UserError
from bench.instance import Instance
from bench.ticks import duration_to_ticks, time_to_ticks
from datasets._files import find_file, other_files, split_windows
from datasets._reading import Reading
from datasets._tables import parse_seconds, read_lines

FIELDS = 18
BURSTS = (2, 3, 4)  # status of one execution of a job that was swapped out
CANCELLED = 5  # status
TICK_SECONDS = 1.0
REQUIRED = (
    "a trace in the Standard Workload Format, e.g. from "
    "https://www.cs.huji.ac.il/labs/parallel/workload/logs.html"
)


class SwfJob(NamedTuple):
    """One job of the trace; times in seconds, rounded up."""

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
        for option, value in (("agents", agents), ("processors", processors)):
            if value is not None and value < 1:
                raise UserError(f"dataset.{option}: value {value}: must be at least 1")
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
            file = find_file(self.path, self.downloads, REQUIRED, "*.swf", self.download_base)
            self._trace = read_swf(file, self.processors, other_files(self.path, [file]))
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
        tick_seconds=TICK_SECONDS,
        name=name,
    )


def read_swf(
    path: Path, processors: int | None = None, other_names: Sequence[str] = ()
) -> tuple[list[SwfJob], int]:
    """Return the jobs by submit time, and the number of processors of one pool.

    The number is `processors`, else MaxProcs of the file, else MaxNodes. Left out are executions of
    swapped-out jobs (their summary lines hold the whole job), lines that stand twice, and jobs
    without submit time, run time or processors or with more processors than the pool has; the log
    counts them.

    Raises
    ------
    UserError
        When the file is damaged, states no number of processors, or has no valid job.
    """
    lines = list(read_lines(path))
    header = [line for _, line in lines if line.lstrip()[0] == ";"]
    size = processors or _stated(path, header, "MaxProcs") or _stated(path, header, "MaxNodes")
    if size is None:
        raise UserError(
            f"dataset.processors: value {processors}: {path} has no `; MaxProcs:` line; "
            "set the number of processors"
        )
    rows = [_Row.of(where, line) for where, line in lines if line.lstrip()[0] != ";"]
    reading = Reading(path, "lines", "processor time")
    kept = _used_rows(rows, size, reading)
    if not kept:
        raise UserError(
            f"{path}: none of {len(rows)} rows is a job that {size} processors can run; "
            f"check the file and dataset.processors ({reading.line})"
        )
    in_order = sorted(kept, key=lambda row: row.submit)
    if in_order != kept:
        reading.note("sorted by submit time")
    if followers := sum(row.preceding > 0 for row in kept):
        reading.note(f"{followers:,} jobs name a preceding job, which they do not wait for here")
    reading.ignore_files(other_names)
    reading.finish()
    return _jobs(in_order), size


class _Row(NamedTuple):
    """The fields of one line that are read; -1 = unknown."""

    number: int
    submit: float  # seconds
    run: float  # seconds
    processors: int
    requested: float  # seconds
    status: int
    preceding: int  # number of the job that must end first
    line: str

    @classmethod
    def of(cls, where: str, line: str) -> _Row:
        """Return the fields of a line."""
        fields = line.split()
        if len(fields) != FIELDS:
            raise UserError(
                f"{where}: {len(fields)} fields, expected {FIELDS}; the file may be cut short"
            )

        def field(k: int, integer: bool = False) -> float:
            place = f"{where}, field {k}"
            value = parse_seconds(fields[k - 1], place)
            if (value < 0 and value != -1) or (integer and value != int(value)):
                kind = "an integer" if integer else "a number"
                raise UserError(
                    f"{place}: value {fields[k - 1]}: must be -1 (unknown) or {kind} of at least "
                    "0; correct the file"
                )
            return value

        number, allocated, wanted, status, preceding = (
            int(field(k, integer=True)) for k in (1, 5, 8, 11, 17)
        )
        submit, run, requested = (field(k) for k in (2, 4, 9))
        if status > CANCELLED:
            raise UserError(f"{where}, field 11: value {status}: must be a status from -1 to 5")
        most = wanted if wanted > 0 else allocated
        return cls(number, submit, run, most, requested, status, preceding, " ".join(fields))


def _used_rows(rows: Sequence[_Row], size: int, reading: Reading) -> list[_Row]:
    """Return the rows that are jobs which `size` processors can run, and count the others."""
    summaries = {row.number for row in rows if row.status not in BURSTS}
    seen: set[str] = set()
    used = []
    for row in rows:
        amount = max(row.run, 0) * max(row.processors, 0)
        if row.status in BURSTS and row.number in summaries:
            reading.leave_out("partial executions of jobs with a summary line")
        elif row.line in seen and row.number > 0:
            reading.leave_out("that repeat an earlier line")
        elif reason := _reason(row, size):
            reading.leave_out(reason, amount=amount)
        else:
            reading.use(amount=amount)
            used.append(row)
        seen.add(row.line)
    return used


def _reason(row: _Row, size: int) -> str:
    """Return why a row is no job that `size` processors can run; empty if it is one."""
    if row.status in BURSTS:
        return "partial executions of jobs without a summary line"
    if row.submit < 0:
        return "without submit time"
    if row.run <= 0:
        return "cancelled before they ran" if row.status == CANCELLED else "without run time"
    if row.processors < 1:
        return "without processors"
    return f"with more than {size} processors" if row.processors > size else ""


def _jobs(rows: Sequence[_Row]) -> list[SwfJob]:
    """Return the rows with their times in ticks."""
    run_seconds = np.array([row.run for row in rows])
    requested_seconds = np.array([row.requested for row in rows])
    submit = time_to_ticks([row.submit for row in rows], TICK_SECONDS)
    run = duration_to_ticks(run_seconds, TICK_SECONDS)
    known = requested_seconds > 0
    requested = duration_to_ticks(np.where(known, requested_seconds, run_seconds), TICK_SECONDS)
    columns = (submit.tolist(), run.tolist(), [row.processors for row in rows], requested.tolist())
    return [SwfJob(*job) for job in zip(*columns, strict=True)]


def _stated(path: Path, header: Sequence[str], field: str) -> int | None:
    """Return the positive integer of a header comment `; FIELD: n`; None: there is none.

    Raises
    ------
    UserError
        Where the comment states something else.
    """
    for line in header:
        found = re.match(rf"\s*;\s*{field}\s*:\s*(\S*)(?:\s|$)", line, re.IGNORECASE)
        if not found or found[1] in ("", "-1", "0"):
            continue
        if not found[1].isdecimal():
            raise UserError(
                f"{path}: header {field}: value {found[1]!r}: must be an integer; set "
                "dataset.processors"
            )
        return int(found[1])
    return None
