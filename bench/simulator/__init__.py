"""The simulator: many environments over one compiled transition function.

It implements the decision process of `bench/docs/problem.md`, section 5.
"""

from bench.simulator.batch import IllegalAction, Simulator, ends_are_certain

__all__ = ["IllegalAction", "Simulator", "ends_are_certain"]
