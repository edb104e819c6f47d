"""What-if scheduling: play every rule on the visible tasks, follow the best schedule.

Source: Wu and Wysk 1989, "An application of discrete-event simulation to on-line control and
scheduling in flexible manufacturing", IJPR 27(9), 1603-1623 (doi:10.1080/00207548908942642). Here
the choice is made anew at every event that the schedule did not foresee, such as an arrival, and
the rest of the schedule that was followed until then is one of the candidates.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.contracts import Budget, Policy
from bench.errors import UserError
from bench.instance import Instance, Ints
from bench.left_shift import active, fits_alone
from bench.observation import Observation
from bench.rollout import PolicySolver, one_task
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, Setting
from solvers.dispatch.configured import configured_rules
from solvers.dispatch.plan import PlannedTask, ReplanningPolicy
from solvers.dispatch.quantities import runnable
from solvers.dispatch.rule import Rule
from solvers.dispatch.visible import visible_instance
from solvers.exact.objective_terms import Terms, by_task, completion_times


class RulePortfolio(ReplanningPolicy):
    """Follows the best of the schedules that rules make of the visible state.

    A schedule treats the visible state as certain (`solvers.dispatch.visible`).

    Parameters
    ----------
    rules
        The rules. The first one also decides where the schedule names nothing legal. None: all
        dispatch rules in conf/solver, see `first`, `exclude`.
    objective
        By which schedules are compared. A policy does not know the objective of the run.
    horizon_tasks
        Largest number of tasks in a schedule: those that rank first by p_ja / w_j on some agent.
        While there are others in the queue, a schedule is valid for one tick only.
    first, exclude
        See `solvers.dispatch.configured`; only with rules=None.

    Raises
    ------
    UserError
        For an invalid value.
    """

    uses_rules = True

    def __init__(
        self,
        rules: Sequence[Rule] | None = None,
        objective: str = "total_time",
        horizon_tasks: int = 60,
        first: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> None:
        if rules is not None and not rules:
            raise UserError("solver.rules: value []: must not be empty; name at least one rule")
        if objective not in OBJECTIVES:
            raise UserError(
                f"solver.objective: value {objective!r}: must be one of {', '.join(OBJECTIVES)}"
            )
        if not horizon_tasks >= 1:
            raise UserError(f"solver.horizon_tasks: value {horizon_tasks}: must be at least 1")
        if rules is not None and (first or exclude):
            raise UserError(
                f"solver.first, solver.exclude: values {list(first)}, {list(exclude)}: choose "
                "among the rules of conf/solver; leave them out where solver.rules are given"
            )
        self.rules = configured_rules(first, exclude) if rules is None else list(rules)
        if not isinstance(self.rules[0], Rule):
            raise UserError(
                f"solver.first[0]: value {type(self.rules[0]).__name__}: decides where a schedule "
                "names nothing legal; name a rule derived from solvers.dispatch.rule.Rule"
            )
        self.objective = objective
        self.horizon_tasks = horizon_tasks
        super().__init__(fallback=self.rules[0])

    def warm_up(self) -> None:
        """Compile the simulator, in which the rules make their schedules."""
        task = one_task()
        rule = RunningTasksFirst(self.rules[0], np.zeros(0, dtype=np.int64), task.release)
        PolicySolver(rule).solve(task, Setting(), Budget(), np.random.default_rng(0))

    def plan_tasks(self, observation: Observation, keys: list[bytes]) -> list[PlannedTask]:
        """Return the best schedule found for the visible state."""
        began = time.perf_counter()
        planned = _tasks_in_horizon(observation, self.horizon_tasks)
        names, running = [keys[k] for k in planned], observation.running_agent
        instance = visible_instance(observation, planned)
        terms = _terms(self.objective, instance, observation, planned)
        schedules = self._schedules(instance, running, names, observation.release[planned])
        candidates = [active(instance, schedule) for schedule in schedules]
        best = min(candidates, key=lambda schedule: terms.value(completion_times(schedule)))
        best = self.improve(instance, terms, best, running, began)
        start = by_task(best, best.start)[len(running) :].tolist()
        agent = by_task(best, best.agent)[len(running) :].tolist()
        return [PlannedTask(*task) for task in zip(start, names, agent, strict=True)]

    def improve(
        self, instance: Instance, terms: Terms, best: Schedule, running: Ints, began: float
    ) -> Schedule:
        """Return a schedule of the visible state that is no worse than `best`: here `best`.

        Parameters
        ----------
        instance
            A `visible_instance`.
        terms
            The objective.
        best
            A feasible schedule.
        running
            (Q,) agents of the running tasks.
        began
            When the decision began, on the clock `time.perf_counter`.
        """
        return best

    def _schedules(
        self, instance: Instance, running: Ints, names: list[bytes], release: Ints
    ) -> list[Schedule]:
        """Return the schedule of each rule and that of the previous plan.

        In the latter, tasks keep the agents and the order of the plan, and new tasks come last.
        `running` (Q,): agents of the running tasks, which are the first Q of `instance`; `names`,
        `release`: keys and release ticks of its other tasks.
        """
        rng = np.random.default_rng(0)
        policies = [RunningTasksFirst(rule, running, release) for rule in self.rules]
        results = [
            PolicySolver(policy).solve(instance, Setting(), Budget(), rng) for policy in policies
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
    decides. It observes when the K planned tasks really arrived, `release` (K,), because the keys
    of some rules depend on that.
    """

    def __init__(self, rule: Policy, running: Ints, release: Ints) -> None:
        self.rule = rule
        self.running = running.tolist()
        self.release = release

    def reset(self) -> None:
        """Begin an episode: all planned tasks are in the queue."""
        self.queue = self.release
        self.rule.reset()

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """Return a legal flat action."""
        started = len(observation.running_agent)
        if observation.time == observation.release[0] and started < len(self.running):
            return observation.flat(0, self.running[started])
        action = self.rule.act(replace(observation, release=self.queue), rng)
        if action != observation.wait:
            self.queue = np.delete(self.queue, action // observation.n_agents)
        return action


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
