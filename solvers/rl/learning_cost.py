"""The training cost: what training has cost when the policy first beats the dispatch rules.

Costs are decisions in the simulator, CPU seconds of the training process, and seconds of wall-clock
time (by which a GPU is paid for). Validation does not count: training would not need it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bench import metrics
from bench.contracts import Budget, Policy
from bench.instance import Instance
from bench.instance_set import set_hash
from bench.plugins import rules
from bench.rollout import PolicySolver, setting_of
from bench.setting import Setting

NEAR_FINAL = 0.01  # relative distance to the best value that counts as nearly final


class LearningCost:
    """What training costs, and how good the policy is meanwhile.

    Parameters
    ----------
    instances
        The validation instances, by which the policy and the dispatch rules are compared.
    setting
        How they are played.

    Attributes
    ----------
    cpu_seconds, seconds
        Training time so far.
    history
        (decisions, CPU seconds, seconds, mean cost) at each validation.
    """

    def __init__(self, instances: Sequence[Instance], setting: Setting) -> None:
        self.instances = instances
        self.setting = setting
        self.cpu_seconds = 0.0
        self.seconds = 0.0
        self.history: list[tuple[int, float, float, float]] = []

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Count the time that is spent inside as training time."""
        cpu_began = time.process_time()
        began = time.perf_counter()
        yield
        self.cpu_seconds += time.process_time() - cpu_began
        self.seconds += time.perf_counter() - began

    def record_validation(self, decisions: int, cost: float) -> None:
        """Record the result of a validation.

        Parameters
        ----------
        decisions
            Decisions of training so far.
        cost
            Mean of objective / scale over the instances, which is minus the mean return.
        """
        self.history.append((decisions, self.cpu_seconds, self.seconds, cost))

    def summary(self, scale: Sequence[float]) -> dict[str, Any]:
        """Return facts for the record: totals, and the cost until each goal was first reached.

        Beside them the identity of the validation instances.

        The goals are to beat SJF, to beat the best rule in hindsight, and to come within
        `NEAR_FINAL` of the best value of the whole training. None: the goal was never reached.

        Parameters
        ----------
        scale
            (I,) divides the objectives of the rules, as it did those of the policy.
        """
        policies = rules()
        costs = {name: self._mean_cost(rule, scale) for name, rule in policies.items()}
        best_rule = min(costs, key=lambda name: costs[name])
        best = min(cost for *_, cost in self.history)
        near_final = best + NEAR_FINAL * abs(best)
        reached = {
            "sjf": [row for row in self.history if row[3] < costs["sjf"]],
            "best_rule": [row for row in self.history if row[3] < costs[best_rule]],
            "nearly_final": [row for row in self.history if row[3] <= near_final],
        }
        facts: dict[str, Any] = {
            "cpu_seconds": self.cpu_seconds,
            "seconds": self.seconds,
            "validation_hash": set_hash(self.instances),
            "best_rule": type(policies[best_rule]).__name__,
        }
        for goal, rows in reached.items():
            for i, column in enumerate(("decisions", "cpu_seconds", "seconds")):
                facts[f"{column}_to_{goal}"] = rows[0][i] if rows else None
        return {f"learning/{key}": value for key, value in facts.items()}

    def _mean_cost(self, rule: Policy, scale: Sequence[float]) -> float:
        """Return the mean of objective / scale of the schedules of a rule."""
        solver = PolicySolver(rule)
        setting = setting_of(rule, self.setting)
        results = [
            solver.solve(instance, setting, Budget(), np.random.default_rng(0))
            for instance in self.instances
        ]
        values = [
            metrics.objective(instance, result.schedule, setting.objective)
            for instance, result in zip(self.instances, results, strict=True)
        ]
        return float(np.mean(np.asarray(values) / np.asarray(scale)))

    def state(self) -> dict[str, Any]:
        """Return the state for `restore`."""
        return {"cpu_seconds": self.cpu_seconds, "seconds": self.seconds, "history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state` returned."""
        self.cpu_seconds = state["cpu_seconds"]
        self.seconds = state["seconds"]
        self.history = list(state["history"])
