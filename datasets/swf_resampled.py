"""Batch workloads drawn from part of a trace: a moving-block bootstrap (Kuensch 1989, doi:10.1214/aos/1176347265).

A sequence is put together from blocks of consecutive jobs, each starting anywhere in the part that it is fitted to. Within a
block the gaps between arrivals, run times and processors keep their order, so bursts and their likeness stay; between blocks
they are independent. Run times, and requested times with them, are stretched by a factor of their own per job, so that no job
is seen twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench.errors import UserError
from bench.instance import Instance
from datasets._random import generator
from datasets.swf import Job, Swf, on_pools


class SwfResampled:
    """Sequences of `jobs[split]` jobs drawn from jobs `fitted[0]` to `fitted[1]` (not included) of `trace`, as many as `sizes`.

    The first job of a sequence arrives when a job of the trace did, drawn at random. `block`: jobs in a block. `stretch` e:
    run times are multiplied by a factor between 1 / (1 + e) and 1 + e (log-uniform). Same seed, split and index, same sequence.

    Raises:
        UserError: for a part of the trace that does not exist or is shorter than a block.
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
        self.name, self.source, self.fitted, self.jobs, self.sizes = (
            name,
            trace,
            tuple(fitted),
            dict(jobs),
            dict(sizes),
        )
        self.block, self.stretch, self.seed, self.hashes = block, stretch, seed, dict(hashes or {})

    def instances(self, split: str) -> Iterator[Instance]:
        """Lazily; instance i depends on (split, i, seed) alone."""
        jobs, processors = self.source.trace()
        first, last = self.fitted
        if not 0 <= first < last <= len(jobs) or last - first <= self.block:
            raise UserError(
                f"dataset.fitted: {list(self.fitted)} must lie within the trace's {len(jobs)} jobs and hold more than a block "
                f"of {self.block}"
            )
        table = np.array(jobs[first:last], dtype=np.int64)
        for i in range(self.sizes[split]):
            rows = self._draw(table, self.jobs[split], generator(split, i, self.seed))
            yield on_pools(rows, processors, self.source.agents, f"{self.name}-{split}-{i}")

    def _draw(self, table: Any, count: int, rng: np.random.Generator) -> list[Job]:
        """`count` jobs from the rows of `table` (submit, run, processors, requested)."""
        gaps = np.diff(table[:, 0], prepend=table[0, 0])
        starts = 1 + (rng.random(-(-count // self.block)) * (len(table) - self.block)).astype(
            np.int64
        )
        rows = (starts[:, None] + np.arange(self.block)).ravel()[:count]
        submit = table[int(rng.random() * len(table)), 0] + np.cumsum(gaps[rows]) - gaps[rows[0]]
        factor = (1.0 + self.stretch) ** (2.0 * rng.random(count) - 1.0)
        run, requested = (
            np.maximum(1, np.rint(table[rows, column] * factor)).astype(np.int64)
            for column in (1, 3)
        )
        columns = (submit, run, table[rows, 2], requested)
        return [Job(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
