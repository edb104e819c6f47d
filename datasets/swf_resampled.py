"""Batch workloads drawn from a part of a trace by a moving-block bootstrap.

Method: Kuensch 1989, doi:10.1214/aos/1176347265. A sequence is the concatenation of blocks of
consecutive jobs, each of which starts at a random job of the part. Within a block the gaps between
arrivals, the run times and the processors keep their order, so bursts and the similarity of
neighbouring jobs are kept; different blocks are independent. The run time of each job, and its
requested time with it, is multiplied by a random factor, so that no job occurs twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bench.contracts import Dataset
from bench.errors import UserError
from bench.instance import Instance, Ints
from datasets._random import instance_generator
from datasets.swf import Swf, SwfJob, on_pools


class SwfResampled(Dataset):
    """Sequences of jobs resampled from the jobs [fitted[0], fitted[1]) of a trace.

    The first job of a sequence arrives when a job of the trace did, drawn at random. Same seed,
    split and index: same sequence.

    Parameters
    ----------
    trace
        The dataset that reads the trace.
    fitted
        First job of the part, and the job after its last one.
    jobs
        Split -> number of jobs of each sequence.
    sizes
        Split -> number of sequences.
    block
        Number of jobs of a block.
    stretch
        e: run times are multiplied by a factor between 1 / (1 + e) and 1 + e, log-uniform.

    Raises
    ------
    UserError
        When the part lies outside of the trace or is shorter than a block.
    """

    def __init__(
        self,
        name: str,
        trace: Swf,
        fitted: Sequence[int],
        jobs: Mapping[str, int],
        sizes: Mapping[str, int],
        block: int = 32,
        stretch: float = 0.25,
        seed: int = 0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.source = trace
        self.fitted = tuple(fitted)
        self.jobs = dict(jobs)
        self.sizes = dict(sizes)
        self.block = block
        self.stretch = stretch
        self.seed = seed
        self.hashes = dict(hashes or {})

    def instances(self, split: str) -> Iterator[Instance]:
        """Draw the instances of the split lazily; instance i depends on (split, i, seed) alone."""
        jobs, processors = self.source.trace()
        first, last = self.fitted
        if not 0 <= first < last <= len(jobs) or last - first <= self.block:
            raise UserError(
                f"dataset.fitted: value {list(self.fitted)}: must lie within the {len(jobs)} jobs "
                f"of the trace and hold more than a block of {self.block}; change fitted or block"
            )
        table = np.array(jobs[first:last], dtype=np.int64)
        for i in range(self.sizes[split]):
            rows = self._draw(table, self.jobs[split], instance_generator(split, i, self.seed))
            yield on_pools(rows, processors, self.source.agents, f"{self.name}-{split}-{i}")

    def _draw(self, table: Ints, count: int, rng: np.random.Generator) -> list[SwfJob]:
        """Draw `count` jobs from the rows of `table`, (jobs, 4) with the fields of `SwfJob`."""
        gaps = np.diff(table[:, 0], prepend=table[0, 0])
        blocks = -(-count // self.block)  # rounded up
        starts = 1 + (rng.random(blocks) * (len(table) - self.block)).astype(np.int64)
        rows = (starts[:, None] + np.arange(self.block)).ravel()[:count]
        submit = table[int(rng.random() * len(table)), 0] + np.cumsum(gaps[rows]) - gaps[rows[0]]
        factor = (1.0 + self.stretch) ** (2.0 * rng.random(count) - 1.0)
        run, requested = (
            np.maximum(1, np.rint(table[rows, column] * factor)).astype(np.int64)
            for column in (1, 3)
        )
        columns = (submit, run, table[rows, 2], requested)
        return [SwfJob(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
