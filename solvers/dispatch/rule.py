"""The base class of dispatch rules."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from bench.contracts import Policy
from bench.observation import Observation
from solvers.dispatch.quantities import arrived


class Rule(Policy):
    """A deterministic policy that uses arrived tasks only."""

    observe = "arrived"
    baseline = True

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """Return a legal flat action; `rng` is not used."""
        pair = self.pair(arrived(observation))
        return observation.wait if pair is None else observation.flat(*pair)

    @abstractmethod
    def pair(self, observation: Observation) -> tuple[int, int] | None:
        """Return a legal (queue position, agent), or None to wait."""
