"""Parts of the exact and heuristic solvers of the generalised assignment problem.

The generalised assignment problem (GAP): assign every task to exactly one agent so that the
total cost sum_j w_j p_{j,a(j)} is least and no agent's capacity is exceeded.
"""

from __future__ import annotations

from bench.errors import UserError
from bench.instance import Instance, Ints

MAX_TOTAL_COST = 2**62  # the sum of all costs must stay below the range of 64-bit integers


def pair_costs(instance: Instance) -> Ints:
    """Return the assignment costs w_j p_ja.

    Returns
    -------
    Ints
        Shape (N, M); negative where task j is not eligible on agent a.

    Raises
    ------
    UserError
        If the sum of all costs could leave the range of 64-bit integers.
    """
    weight = int(instance.weight.max())
    duration = int(instance.duration.max())
    largest_total = weight * duration * instance.n_tasks
    if largest_total > MAX_TOTAL_COST:
        raise UserError(
            f"weight, duration: value {weight} * {duration}: the costs of {instance.n_tasks} tasks "
            "must fit 64-bit integers together; divide the costs by a common factor"
        )
    return (instance.weight[:, None] * instance.duration)[:, instance.agent_type]
