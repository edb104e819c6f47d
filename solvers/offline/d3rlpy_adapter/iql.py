"""Implicit Q-learning for discrete actions as an algorithm of d3rlpy, whose own is continuous."""

from __future__ import annotations

import dataclasses
from typing import Any

import d3rlpy
import torch
from d3rlpy.torch_utility import TorchMiniBatch
from torch import Tensor, nn

from solvers.offline.d3rlpy_adapter.actor import ActorAlgorithm, ActorImpl
from solvers.offline.d3rlpy_adapter.networks import PairEncoder


@dataclasses.dataclass(frozen=True)
class IQLModules(d3rlpy.torch_utility.Modules):
    """The networks and the optimizer of implicit Q-learning."""

    q_funcs: nn.ModuleList
    targ_q_funcs: nn.ModuleList
    value: PairEncoder
    policy: PairEncoder
    optim: Any


@dataclasses.dataclass()
class IQLConfig(d3rlpy.algos.DQNConfig):
    """Configuration of implicit Q-learning.

    Attributes
    ----------
    expectile
        Expectile of the value loss.
    inverse_temperature
        Factor of the advantages in the weights of the policy loss, per unit of scaled return.
    largest_weight
        The weights of the policy loss are cut off here.
    """

    expectile: float = 0.8
    inverse_temperature: float = 1.0
    largest_weight: float = 100.0

    @staticmethod
    def get_type() -> str:
        """Return the name that d3rlpy registers it by."""
        return "discrete_iql"


class IQLImpl(ActorImpl):
    """The three losses of implicit Q-learning for discrete actions.

    Parameters
    ----------
    forwarder, target_forwarder
        d3rlpy's interfaces to the Q function and to the target Q function.
    arguments
        Those of `ActorImpl`.
    """

    def __init__(self, forwarder: Any, target_forwarder: Any, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._forwarder = forwarder
        self._target_forwarder = target_forwarder

    def inner_update(self, batch: TorchMiniBatch, grad_step: int) -> dict[str, float]:
        """Do one gradient step on value, Q function and policy together and return the losses.

        Equations 5 to 7 of Kostrikov et al. 2022, arXiv:2110.06169.
        """
        modules = self._modules
        config = self._config
        action = batch.actions.long()
        with torch.no_grad():
            q = self._target_forwarder.compute_expected_q(batch.observations).gather(1, action)
        value = self._value(batch.observations)
        advantage = q - value
        expectile_weight = torch.where(advantage > 0, config.expectile, 1.0 - config.expectile)
        value_loss = (expectile_weight * advantage.square()).mean()  # eq. 5
        with torch.no_grad():
            next_value = self._value(batch.next_observations)
        td_loss = self._forwarder.compute_error(  # eq. 6
            observations=batch.observations,
            actions=action,
            rewards=batch.rewards,
            target=next_value,
            terminals=batch.terminals,
            gamma=config.gamma,
        )
        weight = (config.inverse_temperature * advantage.detach()).exp()
        weight = weight.clamp(max=config.largest_weight)
        logp = modules.policy(batch.observations).log_softmax(dim=1).gather(1, action)
        policy_loss = -(weight * logp).mean()  # eq. 7
        modules.optim.zero_grad()
        (value_loss + td_loss + policy_loss).backward()
        modules.optim.step()
        if grad_step % config.target_update_interval == 0:
            d3rlpy.torch_utility.hard_sync(modules.targ_q_funcs, modules.q_funcs)
        losses = {"value_loss": value_loss, "td_loss": td_loss, "policy_loss": policy_loss}
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _value(self, x: Any) -> Tensor:
        """Return (B, 1) state values in units of scaled return."""
        encoder = self._modules.value
        state = encoder.state_features(x)
        return (encoder.network(state.features)[1] * state.unit)[:, None]

    def inner_predict_value(self, x: Any, action: Tensor) -> Tensor:
        """Return (B,) Q values of the actions."""
        return self._forwarder.compute_expected_q(x).gather(1, action.view(-1, 1))[:, 0]


class IQL(ActorAlgorithm):
    """Implicit Q-learning (Kostrikov et al. 2022, arXiv:2110.06169) for discrete actions."""

    config_class = IQLConfig

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """Create the networks, the optimizer and the implementation."""
        config: IQLConfig = self._config
        shape = observation_shape, action_size, config.encoder_factory
        q_funcs, forwarder = self.new_q_functions(*shape)
        targ_q_funcs, target_forwarder = self.new_q_functions(*shape)
        d3rlpy.torch_utility.hard_sync(targ_q_funcs, q_funcs)
        value, policy = (
            config.encoder_factory.create(observation_shape).to(self._device) for _ in range(2)
        )
        named = [*q_funcs.named_modules(), *value.named_modules(), *policy.named_modules()]
        optim = config.optim_factory.create(named, lr=config.learning_rate, compiled=False)
        self._impl = IQLImpl(
            forwarder,
            target_forwarder,
            IQLModules(q_funcs, targ_q_funcs, value, policy, optim),
            config,
            observation_shape,
            action_size,
            self._device,
        )


d3rlpy.base.register_learnable(IQLConfig)
