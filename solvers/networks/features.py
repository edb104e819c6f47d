"""Compute the inputs of the networks: unit-free features of tasks, agents and (task, agent) pairs.

They are computed from a `BatchView`, so in the same way from the simulator's arrays and from one
`Observation`. Times are divided by tau, the mean over the tasks shown of their shortest visible
duration, demands by capacities, and weights by their mean. So no feature has a unit, and none uses
information that an online policy may not have.

Shapes: B decisions, K tasks shown, M agents, R resources.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bench.instance import KINDS
from bench.simulator.view import BatchView

TASK_FEATURES = 12 + len(KINDS)
AGENT_FEATURES = 8
PAIR_FEATURES = 16
CAN_RUN = 2  # index of the pair feature `Derived.can_run`
ALONE, WAITED, RUNNING, TICKS, TASKS = range(5)  # columns of Features.load, see `derive`
RATIO_LIMIT = 20.0  # ratios of times are clipped to +-RATIO_LIMIT


class Features(NamedTuple):
    """Inputs of the networks: float32 tensors and bool masks."""

    task: Tensor  # (B, K, TASK_FEATURES)
    agent: Tensor  # (B, M, AGENT_FEATURES)
    pair: Tensor  # (B, K, M, PAIR_FEATURES)
    shown: Tensor  # (B, K) bool, false = padding
    present: Tensor  # (B, M) bool, false = padding
    mask: Tensor  # (B, K * M + 1) bool, true = legal action
    load: Tensor  # (B, 5) remaining cost, the scale of predicted values: columns ALONE to TASKS

    def at(self, rows: Tensor) -> Features:
        """Return the features of the decisions `rows` (n,)."""
        return Features(*(column.index_select(0, rows) for column in self))


class Derived(NamedTuple):
    """Quantities from which several features are computed."""

    duration: Tensor  # (B, K, M) ticks
    shortest: Tensor  # (B, K) ticks, over the agents that can run the task
    release: Tensor  # (B, K) ticks from now
    capacity: Tensor  # (B, M, R)
    present: Tensor  # (B, M) bool
    can_run: Tensor  # (B, K, M) bool: eligible, and the capacity covers the demand
    legal: Tensor  # (B, K, M) bool
    tau: Tensor  # (B,) ticks
    weight: Tensor  # (B, K) divided by the mean weight
    load: Tensor  # (B, 5) as in Features


def featurize(view: BatchView) -> Features:
    """Return the features of the B decisions of `view`."""
    view = with_resource(view)
    d = derive(view)
    return Features(
        task=stack(_task_columns(view, d), view.shown),
        agent=stack(_agent_columns(view, d), d.present),
        pair=stack(_pair_columns(view, d), view.shown[:, :, None] & d.present[:, None]),
        shown=view.shown,
        present=d.present,
        mask=view.mask,
        load=d.load,
    )


def with_resource(view: BatchView) -> BatchView:
    """Return the view, with one resource where the problem has none (R = 0).

    Every agent has one free unit of it and no task needs any, so that every feature has a value.
    """
    if view.demand.shape[3]:
        return view

    def units(column: Tensor, value: int) -> Tensor:
        return column.new_full((*column.shape[:-1], 1), value)

    return view._replace(
        demand=units(view.demand, 0),
        quota_left=units(view.quota_left, 1),
        capacity=units(view.capacity, 1),
        free=units(view.free, 1),
    )


def derive(view: BatchView) -> Derived:
    """Return the quantities from which several features are computed; R >= 1.

    The columns of `load` estimate the cost that remains, from the tasks shown:

    ALONE
        Sum over the tasks of weight times the ticks from now (or from the release, if later) to the
        completion, if each task were alone with the tasks that run now; weighted ticks.
    WAITED
        Sum over the tasks of weight times the ticks since their release; weighted ticks.
    RUNNING
        Sum over the agents of the ticks until their last running task ends, times the mean weight.
    TICKS
        tau times the square root of the number of tasks; ticks.
    TASKS
        The number of tasks shown.
    """
    duration = view.duration.float()
    capacity = view.capacity.float()
    weight = view.weight.float()
    present = view.next_outage > 0
    covers = (view.demand <= view.capacity[:, None]).all(dim=3) & present[:, None]
    can_run = (view.duration > 0) & covers & view.shown[:, :, None]
    shortest = duration.masked_fill(~can_run, torch.inf).amin(dim=2)
    shortest = torch.where(torch.isfinite(shortest), shortest, 1.0)
    # where a task is not eligible its duration is -1; the shortest one has the right unit
    duration = torch.where(view.duration > 0, duration, shortest[:, :, None])
    count = view.shown.sum(dim=1).clamp(min=1).float()
    tau = ((shortest * view.shown).sum(dim=1) / count).clamp(min=1.0)
    mean_weight = ((weight * view.shown).sum(dim=1) / count).clamp(min=1e-6)
    legal = view.mask[:, :-1].reshape(can_run.shape)
    release = view.release.float()
    alone = (weight * _ticks_alone(view, duration, can_run)).sum(dim=1)
    waited = (weight * (-release).clamp(min=0) * view.shown).sum(dim=1)
    running = mean_weight * (view.last_end * present).sum(dim=1)
    return Derived(
        duration=duration,
        shortest=shortest,
        release=release,
        capacity=capacity,
        present=present,
        can_run=can_run,
        legal=legal,
        tau=tau,
        weight=weight / mean_weight[:, None],
        load=torch.stack([alone, waited, running, tau * torch.sqrt(count), count], dim=1),
    )


def _ticks_alone(view: BatchView, duration: Tensor, can_run: Tensor) -> Tensor:
    """Return (B, K) ticks from now or the release to the completion of each task if it were alone.

    Only the tasks that run now are taken into account; 0 for padding.
    """
    release = view.release.float().clamp(min=0)
    fits = (view.demand <= view.free[:, None]).all(dim=3) & (view.up > 0)[:, None]
    free_at = torch.where(fits, 0.0, view.next_end[:, None].float())
    start = torch.maximum(release[:, :, None], free_at)
    ticks = (start + duration).masked_fill(~can_run, torch.inf).amin(dim=2) - release
    return torch.where(torch.isfinite(ticks) & view.shown, ticks, 0.0)


def _task_columns(view: BatchView, d: Derived) -> list[Tensor]:
    """Return TASK_FEATURES columns (B, K)."""
    tau = d.tau[:, None]
    agents = d.present.sum(dim=1, keepdim=True).clamp(min=1)
    mean_duration = (d.duration * d.can_run).sum(dim=2) / d.can_run.sum(dim=2).clamp(min=1)
    slack = clip((view.due.float() - d.shortest) / tau)
    total = d.capacity.sum(dim=1).clamp(min=1.0)  # (B, R) of the whole cluster
    dominant_share = (view.demand / total[:, None, None]).amax(dim=3)
    return [
        d.shortest / tau,
        torch.log(d.shortest / tau),
        mean_duration / d.shortest,
        d.weight,
        torch.log1p(d.weight * tau / d.shortest),
        clip(d.release / tau),
        d.release <= 0,
        slack,
        slack < 0,
        dominant_share.masked_fill(~d.can_run, 1.0).amin(dim=2).clamp(max=1.0),
        d.legal.sum(dim=2) / agents,
        d.can_run.sum(dim=2) / agents,
        *(view.kind == code for code in range(len(KINDS))),
    ]


def _agent_columns(view: BatchView, d: Derived) -> list[Tensor]:
    """Return AGENT_FEATURES columns (B, M)."""
    tau = d.tau[:, None]
    free = view.free / d.capacity.clamp(min=1.0)
    slowdown = torch.where(d.can_run, d.duration / d.shortest[:, :, None], 0.0).sum(dim=1)
    mean_slowdown = slowdown / d.can_run.sum(dim=1).clamp(min=1)
    return [
        free.amin(dim=2),
        free.mean(dim=2),
        free.amax(dim=2),
        view.up,
        clip(view.next_end / tau),
        clip(view.last_end / tau),
        clip(view.next_outage / tau) / RATIO_LIMIT,
        clip(mean_slowdown),
    ]


def _pair_columns(view: BatchView, d: Derived) -> list[Tensor]:
    """Return PAIR_FEATURES columns (B, K, M)."""
    tau = d.tau[:, None, None]
    release = d.release[:, :, None]
    demand = view.demand.float()
    fraction = largest_share(demand, d.capacity[:, None])
    quota_fraction = largest_share(demand, view.quota_left.float()[:, :, None])
    leftover = ((view.free[:, None] - demand) / d.capacity.clamp(min=1.0)[:, None]).amin(dim=3)
    smith = smith_index(d)
    per_area = smith / fraction.clamp(min=0.05)  # the index per occupied share of the agent
    arrived = d.can_run & (release <= 0)
    leads = [
        _log_lead(torch.where(keep, index, 0.0))
        for index in (smith, per_area)
        for keep in (d.can_run, arrived)
    ]
    free_at = torch.where(d.legal, 0.0, view.next_end[:, None].float())
    end = torch.maximum(release.clamp(min=0), free_at) + d.duration
    return [
        clip(d.duration / tau),
        clip(torch.log(d.duration.clamp(min=1.0) / d.shortest[:, :, None])),
        d.can_run,
        d.legal,
        fraction,
        leftover.clamp(min=-1.0),
        clip((end - release) / tau),
        torch.log1p(smith),
        *leads,
        clip(_excess_over_best(end, d.duration, d.can_run) / tau),
        quota_fraction,
        clip(_excess_over_best(d.duration, d.duration, d.legal) / tau),
        clip(end / tau),
    ]


def smith_index(d: Derived) -> Tensor:
    """Return (B, K, M) Smith's index w_j / p_ij in units of 1 / tau; 0 where a pair cannot run."""
    tau = d.tau[:, None, None]
    return torch.where(d.can_run, d.weight[:, :, None] * tau / d.duration.clamp(min=1.0), 0.0)


