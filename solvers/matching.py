"""Dispatch rules that compare (task, agent) pairs: by completion times, or by alignment.

The completion time of a pair is the earliest tick at which it fits beside the running tasks, by
their visible ends, plus its visible duration. The batch heuristics of Ibarra and Kim (1977,
doi:10.1145/322003.322011) and Maheswaran et al. (1999, doi:10.1006/jpdc.1999.1581) assign a whole
queue at once. Here they decide one step: only tasks whose best agent is legal now compete; the
others wait for their best agent. Without a candidate the rule waits. In commit mode, and wherever
`wait` is illegal, every task with a legal agent competes, so the rule always has a pair. Equal keys
go by (release, index), equal agents by least leftover capacity, then by lowest index.
"""

from __future__ import annotations

import numpy as np

from bench.observation import Observation
from solvers.dispatch.completion_rule import EFT, CompletionRule
from solvers.dispatch.quantities import Floats, argmin_lexicographic, completion
from solvers.dispatch.rule import Rule

__all__ = ["EFT", "MaxMin", "MinMin", "Sufferage", "Tetris"]


class MinMin(CompletionRule):
    """The task with the smallest best completion first (Ibarra and Kim 1977)."""

    def priority(self, ends: Floats) -> Floats:
        """Return min_a C_ja."""
        return ends.min(axis=1)


class MaxMin(CompletionRule):
    """The task with the largest best completion first (Ibarra and Kim 1977)."""

    def priority(self, ends: Floats) -> Floats:
        """Return -min_a C_ja."""
        return -ends.min(axis=1)


class Sufferage(CompletionRule):
    """The task that loses most without its best agent first (Maheswaran et al. 1999).

    Its loss is the second-best minus the best completion. The loss of a task with a single possible
    agent is infinite.
    """

    def priority(self, ends: Floats) -> Floats:
        """Return the best minus the second-best C_ja."""
        if ends.shape[1] == 1:
            return np.full(len(ends), -np.inf)
        two = np.partition(ends, 1, axis=1)
        return two[:, 0] - two[:, 1]


class Tetris(Rule):
    """Packing by alignment: the legal pair with the largest demand * free capacity starts first.

    The product is the dot product over resources; both vectors are fractions of the agent's own
    capacity (Grandl et al., SIGCOMM 2014, section 3.2, doi:10.1145/2619239.2626334, without its
    shortest-remaining-time term). Ties: shorter visible duration, then (release, index), then
    lowest agent index. In commit mode only the pairs with the earliest possible start compete.
    """

    def pair(self, observation: Observation) -> tuple[int, int] | None:
        """Return the legal pair of the best alignment."""
        task, agent = np.nonzero(observation.legal)
        if not len(task):
            return None
        duration = observation.pair_duration[task, agent]
        start = completion(observation)[task, agent] - duration
        unit = np.maximum(observation.capacity, 1)[agent].astype(float)
        demand = observation.demand[task, observation.agent_type[agent]]
        alignment = (demand / unit * (observation.free[agent] / unit)).sum(axis=1)
        best = argmin_lexicographic(start, -alignment, duration)
        return int(task[best]), int(agent[best])
