"""The simulator as a Gymnasium environment; importing this module registers it.

    import gymnasium, bench.simulator.gym
    env = gymnasium.make("bench/Scheduling-v0", instances=instances, setting=Setting(objective="makespan"))

One environment plays one instance at a time. For many at once and without Python per step use `bench.simulator.Simulator`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray

from bench.instance import LARGEST, Instance, Ints
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator.batch import NO_LIMIT, Simulator
from bench.simulator.tables import (
    CAPACITY, DEMAND, DUE, FREE, INSTANCE, KIND, LAST_END, LEFT, NEXT_END, NEXT_OUTAGE, RELEASE, TENANT, TIME, TYPE,
    UP, VISIBLE, WEIGHT,
)  # fmt: skip

ID = "bench/Scheduling-v0"
FAR = LARGEST  # ticks: stands for "no due date" and "no outage known"
WORKED_EXAMPLE = Instance.from_dict(
    {
        "duration": [[500, 250, 125], [200, 100, 50], [800, 400, 200]],
        "demand": np.ones((3, 3, 1)),
        "capacity": np.ones((3, 1)),
        "agent_type": [0, 1, 2],
        "name": "worked example",
    }
)


class Actions(spaces.Discrete):
    """Flat actions k * M + a (queue position k, agent a), K * M = wait; `sample()` draws legal ones only.

    Those are the legal actions of the current decision; after `seed(s)` those of the first decision of the episode that
    `reset(seed=s)` will start. A `mask` given to `sample` goes first, as everywhere in Gymnasium.
    """

    def __init__(self, n: int, first: Callable[[int], NDArray[np.int8]]) -> None:
        super().__init__(n)
        self.legal: NDArray[np.int8] | None = (
            None  # (n,) 1 = legal; before the first `seed` or `reset` not known
        )
        self._first = first

    def seed(self, seed: int | None = None) -> Any:
        """Seed the generator of `sample`."""
        self.legal = None if seed is None else self._first(seed)
        return super().seed(seed)

    def sample(self, *choice: Any, **options: Any) -> np.int64:
        """An action drawn uniformly from the legal ones; with a mask or probabilities given, as `Discrete.sample`."""
        if all(given is None for given in (*choice, *options.values())):
            choice, options = (self.legal,), {}
        return super().sample(*choice, **options)


class SchedulingEnv(gymnasium.Env[dict[str, NDArray[Any]], np.int64]):
    """Scheduling as the decision process of SPEC section 5; the undiscounted return is -objective / scale.

    Observations hold K tasks (a window on the queue, zeros behind its end), M agents, T types, R resources, U tenants. Times
    are ticks from now, at most `FAR`:

    * `tasks` (K, 6): shown (0 or 1), release, due, weight, tenant, kind
    * `duration` (K, T): visible ticks on an agent of type t, -1 = not eligible or no task; `demand` (K, T, R)
    * `agents` (M, 5): type, up (0 or 1), next announced outage, first and last visible end of the tasks running there
    * `free`, `capacity` (M, R): units; `quota` (U, R): units left to each tenant, only where there are quotas
    * `action_mask` (K * M + 1,): 1 = legal; also in `info`, beside `time` (tick) and `instance` (index)

    Args:
        instances: what episodes are drawn from, uniformly (the worked example by default); padded to the largest.
        setting: how they are played; the track follows from the first instance's sharing by default.
        window: K; default the largest N.
        limit: decisions after which an episode is truncated.
        shaped: pay rewards at assignment (see Simulator).

    Raises:
        IllegalAction: by `step`, for a masked action or after the end.
        SettingError, ValueError: as Simulator.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - as in Gymnasium
    action_space: Actions

    def __init__(
        self,
        instances: Sequence[Instance] = (WORKED_EXAMPLE,),
        setting: Setting | None = None,
        window: int | None = None,
        limit: int = NO_LIMIT,
        shaped: bool = False,
    ) -> None:
        setting = setting or Setting(
            track="assign" if instances[0].sharing == "budget" else "schedule"
        )
        self.simulator = Simulator(instances, setting, 1, window, shaped, limit)
        self.action_space = Actions(self.simulator.n_actions, self._first_mask)
        self.observation_space = self._space()

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """A new episode; `options={"instance": i}` chooses the instance, else it is drawn."""
        super().reset(seed=seed)
        options = options or {}
        if set(options) - {"instance"}:
            raise ValueError(
                f"options: unknown {sorted(set(options) - {'instance'})}; known is instance"
            )
        drawn = self._draw(self.np_random)
        self.simulator.reset([0], [options.get("instance", drawn)])
        return self._observe(), self._info()

    def step(
        self, action: Any
    ) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Apply a flat action; returns observation, reward, terminated, truncated, info."""
        reward = float(self.simulator.step(np.array([action], dtype=np.int64))[0])
        ended = bool(self.simulator.terminated[0]), bool(self.simulator.truncated[0])
        return self._observe(), reward, *ended, self._info()

    def schedule(self) -> Schedule:
        """What has been scheduled so far."""
        return self.simulator.schedule(0)

    def _draw(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.simulator.instances)))

    def _first_mask(self, seed: int) -> NDArray[np.int8]:
        """(K * M + 1,) the legal actions of the first decision after `reset(seed=seed)`."""
        instance = self._draw(seeding.np_random(seed)[0])
        own = self.simulator
        fresh = Simulator(own.instances, own.setting, 1, own.window)
        fresh.reset([0], [instance])
        return fresh.state.mask[0].astype(np.int8)

    def _space(self) -> spaces.Dict:
        tables, k = self.simulator.tables, self.simulator.window
        (m, t), (u, r) = (tables.agents.shape[1], tables.work.shape[2]), tables.quota.shape[1:]
        shapes = {
            "tasks": (k, 6),
            "duration": (k, t),
            "demand": (k, t, r),
            "agents": (m, 5),
            "free": (m, r),
            "capacity": (m, r),
        }
        if u:
            shapes["quota"] = (u, r)
        boxes: dict[str, spaces.Space[Any]] = {
            key: spaces.Box(-FAR, FAR, shape, np.int64) for key, shape in shapes.items()
        }
        return spaces.Dict(boxes | {"action_mask": spaces.Box(0, 1, (k * m + 1,), np.int8)})

    def _observe(self) -> dict[str, NDArray[Any]]:
        tables, state = self.simulator.tables, self.simulator.state
        i, now = state.env[0, [INSTANCE, TIME]]
        shown = state.window[0] >= 0
        row = tables.task[i, state.window[0]]
        times = _near(row[:, [RELEASE, DUE]] - now)
        tasks = np.column_stack(
            [np.ones(len(row), dtype=np.int64), times, row[:, [WEIGHT, TENANT, KIND]]]
        )
        work = tables.work[i, state.window[0]]
        agent = state.agents[0]
        ahead = _near(agent[:, [NEXT_OUTAGE, NEXT_END, LAST_END]] - now)
        observation = {
            "tasks": np.where(shown[:, None], tasks, 0),
            "duration": np.where(shown[:, None], work[..., VISIBLE], -1),
            "demand": np.where(shown[:, None, None], work[..., DEMAND:], 0),
            "agents": np.column_stack([tables.agents[i, :, TYPE], agent[:, UP], ahead]),
            "free": agent[:, FREE:].copy(),
            "capacity": tables.agents[i, :, CAPACITY:].copy(),
            "action_mask": state.mask[0].astype(np.int8),
        }
        if tables.quota.shape[1]:
            observation["quota"] = _near(state.tenants[0, :, LEFT:])
        self.action_space.legal = observation["action_mask"]
        return observation

    def _info(self) -> dict[str, Any]:
        i, now = self.simulator.state.env[0, [INSTANCE, TIME]].tolist()
        return {
            "action_mask": self.simulator.state.mask[0].astype(np.int8),
            "time": now,
            "instance": i,
        }


def _near(ticks: Ints) -> Ints:
    return np.clip(ticks, -FAR, FAR)


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point="bench.simulator.gym:SchedulingEnv")
