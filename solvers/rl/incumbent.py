"""The best episode that a search in the simulator has found, and the effort spent on finding it."""

from __future__ import annotations

import time

import numpy as np
from torch import Tensor

from bench.contracts import Result
from bench.schedule import Schedule
from bench.simulator.tensors import TensorSimulator


class Incumbent:
    """The best episode so far of one instance, the effort so far, and the limit of seconds.

    Attributes
    ----------
    best_return
        Return of the best episode, -inf before the first one.
    episode
        Its number.
    dead_end
        Whether it left tasks out; also true before the first episode.
    schedule
        Its schedule.
    episodes_played, decisions
        The effort: episodes, and decisions in all environments together.
    trajectory
        (seconds, objective, bound) of each improvement by an episode that is no dead end.
    """

    def __init__(self, seconds: float) -> None:
        self._start = time.perf_counter()
        self._seconds = seconds
        self.best_return = -np.inf
        self.episode = 0
        self.dead_end = True
        self.schedule = Schedule.empty()
        self.episodes_played = 0
        self.decisions = 0
        self.trajectory: list[tuple[float, float, float]] = []

    @property
    def seconds_spent(self) -> float:
        """Seconds since the search began."""
        return time.perf_counter() - self._start

    @property
    def seconds_remaining(self) -> float:
        """Seconds until the limit, at least 0."""
        return max(0.0, self._seconds - self.seconds_spent)

    @property
    def out_of_time(self) -> bool:
        """Whether the limit is exceeded."""
        return self.seconds_spent > self._seconds

    def offer(self, simulator: TensorSimulator, returns: Tensor, first: int = 0) -> None:
        """Keep the best episode of `simulator` if it is better than the incumbent.

        Parameters
        ----------
        simulator
            B environments of one instance.
        returns
            (B,) float64, -inf where an environment has not finished.
        first
            Environment b played the episode number `first` + b.
        """
        b = int(returns.argmax())  # the first of equal ones
        best_return = float(returns[b])
        if best_return <= self.best_return:
            return
        host = simulator.host()
        self.best_return = best_return
        self.episode = first + b
        self.dead_end = host.dead_end(b)
        self.schedule = host.schedule(b)
        if not self.dead_end:
            objective = -best_return * float(host.scale[0])
            self.trajectory.append((self.seconds_spent, objective, -np.inf))

    def result(self, settings: dict[str, str | float]) -> Result:
        """Return the best episode, with `settings` and the effort as `Result.info`."""
        info = settings | {
            "played": self.episodes_played,
            "best": self.episode,
            "decisions": self.decisions,
            "objective": None if self.dead_end else self.trajectory[-1][1],
            "seconds": self.seconds_spent,
        }
        return Result(
            self.schedule,
            "infeasible" if self.dead_end else "feasible",
            trajectory=tuple(self.trajectory),
            info=info,
        )
