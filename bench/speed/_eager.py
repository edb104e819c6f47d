"""The simulator to compare with: the same decision process in eager torch, vectorised.

Every operation runs over all environments. Fit mode, `observe=arrived`, total time as objective; no
quotas, no outages, durations known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.instance import Instance, Ints

NEVER = 2**60  # a tick that is never reached


class EagerSimulator:
    """B environments, each playing an instance of its own; an episode that ended can restart.

    Actions are flat and rewards are those of `bench.simulator.Simulator`.

    Parameters
    ----------
    instances
        B instances with the same N, M and R.
    seed
        Of `play_random`.

    Attributes
    ----------
    mask : (B, N * M + 1) bool
        Legal actions.
    window : (B, N) int
        Pending tasks in the order of the queue, -1 after its end.
    free : (B, M, R) int
        Free capacity.
    next_end, last_end : (B, M) int
        Ticks at which the first and the last running task of each agent ends, now if none runs.
    done : (B,) bool
        Whether the last step ended the episode.
    """

    def __init__(self, instances: Sequence[Instance], seed: int) -> None:
        orders = [np.argsort(i.release, kind="stable") for i in instances]
        ordered = list(zip(instances, orders, strict=True))

        def stack(arrays: Sequence[Ints]) -> Tensor:
            return torch.from_numpy(np.stack(arrays))

        self.release = stack([i.release[o] for i, o in ordered])  # (B, N)
        self.weight = stack([i.weight[o] for i, o in ordered])  # (B, N)
        self.duration = stack([i.duration[o][:, i.agent_type] for i, o in ordered])  # (B, N, M)
        self.demand = stack([i.demand[o][:, i.agent_type] for i, o in ordered])  # (B, N, M, R)
        self.capacity = stack([i.capacity for i in instances])  # (B, M, R)
        self.scale = stack(  # (B,)
            [np.maximum(1, (i.weight * i.shortest()).sum()) for i in instances]
        ).double()
        self.b, self.n, self.m = self.duration.shape
        self.rows = torch.arange(self.b)
        self.generator = torch.Generator().manual_seed(seed)
        self.time = torch.zeros(self.b, dtype=torch.int64)
        self.agent = torch.full((self.b, self.n), -1)  # -1: not started
        self.end = torch.full((self.b, self.n), NEVER)
        self.finished = torch.zeros(self.b, self.n, dtype=torch.bool)
        self.free = self.capacity.clone()
        self.reward = torch.zeros(self.b, dtype=torch.float64)
        self.done = torch.zeros(self.b, dtype=torch.bool)
        # rewards of the time before the first decision, which the first step pays
        self.pending_reward = torch.zeros(self.b, dtype=torch.float64)
        self.restart(torch.ones(self.b, dtype=torch.bool))

    def restart(self, which: Tensor) -> None:
        """Start new episodes where `which` (B,) is true."""
        self.time.masked_fill_(which, 0)
        self.agent[which] = -1
        self.end[which] = NEVER
        self.finished[which] = False
        self.free = torch.where(which[:, None, None], self.capacity, self.free)
        before = self.reward.clone()
        self._advance_to_decision(torch.zeros_like(which))
        self.pending_reward = torch.where(which, self.reward - before, self.pending_reward)
        self.reward = before
        self._write_observation()

    def step(self, actions: Tensor) -> Tensor:
        """Apply legal flat actions (B,) and return rewards (B,); `restart` where `done` is true."""
        self.reward = self.pending_reward
        self.pending_reward = torch.zeros_like(self.reward)
        wait = actions == self.n * self.m
        pair = torch.where(wait, 0, actions)
        a = pair % self.m
        j = self.window[self.rows, pair // self.m]
        rows, j, a = self.rows[~wait], j[~wait], a[~wait]
        self.agent[rows, j] = a
        self.end[rows, j] = self.time[rows] + self.duration[rows, j, a]
        self.free[rows, a] -= self.demand[rows, j, a]
        self._advance_to_decision(wait)
        self.done = self.finished.all(dim=1)
        self._write_observation()
        return self.reward

    def play_random(self, decisions: int) -> Tensor:
        """Play uniformly random legal actions; return the sum of rewards (B,).

        `decisions`: number of decisions per environment. Episodes that end restart.
        """
        total = torch.zeros_like(self.reward)
        for _ in range(decisions):
            weights = self.mask.float()
            total += self.step(torch.multinomial(weights, 1, generator=self.generator)[:, 0])
            if self.done.any():
                self.restart(self.done)
        return total

    def _advance_to_decision(self, moving: Tensor) -> None:
        """Advance to the next event where `moving` (B,), then to a decision or the end."""
        while True:
            if moving.any():
                self._advance_to_event(moving)
            running = (self.agent >= 0) & ~self.finished
            pending = (self.release <= self.time[:, None]) & (self.agent < 0)
            self.fits = self._fits(pending)
            decision = pending.any(dim=1) & (self.fits.any(dim=2).any(dim=1) | running.any(dim=1))
            moving = ~decision & ~self.finished.all(dim=1)
            if not moving.any():
                self.running = running
                self.pending = pending
                return

    def _advance_to_event(self, moving: Tensor) -> None:
        """Advance to the next arrival or completion where `moving` (B,)."""
        running = (self.agent >= 0) & ~self.finished
        arrival = torch.where(self.release > self.time[:, None], self.release, NEVER).amin(dim=1)
        completion = torch.where(running, self.end, NEVER).amin(dim=1)
        until = torch.where(moving, torch.minimum(arrival, completion), self.time)
        inside = ((self.release <= self.time[:, None]) & ~self.finished) * self.weight
        self.reward = self.reward - inside.sum(dim=1) * (until - self.time) / self.scale
        self.time = until
        ends = running & (self.end <= until[:, None])
        rows, j = ends.nonzero(as_tuple=True)
        a = self.agent[rows, j]
        self.free.index_put_((rows, a), self.demand[rows, j, a], accumulate=True)
        self.finished |= ends

    def _fits(self, pending: Tensor) -> Tensor:
        """Return (B, N, M) whether the task is `pending` (B, N) and fits the agent now."""
        return (
            pending[:, :, None]
            & (self.duration > 0)
            & (self.demand <= self.free[:, None]).all(dim=3)
        )

    def _write_observation(self) -> None:
        """Write `window`, `mask`, `next_end` and `last_end`."""
        order = torch.argsort((~self.pending).to(torch.uint8), dim=1, stable=True)
        shown = torch.gather(self.pending, 1, order)
        self.window = torch.where(shown, order, -1)
        legal = torch.gather(self.fits, 1, order[:, :, None].expand(-1, -1, self.m))
        wait = self.running.any(dim=1, keepdim=True)
        self.mask = torch.cat([legal.flatten(1), wait], dim=1)
        agent = self.agent.clamp(min=0)
        now = self.time[:, None].expand(-1, self.m)
        last = torch.where(self.running, self.end, 0)
        self.last_end = now.scatter_reduce(1, agent, last, "amax")
        first = torch.where(self.running, self.end, NEVER)
        never = torch.full_like(now, NEVER)
        next_end = never.scatter_reduce(1, agent, first, "amin")
        self.next_end = torch.where(next_end == NEVER, now, next_end)
