"""Rolling horizon: CP-SAT plans the arrived tasks, again at every event the plan did not foresee.

It improves the schedule that `solvers.portfolio` makes of the visible state.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ortools.sat.python import cp_model

from bench.errors import UserError
from bench.instance import Instance, Ints
from bench.left_shift import active
from bench.schedule import Schedule
from solvers.dispatch.rule import Rule
from solvers.exact.objective_terms import Terms, completion_times
from solvers.exact.schedule_model import ScheduleModel
from solvers.portfolio import RulePortfolio

# Limit of CP-SAT's deterministic time per second of the time limit; a core does five times as much.
DETERMINISTIC_SHARE = 0.04


class RollingHorizon(RulePortfolio):
    """Re-planning over a rolling horizon (Sethi & Sorger 1991, doi:10.1007/BF02283607) by CP-SAT.

    Parameters
    ----------
    rules, objective, horizon_tasks
        See `RulePortfolio`. A plan starts from the best of its schedules.
    seconds
        Time limit of a plan. The search stops at an amount of deterministic work that a core does
        in a fifth of that, so the same observations give the same decisions (one thread, a fixed
        seed) unless the machine is so slow that the time limit comes first.

    Raises
    ------
    UserError
        For an invalid value.
    """

    uses_rules = False  # its rules are those of its settings

    def __init__(
        self,
        rules: Sequence[Rule],
        objective: str = "total_time",
        seconds: float = 0.5,
        horizon_tasks: int = 60,
    ) -> None:
        super().__init__(rules or [], objective, horizon_tasks)
        if not seconds > 0:
            raise UserError(f"solver.seconds: value {seconds}: must be positive")
        self.seconds = seconds

    def improve(
        self, instance: Instance, terms: Terms, best: Schedule, running: Ints, began: float
    ) -> Schedule:
        """Return the best schedule that CP-SAT finds from `best` within the time limit."""
        work = DETERMINISTIC_SHARE * self.seconds
        return improve_plan(instance, terms, best, running, began + self.seconds, work)


def improve_plan(
    instance: Instance, terms: Terms, first: Schedule, running: Ints, deadline: float, work: float
) -> Schedule:
    """Return the best schedule that CP-SAT finds from `first`; running tasks stay where they are.

    Parameters
    ----------
    instance
        A `visible_instance`.
    terms
        The objective.
    first
        A feasible schedule.
    running
        (Q,) agents of the running tasks.
    deadline
        On the clock `time.perf_counter`.
    work
        Limit of CP-SAT's deterministic time.
    """
    model = ScheduleModel(instance, terms, completion_times(first), break_symmetry=False)
    model.hint(first)
    for q, agent in enumerate(running.tolist()):
        model.model.add(model.start[q] == int(instance.release[q]))
        for group, chosen in zip(model.groups, model.chosen, strict=True):
            if q in chosen:
                model.model.add(chosen[q] == (agent in group.agents))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.cp_model_probing_level = 0
    solver.parameters.symmetry_level = 0
    solver.parameters.linearization_level = 0
    solver.parameters.max_deterministic_time = work
    solver.parameters.max_time_in_seconds = max(0.0, deadline - time.perf_counter())
    if solver.solve(model.model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return first
    fixed = dict(enumerate(running.tolist()))
    return active(instance, model.schedule(solver.value, fixed))
