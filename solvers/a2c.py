"""Advantage actor-critic (A2C), the synchronous form of A3C (Mnih et al. 2016, arXiv:1602.01783).

Every environment plays a few decisions, then one gradient step is made on all of them: the actor
along the advantages, the critic towards the returns. The optimizer is RMSProp, as in the paper, and
no sample is used twice. As in PPO here, advantages are generalised (Schulman et al. 2016,
arXiv:1506.02438), and they and the critic's errors are divided by the standard deviation of the
returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from solvers.rl.rollouts import Rollout, log_probability_and_entropy
from solvers.rl.trainer import Trainer
from solvers.rl.training import NetworkLearner

LOSSES = ("policy", "value", "entropy")  # logged as `losses/...`


@dataclass(kw_only=True)
class A2C(NetworkLearner):
    """A2C on (task, agent) pairs; `conf/solver/a2c.yaml` describes each setting."""

    steps: int = 8
    gae_lambda: float = 0.98

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a new RMSProp optimizer, as in section 4 of the paper."""
        return torch.optim.RMSprop(parameters, lr=self.lr, alpha=0.99, eps=1e-5)

    def collect(self, trainer: Trainer) -> Rollout:
        """Return `steps` decisions of every environment, from its current state."""
        return trainer.collector.collect(self.steps)

    def update(self, trainer: Trainer, rollout: Rollout) -> dict[str, float]:
        """Make one gradient step on the whole rollout; return the losses."""
        advantage, target = rollout.advantages(self.gamma, self.gae_lambda)
        trainer.update_return_std(target)
        logits, value = trainer.network(rollout.features)
        error = (value * rollout.unit - target) / trainer.return_std
        scaled_advantage = advantage / trainer.return_std
        losses = actor_critic_losses(logits, rollout.action, scaled_advantage, error)
        policy_loss, value_loss, mean_entropy = losses
        bonus = self.entropy * trainer.progress_remaining * mean_entropy
        trainer.backward(policy_loss + self.value_weight * value_loss - bonus)
        trainer.step()
        values = trainer.group.mean_(torch.stack(losses)).tolist()
        return {f"losses/{name}": value for name, value in zip(LOSSES, values, strict=True)}


def actor_critic_losses(
    logits: Tensor, action: Tensor, advantage: Tensor, error: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return policy loss, value loss and mean entropy, a scalar each.

    Parameters
    ----------
    logits
        (n, A) of the policy.
    action, advantage
        (n,) actions taken, and their advantages. The gradient of the policy loss is minus the
        policy gradient.
    error
        (n,) errors of the critic; the value loss is half their mean square.
    """
    logp, entropy = log_probability_and_entropy(logits, action)
    return -(advantage * logp).mean(), 0.5 * error.square().mean(), entropy.mean()
