"""Learning from a teacher before learning by playing: behavioural cloning of a solver's schedules (Pomerleau 1991).

A schedule leaves the order of tasks that start at one tick open, so at a decision every pair that the schedule starts now is
right, and the loss is -log of the probability of all right actions together (a marginal likelihood over what is not told). The
critic learns the returns that the schedules earn. Lessons are replayed in the simulator: nothing but schedules is kept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.contracts import Budget, Log, Policy, Solver
from bench.errors import UserError
from bench.instance import Instance, InstanceError, read_json, write_json
from bench.logs.replay import Plans
from bench.rollout import as_solver, played_as
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator.tables import LEAVE
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from solvers.networks.features import Features
from solvers.networks.pairwise import Network
from solvers.rl.advantages import to_go
from solvers.rl.rollouts import sample, value_unit
from solvers.rl.settings import ABOVE_0, check_settings

if TYPE_CHECKING:
    from solvers.rl.training import Descent

FILE = "lessons.json.gz"
SAVE_SECONDS = 10.0


class Lesson(NamedTuple):
    """n decisions of a teacher."""

    seen: Features  # each (n, ...)
    right: Tensor  # (n, K * M + 1) bool
    unit: Tensor  # (n,) what one unit of the network's value is worth in return
    target: Tensor  # (n,) return from here on

    def of(self, rows: Tensor) -> Lesson:
        """Some of them."""
        return Lesson(self.seen.at(rows), *(column.index_select(0, rows) for column in self[1:]))


class Lessons(Plans):
    """The schedules of a teacher, replayed in the environments of a simulator."""

    @torch.no_grad()
    def replay(
        self, instances: Tensor, network: Network, gamma: float, generator: torch.Generator
    ) -> Lesson:
        """The decisions by which the schedules of `instances` (B,) come about; which right action is taken is drawn."""
        simulator, tape = self.simulator, []
        simulator.restart(instances, everyone=True)
        while (playing := simulator.playing).any():
            seen, right = network.see(from_simulator(simulator)), self.right()
            told = right.any(dim=1)
            allowed = self.allowed(right)
            action = sample(
                torch.zeros(right.shape, device=right.device).masked_fill(~allowed, -torch.inf),
                generator,
            )
            reward = simulator.step(torch.where(playing, action, LEAVE))
            tape.append((*seen, right, value_unit(simulator, seen), playing & told, reward.float()))
        simulator.check()
        *columns, keep, reward = (torch.stack(column) for column in zip(*tape, strict=True))
        kept = [column.flatten(0, 1)[keep.flatten()] for column in (*columns, to_go(reward, gamma))]
        return Lesson(Features(*kept[:-3]), *kept[-3:])


@dataclass(kw_only=True)
class Imitation:
    """How much of which teacher: it solves the first `instances` of the train split, in `seconds` each, on one thread.

    `lessons`: where its schedules are kept (by default in the run's folder); runs that name the same file ask only once.
    """

    teacher: Solver | Policy
    lessons: str | None = None
    instances: int = 3072
    seconds: float = 1.0
    epochs: int = 20
    lr: float = 2e-3
    together: int = 32  # schedules replayed at once
    minibatch: int = 512

    def __post_init__(self) -> None:
        check_settings(self, "solver.imitation", {"seconds": ABOVE_0, "lr": ABOVE_0})

    def ask(
        self, instances: Sequence[Instance], setting: Setting, log: Log
    ) -> tuple[dict[int, Schedule], float]:
        """Whole schedules by the teacher, by instance, and the CPU seconds they took; what the file holds is not asked again.

        Raises:
            UserError: where the teacher finds none.
        """
        path, saved = Path(self.lessons) if self.lessons else log.folder / FILE, time.monotonic()
        known, asked = _read(path), instances[: self.instances]
        before = len(known)
        made: dict[int, dict[str, Any]] = {}
        teacher, played = as_solver(self.teacher), played_as(self.teacher, setting)
        getattr(self.teacher, "warm_up", lambda: None)()
        for i, instance in enumerate(asked):
            key = f"{instance.hash()} {setting.objective} {type(self.teacher).__name__} {self.seconds:g}"
            if key not in known:
                known[key] = self._lesson(teacher, instance, played, i)
                if time.monotonic() - saved > SAVE_SECONDS:
                    write_json(path, known)
                    saved = time.monotonic()
            made[i] = known[key]
            log.progress(i + 1, len(asked), "the teacher solves")
        if len(known) > before:
            write_json(path, known)
        schedules = {i: Schedule.from_dict(lesson["schedule"]) for i, lesson in made.items()}
        whole = {
            i: one
            for i, one in schedules.items()
            if len(set(one.task.tolist())) == instances[i].n_tasks
        }
        if not whole:
            raise UserError(
                f"solver.imitation.teacher: no schedule in {self.seconds:g} s; raise solver.imitation.seconds"
            )
        return whole, sum(lesson["cpu_seconds"] for lesson in made.values())

    def _lesson(
        self, teacher: Solver, instance: Instance, setting: Setting, i: int
    ) -> dict[str, Any]:
        began, budget = time.process_time(), Budget(seconds=self.seconds, threads=1)
        result = teacher.solve(instance, setting, budget, np.random.default_rng([0, i]))
        return {"schedule": result.schedule.to_dict(), "cpu_seconds": time.process_time() - began}

    def teach(self, descent: Descent, schedules: Mapping[int, Schedule], log: Log) -> None:
        """Teach the network of `descent` schedules of its training instances."""
        playground = descent.player.simulator
        instances = [playground.instances[i] for i in schedules]
        simulator = TensorSimulator(
            instances,
            playground.setting,
            self.together,
            playground.window,
            playground.tables.shaped,
            device=playground.device,
        )
        lessons, generator = Lessons(list(schedules.values()), simulator), descent.generator
        optimizer = torch.optim.Adam(descent.network.parameters(), lr=self.lr, eps=1e-5)
        steps = self.epochs * max(1, lessons.count // self.together)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = self.lr * (1.0 - 0.95 * step / steps)
            chosen = torch.randint(
                lessons.count, (self.together,), generator=generator, device=generator.device
            )
            lesson = lessons.replay(chosen, descent.network, descent.learner.gamma, generator)
            descent.widen(lesson.target)
            for rows in torch.randperm(
                len(lesson.target), generator=generator, device=generator.device
            ).split(self.minibatch):
                loss = self.loss(descent, lesson.of(rows))
                if not torch.isfinite(loss):
                    raise UserError(
                        f"imitation: the loss became {loss.item()}; lower solver.imitation.lr"
                    )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(
                    descent.network.parameters(), descent.learner.max_grad_norm
                )
                optimizer.step()
            log.progress(step + 1, steps, "learns from the teacher")

    def loss(self, descent: Descent, lesson: Lesson) -> Tensor:
        """-log of the probability of the right actions, and the critic's errors in spreads of the returns."""
        logits, relative = descent.network(lesson.seen)
        told = logits.masked_fill(~lesson.right, -torch.inf).logsumexp(dim=1) - logits.logsumexp(
            dim=1
        )
        error = (relative * lesson.unit - lesson.target) / descent.spread
        return -told.mean() + descent.learner.value_weight * 0.5 * error.square().mean()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Lessons by instance hash and objective: {schedule, cpu_seconds}."""
    try:
        return read_json(path)
    except (FileNotFoundError, InstanceError):
        return {}
