"""Pretraining by behavioural cloning of a solver's schedules.

Source: Pomerleau 1991, "Efficient training of artificial neural networks for autonomous navigation"
(doi:10.1162/neco.1991.3.1.88).

The teacher's schedules are expert demonstrations. They are replayed in the simulator, so nothing
but the schedules is stored. A schedule does not order the tasks that start at one tick: at a
decision every (task, agent) pair that the schedule starts now follows it. The loss is therefore
-log of the total probability of all these actions, a marginal likelihood over the unknown order.
The critic learns the returns of the schedules.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.contracts import Budget, Policy, Solver, TrainingLogger
from bench.errors import UserError
from bench.instance import Instance, InstanceError, read_json, write_json
from bench.logs.replay import ScheduleReplay
from bench.rollout import as_solver, setting_of
from bench.schedule import Schedule
from bench.setting import Setting
from bench.settings_hash import plugin_settings, settings_hash
from bench.simulator.tables import INSTANCE, NO_ACTION, TIME
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from solvers.networks.base import Network
from solvers.networks.features import Features
from solvers.rl.advantages import returns_to_go
from solvers.rl.rollouts import sample, value_unit
from solvers.rl.settings import ABOVE_0, check_settings
from solvers.rl.trainer import Trainer

FILE = "demonstrations.json.gz"
OLD_FILE = "lessons.json.gz"  # its name in earlier versions, still read
_log = logging.getLogger(__name__)
SAVE_SECONDS = 10.0  # between two writes of the file


class Demonstration(NamedTuple):
    """A batch of n decisions that follow the teacher's schedules."""

    features: Features  # each (n, ...) input of the network
    scheduled: Tensor  # (n, K * M + 1) bool: the actions that follow the schedule
    unit: Tensor  # (n,) return that one unit of the network's value output stands for
    target: Tensor  # (n,) return to go

    def at(self, rows: Tensor) -> Demonstration:
        """Return the decisions `rows` (r,)."""
        columns = (column.index_select(0, rows) for column in self[1:])
        return Demonstration(self.features.at(rows), *columns)


class DemonstrationReplay(ScheduleReplay):
    """Schedules of a teacher, replayed in the environments of a simulator."""

    @torch.no_grad()
    def replay(
        self, instances: Tensor, network: Network, gamma: float, generator: torch.Generator
    ) -> Demonstration:
        """Replay the schedules of some instances and return the decisions that reproduce them.

        Parameters
        ----------
        instances
            (B,) the instance of each environment.
        network
            Determines which features are kept.
        gamma
            Discount factor of the returns to go.
        generator
            Draws the action where several follow the schedule.

        Returns
        -------
        Demonstration
            The decisions at which some action follows the schedule, from `first_tick` on.
        """
        simulator = self.simulator
        steps = []
        simulator.restart(instances, all_envs=True)
        while (playing := simulator.playing).any():
            features = network.featurize(from_simulator(simulator))
            scheduled = self.scheduled_actions()
            allowed = self.with_fallback(scheduled)
            uniform = torch.zeros(scheduled.shape, device=scheduled.device)
            action = sample(uniform.masked_fill(~allowed, -torch.inf), generator)
            unit = value_unit(simulator, features)
            first_tick = self.first_tick[simulator.state.env[:, INSTANCE]]
            followed = simulator.state.env[:, TIME] >= first_tick
            keep = playing & scheduled.any(dim=1) & followed
            reward = simulator.step(torch.where(playing, action, NO_ACTION))
            steps.append((*features, scheduled, unit, keep, reward.float()))
        simulator.check()
        *columns, keep, reward = (torch.stack(column) for column in zip(*steps, strict=True))
        columns.append(returns_to_go(reward, gamma))
        kept = [column.flatten(0, 1)[keep.flatten()] for column in columns]
        return Demonstration(Features(*kept[:-3]), *kept[-3:])


