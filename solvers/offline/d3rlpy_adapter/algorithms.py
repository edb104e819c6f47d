"""The Q-learning and imitation algorithms of d3rlpy, with masks and on pair networks.

A class names its d3rlpy algorithm and configuration; `create` makes an instance. A learner names
its class directly (`solvers.offline.learners`): there is no list of algorithms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import d3rlpy
import torch
from d3rlpy.algos.qlearning.torch.bcq_impl import DiscreteBCQImpl
from d3rlpy.algos.qlearning.torch.cql_impl import DiscreteCQLImpl, DiscreteCQLLoss
from d3rlpy.algos.qlearning.torch.sac_impl import DiscreteSACImpl
from d3rlpy.torch_utility import TorchMiniBatch
from torch import Tensor, nn

from solvers.networks.pairwise import PairwiseNetwork
from solvers.offline.algorithm import CommonSettings
from solvers.offline.buffer import OfflineBuffer
from solvers.offline.d3rlpy_adapter.networks import (
    ILLEGAL,
    PairEncoderFactory,
    PairQFunctionFactory,
)
from solvers.offline.d3rlpy_adapter.training import TrainsFromOfflineBuffer, device_name


class PairAlgorithm(TrainsFromOfflineBuffer):
    """Base of the algorithms below, beside the class of d3rlpy.

    Attributes
    ----------
    config_class
        The configuration of d3rlpy.
    constants
        Values of the configuration that are the same for every learner.
    network_prefixes
        Prefixes of the configuration's fields `encoder_factory`, `optim_factory`, `learning_rate`.
    """

    config_class: ClassVar[type]
    constants: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    network_prefixes: ClassVar[tuple[str, ...]] = ("",)

    @classmethod
    def create(
        cls, buffer: OfflineBuffer, settings: CommonSettings, quantiles: int = 1, **values: Any
    ) -> Self:
        """Return the algorithm with new networks for the observations of a buffer.

        Parameters
        ----------
        buffer
            Names the layout, the objective and the device.
        settings
            The settings that all algorithms share.
        quantiles
            Outputs per action of each network: quantiles of the return, or 1 for its mean.
        values
            Further fields of `config_class`.
        """
        layout = buffer.layout
        optimizer = optimizer_factory(settings.steps)
        encoder = PairEncoderFactory(
            tuple(layout),
            buffer.episodes.objective,
            settings.width,
            settings.message_passing_rounds,
            quantiles,
        )
        for prefix in cls.network_prefixes:
            values.setdefault(f"{prefix}optim_factory", optimizer)
            values[f"{prefix}encoder_factory"] = encoder
            values.setdefault(f"{prefix}learning_rate", settings.lr)
        config = cls.config_class(
            batch_size=settings.batch, gamma=settings.gamma, **cls.constants, **values
        )
        make: Any = cls  # the constructor is d3rlpy's
        algorithm = make(config, device_name(buffer.device), False)
        algorithm.create_impl((layout.size,), layout.actions)
        return algorithm


def optimizer_factory(steps: int) -> Any:
    """Return d3rlpy's factory of optimizers whose learning rate falls to 0 in `steps` steps."""
    schedule = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=steps)
    return d3rlpy.optimizers.AdamFactory(clip_grad_norm=1.0, lr_scheduler_factory=schedule)


class PairQAlgorithm(PairAlgorithm):
    """Base of the algorithms with a Q function."""

    @classmethod
    def create(
        cls, buffer: OfflineBuffer, settings: CommonSettings, quantiles: int = 1, **values: Any
    ) -> Self:
        """Return the algorithm with new networks, see `PairAlgorithm.create`."""
        factory = PairQFunctionFactory(quantiles=quantiles)
        return super().create(buffer, settings, quantiles, q_func_factory=factory, **values)

    @property
    def q_network(self: Any) -> PairwiseNetwork:
        """The network of its Q function."""
        network: PairwiseNetwork = self.impl.q_function[0].encoder.network
        return network


def _use_implementation(algorithm: Any, implementation: type) -> None:
    """Replace the class of an algorithm's implementation.

    This is how our methods get in: d3rlpy's `inner_create_impl` fixes the class that it makes.
    """
    algorithm._impl.__class__ = implementation


def _use_logits_of_encoder(policy: Any) -> None:
    """Remove the last layer of a CategoricalPolicy, as its encoder's output are logits already."""
    policy._fc = nn.Identity()


class BC(PairAlgorithm, d3rlpy.algos.DiscreteBC):
    """Behavioural cloning (Pomerleau 1991)."""

    config_class = d3rlpy.algos.DiscreteBCConfig
    constants = MappingProxyType({"beta": 0.0})

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """Create d3rlpy's implementation, with a policy over pairs."""
        super().inner_create_impl(observation_shape, action_size)
        _use_logits_of_encoder(self._impl.modules.imitator)

    @property
    def policy_network(self: Any) -> PairwiseNetwork:
        """The network of its policy."""
        network: PairwiseNetwork = self.impl.modules.imitator._encoder.network
        return network


