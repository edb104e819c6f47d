"""What a network sees: unit-free features of tasks, agents and pairs, from the simulator's arrays or from one Observation.

Times are divided by tau, the mean shortest visible duration of the tasks shown, demands by capacities, weights by their mean:
no feature has a unit, and none uses anything a policy may not see. B decisions, K tasks shown, M agents, T types, R resources.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bench.instance import KINDS
from bench.simulator.view import View

TASK, AGENT, PAIR = 12 + len(KINDS), 8, 16  # numbers of features
ALONE, WAITED, RUNNING, TICKS, TASKS = range(5)  # columns of Features.load, see `derive`
CAN = 2  # which pair feature says that the pair could be: eligible, and the agent covers the demand alone
FAR = 20.0  # ratios of times are cut off here


class Features(NamedTuple):
    """Inputs of the networks, float32."""

    task: Tensor  # (B, K, TASK)
    agent: Tensor  # (B, M, AGENT)
    pair: Tensor  # (B, K, M, PAIR)
    shown: Tensor  # (B, K) bool, false = padding
    present: Tensor  # (B, M) bool, false = padding
    mask: Tensor  # (B, K * M + 1) bool
    load: Tensor  # (B, 5) what is left to pay, for the scale of values: columns ALONE to TASKS

    def at(self, rows: Tensor) -> Features:
        """Those of the decisions `rows` (n,)."""
        return Features(*(column.index_select(0, rows) for column in self))


class Derived(NamedTuple):
    """What several features are made of, computed once."""

    duration: Tensor  # (B, K, M) ticks
    shortest: Tensor  # (B, K) ticks, over the agents that can
    release: Tensor  # (B, K) ticks from now
    capacity: Tensor  # (B, M, R)
    present: Tensor  # (B, M) bool
    can: Tensor  # (B, K, M) bool: eligible, and the agent covers the demand alone
    legal: Tensor  # (B, K, M) bool
    tau: Tensor  # (B,) ticks
    weight: Tensor  # (B, K) over their mean
    load: Tensor  # (B, 5) as in Features


def features(view: View) -> Features:
    """Unit-free features of B decisions."""
    d = derive(view)
    return Features(
        task=stack(_of_tasks(view, d), view.shown),
        agent=stack(_of_agents(view, d), d.present),
        pair=stack(_of_pairs(view, d), view.shown[:, :, None] & d.present[:, None]),
        shown=view.shown,
        present=d.present,
        mask=view.mask,
        load=d.load,
    )


def derive(view: View) -> Derived:
    """What several features are made of.

    Of the load the first three are weighted ticks: what the tasks shown will take from now or their release on, were each alone
    with what runs now; what they waited; what runs, at their mean weight.
    """
    duration, capacity, weight = view.duration.float(), view.capacity.float(), view.weight.float()
    present = view.capacity.amax(dim=2) > 0
    covers = (view.demand <= view.capacity[:, None]).all(dim=3) & present[:, None]
    can = (view.duration > 0) & covers & view.shown[:, :, None]
    shortest = duration.masked_fill(~can, torch.inf).amin(dim=2)
    shortest = torch.where(torch.isfinite(shortest), shortest, 1.0)
    duration = torch.where(
        view.duration > 0, duration, shortest[:, :, None]
    )  # without a unit where not eligible
    count = view.shown.sum(dim=1).clamp(min=1).float()
    tau = ((shortest * view.shown).sum(dim=1) / count).clamp(min=1.0)
    mean_weight = ((weight * view.shown).sum(dim=1) / count).clamp(min=1e-6)
    legal = view.mask[:, :-1].reshape(can.shape)
    relative = weight / mean_weight[:, None]
    release = view.release.float()
    alone = (weight * _alone(view, duration, can)).sum(dim=1)
    waited = (weight * (-release).clamp(min=0) * view.shown).sum(dim=1)
    running = mean_weight * (view.last_end * present).sum(dim=1)
    load = torch.stack([alone, waited, running, tau * torch.sqrt(count), count], dim=1)
    return Derived(duration, shortest, release, capacity, present, can, legal, tau, relative, load)


def _alone(view: View, duration: Tensor, can: Tensor) -> Tensor:
    """(B, K) ticks that each task will take from now or its release on if it meets nothing but what runs now; 0 for padding."""
    coming = view.release.float().clamp(min=0)
    fits = (view.demand <= view.free[:, None]).all(dim=3) & (view.up > 0)[:, None]
    start = torch.maximum(
        coming[:, :, None], torch.where(fits, 0.0, view.next_end[:, None].float())
    )
    takes = (start + duration).masked_fill(~can, torch.inf).amin(dim=2) - coming
    return torch.where(torch.isfinite(takes) & view.shown, takes, 0.0)


def _of_tasks(view: View, d: Derived) -> list[Tensor]:
    """TASK columns (B, K)."""
    tau, agents = d.tau[:, None], d.present.sum(dim=1, keepdim=True).clamp(min=1)
    mean_duration = (d.duration * d.can).sum(dim=2) / d.can.sum(dim=2).clamp(min=1)
    slack = cut((view.due.float() - d.shortest) / tau)
    share = (view.demand / d.capacity.sum(dim=1).clamp(min=1.0)[:, None, None]).amax(
        dim=3
    )  # of the whole cluster
    return [
        d.shortest / tau, torch.log(d.shortest / tau), mean_duration / d.shortest,
        d.weight, torch.log1p(d.weight * tau / d.shortest), cut(d.release / tau), d.release <= 0,
        slack, slack < 0, share.masked_fill(~d.can, 1.0).amin(dim=2).clamp(max=1.0),
        d.legal.sum(dim=2) / agents, d.can.sum(dim=2) / agents, *(view.kind == code for code in range(len(KINDS))),
    ]  # fmt: skip


def _of_agents(view: View, d: Derived) -> list[Tensor]:
    """AGENT columns (B, M)."""
    tau = d.tau[:, None]
    left = view.free / d.capacity.clamp(min=1.0)
    slowdown = torch.where(d.can, d.duration / d.shortest[:, :, None], 0.0).sum(dim=1) / d.can.sum(
        dim=1
    ).clamp(min=1)
    return [
        left.amin(dim=2), left.mean(dim=2), left.amax(dim=2), view.up,
        cut(view.next_end / tau), cut(view.last_end / tau), cut(view.next_outage / tau) / FAR, cut(slowdown),
    ]  # fmt: skip


def _of_pairs(view: View, d: Derived) -> list[Tensor]:
    """PAIR columns (B, K, M)."""
    tau, release, demand = d.tau[:, None, None], d.release[:, :, None], view.demand.float()
    room = d.capacity.clamp(min=1.0)[:, None]
    fraction = share(demand, d.capacity[:, None])
    of_quota = share(demand, view.quota_left.float()[:, :, None])
    leftover = ((view.free[:, None] - demand) / room).amin(dim=3)
    index = torch.where(
        d.can, d.weight[:, :, None] * tau / d.duration.clamp(min=1.0), 0.0
    )  # Smith's w / p, unit-free
    area = index / fraction.clamp(min=0.05)
    arrived = d.can & (release <= 0)
    leads = [
        _log_lead(torch.where(keep, x, 0.0)) for x in (index, area) for keep in (d.can, arrived)
    ]
    free_at = torch.where(d.legal, 0.0, view.next_end[:, None].float())
    ends = torch.maximum(release.clamp(min=0), free_at) + d.duration
    return [
        cut(d.duration / tau), cut(torch.log(d.duration.clamp(min=1.0) / d.shortest[:, :, None])),
        d.can, d.legal, fraction, leftover.clamp(min=-1.0), cut((ends - release) / tau), torch.log1p(index),
        *leads, cut(_over_best(ends, d.duration, d.can) / tau), of_quota,
        cut(_over_best(d.duration, d.duration, d.legal) / tau), cut(ends / tau),
    ]  # fmt: skip


def share(demand: Tensor, room: Tensor) -> Tensor:
    """The largest demand / room over the resources (the last axis), at most 2; any demand where there is no room is 2."""
    return (
        torch.where(room > 0, demand / room.clamp(min=1.0), 2.0 * (demand > 0))
        .amax(dim=-1)
        .clamp(max=2.0)
    )


def cut(x: Tensor) -> Tensor:
    return x.clamp(-FAR, FAR)


def stack(columns: list[Tensor], keep: Tensor) -> Tensor:
    """(..., columns), zero where not to keep."""
    return torch.stack([column.float() for column in columns], dim=-1) * keep[..., None]


def _over_best(ends: Tensor, duration: Tensor, among: Tensor) -> Tensor:
    """(B, K, M): how much a duration exceeds the earliest end among the task's agents; 0 where there is none."""
    best = ends.masked_fill(~among, torch.inf).amin(dim=2, keepdim=True)
    return torch.where(torch.isfinite(best), duration - best, 0.0)


def _log_lead(index: Tensor) -> Tensor:
    """(B, K, M): log of how far each task's index on an agent leads (or trails) the best other task's there, within +-5."""
    top = (
        torch.nn.functional.pad(index, (0, 0, 0, 1)).topk(2, dim=1).values
    )  # a task alone leads a rival of index 0
    best, second = top[:, :1], top[:, -1:]
    other = torch.where(index >= best, second, best)
    return (torch.log(index.clamp(min=1e-6)) - torch.log(other.clamp(min=1e-6))).clamp(-5.0, 5.0)
