"""The best of several rules, chosen per instance in hindsight: what a careful operator could do, and where CP-SAT starts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench import metrics
from bench.contracts import Budget, Policy, Result
from bench.instance import Instance
from bench.rollout import PolicySolver, played_as
from bench.schedule import Schedule
from bench.setting import Setting


class BestRule:
    """Plays every rule to the end and keeps the schedule with the lowest objective; ties go to the rule named first.

    To play an instance several times over is to know it, so a row of this solver is `clairvoyant`.
    """

    clairvoyant = True

    def __init__(self, rules: Sequence[Policy]) -> None:
        self.rules = list(rules)

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """The best rule's schedule; `info` names the rule."""
        results = [
            PolicySolver(rule).solve(instance, played_as(rule, setting), budget, rng)
            for rule in self.rules
        ]
        values = [
            metrics.objective(instance, result.schedule, setting.objective) for result in results
        ]
        best = int(np.argmin(values))
        return Result(
            results[best].schedule,
            results[best].status,
            info={"rule": type(self.rules[best]).__name__},
        )

    def __call__(self, instance: Instance, setting: Setting, rng: np.random.Generator) -> Schedule:
        """The schedule alone, as CpSat's `warm_start`."""
        return self.solve(instance, setting, Budget(), rng).schedule
