"""The simulator over NumPy arrays: B environments are stepped together in compiled code."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.instance import Instance, Ints
from bench.observation import Observation
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator import kernel
from bench.simulator.tables import (
    AGENT, DEAD_END, DEMAND, DUE, END, FREE, ILLEGAL, INSTANCE, KIND, NEVER, NEXT_OUTAGE, N_KILLED,
    N_RUNNING, N_TASKS, ORDER, QUOTA_LEFT, RELEASE, RUNNING, RUNNING_TASKS, SCALE, START, STATUS,
    TENANT, TIME, TRUNCATED, UP, VISIBLE, VISIBLE_END, WEIGHT, Floats, InstanceTables, allocate,
    replace_instances, stack_instances,
)  # fmt: skip

NO_LIMIT = NEVER


class IllegalAction(ValueError):
    """A masked action was taken; the message names the environment and the action."""


class Simulator:
    """B environments, each playing one of I instances.

    The undiscounted return of an episode is exactly -objective / scale.

    Parameters
    ----------
    instances
        I instances with the same sharing and the same number of resources.
    setting
        Setting under which they are played.
    num_envs
        B; default I. Environment b starts with instance b mod I.
    window
        K, the number of tasks that networks observe and flat actions name; default the largest N.
        Dispatching rules observe the whole queue.
    shaped
        Whether rewards are paid at assignment instead of over time (training only).
    max_decisions
        Number of decisions after which an episode is truncated; default none.

    Attributes
    ----------
    state : SimulatorState
        What policies observe, among others: `mask` (B, K * M + 1), `window` (B, K), the agents.
    tables : InstanceTables
        The instances.

    Raises
    ------
    SettingError
        If an instance cannot be played under the setting.
    ValueError
        If `shaped` is set where durations are estimates or tasks can be killed.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        setting: Setting,
        num_envs: int | None = None,
        window: int | None = None,
        shaped: bool = False,
        max_decisions: int = NO_LIMIT,
    ) -> None:
        self.setting = setting
        self.shaped = shaped
        self.max_decisions = max_decisions
        self.instances = list(instances)
        self.num_envs = len(instances) if num_envs is None else num_envs
        self.tables = self._tables(instances)
        self.window = self.tables.task.shape[1] if window is None else window
        killed = _most_killed(instances)
        self.state = allocate(self.tables, self.num_envs, self.window, max(killed, 1))
        self.reset(np.arange(self.num_envs), np.arange(self.num_envs) % len(instances))

    def with_envs(self, num_envs: int) -> Simulator:
        """Return other environments, of the same instances in the same tables.

        An instance that `replace` replaces is replaced for both.
        """
        other = copy.copy(self)
        other.num_envs = num_envs
        killed = self.state.killed.shape[1]
        other.state = allocate(self.tables, num_envs, self.window, killed)
        other.reset(np.arange(num_envs), np.arange(num_envs) % len(self.instances))
        return other

    def _tables(self, instances: Sequence[Instance]) -> InstanceTables:
        for instance in instances:
            self.setting.check(instance)
        if self.shaped and not all(ends_are_certain(instance) for instance in instances):
            raise ValueError(
                "shaped: value True: not available where durations are estimates or tasks can be "
                "killed; set shaped=False"
            )
        least_cost = [(i.weight * i.shortest()).sum() for i in instances]
        scale = np.maximum(1.0, np.asarray(least_cost, dtype=np.float64))
        penalty = np.asarray([1.0 + (i.weight * i.longest()).sum() for i in instances])
        return stack_instances(
            instances, self.setting, scale, penalty, self.shaped, self.max_decisions
        )

    def replace(self, rows: Sequence[int], instances: Sequence[Instance]) -> None:
        """Replace the instances `rows`, which no environment may be playing.

        Raises
        ------
        ValueError
            If a new instance is larger than all that the simulator began with.
        """
        if not len(rows):
            return
        killed = _most_killed(instances)
        if killed > self.state.killed.shape[1]:
            raise ValueError(f"killed: {killed} pieces: exceed {self.state.killed.shape[1]}")
        replace_instances(self.tables, rows, self._tables(instances))
        for row, instance in zip(rows, instances, strict=True):
            self.instances[row] = instance

    @property
    def scale(self) -> Floats:
        """(I,) trivial bound on total time, at least 1: a return is -objective / scale.

        It is never shown to a policy.
        """
        return self.tables.reward_constants[:, SCALE]

    @property
    def status(self) -> Ints:
        """(B,) RUNNING, TERMINATED, DEAD_END, TRUNCATED or ILLEGAL (constants of `tables`)."""
        return self.state.env[:, STATUS]

    @property
    def n_actions(self) -> int:
        """K * M + 1."""
        return int(self.state.mask.shape[1])

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """(B,) whether the episode reached its end: every task is done, or a dead end."""
        return np.asarray((self.status != RUNNING) & (self.status != TRUNCATED))

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """(B,) whether the episode was cut off by `max_decisions`."""
        return np.asarray(self.status == TRUNCATED)

    def dead_end(self, b: int) -> bool:
        """Return whether a task of environment b fits nowhere any more (`budget` sharing)."""
        return bool(self.status[b] == DEAD_END)

    def reset(self, environments: ArrayLike, instances: ArrayLike) -> None:
        """Start new episodes.

        Parameters
        ----------
        environments
            (E,) indices of the environments to reset.
        instances
            (E,) indices of the instances that they play.

        Raises
        ------
        ValueError
            If the numbers differ or an index is out of range.
        """
        e = np.atleast_1d(environments).astype(np.int64)
        i = np.atleast_1d(instances).astype(np.int64)
        if len(e) != len(i) or not _within(e, self.num_envs) or not _within(i, len(self.instances)):
            raise ValueError(
                f"reset: {len(e)} environments and {len(i)} instances: must be equally many, "
                "each an index in range"
            )
        kernel.reset(self.tables, self.state, e, i)

    def step(self, actions: NDArray[np.integer]) -> Floats:
        """Apply flat actions; `terminated` and `truncated` then mark the ended episodes.

        Parameters
        ----------
        actions
            (B,) legal flat actions, or NO_ACTION where the episode is over.

        Returns
        -------
        Floats
            (B,) rewards.

        Raises
        ------
        IllegalAction
            If an action is masked or its episode is over; the other environments have been stepped.
        ValueError
            If the number of actions is not B.
        """
        if np.shape(actions) != (self.num_envs,):
            raise ValueError(f"actions: shape {np.shape(actions)}, expected ({self.num_envs},)")
        kernel.step(self.tables, self.state, np.asarray(actions, dtype=np.int64))
        illegal = np.flatnonzero(self.status == ILLEGAL)
        if len(illegal):
            b = int(illegal[0])
            raise IllegalAction(
                f"environment {b}: action {int(actions[b])} is masked or its episode is over"
            )
        return self.state.reward.copy()  # `reset` overwrites the array

    def play_random(
        self, rng: np.random.Generator, decisions: int = NO_LIMIT, restart: bool = False
    ) -> Floats:
        """Play uniformly random legal actions in every environment.

        Parameters
        ----------
        rng
            Generator that seeds the generators of the environments.
        decisions
            Largest number of decisions per environment.
        restart
            Whether a finished environment plays its instance again until `decisions` is reached.

        Returns
        -------
        Floats
            (B, 2) number of finished episodes and the sum of their returns.
        """
        seeds = random_seeds(rng, self.num_envs)
        returns = np.zeros((self.num_envs, 2))
        kernel.play_random(self.tables, self.state, seeds, decisions, restart, returns)
        return returns

    def schedule(self, b: int) -> Schedule:
        """Return what environment b has scheduled so far, killed pieces included."""
        i, count = self.state.env[b, [INSTANCE, N_KILLED]].tolist()
        task = self.state.task[b][:, : self.tables.size[i, N_TASKS]]
        started = np.flatnonzero(task[AGENT] >= 0)
        columns = [started, task[AGENT, started], task[START, started], task[END, started]]
        pieces = np.concatenate([self.state.killed[b, :count], np.stack(columns, axis=1)])
        number, agent, start, end = pieces.T
        return Schedule(self.tables.task[i, number, ORDER], agent, start, end)

    def observation(self, b: int) -> Observation:
        """Return what a policy observes in environment b, without padding.

        Every array owns its memory: a view would make the rest of the table, such as true
        durations, reachable as its `base`.
        """
        i = int(self.state.env[b, INSTANCE])
        instance = self.instances[i]
        n_agents = instance.n_agents
        window = self.state.window[b]
        shown = window[window >= 0]
        task = self.tables.task[i, shown]
        task_on_type = self.tables.task_on_type[i, shown, : instance.n_types]
        running = self.state.task[b, RUNNING_TASKS, : self.state.env[b, N_RUNNING]]
        running_agent = self.state.task[b, AGENT, running]
        running_type = instance.agent_type[running_agent]
        agents = self.state.agents[b, :n_agents]
        mask = self.state.mask[b]
        legal = mask[:-1].reshape(self.window, -1)[: len(shown), :n_agents]
        has_tenants = instance.tenant is not None
        tenant_free = None
        if instance.quota is not None:
            tenant_free = self.state.tenants[b, : instance.n_tenants, QUOTA_LEFT:].copy()
        return Observation(
            time=int(self.state.env[b, TIME]),
            tick_seconds=float(instance.tick_seconds),
            release=task[:, RELEASE].copy(),
            duration=task_on_type[..., VISIBLE].copy(),
            demand=task_on_type[..., DEMAND:].copy(),
            weight=task[:, WEIGHT].copy(),
            due=task[:, DUE].copy() if instance.due is not None else None,
            tenant=task[:, TENANT].copy() if has_tenants else None,
            kind=task[:, KIND].copy(),
            agent_type=instance.agent_type.copy(),
            capacity=instance.capacity.copy(),
            free=agents[:, FREE:].copy(),
            up=agents[:, UP].astype(bool),
            next_outage=agents[:, NEXT_OUTAGE].copy(),
            running_agent=running_agent,
            running_end=self.state.task[b, VISIBLE_END, running],
            running_demand=self.tables.task_on_type[i, running, running_type, DEMAND:].copy(),
            running_tenant=self.tables.task[i, running, TENANT] if has_tenants else None,
            tenant_free=tenant_free,
            mask=np.append(legal.ravel(), mask[-1]).astype(bool),
        )

    def flat(self, action: int, observation: Observation) -> int:
        """Return the simulator's flat action for an action on an unpadded Observation."""
        if action == observation.wait:
            return self.n_actions - 1
        position, agent = divmod(action, observation.n_agents)
        return position * int(self.tables.agents.shape[1]) + agent


def ends_are_certain(instance: Instance) -> bool:
    """Return whether the end of every task is known when it starts.

    It is if durations equal their estimates and no task can be killed.
    """
    return np.array_equal(instance.estimate, instance.duration) and not instance.may_kill


def _within(index: Ints, size: int) -> bool:
    return bool(((index >= 0) & (index < size)).all())


def _most_killed(instances: Sequence[Instance]) -> int:
    """Return the most pieces that outages may cut short in an episode of one of the instances."""
    return max((i.n_tasks * len(i.outages) for i in instances if i.may_kill), default=0)


def random_seeds(rng: np.random.Generator, n: int) -> NDArray[np.uint64]:
    """Return (n,) non-zero initial states of the kernel's random-number generators."""
    return rng.integers(1, np.iinfo(np.uint64).max, size=n, dtype=np.uint64, endpoint=True)
