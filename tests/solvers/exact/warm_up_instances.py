"""Instances of all kinds of arrays: sizes of 1, quotas, outages, due dates, ineligible pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.instance import Instance
from tests.solvers.brute_force import random_small_instance


def instances(sharing: str) -> Iterator[Instance]:
    """Yield a few small instances of a sharing."""
    for seed in range(6):
        yield random_small_instance(np.random.default_rng([16, seed]), sharing)
    rng = np.random.default_rng(0)
    for n, m, resources, tenants in [(8, 1, 1, 0), (8, 3, 2, 2), (1, 3, 1, 0), (8, 3, 1, 0)]:
        parts = {}
        if tenants:
            quota = np.full((tenants, resources), 40 if sharing == "budget" else 6)
            parts = {"tenant": rng.integers(0, tenants, n), "quota": quota}
        if sharing == "time":
            parts |= {"release": rng.integers(0, 9, n), "outages": [(0, 3, 5, True)]}
            parts |= {"due": parts["release"] + 10}
        yield Instance(
            duration=rng.integers(1, 20, (n, m)),
            demand=rng.integers(1, 4, (n, m, resources)),
            capacity=np.full((m, resources), 24 if sharing == "budget" and m == 1 else 8),
            agent_type=np.arange(m),
            weight=rng.integers(0, 4, n),
            sharing=sharing,
            **parts,
        )
