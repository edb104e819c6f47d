"""Rolling horizon: CP-SAT plans what has arrived, and plans anew whenever something happens that the plan did not foresee.

A plan takes the visible world as certain: the tasks in the queue with their visible durations, the running tasks until their
visible ends (one that outlives its end is taken to end at the next tick), no arrivals. Nobody knows how long an outage lasts,
so an agent that is away, or will be by an announced outage, is planned to come back when all else could be done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ortools.sat.python import cp_model

from bench.contracts import Budget
from bench.errors import UserError
from bench.instance import NOT_ELIGIBLE, Instance, Ints, Outage
from bench.left_shift import active, fits_alone
from bench.observation import Observation
from bench.rollout import PolicySolver
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, Setting
from solvers.dispatch.plan import Planner, Step
from solvers.dispatch.quantities import runnable
from solvers.dispatch.rule import Rule
from solvers.exact.objective_terms import Terms, by_task, completion
from solvers.exact.schedule_model import ScheduleModel

WORK_PER_SECOND = (
    0.04  # CP-SAT's deterministic time per second of limit: about a fifth of what a core does
)


class RollingHorizon(Planner):
    """Re-planning over a rolling horizon (Sethi & Sorger 1991, doi:10.1007/BF02283607) with CP-SAT as the planner.

    `rules`: a plan starts from the best of these, played on the same visible world, and of the previous plan; the first also
    decides where the plan names nothing legal. `objective`: what plans minimise; a policy is not told what it is scored by.
    `seconds`: per plan, all in all; the search stops at a count of work that a core does in a fifth of that, so the same
    observations give the same decisions (one thread, a fixed seed) unless the machine is so slow that the clock comes first.
    `horizon_tasks`: tasks in a plan at most, those that rank highest by p_ja / w_j on some agent; while others are in the
    queue, a plan serves one tick only.

    Raises:
        UserError: for a value that means nothing.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        objective: str = "total_time",
        seconds: float = 0.5,
        horizon_tasks: int = 60,
    ) -> None:
        if not rules:
            raise UserError("solver.rules: at least one rule is needed")
        if objective not in OBJECTIVES:
            raise UserError(
                f"solver.objective: {objective!r} must be one of {', '.join(OBJECTIVES)}"
            )
        if not seconds > 0 or not horizon_tasks >= 1:
            raise UserError(
                f"solver.seconds, solver.horizon_tasks: {seconds}, {horizon_tasks} must be positive"
            )
        super().__init__(fallback=rules[0])
        self.rules, self.objective, self.seconds, self.horizon_tasks = (
            list(rules),
            objective,
            seconds,
            horizon_tasks,
        )

    def steps(self, observation: Observation, keys: list[bytes]) -> list[Step]:
        """The best plan found for the visible world."""
        began = time.perf_counter()
        shown = _horizon(observation, self.horizon_tasks)
        names, running = [keys[k] for k in shown], observation.running_agent
        instance = visible_world(observation, shown)
        terms = _terms(self.objective, instance, observation, shown)
        plans = [active(instance, schedule) for schedule in self._first(instance, running, names)]
        best = min(plans, key=lambda plan: terms.value(completion(plan)))
        best = _improved(
            instance, terms, best, running, began + self.seconds, WORK_PER_SECOND * self.seconds
        )
        agent, start = (
            by_task(best, column)[len(running) :].tolist() for column in (best.agent, best.start)
        )
        return [Step(*step) for step in zip(start, names, agent, strict=True)]

    def _first(self, instance: Instance, running: Ints, names: list[bytes]) -> list[Schedule]:
        """Plans to start from: each rule's, and the agents and order of the previous plan with the new tasks behind."""
        rng = np.random.default_rng(0)
        found = [
            PolicySolver(Resumed(rule, running)).solve(instance, Setting(), Budget(), rng)
            for rule in self.rules
        ]
        before = [] if self.plan is None else list(self.plan.steps)
        late = max((step.start for step in before), default=0) + 1
        agent, start = running.tolist(), [0] * len(running)
        for j, name in enumerate(names, len(running)):
            known = next((step for step in before if step.key == name), None)
            if known is not None:
                before.remove(known)
            agent.append(_fastest(instance, j) if known is None else known.agent)
            start.append(late if known is None else known.start)
        return [
            *(result.schedule for result in found),
            Schedule.from_assignment(instance, agent, start),
        ]


