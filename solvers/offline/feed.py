"""A log as tensors on the device where it is learnt from: features are made once, a batch is a choice of rows.

T decisions, S states (the decisions, and what followed the last one of each episode), B rows of a batch, A flat actions.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.logs.episodes import Episodes
from bench.simulator.view import Layout
from solvers.networks.features import ALONE, Features, features
from solvers.networks.pairwise import PairNetwork
from solvers.offline.rewards import paid_at_start
from solvers.rl.advantages import to_go
from solvers.rl.rollouts import visible_load

CHUNK = 4096  # states whose features are made at once


class State(NamedTuple):
    """What the networks of offline learners read: the columns of Features, and for critics the unit of their values."""

    task: Tensor  # (B, K, TASK)
    agent: Tensor  # (B, M, AGENT)
    pair: Tensor  # (B, K, M, PAIR)
    shown: Tensor  # (B, K) bool
    present: Tensor  # (B, M) bool
    mask: Tensor  # (B, A) bool
    load: Tensor  # (B, 5)
    unit: Tensor  # (B,) return that what is left to do stands for

    @property
    def features(self) -> Features:
        """What a policy reads."""
        return Features(*self[:-1])

    def at(self, rows: Tensor) -> State:
        """Those of `rows` (n,)."""
        return State(*(column.index_select(0, rows) for column in self))


def states(flat: Tensor, layout: Layout, objective: str) -> State:
    """The states that lie in flat observations (B, D).

    Their unit is the visible load, as online; for `total_time` what the tasks seen would cost undisturbed, which tells several
    times as much of the returns to go: fitted Q functions are near the truth with it and far off without.
    """
    seen, scale = features(layout.view(flat)), layout.scale(flat)
    left = (
        seen.load[:, ALONE]
        if objective == "total_time"
        else visible_load(seen, objective, shaped=False)
    )
    unit = torch.where(scale > 0, left / scale.clamp(min=1e-9), 1.0)
    return State(*seen, unit)


def q_values(network: PairNetwork, seen: State) -> Tensor:
    """(B, A) values of the actions, (B, A, n) of a network with n outputs; where illegal any number.

    Q = unit * (V + A - mean of the legal A): a dueling network (Wang et al. 2016, arXiv:1511.06581, eq. 9), whose unit is the
    return that what is left to do stands for. So one unit-free network serves instances of every scale and size. With several
    outputs no mean is taken away: they share V, and a state may be worth more to one than to another.
    """
    scores, value = network(seen.features)
    if network.outputs > 1:
        return (value[:, None, None] + scores.masked_fill(~seen.mask[..., None], 0.0)) * seen.unit[
            :, None, None
        ]
    scores = scores.masked_fill(~seen.mask, 0.0)
    mean = scores.sum(dim=1, keepdim=True) / seen.mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (value[:, None] + scores - mean) * seen.unit[:, None]


class Batch(NamedTuple):
    """n decisions and where they led."""

    seen: State  # each (n, ...)
    action: Tensor  # (n,)
    reward: Tensor  # (n,) float32
    following: State  # each (n, ...)
    terminal: Tensor  # (n,) float32, 1 where nothing follows
    next_state: Tensor  # (n,) rows of the feed's states


class Trajectories(NamedTuple):
    """n stretches of at most L decisions, each ending at some decision; padding in front is known = 0 and repeats the first."""

    seen: Features  # each (n * L, ...)
    action: Tensor  # (n, L)
    return_to_go: Tensor  # (n, L) return to go in the units of the states
    step: Tensor  # (n, L) decisions since the episode's begin
    known: Tensor  # (n, L) float32


class Feed:
    """All decisions of a log, drawn uniformly with replacement.

    Rewards are those of `solvers.offline.rewards` where these are known; they are multiplied by `reward_scale`, as units are.
    """

    def __init__(
        self, log: Episodes, device: torch.device, seed: int = 0, reward_scale: float = 1.0
    ) -> None:
        self.log, self.layout, self.device, self.reward_scale = (
            log,
            log.layout,
            device,
            reward_scale,
        )
        self.generator = torch.Generator(device).manual_seed(seed)
        chunks = torch.from_numpy(log.observation).split(CHUNK)
        made = [states(chunk.to(device), log.layout, log.objective) for chunk in chunks]
        self.states = State(*(torch.cat(column) for column in zip(*made, strict=True)))
        self.states = self.states._replace(unit=self.states.unit * reward_scale)
        self.state = torch.from_numpy(log.state).to(device)  # (T,) rows of `states`
        self.action = torch.from_numpy(log.action).to(device)  # (T,)
        paid = paid_at_start(log)
        self.rewards_are = "logged" if paid is None else "paid at start"
        self.rewards = log.reward if paid is None else paid  # (T,) what is learnt from
        self.reward = torch.from_numpy(self.rewards * reward_scale).float().to(device)  # (T,)
        self.terminal = torch.from_numpy(log.terminated).float().to(device)  # (T,)

    def __len__(self) -> int:
        return len(self.action)

    def draw(self, count: int) -> Batch:
        """`count` decisions."""
        return self.at(self.rows(count))

    def rows(self, count: int) -> Tensor:
        """(count,) decisions drawn uniformly."""
        return torch.randint(len(self), (count,), generator=self.generator, device=self.device)

    def at(self, rows: Tensor) -> Batch:
        """The decisions `rows` (n,)."""
        state = self.state[rows]
        seen, following = self.states.at(state), self.states.at(state + 1)
        return Batch(
            seen, self.action[rows], self.reward[rows], following, self.terminal[rows], state + 1
        )

    def trajectories(self, last: Tensor, length: int) -> Trajectories:
        """The stretches of `length` decisions that end at the decisions `last` (n,)."""
        back = last[:, None] - torch.arange(length - 1, -1, -1, device=self.device)  # (n, L)
        first = (last - self.step[last])[:, None]
        known, rows = back >= first, torch.maximum(back, first)
        seen = self.states.at(self.state[rows].flatten()).features
        return Trajectories(
            seen, self.action[rows], self.return_to_go[rows], self.step[rows], known.float()
        )

    @functools.cached_property
    def step(self) -> Tensor:
        """(T,) decisions since the episode's begin."""
        log = self.log
        return torch.from_numpy(np.arange(len(self)) - np.repeat(log.first, log.length)).to(
            self.device
        )

    @functools.cached_property
    def return_to_go(self) -> Tensor:
        """(T,) return from each decision to the end of its episode, in the unit of its state."""
        log, step = self.log, self.step.cpu().numpy()
        episode = np.repeat(np.arange(len(log.length)), log.length)
        padded = np.zeros((int(log.length.max()), len(log.length)), dtype=np.float32)
        padded[step, episode] = self.reward.cpu().numpy()
        rest = to_go(torch.from_numpy(padded), 1.0)[step, episode].to(self.device)
        return rest / self.states.unit[self.state].clamp(min=1e-9)
