"""Gaps of stored objectives to the bounds that are shipped now, and which bounds these are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.analysis import stats
from bench.files import file_hash
from bench.instance import read_json
from bench.references import SHIPPED, shipped_file, shipped_reference


class Source(NamedTuple):
    """A shipped file that references are from."""

    file: str
    facts: str  # its date and hash, and the share of proven optima


def shipped_gaps(
    objectives: Sequence[float | None], hashes: Sequence[str], objective: str
) -> NDArray[np.float64]:
    """Return (I,) the gaps of minimised objectives to the bounds that are shipped now.

    A gap is NaN where the objective is missing or the instance has no shipped bound.
    """
    bounds = [shipped_reference(digest, objective).bound for digest in hashes]
    return stats.gap(np.array(objectives, dtype=float), bounds)


def shipped_source(hashes: Sequence[str], objective: str) -> Source:
    """Return which shipped file holds the references of the instances of one data set."""
    file = SHIPPED / shipped_file(hashes[0])
    digest = file_hash(file)
    proved = np.mean([shipped_reference(one, objective).proved for one in hashes])
    facts = f"{read_json(file)['date']}, SHA-256 {digest[:16]}, {proved:.0%} proven optima"
    return Source(file.name, facts)
