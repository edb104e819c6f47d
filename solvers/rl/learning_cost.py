"""The price of learning: what training had cost when the policy first beat a rule, and when it was nearly done.

Costs are decisions in the simulator, CPU seconds of the process that trains and seconds of the clock (by which a GPU is paid);
validation, which learning would not need, is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bench import metrics
from bench.contracts import Budget
from bench.instance import Instance
from bench.rollout import PolicySolver, played_as
from bench.setting import Setting
from solvers.dispatch.rule import Rule
from solvers.matching import EFT, MaxMin, MinMin, Sufferage, Tetris
from solvers.rules import DRF, EDF, F1, FIFO, HRRN, LJF, SJF, UNICEP, WFP3, WSPT

RULES: tuple[type[Rule], ...] = (
    SJF, FIFO, LJF, WSPT, EDF, HRRN, WFP3, UNICEP, F1, MinMin, MaxMin, Sufferage, EFT, Tetris, DRF,
)  # fmt: skip
NEARLY = 0.01  # of its final value


class Price:
    """Keeps what training costs and how good the policy is on the validation instances, from which the rules are judged too."""

    def __init__(self, instances: Sequence[Instance], setting: Setting) -> None:
        self.instances, self.setting = instances, setting
        self.cpu_seconds = self.seconds = 0.0
        self.history: list[
            tuple[int, float, float, float]
        ] = []  # decisions, CPU seconds, seconds, mean cost

    @contextmanager
    def clock(self) -> Iterator[None]:
        """What happens inside is training."""
        cpu, began = time.process_time(), time.perf_counter()
        yield
        self.cpu_seconds += time.process_time() - cpu
        self.seconds += time.perf_counter() - began

    def tried(self, decisions: int, cost: float) -> None:
        """After `decisions` the policy's mean cost (objective / scale, minus the return) on the instances is `cost`."""
        self.history.append((decisions, self.cpu_seconds, self.seconds, cost))

    def summary(self, scale: Sequence[float]) -> dict[str, Any]:
        """Facts for the record: totals, and costs until SJF and the best rule were beaten and until nearly the final value.

        A cost that was never enough is missing. `scale` (I,) divides the rules' objectives as it did the policy's.
        """
        costs = {rule.__name__: self._cost(rule(), scale) for rule in RULES}
        name = min(costs, key=lambda rule: costs[rule])
        best = min(cost for *_, cost in self.history)
        reached = {
            "sjf": [row for row in self.history if row[3] < costs["SJF"]],
            "best_rule": [row for row in self.history if row[3] < costs[name]],
            "nearly_final": [row for row in self.history if row[3] <= best + NEARLY * abs(best)],
        }
        facts: dict[str, Any] = {
            "cpu_seconds": self.cpu_seconds,
            "seconds": self.seconds,
            "best_rule": name,
        }
        for goal, rows in reached.items():
            for i, column in enumerate(("decisions", "cpu_seconds", "seconds")):
                facts[f"{column}_to_{goal}"] = rows[0][i] if rows else None
        return {f"learning/{key}": value for key, value in facts.items()}

    def _cost(self, rule: Rule, scale: Sequence[float]) -> float:
        solver, setting = PolicySolver(rule), played_as(rule, self.setting)
        played = [
            solver.solve(instance, setting, Budget(), np.random.default_rng(0))
            for instance in self.instances
        ]
        values = [
            metrics.objective(instance, result.schedule, setting.objective)
            for instance, result in zip(self.instances, played, strict=True)
        ]
        return float(np.mean(np.asarray(values) / np.asarray(scale)))

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"cpu_seconds": self.cpu_seconds, "seconds": self.seconds, "history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.cpu_seconds, self.seconds = state["cpu_seconds"], state["seconds"]
        self.history = list(state["history"])
