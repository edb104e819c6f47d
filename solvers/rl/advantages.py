"""Returns and generalised advantage estimates, pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Advantages (S, B) by Schulman et al. 2016 (arXiv:1506.02438, eq. 16).

    reward, value: (S, B) of S steps in B environments. next_value: (S, B), the value of the state each step really led to,
    before any reset. terminated, truncated: (S, B) bool; termination means that nothing follows, truncation that what follows
    was not played: its value counts, but no later step of the row does.
    """
    advantage = torch.zeros_like(reward)
    carry = torch.zeros_like(reward[0])
    delta = reward + gamma * next_value * ~terminated - value
    going_on = ~(terminated | truncated)
    for step in reversed(range(len(reward))):
        carry = delta[step] + gamma * lam * going_on[step] * carry
        advantage[step] = carry
    return advantage


def to_go(reward: Tensor, gamma: float) -> Tensor:
    """(S, B) discounted sums of the rewards (S, B) from each step to the last one."""
    total = torch.zeros_like(reward)
    carry = torch.zeros_like(reward[0])
    for step in reversed(range(len(reward))):
        carry = reward[step] + gamma * carry
        total[step] = carry
    return total
