"""What the simulator is compared with: the same decision process in torch, eagerly, every operation over all environments.

Fit mode with what has arrived in view, total time as objective; no quotas, no outages, durations known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.instance import Instance, Ints

NEVER = 2**60


class Eager:
    """B environments, each playing its own instance (all of one shape); a finished one starts again.

    `mask` (B, N * M + 1), `window` (B, N), `free` (B, M, R), `next_end` and `last_end` (B, M) are what a policy sees, as in
    `Simulator`; so are flat actions and rewards.
    """

    def __init__(self, instances: Sequence[Instance], seed: int) -> None:
        orders = [np.argsort(i.release, kind="stable") for i in instances]

        def stack(arrays: Sequence[Ints]) -> Tensor:
            return torch.from_numpy(np.stack(arrays))

        self.release = stack(
            [i.release[o] for i, o in zip(instances, orders, strict=True)]
        )  # (B, N)
        self.weight = stack([i.weight[o] for i, o in zip(instances, orders, strict=True)])  # (B, N)
        self.duration = stack(
            [i.duration[o][:, i.agent_type] for i, o in zip(instances, orders, strict=True)]
        )  # (B, N, M)
        self.demand = stack(
            [i.demand[o][:, i.agent_type] for i, o in zip(instances, orders, strict=True)]
        )  # (B, N, M, R)
        self.capacity = stack([i.capacity for i in instances])  # (B, M, R)
        self.scale = stack(
            [np.maximum(1, (i.weight * i.shortest()).sum()) for i in instances]
        ).double()
        self.b, self.n, self.m = self.duration.shape
        self.rows, self.random = torch.arange(self.b), torch.Generator().manual_seed(seed)
        self.time = torch.zeros(self.b, dtype=torch.int64)
        self.agent = torch.full((self.b, self.n), -1)  # -1 = not started
        self.end = torch.full((self.b, self.n), NEVER)
        self.finished = torch.zeros(self.b, self.n, dtype=torch.bool)
        self.free = self.capacity.clone()
        self.reward, self.done = (
            torch.zeros(self.b, dtype=torch.float64),
            torch.zeros(self.b, dtype=torch.bool),
        )
        self.pending_reward = torch.zeros(
            self.b, dtype=torch.float64
        )  # passed before the first decision
        self.restart(torch.ones(self.b, dtype=torch.bool))

    def restart(self, which: Tensor) -> None:
        """New episodes where `which` (B,)."""
        self.time.masked_fill_(which, 0)
        self.agent[which], self.end[which], self.finished[which] = -1, NEVER, False
        self.free = torch.where(which[:, None, None], self.capacity, self.free)
        before = self.reward.clone()
        self.settle(torch.zeros_like(which))
        self.pending_reward = torch.where(which, self.reward - before, self.pending_reward)
        self.reward = before
        self.show()

    def step(self, actions: Tensor) -> Tensor:
        """Flat actions (B,), legal; returns rewards (B,). `done` (B,) says which episodes ended; `restart` them."""
        self.reward = self.pending_reward
        self.pending_reward = torch.zeros_like(self.reward)
        wait = actions == self.n * self.m
        position, a = (
            torch.where(wait, 0, actions) // self.m,
            torch.where(wait, 0, actions) % self.m,
        )
        j = self.window[self.rows, position]
        rows, j, a = self.rows[~wait], j[~wait], a[~wait]
        self.agent[rows, j] = a
        self.end[rows, j] = self.time[rows] + self.duration[rows, j, a]
        self.free[rows, a] -= self.demand[rows, j, a]
        self.settle(wait)
        self.done = self.finished.all(dim=1)
        self.show()
        return self.reward

    def settle(self, moving: Tensor) -> None:
        """Time passes to the next event where `moving` (B,), and on until a decision is due or the episode is over."""
        while True:
            if moving.any():
                self.advance(moving)
            running = (self.agent >= 0) & ~self.finished
            pending = (self.release <= self.time[:, None]) & (self.agent < 0)
            self.fits = self.fit(pending)
            decision = pending.any(dim=1) & (self.fits.any(dim=2).any(dim=1) | running.any(dim=1))
            moving = ~decision & ~self.finished.all(dim=1)
            if not moving.any():
                self.running, self.pending = running, pending
                return

    def advance(self, moving: Tensor) -> None:
        """The next arrival or completion happens where `moving` (B,)."""
        running = (self.agent >= 0) & ~self.finished
        ahead = torch.where(self.release > self.time[:, None], self.release, NEVER)
        until = torch.minimum(ahead.amin(dim=1), torch.where(running, self.end, NEVER).amin(dim=1))
        until = torch.where(moving, until, self.time)
        inside = ((self.release <= self.time[:, None]) & ~self.finished) * self.weight
        self.reward = self.reward - inside.sum(dim=1) * (until - self.time) / self.scale
        self.time = until
        ends = running & (self.end <= until[:, None])
        rows, j = ends.nonzero(as_tuple=True)
        a = self.agent[rows, j]
        self.free.index_put_((rows, a), self.demand[rows, j, a], accumulate=True)
        self.finished |= ends

    def fit(self, pending: Tensor) -> Tensor:
        """(B, N, M): the task is pending and fits the agent now."""
        return (
            pending[:, :, None]
            & (self.duration > 0)
            & (self.demand <= self.free[:, None]).all(dim=3)
        )

    def show(self) -> None:
        """Write what a policy sees."""
        order = torch.argsort((~self.pending).to(torch.uint8), dim=1, stable=True)
        shown = torch.gather(self.pending, 1, order)
        self.window = torch.where(shown, order, -1)
        legal = torch.gather(self.fits, 1, order[:, :, None].expand(-1, -1, self.m))
        wait = self.running.any(dim=1, keepdim=True)
        self.mask = torch.cat([legal.flatten(1), wait], dim=1)
        agent, end = self.agent.clamp(min=0), self.end
        last = torch.where(self.running, end, 0)
        now = self.time[:, None].expand(-1, self.m)
        self.last_end = now.scatter_reduce(1, agent, last, "amax")
        first = torch.full_like(now, NEVER).scatter_reduce(
            1, agent, torch.where(self.running, end, NEVER), "amin"
        )
        self.next_end = torch.where(first == NEVER, now, first)

    def play_random(self, decisions: int) -> Tensor:
        """`decisions` uniformly random legal decisions in every environment; returns the sum of rewards (B,)."""
        total = torch.zeros_like(self.reward)
        for _ in range(decisions):
            total += self.step(torch.multinomial(self.mask.float(), 1, generator=self.random)[:, 0])
            if self.done.any():
                self.restart(self.done)
        return total
