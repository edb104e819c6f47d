"""The energy bound on the makespan: work released from any tick on must fit the capacity left.

A linear programme distributes every task over the agents (in fractions, as Lawler & Labetoulle,
J. ACM 25, 1978, do for unrelated machines) so that, for each release threshold h, the unit-ticks of
the tasks released from h on fit capacity * (Q - h), where Q is the makespan. GLOP solves it in
floating point. Its duals, rounded to integers, prove a bound exactly, whatever their error: see
`energy_duals` in `solvers.exact.bounds`.
"""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import numpy as np
from ortools.linear_solver import pywraplp

from bench.instance import Instance, Ints
from bench.left_shift import fits_alone
from solvers.exact.agent_pools import agent_pools, pool_of_agent

MAX_THRESHOLDS = 24  # releases that are thresholds, evenly chosen by rank
SCALE = 10**9  # duals are counted in 1 / SCALE
# Without so many seconds for the terms of the LP, not even building it would end in time.
TERMS_PER_SECOND = 100_000

Shares = dict[tuple[int, int], pywraplp.Variable]  # (task, pool) -> share of the task


def energy_bound(instance: Instance, seconds: float) -> tuple[Fraction, dict[str, Any]]:
    """Return a lower bound on the makespan and its proof.

    Where building and solving the LP exceeds `seconds`, it is the bound of zero duals, which is 0.
    """
    model = EnergyModel(instance)
    capacity_duals, quota_duals, task_duals = model.duals(seconds)
    proof = {
        "kind": "energy_duals",
        "thresholds": model.thresholds.tolist(),
        "prices": capacity_duals[pool_of_agent(model.pools)].tolist(),
        "quota_prices": None if instance.quota is None else quota_duals.tolist(),
        "task_duals": task_duals.tolist(),
    }
    return model.value(capacity_duals, quota_duals, task_duals), proof


