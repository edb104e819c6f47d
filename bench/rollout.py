"""The bridge: a policy becomes a solver by being rolled out in the simulator."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from bench.contracts import Budget, Policy, Result, Solver
from bench.instance import Instance
from bench.setting import Setting
from bench.simulator import Simulator


class PolicySolver:
    """Plays one episode of `policy` and hands back the schedule it made."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """One episode, decision by decision, each one timed. The budget does not bind: a policy decides online."""
        window = getattr(self.policy, "window", None)
        simulator = Simulator([instance], setting, window=window)
        getattr(self.policy, "reset", lambda: None)()
        latency = []
        while not simulator.terminated[0]:
            observation = simulator.observation(0)
            began = time.perf_counter()
            action = self.policy.act(observation, rng)
            latency.append(time.perf_counter() - began)
            simulator.step(np.array([simulator.flat(action, observation)]))
        status = "infeasible" if simulator.dead_end(0) else "feasible"
        facts: dict[str, Any] = getattr(self.policy, "facts", dict)()
        return Result(
            simulator.schedule(0),
            status,
            latency=tuple(latency),
            info={"decisions": len(latency), **facts},
        )


def as_solver(plugin: Any) -> Solver:
    """`plugin` itself where it is a solver, or the rollout of it where it is a policy."""
    if isinstance(plugin, Solver):
        return plugin
    if isinstance(plugin, Policy):
        return PolicySolver(plugin)
    raise TypeError(f"solver: {type(plugin).__name__} has neither solve nor act")


def played_as(plugin: Any, setting: Setting) -> Setting:
    """`setting` as this plug-in asks to observe it: a plug-in may declare `observe = "arrived"`."""
    return replace(setting, observe=getattr(plugin, "observe", setting.observe))
