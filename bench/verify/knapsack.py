"""The best set of tasks that fit an agent together: a 0/1 knapsack with as many sizes as resources, solved exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from fractions import Fraction

from bench.verify.fields import UncheckableError

LARGEST_TABLE = 1_000_000  # states that one knapsack may hold at once
LONGEST = 100_000_000  # states extended by a task, over all knapsacks of a proof: about a minute

Item = tuple[tuple[int, ...], int]  # units of each resource, gain


class Knapsacks:
    """Solves knapsacks and remembers them; raises UncheckableError where that would take too long."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[int, ...], tuple[Item, ...]], int] = {}
        self._steps = 0  # states extended so far

    def most(self, items: Iterable[Item], capacity: Iterable[int]) -> int:
        """The largest total gain of items that fit `capacity` (R,) together."""
        key = tuple(capacity), tuple(items)
        if key not in self._known:
            self._known[key] = self._solve(*key)
        return self._known[key]

    def _solve(self, capacity: tuple[int, ...], items: tuple[Item, ...]) -> int:
        """What nobody has to share, and the best of the rest, over the resources that it can exceed."""
        fit = [(size, gain) for size, gain in items if gain > 0 and all(x <= y for x, y in zip(size, capacity, strict=True))]
        scarce = [r for r, units in enumerate(capacity) if sum(size[r] for size, _ in fit) > units]
        reduced = [(tuple(size[r] for r in scarce), gain) for size, gain in fit]
        free = sum(gain for size, gain in reduced if not any(size))
        return free + self._best([item for item in reduced if any(item[0])], [capacity[r] for r in scarce])

    def _best(self, items: list[Item], capacity: list[int]) -> int:
        """Dynamic programming over what is held, without the states that cannot lead to more than is reached already.

        Of a surrogate resource (the sum over resources of the share held) the items still to come gain per unit no more than the
        next one, as they come by gain per unit (Dantzig 1957, doi:10.1287/opre.5.2.266). A state is one number with a field of
        bits for each resource and, on top, the surrogate. The highest bit of a field, 0 at first, is set where more than the
        capacity is held.
        """
        whole = math.lcm(*capacity)  # of the surrogate; an agent has this of each resource
        held = [sum(whole // units * x for x, units in zip(size, capacity, strict=True)) for size, _ in items]
        order = sorted(range(len(items)), key=lambda i: Fraction(items[i][1], held[i]), reverse=True)
        *offset, top = itertools.accumulate((units.bit_length() + 1 for units in capacity), initial=0)
        full = sum(1 << high - 1 for high in [*offset, top][1:])  # the highest bit of every field
        room = sum(((1 << units.bit_length()) - 1 - units) << low for units, low in zip(capacity, offset, strict=True))
        states, best = {room: 0}, _greedy([items[i] for i in order], capacity)  # held -> gain
        for i, after in zip(order, [*order[1:], None], strict=True):
            size, gain = items[i]
            more = (held[i] << top) + sum(x << low for x, low in zip(size, offset, strict=True))
            self._count(len(states))
            for state, reached in [(s + more, g + gain) for s, g in states.items() if not s + more & full]:
                if states.get(state, -1) < reached:
                    states[state] = reached
                    best = max(best, reached)
            if after is not None:
                (_, rate), unit, most = items[after], held[after], whole * len(capacity)
                states = {s: g for s, g in states.items() if (best - g) * unit < (most - (s >> top)) * rate}
        return best

    def _count(self, states: int) -> None:
        self._steps += states
        if states > LARGEST_TABLE:
            raise UncheckableError(f"a knapsack takes more than {LARGEST_TABLE} states")
        if self._steps > LONGEST:
            raise UncheckableError(f"the knapsacks take more than {LONGEST} steps")


def _greedy(items: list[Item], capacity: list[int]) -> int:
    """What is gained if each item in turn is taken where it still fits."""
    left, total = capacity, 0
    for size, gain in items:
        if all(x <= y for x, y in zip(size, left, strict=True)):
            left, total = [y - x for x, y in zip(size, left, strict=True)], total + gain
    return total
