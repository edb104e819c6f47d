"""Conservative discrete quantile actor-critic (CDQAC) as an algorithm of d3rlpy.

Source: van Remmerden, Bukhsh and Zhang, TMLR 2026, arXiv:2509.10303.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import d3rlpy
import torch
from d3rlpy.models.torch.q_functions.utility import compute_quantile_loss
from d3rlpy.torch_utility import TorchMiniBatch
from torch import Tensor, nn

from solvers.offline.algorithm import CommonSettings
from solvers.offline.buffer import OfflineBuffer
from solvers.offline.d3rlpy_adapter.actor import ActorAlgorithm, ActorImpl
from solvers.offline.d3rlpy_adapter.algorithms import optimizer_factory
from solvers.offline.d3rlpy_adapter.networks import PairEncoder


@dataclasses.dataclass(frozen=True)
class CDQACModules(d3rlpy.torch_utility.Modules):
    """The networks and the optimizers of CDQAC."""

    q_funcs: nn.ModuleList
    targ_q_funcs: nn.ModuleList
    policy: PairEncoder
    actor_optim: Any
    critic_optim: Any


@dataclasses.dataclass()
class CDQACConfig(d3rlpy.algos.DiscreteSACConfig):
    """Configuration of CDQAC.

    Attributes
    ----------
    alpha
        Weight of the conservative term of the critics.
    tau
        Share of the critics in each update of the target critics.
    entropy
        Weight of the policy's entropy, per unit of scaled return.
    actor_update_interval
        Gradient steps of the critics for one of the policy.
    """

    alpha: float = 0.05
    tau: float = 0.005
    entropy: float = 0.005
    actor_update_interval: int = 4

    @staticmethod
    def get_type() -> str:
        """Return the name that d3rlpy registers it by."""
        return "cdqac"


class CDQACImpl(ActorImpl):
    """The losses of CDQAC."""

    def inner_update(self, batch: TorchMiniBatch, grad_step: int) -> dict[str, float]:
        """Do one gradient step on the critics, and every few steps one on the policy.

        Returns
        -------
        dict
            The losses; `policy_loss` only where the policy was updated.
        """
        modules = self._modules
        config = self._config
        td_loss, conservative_loss = self.critic_losses(batch)
        modules.critic_optim.zero_grad()
        (td_loss + config.alpha * conservative_loss).backward()
        modules.critic_optim.step()
        losses = {"td_loss": td_loss, "conservative_loss": conservative_loss}
        if (grad_step + 1) % config.actor_update_interval == 0:
            losses["policy_loss"] = self.policy_loss(batch.observations)
            modules.actor_optim.zero_grad()
            losses["policy_loss"].backward()
            modules.actor_optim.step()
        d3rlpy.torch_utility.soft_sync(modules.targ_q_funcs, modules.q_funcs, config.tau)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def critic_losses(self, batch: TorchMiniBatch) -> tuple[Tensor, Tensor]:
        """Return the quantile loss and the conservative term (eq. 4), summed over the critics.

        The target quantiles are those of the target critic whose mean is smaller, for each action,
        averaged over the policy's actions in the next state.
        """
        with torch.no_grad():
            probability = self._modules.policy(batch.next_observations).softmax(dim=1)
            quantiles = smaller_quantiles(
                _all_quantiles(self._modules.targ_q_funcs, batch.next_observations)
            )
            target = (probability[..., None] * quantiles).sum(dim=1)
        actions = batch.actions.long()
        td_losses, conservative_losses = [], []
        for q_func in self._modules.q_funcs:
            output = q_func(batch.observations)
            index = actions[..., None].expand(-1, -1, output.quantiles.shape[2])
            td_losses.append(
                compute_quantile_loss(
                    quantiles=output.quantiles.gather(1, index).squeeze(1),
                    rewards=batch.rewards,
                    target=target,
                    terminals=batch.terminals,
                    taus=output.taus,
                    gamma=self._config.gamma,
                ).mean()
            )
            logged = output.q_value.gather(1, actions).squeeze(1)
            conservative_losses.append((output.q_value.logsumexp(dim=1) - logged).mean())
        return torch.stack(td_losses).sum(), torch.stack(conservative_losses).sum()

    def policy_loss(self, observations: Any) -> Tensor:
        """Return minus the policy's expected value and weighted entropy (eq. 5)."""
        with torch.no_grad():
            quantiles = smaller_quantiles(_all_quantiles(self._modules.q_funcs, observations))
            q = quantiles.mean(dim=2)
        logp = self._modules.policy(observations).log_softmax(dim=1)
        return (logp.exp() * (self._config.entropy * logp - q)).sum(dim=1).mean()

    def inner_predict_value(self, x: Any, action: Tensor) -> Tensor:
        """Return (B,) Q values of the actions, of the critic that values each of them less."""
        q = smaller_quantiles(_all_quantiles(self._modules.q_funcs, x)).mean(dim=2)
        return q.gather(1, action.view(-1, 1))[:, 0]


def smaller_quantiles(quantiles: Tensor) -> Tensor:
    """Return for each action the quantiles of the critic whose mean is smallest.

    Parameters
    ----------
    quantiles
        (C, B, A, n) of C critics.

    Returns
    -------
    Tensor
        (B, A, n).
    """
    smallest = quantiles.mean(dim=3, keepdim=True).argmin(dim=0, keepdim=True)
    return quantiles.gather(0, smallest.expand(1, *quantiles.shape[1:]))[0]


def _all_quantiles(q_funcs: nn.ModuleList, x: Any) -> Tensor:
    """Return (C, B, A, n)."""
    return torch.stack([q_func(x).quantiles for q_func in q_funcs])


class CDQAC(ActorAlgorithm):
    """Conservative discrete quantile actor-critic (arXiv:2509.10303)."""

    config_class = CDQACConfig
    network_prefixes = ("actor_", "critic_")

    @classmethod
    def create(
        cls, buffer: OfflineBuffer, settings: CommonSettings, quantiles: int = 1, **values: Any
    ) -> Self:
        """Return the algorithm with new networks, see `PairAlgorithm.create`."""
        actor_steps = max(1, settings.steps // values["actor_update_interval"])
        values["actor_optim_factory"] = optimizer_factory(actor_steps)
        return super().create(buffer, settings, quantiles, **values)

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """Create the networks, the optimizers and the implementation."""
        config: CDQACConfig = self._config
        shape = observation_shape, action_size, config.critic_encoder_factory
        q_funcs, targ_q_funcs = (
            self.new_q_functions(*shape, n_ensembles=config.n_critics)[0] for _ in range(2)
        )
        d3rlpy.torch_utility.hard_sync(targ_q_funcs, q_funcs)
        encoder: Any = config.actor_encoder_factory
        policy = dataclasses.replace(encoder, outputs=1).create(observation_shape)
        policy.to(self._device)
        modules = CDQACModules(
            q_funcs,
            targ_q_funcs,
            policy,
            config.actor_optim_factory.create(
                policy.named_modules(), lr=config.actor_learning_rate, compiled=False
            ),
            config.critic_optim_factory.create(
                q_funcs.named_modules(), lr=config.critic_learning_rate, compiled=False
            ),
        )
        self._impl = CDQACImpl(modules, config, observation_shape, action_size, self._device)


d3rlpy.base.register_learnable(CDQACConfig)
