"""The energy bound on the makespan: the work released from any tick on must fit the capacity left until the end.

A linear programme shares every task among the agents (fractions, as Lawler & Labetoulle 1978 do for unrelated machines) so that
for each release threshold h the unit-ticks of the tasks released from h on fit capacity * (Q - h). GLOP solves it in floating
point; its duals, rounded to integers, prove a bound exactly whatever their error (`solvers.exact.bounds` says how to check it).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from ortools.linear_solver import pywraplp

from bench.instance import Instance, Ints
from bench.left_shift import fits_alone
from solvers.exact.bounds.packing import Pool, same_agents

THRESHOLDS = 24  # at most this many releases are thresholds, evenly chosen by rank
SCALE = 10**9  # duals are counted in 1 / SCALE


def energy(instance: Instance, seconds: float) -> tuple[Fraction, dict[str, Any]]:
    """A lower bound on the makespan and its proof; the bound of zero duals, which is 0, where GLOP runs out of `seconds`."""
    model = EnergyModel(instance)
    prices, quota_prices, tasks = model.duals(seconds)
    row = np.empty(instance.n_agents, dtype=np.int64)
    for g, pool in enumerate(model.pools):
        row[list(pool.agents)] = g
    proof = {
        "kind": "energy_duals",
        "thresholds": model.thresholds.tolist(),
        "prices": prices[row].tolist(),
        "quota_prices": None if instance.quota is None else quota_prices.tolist(),
        "task_duals": tasks.tolist(),
    }
    return model.value(prices, quota_prices, tasks), proof


class EnergyModel:
    """min Q subject to the work of each threshold on each pool, resource and tenant, and to each task's own length."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.pools: tuple[Pool, ...] = same_agents(instance)
        releases = np.unique(instance.release)
        chosen = np.unique(
            np.linspace(0, len(releases) - 1, min(THRESHOLDS, len(releases))).round().astype(int)
        )
        self.thresholds = releases[chosen]  # (H,)
        first = [pool.agents[0] for pool in self.pools]
        self.alone = np.array([fits_alone(instance, j) for j in range(instance.n_tasks)])[
            :, first
        ]  # (N, G)
        self.duration = instance.duration[:, instance.agent_type[first]]  # (N, G)
        self.demand = instance.demand[:, instance.agent_type[first]]  # (N, G, R)
        self.capacity = instance.capacity[first] * np.array(
            [[len(pool.agents)] for pool in self.pools]
        )  # (G, R)
        self.quota = (
            np.zeros((0, instance.n_resources), dtype=np.int64)
            if instance.quota is None
            else instance.quota
        )  # (U, R)

    def duals(self, seconds: float) -> tuple[Ints, Ints, Ints]:
        """Scaled duals >= 0 of the capacities (G, R, H), the quotas (U, R, H) and the tasks (N,), rounded."""
        solver = pywraplp.Solver.CreateSolver("GLOP")
        solver.set_time_limit(max(1, int(1000 * seconds)))
        makespan = solver.NumVar(0, solver.infinity(), "Q")
        share = {(int(j), int(g)): solver.NumVar(0, 1, "") for j, g in np.argwhere(self.alone)}
        for j in range(self.instance.n_tasks):
            solver.Add(sum(x for (i, _), x in share.items() if i == j) == 1)
        length = [
            solver.Add(
                makespan
                - sum(int(self.duration[j, g]) * x for (i, g), x in share.items() if i == j)
                >= int(self.instance.release[j])
            )
            for j in range(self.instance.n_tasks)
        ]
        rows: dict[tuple[str, int, int, int], pywraplp.Constraint] = {}
        for h, threshold in enumerate(self.thresholds.tolist()):
            late = {
                (j, g): x for (j, g), x in share.items() if self.instance.release[j] >= threshold
            }
            for r in range(self.instance.n_resources):
                for g, units in enumerate(self.capacity[:, r].tolist()):
                    own = {pair: x for pair, x in late.items() if pair[1] == g}
                    rows["agent", g, r, h] = self._fits(solver, makespan, own, r, units, threshold)
                for u, units in enumerate(self.quota[:, r].tolist()):
                    own = {
                        pair: x for pair, x in late.items() if self.instance.tenant[pair[0]] == u
                    }  # type: ignore[index]
                    rows["tenant", u, r, h] = self._fits(solver, makespan, own, r, units, threshold)
        solver.Minimize(makespan)
        prices = np.zeros((*self.capacity.shape, len(self.thresholds)), dtype=np.int64)
        quota_prices = np.zeros((*self.quota.shape, len(self.thresholds)), dtype=np.int64)
        tasks = np.zeros(self.instance.n_tasks, dtype=np.int64)
        if solver.Solve() == pywraplp.Solver.OPTIMAL:
            for (owner, *index), row in rows.items():
                (prices if owner == "agent" else quota_prices)[tuple(index)] = _whole(
                    row.dual_value()
                )
            tasks[:] = [_whole(row.dual_value()) for row in length]
        return prices, quota_prices, tasks

    def _fits(
        self,
        solver: pywraplp.Solver,
        makespan: pywraplp.Variable,
        share: dict[tuple[int, int], pywraplp.Variable],
        resource: int,
        units: int,
        threshold: int,
    ) -> pywraplp.Constraint:
        """The work of these shares fits `units` of a resource from `threshold` to the makespan."""
        work = sum(
            int(self.demand[j, g, resource] * self.duration[j, g]) * x
            for (j, g), x in share.items()
        )
        return solver.Add(units * makespan - work >= units * threshold)

    def value(self, prices: Ints, quota_prices: Ints, tasks: Ints) -> Fraction:
        """The bound that the duals prove, whatever they are."""
        ticks = self.thresholds.astype(object)
        held = (prices * self.capacity[:, :, None].astype(object)).sum(axis=(0, 1))  # (H,)
        held = held + (quota_prices * self.quota[:, :, None].astype(object)).sum(axis=(0, 1))
        norm = int(held.sum()) + int(tasks.sum())
        total = int((held * ticks).sum())
        for j in range(self.instance.n_tasks):
            early = self.thresholds <= self.instance.release[j]
            rate = prices[:, :, early].astype(object).sum(axis=2)  # (G, R)
            if self.instance.tenant is not None and len(self.quota):
                rate = rate + quota_prices[self.instance.tenant[j]][:, early].astype(object).sum(
                    axis=1
                )
            each = self.duration[j] * (int(tasks[j]) + (rate * self.demand[j]).sum(axis=1))
            total += int(tasks[j]) * int(self.instance.release[j]) + int(min(each[self.alone[j]]))
        return Fraction(total, norm) if norm else Fraction(0)


def _whole(dual: float) -> int:
    return max(0, round(SCALE * dual))
