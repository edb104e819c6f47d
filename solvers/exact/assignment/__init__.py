"""Parts of the exact and heuristic solvers of the generalised assignment problem.

The generalised assignment problem (GAP): assign every task to exactly one agent so that the
total cost sum_j w_j p_{j,a(j)} is least and no agent's capacity is exceeded.
"""

from __future__ import annotations

from bench.instance import Instance, Ints


def pair_costs(instance: Instance) -> Ints:
    """Return the assignment costs w_j p_ja.

    Returns
    -------
    Ints
        Shape (N, M); negative where task j is not eligible on agent a. The sum of the largest ones
        of all tasks is below `bench.limits.MAX_OBJECTIVE`.
    """
    return (instance.weight[:, None] * instance.duration)[:, instance.agent_type]
