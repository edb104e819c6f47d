"""The named lower bounds of a `time` sharing instance and objective, each with a proof that anyone can check.

`proof` is ready for JSON. What a checker needs of each kind besides the instance (all numbers are integers); where every
schedule costs a whole number, the bound is rounded up:

* `trivial`: every task alone on its fastest agent; for the makespan also all work against all capacity.
* `capacity_prices`: `scale` S, `grid` (K + 1 ticks), `prices` (M x R x K) and `quota_prices` (U x R x K) or null, all >= 0
  per unit and tick, 0 outside the grid. S times the bound is the sum over j of the least, over agents a that can run j and
  starts t >= r_j at which no outage of a meets [t, t + p_ja), of S * term_j(t + p_ja) + the rent of j's demand over
  [t, t + p_ja), less the rent of all capacity while it is there, less that of all quotas.
* `packing_prices`: the same with `pool` (M) of each agent and `rents` (N x pools x K) >= 0 per tick, which j pays on top while
  it runs on an agent of the pool. What agents earn of them is taken off too: for each agent a and interval, the ticks at which
  a is there times the most that any set of tasks which can run on a, are released before the interval ends and together fit
  its capacity pays per tick (a 0/1 knapsack). A larger value is as good as long as the bound still comes out: ours lets the
  demands and capacities of two resources be counted in whole steps, rounded down, and ignores the others
  (`solvers.exact.bounds.packing`).
* `assignment_duals` (total_time): `task_duals` u (N), `column_duals` [agent a, position from the end k, v <= 0], at most as
  many entries of one (a, k) as a has slots (the largest s whose s smallest demands, of the tasks that a can run, fit, resource
  by resource), with u_j + v_ak <= k * p_ja for every a that can run j and k >= 1 (v is 0 if not listed). Then
  sum_j (C_j - min r) >= sum u + sum v = D, and the bound is
  sum_j (w_j - min w) * min_a p_ja + min w * (D + sum_j (min r - r_j)).
* `energy_duals` (makespan): `thresholds` (H ticks), `prices` y (M x R x H), `quota_prices` q (U x R x H) or null and
  `task_duals` z (N), all >= 0. The makespan Q satisfies capacity_ar * (Q - h) >= the unit-ticks on a of the tasks with
  r_j >= h (0 if there are none), likewise quotas, and Q >= r_j + p_j. Weighted by y, q and z these add up to
  (sum y * capacity + sum q * quota + sum z) * Q >= sum y * capacity * h + sum q * quota * h + sum_j (z_j * r_j + min over
  the agents a that can run j of p_ja * (z_j + sum over resources r and h <= r_j of demand_jr * (y_arh + q_urh))).
  The quotient is the bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from bench.instance import Instance
from bench.metrics import trivial_bound
from bench.schedule import Schedule
from solvers.exact.bounds.assignment import assignment
from solvers.exact.bounds.energy import energy
from solvers.exact.bounds.time_indexed import TimeIndexed
from solvers.exact.objective_terms import Terms, completion
from solvers.exact.schedule_model import Windows

PRICED_SHARE = 0.3  # of the time for prices of capacity alone, at most; the rest is for packing


@dataclass(frozen=True)
class Bound:
    """A proved lower bound on an objective."""

    name: str  # trivial | assignment | energy | time_indexed | packing
    value: Fraction
    proof: dict[str, Any]


@dataclass(frozen=True)
class Root:
    """What the relaxations say of an instance."""

    bounds: tuple[Bound, ...]
    windows: Windows | None = (
        None  # the starts that a schedule no worse than the incumbent can have
    )
    schedule: Schedule | None = None  # a schedule that a relaxation came with

    @property
    def best(self) -> Bound:
        """The highest bound, the simplest in a tie."""
        return max(self.bounds, key=lambda bound: bound.value)


def trivial(instance: Instance, terms: Terms) -> Bound:
    """The objective with every task alone on its fastest agent; for makespan also the work there is against the capacity."""
    alone = terms.value(instance.release + instance.shortest())
    value = max(alone, Fraction(trivial_bound(instance, "makespan"))) if terms.worst else alone
    return Bound("trivial", value, {"kind": "trivial"})


def quick(
    instance: Instance,
    terms: Terms,
    objective: str,
    proved: Callable[[Bound], None] = lambda bound: None,
) -> Root:
    """The bounds that take no search, `trivial` and `assignment`; `proved` hears of each."""
    bounds, schedule = [trivial(instance, terms)], None
    if objective == "total_time" and (matched := assignment(instance)) is not None:
        value, proof, schedule = matched
        bounds.append(_bound(terms, "assignment", value, proof))
    for bound in bounds:
        proved(bound)
    return Root(tuple(bounds), None, schedule)


def root(
    instance: Instance,
    terms: Terms,
    objective: str,
    incumbent: Schedule,
    seconds: float,
    proved: Callable[[Bound], None] = lambda bound: None,
    known: Root | None = None,
) -> Root:
    """Every bound that fits the objective, `known` ones (by default the quick ones) included, within about `seconds`.

    `proved` hears of each new one.
    """
    deadline = time.perf_counter() + seconds
    known = quick(instance, terms, objective, proved) if known is None else known
    schedules = [one for one in (incumbent, known.schedule) if one is not None]
    best, bounds, windows = (
        min(terms.value(completion(one)) for one in schedules),
        list(known.bounds),
        None,
    )

    def add(name: str, value: Fraction, proof: dict[str, Any]) -> None:
        bounds.append(_bound(terms, name, value, proof))
        proved(bounds[-1])

    if objective == "makespan":
        add("energy", *energy(instance, seconds))
    elif max(bound.value for bound in bounds) < best:
        relaxation = TimeIndexed(instance, terms, int(incumbent.end.max()))
        share = PRICED_SHARE if relaxation.packs else 1.0
        prices = relaxation.priced(float(best), share * (deadline - time.perf_counter()))
        priced = relaxation.prove(prices)
        add("time_indexed", priced.value, priced.proof())
        if relaxation.packs and bounds[-1].value < best:
            packed = relaxation.prove(
                relaxation.packed(prices, float(best), deadline - time.perf_counter())
            )
            add("packing", packed.value, packed.proof())
            priced = max(priced, packed, key=lambda bound: bound.value)
        windows = relaxation.windows(priced, best)
    return Root(tuple(bounds), windows, known.schedule)


def _bound(terms: Terms, name: str, value: Fraction, proof: dict[str, Any]) -> Bound:
    """A bound, rounded up where every schedule costs a whole number."""
    return Bound(name, Fraction(ceil(value)) if terms.whole else value, proof)
