"""The policy of batch-constrained Q-learning: the best action by value among the likely ones.

Source: Fujimoto et al. 2019, "Benchmarking Batch Deep Reinforcement Learning Algorithms",
arXiv:1910.01708.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from solvers.networks.base import Network
from solvers.networks.features import Features
from solvers.networks.pairwise import PairwiseNetwork


class ConstrainedNetwork(Network):
    """A Q function whose choice is constrained to the actions that an imitator finds likely.

    The logits are the scores of the Q function. They are -inf where an action is illegal, or less
    likely than `flexibility` times the likeliest action (eq. 12 of the paper).

    Parameters
    ----------
    width
        Units of every layer of both networks.
    message_passing_rounds
        Message passing layers of both networks.
    flexibility
        The threshold tau of the paper, in (0, 1].
    """

    kind = "constrained"
    former_names: ClassVar = {"values": "q_network"}

    def __init__(
        self, width: int = 32, message_passing_rounds: int = 2, flexibility: float = 0.3
    ) -> None:
        super().__init__()
        self.flexibility = flexibility
        self.imitator = PairwiseNetwork(width, message_passing_rounds)
        self.q_network = PairwiseNetwork(width, message_passing_rounds)

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments with which the constructor builds a network of this shape."""
        return {
            "width": self.q_network.width,
            "message_passing_rounds": self.q_network.message_passing_rounds,
            "flexibility": self.flexibility,
        }

    def forward(self, f: Features) -> tuple[Tensor, Tensor]:
        """Return logits (B, K * M + 1) and values (B,)."""
        imitation, _ = self.imitator(f)
        logits, value = self.q_network(f)
        log_ratio = imitation - imitation.amax(dim=1, keepdim=True)
        unlikely = log_ratio < math.log(self.flexibility)
        return logits.masked_fill(unlikely, -torch.inf), value
