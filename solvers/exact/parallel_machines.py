"""R || C_max as a CP-SAT model: which agent runs which task, without starts.

Where every task may start at one tick and no agent runs two at a time, the makespan is the largest
load of an agent, whatever the order (Pinedo, Scheduling, chapter 5). Without one interval for every
pair, CP-SAT proves optima that the model with starts does not reach.
"""

from __future__ import annotations

import math

import numpy as np
from ortools.sat.python import cp_model

from bench.instance import Instance, Ints
from bench.left_shift import fits_alone
from bench.schedule import Schedule
from solvers.exact import deadline as clock
from solvers.exact.objective_terms import Terms
from solvers.exact.schedule_model import Value


def is_parallel_machines(instance: Instance, terms: Terms) -> bool:
    """Return whether the objective is the largest load of an agent plus the common release."""
    if not terms.is_maximum or instance.sharing != "time" or instance.outages:
        return False
    if instance.quota is not None or len(set(instance.release.tolist())) > 1:
        return False
    alone = np.stack([fits_alone(instance, j) for j in range(instance.n_tasks)])
    return all(
        _one_at_a_time(instance, a, np.flatnonzero(alone[:, a])) for a in range(len(alone.T))
    )


def _one_at_a_time(instance: Instance, agent: int, tasks: Ints) -> bool:
    """Return whether no two of `tasks` fit on the agent together."""
    if len(tasks) < 2:
        return True
    demand = np.sort(instance.demand[tasks, instance.agent_type[agent]], axis=0)  # (n, R)
    return bool((demand[0] + demand[1] > instance.capacity[agent]).any())


class ParallelMachinesModel:
    """CP-SAT model: minimise the largest load of an agent.

    Parameters
    ----------
    instance
        An instance for which `is_parallel_machines` holds.
    lower_bound
        A proven lower bound on the makespan, added as a constraint.
    deadline
        In seconds of `time.perf_counter()`.

    Raises
    ------
    OutOfTime
        If the clock passes `deadline` before the model is complete.
    """

    scale = 1
    offset = 0

    def __init__(
        self, instance: Instance, lower_bound: int = 0, deadline: float = math.inf
    ) -> None:
        self.instance = instance
        self.model = cp_model.CpModel()
        self.release = int(instance.release[0])
        longest = self.release + int(instance.longest().sum())
        self.magnitude = float(longest)
        self.makespan = self.model.new_int_var(min(lower_bound, longest), longest, "makespan")
        self.x: dict[tuple[int, int], cp_model.IntVar] = {}
        for j in range(instance.n_tasks):
            clock.check(deadline)
            agents = np.flatnonzero(fits_alone(instance, j)).tolist()
            for a in agents:
                self.x[j, a] = self.model.new_bool_var(f"x[{j},{a}]")
            self.model.add_exactly_one([self.x[j, a] for a in agents])
        loads: list[list[cp_model.LinearExprT]] = [[] for _ in range(instance.n_agents)]
        for (j, a), x in self.x.items():
            loads[a].append(self._duration(j, a) * x)
        for load in loads:
            clock.check(deadline)
            self.model.add(self.release + cp_model.LinearExpr.sum(load) <= self.makespan)
        self.model.minimize(self.makespan)

    def _duration(self, task: int, agent: int) -> int:
        return int(self.instance.duration[task, self.instance.agent_type[agent]])

    def hint(self, schedule: Schedule) -> None:
        """Start the search from `schedule`, which has one piece per task."""
        chosen = set(zip(schedule.task.tolist(), schedule.agent.tolist(), strict=True))
        for pair, x in self.x.items():
            self.model.add_hint(x, pair in chosen)
        self.model.add_hint(self.makespan, int(schedule.end.max()))

    def completion(self, value: Value) -> Ints:
        """Return C_j (N,) in the solution whose variables `value` reads."""
        schedule = self.schedule(value)
        return schedule.end[np.argsort(schedule.task)]

    def schedule(self, value: Value) -> Schedule:
        """Return the solution; each agent runs its tasks in their order, without a break."""
        agent = np.full(self.instance.n_tasks, -1, dtype=np.int64)
        start = np.full(self.instance.n_tasks, self.release, dtype=np.int64)
        free_from = np.full(self.instance.n_agents, self.release, dtype=np.int64)
        for (j, a), x in self.x.items():
            if value(x):
                agent[j], start[j] = a, free_from[a]
                free_from[a] += self._duration(j, a)
        return Schedule.from_assignment(self.instance, agent, start)
