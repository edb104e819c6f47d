"""The generalised assignment problem in CP-SAT's terms: variables, constraints (a method a sentence), objective."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from bench.instance import Instance, Ints
from bench.left_shift import fits_alone
from bench.schedule import Schedule
from solvers.exact.assignment import pair_costs
from solvers.exact.schedule_model import Value


class AssignModel:
    """`budget` sharing, the generalised assignment problem: min sum_j w_j p_{j,x_j} within capacities and quotas."""

    scale = 1

    def __init__(
        self, instance: Instance, keep: NDArray[np.bool_] | None = None, bound: int = 0
    ) -> None:
        """`keep`: the pairs (N, M) among which an optimum is known to be, all by default; `bound`: nothing costs less."""
        self.instance = instance
        self.model = cp_model.CpModel()
        self.places = [
            np.flatnonzero(fits_alone(instance, j) if keep is None else keep[j])
            for j in range(instance.n_tasks)
        ]
        self.x = {
            (j, int(a)): self.model.new_bool_var(f"x[{j},{a}]")
            for j, own in enumerate(self.places)
            for a in own
        }
        self.each_task_has_one_agent()
        self.capacities_hold()
        self.quotas_hold()
        cost = pair_costs(instance)
        total = sum(int(cost[pair]) * x for pair, x in self.x.items())
        if bound:
            self.model.add(total >= bound)
        self.model.minimize(total)

    def each_task_has_one_agent(self) -> None:
        """Every task is assigned to exactly one agent."""
        for j, own in enumerate(self.places):
            self.model.add_exactly_one(self.x[j, int(a)] for a in own)

    def capacities_hold(self) -> None:
        """All tasks of an agent together fit its capacity."""
        for a, capacity in enumerate(self.instance.capacity):
            self._fit({pair: x for pair, x in self.x.items() if pair[1] == a}, capacity)

    def quotas_hold(self) -> None:
        """All tasks of a tenant together hold no more than its quota."""
        for tenant, quota in enumerate(() if self.instance.quota is None else self.instance.quota):
            own = set(np.flatnonzero(self.instance.tenant == tenant).tolist())
            self._fit({pair: x for pair, x in self.x.items() if pair[0] in own}, quota)

    def _fit(self, chosen: dict[tuple[int, int], cp_model.IntVar], units: Ints) -> None:
        for r, limit in enumerate(units.tolist()):
            held = [
                int(self.instance.demand[j, self.instance.agent_type[a], r]) * x
                for (j, a), x in chosen.items()
            ]
            self.model.add(sum(held) <= limit)

    def hint(self, schedule: Schedule) -> None:
        """Start the search from `schedule`."""
        agent = dict(zip(schedule.task.tolist(), schedule.agent.tolist(), strict=True))
        for (j, a), x in self.x.items():
            self.model.add_hint(x, agent.get(j) == a)

    def schedule(self, value: Value) -> Schedule:
        """The solution as a schedule."""
        agent = np.full(self.instance.n_tasks, -1, dtype=np.int64)
        for (j, a), x in self.x.items():
            if value(x):
                agent[j] = a
        return Schedule.from_assignment(self.instance, agent)

    def completion(self, value: Value) -> Ints:
        """(N,) p_{j,x_j}, which plays the part of C_j where there is no clock."""
        return self.schedule(value).end
