"""Shaped rewards: the returns of the log, paid at assignment."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from solvers.offline.buffer import OfflineBuffer
from solvers.offline.rewards import shaped_rewards
from tests.solvers.learning import FixedDataset, complex_instance, random_instance
from tests.solvers.offline.logged import CPU, record_log, two_tasks


def test_shaped_rewards_by_hand():
    log = record_log(8, data=FixedDataset(two_tasks, 8))
    scale = log.layout.scale(torch.from_numpy(log.observation[log.state])).numpy()
    cost = (-shaped_rewards(log) * scale).reshape(-1, 3).round(4).tolist()  # start, wait, start
    assert {tuple(episode) for episode in cost} == {(2.0, 4 * 2.0, 4 * 3.0), (4 * 3.0, 3.0, 2.0)}
    logged_cost = (-log.reward * scale).reshape(-1, 3)
    assert np.allclose(logged_cost[:, 0], 0.0)  # in the log the first start costs nothing


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"event_order": "sequential"},
        {"observe": "arrived"},
        {"track": "online", "observe": "arrived"},
    ],
)
def test_returns_stay_the_same_and_a_start_costs_the_weighted_duration(setting):
    log = record_log(**setting)
    shaped = shaped_rewards(log)
    assert np.allclose(np.add.reduceat(shaped, log.first), log.returns, rtol=1e-6)
    start = log.action != log.layout.actions - 1
    assert start.sum() == 6 * len(log.length)  # every task starts once
    state = torch.from_numpy(log.observation[log.state])
    view = log.layout.view(state)
    rows = np.arange(len(start))
    task = log.action // log.layout.agents
    agent = log.action % log.layout.agents
    task[~start] = 0
    cost = view.weight.numpy()[rows, task] * view.duration.numpy()[rows, task, agent]
    cost = (cost / log.layout.scale(state).numpy())[start]
    assert np.allclose(-shaped[start], cost, rtol=1e-5)
    waiting = (view.shown & (view.release <= 0)).any(dim=1).numpy()
    coming = (view.shown & (view.release > 0)).any(dim=1).numpy()
    idle = ~start & ~waiting & ~coming
    assert (shaped[idle] == 0).all()  # no task waits, whatever runs


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (random_instance, {"objective": "makespan"}),
        (random_instance, {"objective": "tardiness"}),
        (complex_instance, {"track": "online", "observe": "arrived"}),  # estimates and outages
    ],
)
def test_logged_rewards_are_used_where_the_cost_of_a_start_is_unknown(make, setting):
    log = record_log(8, data=FixedDataset(make, 8), **setting)
    assert shaped_rewards(log) is None
    buffer = OfflineBuffer(log, CPU, reward_scale=2.0)
    assert buffer.reward_kind == "logged"
    assert torch.allclose(buffer.reward, torch.from_numpy(2.0 * log.reward).float())


def test_logged_rewards_are_used_where_the_returns_differ():
    log = record_log()
    assert shaped_rewards(log) is not None
    assert OfflineBuffer(log, CPU).reward_kind == "shaped"
    assert shaped_rewards(replace(log, reward=1.1 * log.reward)) is None
