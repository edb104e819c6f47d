"""Rolling horizon: CP-SAT plans the arrived tasks, again at every event the plan did not foresee.

A plan treats the visible state as certain (`solvers.dispatch.visible`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ortools.sat.python import cp_model

from bench.contracts import Budget, Policy
from bench.errors import UserError
from bench.instance import Instance, Ints
from bench.left_shift import active, fits_alone
from bench.observation import Observation
from bench.rollout import PolicySolver, one_task
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, Setting
from solvers.dispatch.plan import PlannedTask, ReplanningPolicy
from solvers.dispatch.quantities import runnable
from solvers.dispatch.rule import Rule
from solvers.dispatch.visible import visible_instance
from solvers.exact.objective_terms import Terms, by_task, completion_times
from solvers.exact.schedule_model import ScheduleModel

# Limit of CP-SAT's deterministic time per second of the time limit; a core does five times as much.
DETERMINISTIC_SHARE = 0.04


class RollingHorizon(ReplanningPolicy):
    """Re-planning over a rolling horizon (Sethi & Sorger 1991, doi:10.1007/BF02283607) by CP-SAT.

    Parameters
    ----------
    rules
        A plan starts from the best of the schedules that these rules make of the visible state, and
        of the previous plan. The first rule also decides where the plan names nothing legal.
    objective
        What plans minimise. A policy does not know the objective of the run.
    seconds
        Time limit of a plan. The search stops at an amount of deterministic work that a core does
        in a fifth of that, so the same observations give the same decisions (one thread, a fixed
        seed) unless the machine is so slow that the time limit comes first.
    horizon_tasks
        Largest number of tasks in a plan: those that rank first by p_ja / w_j on some agent. While
        there are others in the queue, a plan is valid for one tick only.

    Raises
    ------
    UserError
        For an invalid value.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        objective: str = "total_time",
        seconds: float = 0.5,
        horizon_tasks: int = 60,
    ) -> None:
        if not rules:
            raise UserError("solver.rules: value []: must not be empty; name at least one rule")
        if objective not in OBJECTIVES:
            raise UserError(
                f"solver.objective: value {objective!r}: must be one of {', '.join(OBJECTIVES)}"
            )
        if not seconds > 0:
            raise UserError(f"solver.seconds: value {seconds}: must be positive")
        if not horizon_tasks >= 1:
            raise UserError(f"solver.horizon_tasks: value {horizon_tasks}: must be at least 1")
        super().__init__(fallback=rules[0])
        self.rules = list(rules)
        self.objective = objective
        self.seconds = seconds
        self.horizon_tasks = horizon_tasks

    def warm_up(self) -> None:
        """Compile the simulator, in which the rules make the first schedules of a plan."""
        rule = RunningTasksFirst(self.rules[0], np.zeros(0, dtype=np.int64))
        PolicySolver(rule).solve(one_task(), Setting(), Budget(), np.random.default_rng(0))

    def plan_tasks(self, observation: Observation, keys: list[bytes]) -> list[PlannedTask]:
        """Return the best plan found for the visible state."""
        start_time = time.perf_counter()
        planned = _tasks_in_horizon(observation, self.horizon_tasks)
        names, running = [keys[k] for k in planned], observation.running_agent
        instance = visible_instance(observation, planned)
        terms = _terms(self.objective, instance, observation, planned)
        first = [
            active(instance, schedule)
            for schedule in self._first_schedules(instance, running, names)
        ]
        best = min(first, key=lambda schedule: terms.value(completion_times(schedule)))
        deadline = start_time + self.seconds
        work = DETERMINISTIC_SHARE * self.seconds
        best = improve_plan(instance, terms, best, running, deadline, work)
        start = by_task(best, best.start)[len(running) :].tolist()
        agent = by_task(best, best.agent)[len(running) :].tolist()
        return [PlannedTask(*task) for task in zip(start, names, agent, strict=True)]

    def _first_schedules(
        self, instance: Instance, running: Ints, names: list[bytes]
    ) -> list[Schedule]:
        """Return the schedule of each rule and that of the previous plan, to start from.

        In the latter, tasks keep the agents and the order of the plan, and new tasks come last.
        `running` (Q,): agents of the running tasks, which are the first Q of `instance`; `names`:
        the keys of its other tasks.
        """
        rng = np.random.default_rng(0)
        results = [
            PolicySolver(RunningTasksFirst(rule, running)).solve(instance, Setting(), Budget(), rng)
            for rule in self.rules
        ]
        before = [] if self.plan is None else list(self.plan.tasks)
        after_plan = max((task.start for task in before), default=0) + 1
        agent = running.tolist()
        start = [0] * len(running)
        for j, name in enumerate(names, len(running)):
            known = next((task for task in before if task.key == name), None)
            if known is not None:
                before.remove(known)
            agent.append(_fastest_agent(instance, j) if known is None else known.agent)
            start.append(after_plan if known is None else known.start)
        return [
            *(result.schedule for result in results),
            Schedule.from_assignment(instance, agent, start),
        ]


class RunningTasksFirst(Policy):
    """A rule preceded by the starts of the tasks that run already.

    The first Q tasks of a `visible_instance` are started on the agents `running` (Q,), then `rule`
    decides.
    """

    def __init__(self, rule: Rule, running: Ints) -> None:
        self.rule = rule
        self.running = running.tolist()

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """Return a legal flat action."""
        started = len(observation.running_agent)
        if observation.time == observation.release[0] and started < len(self.running):
            return observation.flat(0, self.running[started])
        return self.rule.act(observation, rng)


def _terms(objective: str, instance: Instance, observation: Observation, planned: Ints) -> Terms:
    """Return the objective of a plan; tardiness is total time where no task has a due date."""
    if objective == "tardiness" and observation.due is None:
        objective = "total_time"
    terms = Terms.of(instance, objective)
    if objective != "bounded_slowdown":
        return terms
    running = len(observation.running_agent)
    # In slowdowns the wait before now counts too.
    release = observation.release[planned].tolist()
    return replace(terms, origin=(*terms.origin[:running], *release))


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


def _tasks_in_horizon(observation: Observation, most: int) -> Ints:
    """Return the queue positions (K,) of the `most` tasks of the best rank on any agent.

    On an agent, tasks rank by p_ja / w_j.
    """
    duration = np.where(runnable(observation), observation.pair_duration, np.inf)
    with np.errstate(divide="ignore"):
        ratio = duration / observation.weight[:, None]
    rank = ratio.argsort(axis=0, kind="stable").argsort(axis=0).astype(float)
    rank[np.isinf(ratio)] += len(ratio)  # weight 0 and tasks that cannot run there come last
    return np.sort(rank.min(axis=1).argsort(kind="stable")[:most])


def _fastest_agent(instance: Instance, task: int) -> int:
    """Return the first of the agents on which `task` has its shortest duration."""
    ticks = instance.duration[task, instance.agent_type]
    return int(np.where(fits_alone(instance, task), ticks, np.iinfo(np.int64).max).argmin())
