"""The best set of tasks that fit an agent together: the 0/1 knapsack problem, solved exactly.

An item has one size per resource and a profit; R is the number of resources.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from fractions import Fraction

from bench.verify.fields import UncheckableError

MAX_STATES = 1_000_000  # states that one knapsack may hold at once
MAX_EXTENSIONS = 100_000_000  # states extended by an item, over all knapsacks of a proof: a minute

Item = tuple[tuple[int, ...], int]  # size in each resource, profit


class KnapsackSolver:
    """Solves knapsacks and keeps their optima, since many of one proof are equal.

    Its methods raise UncheckableError where the computation would take too long.
    """

    def __init__(self) -> None:
        self._solved: dict[tuple[tuple[int, ...], tuple[Item, ...]], int] = {}
        self._extensions = 0  # states extended so far

    def max_profit(self, items: Iterable[Item], capacity: Iterable[int]) -> int:
        """Return the largest total profit of items that fit `capacity` (R,) together."""
        key = tuple(capacity), tuple(items)
        if key not in self._solved:
            self._solved[key] = self._solve(*key)
        return self._solved[key]

    def _solve(self, capacity: tuple[int, ...], items: tuple[Item, ...]) -> int:
        """Return the optimum, after removing the resources that all items together fit.

        An item that then has no size is always taken.
        """
        useful = [
            (size, profit)
            for size, profit in items
            if profit > 0 and all(x <= y for x, y in zip(size, capacity, strict=True))
        ]
        scarce = [
            r for r, units in enumerate(capacity) if sum(size[r] for size, _ in useful) > units
        ]
        reduced = [(tuple(size[r] for r in scarce), profit) for size, profit in useful]
        free = sum(profit for size, profit in reduced if not any(size))
        if not scarce:
            return free
        competing = [item for item in reduced if any(item[0])]
        return free + self._dynamic_program(competing, [capacity[r] for r in scarce])

    def _dynamic_program(self, items: list[Item], capacity: list[int]) -> int:
        """Return the optimum by dynamic programming over what is held, with states pruned.

        A surrogate resource bounds what a state can still gain: items are added in the order of
        their profit per unit of it, so the items still to come gain no more per unit than the next
        one. A state that cannot get above the best profit found so far is dropped.

        A state is one integer. From the low bits up it holds a field of bits per resource, then
        the units held of the surrogate. A field starts at the value at which its highest bit is set
        if and only if more than the capacity is held, so one `&` tests all resources.
        """
        available, use = _surrogate(items, capacity)
        order = _by_efficiency(items, use)
        *offsets, top = itertools.accumulate(
            (units.bit_length() + 1 for units in capacity), initial=0
        )
        overflow = sum(1 << high - 1 for high in [*offsets, top][1:])  # highest bit of each field
        empty = sum(
            ((1 << units.bit_length()) - 1 - units) << low
            for units, low in zip(capacity, offsets, strict=True)
        )
        states = {empty: 0}  # state -> its largest profit
        best = _greedy([items[i] for i in order], capacity)
        for i, following in zip(order, [*order[1:], None], strict=True):
            size, profit = items[i]
            added = (use[i] << top) + sum(x << low for x, low in zip(size, offsets, strict=True))
            self._count(len(states))
            extended = [
                (state, p + profit)
                for s, p in states.items()
                if not (state := s + added) & overflow
            ]
            for state, reached in extended:
                if states.get(state, -1) < reached:
                    states[state] = reached
                    best = max(best, reached)
            if following is not None and use[following]:
                unit = use[following]
                rate = items[following][1]
                states = {
                    s: p
                    for s, p in states.items()
                    if (best - p) * unit < (available - (s >> top)) * rate
                }
        return best

    def _count(self, states: int) -> None:
        self._extensions += states
        if states > MAX_STATES:
            raise UncheckableError(f"a knapsack takes more than {MAX_STATES} states")
        if self._extensions > MAX_EXTENSIONS:
            raise UncheckableError(f"the knapsacks take more than {MAX_EXTENSIONS} steps")


def _surrogate(items: list[Item], capacity: list[int]) -> tuple[int, list[int]]:
    """Return a surrogate resource: the units available, and the units that each item uses.

    It is one of the resources or the mean share of all, whichever bounds the profit best.
    """
    common = math.lcm(*capacity)
    shares = [
        [common // units * x for x, units in zip(size, capacity, strict=True)] for size, _ in items
    ]
    choices = [(common, list(column)) for column in zip(*shares, strict=True)]
    choices.append((common * len(capacity), [sum(row) for row in shares]))
    return min(choices, key=lambda choice: _fractional_bound(items, *choice))


def _fractional_bound(items: list[Item], available: int, use: list[int]) -> Fraction:
    """Return the optimum of the fractional knapsack (Dantzig 1957, doi:10.1287/opre.5.2.266)."""
    total = Fraction(0)
    for i in _by_efficiency(items, use):
        part = min(Fraction(1), Fraction(available, use[i])) if use[i] else 1
        total += part * items[i][1]
        available -= min(available, use[i])
    return total


def _by_efficiency(items: list[Item], use: list[int]) -> list[int]:
    """Return the items by falling profit per unit used, those that use nothing first."""
    return sorted(range(len(items)), key=lambda i: Fraction(use[i], items[i][1]))


def _greedy(items: list[Item], capacity: list[int]) -> int:
    """Return the profit of taking each item in turn where it still fits."""
    left = capacity
    total = 0
    for size, profit in items:
        if all(x <= y for x, y in zip(size, left, strict=True)):
            left = [y - x for x, y in zip(size, left, strict=True)]
            total += profit
    return total
