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
        fit = [
            (size, gain)
            for size, gain in items
            if gain > 0 and all(x <= y for x, y in zip(size, capacity, strict=True))
        ]
        scarce = [r for r, units in enumerate(capacity) if sum(size[r] for size, _ in fit) > units]
        reduced = [(tuple(size[r] for r in scarce), gain) for size, gain in fit]
        free = sum(gain for size, gain in reduced if not any(size))
        return free + (
            self._best([item for item in reduced if any(item[0])], [capacity[r] for r in scarce])
            if scarce
            else 0
        )

    def _best(self, items: list[Item], capacity: list[int]) -> int:
        """Dynamic programming over what is held, without the states that cannot lead to more than is reached already.

        They are known by a surrogate of the resources: items come by what they gain per unit of it, so those still to come gain
        no more than the next one. A state is one number: a field of bits per resource, then what is held of the surrogate.
        The highest bit of a field is set where more than the capacity is held.
        """
        most, held = _surrogate(items, capacity)
        order = _by_rate(items, held)
        *offset, top = itertools.accumulate(
            (units.bit_length() + 1 for units in capacity), initial=0
        )
        full = sum(1 << high - 1 for high in [*offset, top][1:])  # the highest bit of every field
        room = sum(
            ((1 << units.bit_length()) - 1 - units) << low
            for units, low in zip(capacity, offset, strict=True)
        )
        states, best = {room: 0}, _greedy([items[i] for i in order], capacity)  # held -> gain
        for i, after in zip(order, [*order[1:], None], strict=True):
            size, gain = items[i]
            more = (held[i] << top) + sum(x << low for x, low in zip(size, offset, strict=True))
            self._count(len(states))
            for state, reached in [
                (s + more, g + gain) for s, g in states.items() if not s + more & full
            ]:
                if states.get(state, -1) < reached:
                    states[state] = reached
                    best = max(best, reached)
            if after is not None and held[after]:
                unit, rate = held[after], items[after][1]
                states = {
                    s: g
                    for s, g in states.items()
                    if (best - g) * unit < (most - (s >> top)) * rate
                }
        return best

    def _count(self, states: int) -> None:
        self._steps += states
        if states > LARGEST_TABLE:
            raise UncheckableError(f"a knapsack takes more than {LARGEST_TABLE} states")
        if self._steps > LONGEST:
            raise UncheckableError(f"the knapsacks take more than {LONGEST} steps")


def _surrogate(items: list[Item], capacity: list[int]) -> tuple[int, list[int]]:
    """What there is of a resource that bounds the gain well, and what each item holds of it: one of them, or the mean share."""
    whole = math.lcm(*capacity)
    shares = [
        [whole // units * x for x, units in zip(size, capacity, strict=True)] for size, _ in items
    ]
    choices = [(whole, list(column)) for column in zip(*shares, strict=True)]
    choices.append((whole * len(capacity), [sum(row) for row in shares]))
    return min(choices, key=lambda choice: _relaxed(items, *choice))


def _relaxed(items: list[Item], most: int, held: list[int]) -> Fraction:
    """The largest gain of parts of items that hold no more than `most` (Dantzig 1957, doi:10.1287/opre.5.2.266)."""
    total = Fraction(0)
    for i in _by_rate(items, held):
        part = min(Fraction(1), Fraction(most, held[i])) if held[i] else 1
        total, most = total + part * items[i][1], most - min(most, held[i])
    return total


def _by_rate(items: list[Item], held: list[int]) -> list[int]:
    """The items by gain per unit held, those that hold nothing first."""
    return sorted(range(len(items)), key=lambda i: Fraction(held[i], items[i][1]))


def _greedy(items: list[Item], capacity: list[int]) -> int:
    """What is gained if each item in turn is taken where it still fits."""
    left, total = capacity, 0
    for size, gain in items:
        if all(x <= y for x, y in zip(size, left, strict=True)):
            left, total = [y - x for x, y in zip(size, left, strict=True)], total + gain
    return total
