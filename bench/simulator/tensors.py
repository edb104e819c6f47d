"""The batched simulator over torch tensors: on the CPU they share the simulator's memory, on a GPU everything stays there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.instance import Instance
from bench.setting import Setting
from bench.simulator import kernel
from bench.simulator.batch import MANY, NO_LIMIT, IllegalAction, Simulator, random_seeds
from bench.simulator.tables import DEAD_END, ILLEGAL, RUNNING, SCALE, STATUS, TRUNCATED


class Engine(Protocol):
    """The transition function over the memory of some Tables and State of tensors."""

    def step(self, actions: Tensor) -> None:
        """Apply flat actions (B,) int64."""

    def restart(self, instances: Tensor, everyone: bool) -> None:
        """New episodes of `instances` (B,) int64 where one is over, or for `everyone`."""

    def play_random(
        self, seeds: NDArray[np.uint64], decisions: int, again: bool, returns: Tensor
    ) -> None:
        """As `kernel.play_random`; seeds (B,), returns (B, 2) float64."""


class TensorSimulator:
    """B environments, each playing one of I instances; arguments as `Simulator`.

    `tables` and `state` are those of `Simulator` with tensors in place of arrays, on `device`. No method but `check`, `host`
    and `play_random` waits for the device.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        setting: Setting,
        n_envs: int | None = None,
        window: int | None = None,
        shaped: bool = False,
        limit: int = NO_LIMIT,
        device: torch.device | str = "cpu",
    ) -> None:
        self._host = Simulator(instances, setting, n_envs, window, shaped, limit)
        self.setting, self.instances = setting, self._host.instances
        self.n_envs, self.window, self.can_truncate = (
            self._host.n_envs,
            self._host.window,
            limit != NO_LIMIT,
        )
        engine, self.device = _engine(torch.device(device))
        self.tables, self.state = self._put(self._host.tables), self._put(self._host.state)
        self._engine = engine(self.tables, self.state)
        self.scale: Tensor = self.tables.real[
            :, SCALE
        ]  # (I,) float64, the return of instance i is -objective / scale[i]

    def _put(self, columns: Any) -> Any:
        """With tensors in place of arrays, on the CPU over the same memory."""
        return columns._make(
            torch.from_numpy(x).to(self.device) if isinstance(x, np.ndarray) else x for x in columns
        )

    def step(self, actions: Tensor) -> Tensor:
        """Apply flat actions (B,) int64, LEAVE where the episode is over; returns rewards (B,) float64.

        An illegal action is a status, for which `check` raises.
        """
        self._engine.step(actions)
        return self.state.reward.clone()  # a restart would overwrite it

    def restart(self, instances: Tensor, everyone: bool = False) -> None:
        """New episodes where one is over (or for `everyone`): environment b plays instance `instances[b]`, (B,) int64."""
        self._engine.restart(instances, everyone)

    def play_random(
        self, rng: np.random.Generator, decisions: int = NO_LIMIT, restart: bool = False
    ) -> Tensor:
        """As `Simulator.play_random`: (B, 2) float64, finished episodes and the sum of their returns."""
        returns = torch.zeros((self.n_envs, 2), dtype=torch.float64, device=self.device)
        self._engine.play_random(random_seeds(rng, self.n_envs), decisions, restart, returns)
        return returns

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Environments `target` (E,) become copies of `source` (E,)."""
        for array in self.state:
            array[target] = array[source]

    @property
    def status(self) -> Tensor:
        """(B,) RUNNING, TERMINATED, DEAD_END, TRUNCATED or ILLEGAL."""
        return self.state.env[:, STATUS]

    @property
    def playing(self) -> Tensor:
        """(B,) bool, the episode is not over."""
        return self.status == RUNNING

    @property
    def terminated(self) -> Tensor:
        """(B,) bool, the episode reached its end (every task done, or a dead end)."""
        return (self.status != RUNNING) & (self.status != TRUNCATED)

    @property
    def truncated(self) -> Tensor:
        """(B,) bool, the episode was cut by `limit`."""
        return self.status == TRUNCATED

    @property
    def dead_end(self) -> Tensor:
        """(B,) bool, `budget` sharing: a task fits nowhere any more."""
        return self.status == DEAD_END

    def check(self) -> None:
        """Raises IllegalAction where a masked action was taken since the last restart."""
        wrong = (self.status == ILLEGAL).nonzero()
        if len(wrong):
            raise IllegalAction(
                f"environment {int(wrong[0, 0])}: a masked action was taken, or its episode was over"
            )

    def host(self) -> Simulator:
        """The same environments as a Simulator on the CPU: for schedules and observations."""
        if self.device.type != "cpu":
            for name, here in self._host.state._asdict().items():
                here[...] = getattr(self.state, name).cpu().numpy()
        return self._host


class Cpu:
    """The Engine of a Tables and a State of CPU tensors."""

    def __init__(self, tables: Any, state: Any) -> None:
        self._tables, self._state = (
            tables._make(map(_array, tables)),
            state._make(map(_array, state)),
        )
        self._step = kernel.step_many if len(state.env) >= MANY else kernel.step_few

    def step(self, actions: Tensor) -> None:
        """Apply flat actions (B,) int64."""
        self._step(self._tables, self._state, actions.contiguous().numpy())

    def restart(self, instances: Tensor, everyone: bool) -> None:
        """New episodes of `instances` (B,) int64 where one is over, or for `everyone`."""
        kernel.restart(self._tables, self._state, instances.contiguous().numpy(), everyone)

    def play_random(
        self, seeds: NDArray[np.uint64], decisions: int, again: bool, returns: Tensor
    ) -> None:
        """As `kernel.play_random`; seeds (B,), returns (B, 2) float64."""
        kernel.play_random(self._tables, self._state, seeds, decisions, again, returns.numpy())


def _array(value: Any) -> Any:
    """The same memory as an array; scalars as they are."""
    return value.numpy() if isinstance(value, Tensor) else value


def _engine(device: torch.device) -> tuple[Callable[[Any, Any], Engine], torch.device]:
    """Who steps environments on `device`, and where their tensors are: beside numba's simulator of CUDA on the CPU."""
    if device.type != "cuda":
        return Cpu, device
    from bench.simulator.cuda import SIMULATED, Gpu  # numba.cuda is loaded only where it is used

    return Gpu, torch.device("cpu") if SIMULATED else device
