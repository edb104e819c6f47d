"""Rolling out a policy in the simulator, which makes it a solver."""

from __future__ import annotations

import math
import operator
import time
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from bench.contracts import Budget, Plugin, Policy, Result, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.observation import Observation
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator import IllegalAction, Simulator


class Actor(Protocol):
    """Decides the steps of episodes: a policy in this process, or one in a process of its own."""

    @property
    def window(self) -> int | None:
        """How many pending tasks are observed, as in `Policy`."""

    def begin(self, rng: np.random.Generator) -> None:
        """Begin an episode, in which `rng` is the source of all randomness."""

    def act(self, observation: Observation) -> tuple[Any, float]:
        """Return the action, which nobody has checked, and the seconds that it took."""

    def facts(self) -> dict[str, Any]:
        """Return what `Policy.facts` returns."""


class LocalActor:
    """A policy in this process."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @property
    def window(self) -> int | None:
        """How many pending tasks are observed."""
        return self.policy.window

    def begin(self, rng: np.random.Generator) -> None:
        """Begin an episode with `rng` itself."""
        self._rng = rng
        self.policy.reset()

    def act(self, observation: Observation) -> tuple[Any, float]:
        """Return the policy's action and the seconds that it took."""
        began = time.perf_counter()
        action = self.policy.act(observation, self._rng)
        return action, time.perf_counter() - began

    def facts(self) -> dict[str, Any]:
        """Return the policy's facts."""
        return self.policy.facts()


def play(
    actor: Actor,
    instance: Instance,
    setting: Setting,
    rng: np.random.Generator,
    seconds: float = math.inf,
) -> Result:
    """Play one episode; time every decision.

    An episode that takes longer than `seconds` ends without a schedule: its status is `unknown`.

    Raises
    ------
    IllegalAction
        If an action is no integer or is masked.
    """
    deadline = time.perf_counter() + seconds
    simulator = Simulator([instance], setting, window=actor.window)
    actor.begin(rng)
    latency = []
    while not simulator.terminated[0]:
        if time.perf_counter() > deadline:
            return Result(Schedule.empty(), "unknown")
        observation = simulator.observation(0)
        action, seconds = actor.act(observation)
        latency.append(seconds)
        legal = legal_action(action, observation)
        simulator.step(np.array([simulator.flat(legal, observation)]))
    status = "infeasible" if simulator.dead_end(0) else "feasible"
    info = {"decisions": len(latency), **actor.facts()}
    return Result(simulator.schedule(0), status, latency=tuple(latency), info=info)


def legal_action(action: Any, observation: Observation) -> int:
    """Return `action` as an integer.

    Raises
    ------
    IllegalAction
        If it is no integer or is masked.
    """
    try:
        index = operator.index(action)
    except TypeError:
        index = -1
    if not (0 <= index < len(observation.mask) and observation.mask[index]):
        raise IllegalAction(
            f"act: value {action!r} at tick {observation.time}: is no legal action; return an "
            "index of observation.mask where it is true"
        )
    return index


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
        return play(LocalActor(self.policy), instance, setting, rng)


def one_task() -> Instance:
    """Return an instance of one task, which `warm_up` plays to compile the simulator."""
    ones = np.ones((1, 1), dtype=np.int64)
    return Instance(ones, ones[None], ones, 0 * ones[0], due=ones[:, 0])


def check_information(name: str, plugin: Any, setting: Setting) -> None:
    """Check that `plugin`, named `name` in the error, may play where information is online.

    Raises
    ------
    UserError
        If information is online and it is a solver, which is given the whole instance, or declares
        that it needs the future.
    """
    if setting.information != "online":
        return
    if isinstance(plugin, Solver) or (isinstance(plugin, Plugin) and plugin.clairvoyant):
        raise UserError(
            f"track, observe: {name} plans with the future known ({type(plugin).__name__} is a "
            f"{'Solver' if isinstance(plugin, Solver) else 'clairvoyant plug-in'}) and may not "
            "enter track=online or observe=arrived; set track=schedule observe=all"
        )


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
