"""What an offline learner needs of its algorithm, and the settings that all algorithms share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from bench.contracts import LoggedDataset, TrainingLogger
from bench.logs.episodes import LoggedEpisodes
from solvers.networks.base import Network
from solvers.offline.buffer import OfflineBuffer


class OfflineAlgorithm(Protocol):
    """Trains networks on an `OfflineBuffer`, and can be saved and restored in between."""

    def train_epochs(
        self,
        buffer: OfflineBuffer,
        steps: int,
        steps_per_epoch: int,
        logger: TrainingLogger,
        first_step: int = 0,
    ) -> Iterator[int]:
        """Train from `first_step` to `steps`; after each epoch yield the number of steps done."""

    def saved_state(self) -> dict[str, Any]:
        """Return all that training needs to resume, as tensors, bytes and numbers."""

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Set the state that `saved_state` returned."""


class OfflineSettings(Protocol):
    """What `solvers.offline.training.OfflineTraining` needs of its learner."""

    logs: LoggedDataset
    held_out: float
    steps: int
    batch: int
    lr: float
    width: int
    message_passing_rounds: int
    window: int
    candidates: int
    selection: str
    fqe_steps: int

    def make_buffer(
        self, episodes: LoggedEpisodes, device: torch.device | None = None, seed: int = 0
    ) -> OfflineBuffer:
        """Return a new buffer of the transitions of `episodes`."""

    def make_algorithm(self, buffer: OfflineBuffer) -> OfflineAlgorithm:
        """Return a new algorithm for the observations of a buffer."""

    def extract_network(self, algorithm: OfflineAlgorithm, buffer: OfflineBuffer) -> Network:
        """Return a copy of the network that decides as the algorithm does now."""


@dataclass(frozen=True)
class CommonSettings:
    """Settings of every algorithm over pairs.

    Attributes
    ----------
    width, message_passing_rounds
        Size of each `PairwiseNetwork`.
    lr
        Initial learning rate; it decays to 0 over `steps` by a cosine.
    batch
        Transitions per gradient step.
    gamma
        Discount per decision.
    steps
        Gradient steps in all.
    """

    width: int
    message_passing_rounds: int
    lr: float
    batch: int
    gamma: float
    steps: int
