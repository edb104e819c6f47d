"""The training iteration of on-policy learners: collect a rollout, update the network with it.

A `Trainer` holds what changes meanwhile: the network, its optimizer, the environments, the random
generator and the number of decisions so far. How to collect and how to update is defined by the
algorithm (`solvers.ppo`, `solvers.a2c`, `solvers.reinforce`).
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterable
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.logs.episodes import EpisodeRecorder
from bench.simulator.tensors import TensorSimulator
from solvers.networks.base import Network
from solvers.rl.cuda_graphs import GpuRecorder, Recorder
from solvers.rl.flat_weights import FlatWeights
from solvers.rl.instance_pool import InstancePool
from solvers.rl.process_group import ProcessGroup
from solvers.rl.rollouts import RolloutCollector


class OnPolicyAlgorithm(Protocol):
    """What a `Trainer` needs of a learner."""

    lr: float
    gamma: float
    value_weight: float
    max_grad_norm: float
    cuda_graphs: bool

    def new_critic(self, network: Network) -> Network | None:
        """Return a critic that is trained beside the network; None: the network predicts."""

    @property
    def recorder(self) -> EpisodeRecorder | None:
        """The recorder of the collected episodes; None where they are not recorded."""

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a new optimizer of `parameters`."""

    def begin(self, trainer: Trainer) -> None:
        """Set the `memory` of a new trainer, if the algorithm keeps one."""

    def collect(self, trainer: Trainer) -> Experience:
        """Return what one training iteration learns from."""

    def update(self, trainer: Trainer, experience: Any) -> dict[str, float]:
        """Change the network by what `collect` returned; return the metrics to log."""


class Experience(Protocol):
    """What a `Trainer` counts of the decisions of one training iteration."""

    @property
    def taken(self) -> Tensor:
        """Sums to the number of decisions."""

    @property
    def finished(self) -> Tensor:
        """(2,) number of episodes that ended, and the sum of their returns."""


class Memory(Protocol):
    """What an algorithm keeps from iteration to iteration, and checkpoints keep with it."""

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to resume."""

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from a state."""


