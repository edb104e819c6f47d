"""What this package's own algorithms share, in d3rlpy's frame: a policy beside Q functions."""

from __future__ import annotations

from typing import Any

import d3rlpy
import torch
from torch import Tensor, nn

from solvers.networks.pairwise import PairwiseNetwork
from solvers.offline.d3rlpy_adapter.algorithms import PairQAlgorithm


class ActorImpl(d3rlpy.algos.qlearning.base.QLearningAlgoImplBase):
    """An implementation whose `modules.policy` decides; a subclass updates and predicts values.

    Parameters
    ----------
    modules
        Networks and optimizers; `policy` is a `PairEncoder`.
    config
        The configuration.
    observation_shape, action_size, device
        As in d3rlpy.
    """

    def __init__(
        self, modules: Any, config: Any, observation_shape: Any, action_size: int, device: str
    ) -> None:
        super().__init__(
            observation_shape=observation_shape,
            action_size=action_size,
            modules=modules,
            device=device,
        )
        self._config = config

    def inner_predict_best_action(self, x: Any) -> Tensor:
        """Return (B,) the likeliest actions under the policy."""
        return self._modules.policy(x).argmax(dim=1)

    def inner_sample_action(self, x: Any) -> Tensor:
        """Return (B,) actions drawn from the policy."""
        return torch.distributions.Categorical(logits=self._modules.policy(x)).sample()


class ActorAlgorithm(PairQAlgorithm, d3rlpy.algos.QLearningAlgoBase):
    """Base of the algorithms with an `ActorImpl`."""

    def new_q_functions(
        self,
        observation_shape: Any,
        action_size: int,
        encoder_factory: Any,
        n_ensembles: int = 1,
    ) -> tuple[nn.ModuleList, Any]:
        """Return new Q functions and d3rlpy's interface to them."""
        functions: tuple[nn.ModuleList, Any] = d3rlpy.models.builders.create_discrete_q_function(
            observation_shape,
            action_size,
            encoder_factory,
            self._config.q_func_factory,
            self._device,
            False,
            n_ensembles=n_ensembles,
        )
        return functions

    def get_action_type(self) -> Any:
        """Return that actions are discrete."""
        return d3rlpy.ActionSpace.DISCRETE

    @property
    def policy_network(self: Any) -> PairwiseNetwork:
        """The network of its policy."""
        network: PairwiseNetwork = self.impl.modules.policy.network
        return network
