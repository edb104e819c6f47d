"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347).

Implementation details after Huang et al. 2022, "The 37 implementation details of proximal policy
optimization": advantages normalised per minibatch, orthogonal initialisation, Adam with eps 1e-5,
learning rate and entropy bonus annealed, gradient norm clipped, value loss clipped on request (as
in the first implementation), an update stopped early by the KL divergence. Two details are specific
to this suite: the critic predicts in units of the visible load, and its errors are divided by the
standard deviation of the returns.

With `advantage=group` no critic is trained: whole episodes of the same instance are compared with
one another, from the same tick on (`solvers.rl.advantages.group_advantages`).

With `critic=clairvoyant` a second network predicts the returns (asymmetric actor-critic, Pinto et
al. 2018, arXiv:1710.06542). It observes future tasks, as far as the window has room, and true
durations; the policy does not. It is not kept. Wrong estimates it does not observe, so that it
cannot predict what the policy does because of them (Baisero & Amato 2022, arXiv:2105.11674, give a
critic both).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor

from bench.errors import UserError
from bench.setting import Setting
from solvers.networks.base import Network
from solvers.networks.features import Features
from solvers.rl.advantages import group_advantages
from solvers.rl.cuda_graphs import GraphedCall
from solvers.rl.rollouts import Rollout, log_probability_and_entropy
from solvers.rl.settings import check_choice, check_group
from solvers.rl.trainer import Trainer
from solvers.rl.training import NetworkLearner

ADVANTAGES = ("gae", "group")
CRITICS = ("shared", "clairvoyant")
LOSSES = ("policy", "value", "entropy", "approx_kl", "clip_fraction")  # logged as `losses/...`


