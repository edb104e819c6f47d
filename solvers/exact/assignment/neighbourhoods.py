"""Large neighbourhood search for the generalised assignment problem.

A neighbourhood is a group of agents and all tasks assigned to them. A depth-first search decides
whether these tasks can be assigned to the same agents at a lower cost, as in Shaw 1998
(doi:10.1007/3-540-49481-2_30) and POPMUSIC (Taillard & Voss 2002). The multipliers of the whole
problem prune most of these searches within milliseconds. The groups are random; they grow while
they yield no improvement.
"""

from __future__ import annotations

import time
from threading import Event

import numpy as np

from bench.instance import Ints
from solvers.exact.assignment.dual import CandidatePairs, DualWorkspace, lagrangian_bound
from solvers.exact.assignment.relaxation import KnapsackRelaxation
from solvers.exact.assignment.tree import NO_SOLUTION, SOLUTION_FOUND, DepthFirstSearch

GROUP_SECONDS = 0.02  # limit of one search of a group
FIRST_SECONDS = 0.2  # limit of the first search of the group of all agents, doubled every time
# Cost limits to search within, from the lower bound of a group (0) to its present cost (1).
LIMIT_SHARES = (0.25, 0.5, 1.0)
PATIENCE = 2  # groups per agent searched without an improvement before the groups grow


class LargeNeighbourhoodSearch:
    """A feasible assignment that `explore` improves.

    Parameters
    ----------
    relaxation
        The relaxation of the instance; it must be `exact`.
    u
        Scaled multipliers (N,) of the tasks.
    agent
        A feasible assignment (N,); it is copied.
    rng
        Source of the random groups.
    halt
        An event that ends `explore` once it is set.

    Attributes
    ----------
    agent : (N,) int
        The best assignment found.
    optimal : bool
        The search has proven that no assignment costs less.
    """

    def __init__(
        self,
        relaxation: KnapsackRelaxation,
        u: Ints,
        agent: Ints,
        rng: np.random.Generator,
        halt: Event | None = None,
    ) -> None:
        self.relaxation = relaxation
        self.u = u
        self.agent = agent.copy()
        self.rng = rng
        self.halt = halt or Event()
        self.optimal = False
        self._group_size = relaxation.possible.shape[1]
        self._failures = 0  # groups of this size searched without an improvement
        self._all_agents_seconds = FIRST_SECONDS

    def explore(self, seconds: float) -> bool:
        """Search until `agent` improves or about `seconds` are over; return whether it improved.

        The first group has all agents. Small ones follow, which grow while they yield no
        improvement, until the group has all agents again.
        """
        began = time.perf_counter()
        m = self.relaxation.possible.shape[1]
        while (
            not self.optimal
            and not self.halt.is_set()
            and (left := seconds - (time.perf_counter() - began)) > 0
        ):
            group = np.sort(self.rng.permutation(m)[: self._group_size])
            most = self._all_agents_seconds if self._group_size == m else GROUP_SECONDS
            if self._improve(group, min(most, left)):
                self._failures = 0
                return True
            self._failures += 1
            if self._group_size == m:
                self._group_size = min(2, m)
                self._failures = 0
                self._all_agents_seconds *= 2
            elif self._failures > PATIENCE * m:
                self._group_size += 1
                self._failures = 0
        return False

    def _improve(self, group: Ints, seconds: float) -> bool:
        """Reassign the tasks of the agents in `group` among these agents at a lower cost.

        The lower cost limits are tried first, because the search trees below them are small. Return
        whether an improvement was found; then `agent` has changed.
        """
        relaxation = self.relaxation
        tasks = np.flatnonzero(np.isin(self.agent, group))
        if not len(tasks):
            return False
        part = np.ix_(tasks, group)
        pairs = CandidatePairs.from_mask(
            relaxation.cost[part],
            relaxation.use[part],
            relaxation.capacity[group],
            relaxation.possible[part],
        )
        highest = int(relaxation.cost[tasks, self.agent[tasks]].sum()) - relaxation.scale
        u = self.u[tasks]
        active = np.ones(len(pairs.task), np.uint8)
        count = relaxation.possible[part].sum(axis=1)
        work = DualWorkspace.for_pairs(pairs)
        lowest = int(lagrangian_bound(pairs, u, active, count, work))
        status = NO_SOLUTION
        for share in LIMIT_SHARES if lowest <= highest else ():
            limit = lowest + int(share * (highest - lowest))
            search = DepthFirstSearch(pairs, limit, active[None], u[None], work)
            status = search.explore(seconds, self.halt)
            if status == SOLUTION_FOUND:
                chosen = np.flatnonzero(search.solution)
                self.agent[tasks[pairs.task[chosen]]] = group[pairs.agent[chosen]]
                return True
        self.optimal = status == NO_SOLUTION and len(tasks) == len(self.agent)
        return False
