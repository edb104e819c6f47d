"""What learners that train a network in the simulator share: settings, validation, checkpoints.

A learner adds how it collects rollouts and how it updates (`solvers.ppo`, `solvers.a2c`,
`solvers.reinforce`); `solvers.a3c` has a training loop of its own. The policy that is validated and
kept is an exponential moving average (EMA) of the weights (Polyak & Juditsky 1992,
doi:10.1137/0330046).
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.contracts import Budget, Dataset, Learner, Policy, Solver, TrainingLogger
from bench.errors import UserError
from bench.instance import Instance
from bench.logs.episodes import EpisodeRecorder
from bench.setting import Setting
from bench.simulator import ends_are_certain
from bench.simulator.tensors import TensorSimulator
from solvers.networks.base import Network
from solvers.networks.checkpoint import resume_checkpoint, save_checkpoint
from solvers.networks.policy import NetworkPolicy, choose_device, deployed_policy, load_policy
from solvers.networks.registry import network_kinds, trainable_kinds
from solvers.rl.decoding import DECODINGS, DecodingPlanner
from solvers.rl.imitation import Imitation
from solvers.rl.instance_pool import InstancePool
from solvers.rl.learning_cost import LearningCost
from solvers.rl.rollouts import Rollout, play_greedily
from solvers.rl.settings import ABOVE_0, AT_LEAST_0, SHARE, check_settings
from solvers.rl.trainer import Trainer

RANGES = {
    **dict.fromkeys(("temperature", "lr", "max_grad_norm", "clip", "clip_value"), ABOVE_0),
    **dict.fromkeys(("episodes_per_instance", "max_seconds"), ABOVE_0),
    **dict.fromkeys(("entropy", "value_weight", "save_seconds", "max_kl"), AT_LEAST_0),
    **dict.fromkeys(("gamma", "gae_lambda", "ema_decay"), SHARE),
}
# settings that are younger than recorded logs: with their defaults they change no hash of one
YOUNG = ("episodes_per_instance", "max_seconds")


@dataclass(kw_only=True)
class NetworkLearner(Learner):
    """A learner that trains a network in the simulator, and the settings of every such learner.

    `conf/learner/network.yaml` describes each setting.

    Raises
    ------
    UserError
        For a setting outside its range, a checkpoint that cannot be read, `device=cuda` without
        CUDA, or a loss that is not finite.
    """

    device: str = "auto"
    checkpoint: str | None = None
    init_policy: str | None = None
    imitation: Imitation | None = None
    decoding: str = "greedy"
    rollouts: int = 1
    temperature: float = 1.0
    network: str = "pairs"
    width: int = 32
    message_passing_rounds: int = 2
    window: int = 64
    num_envs: int = 256
    episodes_per_instance: float = 8.0
    lr: float = 1e-3
    shaped: bool = True
    gamma: float = 1.0
    entropy: float = 0.005
    value_weight: float = 0.5
    max_grad_norm: float = 0.5
    ema_decay: float = 0.9
    validate_every: int = 5
    save_seconds: float = 15.0
    max_seconds: float | None = None
    threads: int = 1

    uses_rules = True  # the training cost compares with them
    recorder: ClassVar[EpisodeRecorder | None] = None  # set on an instance by `record_episodes`

    def __post_init__(self) -> None:
        choose_device(self.device)
        check_settings(self, "solver", RANGES)
        if self.decoding not in DECODINGS:
            raise UserError(
                f"solver.decoding: value {self.decoding!r}: must be one of {', '.join(DECODINGS)}"
            )
        if self.network not in (kinds := trainable_kinds()):
            raise UserError(
                f"solver.network: value {self.network!r}: must be one of {', '.join(kinds)}"
            )

    def record_episodes(self, recorder: EpisodeRecorder) -> None:
        """Record all episodes that the training plays (by `RolloutCollector.collect`)."""
        vars(self)["recorder"] = recorder

    def hashed_settings(self) -> dict[str, Any]:
        """Return the settings that decide what the learner computes."""
        settings = super().hashed_settings()
        defaults = [name for name in YOUNG if settings[name] == getattr(type(self), name)]
        return {name: value for name, value in settings.items() if name not in defaults}

    # -- what a learner defines --------------------------------------------------------------------

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a new optimizer of `parameters`; `fused` updates all of them in one call."""
        return torch.optim.Adam(parameters, lr=self.lr, eps=1e-5, fused=True)

    @abstractmethod
    def collect(self, trainer: Trainer) -> Rollout:
        """Return the decisions of one training iteration."""

    @abstractmethod
    def update(self, trainer: Trainer, rollout: Rollout) -> dict[str, float]:
        """Change the network by what `rollout` holds; return the metrics to log."""

    # -- the contract ------------------------------------------------------------------------------

    def fit(
        self,
        data: Dataset,
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        logger: TrainingLogger,
    ) -> Policy | Solver:
        """Train for `budget.decisions`; return the policy that was best on the validation split.

        With `checkpoint` nothing is trained, and the training cost is that of the checkpoint; with
        `init_policy` training begins with that policy.
        An interrupted run resumes from its last checkpoint in `logger.folder`, on the CPU to the
        same network. Where the future is known, the result plans with the policy (`decoding`).
        """
        torch.set_num_threads(min(self.threads, int(budget.threads)))
        device = choose_device(self.device)
        if self.checkpoint is not None:
            policy = deployed_policy(self.checkpoint, device, logger)
        else:
            policy = self.train(data, setting, budget, rng, logger, device)
        if self.decoding == "greedy" or setting.observe != "all":
            return policy
        return DecodingPlanner(policy, self.decoding, self.rollouts, self.temperature)

    def train(
        self,
        data: Dataset,
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        logger: TrainingLogger,
        device: torch.device,
    ) -> NetworkPolicy:
        """Run a new training, or resume an interrupted one; save the best policy to `policy.pt`."""
        train, validation = (list(data.instances(split)) for split in ("train", "validation"))
        if not train or not validation:
            raise UserError(
                "dataset: learning needs a train and a validation split, and one of them is empty"
            )
        path = logger.folder / "training.pt"
        trainer = CheckpointedTrainer(
            self, data, train, validation, setting, budget, rng, device, path
        )
        if self.imitation is not None and not trainer.pretrained:
            trainer.pretrain(self.imitation, logger)
        self.learn(trainer, train, logger)
        facts = trainer.learning_cost.summary(trainer.eval_envs.scale.tolist())
        facts["learning/decisions"] = trainer.decisions
        logger.summary(facts)
        trainer.network.load_state_dict(trainer.best_weights)
        shaped = bool(trainer.collector.simulator.tables.shaped)
        policy = NetworkPolicy(trainer.network, self.window, device, shaped, facts)
        policy.save(logger.folder / "policy.pt")
        return policy

    def trainer(
        self, instances: list[Instance], setting: Setting, seed: int = 0, decisions: int = 10**9
    ) -> Trainer:
        """Return a trainer of a new network without validation and checkpoints."""
        simulator = simulator_for(self, instances, setting, choose_device(self.device))
        torch.manual_seed(seed)
        return Trainer(self, new_network(self, simulator), simulator, seed, decisions)

    def learn(
        self, trainer: CheckpointedTrainer, train: list[Instance], logger: TrainingLogger
    ) -> None:
        """Run training iterations until the budget, or `max_seconds`, is spent."""
        if self.init_policy is not None and trainer.decisions == 0:
            trainer.validate()  # it may beat the rules before any training
        until = math.inf if self.max_seconds is None else time.monotonic() + self.max_seconds
        while not trainer.done and time.monotonic() < until:
            trainer.end_iteration(trainer.train_iteration(), logger)
        if not trainer.done:
            trainer.save()


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
    """

    learner: NetworkLearner

    def __init__(
        self,
        learner: NetworkLearner,
        data: Dataset,
        train: list[Instance],
        validation: list[Instance],
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        device: torch.device,
        path: Path,
    ) -> None:
        seed = int(rng.integers(2**62))
        torch.manual_seed(int(rng.integers(2**62)))
        simulator = simulator_for(learner, train, setting, device)
        network = new_network(learner, simulator)
        super().__init__(learner, network, simulator, seed, int(budget.decisions))
        self.path = path
        decay = get_ema_multi_avg_fn(learner.ema_decay)
        self.ema = AveragedModel(self.network, multi_avg_fn=decay)
        self.eval_envs = TensorSimulator(
            validation, setting, window=_window(learner, validation), device=device
        )
        self.learning_cost = LearningCost(validation, setting)
        self.pool = None
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
        logger.metrics(0, {"validation/return": self.validate()})
        self.save()

    def train_iteration(self) -> dict[str, float]:
        """Collect, update and return the metrics to log; the time counts as training time."""
        with self.learning_cost.measure():
            values = super().train_iteration()
            if self.pool is not None:
                self.pool.renew(values["charts/episodes"])
            return values

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
            values = values | {"validation/return": self.validate()}
        logger.metrics(self.decisions, values)
        done = min(self.decisions, self.total_decisions)
        logger.progress(done, self.total_decisions, f"validation {self.best_return:.4f}")
        if time.monotonic() - self.saved > self.learner.save_seconds or self.done:
            self.save()

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
            "network": self.network.state_dict(),
            "average": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "price": self.learning_cost.state(),
            "environments": self._environments(),
            "pool": None if self.pool is None else self.pool.state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Continue from a state that `_state` returned."""
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.learning_cost.restore(state["price"])
        if self.pool is not None:
            self.pool.restore(state["pool"])
        if state["environments"]:  # else new episodes begin
            for tensor, saved in zip(self._environments(), state["environments"], strict=True):
                tensor.copy_(saved)
        for key, name in STATE.items():
            setattr(self, name, state[key])

    def _environments(self) -> list[Any]:
        """Return the tensors that hold the state of the training environments."""
        return [self.collector.returns_so_far, *self.collector.simulator.state]


def new_network(learner: NetworkLearner, simulator: TensorSimulator) -> Network:
    """Return the network to train: a new one by the settings, or that of `init_policy`."""
    if learner.init_policy is not None:
        trained = load_policy(learner.init_policy, simulator.device).network
        if trained.has_memory:
            raise UserError(
                f"solver.init_policy: value {learner.init_policy}: decides by its earlier "
                "decisions, which this learner cannot train; give another policy"
            )
        return trained.train()
    network = network_kinds()[learner.network].for_simulator(
        simulator, learner.width, learner.message_passing_rounds
    )
    return network.to(simulator.device)


def simulator_for(
    learner: NetworkLearner, instances: list[Instance], setting: Setting, device: torch.device
) -> TensorSimulator:
    """Return the training environments.

    Rewards are shaped (paid at assignment) only where the end of every task is known when it
    starts.
    """
    shaped = learner.shaped and all(ends_are_certain(instance) for instance in instances)
    return TensorSimulator(
        instances, setting, learner.num_envs, _window(learner, instances), shaped, device=device
    )


def _window(learner: NetworkLearner, instances: list[Instance]) -> int:
    return min(learner.window, max(instance.n_tasks for instance in instances))
