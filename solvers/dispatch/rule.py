"""The base class of every dispatch rule."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from bench.observation import Observation
from solvers.dispatch.quantities import arrived


class Rule(ABC):
    """A deterministic policy that looks at arrived tasks only."""

    observe = "arrived"

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """A legal flat action; `rng` is not used."""
        pair = self.pair(arrived(observation))
        return observation.wait if pair is None else observation.flat(*pair)

    @abstractmethod
    def pair(self, observation: Observation) -> tuple[int, int] | None:
        """A legal (queue position, agent), or None to wait."""
