"""What a network sees: unit-free features of tasks, agents and pairs, from the simulator's arrays or from one Observation.

Times are divided by tau, the mean shortest visible duration of the tasks shown, demands by capacities, weights by their mean:
no feature has a unit, and none uses anything a policy may not see. B decisions, K tasks shown, M agents, T types, R resources.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.instance import KINDS
from bench.observation import Observation
from bench.simulator import Simulator
from bench.simulator.tables import (
    CAPACITY, DEMAND, DUE, FREE, INSTANCE, KIND, LAST_END, NEVER, NEXT_END, NEXT_OUTAGE, RELEASE, TIME, TYPE, UP, VISIBLE,
    WEIGHT,
)  # fmt: skip

TASK, AGENT, PAIR = 12 + len(KINDS), 8, 10  # numbers of features
FAR = 20.0  # ratios of times are cut off here


class View(NamedTuple):
    """The raw arrays of B decisions as tensors, times relative to now, in ticks."""

    shown: Tensor  # (B, K) bool, false = padding
    release: Tensor  # (B, K) ticks from now, <= 0 where arrived
    due: Tensor  # (B, K) ticks from now, very large without due dates
    weight: Tensor  # (B, K)
    kind: Tensor  # (B, K) int
    duration: Tensor  # (B, K, M) visible ticks, -1 = not eligible
    demand: Tensor  # (B, K, M, R)
    capacity: Tensor  # (B, M, R), 0 for padding
    free: Tensor  # (B, M, R)
    up: Tensor  # (B, M)
    next_outage: Tensor  # (B, M) ticks from now
    next_end: Tensor  # (B, M) ticks from now, 0 where idle
    last_end: Tensor  # (B, M) ticks from now, 0 where idle
    mask: Tensor  # (B, K * M + 1) bool


class Features(NamedTuple):
    """Inputs of the networks, float32."""

    task: Tensor  # (B, K, TASK)
    agent: Tensor  # (B, M, AGENT)
    pair: Tensor  # (B, K, M, PAIR)
    shown: Tensor  # (B, K) bool, false = padding
    present: Tensor  # (B, M) bool, false = padding
    mask: Tensor  # (B, K * M + 1) bool
    load: Tensor  # (B, 3) what is left to do: weighted ticks, ticks, tasks (for the critic's scale, in ticks)


def from_simulator(simulator: Simulator, device: torch.device) -> View:
    """The current decisions of all B environments."""
    t, s = simulator.tables, simulator.state
    i = s.env[:, INSTANCE]
    time = s.env[:, TIME, None]
    ids = np.maximum(s.window, 0)
    task, work = t.task[i[:, None], ids], t.work[i[:, None], ids]
    kind_of = t.agents[i, :, TYPE]
    work = np.take_along_axis(work, kind_of[:, None, :, None], axis=2)  # (B, K, M, 2 + R)
    columns = (
        s.window >= 0, task[..., RELEASE] - time, task[..., DUE] - time, task[..., WEIGHT], task[..., KIND],
        work[..., VISIBLE], work[..., DEMAND:], t.agents[i, :, CAPACITY:], s.agents[..., FREE:], s.agents[..., UP],
        s.agents[..., NEXT_OUTAGE] - time, s.agents[..., NEXT_END] - time, s.agents[..., LAST_END] - time, s.mask.astype(bool),
    )  # fmt: skip
    return View(*(torch.from_numpy(np.ascontiguousarray(column)).to(device) for column in columns))


def from_observation(seen: Observation, device: torch.device) -> View:
    """One decision, B = 1."""
    m = seen.n_agents
    next_end, last_end = np.full(m, NEVER), np.full(m, seen.time)
    np.minimum.at(next_end, seen.running_agent, seen.running_end)
    np.maximum.at(last_end, seen.running_agent, seen.running_end)
    next_end = np.where(next_end == NEVER, seen.time, next_end)
    due = np.full(len(seen.release), NEVER) if seen.due is None else seen.due
    columns = (
        np.ones(len(seen.release), dtype=bool), seen.release - seen.time, due - seen.time, seen.weight, seen.kind,
        seen.pair_duration, seen.demand[:, seen.agent_type], seen.capacity, seen.free, seen.up,
        seen.next_outage - seen.time, next_end - seen.time, last_end - seen.time, seen.mask,
    )  # fmt: skip
    return View(*(torch.from_numpy(np.array(column))[None].to(device) for column in columns))


def features(view: View) -> Features:
    """Unit-free features of B decisions."""
    shown, present = view.shown, view.capacity.amax(dim=2) > 0  # (B, K), (B, M)
    duration, demand, capacity = view.duration.float(), view.demand.float(), view.capacity.float()
    release, due, weight = view.release.float(), view.due.float(), view.weight.float()
    fits_alone = (view.demand <= view.capacity[:, None]).all(dim=3) & present[:, None]
    can = (duration > 0) & fits_alone & shown[:, :, None]  # (B, K, M)
    legal = view.mask[:, :-1].reshape(can.shape)
    shortest = duration.masked_fill(~can, torch.inf).amin(dim=2)  # (B, K)
    shortest = torch.where(torch.isfinite(shortest), shortest, torch.ones_like(shortest))
    mean_duration = (duration * can).sum(dim=2) / can.sum(dim=2).clamp(min=1)
    count = shown.sum(dim=1).clamp(min=1)  # (B,)
    tau = ((shortest * shown).sum(dim=1) / count).clamp(min=1.0)
    mean_weight = ((weight * shown).sum(dim=1) / count).clamp(min=1e-6)
    relative = weight / mean_weight[:, None]
    ticks, agents = tau[:, None], present.sum(dim=1, keepdim=True)

    def cut(x: Tensor) -> Tensor:
        return torch.clamp(x, -FAR, FAR)

    total = capacity.sum(dim=1).clamp(min=1.0)  # (B, R)
    share = (demand / total[:, None, None]).amax(dim=3)  # (B, K, M) of the whole cluster
    slack = cut((due - shortest) / ticks)
    per_task = [
        shortest / ticks, torch.log(shortest / ticks), mean_duration / shortest,
        relative, torch.log1p(relative * ticks / shortest), cut(release / ticks), (release <= 0).float(),
        slack, (slack < 0).float(),
        share.masked_fill(~can, torch.inf).amin(dim=2).clamp(max=1.0), legal.sum(dim=2) / agents, can.sum(dim=2) / agents,
        *(view.kind == code for code in range(len(KINDS))),
    ]  # fmt: skip
    left = view.free / capacity.clamp(min=1.0)  # (B, M, R)
    speed = torch.where(can, duration / shortest[:, :, None], 0.0)
    slower = speed.sum(dim=1) / can.sum(dim=1).clamp(min=1)
    per_agent = [
        left.amin(dim=2), left.mean(dim=2), left.amax(dim=2), view.up.float(),
        cut(view.next_end / ticks), cut(view.last_end / ticks), cut(view.next_outage / ticks) / FAR, cut(slower),
    ]  # fmt: skip
    fraction = (demand / capacity.clamp(min=1.0)[:, None]).amax(dim=3)
    other = duration.masked_fill(~legal, torch.inf)
    best = other.amin(dim=2, keepdim=True)
    regret = torch.where(torch.isfinite(best), (duration - best) / tau[:, None, None], torch.zeros_like(duration))
    start = torch.maximum(release.clamp(min=0)[:, :, None], torch.where(legal, 0.0, view.next_end[:, None].float()))
    flow = start + duration - release[:, :, None]
    per_pair = [
        cut(duration / tau[:, None, None]), cut(torch.log(duration.clamp(min=1.0) / shortest[:, :, None])),
        can, legal, fraction.clamp(max=2.0),
        ((view.free[:, None] - demand) / capacity.clamp(min=1.0)[:, None]).amin(dim=3).clamp(min=-1.0),
        cut(flow / tau[:, None, None]), torch.log1p(relative[:, :, None] * tau[:, None, None] / duration.clamp(min=1.0)),
        cut(regret), cut((start + duration) / tau[:, None, None]),
    ]  # fmt: skip
    load = [(weight * shown).sum(dim=1) * tau + mean_weight * view.last_end.sum(dim=1), tau * torch.sqrt(count), count]

    def stack(columns: list[Tensor], keep: Tensor) -> Tensor:
        return torch.stack([column.float() for column in columns], dim=-1) * keep[..., None]

    return Features(
        task=stack(per_task, shown),
        agent=stack(per_agent, present),
        pair=stack(per_pair, shown[:, :, None] & present[:, None]),
        shown=shown,
        present=present,
        mask=view.mask,
        load=torch.stack([x.float() for x in load], dim=1),
    )
