"""What learners that train a network by playing share: the loop, validation, the price of learning, checkpoints.

A learner adds how it plays and how it updates (`solvers.ppo`, `solvers.a2c`, `solvers.reinforce`); `solvers.a3c` has a loop
of its own. The policy that is validated and kept is a running average of the networks (Polyak & Juditsky 1992).
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.contracts import Budget, Dataset, Log, Policy, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.logs.episodes import Tape
from bench.setting import Setting
from bench.simulator import knows_ends
from bench.simulator.tensors import TensorSimulator
from solvers.networks.mlp import FlatNetwork
from solvers.networks.pairwise import Network, PairNetwork
from solvers.networks.policy import NetworkPolicy, choose_device, load_policy, save_atomically
from solvers.rl.decoding import DECODINGS, Planner
from solvers.rl.imitation import Imitation
from solvers.rl.learning_cost import Price
from solvers.rl.rollouts import Player, Rollout, play_greedily
from solvers.rl.settings import ABOVE_0, AT_LEAST_0, SHARE, check_settings

TRAINED = ("pairs", "mlp")  # the networks that learn by playing; policies from logs may have others
RANGES = {
    **dict.fromkeys(("temperature", "lr", "max_grad_norm", "clip", "clip_value"), ABOVE_0),
    **dict.fromkeys(("entropy", "value_weight", "save_seconds", "max_kl"), AT_LEAST_0),
    **dict.fromkeys(("gamma", "lam", "averaging"), SHARE),
}


@dataclass(kw_only=True)
class NetworkLearner(ABC):
    """Settings that every learner of this kind has; `conf/learner/network.yaml` says what each one means.

    Raises:
        UserError: for a setting that means nothing, a checkpoint that cannot be read, `device=cuda` without CUDA, or a loss
            that is not finite.
    """

    device: str = "auto"
    checkpoint: str | None = None
    start: str | None = None
    imitation: Imitation | None = None
    decoding: str = "greedy"
    rollouts: int = 1
    temperature: float = 1.0
    network: str = "pairs"
    width: int = 32
    rounds: int = 2
    window: int = 64
    envs: int = 256
    lr: float = 1e-3
    shaped: bool = True
    gamma: float = 1.0
    entropy: float = 0.005
    value_weight: float = 0.5
    max_grad_norm: float = 0.5
    averaging: float = 0.9
    validate_every: int = 5
    save_seconds: float = 15.0
    threads: int = 1

    tape: ClassVar[Tape | None] = None  # records what is played to learn from, see `remember`

    def __post_init__(self) -> None:
        choose_device(self.device)
        check_settings(self, "solver", RANGES)
        if self.decoding not in DECODINGS:
            raise UserError(
                f"solver.decoding: {self.decoding!r} must be one of {', '.join(DECODINGS)}"
            )
        if self.network not in TRAINED:
            raise UserError(f"solver.network: {self.network!r} must be one of {', '.join(TRAINED)}")

    def remember(self, tape: Tape) -> None:
        """Record all that the training plays (by `Player.collect`) on `tape`."""
        vars(self)["tape"] = tape

    # -- what a learner defines ------------------------------------------------------------------------------------

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """What descends."""
        return torch.optim.Adam(
            parameters, lr=self.lr, eps=1e-5, fused=True
        )  # all weights in one call

    @abstractmethod
    def play(self, training: Descent) -> Rollout:
        """The decisions to learn from in one iteration."""

    @abstractmethod
    def update(self, training: Descent, rollout: Rollout) -> dict[str, float]:
        """Change the network; returns what is worth logging."""

    # -- the contract ----------------------------------------------------------------------------------------------

    def fit(
        self, data: Dataset, setting: Setting, budget: Budget, rng: np.random.Generator, log: Log
    ) -> Policy | Solver:
        """Train for `budget.decisions` and keep the network that did best on the validation split.

        With `checkpoint` nothing is trained; with `start` training begins from that policy. A killed run continues from
        `log.folder`, on the CPU to the same network. Where the future is known, `decoding` plans with the policy.
        """
        torch.set_num_threads(min(self.threads, int(budget.threads)))
        device = choose_device(self.device)
        if self.checkpoint is not None:
            policy = load_policy(self.checkpoint, device)
        else:
            policy = self.train(data, setting, budget, rng, log, device)
        if self.decoding == "greedy" or setting.observe != "all":
            return policy
        return Planner(policy, self.decoding, self.rollouts, self.temperature)

    def train(
        self,
        data: Dataset,
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        log: Log,
        device: torch.device,
    ) -> NetworkPolicy:
        """A new training, or the one that was interrupted, to its end; the best network goes to `policy.pt`."""
        train, validation = (list(data.instances(split)) for split in ("train", "validation"))
        if not train or not validation:
            raise UserError(
                "dataset: learning needs a train and a validation split, and one of them is empty"
            )
        training = Training(
            self, train, validation, setting, budget, rng, device, log.folder / "training.pt"
        )
        if self.imitation is not None and not training.taught:
            training.be_taught(self.imitation, log)
        self.learn(training, train, log)
        log.summary(training.price.summary(training.trials.scale.tolist()))
        training.network.load_state_dict(training.best_network)
        policy = NetworkPolicy(
            training.network, self.window, device, bool(training.player.simulator.tables.shaped)
        )
        policy.save(log.folder / "policy.pt")
        return policy

    def descent(
        self, instances: list[Instance], setting: Setting, seed: int = 0, decisions: int = 10**9
    ) -> Descent:
        """A new network and the environments it would be trained in, without all that is around a training."""
        simulator = simulator_for(self, instances, setting, choose_device(self.device))
        torch.manual_seed(seed)
        return Descent(self, new_network(self, simulator), simulator, seed, decisions)

    def learn(self, training: Training, train: list[Instance], log: Log) -> None:
        """Iterate until the budget is spent."""
        if self.start is not None and training.decisions == 0:
            training.validate()  # it may be better than the rules before it learns anything
        while not training.done:
            training.looked(training.turn(), log)


class Descent:
    """A network, the environments it plays and what descends: all that a learner's `play` and `update` work with."""

    def __init__(
        self,
        learner: NetworkLearner,
        network: Network,
        simulator: TensorSimulator,
        seed: int,
        total: int,
    ) -> None:
        self.learner, self.network, self.total = learner, network, total
        self.generator = torch.Generator(simulator.device).manual_seed(seed)
        self.player = Player(network, simulator, self.generator, learner.tape)
        self.optimizer = learner.optimizer(network.parameters())
        self.decisions = 0
        self.spread = 0.0  # running mean of the returns' standard deviation
        self.loss, self.norm = torch.zeros(
            2, device=simulator.device
        )  # sums of an iteration's losses and gradient norms

    @property
    def done(self) -> bool:
        """The budget is spent."""
        return self.decisions >= self.total

    @property
    def left(self) -> float:
        """The share of the budget that is left: learning rate and entropy bonus are annealed by it."""
        return max(0.0, 1.0 - self.decisions / self.total)

    def turn(self) -> dict[str, float]:
        """Play and update once; returns what is worth logging.

        Raises:
            UserError: where a loss is not finite.
        """
        began = time.perf_counter()
        self.anneal()
        rollout = self.learner.play(self)
        played = time.perf_counter()
        self.loss.zero_()
        self.norm.zero_()
        values = self.learner.update(self, rollout)
        self.check()
        taken = int(rollout.taken.sum())
        self.decisions += taken
        spent = time.perf_counter() - began
        values |= {"charts/SPS": taken / spent, "charts/rollout_share": (played - began) / spent}
        values["charts/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        if not math.isnan(mean := rollout.episodic_return):
            values["charts/episodic_return"] = mean
        return values

    def check(self) -> None:
        """Raises UserError where a loss or a gradient of this iteration is not finite."""
        if not torch.isfinite(self.loss + self.norm):
            name = type(self.learner).__name__.lower()
            raise UserError(
                f"{name}: the loss became {self.loss.item()} (gradient norm {self.norm.item()}) at decision {self.decisions}; "
                "lower solver.lr and start again (training.pt holds the last good state)"
            )

    # -- for updates -----------------------------------------------------------------------------------------------

    def anneal(self) -> None:
        """Set the learning rate to what it is by now."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learner.lr * self.left

    def widen(self, target: Tensor) -> None:
        """Take the spread of the targets of a rollout into the running mean."""
        spread = float(target.std(correction=0)) + 1e-8
        self.spread = spread if self.spread == 0.0 else 0.95 * self.spread + 0.05 * spread

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss."""
        loss.backward()
        self.loss += loss.detach()

    def step(self) -> None:
        """One step of the optimizer with the gradients added up, clipped to a norm; they are 0 again."""
        self.norm += nn.utils.clip_grad_norm_(self.network.parameters(), self.learner.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Training(Descent):
    """All that changes while a learner trains: the average, validation and prices beside the descent; saved and continued."""

    def __init__(
        self,
        learner: NetworkLearner,
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
        super().__init__(
            learner, new_network(learner, simulator), simulator, seed, int(budget.decisions)
        )
        self.path = path
        self.average = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(learner.averaging)
        )
        self.trials = TensorSimulator(
            validation, setting, window=_window(learner, validation), device=device
        )
        self.price = Price(validation, setting)
        self.iteration, self.taught, self.saved = 0, False, time.monotonic()
        self.best, self.best_network = -math.inf, self._copy()
        self._resume()

    def be_taught(self, imitation: Imitation, log: Log) -> None:
        """Learn from a teacher first; what it costs is part of the price."""
        schedules, spent = imitation.ask(self.player.simulator.instances, self.trials.setting, log)
        self.price.cpu_seconds += spent
        self.price.seconds += spent
        with self.price.clock():
            imitation.teach(self, schedules, log)
        self.taught = True
        self.average.module.load_state_dict(self.network.state_dict())
        log.metrics(0, {"validation/return": self.validate()})
        self.save()

    def turn(self) -> dict[str, float]:
        """Play and update once, on the clock; returns what is worth logging."""
        with self.price.clock():
            return super().turn()

    def looked(self, values: dict[str, float], log: Log, iterations: float = 1.0) -> None:
        """What follows an iteration: the average moves, is validated now and then, the state is saved, the log hears of it.

        Who could not look for so many `iterations` says so: the average moves as far as that many would have moved it.
        """
        self.average.multi_avg_fn = get_ema_multi_avg_fn(self.learner.averaging**iterations)
        self.average.update_parameters(self.network)
        self.iteration += 1
        if self.iteration % self.learner.validate_every == 0 or self.done or self.iteration == 1:
            values = values | {"validation/return": self.validate()}
        log.metrics(self.decisions, values)
        log.progress(min(self.decisions, self.total), self.total, f"validation {self.best:.4f}")
        if time.monotonic() - self.saved > self.learner.save_seconds or self.done:
            self.save()

    def validate(self) -> float:
        """Mean return of the averaged policy, greedy, on the validation split; the best network so far is kept."""
        result = float(play_greedily(cast(Network, self.average.module), self.trials).mean())
        self.price.tried(self.decisions, -result)
        if result > self.best:
            self.best, self.best_network = result, self._copy()
        return result

    # -- saving ----------------------------------------------------------------------------------------------------

    def _copy(self) -> dict[str, Tensor]:
        return {
            name: tensor.detach().clone()
            for name, tensor in self.average.module.state_dict().items()
        }

    def save(self) -> None:
        """All that is needed to go on as if nothing had happened."""
        names = ("decisions", "iteration", "taught", "spread", "best", "best_network")
        state: dict[str, Any] = {name: getattr(self, name) for name in names}
        state |= {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "price": self.price.state(),
            "environments": [self.player.totals, *self.player.simulator.state],
        }
        save_atomically(self.path, state)
        self.saved = time.monotonic()

    def _resume(self) -> None:
        """Continue from `save`'s file, where there is one."""
        if not self.path.exists():
            return
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.price.restore(state["price"])
        tensors: list[Any] = [self.player.totals, *self.player.simulator.state]
        for tensor, saved in zip(tensors, state["environments"], strict=True):
            tensor.copy_(saved)
        for name in ("decisions", "iteration", "taught", "spread", "best", "best_network"):
            setattr(self, name, state[name])


def new_network(learner: NetworkLearner, simulator: TensorSimulator) -> Network:
    """A network as the learner's settings ask for, for what the simulator shows, or that of its `start`."""
    if learner.start is not None:
        network = load_policy(learner.start, simulator.device).network
        if network.remembers:
            raise UserError(
                f"solver.start: {learner.start} decides by what it did before, which this learner cannot go on training"
            )
        return network.train()
    if learner.network == "mlp":
        return FlatNetwork(simulator.window, simulator.tables.agents.shape[1], learner.width).to(
            simulator.device
        )
    return PairNetwork(learner.width, learner.rounds).to(simulator.device)


def simulator_for(
    learner: NetworkLearner, instances: list[Instance], setting: Setting, device: torch.device
) -> TensorSimulator:
    """The environments that a learner trains in; rewards are paid early where ends are certain."""
    shaped = learner.shaped and all(knows_ends(instance) for instance in instances)
    return TensorSimulator(
        instances, setting, learner.envs, _window(learner, instances), shaped, device=device
    )


def _window(learner: NetworkLearner, instances: list[Instance]) -> int:
    return min(learner.window, max(instance.n_tasks for instance in instances))
