"""Recording of logged datasets: plays a behaviour policy in the simulator, episode by episode."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts import Budget, Dataset, Learner, Policy, Progress, Solver, no_progress
from bench.errors import UserError
from bench.instance import Instance
from bench.logs.episodes import EpisodeRecorder, LoggedEpisodes, concatenate
from bench.logs.replay import ScheduleReplay
from bench.protection import TrainingData, solve_copy
from bench.rollout import setting_of
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator.tables import NO_ACTION
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator

BATCH_SIZE = 256  # episodes played side by side

ActionProbabilities = Callable[[], Tensor]  # of the current decisions: (B, K * M + 1) float64


@dataclass(frozen=True)
class Behaviour:
    """A behaviour policy and the number of its episodes.

    Attributes
    ----------
    policy
        A Policy; or a Solver, whose schedules are replayed (actions that start a task that the
        schedule starts now are equally likely); or a Learner, which is trained on the same dataset
        first.
    episodes
        Number of episodes: one on each instance of the train split, again from the first instance
        where there are more.
    noise
        Probability with which an action is drawn uniformly from the legal ones instead.
    seconds
        Of a Solver: budget for each instance.
    decisions
        Of a Learner: budget of its training.
    replay
        Of a Learner: the log holds the episodes of its training, all of them where `episodes` is 0,
        else those of the first environments that it was trained in.

    Raises
    ------
    UserError
        For a number outside its range.
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