@dataclass(kw_only=True)
class PPO(NetworkLearner):
    """PPO on (task, agent) pairs; `conf/solver/ppo.yaml` describes each setting."""

    hash_exempt = (*NetworkLearner.hash_exempt, "advantage", "group", "critic")

    steps: int = 32
    epochs: int = 3
    minibatch: int = 512
    lr: float = 1.5e-3
    gae_lambda: float = 0.98
    clip: float = 0.2
    clip_value: float | None = None
    max_kl: float = 0.03
    advantage: str = "gae"
    group: int = 16
    critic: str = "shared"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("solver.advantage", self.advantage, ADVANTAGES)
        check_choice("solver.critic", self.critic, CRITICS)
        if self.critic == "clairvoyant" and self.imitation is not None:
            raise UserError(
                "solver.critic: value clairvoyant: solver.imitation trains the critic of the "
                "policy's own network; set shared"
            )
        if self.advantage == "gae":
            return
        if self.critic != "shared":
            raise UserError(
                f"solver.critic: value {self.critic}: solver.advantage=group trains none; leave it "
                "out"
            )
        check_group(self.group, self.num_envs)
        for name, needed in (("shaped", False), ("gamma", 1.0), ("cuda_graphs", False)):
            if (value := getattr(self, name)) != needed:
                raise UserError(
                    f"solver.{name}: value {value}: solver.advantage=group compares rewards that "
                    f"are paid as time passes, of whole episodes; set {str(needed).lower()}"
                )

    @property
    def critic_is_left_out_by(self) -> str | None:
        """Advantages by groups, which need none, or a critic in a network of its own."""
        if self.advantage == "group":
            return "solver.advantage: value group"
        if self.critic == "clairvoyant":
            return "solver.critic: value clairvoyant"
        return super().critic_is_left_out_by

    def check_setting(self, setting: Setting) -> None:
        """Also raise UserError where the policy observes all that a clairvoyant critic does."""
        super().check_setting(setting)
        if self.critic == "clairvoyant" and setting.observe == "all":
            raise UserError(
                "solver.critic: value clairvoyant: is for decisions that do not know the future "
                "(track=online); set shared"
            )

    def new_critic(self, network: Network) -> Network | None:
        """Return a new network of the same shape for `critic=clairvoyant`; None for `shared`."""
        if self.critic == "shared":
            return None
        return type(network)(**network.shape).to(next(network.parameters()).device)

    def collect(self, trainer: Trainer) -> Rollout:
        """Return `steps` decisions of every environment, from its current state.

        With `advantage=group`: whole episodes.
        """
        if self.advantage == "group":
            return trainer.collector.collect_episodes(self.group)
        return trainer.collector.collect(self.steps)

    def update(self, trainer: Trainer, rollout: Rollout) -> dict[str, float]:
        """Make several epochs of clipped updates on one rollout; return the means of the last one.

        No epoch follows one in which the policy moved further than `max_kl`.
        """
        if self.advantage == "group":
            advantage = group_advantages(rollout.reward, cast(Tensor, rollout.tick), self.group)
            advantage = target = advantage.flatten()
            taken = rollout.taken.flatten().nonzero().squeeze(1)
        else:
            advantage, target = rollout.advantages(self.gamma, self.gae_lambda)
            trainer.update_return_std(target)
            taken = torch.arange(len(target), device=target.device)
        count = trainer.group.mean_(torch.tensor(float(len(taken))))
        parts = max(1, math.ceil(float(count) / self.minibatch))  # as many in every process
        minibatches = trainer.minibatches
        if minibatches is None or not minibatches.is_of(rollout):
            minibatches = trainer.minibatches = Minibatches(self, trainer, rollout)
        minibatches.advantage.copy_(advantage)
        minibatches.target.copy_(target)
        minibatches.count = len(taken)
        losses = torch.zeros(len(LOSSES))
        epoch = 0
        while epoch < self.epochs and losses[LOSSES.index("approx_kl")] <= self.max_kl:
            epoch += 1
            order = torch.randperm(len(taken), generator=trainer.generator, device=taken.device)
            minibatches.losses.zero_()
            for rows in self.split(taken[order], parts):
                minibatches.update(rows)
            losses = trainer.group.mean_(minibatches.losses)
        logged = {
            f"losses/{name}": value for name, value in zip(LOSSES, losses.tolist(), strict=True)
        }
        if self.advantage == "group":
            del logged["losses/value"]
        return logged | {"charts/epochs": epoch}

    def split(self, rows: Tensor, parts: int) -> Sequence[Tensor]:
        """Return the minibatches (n,) of a permutation of the decisions of a rollout.

        The number of decisions of whole episodes varies, so that they are shared evenly.
        """
        if self.advantage == "group":
            return rows.tensor_split(parts)
        return rows.split(self.minibatch)

    def share(self, processes: int) -> Self | None:
        """Return the settings of one of several processes."""
        if self.advantage == "group" and self.num_envs // self.group % processes:
            return None
        share = super().share(processes)
        if share is None or self.minibatch % processes:
            return None
        return replace(share, minibatch=self.minibatch // processes)

    def loss(
        self, trainer: Trainer, rollout: Rollout, rows: Tensor, advantage: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of a minibatch (eq. 9 of the paper), and the values to log.

        Parameters
        ----------
        trainer
            Holds the network.
        rollout
            S * B decisions.
        rows
            (n,) indices of the decisions of the minibatch.
        advantage, target
            (S * B,) advantages, and returns to go that the critic is trained on.

        Returns
        -------
        tuple
            The loss, a scalar, and the values (5,) named by `LOSSES`.
        """
        logits, value = trainer.network(rollout.features.at(rows))
        if trainer.critic is not None:
            value = trainer.critic(cast(Features, rollout.critic_features).at(rows))[1]
        logp, entropy = log_probability_and_entropy(logits, rollout.action[rows])
        log_ratio = logp - rollout.logp[rows]
        ratio = log_ratio.exp()
        chosen = advantage[rows]
        gain = clipped_gain(ratio, normalised(chosen, *trainer.moments(chosen)), self.clip)
        policy_loss = -gain.mean()
        value_loss = 0.5 * self.value_loss(
            value * rollout.unit[rows],
            rollout.value.flatten()[rows],
            target[rows],
            trainer.return_unit,
        )
        mean_entropy = entropy.mean()
        bonus = self.entropy * trainer.progress * mean_entropy
        loss = policy_loss - bonus
        if self.advantage == "gae":
            loss = loss + self.value_weight * value_loss
        with torch.no_grad():
            approx_kl = ((ratio - 1) - log_ratio).mean()  # http://joschu.net/blog/kl-approx.html
            clip_fraction = ((ratio - 1).abs() > self.clip).float().mean()
            values = [policy_loss, value_loss, mean_entropy, approx_kl, clip_fraction]
            return loss, torch.stack(values)

    def value_loss(
        self, value: Tensor, old_value: Tensor, target: Tensor, return_std: Any
    ) -> Tensor:
        """Return the mean squared error in standard deviations of the returns, a scalar.

        With `clip_value` an error counts at least as much as if the prediction had moved by at most
        `clip_value` standard deviations, so moving further gains nothing.

        Parameters
        ----------
        value, old_value, target
            (n,) prediction now, prediction when the decision was taken, and return to go.
        return_std
            Standard deviation of the returns: a number or a scalar.
        """
        error = ((value - target) / return_std).square()
        if self.clip_value is not None:
            limit = self.clip_value * return_std
            clipped = old_value + (value - old_value).clamp(-limit, limit)
            error = torch.maximum(error, ((clipped - target) / return_std).square())
        return error.mean()


class Minibatches:
    """The updates of one rollout's minibatches, which can be recorded as a CUDA graph.

    Parameters
    ----------
    learner, trainer
        The algorithm, and what it changes.
    rollout
        Later ones overwrite it.

    Attributes
    ----------
    advantage, target
        (S * B,) advantages, and returns to go that the critic is trained on.
    losses
        (5,) means, as named by `LOSSES`, so far in an epoch.
    count
        Number of decisions of an epoch; less than S * B where episodes ended early.
    """

    def __init__(self, learner: PPO, trainer: Trainer, rollout: Rollout) -> None:
        self.learner = learner
        self.trainer = trainer
        self.rollout = rollout
        self.advantage = torch.empty_like(rollout.logp)
        self.target = torch.empty_like(rollout.logp)
        self.losses = rollout.logp.new_zeros(len(LOSSES))
        self.count = len(rollout.logp)
        self.rows = torch.zeros_like(rollout.action[: learner.minibatch])
        self._update_rows = GraphedCall(lambda: self._update(self.rows), trainer.graphs)

    def is_of(self, rollout: Rollout) -> bool:
        """Return whether a rollout lies in the memory of this one."""
        memory = rollout.logp.data_ptr(), len(rollout.logp)
        return memory == (self.rollout.logp.data_ptr(), len(self.rollout.logp))

    def update(self, rows: Tensor) -> None:
        """Make one gradient step on the decisions `rows` (n,)."""
        if len(rows) != len(self.rows):  # the last minibatch may be smaller
            self._update(rows)
            return
        self.rows.copy_(rows)
        self._update_rows()

    def _update(self, rows: Tensor) -> None:
        loss, values = self.learner.loss(
            self.trainer, self.rollout, rows, self.advantage, self.target
        )
        self.trainer.backward(loss)
        self.trainer.step()
        self.losses += values * (len(rows) / self.count)


def clipped_gain(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return min(r A, clip(r, 1 - eps, 1 + eps) A), elementwise (eq. 7 of the paper)."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def normalised(advantage: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the advantages (n,) of a minibatch with mean 0 and standard deviation 1.

    `mean` and `std` are those of the minibatch, of which `advantage` may be a part.
    """
    return (advantage - mean) / (std + 1e-8)
