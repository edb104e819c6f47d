"""Generalised advantage estimation in compiled code, for the CPU and for a GPU."""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.compiled import compiled
from bench.simulator.kernel import inlined_entry_function


class Steps(NamedTuple):
    """S steps in B environments, as arrays or tensors (S, B); see `solvers.rl.advantages.gae`."""

    reward: Any
    value: Any
    next_value: Any
    terminated: Any
    truncated: Any
    advantage: Any  # is written


@inlined_entry_function
def write_advantages(steps, gamma, gae_lambda, b):
    """Write column b of `steps.advantage`."""
    carry = 0.0
    for step in range(steps.reward.shape[0] - 1, -1, -1):
        error = float(steps.reward[step, b]) - steps.value[step, b]
        if not steps.terminated[step, b]:
            error += gamma * steps.next_value[step, b]
            if not steps.truncated[step, b]:
                error += gamma * gae_lambda * carry
        carry = error
        steps.advantage[step, b] = carry


@compiled(_nrt=False)
def estimate_advantages(steps, gamma, gae_lambda):
    """Write the advantages of every environment."""
    for b in range(steps.reward.shape[1]):
        write_advantages(steps, gamma, gae_lambda, b)
