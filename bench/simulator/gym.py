"""The simulator as a Gymnasium environment; importing this module registers it.

    import gymnasium, bench.simulator.gym
    setting = Setting(objective="makespan")
    env = gymnasium.make("bench/Scheduling-v0", instances=instances, setting=setting)

An environment plays one instance at a time. `bench.simulator.Simulator` plays many at once, without
Python code per environment and step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray

from bench.instance import Instance, Ints
from bench.limits import MAX_INTEGER
from bench.schedule import Schedule
from bench.setting import Setting, clairvoyant_track
from bench.simulator.batch import NO_LIMIT, Simulator
from bench.simulator.tables import (
    CAPACITY, DEMAND, DUE, FREE, INSTANCE, KIND, LAST_END, NEXT_END, NEXT_OUTAGE, QUOTA_LEFT,
    RELEASE, TENANT, TIME, TYPE, UP, VISIBLE, WEIGHT,
)  # fmt: skip

ENV_ID = "bench/Scheduling-v0"
MAX_TICKS = MAX_INTEGER  # stands for "no due date" and "no outage known"
WORKED_EXAMPLE = Instance.from_dict(
    {
        "duration": [[500, 250, 125], [200, 100, 50], [800, 400, 200]],
        "demand": np.ones((3, 3, 1)),
        "capacity": np.ones((3, 1)),
        "agent_type": [0, 1, 2],
        "name": "worked example",
    }
)

ObsType = dict[str, NDArray[Any]]


class MaskedDiscrete(spaces.Discrete):
    """Flat actions k * M + a (queue position k, agent a), K * M = wait.

    `sample()` draws from the legal actions of the current decision only. After `seed(s)` these are
    the legal actions of the first decision of the episode that `reset(seed=s)` will start. A `mask`
    or probabilities passed to `sample` take precedence, as in all Gymnasium spaces.

    Parameters
    ----------
    n
        Number of actions.
    first_mask
        Returns the mask (n,) of the first decision after `reset(seed=s)`, given s.
    """

    def __init__(self, n: int, first_mask: Callable[[int], NDArray[np.int8]]) -> None:
        super().__init__(n)
        self._first_mask = first_mask
        self.legal: NDArray[np.int8] | None = None  # (n,) 1 = legal; None before `seed` or `reset`

    def seed(self, seed: int | None = None) -> Any:
        """Seed the generator of `sample`."""
        self.legal = None if seed is None else self._first_mask(seed)
        return super().seed(seed)

    def sample(self, *args: Any, **kwargs: Any) -> np.int64:
        """Draw a legal action uniformly; with a mask or probabilities, see `Discrete.sample`."""
        if all(given is None for given in (*args, *kwargs.values())):
            return super().sample(self.legal)
        return super().sample(*args, **kwargs)


class SchedulingEnv(gymnasium.Env[ObsType, np.int64]):
    """The decision process of `bench/docs/problem.md`, section 5; the return is -objective / scale.

    Observations hold K tasks (a window on the queue, zeros after its end), M agents, T types, R
    resources, U tenants. Times are ticks from now, at most `MAX_TICKS`:

    | key | shape | columns |
    |---|---|---|
    | `tasks` | (K, 6) | shown (0 or 1), release, due, weight, tenant, kind |
    | `duration` | (K, T) | visible ticks on an agent of type t, -1 = not eligible or no task |
    | `demand` | (K, T, R) | units |
    | `agents` | (M, 5) | type, up (0 or 1), next announced outage, first and last visible end of |
    | | | the tasks that run there |
    | `free`, `capacity` | (M, R) | units |
    | `quota` | (U, R) | units left to each tenant; only if there are quotas |
    | `action_mask` | (K * M + 1,) | 1 = legal; also in `info` |

    `info` holds `action_mask`, `time` (tick) and `instance` (index).

    Parameters
    ----------
    instances
        Instances that episodes are drawn from, uniformly; default the worked example. Arrays are
        padded to the largest one.
    setting
        Setting under which they are played; by default the track follows from the first instance.
    window
        K; default the largest N.
    max_decisions
        Number of decisions after which an episode is truncated; default none.
    shaped
        Whether rewards are paid at assignment, see `Simulator`.

    Raises
    ------
    IllegalAction
        By `step`, for a masked action or after the end of the episode.
    SettingError, ValueError
        See `Simulator`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - declared so by Gymnasium
    action_space: MaskedDiscrete

    def __init__(
        self,
        instances: Sequence[Instance] = (WORKED_EXAMPLE,),
        setting: Setting | None = None,
        window: int | None = None,
        max_decisions: int = NO_LIMIT,
        shaped: bool = False,
    ) -> None:
        if setting is None:
            setting = Setting(track=clairvoyant_track(instances[0]))
        self.simulator = Simulator(instances, setting, 1, window, shaped, max_decisions)
        self.action_space = MaskedDiscrete(self.simulator.n_actions, self._first_mask)
        self.observation_space = self._get_observation_space()

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Start a new episode; `options={"instance": i}` selects the instance, else it is drawn."""
        super().reset(seed=seed)
        options = options or {}
        unknown = sorted(set(options) - {"instance"})
        if unknown:
            raise ValueError(f"options: unknown {unknown}; known is instance")
        drawn = self._draw_instance(self.np_random)
        self.simulator.reset([0], [options.get("instance", drawn)])
        return self._get_obs(), self._get_info()

    def step(self, action: Any) -> tuple[ObsType, float, bool, bool, dict[str, Any]]:
        """Apply a flat action; return observation, reward, terminated, truncated and info."""
        reward = float(self.simulator.step(np.array([action], dtype=np.int64))[0])
        terminated = bool(self.simulator.terminated[0])
        truncated = bool(self.simulator.truncated[0])
        return self._get_obs(), reward, terminated, truncated, self._get_info()

    def schedule(self) -> Schedule:
        """Return what has been scheduled so far."""
        return self.simulator.schedule(0)

    def _draw_instance(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.simulator.instances)))

    def _first_mask(self, seed: int) -> NDArray[np.int8]:
        """Return the mask (K * M + 1,) of the first decision after `reset(seed=seed)`."""
        instance = self._draw_instance(seeding.np_random(seed)[0])
        own = self.simulator
        fresh = Simulator(own.instances, own.setting, 1, own.window)
        fresh.reset([0], [instance])
        return np.asarray(fresh.state.mask[0].astype(np.int8))

    def _get_observation_space(self) -> spaces.Dict:
        tables = self.simulator.tables
        k = self.simulator.window
        m = tables.agents.shape[1]
        t = tables.task_on_type.shape[2]
        u, r = tables.quota.shape[1:]
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
            key: spaces.Box(-MAX_TICKS, MAX_TICKS, shape, np.int64) for key, shape in shapes.items()
        }
        return spaces.Dict(boxes | {"action_mask": spaces.Box(0, 1, (k * m + 1,), np.int8)})

    def _get_obs(self) -> ObsType:
        tables = self.simulator.tables
        state = self.simulator.state
        i, now = state.env[0, [INSTANCE, TIME]]
        window = state.window[0]
        shown = window >= 0
        row = tables.task[i, window]
        task_on_type = tables.task_on_type[i, window]
        agents = state.agents[0]
        tasks = np.column_stack(
            [
                np.ones(len(row), dtype=np.int64),
                _clipped(row[:, [RELEASE, DUE]] - now),
                row[:, [WEIGHT, TENANT, KIND]],
            ]
        )
        agent_times = _clipped(agents[:, [NEXT_OUTAGE, NEXT_END, LAST_END]] - now)
        observation = {
            "tasks": np.where(shown[:, None], tasks, 0),
            "duration": np.where(shown[:, None], task_on_type[..., VISIBLE], -1),
            "demand": np.where(shown[:, None, None], task_on_type[..., DEMAND:], 0),
            "agents": np.column_stack([tables.agents[i, :, TYPE], agents[:, UP], agent_times]),
            "free": agents[:, FREE:].copy(),
            "capacity": tables.agents[i, :, CAPACITY:].copy(),
            "action_mask": state.mask[0].astype(np.int8),
        }
        if tables.quota.shape[1]:
            observation["quota"] = _clipped(state.tenants[0, :, QUOTA_LEFT:])
        self.action_space.legal = observation["action_mask"]
        return observation

    def _get_info(self) -> dict[str, Any]:
        i, now = self.simulator.state.env[0, [INSTANCE, TIME]].tolist()
        return {
            "action_mask": self.simulator.state.mask[0].astype(np.int8),
            "time": now,
            "instance": i,
        }


def _clipped(ticks: Ints) -> Ints:
    return np.clip(ticks, -MAX_TICKS, MAX_TICKS)


if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, entry_point="bench.simulator.gym:SchedulingEnv")
