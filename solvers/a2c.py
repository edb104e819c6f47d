"""Advantage actor-critic (A2C: Mnih et al. 2016, arXiv:1602.01783, played synchronously), readable from top to bottom.

A few decisions in every environment, one gradient step on all of them: the actor along the advantages, the critic towards the
returns. As in the paper RMSProp descends, and no sample is used twice; as in PPO here, advantages are generalised
(Schulman et al. 2016) and errors of the critic are divided by the spread of the returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from solvers.rl.rollouts import Rollout, entropy, log_probability
from solvers.rl.training import Descent, NetworkLearner


@dataclass(kw_only=True)
class A2C(NetworkLearner):
    """Learns a policy that scores (task, agent) pairs; see `conf/solver/a2c.yaml` for what each argument means."""

    steps: int = 8
    lam: float = 0.98

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """RMSProp, as in section 4 of the paper."""
        return torch.optim.RMSprop(parameters, lr=self.lr, alpha=0.99, eps=1e-5)

    def play(self, training: Descent) -> Rollout:
        """`steps` decisions in every environment, from where it stands."""
        return training.player.collect(self.steps)

    def update(self, training: Descent, rollout: Rollout) -> dict[str, float]:
        """One step on the whole rollout."""
        advantage, target = rollout.advantages(self.gamma, self.lam)
        training.widen(target)
        logits, relative = training.network(rollout.seen)
        error = (relative * rollout.unit - target) / training.spread
        losses = actor_critic(logits, rollout.action, advantage / training.spread, error)
        policy, value, spread = losses
        training.backward(
            policy + self.value_weight * value - self.entropy * training.left * spread
        )
        training.step()
        return dict(
            zip(
                ("losses/policy", "losses/value", "losses/entropy"),
                torch.stack(losses).tolist(),
                strict=True,
            )
        )


def actor_critic(
    logits: Tensor, action: Tensor, advantage: Tensor, error: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The policy's loss (its gradient is the policy gradient), half the mean squared error, the entropy; n decisions each."""
    policy = -(advantage * log_probability(logits, action)).mean()
    return policy, 0.5 * error.square().mean(), entropy(logits).mean()
