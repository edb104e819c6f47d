"""Rolling out a policy in the simulator, which makes it a solver."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from bench.contracts import Budget, Plugin, Policy, Result, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.setting import Setting
from bench.simulator import Simulator


class PolicySolver(Solver):
    """Rolls out one episode of `policy` and returns the schedule that it made."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Roll out one episode and time every decision.

        The budget does not bind: a policy decides online.
        """
        simulator = Simulator([instance], setting, window=self.policy.window)
        self.policy.reset()
        latency = []
        while not simulator.terminated[0]:
            observation = simulator.observation(0)
            began = time.perf_counter()
            action = self.policy.act(observation, rng)
            latency.append(time.perf_counter() - began)
            simulator.step(np.array([simulator.flat(action, observation)]))
        status = "infeasible" if simulator.dead_end(0) else "feasible"
        info = {"decisions": len(latency), **self.policy.facts()}
        return Result(simulator.schedule(0), status, latency=tuple(latency), info=info)


def as_solver(plugin: Any) -> Solver:
    """Return `plugin` where it is a solver, the rollout of it where it is a policy.

    Raises
    ------
    UserError
        For anything else.
    """
    if isinstance(plugin, Solver):
        return plugin
    if isinstance(plugin, Policy):
        return PolicySolver(plugin)
    raise UserError(
        f"solver: {type(plugin).__name__} is neither a solver nor a policy; derive it from Solver "
        "or Policy of bench.contracts"
    )


def setting_of(plugin: Plugin, setting: Setting) -> Setting:
    """Return `setting` with what the plug-in declares to observe, where it declares it."""
    return setting if plugin.observe is None else replace(setting, observe=plugin.observe)
