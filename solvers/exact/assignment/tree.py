"""Depth-first search for a generalised assignment whose cost is at most a given value.

The problem is posed as a decision problem, as in Posta, Ferland & Michelon 2012
(doi:10.1007/s10589-011-9432-0): a low cost limit lets variable fixing exclude nearly all pairs
(task, agent), and a search tree without a solution proves that every assignment costs more.

At each node, subgradient steps raise the Lagrangian bound, the bound of every pair is computed, and
pairs above the limit are fixed to 0. This is repeated while it excludes enough pairs. Then the
search branches on one task: one child node for each agent the task has left.
"""

from __future__ import annotations

import time
from threading import Event

import numpy as np

from bench.compiled import compiled
from bench.instance import Ints
from solvers.exact.assignment.dual import (
    INFEASIBLE,
    CandidatePairs,
    DualWorkspace,
    Flags,
    fix_variables,
    lagrangian_bound,
    pair_bounds,
    subgradient_step,
)

# Status of a search: no solution within the limit; one was found; nodes are left to explore; the
# stack of nodes must grow before the search can continue.
NO_SOLUTION, SOLUTION_FOUND, NODES_LEFT, STACK_FULL = range(4)
PRUNED, BRANCH = 4, 5  # status of a node, besides SOLUTION_FOUND
DUAL_STEPS = 8  # subgradient steps per round of variable fixing at a node
LARGEST_STACK = 2**32  # bytes
MOST_NODES = 256  # most nodes explored between two readings of the clock
CALL_SECONDS = 0.02  # nodes that took longer are not doubled
SMALLEST_FIXED_SHARE = 100  # fix again if at least 3 and 1 / this share of the pairs were fixed
# Branching: a child whose bound covers the whole gap counts exp(-SIZE_DECAY) times as much as one
# whose bound equals that of its parent.
SIZE_DECAY = 1.0


class DepthFirstSearch:
    """A stack of open nodes over a set of candidate pairs; `explore` may be called repeatedly.

    Parameters
    ----------
    pairs
        The candidate pairs (V of them, N tasks).
    limit
        Largest scaled cost of a solution that is searched for.
    active
        (K, V) flags of the pairs that are not fixed to 0, for each of K open nodes.
    u
        (K, N) multipliers of each node.
    work
        A workspace that no other thread uses; default: a new one.

    Attributes
    ----------
    size : int
        Number of open nodes.
    solution : (V,) flags
        The chosen pairs, once `explore` returned SOLUTION_FOUND.
    last_seconds : float
        Duration of the last call of `explore`.
    """

    def __init__(
        self,
        pairs: CandidatePairs,
        limit: int,
        active: Flags,
        u: Ints,
        work: DualWorkspace | None = None,
    ) -> None:
        self.pairs = pairs
        self.limit = limit
        self.size = len(active)
        self.solution = np.zeros(len(pairs.task), np.uint8)
        self.last_seconds = 0.0
        self._active = active.copy()
        self._u = u.copy()
        self._work = work or DualWorkspace.for_pairs(pairs)

    def explore(self, seconds: float, halt: Event | None = None) -> int:
        """Search for about `seconds` or until `halt` is set, without holding Python's GIL.

        Returns
        -------
        int
            NO_SOLUTION, SOLUTION_FOUND (the pairs are in `solution`) or NODES_LEFT.
        """
        began = time.perf_counter()
        status = STACK_FULL
        nodes = 1
        while status == STACK_FULL or (
            status == NODES_LEFT
            and time.perf_counter() - began < seconds
            and not (halt and halt.is_set())
        ):
            if not self._reserve():
                status = NODES_LEFT
                break
            began_call = time.perf_counter()
            status, self.size = _explore(
                self.pairs,
                self.limit,
                self._active,
                self._u,
                self.size,
                nodes,
                self.solution,
                self._work,
            )
            if time.perf_counter() - began_call < CALL_SECONDS:
                nodes = min(2 * nodes, MOST_NODES)
        self.last_seconds = time.perf_counter() - began
        return status

    def split(self) -> DepthFirstSearch | None:
        """Move the older half of the open nodes to a new search, for another thread.

        Return None where fewer than two nodes are open.
        """
        half = self.size // 2
        if not half:
            return None
        other = DepthFirstSearch(self.pairs, self.limit, self._active[:half], self._u[:half])
        self._active[: self.size - half] = self._active[half : self.size]
        self._u[: self.size - half] = self._u[half : self.size]
        self.size -= half
        return other

    def _reserve(self) -> bool:
        """Make the stack large enough for twice the open nodes and one path to a leaf.

        Return False where that takes more than LARGEST_STACK bytes.
        """
        rows = 2 * self.size + len(self.pairs.capacity) + 64
        if rows > len(self._active):
            more = rows - self.size
            if rows * (self._active.shape[1] + 8 * self._u.shape[1]) > LARGEST_STACK:
                return False
            self._active = np.concatenate(
                [self._active[: self.size], np.zeros((more, self._active.shape[1]), np.uint8)]
            )
            self._u = np.concatenate(
                [self._u[: self.size], np.zeros((more, self._u.shape[1]), np.int64)]
            )
        return True


