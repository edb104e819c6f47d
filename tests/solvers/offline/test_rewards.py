"""What is learnt from: the returns of the log, paid where a state shows what they are paid for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from solvers.offline.feed import Feed
from solvers.offline.rewards import paid_at_start
from tests.solvers.learning import Fixed, random_instance, rough
from tests.solvers.offline.logged import CPU, recorded, two_tasks


def test_by_hand():
    log = recorded(8, data=Fixed(two_tasks, 8))
    scale = log.layout.scale(torch.from_numpy(log.observation[log.state])).numpy()
    paid = paid_at_start(log)
    ticks = (-paid * scale).reshape(-1, 3).round(4).tolist()  # start, wait, start
    assert {tuple(episode) for episode in ticks} == {(2.0, 4 * 2.0, 4 * 3.0), (4 * 3.0, 3.0, 2.0)}
    assert np.allclose(
        (-log.reward * scale).reshape(-1, 3)[:, 0], 0.0
    )  # as logged a start costs nothing


@pytest.mark.parametrize(
    "setting",
    [{}, {"events": "singly"}, {"observe": "arrived"}, {"track": "online", "observe": "arrived"}],
)
def test_returns_stay_and_a_start_costs_what_the_task_will_run(setting):
    log = recorded(**setting)
    paid = paid_at_start(log)
    assert np.allclose(np.add.reduceat(paid, log.first), log.returns, rtol=1e-6)
    start = log.action != log.layout.actions - 1
    assert start.sum() == 6 * len(log.length)  # every task starts once
    here = torch.from_numpy(log.observation[log.state])
    seen = log.layout.view(here)
    rows, task, agent = (
        np.arange(len(start)),
        log.action // log.layout.agents,
        log.action % log.layout.agents,
    )
    task[~start] = 0
    cost = (
        seen.weight.numpy()[rows, task]
        * seen.duration.numpy()[rows, task, agent]
        / log.layout.scale(here).numpy()
    )[start]
    assert np.allclose(-paid[start], cost, rtol=1e-5)
    waiting = (seen.shown & (seen.release <= 0)).any(dim=1).numpy()
    coming = (seen.shown & (seen.release > 0)).any(dim=1).numpy()
    assert (paid[~start & ~waiting & ~coming] == 0).all()  # nothing is waited for, whatever runs


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (random_instance, {"objective": "makespan"}),
        (random_instance, {"objective": "tardiness"}),
        (rough, {"track": "online", "observe": "arrived"}),  # estimates and outages
    ],
)
def test_where_costs_are_not_known_at_the_start_the_log_counts(make, setting):
    log = recorded(8, data=Fixed(make, 8), **setting)
    assert paid_at_start(log) is None
    feed = Feed(log, CPU, reward_scale=2.0)
    assert feed.rewards_are == "logged"
    assert torch.allclose(feed.reward, torch.from_numpy(2.0 * log.reward).float())


def test_a_log_that_disagrees_with_what_it_shows_is_taken_as_it_is():
    log = recorded()
    assert paid_at_start(log) is not None
    assert paid_at_start(replace(log, reward=1.1 * log.reward)) is None
