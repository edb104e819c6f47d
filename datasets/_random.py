"""The generator behind every drawn instance."""

from __future__ import annotations

import numpy as np

from bench.contracts import SPLITS


def generator(split: str, i: int, seed: int) -> np.random.Generator:
    """A generator for instance i of `split`, so that each instance depends on (split, i, seed) alone."""
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([SPLITS.index(split), i, seed]))
    )
