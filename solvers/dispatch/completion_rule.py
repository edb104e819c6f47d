"""The base class of rules that choose by completion times, and the simplest of them."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from bench.observation import Observation
from solvers.dispatch.quantities import Floats, best_agent, completion
from solvers.dispatch.rule import Rule


class CompletionRule(Rule):
    """A rule that chooses, by ascending `priority`, among the tasks whose best agent is legal now.

    The best agent of a task is the one with its earliest visible completion C_ja: earliest start
    beside the running tasks plus visible duration. A task whose best agent is not legal now waits
    for it. Equal keys go by (release, index).
    """

    @abstractmethod
    def priority(self, ends: Floats) -> Floats:
        """Return the key of each task (P,), lowest first, from the completion ticks (P, M)."""

    def pair(self, observation: Observation) -> tuple[int, int] | None:
        """Return the candidate with the lowest key, on its best agent; None without candidate."""
        legal = observation.legal
        ends = completion(observation)
        best_now = np.where(legal, ends, np.inf).min(axis=1)
        best = ends.min(axis=1)
        candidates = np.flatnonzero(legal.any(axis=1) & (best_now == best))
        if not len(candidates):
            return None
        key = np.full(len(best), np.inf)  # tasks without a visible completion come last
        known = np.isfinite(best)
        key[known] = self.priority(ends[known])
        position = int(candidates[key[candidates].argmin()])
        return position, best_agent(observation, position)


class EFT(CompletionRule):
    """Earliest finish time: tasks in FIFO order, each on the agent that finishes it first.

    It is also known as MCT (Maheswaran et al. 1999).
    """

    def priority(self, ends: Floats) -> Floats:
        """Return 0: the order of the queue."""
        return np.zeros(len(ends))
