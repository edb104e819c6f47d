"""Large neighbourhood search for generalised assignments: groups of agents are solved anew, by tree search on their tasks.

As in Shaw 1998 (doi:10.1007/3-540-49481-2_30) and POPMUSIC (Taillard & Voss 2002): a few agents at random, all their tasks, and
the question whether those can be placed cheaper. The multipliers of the whole problem make most such trees vanish within
milliseconds; the groups grow while nothing is found in them.
"""

from __future__ import annotations

import time
from threading import Event

import numpy as np

from bench.instance import Ints
from solvers.exact.assignment.dual import Core, Work, bound
from solvers.exact.assignment.relaxation import Relaxation
from solvers.exact.assignment.tree import EMPTY, FOUND, Tree

SLICE = 0.02  # seconds for one group
FIRST_SLICE = 0.2  # seconds for all agents, doubled every time
AIMS = (0.25, 0.5, 1.0)  # limits to try, from a group's own bound (0) to what it costs (1)
STALE = 2  # tries per agent without a cheaper assignment after which groups grow


class Neighbourhoods:
    """A feasible assignment that `explore` makes cheaper."""

    def __init__(
        self,
        relaxation: Relaxation,
        u: Ints,
        agent: Ints,
        rng: np.random.Generator,
        halt: Event | None = None,
    ) -> None:
        """`relaxation` must be exact, with multipliers u (N,); `agent` (N,) feasible; `halt`, once set, ends `explore`."""
        self.relaxation, self.u, self.agent, self.rng, self.halt = (
            relaxation,
            u,
            agent.copy(),
            rng,
            halt or Event(),
        )
        self.optimal = False  # the search has shown that nothing is cheaper
        self._size, self._stale, self._slice = relaxation.possible.shape[1], 0, FIRST_SLICE

    def explore(self, seconds: float) -> bool:
        """Whether `agent` got cheaper; for at most about `seconds`, and no longer than until it did.

        Groups of all agents first, then small ones that grow while nothing is found in them, until they are all agents again.
        """
        began, m = time.perf_counter(), self.relaxation.possible.shape[1]
        while (
            not self.optimal
            and not self.halt.is_set()
            and (left := seconds - (time.perf_counter() - began)) > 0
        ):
            group = np.sort(self.rng.permutation(m)[: self._size])
            if self._cheaper(group, min(self._slice if self._size == m else SLICE, left)):
                self._stale = 0
                return True
            self._stale += 1
            if self._size == m:
                self._size, self._stale, self._slice = min(2, m), 0, 2 * self._slice
            elif self._stale > STALE * m:
                self._size, self._stale = self._size + 1, 0
        return False

    def _cheaper(self, group: Ints, seconds: float) -> bool:
        """Change `agent` where the tasks of the agents in `group` have a cheaper place among these.

        Low limits first, between the group's own bound and what it costs: trees below them are small.
        """
        relaxation, tasks = self.relaxation, np.flatnonzero(np.isin(self.agent, group))
        if not len(tasks):
            return False
        part = np.ix_(tasks, group)
        core = Core.of(
            relaxation.cost[part],
            relaxation.use[part],
            relaxation.capacity[group],
            relaxation.possible[part],
        )
        highest = int(relaxation.cost[tasks, self.agent[tasks]].sum()) - relaxation.scale
        u, alive, work = self.u[tasks], np.ones(len(core.task), np.uint8), Work.of(core)
        lowest, status = (
            int(bound(core, u, alive, relaxation.possible[part].sum(axis=1), work)),
            EMPTY,
        )
        for share in AIMS if lowest <= highest else ():
            tree = Tree(core, lowest + int(share * (highest - lowest)), alive[None], u[None], work)
            status = tree.explore(seconds, self.halt)
            if status == FOUND:
                chosen = np.flatnonzero(tree.solution)
                self.agent[tasks[core.task[chosen]]] = group[core.agent[chosen]]
                return True
        self.optimal = status == EMPTY and len(tasks) == len(self.agent)
        return False
