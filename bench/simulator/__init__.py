"""The simulator: many environments at once over one compiled transition function (SPEC section 5)."""

from bench.simulator.batch import IllegalAction, Simulator, knows_ends

__all__ = ["IllegalAction", "Simulator", "knows_ends"]