class Workers(Protocol):
    """Further processes that train with one, which leads them."""

    def begin_iteration(self) -> None:
        """Let every one run an iteration, beside that of the leading process."""

    def states(self) -> list[dict[str, Any]]:
        """Return the state of every one, between two iterations."""


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

    Attributes
    ----------
    group, workers
        The processes that train together, and those that this one leads; at first it is alone.
    pool
        Renews the training instances; None where they stay.
    memory
        What the algorithm keeps from iteration to iteration; None: nothing.
    critic
        Predicts returns; it observes future tasks and true durations. None: the network does.
    best_weights
        Those that were best on the validation split; where nothing is validated, the current ones.
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
        self.critic = learner.new_critic(network)
        trained = [one for one in (network, self.critic) if one is not None]
        self.weights = FlatWeights(nn.ModuleList(trained))
        self.group = ProcessGroup()
        self.workers: Workers | None = None
        self.pool: InstancePool | None = None
        self.total_decisions = total_decisions
        self.generator = torch.Generator(simulator.device).manual_seed(seed)
        self.graphs: Recorder | None = None
        if learner.cuda_graphs and simulator.device.type == "cuda":
            self.graphs = GpuRecorder()
        self.collector = RolloutCollector(
            network, simulator, self.generator, learner.recorder, self.graphs, self.critic
        )
        self.optimizer = learner.optimizer([self.weights.flat])
        self.decisions = 0
        self.return_std = 0.0  # running mean of the returns' standard deviation; 0: no returns yet
        # the same on the device, and the progress remaining, for what is recorded as a CUDA graph
        self.return_unit = torch.ones((), device=simulator.device)
        self.progress = torch.ones((), device=simulator.device)
        self.minibatches: Any = None  # what PPO keeps from iteration to iteration
        self.memory: Memory | None = None
        self.best_weights = network.state_dict()
        self._best_network: Network | None = None
        # sums over one training iteration
        self.loss_sum = torch.zeros((), device=simulator.device)
        self.grad_norm_sum = torch.zeros((), device=simulator.device)
        self.cpu_seconds_of_others = 0.0  # in the last iteration, of the other processes
        learner.begin(self)

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
        began, cpu_began = time.perf_counter(), time.process_time()
        if self.workers is not None:
            self.workers.begin_iteration()
        self.anneal_learning_rate()
        rollout = self.learner.collect(self)
        collected = time.perf_counter()
        self.loss_sum.zero_()
        self.grad_norm_sum.zero_()
        values = self.learner.update(self, rollout)
        self.check_finite()
        finished = rollout.finished.tolist()
        if self.pool is not None:
            self.pool.renew(finished[0])
        cpu_seconds = time.process_time() - cpu_began
        counts = [float(rollout.taken.sum()), *finished, cpu_seconds]
        sums = self.group.mean_(torch.tensor(counts, dtype=torch.float64)) * self.group.size
        taken, episodes, returns, all_cpu_seconds = sums.tolist()
        self.cpu_seconds_of_others = all_cpu_seconds - cpu_seconds
        self.decisions += round(taken)
        spent = time.perf_counter() - began
        values |= {"charts/SPS": taken / spent, "charts/rollout_share": (collected - began) / spent}
        values["charts/episodes"] = episodes
        values["charts/learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        if episodes:
            values["charts/episodic_return"] = returns / episodes
        return values

    def check_finite(self) -> None:
        """Raise UserError if a loss or a gradient of this iteration is not finite."""
        if not torch.isfinite(self.loss_sum + self.grad_norm_sum):
            name = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(self.learner).__name__).lower()
            raise UserError(
                f"{name}: the loss became {self.loss_sum.item()} (gradient norm "
                f"{self.grad_norm_sum.item()}) at decision {self.decisions}; lower solver.lr and "
                "run again (training.pt holds the last finite state)"
            )

    def seed_of(self, rank: int) -> int:
        """Return a seed for a worker process; a resumed training plays other episodes."""
        seed = self.generator.initial_seed() + self.decisions
        return int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])

    def best_network(self) -> Network:
        """Return a network with the `best_weights` of the leading process."""
        if self._best_network is None:
            self._best_network = copy.deepcopy(self.network).eval()
        network = self._best_network
        network.load_state_dict(self.best_weights)
        for parameter in network.parameters() if self.group.size > 1 else ():
            parameter.data *= self.group.size if self.group.rank == 0 else 0
            self.group.mean_(parameter.data)
        return network

    # -- called by `update` ------------------------------------------------------------------------

    def anneal_learning_rate(self) -> None:
        """Set the learning rate in proportion to the progress remaining."""
        self.progress.fill_(self.progress_remaining)
        lr = self.learner.lr * self.progress_remaining
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of x (n,) and those of the other processes."""
        if self.group.size == 1:
            return x.mean(), x.std(correction=0)
        x = x.double()
        moments = self.group.mean_(torch.stack([x.mean(), x.square().mean()]))
        mean, square = moments
        return mean.float(), (square - mean**2).clamp(min=0.0).sqrt().float()

    def update_return_std(self, returns: Tensor) -> None:
        """Include the standard deviation of the returns (n,) of a rollout in `return_std`.

        Errors of the critic are divided by it, so that the value loss has the same magnitude on
        every dataset and for every objective.
        """
        std = float(self.moments(returns)[1]) + 1e-8
        self.return_std = std if self.return_std == 0.0 else 0.95 * self.return_std + 0.05 * std
        self.return_unit.fill_(self.return_std)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, a mean over the share of this process, to the gradient."""
        assert self.weights.flat.grad is not None  # `FlatWeights` sets it
        self.weights.flat.grad += self.weights.gradient(loss)
        self.loss_sum += loss.detach()

    def step(self) -> None:
        """Clip the norm of the gradient, take one optimizer step, set the gradient to 0."""
        self.clip_gradient()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)

    def clip_gradient(self) -> None:
        """Replace the gradient by its mean over all processes, with a norm of `max_grad_norm`."""
        self.group.mean_(cast(Tensor, self.weights.flat.grad))
        norm = nn.utils.clip_grad_norm_(self.weights.flat, self.learner.max_grad_norm)
        self.grad_norm_sum += norm

    # -- states, for checkpoints and for other processes -------------------------------------------

    def shared_state(self) -> dict[str, Any]:
        """Return what all processes that train together have in common."""
        return {
            "weights": self.weights.flat.detach(),
            "optimizer": self.optimizer.state_dict(),
            "return_std": self.return_std,
            "decisions": self.decisions,
        }

    def episode_state(self) -> dict[str, Any]:
        """Return the state of the episodes that this process is playing."""
        return {
            "generator": self.generator.get_state(),
            "environments": self._environments(),
            "pool": None if self.pool is None else self.pool.state(),
            "memory": None if self.memory is None else self.memory.state(),
        }

    def restore_shared(self, state: dict[str, Any]) -> None:
        """Begin with a state that `shared_state` returned, and the episodes if it has them."""
        self.weights.flat.data.copy_(state["weights"])
        self.restore_optimizer(state["optimizer"])
        self.return_std = state["return_std"]
        self.decisions = state["decisions"]
        if "environments" in state:
            self.restore_episodes(state)

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Go on with what the optimizer of a checkpoint has found; its settings stay."""
        groups = self.optimizer.state_dict()["param_groups"]
        found = self.weights.found_by(state)
        self.optimizer.load_state_dict({"state": found, "param_groups": groups})

    def restore_episodes(self, state: dict[str, Any]) -> None:
        """Go on with the episodes of a state that `episode_state` returned.

        New ones begin where it has none, or those of another number of environments.
        """
        self.generator.set_state(state["generator"].cpu())
        if self.pool is not None:
            self.pool.restore(state["pool"])
        if self.memory is not None:
            self.memory.restore(state["memory"])
        tensors, saved = self._environments(), state["environments"]
        if [one.shape for one in tensors] == [one.shape for one in saved]:
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.copy_(value)
        else:  # those that have begun may play instances that the pool has replaced
            self.collector.begin_episodes()

    def _environments(self) -> list[Any]:
        """Return the tensors that hold the state of the training environments."""
        return [self.collector.returns_so_far, *self.collector.simulator.state]
