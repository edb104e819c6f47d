"""The generalised assignment problem: what the exact solver `lagrangian` and the local search are made of."""

from __future__ import annotations

from bench.errors import UserError
from bench.instance import Instance, Ints

LARGEST = 2**62  # what all costs together may reach in 64-bit integers


def pair_costs(instance: Instance) -> Ints:
    """(N, M) w_j p_ja, negative where j is not eligible on a.

    Raises:
        UserError: where the total could leave 64-bit integers.
    """
    if int(instance.weight.max()) * int(instance.duration.max()) * instance.n_tasks > LARGEST:
        raise UserError(
            "weight, duration: all costs together leave 64-bit integers; divide the costs by a common factor"
        )
    return (instance.weight[:, None] * instance.duration)[:, instance.agent_type]
