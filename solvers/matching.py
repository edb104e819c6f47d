"""Dispatch rules that weigh (task, agent) pairs: completion-time heuristics and Tetris alignment.

The completion time of a pair is the earliest tick at which it fits beside the running tasks, by their visible ends, plus its
visible duration. The batch heuristics of Ibarra and Kim (1977, doi:10.1145/322003.322011) and Maheswaran et al. (1999,
doi:10.1006/jpdc.1999.1581) map a whole queue at once. Here they decide one step: only tasks whose best agent is legal now
compete, the others keep waiting for theirs; where nobody competes the rule waits. In commit mode, and wherever `wait` is
illegal, every task with a legal agent competes, so the rule always has a pair. Equal keys go by (release, index), equal agents
by least leftover capacity, then lowest index.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from bench.observation import Observation
from solvers.dispatch.quantities import Floats, best_agent, completion, first_best
from solvers.dispatch.rule import Rule


class CompletionRule(Rule):
    """Choose among the tasks whose best agent is legal now by ascending `priority`."""

    @abstractmethod
    def priority(self, ends: Floats) -> Floats:
        """(P,) key of each task, lowest first, from the completion ticks (P, M)."""

    def pair(self, observation: Observation) -> tuple[int, int] | None:
        """The task that wins by `priority`, on its best agent."""
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
    """Earliest finish time: tasks in FIFO order, each on the agent that finishes it first (MCT of Maheswaran et al. 1999)."""

    def priority(self, ends: Floats) -> Floats:
        """Zero: the queue's own order."""
        return np.zeros(len(ends))


class MinMin(CompletionRule):
    """The task with the smallest best completion first (Ibarra and Kim 1977)."""

    def priority(self, ends: Floats) -> Floats:
        """min_a C_ja."""
        return ends.min(axis=1)


class MaxMin(CompletionRule):
    """The task with the largest best completion first (Ibarra and Kim 1977)."""

    def priority(self, ends: Floats) -> Floats:
        """-min_a C_ja."""
        return -ends.min(axis=1)


class Sufferage(CompletionRule):
    """The task that loses most without its best agent first: second-best minus best completion (Maheswaran et al. 1999).

    A task with a single possible agent loses everything: it goes before all others.
    """

    def priority(self, ends: Floats) -> Floats:
        """Best minus second-best C_ja."""
        if ends.shape[1] == 1:
            return np.full(len(ends), -np.inf)
        two = np.partition(ends, 1, axis=1)
        return two[:, 0] - two[:, 1]


class Tetris(Rule):
    """Pack by alignment: the legal pair with the largest dot product of demand and free capacity starts first.

    Both vectors are shares of the agent's own capacity (Grandl et al., SIGCOMM 2014, section 3.2, doi:10.1145/2619239.2626334,
    without its shortest-remaining-time term). Ties: shorter visible duration, then (release, index), then lowest agent index.
    In commit mode only the pairs with the earliest possible start compete.
    """

    def pair(self, observation: Observation) -> tuple[int, int] | None:
        """The legal pair of the best alignment."""
        task, agent = np.nonzero(observation.legal)
        if not len(task):
            return None
        duration = observation.pair_duration[task, agent]
        start = completion(observation)[task, agent] - duration
        unit = np.maximum(observation.capacity, 1)[agent].astype(float)
        demand = observation.demand[task, observation.agent_type[agent]]
        alignment = (demand / unit * (observation.free[agent] / unit)).sum(axis=1)
        best = first_best(start, -alignment, duration)
        return int(task[best]), int(agent[best])
