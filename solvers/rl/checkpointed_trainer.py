"""A training that validates its policy, is resumed after an interruption, and counts its cost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.contracts import Budget, Dataset, TrainingLogger
from bench.instance import Instance
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from solvers.networks.base import Network
from solvers.networks.checkpoint import resume_checkpoint, save_checkpoint
from solvers.rl.data_parallel import TrainerFactory, WorkerProcesses
from solvers.rl.imitation import Imitation
from solvers.rl.instance_pool import InstancePool
from solvers.rl.learning_cost import LearningCost
from solvers.rl.rollouts import play_greedily
from solvers.rl.trainer import OnPolicyAlgorithm, Trainer


class ValidatedLearner(OnPolicyAlgorithm, TrainerFactory, Protocol):
    """What a `CheckpointedTrainer` needs of a learner."""

    ema_decay: float
    validate_every: int
    save_seconds: float
    episodes_per_instance: float

    def environments(
        self, instances: list[Instance], setting: Setting, device: torch.device
    ) -> TensorSimulator:
        """Return the training environments."""

    def new_network(self, simulator: TensorSimulator) -> Network:
        """Return the network to train."""

    def window_for(self, instances: list[Instance]) -> int:
        """Return the number of tasks that observations of these instances show."""


# key in training.pt -> attribute of `CheckpointedTrainer`. The keys are those of earlier versions,
# so that their checkpoints can be resumed.
STATE = {
    "decisions": "decisions",
    "iteration": "iteration",
    "taught": "pretrained",
    "spread": "return_std",
    "best": "best_return",
    "best_network": "best_weights",
}


class CheckpointedTrainer(Trainer):
    """A trainer that also keeps the EMA of the weights, validates it, and saves checkpoints.

    Parameters
    ----------
    learner
        The algorithm and its settings.
    data
        The dataset, which may have an endless train split.
    train, validation
        Instances of the two splits.
    setting, budget
        Of the run.
    rng
        Seeds the training.
    device
        Of the network and the environments.
    path
        The checkpoint file. If it exists, the training is resumed from it.
    processes
        In how many processes to train; `learner` has the settings of one of them.
    """

    learner: ValidatedLearner

    def __init__(
        self,
        learner: ValidatedLearner,
        data: Dataset,
        train: list[Instance],
        validation: list[Instance],
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        device: torch.device,
        path: Path,
        processes: int = 1,
    ) -> None:
        seed = int(rng.integers(2**62))
        torch.manual_seed(int(rng.integers(2**62)))
        simulator = learner.environments(train, setting, device)
        network = learner.new_network(simulator)
        super().__init__(learner, network, simulator, seed, int(budget.decisions))
        self.data = data
        self.path = path
        self.processes = processes
        self.worker_states: list[dict[str, Any]] = []  # when the training was interrupted
        decay = get_ema_multi_avg_fn(learner.ema_decay)
        self.ema = AveragedModel(self.network, multi_avg_fn=decay)
        self.eval_envs = TensorSimulator(
            validation, setting, window=learner.window_for(validation), device=device
        )
        self.learning_cost = LearningCost(validation, setting)
        if data.endless:
            self.pool = InstancePool(data, simulator, learner.episodes_per_instance)
        self.iteration = 0
        self.pretrained = False
        self.saved = time.monotonic()
        self.best_return = -math.inf
        self.best_weights = self._copy_weights()
        resume_checkpoint(self.path, self._state(), self._restore)

    def pretrain(self, imitation: Imitation, logger: TrainingLogger) -> None:
        """Pretrain by behavioural cloning; the teacher's time counts as training time."""
        instances = self.collector.simulator.instances
        schedules, spent = imitation.collect_demonstrations(
            instances, self.eval_envs.setting, logger
        )
        self.learning_cost.cpu_seconds += spent
        self.learning_cost.seconds += spent
        with self.learning_cost.measure():
            imitation.clone(self, schedules, logger)
        self.pretrained = True
        self.ema.module.load_state_dict(self.network.state_dict())
        logger.metrics(0, self.validation_metrics())
        self.save()

    def train_iteration(self) -> dict[str, float]:
        """Collect, update and return the metrics to log; the time counts as training time."""
        with self.learning_cost.measure():
            values = super().train_iteration()
        self.learning_cost.cpu_seconds += self.cpu_seconds_of_others
        return values

    @contextmanager
    def all_processes(self, train: Sequence[Instance]) -> Iterator[None]:
        """Inside the context, further processes train with this one, if there are to be several."""
        if self.processes == 1:
            yield
            return
        data = self.data if self.data.endless else None
        setting = self.collector.simulator.setting
        if self.pool is not None:
            self.pool.take_turns(0, self.processes)
        with WorkerProcesses(
            self, self.learner, self.processes, train, setting, data, self.worker_states
        ):
            yield

    def end_iteration(
        self, values: dict[str, float], logger: TrainingLogger, iterations: float = 1.0
    ) -> None:
        """Update the EMA, log, and now and then validate and save.

        Parameters
        ----------
        values
            The metrics of the iteration.
        logger
            Where they are logged.
        iterations
            How many iterations this call ends: A3C observes the shared weights only now and then.
            The EMA moves as far as that many updates with the same weights would move it.
        """
        self.ema.multi_avg_fn = get_ema_multi_avg_fn(self.learner.ema_decay**iterations)
        self.ema.update_parameters(self.network)
        self.iteration += 1
        due = self.iteration % self.learner.validate_every == 0
        if due or self.done or self.iteration == 1:
            values = values | self.validation_metrics()
        logger.metrics(self.decisions, values)
        done = min(self.decisions, self.total_decisions)
        logger.progress(done, self.total_decisions, f"validation {self.best_return:.4f}")
        if time.monotonic() - self.saved > self.learner.save_seconds or self.done:
            self.save()

    def validation_metrics(self) -> dict[str, float]:
        """Validate and return the metrics to log: the return, and what training cost until now."""
        return {
            "validation/return": self.validate(),
            "learning/cpu_seconds": self.learning_cost.cpu_seconds,
            "learning/seconds": self.learning_cost.seconds,
        }

    def validate(self) -> float:
        """Return the mean greedy return of the EMA on the validation split; keep the best one."""
        result = float(play_greedily(cast(Network, self.ema.module), self.eval_envs).mean())
        self.learning_cost.record_validation(self.decisions, -result)
        if result > self.best_return:
            self.best_return = result
            self.best_weights = self._copy_weights()
        return result

    def _copy_weights(self) -> dict[str, Tensor]:
        weights = self.ema.module.state_dict()
        return {name: tensor.detach().clone() for name, tensor in weights.items()}

    # -- checkpoints -------------------------------------------------------------------------------

    def save(self) -> None:
        """Write all state of the training, so that a resumed one ends with the same network."""
        save_checkpoint(self.path, self._state())
        self.saved = time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            **{key: getattr(self, name) for key, name in STATE.items()},
            **self.episode_state(),
            "network": self.network.state_dict(),
            "critic": None if self.critic is None else self.critic.state_dict(),
            "average": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "price": self.learning_cost.state(),
            "workers": self._states_of_workers(),
        }

    def _states_of_workers(self) -> list[dict[str, Any]]:
        """Return the states of the episodes of the other processes."""
        if self.workers is not None:
            self.worker_states = self.workers.states()
        return self.worker_states

    def _restore(self, state: dict[str, Any]) -> None:
        """Continue from a state that `_state` returned."""
        self.network.load_state_dict(state["network"])
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])
        self.ema.load_state_dict(state["average"])
        self.restore_optimizer(state["optimizer"])
        self.learning_cost.restore(state["price"])
        self.restore_episodes(state)
        workers = state.get("workers", [])  # earlier versions had none
        self.worker_states = workers if len(workers) == self.processes - 1 else []
        for key, name in STATE.items():
            setattr(self, name, state[key])
