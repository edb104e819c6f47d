"""REINFORCE with a baseline (Williams 1992, doi:10.1007/BF00992696).

Several whole episodes of each instance are played. Every decision of an episode is made more likely
in proportion to how much the return of the episode exceeds the mean return of the other episodes
of the same instance: a leave-one-out baseline (Kool, van Hoof & Welling 2019, "Buy 4 REINFORCE
samples, get a baseline for free!"; Kwon et al. 2020, arXiv:2010.16011). One gradient step is made
per batch of episodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from bench.errors import UserError
from solvers.rl.rollouts import Rollout
from solvers.rl.settings import check_group
from solvers.rl.trainer import Trainer
from solvers.rl.training import NetworkLearner
from solvers.rl.weighted_likelihood import step_along

ROUNDING = 1e-5  # relative: differences of returns below it may be rounding errors


@dataclass(kw_only=True)
class Reinforce(NetworkLearner):
    """REINFORCE on (task, agent) pairs; `conf/solver/reinforce.yaml` describes each setting."""

    group: int = 16
    chunk: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        check_group(self.group, self.num_envs)
        if self.gamma != 1.0:
            raise UserError(
                f"solver.gamma: value {self.gamma}: must be 1, because reinforce weighs whole "
                "episodes by their returns"
            )

    @property
    def critic_is_left_out_by(self) -> str:
        """The algorithm itself."""
        return "solver: value reinforce"

    def share(self, processes: int) -> Self | None:
        """Return the settings of one of several processes: whole groups."""
        return None if self.num_envs // self.group % processes else super().share(processes)

    def collect(self, trainer: Trainer) -> Rollout:
        """Return one whole episode of every environment."""
        return trainer.collector.collect_episodes(self.group)

    def update(self, trainer: Trainer, rollout: Rollout) -> dict[str, float]:
        """Make one step along the policy gradient; return the losses."""
        returns = rollout.reward.sum(dim=0)
        advantage = leave_one_out_advantage(returns, self.group)
        # where all returns are equal but for rounding, no full step is made along the rounding
        noise = ROUNDING * returns.abs().mean() + 1e-8
        episodes = len(advantage) * trainer.group.size
        std = trainer.moments(advantage)[1] * math.sqrt(episodes / (episodes - 1))
        weight = advantage / (std + noise)
        entropy_weight = self.entropy * trainer.progress_remaining
        losses = step_along(trainer, rollout, weight, entropy_weight, self.chunk)
        return dict(zip(("losses/policy", "losses/entropy"), losses.tolist(), strict=True))


def leave_one_out_advantage(returns: Tensor, group: int) -> Tensor:
    """Return how much each return (B,) exceeds the mean of the others of its group.

    Episodes g * group to (g + 1) * group - 1 are one group.
    """
    grouped = returns.view(-1, group)
    others = (grouped.sum(dim=1, keepdim=True) - grouped) / (group - 1)
    return (grouped - others).flatten()
