"""What learners that train a network in the simulator share: settings, validation, checkpoints.

A learner adds how it collects rollouts and how it updates (`solvers.ppo`, `solvers.a2c`,
`solvers.reinforce`); `solvers.a3c` has a training loop of its own. The policy that is validated and
kept is an exponential moving average (EMA) of the weights (Polyak & Juditsky 1992,
doi:10.1137/0330046).
"""

from __future__ import annotations

import copy
import math
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import nn

from bench.contracts import Budget, Dataset, Learner, Policy, Solver, TrainingLogger
from bench.errors import UserError
from bench.instance import Instance
from bench.logs.episodes import EpisodeRecorder
from bench.setting import Setting
from bench.simulator import ends_are_certain
from bench.simulator.tensors import TensorSimulator
from solvers.networks.base import Network
from solvers.networks.policy import NetworkPolicy, choose_device, deployed_policy, load_policy
from solvers.networks.registry import network_kinds, trainable_kinds
from solvers.rl.checkpointed_trainer import CheckpointedTrainer
from solvers.rl.data_parallel import WorkerProcesses
from solvers.rl.decoding import DECODINGS, DecodingPlanner
from solvers.rl.imitation import Imitation
from solvers.rl.instance_pool import InstancePool
from solvers.rl.lookahead import LOOKAHEAD, LookaheadPolicy
from solvers.rl.settings import ABOVE_0, AT_LEAST_0, SHARE, check_choice, check_settings
from solvers.rl.trainer import Experience, Trainer

