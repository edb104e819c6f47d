"""How a dispatch rule orders the queue, in a form that compiled code can apply to long traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.observation import Observation


class QueueOrder(NamedTuple):
    """The keys of a rule that starts tasks by ascending key, each on its best legal agent.

    Equal keys go by (release, index). The best agent has the earliest visible completion, then the
    least leftover capacity, then the lowest index.
    """

    # (P,) the keys; with `waiting` (P, 2) divisor and factor of each key; never NaN
    values: Callable[[Observation], NDArray[Any]]
    skip: bool  # whether a task that fits may overtake one that does not
    # whether keys are -(seconds waited + offset_seconds) / divisor * factor
    waiting: bool = False
    offset_seconds: float = 0.0


def sum_of_fractions(units: NDArray[Any], total: NDArray[Any]) -> NDArray[np.float64]:
    """Return units (..., R) / total (R,), summed over the resources in their order.

    Compiled code adds in this order too, so that agents with the same leftover capacity are equal
    in both.
    """
    result = np.zeros(units.shape[:-1])
    for r in range(units.shape[-1]):
        result += units[..., r] / total[r]
    return result
