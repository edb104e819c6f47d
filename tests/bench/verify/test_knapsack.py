"""The knapsack solver against enumeration of all sets of items."""

from __future__ import annotations

import itertools

import numpy as np

from bench.instance import Instance
from bench.verify.knapsack import KnapsackSolver
from bench.verify.problem import ExactObjective, ExactProblem
from bench.verify.proofs import proven_bound


def test_knapsack_with_many_sizes_is_exact() -> None:
    rng = np.random.default_rng(8)
    for _ in range(300):
        n, r = int(rng.integers(1, 10)), int(rng.integers(1, 4))
        sizes = rng.integers(0, rng.integers(1, 9, r) + 1, (n, r))
        profits = rng.integers(0, 12, n)
        profits = 3 * sizes[:, 0] if rng.random() < 0.2 else profits  # so that many sets tie
        capacity = rng.integers(0, 20, r)
        sets = np.array(list(itertools.product([0, 1], repeat=n)), int).reshape(-1, n)
        fits = (sets @ sizes <= capacity).all(axis=1)
        best = int((sets @ profits)[fits].max())
        items = list(zip(map(tuple, sizes.tolist()), profits.tolist(), strict=True))
        assert KnapsackSolver().max_profit(items, capacity.tolist()) == best


def test_knapsack_of_a_multiplier_proof_is_exact() -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        sizes = rng.integers(0, 9, 6).tolist()
        profits = rng.integers(-3, 12, 6).tolist()
        capacity = max(int(rng.integers(0, 25)), *sizes)
        demand = [[[size]] for size in sizes]
        instance = Instance([[100]] * 6, demand, [[capacity]], [0], sharing="budget")
        proof = {
            "kind": "knapsack_multipliers",
            "scale": 1,
            "multipliers": [100 + profit for profit in profits],
            "resource": [0],
        }
        sets = (s for k in range(7) for s in itertools.combinations(range(6), k))
        best = max(sum(profits[j] for j in s) for s in sets if sum(sizes[j] for j in s) <= capacity)
        problem = ExactProblem(instance)
        shown = proven_bound(problem, ExactObjective(problem, "total_time"), proof)
        assert shown == 600 + sum(profits) - best