@dataclass(kw_only=True)
class Imitation:
    """Pretraining of a learner: which teacher, and how much of it.

    `conf/solver/ppo_pretrained.yaml` describes every setting. The teacher solves the first
    `instances` of the train split, in `seconds` each, on one thread. `demonstrations` is the file
    that keeps its schedules (by default in the run's folder); runs that name the same file solve
    each instance only once.
    """

    output_files: ClassVar = ("demonstrations",)

    teacher: Solver | Policy
    demonstrations: str | None = None
    instances: int = 3072
    seconds: float = 1.0
    epochs: int = 20
    lr: float = 2e-3
    num_envs: int = 32  # schedules replayed at once
    minibatch: int = 512

    def __post_init__(self) -> None:
        check_settings(self, "solver.imitation", {"seconds": ABOVE_0, "lr": ABOVE_0})

    def collect_demonstrations(
        self, instances: Sequence[Instance], setting: Setting, logger: TrainingLogger
    ) -> tuple[dict[int, Schedule], float]:
        """Solve the instances by the teacher, but those whose schedules the file holds.

        Parameters
        ----------
        instances
            The train split.
        setting
            Of the run. The teacher observes what it declares.
        logger
            Its folder keeps the file if `demonstrations` names none.

        Returns
        -------
        tuple
            Index of the instance -> its schedule, where the teacher found a complete one, and the
            CPU seconds of all schedules, those from the file included.

        Raises
        ------
        UserError
            If the teacher found no complete schedule at all.
        """
        path = Path(self.demonstrations) if self.demonstrations else logger.folder / FILE
        known = _read(path) or _read(path.with_name(OLD_FILE))
        before = len(known)
        saved = time.monotonic()
        used = instances[: self.instances]
        found: dict[int, dict[str, Any]] = {}
        teacher = as_solver(self.teacher)
        teacher_setting = setting_of(self.teacher, setting)
        self.teacher.warm_up()
        name = type(self.teacher).__name__
        settings = settings_hash([plugin_settings(self.teacher), asdict(teacher_setting)])
        for i, instance in enumerate(used):
            former_key = f"{instance.hash()} {setting.objective} {name} {self.seconds:g}"
            key = f"{former_key} {settings}"
            if former_key in known and self.demonstrations is None:  # a file of this run alone
                known.setdefault(key, known[former_key])
            if key not in known:
                known[key] = self._solve(teacher, instance, teacher_setting, i)
                if time.monotonic() - saved > SAVE_SECONDS:
                    write_json(path, known)
                    saved = time.monotonic()
            found[i] = known[key]
            logger.progress(i + 1, len(used), "the teacher solves instances")
        if len(known) > before:
            write_json(path, known)
        schedules = {i: Schedule.from_dict(one["schedule"]) for i, one in found.items()}
        complete = {
            i: schedule
            for i, schedule in schedules.items()
            if len(set(schedule.task.tolist())) == instances[i].n_tasks
        }
        if not complete:
            raise UserError(
                f"solver.imitation.teacher: no schedule in {self.seconds:g} s; raise "
                "solver.imitation.seconds"
            )
        return complete, sum(one["cpu_seconds"] for one in found.values())

    def _solve(
        self, teacher: Solver, instance: Instance, setting: Setting, i: int
    ) -> dict[str, Any]:
        began = time.process_time()
        budget = Budget(seconds=self.seconds, threads=1)
        result = teacher.solve(instance, setting, budget, np.random.default_rng([0, i]))
        return {"schedule": result.schedule.to_dict(), "cpu_seconds": time.process_time() - began}

    def clone(
        self, trainer: Trainer, schedules: Mapping[int, Schedule], logger: TrainingLogger
    ) -> None:
        """Train the network of `trainer` on schedules of its training instances.

        Parameters
        ----------
        trainer
            Its network is changed; its generator draws.
        schedules
            Index of a training instance -> a complete schedule.
        logger
            For progress.

        Raises
        ------
        UserError
            If the loss is not finite.
        """
        replay = self._replay(trainer.collector.simulator, schedules)
        generator = trainer.generator
        optimizer = torch.optim.Adam(trainer.network.parameters(), lr=self.lr, eps=1e-5)
        steps = self.epochs * max(1, replay.count // self.num_envs)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = self.lr * (1.0 - 0.95 * step / steps)
            chosen = torch.randint(
                replay.count, (self.num_envs,), generator=generator, device=generator.device
            )
            batch = replay.replay(chosen, trainer.network, trainer.learner.gamma, generator)
            trainer.update_return_std(batch.target)
            order = torch.randperm(len(batch.target), generator=generator, device=generator.device)
            for rows in order.split(self.minibatch):
                loss = cloning_loss(trainer, batch.at(rows))
                if not torch.isfinite(loss):
                    raise UserError(
                        f"imitation: the loss became {loss.item()}; lower solver.imitation.lr"
                    )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(
                    trainer.network.parameters(), trainer.learner.max_grad_norm
                )
                optimizer.step()
            logger.progress(step + 1, steps, "behavioural cloning")

    def _replay(
        self, training_envs: TensorSimulator, schedules: Mapping[int, Schedule]
    ) -> DemonstrationReplay:
        """Return a replay in environments like those of training, of the instances solved."""
        simulator = TensorSimulator(
            [training_envs.instances[i] for i in schedules],
            training_envs.setting,
            self.num_envs,
            training_envs.window,
            training_envs.tables.shaped,
            device=training_envs.device,
        )
        return DemonstrationReplay(list(schedules.values()), simulator)


def cloning_loss(trainer: Trainer, batch: Demonstration) -> Tensor:
    """Return the cloning loss plus the value loss, a scalar.

    The value loss is half the mean squared error in standard deviations of the returns.
    """
    logits, value = trainer.network(batch.features)
    scheduled = logits.masked_fill(~batch.scheduled, -torch.inf)
    logp = scheduled.logsumexp(dim=1) - logits.logsumexp(dim=1)
    error = (value * batch.unit - batch.target) / trainer.return_std
    return -logp.mean() + trainer.learner.value_weight * 0.5 * error.square().mean()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Read {schedule, cpu_seconds} by instance hash, objective, teacher, seconds and settings.

    What is damaged is left out, with a warning: it is solved again.
    """
    try:
        stored = read_json(path)
    except FileNotFoundError:
        return {}
    except InstanceError as error:
        _log.warning("%s: %s; the teacher solves the instances again", path, error)
        return {}
    kept = {}
    for key, one in stored.items() if isinstance(stored, dict) else ():
        with contextlib.suppress(ArithmeticError, LookupError, TypeError, ValueError):
            Schedule.from_dict(one["schedule"])
            kept[key] = {"schedule": one["schedule"], "cpu_seconds": float(one["cpu_seconds"])}
    if not isinstance(stored, dict) or len(kept) < len(stored):
        _log.warning("%s: damaged; the teacher solves again what is missing", path)
    return kept
