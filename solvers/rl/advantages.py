"""Returns and generalised advantage estimates of S steps in B environments."""

from __future__ import annotations

import torch
from torch import Tensor

from solvers.rl.advantage_kernel import Steps, estimate_advantages


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Estimate advantages (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

    Parameters
    ----------
    reward, value
        (S, B) reward of each step, and predicted return of the state in which it was taken.
    next_value
        (S, B) predicted return of the state that the step led to, before any restart.
    terminated
        (S, B) bool: the episode ended, so nothing follows and `next_value` does not count.
    truncated
        (S, B) bool: the episode was cut off here. `next_value` counts, but the next row belongs to
        another episode and does not.
    gamma, gae_lambda
        Discount factor, and lambda: 0 gives one-step errors, 1 whole returns minus values.

    Returns
    -------
    Tensor
        (S, B) advantages.
    """
    columns = [x.contiguous() for x in (reward, value, next_value, terminated, truncated)]
    steps = Steps._make([*columns, torch.empty_like(columns[0])])
    if reward.is_cuda:
        # numba.cuda is loaded only where it is used
        from solvers.rl import advantage_cuda

        advantage_cuda.estimate_advantages(steps, gamma, gae_lambda)
    else:
        estimate_advantages(Steps._make(x.numpy() for x in steps), gamma, gae_lambda)
    advantage: Tensor = steps.advantage
    return advantage


def returns_to_go(reward: Tensor, gamma: float) -> Tensor:
    """Return the discounted sums (S, B) of rewards (S, B) from each step to the last one."""
    total = torch.zeros_like(reward)
    carry = torch.zeros_like(reward[0])
    for step in reversed(range(len(reward))):
        carry = reward[step] + gamma * carry
        total[step] = carry
    return total
