"""Potential-based reward shaping of logged rewards: the same returns, paid at assignment."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bench.logs.episodes import LoggedEpisodes

TOLERANCE = 1e-4  # difference of logged and shaped returns, relative and absolute


def shaped_rewards(episodes: LoggedEpisodes) -> NDArray[np.float64] | None:
    """Return the rewards with the cost of running a task paid at its assignment.

    Logged rewards charge running tasks at every decision while they run. An observation shows
    neither which tasks run nor their weights, so these rewards are no function of what a policy
    observes, and values that are learnt from them are overestimated. Here the weighted processing
    time of a task is charged when it is assigned, and the weighted time that visible tasks spend
    waiting is charged while they wait. This is potential-based shaping, r + F(s') - F(s), where
    F(s) is the cost that the running tasks will still cause (Ng, Harada & Russell 1999, ICML, pp.
    278-287): it changes no policy's return.

    Parameters
    ----------
    episodes
        A logged dataset with T decisions.

    Returns
    -------
    NDArray or None
        (T,) float64. None where the shaped rewards cannot be computed from the observations: for
        objectives other than `total_time`, and where durations are estimates, tasks restart or
        assignments take effect later, so that the shaped returns differ from the logged ones.
    """
    if episodes.objective != "total_time":
        return None
    layout = episodes.layout
    observations = torch.from_numpy(episodes.observation)
    view = layout.view(observations)
    state = torch.from_numpy(episodes.state)
    next_state = state + 1
    action = torch.from_numpy(episodes.action)
    wait = layout.actions - 1
    task = action.clamp(max=wait - 1) // layout.agents
    agent = action % layout.agents
    run_cost = view.weight[state, task].double() * view.duration[state, task, agent]
    elapsed = torch.where(  # the first visible task is still there after the action `wait`
        view.shown[state, 0], view.release[state, 0] - view.release[next_state, 0], torch.inf
    )
    waited = torch.minimum(elapsed[:, None], -view.release[next_state]).clamp(min=0.0)
    waited = waited * view.shown[next_state]
    wait_cost = (view.weight[next_state].double() * waited).sum(dim=1)
    cost = torch.where(action == wait, wait_cost, run_cost)
    shaped = -(cost / layout.scale(observations)[state]).numpy()
    returns = np.add.reduceat(shaped, episodes.first)
    same = np.isclose(returns, episodes.returns, rtol=TOLERANCE, atol=TOLERANCE)
    return shaped if same.all() else None
