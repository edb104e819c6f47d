"""A logged dataset as tensors on the training device.

Features are computed once, when the buffer is made; a batch is a choice of rows.

Dimensions: T decisions; E episodes; S = T + E states, one per decision and one after the last
decision of each episode; n rows of a batch; K tasks, M agents and A = K * M + 1 flat actions.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.logs.episodes import LoggedEpisodes
from bench.simulator.view import Layout
from solvers.networks.features import ALONE, Features, featurize
from solvers.networks.pairwise import PairwiseNetwork
from solvers.offline.rewards import shaped_rewards
from solvers.rl.advantages import returns_to_go
from solvers.rl.rollouts import visible_load

CHUNK = 4096  # states that are processed at once, which bounds the memory


class StateFeatures(NamedTuple):
    """Network inputs of B states: the columns of `Features`, and the unit of the state values."""

    task: Tensor  # (B, K, TASK)
    agent: Tensor  # (B, M, AGENT)
    pair: Tensor  # (B, K, M, PAIR)
    shown: Tensor  # (B, K) bool
    present: Tensor  # (B, M) bool
    mask: Tensor  # (B, A) bool
    load: Tensor  # (B, 5)
    unit: Tensor  # (B,) return per unit of a network's value output

    @property
    def features(self) -> Features:
        """The inputs of a policy: all columns but `unit`."""
        return Features(*self[:-1])

    def select(self, rows: Tensor) -> StateFeatures:
        """Return the states `rows` (n,)."""
        return StateFeatures(*(column.index_select(0, rows) for column in self))


def state_features(flat: Tensor, layout: Layout, objective: str) -> StateFeatures:
    """Compute the features and value units of B flat observations.

    The unit of an objective other than `total_time` is the visible load, as in online learners. For
    `total_time` it is the weighted flow time that the visible tasks would add if each ran alone. It
    explains several times as much of the variance of the returns to go: fitted Q functions are
    close to the true values with this unit and far off without it.

    Parameters
    ----------
    flat
        (B, D) observations, laid out by `layout`.
    layout
        Sizes and column positions of an observation.
    objective
        The objective that the rewards count, see `bench.setting`.
    """
    computed = featurize(layout.view(flat))
    scale = layout.scale(flat)
    load = (
        computed.load[:, ALONE]
        if objective == "total_time"
        else visible_load(computed, objective, shaped=False)
    )
    unit = torch.where(scale > 0, load / scale.clamp(min=1e-9), 1.0)
    return StateFeatures(*computed, unit)


def q_values(network: PairwiseNetwork, state: StateFeatures) -> Tensor:
    """Return the Q values of all actions.

    Q = unit * (V + A - mean of A over the legal actions): a dueling network (Wang et al. 2016,
    arXiv:1511.06581, eq. 9). Because the unit is the return that the visible work amounts to, the
    network itself has no unit and serves instances of every time scale and size. With several
    outputs (policies or quantiles) no mean is subtracted: the outputs share V, and the value of a
    state may differ between them.

    Returns
    -------
    Tensor
        (B, A), or (B, A, n) of a network with n outputs. Entries of illegal actions are arbitrary.
    """
    scores, value = network(state.features)
    if network.outputs > 1:
        scores = scores.masked_fill(~state.mask[..., None], 0.0)
        return (value[:, None, None] + scores) * state.unit[:, None, None]
    scores = scores.masked_fill(~state.mask, 0.0)
    mean = scores.sum(dim=1, keepdim=True) / state.mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (value[:, None] + scores - mean) * state.unit[:, None]


class TransitionBatch(NamedTuple):
    """n transitions."""

    state: StateFeatures  # each (n, ...)
    action: Tensor  # (n,)
    reward: Tensor  # (n,) float32
    next_state: StateFeatures  # each (n, ...)
    terminal: Tensor  # (n,) float32, 1 where the episode terminated
    next_row: Tensor  # (n,) rows of `OfflineBuffer.states`


class TrajectoryBatch(NamedTuple):
    """n sequences of L consecutive decisions of an episode.

    A sequence that would begin before its episode is padded in front with the first decision.
    """

    features: Features  # each (n * L, ...)
    action: Tensor  # (n, L)
    return_to_go: Tensor  # (n, L) in units of the states
    timestep: Tensor  # (n, L) decisions since the start of the episode
    valid: Tensor  # (n, L) float32, 0 where there is padding


class OfflineBuffer:
    """All transitions of a logged dataset, sampled uniformly with replacement.

    Rewards are the shaped ones of `solvers.offline.rewards` where these can be computed, the logged
    ones otherwise.

    Parameters
    ----------
    episodes
        The logged dataset.
    device
        Where the tensors are stored and batches are made.
    seed
        Seed of the generator that draws the batches.
    reward_scale
        Factor of all rewards, and so of the units of the states.
    """

    def __init__(
        self,
        episodes: LoggedEpisodes,
        device: torch.device,
        seed: int = 0,
        reward_scale: float = 1.0,
    ) -> None:
        self.episodes = episodes
        self.layout = episodes.layout
        self.device = device
        self.reward_scale = reward_scale
        self.generator = torch.Generator(device).manual_seed(seed)
        self.states = self._states()  # S rows
        self.row = torch.from_numpy(episodes.state).to(device)  # (T,) rows of `states`
        self.action = torch.from_numpy(episodes.action).to(device)  # (T,)
        shaped = shaped_rewards(episodes)
        self.reward_kind = "logged" if shaped is None else "shaped"
        self.unscaled_reward = episodes.reward if shaped is None else shaped  # (T,) float64
        scaled = torch.from_numpy(self.unscaled_reward * reward_scale)
        self.reward = scaled.float().to(device)  # (T,)
        self.terminal = torch.from_numpy(episodes.terminated).float().to(device)  # (T,)

    def _states(self) -> StateFeatures:
        chunks = [
            state_features(chunk.to(self.device), self.layout, self.episodes.objective)
            for chunk in torch.from_numpy(self.episodes.observation).split(CHUNK)
        ]
        states = StateFeatures(*(torch.cat(column) for column in zip(*chunks, strict=True)))
        return states._replace(unit=states.unit * self.reward_scale)

    def __len__(self) -> int:
        """T, the number of transitions."""
        return len(self.action)

    def sample(self, count: int) -> TransitionBatch:
        """Draw `count` transitions uniformly with replacement."""
        return self.transitions(self.sample_indices(count))

    def sample_indices(self, count: int) -> Tensor:
        """Draw (count,) indices of decisions uniformly with replacement."""
        return torch.randint(len(self), (count,), generator=self.generator, device=self.device)

    def transitions(self, indices: Tensor) -> TransitionBatch:
        """Return the transitions of the decisions `indices` (n,)."""
        row = self.row[indices]
        return TransitionBatch(
            state=self.states.select(row),
            action=self.action[indices],
            reward=self.reward[indices],
            next_state=self.states.select(row + 1),
            terminal=self.terminal[indices],
            next_row=row + 1,
        )

    def trajectories(self, last: Tensor, length: int) -> TrajectoryBatch:
        """Return the sequences of `length` decisions that end at the decisions `last` (n,)."""
        offset = torch.arange(length - 1, -1, -1, device=self.device)
        wanted = last[:, None] - offset  # (n, L)
        first = (last - self.timestep[last])[:, None]
        indices = torch.maximum(wanted, first)
        return TrajectoryBatch(
            features=self.states.select(self.row[indices].flatten()).features,
            action=self.action[indices],
            return_to_go=self.return_to_go[indices],
            timestep=self.timestep[indices],
            valid=(wanted >= first).float(),
        )

    @functools.cached_property
    def timestep(self) -> Tensor:
        """(T,) decisions since the start of the episode."""
        episodes = self.episodes
        first = np.repeat(episodes.first, episodes.length)
        return torch.from_numpy(np.arange(len(self)) - first).to(self.device)

    @functools.cached_property
    def return_to_go(self) -> Tensor:
        """(T,) return from each decision to the end of its episode, in the unit of its state."""
        length = self.episodes.length
        timestep = self.timestep.cpu().numpy()
        episode = np.repeat(np.arange(len(length)), length)
        padded = np.zeros((int(length.max()), len(length)), dtype=np.float32)
        padded[timestep, episode] = self.reward.cpu().numpy()
        returns = returns_to_go(torch.from_numpy(padded), 1.0)[timestep, episode].to(self.device)
        return returns / self.states.unit[self.row].clamp(min=1e-9)