@compiled(nogil=True)
def _explore(pairs, limit, stack, stack_u, size, nodes, solution, work):
    """Explore at most `nodes` nodes from the top of the stack; return (status, open nodes)."""
    n, m = stack_u.shape[1], len(pairs.capacity)
    active = np.zeros(stack.shape[1], np.uint8)
    u, best_u, count = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    for _ in range(nodes):
        if size == 0:
            return NO_SOLUTION, size
        if size + m > len(stack):
            return STACK_FULL, size
        size -= 1
        active[:] = stack[size]
        u[:] = stack_u[size]
        status, value = _process_node(pairs, limit, active, u, best_u, count, work)
        if status == SOLUTION_FOUND:
            solution[:] = work.chosen
            return SOLUTION_FOUND, size
        if status == BRANCH:
            j = _branching_task(pairs, limit, active, count, work, value)
            size = _push_children(pairs, j, active, u, stack, stack_u, size, work)
    return (NODES_LEFT if size else NO_SOLUTION), size


@compiled(nogil=True)
def _process_node(pairs, limit, active, u, best_u, count, work):
    """Alternate subgradient steps and variable fixing at one node.

    Return (PRUNED | SOLUTION_FOUND | BRANCH, Lagrangian bound).
    """
    count[:] = 0
    for v in range(len(active)):
        count[pairs.task[v]] += active[v]
    value = np.int64(0)
    while True:
        best = np.int64(-(1 << 60))
        for _ in range(DUAL_STEPS):
            value = lagrangian_bound(pairs, u, active, count, work)
            if value > limit or value >= INFEASIBLE:
                return PRUNED, value
            if value > best:
                best = value
                best_u[:] = u
            if not subgradient_step(pairs, u, count, work, value, limit + 1):
                return SOLUTION_FOUND, value
        u[:] = best_u
        value = lagrangian_bound(pairs, u, active, count, work)
        pair_bounds(pairs, u, active, count, work, value)
        fixed = fix_variables(pairs, active, count, work, limit)
        if fixed < 0:
            return PRUNED, value
        if fixed < max(3, count.sum() // SMALLEST_FIXED_SHARE) and count.max() > 1:
            return BRANCH, value


@compiled(nogil=True)
def _branching_task(pairs, limit, active, count, work, value):
    """Return the task whose subtrees are expected to be smallest together.

    The size of a subtree is estimated as exp(-SIZE_DECAY * (bound of the child - value) / gap).
    """
    best_task, best = -1, np.inf
    for j in range(len(count)):
        if count[j] > 1:
            size = 0.0
            for p in range(pairs.task_start[j], pairs.task_start[j + 1]):
                v = pairs.by_task[p]
                if active[v]:
                    gap = limit + 1.0 - value
                    size += np.exp(-SIZE_DECAY * (work.pair_bound[v] - value) / gap)
            if size < best:
                best_task, best = j, size
    return best_task


@compiled(nogil=True)
def _push_children(pairs, j, active, u, stack, stack_u, size, work):
    """Push one child for each agent left to task j, the one with the lowest bound on top.

    Return the new number of open nodes.
    """
    first = size
    order = np.zeros(len(pairs.capacity), np.int64)
    for p in range(pairs.task_start[j], pairs.task_start[j + 1]):
        v = pairs.by_task[p]
        if active[v]:
            at = size - first
            while at > 0 and work.pair_bound[order[at - 1]] < work.pair_bound[v]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = v
            size += 1
    for child in range(first, size):
        stack[child] = active
        stack_u[child] = u
        for p in range(pairs.task_start[j], pairs.task_start[j + 1]):
            stack[child, pairs.by_task[p]] = 0
        stack[child, order[child - first]] = 1
    return size
