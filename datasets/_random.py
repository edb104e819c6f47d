"""The random-number generator of drawn instances."""

from __future__ import annotations

import numpy as np

from bench.contracts import SPLITS


def instance_generator(split: str, i: int, seed: int) -> np.random.Generator:
    """Return the generator of instance i of `split`, which depends on (split, i, seed) alone."""
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([SPLITS.index(split), i, seed]))
    )
