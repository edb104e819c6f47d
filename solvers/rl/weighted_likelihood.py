"""The update of learners that weigh whole episodes: a step along a weighted log-likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from solvers.rl.rollouts import Rollout, log_probability_and_entropy
from solvers.rl.trainer import Trainer


def step_along(
    trainer: Trainer, rollout: Rollout, weight: Tensor, entropy_weight: float, chunk: int
) -> Tensor:
    """Take one step that makes each decision of an episode likelier by the weight of the episode.

    The gradient is summed over chunks of decisions, to bound the memory.

    Parameters
    ----------
    trainer
        Its network is changed.
    rollout
        Whole episodes, one in each of B environments.
    weight
        (B,) weight of every decision of an episode.
    entropy_weight
        Of the mean entropy of the decisions, in the objective that is maximised.
    chunk
        Largest number of decisions whose gradient is computed at once.

    Returns
    -------
    Tensor
        (2,) the loss without the entropy, and the entropy; means over the decisions of all
        processes.
    """
    of_decision = weight.expand_as(rollout.taken).flatten()
    taken = rollout.taken.flatten().nonzero().squeeze(1)
    count = trainer.group.mean_(torch.tensor(float(len(taken))))
    losses = torch.zeros(2, device=weight.device)
    for rows in taken.split(chunk):
        logits, _ = trainer.network(rollout.features.at(rows))
        logp, entropy = log_probability_and_entropy(logits, rollout.action[rows])
        policy_loss = -(of_decision[rows] * logp).sum() / count
        mean_entropy = entropy.sum() / count
        trainer.backward(policy_loss - entropy_weight * mean_entropy)
        losses += torch.stack([policy_loss, mean_entropy]).detach()
    trainer.step()
    return trainer.group.mean_(losses)
