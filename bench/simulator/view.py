"""What networks observe of the current decisions, unscaled.

`BatchView` holds it as tensors; `Layout` packs a view into the flat vector that logged datasets
hold. Symbols: B decisions, K tasks in the window, M agents, R resources.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.limits import MAX_INTEGER
from bench.observation import Observation
from bench.simulator.tables import CAPACITY, INSTANCE, N_TASKS, NEVER
from bench.simulator.tensors import TensorSimulator


class BatchView(NamedTuple):
    """The observations of B decisions as tensors; times are ticks relative to the current tick."""

    shown: Tensor  # (B, K) bool, false = padding
    release: Tensor  # (B, K) ticks from now, <= 0 for tasks that have arrived
    due: Tensor  # (B, K) ticks from now, very large without due dates
    weight: Tensor  # (B, K)
    kind: Tensor  # (B, K) integer
    duration: Tensor  # (B, K, M) visible ticks, -1 = not eligible
    demand: Tensor  # (B, K, M, R) units
    quota_left: Tensor  # (B, K, R) units left to the task's tenant, very large without quotas
    capacity: Tensor  # (B, M, R) units, 0 for padding
    free: Tensor  # (B, M, R) units
    up: Tensor  # (B, M) 1 = not in an outage
    next_outage: Tensor  # (B, M) ticks from now: at least 1, for padding at most 0
    next_end: Tensor  # (B, M) ticks from now, 0 for an idle agent
    last_end: Tensor  # (B, M) ticks from now, 0 for an idle agent
    mask: Tensor  # (B, K * M + 1) bool

    def canonical(self) -> BatchView:
        """Return the view with the types that compiled code takes: bool and int64, contiguous."""
        return BatchView._make(
            column.to(torch.bool if name in ("shown", "mask") else torch.int64).contiguous()
            for name, column in self._asdict().items()
        )


class Layout(NamedTuple):
    """The layout of a BatchView in flat float32 vectors of `size` numbers.

    The vector holds the columns of the view in their order, then the scale of the return, then the
    mask.
    """

    tasks: int  # K
    agents: int  # M
    resources: int  # R

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each column of a BatchView, without B.

        `quota_left` always takes R columns, also if there are no quotas.
        """
        k, m, r = self
        per_task = ((k,),) * 5
        per_agent = ((m,),) * 4
        return (*per_task, (k, m), (k, m, r), (k, r), (m, r), (m, r), *per_agent, (k * m + 1,))

    @property
    def actions(self) -> int:
        """K * M + 1 flat actions; the last one is `wait`."""
        return self.tasks * self.agents + 1

    @property
    def size(self) -> int:
        """Numbers in the vector."""
        return 1 + sum(math.prod(shape) for shape in self.shapes)

    def flat(self, view: BatchView, scale: Tensor) -> Tensor:
        """Return (B, size) float32 vectors.

        Ticks beyond `MAX_INTEGER`, which stand for what never happens, are clipped to it.

        Parameters
        ----------
        view
            B decisions.
        scale
            (B,) scale of the return, see `return_scale`.
        """
        columns = [*view[:-1], scale, view.mask]
        quota = BatchView._fields.index("quota_left")
        columns[quota] = view.quota_left.expand(-1, -1, self.resources)
        return torch.cat(
            [
                column.flatten(1) if column.dim() > 1 else column[:, None]
                for column in map(_clipped, columns)
            ],
            dim=1,
        )

    def view(self, flat: Tensor) -> BatchView:
        """Return the view of (B, size) vectors: the inverse of `flat`.

        The columns are float32, except `shown` and `mask`, which are bool.
        """
        sizes = [*(math.prod(shape) for shape in self.shapes[:-1]), 1, self.actions]
        *columns, _, mask = torch.split(flat, sizes, dim=1)
        shown, *others = (
            torch.unflatten(column, 1, shape)
            for column, shape in zip(columns, self.shapes, strict=False)
        )
        return BatchView._make([shown > 0, *others, mask > 0])

    def scale(self, flat: Tensor) -> Tensor:
        """Return the (B,) scale of the return that the vectors hold.

        It is 0 in the all-zero vectors that stand for the state after the end of an episode.
        """
        return flat[:, -self.actions - 1]