class EnergyModel:
    """min Q subject to the work after each threshold and to the duration of each task.

    The work of each threshold is limited per pool, per tenant and per resource.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.pools = agent_pools(instance)
        releases = np.unique(instance.release)
        count = min(MAX_THRESHOLDS, len(releases))
        chosen = np.unique(np.linspace(0, len(releases) - 1, count).round().astype(int))
        self.thresholds = releases[chosen]  # (H,)
        first = [pool.agents[0] for pool in self.pools]
        alone = np.array([fits_alone(instance, j) for j in range(instance.n_tasks)])
        self.alone = alone[:, first]  # (N, G)
        self.duration = instance.duration[:, instance.agent_type[first]]  # (N, G)
        self.demand = instance.demand[:, instance.agent_type[first]]  # (N, G, R)
        sizes = np.array([[len(pool.agents)] for pool in self.pools])
        self.capacity = instance.capacity[first] * sizes  # (G, R)
        no_quota = np.zeros((0, instance.n_resources), dtype=np.int64)
        self.quota = no_quota if instance.quota is None else instance.quota  # (U, R)

    def duals(self, seconds: float) -> tuple[Ints, Ints, Ints]:
        """Return duals >= 0 in units of 1 / SCALE, rounded.

        They belong to the capacities (G, R, H), the quotas (U, R, H) and the tasks (N,).
        """
        deadline = time.perf_counter() + seconds
        capacity_duals = np.zeros((*self.capacity.shape, len(self.thresholds)), dtype=np.int64)
        quota_duals = np.zeros((*self.quota.shape, len(self.thresholds)), dtype=np.int64)
        task_duals = np.zeros(self.instance.n_tasks, dtype=np.int64)
        if self.alone.sum() * len(self.thresholds) * self._rows() > TERMS_PER_SECOND * seconds:
            return capacity_duals, quota_duals, task_duals
        solver = pywraplp.Solver.CreateSolver("GLOP")
        makespan = solver.NumVar(0, solver.infinity(), "Q")
        share = {(int(j), int(g)): solver.NumVar(0, 1, "") for j, g in np.argwhere(self.alone)}
        of_task: list[Shares] = [{} for _ in task_duals]
        for (j, g), x in share.items():
            of_task[j][j, g] = x
        for own in of_task:
            solver.Add(sum(own.values()) == 1)
        durations = [
            solver.Add(
                makespan - sum(int(self.duration[pair]) * x for pair, x in own.items())
                >= int(self.instance.release[j])
            )
            for j, own in enumerate(of_task)
        ]
        limits = self._limit_work(solver, makespan, share)
        solver.Minimize(makespan)
        left = deadline - time.perf_counter()
        solver.set_time_limit(max(1, int(1000 * left)))
        if left > 0 and solver.Solve() == pywraplp.Solver.OPTIMAL:
            for (owner, *index), constraint in limits.items():
                table = capacity_duals if owner == "agent" else quota_duals
                table[tuple(index)] = _rounded(constraint.dual_value())
            task_duals[:] = [_rounded(constraint.dual_value()) for constraint in durations]
        return capacity_duals, quota_duals, task_duals

    def _rows(self) -> int:
        """Return how many limits on the work count one share at one threshold."""
        return self.instance.n_resources * (1 if self.instance.quota is None else 2)

    def _limit_work(
        self, solver: pywraplp.Solver, makespan: pywraplp.Variable, share: Shares
    ) -> dict[tuple[str, int, int, int], pywraplp.Constraint]:
        """Add the limits on the work; keys: ("agent", pool, r, h) and ("tenant", tenant, r, h)."""
        release = self.instance.release
        tenant = self.instance.tenant
        limits: dict[tuple[str, int, int, int], pywraplp.Constraint] = {}
        for h, threshold in enumerate(self.thresholds.tolist()):
            of_pool: list[Shares] = [{} for _ in self.pools]
            of_tenant: list[Shares] = [{} for _ in self.quota]
            for (j, g), x in share.items():
                if release[j] >= threshold:
                    of_pool[g][j, g] = x
                    if tenant is not None and len(self.quota):
                        of_tenant[tenant[j]][j, g] = x
            for r in range(self.instance.n_resources):
                for g, units in enumerate(self.capacity[:, r].tolist()):
                    row = self._limit(solver, makespan, of_pool[g], r, units, threshold)
                    limits["agent", g, r, h] = row
                for u, units in enumerate(self.quota[:, r].tolist()):
                    row = self._limit(solver, makespan, of_tenant[u], r, units, threshold)
                    limits["tenant", u, r, h] = row
        return limits

    def _limit(
        self,
        solver: pywraplp.Solver,
        makespan: pywraplp.Variable,
        share: Shares,
        resource: int,
        units: int,
        threshold: int,
    ) -> pywraplp.Constraint:
        """Make the work of these shares fit `units` of a resource from `threshold` to the end."""
        work = sum(
            int(self.demand[j, g, resource]) * int(self.duration[j, g]) * x
            for (j, g), x in share.items()
        )
        return solver.Add(units * makespan - work >= units * threshold)

    def value(self, capacity_duals: Ints, quota_duals: Ints, task_duals: Ints) -> Fraction:
        """Return the bound that the duals prove, whatever their values >= 0."""
        ticks = self.thresholds.astype(object)
        capacity = self.capacity[:, :, None].astype(object)
        quota = self.quota[:, :, None].astype(object)
        weight = (capacity_duals * capacity).sum(axis=(0, 1))  # (H,) of Q - h
        weight = weight + (quota_duals * quota).sum(axis=(0, 1))
        norm = int(weight.sum()) + int(task_duals.sum())
        total = int((weight * ticks).sum())
        for j in range(self.instance.n_tasks):
            early = self.thresholds <= self.instance.release[j]
            rate = capacity_duals[:, :, early].astype(object).sum(axis=2)  # (G, R)
            if self.instance.tenant is not None and len(self.quota):
                own = quota_duals[self.instance.tenant[j]]
                rate = rate + own[:, early].astype(object).sum(axis=1)
            per_tick = int(task_duals[j]) + (rate * self.demand[j]).sum(axis=1)
            work = self.duration[j] * per_tick
            total += int(task_duals[j]) * int(self.instance.release[j])
            total += int(min(work[self.alone[j]]))
        return Fraction(total, norm) if norm else Fraction(0)


def _rounded(dual: float) -> int:
    return max(0, round(SCALE * dual))
