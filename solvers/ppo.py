"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347), readable from top to bottom.

Details that matter, after Huang et al. 2022, "The 37 implementation details of PPO": advantages normalised per minibatch,
orthogonal initialisation, Adam with eps 1e-5, learning rate and entropy bonus annealed, gradient norm clipped, the value loss
clipped on request (as the first implementation did), an update stopped early when the policy has moved too far (KL). The
critic predicts in units of the visible load, and its errors are divided by the spread of the returns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from solvers.rl.rollouts import Rollout, entropy, log_probability
from solvers.rl.training import Descent, NetworkLearner


@dataclass(kw_only=True)
class PPO(NetworkLearner):
    """Learns a policy that scores (task, agent) pairs; see `conf/solver/ppo.yaml` for what each argument means."""

    steps: int = 32
    epochs: int = 3
    minibatch: int = 512
    lr: float = 1.5e-3
    lam: float = 0.98
    clip: float = 0.2
    clip_value: float | None = None
    max_kl: float = 0.03

    def play(self, training: Descent) -> Rollout:
        """`steps` decisions in every environment, from where it stands."""
        return training.player.collect(self.steps)

    def update(self, training: Descent, rollout: Rollout) -> dict[str, float]:
        """Some epochs of clipped updates on one rollout, no more after one that found the policy further away than `max_kl`."""
        advantage, target = rollout.advantages(self.gamma, self.lam)
        training.widen(target)
        logs, epoch = torch.zeros(len(LOGS)), 0
        while epoch < self.epochs and logs[LOGS.index("approx_kl")] <= self.max_kl:
            epoch += 1
            order = torch.randperm(len(target), generator=training.generator, device=target.device)
            logs = torch.zeros(len(LOGS), device=target.device)  # means over the epoch
            for rows in order.split(self.minibatch):
                loss, values = self.loss(training, rollout, rows, advantage, target)
                training.backward(loss)
                training.step()
                logs += values * len(rows) / len(target)
        return {
            f"losses/{name}": value for name, value in zip(LOGS, logs.tolist(), strict=True)
        } | {"charts/epochs": epoch}

    def loss(
        self, training: Descent, rollout: Rollout, rows: Tensor, advantage: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The clipped surrogate (eq. 7 and 9 of the paper) on the decisions `rows`, and LOGS."""
        logits, relative = training.network(rollout.seen.at(rows))
        change = log_probability(logits, rollout.action[rows]) - rollout.logp[rows]
        ratio = change.exp()
        policy = -clipped_gain(ratio, normalised(advantage[rows]), self.clip).mean()
        value = 0.5 * self.value_loss(
            relative * rollout.unit[rows],
            rollout.value.flatten()[rows],
            target[rows],
            training.spread,
        )
        spread = entropy(logits).mean()
        loss = policy + self.value_weight * value - self.entropy * training.left * spread
        with torch.no_grad():
            moved, clipped = (
                ((ratio - 1) - change).mean(),
                ((ratio - 1).abs() > self.clip).float().mean(),
            )
            return loss, torch.stack([policy, value, spread, moved, clipped])

    def value_loss(self, value: Tensor, before: Tensor, target: Tensor, spread: float) -> Tensor:
        """Mean squared error in spreads of the returns; with `clip_value` a prediction may gain by moving so far only."""
        error = ((value - target) / spread).square()
        if self.clip_value is not None:
            held = before + (value - before).clamp(
                -self.clip_value * spread, self.clip_value * spread
            )
            error = torch.maximum(error, ((held - target) / spread).square())
        return error.mean()


LOGS = ("policy", "value", "entropy", "approx_kl", "clip_fraction")


def clipped_gain(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(r A, clip(r, 1 - eps, 1 + eps) A), elementwise (eq. 7 of the paper)."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def normalised(advantage: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over a minibatch."""
    return (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