class DQN(PairQAlgorithm, d3rlpy.algos.DQN):
    """Deep Q-network (Mnih et al. 2015)."""

    config_class = d3rlpy.algos.DQNConfig


class DoubleDQN(PairQAlgorithm, d3rlpy.algos.DoubleDQN):
    """Double DQN (van Hasselt et al. 2016, arXiv:1509.06461)."""

    config_class = d3rlpy.algos.DoubleDQNConfig


class NFQ(PairQAlgorithm, d3rlpy.algos.NFQ):
    """Neural fitted Q iteration (Riedmiller 2005)."""

    config_class = d3rlpy.algos.NFQConfig


class StockCQL(PairQAlgorithm, d3rlpy.algos.DiscreteCQL):
    """Conservative Q-learning (Kumar et al. 2020, arXiv:2006.04779) with d3rlpy's own loss.

    The loss evaluates the network twice per step. `CQL` computes the same with one evaluation.
    """

    config_class = d3rlpy.algos.DiscreteCQLConfig


class SinglePassCQLImpl(DiscreteCQLImpl):
    """d3rlpy's CQL with one evaluation of the network for both of its loss terms."""

    def compute_loss(self, batch: TorchMiniBatch, q_tpn: Tensor) -> DiscreteCQLLoss:
        """Return the loss of eq. 4 of the paper, with a uniform prior."""
        function = self._modules.q_funcs[0]
        output = function(batch.observations)
        forwarder = self._q_func_forwarder._forwarders[0]
        forwarder.set_q_func(lambda _: output)
        try:
            return super().compute_loss(batch, q_tpn)
        finally:
            forwarder.set_q_func(function)


class CQL(StockCQL):
    """Conservative Q-learning (Kumar et al. 2020, arXiv:2006.04779)."""

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """Create d3rlpy's implementation, with a loss that evaluates the network once."""
        super().inner_create_impl(observation_shape, action_size)
        _use_implementation(self, SinglePassCQLImpl)


class MaskedBCQImpl(DiscreteBCQImpl):
    """d3rlpy's BCQ with another choice of the best action.

    d3rlpy compares values after it subtracted the smallest one. As that is ILLEGAL here, all legal
    actions would tie.
    """

    def inner_predict_best_action(self, x: Any) -> Tensor:
        """Return (B,) the best of the actions that are likely enough under the imitator."""
        logits = self._modules.imitator(x).logits
        relative = logits - logits.max(dim=1, keepdim=True).values
        likely = relative >= math.log(self._action_flexibility)
        q = self._q_func_forwarder.compute_expected_q(x)
        return q.masked_fill(~likely, -math.inf).argmax(dim=1)


class BCQ(PairQAlgorithm, d3rlpy.algos.DiscreteBCQ):
    """Batch-constrained Q-learning, discrete actions (Fujimoto et al. 2019, arXiv:1910.01708)."""

    config_class = d3rlpy.algos.DiscreteBCQConfig
    constants = MappingProxyType({"beta": 0.0, "share_encoder": False})

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """Create d3rlpy's implementation, with an imitator over pairs."""
        super().inner_create_impl(observation_shape, action_size)
        _use_logits_of_encoder(self._impl.modules.imitator)
        _use_implementation(self, MaskedBCQImpl)

    @property
    def policy_network(self: Any) -> PairwiseNetwork:
        """The network of its imitator."""
        network: PairwiseNetwork = self.impl.modules.imitator._encoder.network
        return network


class MaskedSACImpl(DiscreteSACImpl):
    """d3rlpy's SAC with a target entropy of 0.98 times the largest one over the legal actions.

    d3rlpy's own target entropy counts all actions.
    """

    def update_temp(self, dist: Any) -> dict[str, Tensor]:
        """Do one gradient step on the temperature and return its loss and value."""
        assert self._modules.temp_optim is not None
        assert self._modules.log_temp is not None
        self._modules.temp_optim.zero_grad()
        with torch.no_grad():
            legal = (dist.logits > 0.5 * ILLEGAL).sum(dim=1, keepdim=True)
            missing = 0.98 * torch.log(legal.float()) - dist.entropy()[:, None]
        log_temp = next(iter(self._modules.log_temp.parameters()))
        loss = (log_temp.exp() * -missing).mean()
        loss.backward()
        self._modules.temp_optim.step()
        return {"temp_loss": loss, "temp": log_temp.exp()[0][0]}


class SAC(PairQAlgorithm, d3rlpy.algos.DiscreteSAC):
    """Soft actor-critic for discrete actions (Christodoulou 2019, arXiv:1910.07207)."""

    config_class = d3rlpy.algos.DiscreteSACConfig
    constants = MappingProxyType({"initial_temperature": 0.1})
    network_prefixes = ("actor_", "critic_")

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """Create d3rlpy's implementation, with a policy over pairs."""
        super().inner_create_impl(observation_shape, action_size)
        _use_logits_of_encoder(self._impl.modules.policy)
        _use_implementation(self, MaskedSACImpl)

    @property
    def policy_network(self: Any) -> PairwiseNetwork:
        """The network of its policy."""
        network: PairwiseNetwork = self.impl.modules.policy._encoder.network
        return network
