"""What networks see of the current decisions, raw: as tensors, and as the flat vector that logs hold.

B decisions, K tasks shown, M agents, R resources.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.instance import LARGEST
from bench.observation import Observation
from bench.simulator.tables import (
    CAPACITY, DEMAND, DUE, FREE, INSTANCE, KIND, LAST_END, LEFT, N_TASKS, NEVER, NEXT_END, NEXT_OUTAGE, RELEASE, TENANT, TIME,
    TYPE, UP, VISIBLE, WEIGHT,
)  # fmt: skip
from bench.simulator.tensors import TensorSimulator


class View(NamedTuple):
    """The raw arrays of B decisions as tensors, times relative to now, in ticks."""

    shown: Tensor  # (B, K) bool, false = padding
    release: Tensor  # (B, K) ticks from now, <= 0 where arrived
    due: Tensor  # (B, K) ticks from now, very large without due dates
    weight: Tensor  # (B, K)
    kind: Tensor  # (B, K) int
    duration: Tensor  # (B, K, M) visible ticks, -1 = not eligible
    demand: Tensor  # (B, K, M, R)
    quota_left: Tensor  # (B, K, R) units its tenant may still take, very many without quotas
    capacity: Tensor  # (B, M, R), 0 for padding
    free: Tensor  # (B, M, R)
    up: Tensor  # (B, M)
    next_outage: Tensor  # (B, M) ticks from now
    next_end: Tensor  # (B, M) ticks from now, 0 where idle
    last_end: Tensor  # (B, M) ticks from now, 0 where idle
    mask: Tensor  # (B, K * M + 1) bool


class Layout(NamedTuple):
    """How a View lies in one flat float32 vector of `size` numbers: its columns in order, the scale, at the tail the mask."""

    tasks: int  # K
    agents: int  # M
    resources: int  # R

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each column of a View, without B; quota takes R columns, also where there are no quotas."""
        k, m, r = self
        return (
            (k,),
            (k,),
            (k,),
            (k,),
            (k,),
            (k, m),
            (k, m, r),
            (k, r),
            (m, r),
            (m, r),
            (m,),
            (m,),
            (m,),
            (m,),
            (k * m + 1,),
        )

    @property
    def actions(self) -> int:
        """K * M + 1 flat actions, the last one is `wait`."""
        return self.tasks * self.agents + 1

    @property
    def size(self) -> int:
        """Numbers in the vector."""
        return 1 + sum(math.prod(shape) for shape in self.shapes)

    def flat(self, view: View, scale: Tensor) -> Tensor:
        """(B, size) float32; ticks beyond `LARGEST` (what never comes) are cut off there. scale (B,): see `return_scale`."""
        columns = [*view[:-1], scale, view.mask]
        quota = View._fields.index("quota_left")
        columns[quota] = view.quota_left.expand(-1, -1, self.resources)
        return torch.cat(
            [
                column.flatten(1) if column.dim() > 1 else column[:, None]
                for column in map(_near, columns)
            ],
            dim=1,
        )

    def view(self, flat: Tensor) -> View:
        """Inverse of `flat`, as float32 but for the two that are bool."""
        *columns, _, mask = flat.split(
            [*(math.prod(shape) for shape in self.shapes[:-1]), 1, self.actions], dim=1
        )
        shown, *others = (
            column.unflatten(1, shape) for column, shape in zip(columns, self.shapes, strict=False)
        )
        return View(*(shown > 0, *others, mask > 0))

    def scale(self, flat: Tensor) -> Tensor:
        """(B,) the scale that stands in `flat`; 0 in the zeros that stand for what follows the end."""
        return flat[:, -self.actions - 1]


def _near(column: Tensor) -> Tensor:
    return column.clamp(-LARGEST, LARGEST).float() if column.dtype != torch.bool else column.float()


def layout_of(simulator: TensorSimulator) -> Layout:
    """That of what the simulator shows."""
    return Layout(simulator.window, *simulator.tables.agents[:, :, CAPACITY:].shape[1:])


def return_scale(simulator: TensorSimulator) -> Tensor:
    """(B,) float64: what remains to do, in units of the objective, over this is a return. Only critics may know it.

    For `bounded_slowdown` the unit is one task's share of the mean.
    """
    instance = simulator.state.env[:, INSTANCE]
    scale = simulator.scale[instance]
    mean = simulator.setting.objective == "bounded_slowdown"
    return scale * simulator.tables.size[instance, N_TASKS] if mean else scale


def from_simulator(simulator: TensorSimulator) -> View:
    """The current decisions of all B environments, on the simulator's device."""
    t, s = simulator.tables, simulator.state
    i, time = s.env[:, INSTANCE], s.env[:, TIME, None]
    ids = s.window.clamp(min=0)
    task, work, agents = t.task[i[:, None], ids], t.work[i[:, None], ids], t.agents[i]
    left = torch.full((*ids.shape, 1), NEVER, device=ids.device)
    if s.tenants.shape[1]:
        left = s.tenants[torch.arange(len(i), device=ids.device)[:, None], task[..., TENANT], LEFT:]
    kind_of = agents[:, None, :, TYPE, None].expand(-1, ids.shape[1], -1, work.shape[3])
    work = work.gather(2, kind_of)  # (B, K, M, 2 + R)
    return View(
        s.window >= 0, task[..., RELEASE] - time, task[..., DUE] - time, task[..., WEIGHT], task[..., KIND],
        work[..., VISIBLE], work[..., DEMAND:], left, agents[..., CAPACITY:], s.agents[..., FREE:], s.agents[..., UP],
        s.agents[..., NEXT_OUTAGE] - time, s.agents[..., NEXT_END] - time, s.agents[..., LAST_END] - time, s.mask.bool(),
    )  # fmt: skip


def from_observation(seen: Observation, device: torch.device) -> View:
    """One decision, B = 1."""
    m = seen.n_agents
    next_end, last_end = np.full(m, NEVER), np.full(m, seen.time)
    np.minimum.at(next_end, seen.running_agent, seen.running_end)
    np.maximum.at(last_end, seen.running_agent, seen.running_end)
    next_end = np.where(next_end == NEVER, seen.time, next_end)
    due = np.full(len(seen.release), NEVER) if seen.due is None else seen.due
    left = (
        np.full((len(seen.release), 1), NEVER)
        if seen.tenant_free is None
        else seen.tenant_free[seen.tenant]
    )
    columns = (
        np.ones(len(seen.release), dtype=bool), seen.release - seen.time, due - seen.time, seen.weight, seen.kind,
        seen.pair_duration, seen.demand[:, seen.agent_type], left, seen.capacity, seen.free, seen.up,
        seen.next_outage - seen.time, next_end - seen.time, last_end - seen.time, seen.mask,
    )  # fmt: skip
    return View(*(torch.from_numpy(np.array(column))[None].to(device) for column in columns))