def _clipped(column: Tensor) -> Tensor:
    """Return a column as float32, clipped to +-MAX_INTEGER."""
    if column.dtype == torch.bool:
        return column.float()
    return column.clamp(-MAX_INTEGER, MAX_INTEGER).float()


def layout_of(simulator: TensorSimulator) -> Layout:
    """Return the layout of the simulator's views."""
    return Layout(simulator.window, *simulator.tables.agents[:, :, CAPACITY:].shape[1:])


def return_scale(simulator: TensorSimulator) -> Tensor:
    """Return the (B,) float64 divisor that turns a remaining objective into a return.

    For `bounded_slowdown` the unit of the objective is one task's share of the mean. Only critics
    may use the scale: it depends on tasks that have not arrived yet.
    """
    instance = simulator.state.env[:, INSTANCE]
    scale = simulator.scale[instance]
    if simulator.setting.objective == "bounded_slowdown":
        scale = scale * simulator.tables.size[instance, N_TASKS]
    return scale


def from_simulator(simulator: TensorSimulator, clairvoyant: bool = False) -> BatchView:
    """Return the view of the current decisions of all B environments, on their device.

    With `clairvoyant` it also shows future tasks, as far as the window has room, and true durations
    in place of estimates, but no unannounced outages; only critics may use it.
    """
    view = empty_view(simulator)
    simulator.observe(view, clairvoyant)
    return view


def empty_view(simulator: TensorSimulator) -> BatchView:
    """Return a view of all B environments whose content `TensorSimulator.observe` writes."""
    k, m, r = layout_of(simulator)
    quotas = r if simulator.state.tenants.shape[1] else 1

    def empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty((simulator.num_envs, *shape), dtype=dtype, device=simulator.device)

    return BatchView(
        shown=empty(k, dtype=torch.bool),
        release=empty(k),
        due=empty(k),
        weight=empty(k),
        kind=empty(k),
        duration=empty(k, m),
        demand=empty(k, m, r),
        quota_left=empty(k, quotas),
        capacity=empty(m, r),
        free=empty(m, r),
        up=empty(m),
        next_outage=empty(m),
        next_end=empty(m),
        last_end=empty(m),
        mask=empty(k * m + 1, dtype=torch.bool),
    )


def from_observation(observation: Observation, device: torch.device) -> BatchView:
    """Return the view of one decision, with B = 1, on `device`."""
    now = observation.time
    n_tasks = len(observation.release)
    first_end = np.full(observation.n_agents, NEVER)
    last_end = np.full(observation.n_agents, now)
    np.minimum.at(first_end, observation.running_agent, observation.running_end)
    np.maximum.at(last_end, observation.running_agent, observation.running_end)
    next_end = np.where(first_end == NEVER, now, first_end)
    due = np.full(n_tasks, NEVER) if observation.due is None else observation.due
    if observation.tenant_free is None:
        quota_left = np.full((n_tasks, 1), NEVER)
    else:
        quota_left = observation.tenant_free[observation.tenant]
    columns = {
        "shown": np.ones(n_tasks, dtype=bool),
        "release": observation.release - now,
        "due": due - now,
        "weight": observation.weight,
        "kind": observation.kind,
        "duration": observation.pair_duration,
        "demand": observation.demand[:, observation.agent_type],
        "quota_left": quota_left,
        "capacity": observation.capacity,
        "free": observation.free,
        "up": observation.up,
        "next_outage": observation.next_outage - now,
        "next_end": next_end - now,
        "last_end": last_end - now,
        "mask": observation.mask,
    }
    tensors = {name: torch.from_numpy(np.array(column)) for name, column in columns.items()}
    return BatchView(**{name: tensor[None].to(device) for name, tensor in tensors.items()})