def largest_share(demand: Tensor, capacity: Tensor) -> Tensor:
    """Return the largest demand / capacity over the resources (the last axis), at most 2.

    A positive demand of a resource without capacity counts as 2.
    """
    without = 2.0 * (demand > 0)
    return (
        torch.where(capacity > 0, demand / capacity.clamp(min=1.0), without)
        .amax(dim=-1)
        .clamp(max=2.0)
    )


def clip(ratio: Tensor) -> Tensor:
    """Return `ratio` clipped to +-RATIO_LIMIT."""
    return ratio.clamp(-RATIO_LIMIT, RATIO_LIMIT)


def stack(columns: list[Tensor], keep: Tensor) -> Tensor:
    """Return the columns (...) as one tensor (..., columns), zero where `keep` (...) is false."""
    return torch.stack([column.float() for column in columns], dim=-1) * keep[..., None]


def _excess_over_best(end: Tensor, duration: Tensor, among: Tensor) -> Tensor:
    """Return (B, K, M): each duration minus the earliest `end` over the agents of the task.

    Only the agents in `among` (B, K, M) count; 0 where a task has none.
    """
    best = end.masked_fill(~among, torch.inf).amin(dim=2, keepdim=True)
    return torch.where(torch.isfinite(best), duration - best, 0.0)


def _log_lead(index: Tensor) -> Tensor:
    """Return (B, K, M): log of each task's index over the best index of another task on the agent.

    The result is clipped to +-5. A task without a rival is compared with a rival of index 0.
    """
    top = torch.nn.functional.pad(index, (0, 0, 0, 1)).topk(2, dim=1).values
    best = top[:, :1]
    second = top[:, -1:]
    other = torch.where(index >= best, second, best)
    return (torch.log(index.clamp(min=1e-6)) - torch.log(other.clamp(min=1e-6))).clamp(-5.0, 5.0)