class Recorder:
    """Plays and records episodes on the instances of a dataset's train split.

    Parameters
    ----------
    name
        Name of the log.
    data
        Source of the instances.
    setting
        How the episodes are played.
    seed
        Seed of all random choices.
    progress
        Called after each batch of episodes.
    """

    def __init__(
        self,
        name: str,
        data: Dataset,
        setting: Setting,
        seed: int,
        progress: Progress = no_progress,
    ) -> None:
        self.name = name
        self.data = data
        self.setting = setting
        self.progress = progress
        self.instances = list(data.instances("train"))
        self.rng = np.random.default_rng([seed, 5])
        self.window = max(instance.n_tasks for instance in self.instances)

    def record(self, name: str, behaviour: Behaviour) -> LoggedEpisodes:
        """Return the episodes of a behaviour policy, which the log calls `name`.

        Raises
        ------
        UserError
            Where the behaviour cannot be recorded: a replay of something that does not learn by
            playing or learns from shaped rewards, or a solver without a complete schedule.
        """
        policy = behaviour.policy
        if behaviour.replay:
            log = self._record_training(name, behaviour)
            return log.select(range(len(log.length))[: behaviour.episodes or None])
        if isinstance(policy, Learner):
            policy = self._train(policy, behaviour)
        policy.warm_up()
        parts: list[LoggedEpisodes] = []
        done = 0
        while done < behaviour.episodes:
            numbers = range(done, min(done + BATCH_SIZE, behaviour.episodes))
            chosen = [self.instances[e % len(self.instances)] for e in numbers]
            parts.append(self._play(name, policy, behaviour, chosen))
            done = numbers.stop
            self.progress(f"records {self.name}", done, behaviour.episodes, "")
        return concatenate(self.name, parts)

    def _play(
        self,
        name: str,
        policy: Policy | Solver,
        behaviour: Behaviour,
        instances: Sequence[Instance],
    ) -> LoggedEpisodes:
        """Play one episode on each instance, side by side.

        With probability `behaviour.noise` an action is drawn uniformly from the legal ones.
        """
        simulator = TensorSimulator(instances, self.setting, window=self.window)
        recorder = EpisodeRecorder(name)
        probabilities_of = self._action_probabilities(policy, behaviour, simulator)
        while simulator.playing.any():
            legal = simulator.state.mask.double()
            count = legal.sum(dim=1, keepdim=True).clamp(min=1)
            uniform = behaviour.noise * legal / count
            probability = probabilities_of() * (1.0 - behaviour.noise) + uniform
            draw = torch.from_numpy(self.rng.random((len(probability), 1)))
            reached = probability.cumsum(dim=1) > draw * probability.sum(dim=1, keepdim=True)
            action = reached.float().argmax(dim=1)
            recorder.before_step(simulator, action, probability.gather(1, action[:, None])[:, 0])
            reward = simulator.step(torch.where(simulator.playing, action, NO_ACTION))
            recorder.after_step(reward)
        simulator.check()
        return recorder.episodes(self.name)

    def _action_probabilities(
        self, policy: Policy | Solver, behaviour: Behaviour, simulator: TensorSimulator
    ) -> ActionProbabilities:
        """Return the function that gives the action probabilities of the current decisions."""
        if isinstance(policy, Solver):
            return self._of_solver(policy, behaviour, simulator)
        if policy.draws_actions:
            return self._of_random_policy(policy, simulator)
        return self._of_deterministic_policy(policy, simulator)

    def _of_solver(
        self, solver: Solver, behaviour: Behaviour, simulator: TensorSimulator
    ) -> ActionProbabilities:
        """Make the actions that follow the solver's schedules now equally likely."""
        schedules = [self._solve(solver, behaviour, one) for one in simulator.instances]
        replay = ScheduleReplay(schedules, simulator)

        def probabilities() -> Tensor:
            actions = replay.with_fallback(replay.scheduled_actions()).double()
            return actions / actions.sum(dim=1, keepdim=True).clamp(min=1)

        return probabilities

    def _of_random_policy(self, policy: Policy, simulator: TensorSimulator) -> ActionProbabilities:
        """Use the distribution of a policy that draws its actions."""
        policy.reset()

        def probabilities() -> Tensor:
            distribution = policy.distribution(from_simulator(simulator))
            assert distribution is not None, f"{type(policy).__name__}.distribution returned None"
            return distribution.double()

        return probabilities

    def _of_deterministic_policy(
        self, policy: Policy, simulator: TensorSimulator
    ) -> ActionProbabilities:
        """Give probability 1 to the action that a deterministic policy takes."""
        # one copy per episode, because a policy that plans keeps its plan between decisions
        policies = [copy.deepcopy(policy) for _ in simulator.instances]
        for one in policies:
            one.reset()

        def probabilities() -> Tensor:
            probability = torch.zeros(simulator.state.mask.shape, dtype=torch.float64)
            host = simulator.host()
            for b in simulator.playing.nonzero().flatten().tolist():
                observation = host.observation(b)
                action = policies[b].act(observation, self.rng)
                probability[b, host.flat(action, observation)] = 1.0
            return probability

        return probabilities

    def _solve(self, solver: Solver, behaviour: Behaviour, instance: Instance) -> Schedule:
        budget = Budget(seconds=behaviour.seconds, threads=1)
        setting = setting_of(solver, self.setting)
        name = f"the solver of logs {self.name}"
        result = solve_copy(solver, instance, setting, budget, self.rng, name)
        if len(set(result.schedule.task.tolist())) < instance.n_tasks:
            raise UserError(
                f"logs.behaviours: no complete schedule of {instance.name} in "
                f"{behaviour.seconds:g} s; raise seconds"
            )
        return result.schedule

    def _record_training(self, name: str, behaviour: Behaviour) -> LoggedEpisodes:
        """Return the episodes that a learner was trained on."""
        learner = behaviour.policy
        if not isinstance(learner, Learner):
            raise UserError(
                f"logs.behaviours.{name}: {type(learner).__name__} does not learn, and replay "
                "records a training; set replay=false"
            )
        if learner.shaped:
            raise UserError(
                "logs: the rewards of a replay are those that its learner was trained on; set "
                f"policy.shaped=false for {self.name}"
            )
        recorder = EpisodeRecorder(name)
        learner = copy.copy(learner)  # the settings of the configured learner are hashed later
        learner.record_episodes(recorder)
        self._train(learner, behaviour)
        return recorder.episodes(self.name)

    def _train(self, learner: Learner, behaviour: Behaviour) -> Policy | Solver:
        """Return the policy of a learner that is trained on the dataset."""
        budget = Budget(decisions=behaviour.decisions)
        with tempfile.TemporaryDirectory() as folder:
            logger = _ProgressLogger(Path(folder), self.progress, f"trains for {self.name}")
            data = TrainingData(self.data, f"the learner of logs {self.name}")
            policy = learner.fit(data, self.setting, budget, self.rng, logger)
            data.check()
            return policy


class _ProgressLogger:
    """A training logger that only reports progress."""

    def __init__(self, folder: Path, progress: Progress, label: str) -> None:
        self.folder = folder
        self._progress = progress
        self._label = label

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Ignore step metrics."""

    def summary(self, facts: Mapping[str, Any]) -> None:
        """Ignore facts about the training."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Report progress under the label of this logger."""
        self._progress(self._label, done, total, "")
