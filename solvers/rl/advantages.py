"""Returns and advantage estimates of S steps in B environments."""

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


def group_advantages(reward: Tensor, tick: Tensor, group: int) -> Tensor:
    """Compare returns to go with those of other episodes of the same instance from the same tick.

    The baseline of a decision at tick t is the mean reward after t of the other episodes of its
    group. They meet the same arrivals, whose effect it therefore takes out of the advantages: an
    input-dependent baseline (Mao et al. 2019, "Variance reduction for reinforcement learning in
    input-driven environments", arXiv:1807.02264; Decima, Mao et al. 2019, arXiv:1810.01963). It
    depends on no action of the episode itself, so that the gradient stays unbiased.

    Parameters
    ----------
    reward
        (S, B) reward of each step, paid as time passes; 0 after the end of an episode.
    tick
        (S + 1, B) ascending tick of each step, and of the end. Where there is no clock (`budget`
        sharing): the number of decisions before it.
    group
        Environments g * group to (g + 1) * group - 1 play the same instance, one episode each.

    Returns
    -------
    Tensor
        (S, B) advantages.
    """
    paid = torch.cat(
        [torch.zeros_like(reward[:1]), reward.cumsum(dim=0)]
    ).T.contiguous()  # (B, S+1)
    at = tick.T.contiguous().double()
    to_go = paid[:, -1:] - paid
    decisions = at[:, :-1].contiguous()
    baseline = torch.zeros_like(to_go[:, :-1])
    number = torch.arange(len(at), device=at.device)
    for shift in range(1, group):
        other = number - number % group + (number + shift) % group
        baseline += _interpolate(at[other], to_go[other], decisions)
    return (to_go[:, :-1] - baseline / (group - 1)).T.contiguous()


def _interpolate(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Return y (B, n) at the ticks `at` (B, m), linear between the ascending ticks x (B, n).

    Where x has several equal ticks, the last one counts.
    """
    right = torch.searchsorted(x, at, right=True).clamp(1, x.shape[1] - 1)
    left = right - 1
    x0, x1, y0, y1 = x.gather(1, left), x.gather(1, right), y.gather(1, left), y.gather(1, right)
    share = ((at - x0) / (x1 - x0).clamp(min=1.0)).clamp(0.0, 1.0)
    return y0 + (share * (y1 - y0)).to(y.dtype)
