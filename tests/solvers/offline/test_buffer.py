"""The offline buffer: transitions, trajectories, and the units of values."""

import numpy as np
import torch

from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from solvers.networks.features import featurize
from solvers.networks.pairwise import PairwiseNetwork
from solvers.offline.buffer import OfflineBuffer, q_values, state_features
from solvers.offline.rewards import shaped_rewards
from solvers.rl.rollouts import value_unit
from tests.solvers.learning import FixedDataset
from tests.solvers.offline.logged import CPU, DATA, record_log, two_tasks


def test_transitions_hold_the_logged_decisions_and_their_next_states():
    log = record_log()
    buffer = OfflineBuffer(log, CPU, reward_scale=3.0)
    batch = buffer.transitions(torch.arange(len(buffer)))
    flat = torch.from_numpy(log.observation)
    row = torch.from_numpy(log.state)
    state = state_features(flat[row], log.layout, log.objective)
    next_state = state_features(flat[row + 1], log.layout, log.objective)
    for found, expected, name in zip(batch.state, state, state._fields, strict=True):
        assert torch.equal(found, expected * 3.0 if name == "unit" else expected), name
    assert torch.equal(batch.next_state.task, next_state.task)
    assert torch.equal(batch.action, torch.from_numpy(log.action))
    assert torch.allclose(batch.reward, torch.from_numpy(shaped_rewards(log) * 3.0).float())
    assert batch.terminal.sum() == len(log.length)
    assert torch.equal(batch.next_row, row + 1)


def test_samples_are_uniform_and_reproducible():
    log = record_log()
    counts = np.zeros(len(log.action))
    buffer = OfflineBuffer(log, CPU, seed=5)
    for _ in range(200):
        np.add.at(counts, buffer.sample_indices(len(buffer)).numpy(), 1)
    assert abs(counts - 200).max() < 6 * np.sqrt(200)
    first, second, other = (
        OfflineBuffer(log, CPU, seed=seed).sample_indices(50) for seed in (5, 5, 6)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_unit_is_that_of_online_critics():
    """Where the objective is not `total_time`, which has another unit."""
    setting = Setting(objective="makespan")
    log = record_log(objective="makespan")
    simulator = TensorSimulator(list(DATA.instances("train")), setting)
    buffer = OfflineBuffer(log, CPU)
    unit = value_unit(simulator, featurize(from_simulator(simulator)))
    first = buffer.row[torch.from_numpy(log.first)]
    assert torch.allclose(buffer.states.unit[first], unit, rtol=1e-4)


def test_the_unit_is_the_flow_time_of_tasks_that_run_alone():
    """Calculated by hand: two tasks of 2 and 3 ticks with weights 1 and 4 on one agent."""
    log = record_log(8, data=FixedDataset(two_tasks, 8))
    buffer = OfflineBuffer(log, CPU)
    scale = log.layout.scale(torch.from_numpy(log.observation[log.state]))
    ticks = (buffer.states.unit[buffer.row] * scale).view(-1, 3).round().int().tolist()
    short_first = (2 + 4 * 3, 4 * (2 + 3), 4 * 3)  # start, wait, start
    long_first = (2 + 4 * 3, 3 + 2, 2)
    assert {tuple(episode) for episode in ticks} == {short_first, long_first}


def test_the_unit_is_a_bound_on_the_return_to_go():
    buffer = OfflineBuffer(record_log(200), CPU)
    assert (buffer.return_to_go <= -1.0 + 1e-4).all()
    assert buffer.return_to_go.median() > -4.0


def test_q_values_scale_with_the_unit_and_are_centred_over_legal_actions():
    buffer = OfflineBuffer(record_log(), CPU)
    state = buffer.transitions(torch.arange(20)).state
    network = PairwiseNetwork(8, 1)
    q = q_values(network, state)
    assert torch.allclose(q_values(network, state._replace(unit=2 * state.unit)), 2 * q)
    legal = state.mask
    mean = (q * legal).sum(dim=1) / legal.sum(dim=1)
    logits, value = network(state.features)
    assert torch.allclose(mean, value * state.unit, rtol=1e-4)
    best = q.masked_fill(~legal, -torch.inf).argmax(dim=1)
    assert torch.equal(best, logits.argmax(dim=1))
    assert q_values(PairwiseNetwork(8, 1, outputs=5), state).shape == (*q.shape, 5)


def test_a_trajectory_ends_at_its_decision_and_stays_in_its_episode():
    log = record_log()
    buffer = OfflineBuffer(log, CPU)
    past = buffer.trajectories(torch.arange(len(buffer)), 4)
    for t in range(len(buffer)):
        timestep = int(buffer.timestep[t])
        valid = past.valid[t].bool()
        count = int(valid.sum())
        assert count == min(timestep + 1, 4)
        assert past.action[t][valid].tolist() == log.action[t - count + 1 : t + 1].tolist()
        assert past.timestep[t][-1] == timestep
    first = torch.from_numpy(log.first)
    returns = buffer.return_to_go[first] * buffer.states.unit[buffer.row[first]]
    assert torch.allclose(returns, torch.from_numpy(log.returns).float(), rtol=1e-4)
