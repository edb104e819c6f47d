"""REINFORCE with a baseline (Williams 1992, doi:10.1007/BF00992696), readable from top to bottom.

Whole episodes are played, several of each instance, and every decision of an episode is made likelier in proportion to how much
better its episode was than the others of the same instance: a leave-one-out baseline (Kool, van Hoof & Welling 2019, "Buy 4
REINFORCE samples, get a baseline for free!"; Kwon et al. 2020, arXiv:2010.16011). One gradient step per batch of episodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import UserError
from solvers.rl.rollouts import Rollout, entropy, log_probability
from solvers.rl.training import Descent, NetworkLearner

ROUNDING = 1e-5  # of a return: smaller differences are hardly more than rounding


@dataclass(kw_only=True)
class Reinforce(NetworkLearner):
    """Learns a policy that scores (task, agent) pairs; see `conf/solver/reinforce.yaml` for what each argument means."""

    group: int = 16
    chunk: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 2 or self.envs % self.group:
            raise UserError(
                f"solver.group: at least 2 that divide solver.envs={self.envs} are needed, got {self.group}"
            )
        if self.gamma != 1.0:
            raise UserError(
                f"solver.gamma: reinforce weighs whole episodes, so only 1 means something, got {self.gamma}"
            )
        if self.decoding == "beam":
            raise UserError(
                "solver.decoding: beam asks the critic, and reinforce trains none; take sample or multistart"
            )

    def play(self, training: Descent) -> Rollout:
        """One episode in every environment."""
        return training.player.episodes(self.group)

    def update(self, training: Descent, rollout: Rollout) -> dict[str, float]:
        """One step along the policy gradient, which is added up in chunks to bound memory."""
        total = rollout.reward.sum(dim=0)
        better = lead(total, self.group)
        noise = ROUNDING * total.abs().mean() + 1e-8
        weight = (better / (better.std() + noise)).expand_as(rollout.taken).flatten()
        taken = rollout.taken.flatten().nonzero().squeeze(1)
        bonus = self.entropy * training.left
        logs = torch.zeros(2, device=weight.device)
        for rows in taken.split(self.chunk):
            logits, _ = training.network(rollout.seen.at(rows))
            policy = -(weight[rows] * log_probability(logits, rollout.action[rows])).sum() / len(
                taken
            )
            spread = entropy(logits).sum() / len(taken)
            training.backward(policy - bonus * spread)
            logs += torch.stack([policy, spread]).detach()
        training.step()
        return dict(zip(("losses/policy", "losses/entropy"), logs.tolist(), strict=True))


def lead(total: Tensor, group: int) -> Tensor:
    """(B,) by how much each episode's return exceeds the mean of the others of its group; groups lie side by side."""
    grouped = total.view(-1, group)
    others = (grouped.sum(dim=1, keepdim=True) - grouped) / (group - 1)
    return (grouped - others).flatten()
