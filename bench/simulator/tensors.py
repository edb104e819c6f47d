"""The simulator over torch tensors.

On the CPU the tensors share the memory of `Simulator`; on a GPU all data stays there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.instance import Instance
from bench.setting import Setting
from bench.simulator import kernel
from bench.simulator.batch import NO_LIMIT, IllegalAction, Simulator, random_seeds
from bench.simulator.tables import DEAD_END, ILLEGAL, RUNNING, SCALE, STATUS, TRUNCATED
from bench.simulator.view_kernel import observe


class Backend(Protocol):
    """The transition function on one device, over tables and a state of tensors."""

    def step(self, actions: Tensor) -> None:
        """Apply flat actions (B,) int64."""

    def restart(self, instances: Tensor, all_envs: bool) -> None:
        """Start episodes of `instances` (B,) int64 where one is over, or everywhere."""

    def observe(self, view: Any, clairvoyant: bool) -> None:
        """See `TensorSimulator.observe`."""

    def play_random(
        self, seeds: NDArray[np.uint64], decisions: int, restart: bool, returns: Tensor
    ) -> None:
        """See `kernel.play_random`; seeds (B,), returns (B, 2) float64."""


class TensorSimulator:
    """B environments, each playing one of I instances, as tensors on one device.

    Only the methods `check`, `host` and `play_random` wait for the device.

    Parameters
    ----------
    instances, setting, num_envs, window, shaped, max_decisions
        See `Simulator`.
    device
        Device of all tensors.

    Attributes
    ----------
    tables, state
        `InstanceTables` and `SimulatorState` with tensors in place of arrays.
    scale : Tensor
        (I,) float64; the return of instance i is -objective / scale[i].
    can_truncate : bool
        Whether episodes may be truncated.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        setting: Setting,
        num_envs: int | None = None,
        window: int | None = None,
        shaped: bool = False,
        max_decisions: int = NO_LIMIT,
        device: torch.device | str = "cpu",
    ) -> None:
        self._host = Simulator(instances, setting, num_envs, window, shaped, max_decisions)
        self.setting = setting
        self.instances = self._host.instances
        self.num_envs = self._host.num_envs
        self.window = self._host.window
        self.can_truncate = max_decisions != NO_LIMIT
        self._new_backend, self.device = _backend(torch.device(device))
        self.tables = self._to_tensors(self._host.tables)
        self.state = self._to_tensors(self._host.state)
        self._backend = self._new_backend(self.tables, self.state)
        self.scale: Tensor = self.tables.reward_constants[:, SCALE]

    def with_envs(self, num_envs: int) -> TensorSimulator:
        """Return other environments, of the same instances in the same tables."""
        other = copy.copy(self)
        other._host = self._host.with_envs(num_envs)
        other.num_envs = num_envs
        other.state = self._to_tensors(other._host.state)
        other._backend = self._new_backend(self.tables, other.state)
        return other

    def _to_tensors(self, columns: Any) -> Any:
        """Return a named tuple with tensors in place of arrays, on the CPU over the same memory."""
        return columns._make(
            torch.from_numpy(x).to(self.device) if isinstance(x, np.ndarray) else x for x in columns
        )

    def step(self, actions: Tensor) -> Tensor:
        """Apply flat actions.

        Parameters
        ----------
        actions
            (B,) int64 legal flat actions, NO_ACTION where the episode is over. An illegal action
            sets the status of its environment to ILLEGAL, which `check` reports.

        Returns
        -------
        Tensor
            (B,) float64 rewards.
        """
        self._backend.step(actions)
        reward: Tensor = self.state.reward.clone()  # `restart` overwrites the tensor
        return reward

    def restart(self, instances: Tensor, all_envs: bool = False) -> None:
        """Start new episodes where one is over.

        Parameters
        ----------
        instances
            (B,) int64: environment b plays instance `instances[b]`.
        all_envs
            Whether episodes that are not over (or ended by an illegal action) restart too.
        """
        self._backend.restart(instances, all_envs)

    def replace(self, rows: Sequence[int], instances: Sequence[Instance]) -> None:
        """Replace the instances `rows`, see `Simulator.replace`."""
        self._host.replace(rows, instances)
        if self.device.type == "cpu" or not len(rows):  # the memory is shared
            return
        index = torch.as_tensor(rows, device=self.device)
        for tensor, array in zip(self.tables, self._host.tables, strict=True):
            if isinstance(array, np.ndarray):
                tensor[index] = torch.from_numpy(array[rows]).to(self.device)

    def observe(self, view: Any, clairvoyant: bool = False) -> None:
        """Write what is observed in every environment to a `bench.simulator.view.BatchView`.

        With `clairvoyant` it shows future tasks, as far as the window has room, and true durations;
        the mask is that of the policy that plays.
        """
        self._backend.observe(view, clairvoyant)

    def play_random(
        self, rng: np.random.Generator, decisions: int = NO_LIMIT, restart: bool = False
    ) -> Tensor:
        """Play random legal actions as `Simulator.play_random` does; return (B, 2) float64."""
        returns = torch.zeros((self.num_envs, 2), dtype=torch.float64, device=self.device)
        self._backend.play_random(random_seeds(rng, self.num_envs), decisions, restart, returns)
        return returns

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy the state of environments `source` (E,) to environments `target` (E,)."""
        for array in self.state:
            array[target] = array[source]

    @property
    def status(self) -> Tensor:
        """(B,) RUNNING, TERMINATED, DEAD_END, TRUNCATED or ILLEGAL."""
        status: Tensor = self.state.env[:, STATUS]
        return status

    @property
    def playing(self) -> Tensor:
        """(B,) bool, whether the episode is not over."""
        return self.status == RUNNING

    @property
    def terminated(self) -> Tensor:
        """(B,) bool, whether the episode reached its end: every task is done, or a dead end."""
        return (self.status != RUNNING) & (self.status != TRUNCATED)

    @property
    def truncated(self) -> Tensor:
        """(B,) bool, whether the episode was cut off by `max_decisions`."""
        return self.status == TRUNCATED

    @property
    def dead_end(self) -> Tensor:
        """(B,) bool, whether a task fits nowhere any more (`budget` sharing)."""
        return self.status == DEAD_END

    def check(self) -> None:
        """Raise IllegalAction if an illegal action was taken since the last restart."""
        illegal = (self.status == ILLEGAL).nonzero()
        if len(illegal):
            b = int(illegal[0, 0])
            raise IllegalAction(
                f"environment {b}: a masked action was taken, or its episode was over"
            )

    def host(self) -> Simulator:
        """Return the same environments as a Simulator in CPU memory.

        It is for schedules and observations. On the CPU it shares the memory; on a GPU it is a copy
        of the current state.
        """
        if self.device.type != "cpu":
            for name, array in self._host.state._asdict().items():
                array[...] = getattr(self.state, name).cpu().numpy()
        return self._host


class CpuBackend:
    """The `Backend` for tables and a state of CPU tensors."""

    def __init__(self, tables: Any, state: Any) -> None:
        self._tables = tables._make(map(_array, tables))
        self._state = state._make(map(_array, state))

    def step(self, actions: Tensor) -> None:
        """Apply flat actions (B,) int64."""
        kernel.step(self._tables, self._state, actions.numpy())

    def restart(self, instances: Tensor, all_envs: bool) -> None:
        """Start episodes of `instances` (B,) int64 where one is over, or everywhere."""
        kernel.restart(self._tables, self._state, instances.numpy(), all_envs)

    def observe(self, view: Any, clairvoyant: bool) -> None:
        """See `TensorSimulator.observe`."""
        observe(self._tables, self._state, view._make(map(_array, view)), clairvoyant)

    def play_random(
        self, seeds: NDArray[np.uint64], decisions: int, restart: bool, returns: Tensor
    ) -> None:
        """See `kernel.play_random`; seeds (B,), returns (B, 2) float64."""
        kernel.play_random(self._tables, self._state, seeds, decisions, restart, returns.numpy())


def _array(value: Any) -> Any:
    """Return the memory of a tensor as an array; scalars are returned as they are."""
    return value.numpy() if isinstance(value, Tensor) else value


def _backend(device: torch.device) -> tuple[Callable[[Any, Any], Backend], torch.device]:
    """Return the class that steps environments on `device`, and the device of their tensors.

    With numba's simulation of CUDA the tensors are in CPU memory.
    """
    if device.type != "cuda":
        return CpuBackend, device
    # numba.cuda is loaded only where it is used
    from bench.simulator.cuda import SIMULATED, CudaBackend

    return CudaBackend, torch.device("cpu") if SIMULATED else device
