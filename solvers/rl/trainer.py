"""The training iteration of on-policy learners: collect a rollout, update the network with it.

A `Trainer` holds what changes meanwhile: the network, its optimizer, the environments, the random
generator and the number of decisions so far. How to collect and how to update is defined by the
algorithm (`solvers.ppo`, `solvers.a2c`, `solvers.reinforce`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.logs.episodes import EpisodeRecorder
from bench.simulator.tensors import TensorSimulator
from solvers.networks.base import Network
from solvers.rl.rollouts import Rollout, RolloutCollector


class OnPolicyAlgorithm(Protocol):
    """What a `Trainer` needs of a learner."""

    lr: float
    gamma: float
    value_weight: float
    max_grad_norm: float

    @property
    def recorder(self) -> EpisodeRecorder | None:
        """The recorder of the collected episodes; None where they are not recorded."""

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a new optimizer of `parameters`."""

    def collect(self, trainer: Trainer) -> Rollout:
        """Return the decisions of one training iteration."""

    def update(self, trainer: Trainer, rollout: Rollout) -> dict[str, float]:
        """Change the network by what `rollout` holds; return the metrics to log."""


class Trainer:
    """A network in training.

    Parameters
    ----------
    learner
        The algorithm and its settings.
    network
        The network to train, on the device of `simulator`.
    simulator
        The training environments.
    seed
        Of the generator of all random numbers but the initial weights.
    total_decisions
        The budget: the learning rate and the entropy bonus fall to 0 until it is spent.
    """

    def __init__(
        self,
        learner: OnPolicyAlgorithm,
        network: Network,
        simulator: TensorSimulator,
        seed: int,
        total_decisions: int,
    ) -> None:
        self.learner = learner
        self.network = network
        self.total_decisions = total_decisions
        self.generator = torch.Generator(simulator.device).manual_seed(seed)
        self.collector = RolloutCollector(network, simulator, self.generator, learner.recorder)
        self.optimizer = learner.optimizer(network.parameters())
        self.decisions = 0
        self.return_std = 0.0  # running mean of the returns' standard deviation; 0: no returns yet
        # sums over one training iteration
        self.loss_sum = torch.zeros((), device=simulator.device)
        self.grad_norm_sum = torch.zeros((), device=simulator.device)

    @property
    def done(self) -> bool:
        """Whether the budget is spent."""
        return self.decisions >= self.total_decisions

    @property
    def progress_remaining(self) -> float:
        """The share of the budget that is not spent, from 1 at the beginning to 0 at the end."""
        return max(0.0, 1.0 - self.decisions / self.total_decisions)

    def train_iteration(self) -> dict[str, float]:
        """Collect one rollout, update the network with it and return the metrics to log.

        Raises
        ------
        UserError
            If a loss or a gradient is not finite.
        """
        began = time.perf_counter()
        self.anneal_learning_rate()
        rollout = self.learner.collect(self)
        collected = time.perf_counter()
        self.loss_sum.zero_()
        self.grad_norm_sum.zero_()
        values = self.learner.update(self, rollout)
        self.check_finite()
        taken = int(rollout.taken.sum())
        self.decisions += taken
        spent = time.perf_counter() - began
        values |= {"charts/SPS": taken / spent, "charts/rollout_share": (collected - began) / spent}
        values["charts/episodes"] = float(rollout.finished[0])
        values["charts/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        if not math.isnan(mean := rollout.episodic_return):
            values["charts/episodic_return"] = mean
        return values

    def check_finite(self) -> None:
        """Raise UserError if a loss or a gradient of this iteration is not finite."""
        if not torch.isfinite(self.loss_sum + self.grad_norm_sum):
            name = type(self.learner).__name__.lower()
            raise UserError(
                f"{name}: the loss became {self.loss_sum.item()} (gradient norm "
                f"{self.grad_norm_sum.item()}) at decision {self.decisions}; lower solver.lr and "
                "run again (training.pt holds the last finite state)"
            )

    # -- called by `update` ------------------------------------------------------------------------

    def anneal_learning_rate(self) -> None:
        """Set the learning rate in proportion to the progress remaining."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learner.lr * self.progress_remaining

    def update_return_std(self, returns: Tensor) -> None:
        """Include the standard deviation of the returns (n,) of a rollout in `return_std`.

        Errors of the critic are divided by it, so that the value loss has the same magnitude on
        every dataset and for every objective.
        """
        std = float(returns.std(correction=0)) + 1e-8
        self.return_std = std if self.return_std == 0.0 else 0.95 * self.return_std + 0.05 * std

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to the gradients."""
        loss.backward()
        self.loss_sum += loss.detach()

    def step(self) -> None:
        """Clip the norm of the accumulated gradients, take one optimizer step, set them to 0."""
        self.grad_norm_sum += nn.utils.clip_grad_norm_(
            self.network.parameters(), self.learner.max_grad_norm
        )
        self.optimizer.step()
        self.optimizer.zero_grad()
