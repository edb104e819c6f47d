"""The batched view of the simulator: B environments stepped together, no Python per environment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.instance import Instance, Ints
from bench.observation import Observation
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator import kernel
from bench.simulator.tables import (
    AGENT, DEAD_END, DEMAND, DUE, END, FREE, ILLEGAL, INSTANCE, KIND, LEFT, N_LOST, N_RUNNING, N_TASKS, NEVER, NEXT_OUTAGE,
    ORDER, RELEASE, RUNNERS, RUNNING, SCALE, START, STATUS, TENANT, TIME, TRUNCATED, UP, VISIBLE, VISIBLE_END, WEIGHT, Floats,
    allocate, stack,
)  # fmt: skip

NO_LIMIT = int(NEVER)
MANY = 2048  # environments from which on threads pay


class IllegalAction(ValueError):
    """A masked action was taken; the message names the environment and the action."""


class Simulator:
    """B environments, each playing one of I instances.

    Args:
        instances: I instances that share sharing and number of resources.
        setting: how they are played.
        n_envs: B; default I. Environment b starts with instance b mod I.
        window: K, tasks shown to networks and named by flat actions; default the largest N (rules see the whole queue).
        shaped: pay rewards at assignment instead of over time (training only).
        limit: decisions after which an episode is truncated; default none.

    After `reset` or `step` the arrays of `state` hold what policies see: `mask` (B, K * M + 1), `window` (B, K), the agents;
    `tables` holds the instances. Rewards are float64; the undiscounted return of an episode is -objective / scale exactly.
    `scale` (I,) is each instance's trivial bound on total time (at least 1), and is never shown to a policy.

    Raises:
        SettingError: where an instance cannot be played under the setting.
        ValueError: for `shaped` where durations are estimates or tasks can be killed.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        setting: Setting,
        n_envs: int | None = None,
        window: int | None = None,
        shaped: bool = False,
        limit: int = NO_LIMIT,
    ) -> None:
        for instance in instances:
            setting.check(instance)
        if shaped and not all(knows_ends(instance) for instance in instances):
            raise ValueError(
                "shaped: not available where durations are estimates or tasks can be killed"
            )
        self.instances, self.setting = list(instances), setting
        self.n_envs = len(instances) if n_envs is None else n_envs
        least = [(i.weight * i.shortest()).sum() for i in instances]
        penalty = [1.0 + (i.weight * i.longest()).sum() for i in instances]
        scale = np.maximum(1.0, np.asarray(least, dtype=np.float64))
        self.tables = stack(instances, setting, scale, np.asarray(penalty), shaped, limit)
        self.window = self.tables.task.shape[1] if window is None else window
        lost = max((i.n_tasks * len(i.outages) for i in instances if i.may_kill), default=0)
        self.state = allocate(self.tables, self.n_envs, self.window, max(lost, 1))
        self.reset(np.arange(self.n_envs), np.arange(self.n_envs) % len(instances))

    @property
    def scale(self) -> Floats:
        """(I,) the return of instance i is -objective / scale[i]."""
        return self.tables.real[:, SCALE]

    @property
    def status(self) -> Ints:
        """(B,) RUNNING, TERMINATED, DEAD_END, TRUNCATED or ILLEGAL (see `tables`)."""
        return self.state.env[:, STATUS]

    @property
    def n_actions(self) -> int:
        """K * M + 1."""
        return self.state.mask.shape[1]

    def reset(self, environments: ArrayLike, instances: ArrayLike) -> None:
        """Start new episodes: `environments` (E,) play `instances` (E,)."""
        e, i = (np.atleast_1d(x).astype(np.int64) for x in (environments, instances))
        if len(e) != len(i) or not _within(e, self.n_envs) or not _within(i, len(self.instances)):
            raise ValueError(
                f"reset: {len(e)} environments and {len(i)} instances, must be as many, each an index in range"
            )
        kernel.reset_all(self.tables, self.state, e, i)

    def step(self, actions: NDArray[np.integer]) -> Floats:
        """Apply flat actions (B,); returns rewards (B,). Whether an episode ended stands in `terminated` and `truncated`.

        Raises:
            IllegalAction: for a masked action or a finished environment; the other environments have moved on.
            ValueError: for another number of actions than B.
        """
        if np.shape(actions) != (self.n_envs,):
            raise ValueError(f"actions: shape {np.shape(actions)}, expected ({self.n_envs},)")
        step = kernel.step_many if self.n_envs >= MANY else kernel.step_few
        step(self.tables, self.state, np.ascontiguousarray(actions, dtype=np.int64))
        wrong = np.flatnonzero(self.status == ILLEGAL)
        if len(wrong):
            b = int(wrong[0])
            raise IllegalAction(
                f"environment {b}: action {int(actions[b])} is masked or its episode is over"
            )
        return self.state.reward.copy()  # a reset would overwrite it

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """(B,) the episode reached its end (every task done, or a dead end)."""
        return (self.status != RUNNING) & (self.status != TRUNCATED)

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """(B,) the episode was cut by `limit`."""
        return self.status == TRUNCATED

    def dead_end(self, b: int) -> bool:
        """`budget` sharing: a task fits nowhere any more in environment b."""
        return bool(self.status[b] == DEAD_END)

    def play_random(
        self, rng: np.random.Generator, decisions: int = NO_LIMIT, restart: bool = False
    ) -> Floats:
        """Uniformly random legal play, compiled; returns (B, 2): finished episodes and the sum of their returns.

        Every environment plays to its end, or, with `restart`, `decisions` decisions in as many episodes as that takes.
        """
        returns = np.zeros((self.n_envs, 2))
        kernel.play_random(
            self.tables, self.state, random_seeds(rng, self.n_envs), decisions, restart, returns
        )
        return returns

    def schedule(self, b: int) -> Schedule:
        """What environment b has done so far, pieces cut short included."""
        i, count = self.state.env[b, [INSTANCE, N_LOST]].tolist()
        task = self.state.task[b][:, : self.tables.size[i, N_TASKS]]
        done = np.flatnonzero(task[AGENT] >= 0)
        pieces = np.stack([done, task[AGENT, done], task[START, done], task[END, done]], axis=1)
        table = np.concatenate([self.state.lost[b, :count], pieces])
        return Schedule(
            self.tables.task[i, table[:, 0], ORDER], table[:, 1], table[:, 2], table[:, 3]
        )

    def observation(self, b: int) -> Observation:
        """What a policy sees in environment b, without padding."""
        i = int(self.state.env[b, INSTANCE])
        instance, window = self.instances[i], self.state.window[b]
        n_agents, n_types = instance.n_agents, instance.n_types
        shown = window[window >= 0]
        task, work = self.tables.task[i, shown], self.tables.work[i, shown, :n_types]
        running = self.state.task[b, RUNNERS, : self.state.env[b, N_RUNNING]]
        agent = self.state.task[b, AGENT, running]
        agents, mask = self.state.agents[b, :n_agents].copy(), self.state.mask[b]
        legal = mask[:-1].reshape(self.window, -1)[: len(shown), :n_agents]
        tenants = instance.tenant is not None
        return Observation(
            time=int(self.state.env[b, TIME]),
            tick_seconds=float(instance.tick_seconds),
            release=task[:, RELEASE],
            duration=work[..., VISIBLE],
            demand=work[..., DEMAND:],
            weight=task[:, WEIGHT],
            due=task[:, DUE] if instance.due is not None else None,
            tenant=task[:, TENANT] if tenants else None,
            kind=task[:, KIND],
            agent_type=instance.agent_type,
            capacity=instance.capacity,
            free=agents[:, FREE:],
            up=agents[:, UP].astype(bool),
            next_outage=agents[:, NEXT_OUTAGE],
            running_agent=agent,
            running_end=self.state.task[b, VISIBLE_END, running],
            running_demand=self.tables.work[i, running, instance.agent_type[agent], DEMAND:],
            running_tenant=self.tables.task[i, running, TENANT] if tenants else None,
            tenant_free=self.state.tenants[b, : instance.n_tenants, LEFT:].copy()
            if instance.quota is not None
            else None,
            mask=np.append(legal.ravel(), mask[-1]).astype(bool),
        )

    def flat(self, action: int, observation: Observation) -> int:
        """The simulator's flat action for one taken on an unpadded Observation."""
        if action == observation.wait:
            return self.n_actions - 1
        position, agent = divmod(action, observation.n_agents)
        return position * self.tables.agents.shape[1] + agent


def knows_ends(instance: Instance) -> bool:
    """True where a task's end is certain when it starts: durations are no estimates and nothing can be killed."""
    return np.array_equal(instance.estimate, instance.duration) and not instance.may_kill


def _within(index: Ints, size: int) -> bool:
    return bool(((index >= 0) & (index < size)).all())


def random_seeds(rng: np.random.Generator, n: int) -> NDArray[np.uint64]:
    """(n,) non-zero states for the kernel's generators."""
    return rng.integers(1, np.iinfo(np.uint64).max, size=n, dtype=np.uint64, endpoint=True)
