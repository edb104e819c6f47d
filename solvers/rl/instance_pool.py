"""Training instances without end: a pool of them that is renewed while a training goes on."""

from __future__ import annotations

from typing import Any

from bench.contracts import Dataset
from bench.errors import UserError
from bench.simulator.tables import INSTANCE
from bench.simulator.tensors import TensorSimulator


class InstancePool:
    """Renews the instances of the training environments from an endless train split.

    The oldest instances that no environment is playing give way to new ones, so that each is played
    `episodes_per_instance` times on average. Which instance comes when depends on the training
    alone: a resumed training meets the same ones.

    Parameters
    ----------
    data
        Its train split is endless; the simulator began with the instances that the split holds.
    simulator
        The training environments.
    episodes_per_instance
        Episodes for which an instance stays, on average.
    """

    def __init__(
        self, data: Dataset, simulator: TensorSimulator, episodes_per_instance: float
    ) -> None:
        self.data = data
        self.simulator = simulator
        self.episodes_per_instance = episodes_per_instance
        self.indices = list(range(len(simulator.instances)))  # row -> index in the train split
        self.due = 0.0  # instances to be renewed
        self.rank, self.size = 0, 1

    def take_turns(self, rank: int, size: int) -> None:
        """Draw only every `size`-th instance: processes that train together draw different ones."""
        self.rank, self.size = rank, size

    def renew(self, episodes: float) -> None:
        """Renew the instances that are due after `episodes` more episodes."""
        self.due += episodes / self.episodes_per_instance
        playing = set(self.simulator.state.env[:, INSTANCE].tolist())
        idle = [row for row in range(len(self.indices)) if row not in playing]
        oldest = sorted(idle, key=lambda row: self.indices[row])[: int(self.due)]
        self.due -= len(oldest)
        first = max(self.indices) + 1
        first += (self.rank - first) % self.size
        self._draw(oldest, [first + self.size * i for i in range(len(oldest))])

    def _draw(self, rows: list[int], indices: list[int]) -> None:
        """Let the instances `indices` of the train split take the place of the rows."""
        try:
            new = [self.data.training_instance(index) for index in indices]
            self.simulator.replace(rows, new)
        except ValueError as error:
            raise UserError(
                f"dataset.train: value endless: one of the instances {indices[0]} to "
                f"{indices[-1]} is larger than all of the first {len(self.indices)} ({error}); "
                "train on a fixed number"
            ) from error
        for row, index in zip(rows, indices, strict=True):
            self.indices[row] = index

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on."""
        return {"indices": list(self.indices), "due": self.due}

    def restore(self, state: dict[str, Any]) -> None:
        """Draw the instances of the pool again that `state` describes."""
        rows = [row for row, index in enumerate(state["indices"]) if index != self.indices[row]]
        if rows:
            self._draw(rows, [state["indices"][row] for row in rows])
        self.due = state["due"]
