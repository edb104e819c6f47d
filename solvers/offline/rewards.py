"""What is learnt from instead of the logged rewards: the same returns, paid where a state shows what they are paid for.

T decisions.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bench.logs.episodes import Episodes

NEAR = 1e-4  # relative difference of the returns


def paid_at_start(log: Episodes) -> NDArray[np.float64] | None:
    """(T,) float64: a task's running time is paid when it starts, what it waits while it waits. None where that is not known.

    Logged time accrual goes on for running tasks, but an observation shows neither which those are nor their weights: a policy
    that runs more, or heavier, tasks at once pays more than the log let expect, and its values came out too high. This is
    r + F(s') - F(s) with F(s) = what running tasks will still cost, a potential (Ng, Harada & Russell 1999): no policy's return
    changes. Known for `total_time` where every task runs as long as it was seen to, once, from its decision on; whether that
    is so is told by the returns of the log's episodes.
    """
    if log.objective != "total_time":
        return None
    states = torch.from_numpy(log.observation)
    view, state, action = (
        log.layout.view(states),
        torch.from_numpy(log.state),
        torch.from_numpy(log.action),
    )
    following, wait = state + 1, log.layout.actions - 1
    task, agent = action.clamp(max=wait - 1) // log.layout.agents, action % log.layout.agents
    runs = view.weight[state, task].double() * view.duration[state, task, agent]
    passed = torch.where(
        view.shown[state, 0], view.release[state, 0] - view.release[following, 0], torch.inf
    )  # it still waits
    waited = (
        torch.minimum(passed[:, None], -view.release[following]).clamp(min=0.0)
        * view.shown[following]
    )
    waits = (view.weight[following].double() * waited).sum(dim=1)
    paid = -(torch.where(action == wait, waits, runs) / log.layout.scale(states)[state]).numpy()
    same = np.isclose(np.add.reduceat(paid, log.first), log.returns, rtol=NEAR, atol=NEAR)
    return paid if same.all() else None
