"""How a dispatch rule orders the queue, in a form that compiled code can apply to long traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from bench.observation import Observation


class QueueOrder(NamedTuple):
    """The keys of a rule that starts tasks by ascending key, each on its best legal agent.

    Equal keys go by (release, index). The best agent has the earliest visible completion, then the
    least leftover capacity, then the lowest index.
    """

    values: Callable[[Observation], NDArray[Any]]  # (P,) a key, or the slope of one, of each task
    skip: bool  # whether a task that fits may overtake one that does not
    grows: bool = False  # whether keys are -(seconds waited + offset_seconds) * values
    offset_seconds: float = 0.0
