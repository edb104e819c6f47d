"""The best dispatch rule per instance in hindsight, alone or randomised.

CP-SAT starts from its schedule.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from bench import metrics
from bench.contracts import Budget, Policy, Result, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.observation import Observation
from bench.rollout import LocalActor, one_task, play, setting_of
from bench.schedule import Schedule
from bench.setting import Setting
from solvers.dispatch.configured import configured_rules


class RandomisedRule(Policy):
    """A rule that masks every task with the same probability, anew at each decision.

    So it takes the task that the rule ranks i-th (from 0) with probability (1 - p) p^i: biased
    randomisation by a geometric distribution (Grasas et al. 2017, doi:10.1016/j.cie.2017.06.019).

    Parameters
    ----------
    rule
        Decides among the tasks that are left; among all of them where none is.
    probability
        p.
    """

    def __init__(self, rule: Policy, probability: float) -> None:
        self.rule = rule
        self.probability = probability
        self.observe = rule.observe

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """Return a legal flat action."""
        shown = rng.random(len(observation.release)) >= self.probability
        mask = observation.mask.copy()
        mask[:-1] &= np.repeat(shown, observation.n_agents)
        if mask[:-1].any():
            observation = replace(observation, mask=mask)
        return self.rule.act(observation, rng)


class BestRule(Solver):
    """The schedule with the lowest objective of all rules, each of which is rolled out.

    Ties go to the rule that comes first. Because the instance is simulated several times, this
    solver is `clairvoyant`.

    Parameters
    ----------
    rules
        The rules. None: all dispatch rules in conf/solver (`bench.plugins.rules`): those in `first`
        in that order, then the others by name, without those in `exclude`.
    first, exclude
        Names of files in conf/solver; only with rules=None.
    rollouts
        Further episodes of the best rule, as a `RandomisedRule`; the best episode is kept.
    probability
        With which a task is masked in them.

    Raises
    ------
    UserError
        When a name in `first` or `exclude` is no dispatch rule, occurs twice, or no rule is left
        (the first solve, as the rules are then built).
    """

    clairvoyant = True
    uses_rules = True

    def __init__(
        self,
        rules: Sequence[Policy] | None = None,
        first: Sequence[str] = (),
        exclude: Sequence[str] = (),
        rollouts: int = 0,
        probability: float = 0.2,
    ) -> None:
        if rollouts < 0:
            raise UserError(f"solver.rollouts: value {rollouts}: must not be negative")
        if not 0 <= probability < 1:
            raise UserError(
                f"solver.probability: value {probability}: must be at least 0 and below 1"
            )
        self.rollouts = rollouts
        self.probability = probability
        self._rules = None if rules is None else list(rules)
        self.first = list(first)
        self.exclude = list(exclude)

    @property
    def rules(self) -> list[Policy]:
        """The rules in their order; dispatch rules of conf/solver are built at the first use."""
        if self._rules is None:
            self._rules = configured_rules(self.first, self.exclude)
        return self._rules

    def warm_up(self) -> None:
        """Build the rules and compile the simulator, before any clock starts."""
        for rule in self.rules:
            rule.warm_up()
        self(one_task(), Setting(), np.random.default_rng(0))

    def hashed_settings(self) -> dict[str, Any]:
        """Return the rules themselves: those of conf/solver may change while the names stay."""
        drawn = {"rollouts": self.rollouts, "probability": self.probability}
        return {"rules": self.rules} | (drawn if self.rollouts else {})

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Return the schedule of the best rule; `info` names the class of the rule.

        Rules whose rollouts the budget does not allow for are left out. Where it allows for none,
        the status is `unknown`.
        """
        return self._best(instance, setting, budget.seconds, rng)

    def __call__(
        self,
        instance: Instance,
        setting: Setting,
        rng: np.random.Generator,
        seconds: float = math.inf,
    ) -> Schedule:
        """Return the schedule alone: the interface of `warm_start` of CpSat."""
        return self._best(instance, setting, seconds, rng).schedule

    def _best(
        self, instance: Instance, setting: Setting, seconds: float, rng: np.random.Generator
    ) -> Result:
        """Return the best result of the rules, and of the best one randomised, within `seconds`."""
        deadline = time.perf_counter() + seconds
        best = Result(Schedule.empty(), "unknown")
        least = math.inf
        best_rule: Policy | None = None
        episodes = itertools.chain(self.rules, itertools.repeat(None, self.rollouts))
        for number, rule in enumerate(episodes):
            if rule is None and best_rule is None:
                break
            policy = rule or RandomisedRule(cast(Policy, best_rule), self.probability)
            left = deadline - time.perf_counter()
            played = setting_of(policy, setting)
            result = play(LocalActor(policy), instance, played, rng, left)
            if result.status == "unknown":
                break
            value = metrics.objective(instance, result.schedule, setting.objective)
            if value < least or best.status == "unknown":
                best_rule = rule or best_rule
                info = {"rule": type(best_rule).__name__, "episode": number}
                best = Result(result.schedule, result.status, info=info)
                least = value
        return best
