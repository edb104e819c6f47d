"""The named lower bounds of a `time` sharing instance and objective, each with a checkable proof.

A proof is ready for JSON. Below is what a checker needs of each `kind` besides the instance. All
numbers in a proof are integers. Where the objective of every schedule is an integer, the bound is
rounded up. Sizes: N tasks j, M agents a, R resources r, U tenants u, K intervals of a grid of
ticks, H thresholds h. A checker is `bench.verify`.

`trivial`
    Every task alone on its fastest agent; for the makespan also all work against all capacity.

`capacity_prices`
    `scale` S, `grid` (K + 1 ticks), `prices` (M x R x K) and `quota_prices` (U x R x K) or null:
    multipliers >= 0 per unit and tick, 0 outside the grid. S times the bound is

    * the sum over j of the least, over agents a that can run j and starts t >= r_j at which no
      outage of a meets [t, t + p_ja), of S * term_j(t + p_ja) + the multipliers of j's demand,
      summed over [t, t + p_ja),
    * less the multipliers of all capacity, summed over the ticks at which its agent is available,
    * less the multipliers of all quotas, summed over all ticks.

`packing_prices`
    The same with `pool` (M), the pool of each agent, and `rents` (N x pools x K) >= 0 per tick,
    which are added to the cost of j at every tick at which it runs on an agent of the pool. Also
    subtracted is, for each agent a and interval, the number of ticks at which a is available times
    the largest total of `rents` per tick of any set of tasks which can run on a, are released
    before the interval ends and together fit its capacity (a 0/1 knapsack). A larger value than
    that is as good as long as the bound still comes out: ours counts the demands and capacities of
    two resources in whole steps, rounded down, and ignores the others
    (`solvers.exact.bounds.packing`).

`assignment_duals` (total_time)
    `task_duals` u (N) and `column_duals` [agent a, position from the end k, v <= 0], at most as
    many entries of one (a, k) as a has slots (the largest s whose s smallest demands, of the tasks
    that a can run, fit, resource by resource), with u_j + v_ak <= k * p_ja for every a that can run
    j and k >= 1 (v is 0 if not listed). Then sum_j (C_j - min r) >= sum u + sum v = D, and the
    bound is sum_j (w_j - min w) * min_a p_ja + min w * (D + sum_j (min r - r_j)).

`energy_duals` (makespan)
    `thresholds` (H ticks), `prices` y (M x R x H), `quota_prices` q (U x R x H) or null and
    `task_duals` z (N), all >= 0. The makespan Q satisfies capacity_ar * (Q - h) >= the unit-ticks
    on a of the tasks with r_j >= h (0 if there are none), likewise quotas, and Q >= r_j + p_j.
    Weighted by y, q and z these add up to

    (sum y * capacity + sum q * quota + sum z) * Q >= sum y * capacity * h + sum q * quota * h
    + sum_j (z_j * r_j + min over the agents a that can run j of
    p_ja * (z_j + sum over resources r and h <= r_j of demand_jr * (y_arh + q_urh))).

    The quotient is the bound.
"""

from solvers.exact.bounds.named_bounds import (
    Bound,
    ScheduleRelaxation,
    quick_bounds,
    relaxation_bounds,
    trivial,
)

__all__ = ["Bound", "ScheduleRelaxation", "quick_bounds", "relaxation_bounds", "trivial"]
