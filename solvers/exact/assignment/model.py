"""The generalised assignment problem as a CP-SAT model: one method per constraint."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from bench.instance import Instance, Ints
from bench.left_shift import fits_alone
from bench.schedule import Schedule
from solvers.exact import deadline as clock
from solvers.exact.assignment import pair_costs
from solvers.exact.schedule_model import Value

Pair = tuple[int, int]  # task, agent


class AssignmentModel:
    """CP-SAT model: minimise sum_j w_j p_{j,a(j)} within capacities and quotas.

    It is the problem of `sharing=budget`: there is no clock, so an agent's capacity must hold all
    tasks assigned to it at once.

    Parameters
    ----------
    instance
        The instance to model.
    candidates
        Boolean mask (N, M) of the pairs (task, agent) to which the model is restricted. Default:
        every agent that can run the task alone.
    lower_bound
        A proven lower bound on the total cost, added as a constraint if it is not 0.
    deadline
        In seconds of `time.perf_counter()`.

    Raises
    ------
    OutOfTime
        If the clock passes `deadline` before the model is complete.
    """

    # The objective of the model is the objective of the instance.
    scale = 1
    offset = 0

    def __init__(
        self,
        instance: Instance,
        candidates: NDArray[np.bool_] | None = None,
        lower_bound: int = 0,
        deadline: float = math.inf,
    ) -> None:
        self.instance = instance
        self.model = cp_model.CpModel()
        self.agents = [  # agents that each task may be assigned to
            np.flatnonzero(fits_alone(instance, j) if candidates is None else candidates[j])
            for j in range(instance.n_tasks)
        ]
        self.x = {}
        for j, agents in enumerate(self.agents):
            clock.check(deadline)
            for a in agents.tolist():
                self.x[j, a] = self.model.new_bool_var(f"x[{j},{a}]")
        for constraints in (self.each_task_has_one_agent, self.capacities_hold, self.quotas_hold):
            clock.check(deadline)
            constraints()
        clock.check(deadline)
        task, agent = np.array(list(self.x), dtype=int).reshape(-1, 2).T
        cost = pair_costs(instance)[task, agent]
        self.magnitude = float(cost.sum(dtype=float))
        total = cp_model.LinearExpr.weighted_sum(list(self.x.values()), cost.tolist())
        if lower_bound:
            self.model.add(total >= lower_bound)
        self.model.minimize(total)

    def each_task_has_one_agent(self) -> None:
        """Assign every task to exactly one agent."""
        for j, agents in enumerate(self.agents):
            self.model.add_exactly_one(self.x[j, a] for a in agents.tolist())

    def capacities_hold(self) -> None:
        """Limit the total demand of the tasks on each agent to the agent's capacity."""
        pairs: list[list[Pair]] = [[] for _ in self.instance.capacity]
        for j, a in self.x:
            pairs[a].append((j, a))
        for own, capacity in zip(pairs, self.instance.capacity, strict=True):
            self._limit_demand(own, capacity)

    def quotas_hold(self) -> None:
        """Limit the total demand of the tasks of each tenant to the tenant's quota."""
        if self.instance.quota is None or self.instance.tenant is None:
            return
        pairs: list[list[Pair]] = [[] for _ in self.instance.quota]
        for j, a in self.x:
            pairs[self.instance.tenant[j]].append((j, a))
        for own, quota in zip(pairs, self.instance.quota, strict=True):
            self._limit_demand(own, quota)

    def _limit_demand(self, pairs: Sequence[Pair], limits: Ints) -> None:
        """Limit the demand of the chosen `pairs` to `limits` (R,), one constraint per resource."""
        if not pairs:
            return
        task, agent = np.array(pairs).T
        demand = self.instance.demand[task, self.instance.agent_type[agent]]
        chosen = [self.x[pair] for pair in pairs]
        for r, limit in enumerate(limits.tolist()):
            held = cp_model.LinearExpr.weighted_sum(chosen, demand[:, r].tolist())
            self.model.add(held <= limit)

    def hint(self, schedule: Schedule) -> None:
        """Let the search start from `schedule`."""
        agent = dict(zip(schedule.task.tolist(), schedule.agent.tolist(), strict=True))
        for (j, a), x in self.x.items():
            self.model.add_hint(x, agent.get(j) == a)

    def schedule(self, value: Value) -> Schedule:
        """Return the solution with the variable values `value` as a schedule."""
        agent = np.full(self.instance.n_tasks, -1, dtype=np.int64)
        for (j, a), x in self.x.items():
            if value(x):
                agent[j] = a
        return Schedule.from_assignment(self.instance, agent)

    def completion(self, value: Value) -> Ints:
        """Return p_{j,a(j)} (N,), which stands for C_j where there is no clock."""
        return self.schedule(value).end
