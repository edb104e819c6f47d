"""Logged schedules: what policies, plans and learners decided on the train split of a data set, recorded in the simulator.

Rewards are those of the decision process (time accrual), not shaped ones: where a task's whole cost is paid when it starts,
waiting looks free, and what is learnt of values from logs alone waits.

The first use records a log into the cache, later ones read it. Grades as in D4RL (Fu et al. 2020, arXiv:2004.07219) and its
successors for scheduling: random, rules, expert, noisy expert, medium (a half-trained policy), replay (all that a learner saw
while it trained), mixed.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts import Budget, Dataset, Learner, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.logs.episodes import Episodes, Tape, joined
from bench.logs.replay import Plans
from bench.rollout import played_as
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator.tables import LEAVE
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from datasets.logs import minari_files
from datasets.logs.stored import StoredLogs, silent

TOGETHER = 256  # episodes played at once


@dataclass(frozen=True)
class Behaviour:
    """Who decides in so many episodes.

    Args:
        policy: a Policy; a Solver, whose schedules become decisions (any of those that its schedule starts now, equally
            likely); or a Learner, which is trained on the same data set first.
        episodes: how many, one on each instance of the train split, again from the first one where there are more.
        noise: probability with which a decision is drawn uniformly from the legal actions instead.
        seconds: of a Solver, for each instance. decisions: of a Learner's training.
        replay: of a Learner: the episodes are those it trained on, all of them if `episodes` is 0, else those of the first of
            the environments that it trained in.

    Raises:
        UserError: for a number that means nothing.
    """

    policy: Any
    episodes: int
    noise: float = 0.0
    seconds: float = 1.0
    decisions: int = 100_000
    replay: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise UserError(f"logs.behaviours: noise must lie between 0 and 1, got {self.noise}")
        least = {"episodes": 0 if self.replay else 1, "decisions": 1}
        for name, count in least.items():
            if getattr(self, name) < count:
                raise UserError(
                    f"logs.behaviours: {name} must be at least {count}, got {getattr(self, name)}"
                )
        if not self.seconds > 0:
            raise UserError(f"logs.behaviours: seconds must be above 0, got {self.seconds}")


class RecordedLogs(StoredLogs):
    """A log by one or several behaviours.

    Raises:
        UserError: where a log of this name was recorded from other settings, or its file cannot be read.
    """

    def __init__(
        self,
        name: str,
        data: Dataset,
        behaviours: Mapping[str, Behaviour],
        setting: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        if seed < 0:
            raise UserError(f"logs.seed: must not be negative, got {seed}")
        super().__init__(name)
        self.data, self.behaviours, self.seed = data, dict(behaviours), seed
        self.setting = Setting(**(setting or {}))

    def episodes(self, progress: minari_files.Progress = silent) -> Episodes:
        """The log, recorded now if it was not."""
        with self.locked():
            if self.folder.exists():
                return self._read()
            began = time.perf_counter()
            recorder = Recorder(self.name, self.data, self.setting, self.seed, progress)
            log = joined(
                self.name,
                [recorder.record(who, behaviour) for who, behaviour in self.behaviours.items()],
            )
            self.write(
                log, {"settings": self.settings, "seconds": round(time.perf_counter() - began, 1)}
            )
            return log

    def instances(self) -> Iterable[Instance]:
        """Those of the data set's train split."""
        return self.data.instances("train")

    @property
    def settings(self) -> str:
        """A hash of what decides the log: a log of the same name from other settings is not taken for this one."""
        parts = {who: [_described(one.policy), one.episodes, one.noise, one.seconds, one.decisions, one.replay]
                 for who, one in self.behaviours.items()}  # fmt: skip
        hashes = getattr(self.data, "hashes", {})
        text = json.dumps(
            [self.data.name, hashes, parts, vars(self.setting), self.seed], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _read(self) -> Episodes:
        recorded = minari_files.card(self.folder)["card"].get("settings")
        if recorded != self.settings:
            raise UserError(
                f"logs: {self.folder} was recorded from other settings ({recorded}, now {self.settings}); give the log another "
                "name (logs.name=...) or delete the folder to record it again"
            )
        return minari_files.read(self.folder)


class JoinedLogs(StoredLogs):
    """Several logs as one. `shares`: part -> how many of its episodes, evenly spread over it; all of a part not named."""

    def __init__(
        self, name: str, parts: Mapping[str, Any], shares: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(name)
        self.parts, self.shares = dict(parts), dict(shares or {})
        unknown = sorted(set(self.shares) - set(self.parts))
        if unknown:
            raise UserError(
                f"logs.shares: {unknown[0]} is no part; there are {', '.join(self.parts)}"
            )
        for name, share in self.shares.items():
            if share < 1:
                raise UserError(
                    f"logs.shares.{name}: at least 1 episode is needed, got {share}; leave the part out instead"
                )
        first, *others = self.parts.items()
        self.setting: Setting = first[1].setting
        for name, part in others:
            if part.setting != self.setting:
                raise UserError(f"logs.parts.{name}: was played with {part.setting}, {first[0]} with {self.setting}; "
                                "logs can be joined only where these agree")  # fmt: skip

    def episodes(self, progress: minari_files.Progress = silent) -> Episodes:
        """The parts' episodes, part by part."""
        chosen = []
        for name, part in self.parts.items():
            part.cache, part.command = self.cache, self.command
            log = part.episodes(progress)
            count = self.shares.get(name, len(log.length))
            if count > len(log.length):
                raise UserError(
                    f"logs.shares.{name}: {count} episodes asked for, {log.name} has {len(log.length)}"
                )
            chosen.append(
                log.part(np.linspace(0, len(log.length) - 1, count).round().astype(np.int64))
            )
        log = joined(self.name, chosen)
        self.store(log, {"parts": {part.name: part.hash for part in chosen}})
        return log

    def instances(self) -> Iterable[Instance]:
        """Those of all parts, made as they are asked for."""
        return itertools.chain.from_iterable(part.instances() for part in self.parts.values())


class Recorder:
    """Plays and records episodes on the instances of `data`'s train split; all randomness comes from `seed`."""

    def __init__(
        self,
        name: str,
        data: Dataset,
        setting: Setting,
        seed: int,
        progress: minari_files.Progress = silent,
    ) -> None:
        self.name, self.data, self.setting, self.progress = name, data, setting, progress
        self.instances = list(data.instances("train"))
        self.rng = np.random.default_rng([seed, 5])
        self.window = max(instance.n_tasks for instance in self.instances)

    def record(self, who: str, behaviour: Behaviour) -> Episodes:
        """The episodes of a behaviour."""
        policy = behaviour.policy
        if isinstance(policy, Learner):
            tape = Tape(who)
            policy = self._trained(policy, behaviour, tape)
            if behaviour.replay:
                log = tape.episodes(self.name)
                return log.part(range(len(log.length))[: behaviour.episodes or None])
        if behaviour.replay:
            raise UserError(
                f"logs.behaviours.{who}: {type(policy).__name__} does not learn, and replay records a training"
            )
        getattr(policy, "warm_up", lambda: None)()
        parts: list[Episodes] = []
        done = 0
        while done < behaviour.episodes:
            numbers = range(done, min(done + TOGETHER, behaviour.episodes))
            chosen = [self.instances[e % len(self.instances)] for e in numbers]
            parts.append(self._play(who, policy, behaviour, chosen))
            done = numbers.stop
            self.progress(done, behaviour.episodes, f"records {self.name}")
        return joined(self.name, parts)

    def _play(
        self, who: str, policy: Any, behaviour: Behaviour, instances: Sequence[Instance]
    ) -> Episodes:
        simulator, tape = TensorSimulator(instances, self.setting, window=self.window), Tape(who)
        decider = self._decider(policy, behaviour, simulator)
        while simulator.playing.any():
            legal = simulator.state.mask.double()
            chance = decider() * (1.0 - behaviour.noise) + behaviour.noise * legal / legal.sum(
                dim=1, keepdim=True
            ).clamp(min=1)
            drawn = chance.cumsum(dim=1) > torch.from_numpy(
                self.rng.random((len(chance), 1))
            ) * chance.sum(dim=1, keepdim=True)
            action = drawn.float().argmax(dim=1)
            tape.saw(simulator, action, chance.gather(1, action[:, None])[:, 0])
            tape.got(simulator.step(torch.where(simulator.playing, action, LEAVE)))
        simulator.check()
        return tape.episodes(self.name)

    def _decider(self, policy: Any, behaviour: Behaviour, simulator: TensorSimulator) -> Any:
        """A function that gives the probabilities (B, A) float64 of the actions in the simulator's current decisions."""
        if hasattr(policy, "distribution"):
            getattr(policy, "reset", lambda: None)()
            return lambda: policy.distribution(from_simulator(simulator)).double()
        if isinstance(policy, Solver):
            plans = Plans(
                [self._plan(policy, behaviour, instance) for instance in simulator.instances],
                simulator,
            )

            def planned() -> Tensor:
                allowed = plans.allowed(plans.right()).double()
                return allowed / allowed.sum(dim=1, keepdim=True).clamp(min=1)

            return planned
        policies = [
            copy.deepcopy(policy) for _ in simulator.instances
        ]  # one per episode: planners remember their plans
        for one in policies:
            getattr(one, "reset", lambda: None)()
        return lambda: self._told(policies, simulator)

    def _told(self, policies: Sequence[Any], simulator: TensorSimulator) -> Tensor:
        """Probability 1 for what a deterministic policy does in each environment."""
        chance, host = (
            torch.zeros(simulator.state.mask.shape, dtype=torch.float64),
            simulator.host(),
        )
        for b in simulator.playing.nonzero().flatten().tolist():
            seen = host.observation(b)
            chance[b, host.flat(policies[b].act(seen, self.rng), seen)] = 1.0
        return chance

    def _plan(self, solver: Solver, behaviour: Behaviour, instance: Instance) -> Schedule:
        budget = Budget(seconds=behaviour.seconds, threads=1)
        result = solver.solve(instance, played_as(solver, self.setting), budget, self.rng)
        if len(set(result.schedule.task.tolist())) < instance.n_tasks:
            raise UserError(
                f"logs.behaviours: no whole schedule of {instance.name} in {behaviour.seconds:g} s; raise seconds"
            )
        return result.schedule

    def _trained(self, learner: Learner, behaviour: Behaviour, tape: Tape) -> Any:
        """The learner's policy; what it trained on goes to the tape if that is to be logged."""
        import tempfile

        if behaviour.replay:
            if getattr(learner, "shaped", False):
                raise UserError(
                    f"logs: a replay's rewards are those its learner trained on; set policy.shaped=false for {self.name}"
                )
            if not hasattr(learner, "remember"):
                raise UserError(
                    f"logs: {type(learner).__name__} does not play while it learns, so there is nothing to replay"
                )
            learner = copy.copy(
                learner
            )  # the configured one is to stay as it is: its settings are hashed
            learner.remember(tape)
        with tempfile.TemporaryDirectory() as folder:
            log = _Quiet(Path(folder), self.progress, self.name)
            return learner.fit(
                self.data, self.setting, Budget(decisions=behaviour.decisions), self.rng, log
            )


class _Quiet:
    """A training's log that only shows progress."""

    def __init__(self, folder: Path, progress: minari_files.Progress, name: str) -> None:
        self.folder, self._progress, self._name = folder, progress, name

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Not kept."""

    def summary(self, facts: Mapping[str, Any]) -> None:
        """Not kept."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """To whoever records."""
        self._progress(done, total, f"trains for {self._name}")


def _described(plugin: Any) -> Any:
    """A plug-in's class and plain settings, for a hash."""
    if plugin is None or isinstance(plugin, int | float | str):
        return plugin
    if isinstance(plugin, list | tuple):
        return [_described(value) for value in plugin]
    settings = plugin if isinstance(plugin, Mapping) else getattr(plugin, "__dict__", {})
    return [
        type(plugin).__name__,
        {str(key): _described(value) for key, value in settings.items() if str(key)[0] != "_"},
    ]
