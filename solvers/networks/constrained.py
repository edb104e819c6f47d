"""The two networks of batch-constrained Q-learning as one: the best action by value among those an imitator finds likely."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from solvers.networks.features import Features
from solvers.networks.pairwise import Network, PairNetwork


class ConstrainedNetwork(Network):
    """Logits are the values' scores, -inf also where an action is less likely than `flexibility` times the likeliest one.

    Fujimoto et al. 2019, "Benchmarking Batch Deep Reinforcement Learning Algorithms", arXiv:1910.01708, eq. 12.
    """

    def __init__(self, width: int = 32, rounds: int = 2, flexibility: float = 0.3) -> None:
        super().__init__()
        self.flexibility = flexibility
        self.imitator, self.values = PairNetwork(width, rounds), PairNetwork(width, rounds)

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments that build a network of this shape."""
        return {
            "width": self.values.width,
            "rounds": self.values.rounds,
            "flexibility": self.flexibility,
        }

    def forward(self, f: Features) -> tuple[Tensor, Tensor]:
        """Logits (B, K * M + 1) and values (B,)."""
        likely, _ = self.imitator(f)
        logits, value = self.values(f)
        unlikely = likely - likely.amax(dim=1, keepdim=True) < math.log(self.flexibility)
        return logits.masked_fill(unlikely, -torch.inf), value