RANGES = {
    **dict.fromkeys(("temperature", "sampling_temperature"), ABOVE_0),
    **dict.fromkeys(("lr", "max_grad_norm", "clip", "clip_value"), ABOVE_0),
    **dict.fromkeys(("episodes_per_instance", "max_seconds"), ABOVE_0),
    **dict.fromkeys(("entropy", "value_weight", "save_seconds", "max_kl"), AT_LEAST_0),
    **dict.fromkeys(("moves_per_task",), AT_LEAST_0),
    **dict.fromkeys(("gamma", "gae_lambda", "ema_decay", "completions"), SHARE),
}
LEAST_DECISIONS = 100_000  # a shorter training runs in one process


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
    threads: int | None = None
    cuda_graphs: bool = False

    # settings that recorded logs were made without: with their defaults they change no hash of one
    hash_exempt: ClassVar[tuple[str, ...]] = ("episodes_per_instance", "max_seconds", "cuda_graphs")
    uses_rules = True  # the training cost compares with them
    recorder: ClassVar[EpisodeRecorder | None] = None  # set on an instance by `record_episodes`

    def __post_init__(self) -> None:
        choose_device(self.device)
        check_settings(self, "solver", RANGES)
        check_choice("solver.decoding", self.decoding, (*DECODINGS, LOOKAHEAD))
        if self.cuda_graphs and self.network != "pairs":
            raise UserError(
                f"solver.cuda_graphs: value true: not for solver.network={self.network}; set false"
            )
        check_choice("solver.network", self.network, trainable_kinds())
        if self.critic_is_used_by and self.critic_is_left_out_by:
            raise UserError(
                f"{self.critic_is_left_out_by}: trains no critic in the policy's own network, "
                f"which {self.critic_is_used_by} needs; set another value, or do without "
                f"{self.critic_is_used_by}"
            )

    def record_episodes(self, recorder: EpisodeRecorder) -> None:
        """Record all episodes that the training plays (by `RolloutCollector.collect`)."""
        vars(self)["recorder"] = recorder

    def hashed_settings(self) -> dict[str, Any]:
        """Return the settings that decide what the learner computes."""
        settings = super().hashed_settings()
        defaults = [x for x in self.hash_exempt if settings[x] == getattr(type(self), x)]
        kept = {name: value for name, value in settings.items() if name not in defaults}
        # recorded logs were made when one thread was the default; recording takes one process still
        return kept | ({"threads": 1} if self.threads is None else {})

    def process_count(self, budget: Budget, device: torch.device) -> int:
        """Return in how many processes to train; short trainings are over before others begin."""
        alone = device.type == "cuda" or self.recorder is not None
        if alone or budget.decisions < LEAST_DECISIONS:
            return 1
        allowed = int(budget.threads)
        most = allowed if self.threads is None else min(self.threads, allowed)
        return next(n for n in range(most, 0, -1) if n == 1 or self.share(n) is not None)

    def share(self, processes: int) -> Self | None:
        """Return the settings of one of several processes; None: the work cannot be shared so."""
        if self.num_envs % processes:
            return None
        return replace(self, num_envs=self.num_envs // processes)

    # -- what a learner defines --------------------------------------------------------------------

    @property
    def critic_is_left_out_by(self) -> str | None:
        """Option and value that leave the policy's own critic untrained; None: it is trained."""
        return "solver.value_weight: value 0" if self.value_weight == 0 else None

    @property
    def critic_is_used_by(self) -> str | None:
        """What decides by the policy's own critic once it is trained; None: nothing does."""
        return "solver.decoding=beam" if self.decoding == "beam" else None

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a new optimizer of `parameters`; `fused` updates all of them in one call."""
        if not self.cuda_graphs or choose_device(self.device).type == "cpu":
            return torch.optim.Adam(parameters, lr=self.lr, eps=1e-5, fused=True)
        lr = torch.tensor(self.lr, device="cuda")
        return torch.optim.Adam(parameters, lr=lr, eps=1e-5, fused=True, capturable=True)

    def check_setting(self, setting: Setting) -> None:
        """Raise UserError for options that mean nothing under the setting of a run."""
        if self.decoding == LOOKAHEAD and (setting.observe == "all" or setting.track == "assign"):
            raise UserError(
                "solver.decoding: value lookahead: is for decisions that do not know the future "
                "(track=online); set sample"
            )

    def new_critic(self, network: Network) -> Network | None:
        """Return a critic that is trained beside the network; None: the network predicts."""
        return None

    def begin(self, trainer: Trainer) -> None:
        """Set the `memory` of a new trainer, if the algorithm keeps one."""

    @abstractmethod
    def collect(self, trainer: Trainer) -> Experience:
        """Return what one training iteration learns from."""

    @abstractmethod
    def update(self, trainer: Trainer, experience: Any) -> dict[str, float]:
        """Change the network by what `collect` returned; return the metrics to log."""

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
        self.check_setting(setting)
        torch.set_num_threads(1)  # processes use further cores
        device = choose_device(self.device)
        if self.checkpoint is not None:
            policy = deployed_policy(self.checkpoint, device, logger)
            plays_greedily = self.decoding == "beam" and setting.observe != "all"
            if self.critic_is_used_by and not plays_greedily and not policy.predicts_returns:
                raise UserError(
                    f"solver.checkpoint: value {self.checkpoint}: its training trained no critic "
                    f"in the policy's own network, which {self.critic_is_used_by} needs; give a "
                    "policy of ppo"
                )
        else:
            policy = self.train(data, setting, budget, rng, logger, device)
        if self.decoding == LOOKAHEAD:
            return LookaheadPolicy(policy, setting, self.rollouts, self.temperature)
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
        processes = self.process_count(budget, device)
        learner = self if processes == 1 else cast(Self, self.share(processes))
        trainer = CheckpointedTrainer(
            learner, data, train, validation, setting, budget, rng, device, path, processes
        )
        if self.imitation is not None and not trainer.pretrained:
            trainer.pretrain(self.imitation, logger)
        self.learn(trainer, train, logger)
        facts = trainer.learning_cost.summary(trainer.eval_envs.scale.tolist())
        facts["learning/decisions"] = trainer.decisions
        logger.summary(facts)
        trainer.network.load_state_dict(trainer.best_weights)
        shaped = bool(trainer.collector.simulator.tables.shaped)
        network = copy.deepcopy(trainer.network)  # its weights are no views of one tensor
        predicts_returns = self._predicts_returns(network, device)
        policy = NetworkPolicy(network, self.window, device, shaped, facts, predicts_returns)
        policy.save(logger.folder / "policy.pt")
        return policy

    def _predicts_returns(self, network: Network, device: torch.device) -> bool:
        """Return whether the critic in the trained network is trained.

        Where no policy was better than that of `init_policy`, it is the latter's critic.
        """
        if self.init_policy is not None:
            first = load_policy(self.init_policy, device)
            weights = first.network.state_dict()
            if all(torch.equal(weights[name], x) for name, x in network.state_dict().items()):
                return first.predicts_returns
        return self.critic_is_left_out_by is None

    def trainer(
        self,
        instances: list[Instance],
        setting: Setting,
        seed: int = 0,
        decisions: int = 10**9,
        data: Dataset | None = None,
    ) -> Trainer:
        """Return a trainer of a new network without validation and checkpoints.

        With the data set of an endless train split it renews its instances.
        """
        simulator = self.environments(instances, setting, choose_device(self.device))
        torch.manual_seed(seed)
        trainer = Trainer(self, self.new_network(simulator), simulator, seed, decisions)
        if data is not None:
            trainer.pool = InstancePool(data, simulator, self.episodes_per_instance)
        return trainer

    @contextmanager
    def trainer_in_processes(
        self, count: int, instances: list[Instance], setting: Setting
    ) -> Iterator[Trainer]:
        """Return a trainer like that of `trainer`, which trains in several processes."""
        share = self.share(count)
        if share is None:
            raise UserError(f"solver.num_envs: cannot be shared by {count} processes")
        trainer = share.trainer(instances, setting)
        with WorkerProcesses(trainer, share, count, instances, setting):
            yield trainer

    def learn(
        self, trainer: CheckpointedTrainer, train: list[Instance], logger: TrainingLogger
    ) -> None:
        """Run training iterations until the budget, or `max_seconds`, is spent."""
        if self.init_policy is not None and trainer.decisions == 0:
            logger.metrics(0, trainer.validation_metrics())  # it may be the best one already
        until = math.inf if self.max_seconds is None else time.monotonic() + self.max_seconds
        with trainer.all_processes(train):
            while not trainer.done and time.monotonic() < until:
                trainer.end_iteration(trainer.train_iteration(), logger)
            if not trainer.done:
                trainer.save()

    # -- what a training begins with ---------------------------------------------------------------

    def new_network(self, simulator: TensorSimulator) -> Network:
        """Return the network to train: a new one by the settings, or that of `init_policy`."""
        if self.init_policy is not None:
            trained = load_policy(self.init_policy, simulator.device).network
            if trained.has_memory:
                raise UserError(
                    f"solver.init_policy: value {self.init_policy}: decides by its earlier "
                    "decisions, which this learner cannot train; give another policy"
                )
            return trained.train()
        network = network_kinds()[self.network].for_simulator(
            simulator, self.width, self.message_passing_rounds
        )
        return network.to(simulator.device)

    def environments(
        self, instances: list[Instance], setting: Setting, device: torch.device
    ) -> TensorSimulator:
        """Return the training environments.

        Rewards are shaped (paid at assignment) only where the end of every task is known when it
        starts.
        """
        shaped = self.shaped and all(ends_are_certain(instance) for instance in instances)
        window = self.window_for(instances)
        return TensorSimulator(instances, setting, self.num_envs, window, shaped, device=device)

    def window_for(self, instances: list[Instance]) -> int:
        """Return K, the number of tasks that observations of these instances show."""
        return min(self.window, max(instance.n_tasks for instance in instances))
