"""Depth-first search for a generalised assignment that costs no more than a limit, pruned by the Lagrangian dual.

Posed as a decision, as in Posta, Ferland & Michelon 2012 (doi:10.1007/s10589-011-9432-0): a low limit lets the dual drop nearly
all pairs, and an empty tree proves that every assignment costs more. At each node: a few dual steps, the bound of every pair,
pairs above the limit dropped, until that stalls; then a task is split, one child for each agent it has left.
"""

from __future__ import annotations

import time
from threading import Event

import numba
import numpy as np

from bench.instance import Ints
from solvers.exact.assignment.dual import (
    NEVER,
    Core,
    Flags,
    Work,
    ascend,
    bound,
    drop_pairs,
    pair_bounds,
)

EMPTY, FOUND, OPEN, FULL = range(
    4
)  # nothing within the limit; a solution; nodes are left; the stack has to grow
PRUNED, SPLIT = 4, 5
STEPS = 8  # dual steps per round at a node
LARGEST_STACK = 2**32  # bytes
MOST_NODES = 256  # between two looks at the clock
FEW = 100  # another round is worth it where at least a share of 1 / FEW of the pairs, and 3, were dropped
DECAY = 1.0  # a child whose bound covers the whole gap counts exp(-DECAY) as much as one that has not moved


class Tree:
    """A stack of open nodes over the pairs of one core; `explore` goes on where it was."""

    def __init__(
        self, core: Core, limit: int, alive: Flags, u: Ints, work: Work | None = None
    ) -> None:
        """Nodes `alive` (K, V) with multipliers `u` (K, N); `limit` on the scaled cost. `work`: memory no one else uses."""
        self.core, self.limit, self.size = core, limit, len(alive)
        self.solution = np.zeros(len(core.task), np.uint8)
        self._alive, self._u = alive.copy(), u.copy()
        self._work = work or Work.of(core)
        self.latest = 0.0  # seconds of the latest exploration

    def explore(self, seconds: float, halt: Event | None = None) -> int:
        """For about `seconds` or until `halt`: EMPTY, FOUND (in `solution` (V,)) or OPEN. Without the interpreter's lock."""
        began, status, nodes = time.perf_counter(), FULL, 1
        while status == FULL or (
            status == OPEN
            and time.perf_counter() - began < seconds
            and not (halt and halt.is_set())
        ):
            if not self._reserve():
                status = OPEN
                break
            status, self.size = _explore(
                self.core,
                self.limit,
                self._alive,
                self._u,
                self.size,
                nodes,
                self.solution,
                self._work,
            )
            nodes = min(2 * nodes, MOST_NODES)
        self.latest = time.perf_counter() - began
        return status

    def split(self) -> Tree | None:
        """The older half of the open nodes as a tree of their own, for another thread; None where there is one or none."""
        half = self.size // 2
        if not half:
            return None
        other = Tree(self.core, self.limit, self._alive[:half], self._u[:half])
        self._alive[: self.size - half] = self._alive[half : self.size]
        self._u[: self.size - half] = self._u[half : self.size]
        self.size -= half
        return other

    def _reserve(self) -> bool:
        """Room for twice the open nodes, and for a dive from the top; False where that takes more than LARGEST_STACK."""
        rows = 2 * self.size + len(self.core.capacity) + 64
        if rows > len(self._alive):
            more = rows - self.size
            if rows * (self._alive.shape[1] + 8 * self._u.shape[1]) > LARGEST_STACK:
                return False
            self._alive = np.concatenate(
                [self._alive[: self.size], np.zeros((more, self._alive.shape[1]), np.uint8)]
            )
            self._u = np.concatenate(
                [self._u[: self.size], np.zeros((more, self._u.shape[1]), np.int64)]
            )
        return True


@numba.njit(cache=True, nogil=True)
def _explore(core, limit, stack, stack_u, size, nodes, solution, work):
    """(status, open nodes)."""
    n, m = stack_u.shape[1], len(core.capacity)
    alive = np.zeros(stack.shape[1], np.uint8)
    u, best_u, count = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    for _ in range(nodes):
        if size == 0:
            return EMPTY, size
        if size + m > len(stack):
            return FULL, size
        size -= 1
        alive[:] = stack[size]
        u[:] = stack_u[size]
        status, value = _reduce(core, limit, alive, u, best_u, count, work)
        if status == FOUND:
            solution[:] = work.chosen
            return FOUND, size
        if status == SPLIT:
            j = _task_to_split(core, limit, alive, count, work, value)
            size = _push(core, j, alive, u, stack, stack_u, size, work)
    return (OPEN if size else EMPTY), size


@numba.njit(cache=True, nogil=True)
def _reduce(core, limit, alive, u, best_u, count, work):
    """Dual steps and dropping at one node: (PRUNED | FOUND | SPLIT, value of the dual)."""
    count[:] = 0
    for v in range(len(alive)):
        count[core.task[v]] += alive[v]
    value = np.int64(0)
    while True:
        best = np.int64(-(1 << 60))
        for _ in range(STEPS):
            value = bound(core, u, alive, count, work)
            if value > limit or value >= NEVER:
                return PRUNED, value
            if value > best:
                best = value
                best_u[:] = u
            if not ascend(core, u, count, work, value, limit + 1):
                return FOUND, value
        u[:] = best_u
        value = bound(core, u, alive, count, work)
        pair_bounds(core, u, alive, count, work, value)
        dropped = drop_pairs(core, alive, count, work, limit)
        if dropped < 0:
            return PRUNED, value
        if dropped < max(3, count.sum() // FEW) and count.max() > 1:
            return SPLIT, value


@numba.njit(cache=True, nogil=True)
def _task_to_split(core, limit, alive, count, work, value):
    """The task whose children look smallest together: least sum of exp(-DECAY * (child's bound - value) / gap)."""
    best_task, best = -1, np.inf
    for j in range(len(count)):
        if count[j] > 1:
            size = 0.0
            for p in range(core.task_start[j], core.task_start[j + 1]):
                v = core.by_task[p]
                if alive[v]:
                    size += np.exp(-DECAY * (work.bound[v] - value) / (limit + 1.0 - value))
            if size < best:
                best_task, best = j, size
    return best_task


@numba.njit(cache=True, nogil=True)
def _push(core, j, alive, u, stack, stack_u, size, work):
    """One child for each agent left to task j, that of the lowest bound on top; the new size of the stack."""
    first = size
    order = np.zeros(len(core.capacity), np.int64)
    for p in range(core.task_start[j], core.task_start[j + 1]):
        v = core.by_task[p]
        if alive[v]:
            at = size - first
            while at > 0 and work.bound[order[at - 1]] < work.bound[v]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = v
            size += 1
    for child in range(first, size):
        stack[child] = alive
        stack_u[child] = u
        for p in range(core.task_start[j], core.task_start[j + 1]):
            stack[child, core.by_task[p]] = 0
        stack[child, order[child - first]] = 1
    return size