class Resumed:
    """A rule that first starts what already runs: the first Q tasks of a visible world, on the agents `running` (Q,)."""

    def __init__(self, rule: Rule, running: Ints) -> None:
        self.rule, self.running = rule, running.tolist()

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """A legal flat action."""
        started = len(observation.running_agent)
        if observation.time == observation.release[0] and started < len(self.running):
            return observation.flat(0, self.running[started])
        return self.rule.act(observation, rng)


def visible_world(observation: Observation, shown: Ints) -> Instance:
    """The Q running tasks, then the tasks `shown` (K,) of the queue, all released now, on the agents as they are known."""
    now, agent = observation.time, observation.running_agent
    held = np.arange(len(agent))
    until = np.minimum(observation.running_end, observation.next_outage[agent])
    duration = np.full((len(agent), observation.duration.shape[1]), NOT_ELIGIBLE)
    duration[held, observation.agent_type[agent]] = np.maximum(until - now, 1)
    duration = np.concatenate([duration, observation.duration[shown]])
    demand = np.repeat(observation.running_demand[:, None], duration.shape[1], axis=1)
    tenant, quota = None, None
    if (
        observation.tenant is not None
        and observation.running_tenant is not None
        and observation.tenant_free is not None
    ):
        tenant, quota = (
            np.concatenate([observation.running_tenant, observation.tenant[shown]]),
            observation.tenant_free.copy(),
        )
        np.add.at(quota, observation.running_tenant, observation.running_demand)
    back = now + int(duration.max(axis=1).sum())
    away = np.where(observation.up, observation.next_outage, now)
    return Instance(
        duration=duration,
        demand=np.concatenate([demand, observation.demand[shown]]),
        capacity=observation.capacity,
        agent_type=observation.agent_type,
        release=np.full(len(duration), now),
        weight=np.concatenate([0 * held, observation.weight[shown]]),
        due=None if observation.due is None else np.concatenate([0 * held, observation.due[shown]]),
        tenant=tenant,
        quota=quota,
        outages=tuple(
            Outage(a, start, back) for a, start in enumerate(away.tolist()) if start < back
        ),
        tick_seconds=observation.tick_seconds,
    )


def _terms(objective: str, instance: Instance, observation: Observation, shown: Ints) -> Terms:
    """The objective; tardiness is total time where no task has a due date."""
    if objective == "tardiness" and observation.due is None:
        objective = "total_time"
    terms = Terms.of(instance, objective)
    if objective != "bounded_slowdown":
        return terms
    running = len(observation.running_agent)
    return replace(
        terms, origin=(*terms.origin[:running], *observation.release[shown].tolist())
    )  # the wait so far counts


def _improved(
    instance: Instance, terms: Terms, first: Schedule, running: Ints, deadline: float, work: float
) -> Schedule:
    """The best plan that CP-SAT finds from `first` on, with the running tasks where they are.

    `deadline`: on `time.perf_counter`. `work`: deterministic time.
    """
    model = ScheduleModel(instance, terms, completion(first), twins=False)
    model.hint(first)
    for q, agent in enumerate(running.tolist()):
        model.model.add(model.start[q] == int(instance.release[q]))
        for place, chosen in zip(model.places, model.chosen, strict=True):
            if q in chosen:
                model.model.add(chosen[q] == (agent in place.agents))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.cp_model_probing_level = solver.parameters.symmetry_level = (
        solver.parameters.linearization_level
    ) = 0
    solver.parameters.max_deterministic_time = work
    solver.parameters.max_time_in_seconds = max(0.0, deadline - time.perf_counter())
    if solver.solve(model.model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return first
    return active(instance, model.schedule(solver.value, dict(enumerate(running.tolist()))))


def _horizon(observation: Observation, most: int) -> Ints:
    """(K,) queue positions of the `most` tasks whose best rank over agents is highest; rank on an agent: by p_ja / w_j."""
    with np.errstate(divide="ignore"):
        ratio = (
            np.where(runnable(observation), observation.pair_duration, np.inf)
            / observation.weight[:, None]
        )
    rank = ratio.argsort(axis=0, kind="stable").argsort(axis=0).astype(float)
    rank[np.isinf(ratio)] += len(ratio)  # weight 0 and what cannot run there come last
    return np.sort(rank.min(axis=1).argsort(kind="stable")[:most])


def _fastest(instance: Instance, task: int) -> int:
    """The first of the agents on which `task` runs shortest."""
    ticks = instance.duration[task, instance.agent_type]
    return int(np.where(fits_alone(instance, task), ticks, np.iinfo(np.int64).max).argmin())
