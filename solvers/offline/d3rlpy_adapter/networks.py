"""Pair networks as the encoders and Q functions of d3rlpy."""

from __future__ import annotations

import dataclasses
from typing import Any

from d3rlpy.models.encoders import EncoderFactory, register_encoder_factory
from d3rlpy.models.q_functions import QFunctionFactory, register_q_func_factory
from d3rlpy.models.torch import Encoder
from d3rlpy.models.torch.q_functions import (
    DiscreteMeanQFunctionForwarder,
    DiscreteQFunction,
    DiscreteQRQFunctionForwarder,
    QFunctionOutput,
)
from d3rlpy.models.torch.q_functions.qr_q_function import _make_taus
from torch import Tensor

from bench.simulator.view import Layout
from solvers.networks.pairwise import PairwiseNetwork
from solvers.offline.buffer import StateFeatures, q_values, state_features

ILLEGAL = -1e8  # value and log-probability of an illegal action


class PairEncoder(Encoder):
    """A `PairwiseNetwork` in the place of an encoder of d3rlpy; it outputs masked logits (B, A)."""

    def __init__(self, network: PairwiseNetwork, layout: Layout, objective: str) -> None:
        super().__init__()
        self.network = network
        self.layout = layout
        self.objective = objective

    def state_features(self, x: Any) -> StateFeatures:
        """Return the features of a batch of flat observations, or `x` if it is features already."""
        return x if isinstance(x, StateFeatures) else state_features(x, self.layout, self.objective)

    def forward(self, x: Any) -> Tensor:
        """Return logits (B, A), ILLEGAL where illegal."""
        logits, _ = self.network(self.state_features(x).features)
        return logits.clamp(min=ILLEGAL)

    def q(self, x: Any) -> Tensor:
        """Return Q values (B, A) or, with n outputs, quantiles (B, A, n); ILLEGAL where illegal."""
        state = self.state_features(x)
        legal = state.mask if self.network.outputs == 1 else state.mask[..., None]
        return q_values(self.network, state).masked_fill(~legal, ILLEGAL)


@dataclasses.dataclass()
class PairEncoderFactory(EncoderFactory):
    """Makes `PairEncoder`s for the layout (K, M, R) and the objective of a log."""

    layout: tuple[int, int, int]
    objective: str
    width: int = 32
    message_passing_rounds: int = 2
    outputs: int = 1

    def create(self, observation_shape: Any) -> PairEncoder:
        """Return an encoder with a new network."""
        network = PairwiseNetwork(self.width, self.message_passing_rounds, self.outputs)
        return PairEncoder(network, Layout(*self.layout), self.objective)

    @staticmethod
    def get_type() -> str:
        """Return the name that d3rlpy registers it by."""
        return "pairs"


class PairQFunction(DiscreteQFunction):
    """The Q function of a `PairEncoder`: of the mean return, or of its quantiles."""

    def __init__(self, encoder: PairEncoder) -> None:
        super().__init__()
        self._encoder = encoder

    def forward(self, x: Any) -> QFunctionOutput:
        """Return Q values (B, A), and quantiles (B, A, n) where the network has n > 1 outputs."""
        q = self._encoder.q(x)
        count = self._encoder.network.outputs
        if count == 1:
            return QFunctionOutput(q_value=q, quantiles=None, taus=None)
        return QFunctionOutput(q_value=q.mean(dim=2), quantiles=q, taus=_make_taus(count, q.device))

    @property
    def encoder(self) -> PairEncoder:
        """Its encoder."""
        return self._encoder


@dataclasses.dataclass()
class PairQFunctionFactory(QFunctionFactory):
    """Makes `PairQFunction`s, with the losses of d3rlpy.

    With `quantiles` > 1 they are those of QR-DQN (Dabney et al. 2018, arXiv:1710.10044).
    """

    quantiles: int = 1

    def create_discrete(self, encoder: Any, hidden_size: int, action_size: int) -> tuple[Any, Any]:
        """Return the Q function and the forwarder that computes its loss."""
        q = PairQFunction(encoder)
        if self.quantiles == 1:
            return q, DiscreteMeanQFunctionForwarder(q, action_size)
        return q, DiscreteQRQFunctionForwarder(q, self.quantiles)

    @staticmethod
    def get_type() -> str:
        """Return the name that d3rlpy registers it by."""
        return "pairs"


register_encoder_factory(PairEncoderFactory)
register_q_func_factory(PairQFunctionFactory)
