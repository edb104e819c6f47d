"""Self-labelling: sample schedules with the policy, imitate the best one of each instance.

Sources: Corsini, Porrello, Calderara & Dell'Amico, "Self-labeling the job shop scheduling problem",
NeurIPS 2024 (arXiv:2401.11849); Pirnay & Grimm, "Self-improvement for neural combinatorial
optimization: sample without replacement, but improvement", TMLR 2024 (arXiv:2403.15180), from which
generation by the policy that was best on the validation split comes. The best sample may be
improved by local search before it is imitated.

With `completions` some labels begin inside an episode of the greedy policy: what it has started
stays, and local search completes the schedule. So the policy learns at states that it visits itself
(DAgger, Ross, Gordon & Bagnell, AISTATS 2011, arXiv:1011.0686).

With `loss=preference` the probabilities of the best sample and of others of its instance are
compared instead: best-anchored and objective-guided preference optimisation (BOPO; Liao et al.,
ICML 2025, arXiv:2503.07580).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor

from bench.errors import UserError
from bench.simulator.tables import INSTANCE
from bench.simulator.tensors import TensorSimulator
from solvers.exact.compile_kernels import compile_assignment_kernels, compile_schedule_kernels
from solvers.networks.base import Network
from solvers.rl.imitation import Demonstration, cloning_loss
from solvers.rl.labels import LabelMemory, improved
from solvers.rl.rollouts import Rollout, play_to_the_end, sample
from solvers.rl.settings import check_choice, check_group
from solvers.rl.trainer import Trainer
from solvers.rl.training import NetworkLearner
from solvers.rl.weighted_likelihood import step_along

LOSSES = ("cross_entropy", "preference")
ROUNDING = 1e-5  # relative: differences of objectives below it may be rounding errors
LARGEST_RATIO = 10.0  # of two objectives, in the preference loss


class Labelled(NamedTuple):
    """What one training iteration collects: labels, and the counts that a `Trainer` needs."""

    batch: Demonstration | None  # decisions of labels; None where no instance has one
    taken: Tensor  # () decisions that were sampled
    finished: Tensor  # (2,) number of episodes, and the sum of their returns
    returns: Tensor  # (2,) mean return of the greedy episodes, and of the best samples


@dataclass(kw_only=True)
class SelfLabelling(NetworkLearner):
    """Imitates the best of its own schedules; `conf/solver/self_labelling.yaml` has the settings.

    Where the future is unknown, the best sample is the best in hindsight.
    """

    group: int = 32
    sampling_temperature: float = 1.0
    moves_per_task: float = 0.0
    completions: float = 0.0
    loss: str = "cross_entropy"
    replays: int = 64
    updates: int = 8
    ranks: int = 8
    chunk: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        check_group(self.group, self.num_envs)
        check_choice("solver.loss", self.loss, LOSSES)
        if self.loss == "preference" and (self.moves_per_task or self.completions):
            raise UserError(
                "solver.loss: value preference: compares samples of the policy alone; set "
                "solver.moves_per_task=0 solver.completions=0, or solver.loss=cross_entropy"
            )
        if self.ranks < 2:
            raise UserError(f"solver.ranks: value {self.ranks}: must be at least 2")
        if self.completions and not self.moves_per_task:
            raise UserError(
                f"solver.completions: value {self.completions}: local search completes the "
                "schedules; set solver.moves_per_task above 0"
            )

    @property
    def critic_is_left_out_by(self) -> str | None:
        """The preference loss; the other one also fits the returns of the labels."""
        if self.loss == "preference":
            return "solver.loss: value preference"
        return super().critic_is_left_out_by

    def share(self, processes: int) -> Self | None:
        """Return the settings of one of several processes: whole groups, and whole replays."""
        if self.num_envs // self.group % processes or self.replays % processes:
            return None
        share = super().share(processes)
        return None if share is None else replace(share, replays=self.replays // processes)

    def begin(self, trainer: Trainer) -> None:
        """Let the trainer keep labels, where any are used."""
        if self.loss == "cross_entropy":
            simulator = trainer.collector.simulator
            self._check_improvements(simulator)
            trainer.memory = LabelMemory(simulator, self.replays, self.completions)
        if self.moves_per_task:
            compile_schedule_kernels()
            compile_assignment_kernels()

    def _check_improvements(self, simulator: TensorSimulator) -> None:
        """Raise UserError where local search cannot do what the settings say."""
        if self.moves_per_task and simulator.setting.mode == "commit":
            raise UserError(
                f"solver.moves_per_task: value {self.moves_per_task}: local search cannot keep to "
                "the order of a queue (mode=commit); set 0, and solver.completions=0"
            )
        if self.completions and simulator.tables.budget_sharing:
            raise UserError(
                f"solver.completions: value {self.completions}: with budget sharing nothing has a "
                "time, and no assignment would stay; set 0"
            )

    # -- collecting --------------------------------------------------------------------------------

    def collect(self, trainer: Trainer) -> Rollout | Labelled:
        """Sample `group` episodes of each of some instances, and label the instances."""
        if self.loss == "preference":
            return trainer.collector.collect_episodes(self.group)
        simulator = trainer.collector.simulator
        trainer.collector.begin_episodes(self.group)
        returns, decisions = self.play(trainer.best_network(), simulator, trainer.generator)
        labels = cast(LabelMemory, trainer.memory)
        self.label(labels, simulator, returns, trainer.generator)
        by_instance = returns.view(-1, self.group)
        count = torch.tensor(float(len(returns)), dtype=torch.float64, device=returns.device)
        return Labelled(
            labels.draw(trainer.network, self.gamma, trainer.generator),
            decisions,
            torch.stack([count, returns.sum()]),
            torch.stack([by_instance[:, 0].mean(), by_instance.amax(dim=1).mean()]),
        )

    def play(
        self, network: Network, simulator: TensorSimulator, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Play the episodes that have begun; the first one of each group takes the best actions.

        Returns
        -------
        tuple
            See `play_to_the_end`.
        """
        first = torch.arange(simulator.num_envs, device=simulator.device) % self.group == 0

        def choose(logits: Tensor, _: int) -> Tensor:
            drawn = sample(logits / self.sampling_temperature, generator)
            return torch.where(first, logits.argmax(dim=1), drawn)

        return play_to_the_end(network, simulator, choose)

    def label(
        self,
        labels: LabelMemory,
        simulator: TensorSimulator,
        returns: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Label the instances whose episodes have ended.

        Parameters
        ----------
        labels
            Where the labels are kept.
        simulator, returns
            The environments, and the returns (B,) of their episodes.
        generator
            Seeds the local search.
        """
        host = simulator.host()
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        rng = np.random.default_rng(seed)
        setting, moves = simulator.setting, self.moves_per_task
        for g, chosen in enumerate(returns.view(-1, self.group).argmax(dim=1).tolist()):
            first = g * self.group
            row = int(host.state.env[first, INSTANCE])
            instance = simulator.instances[row]
            inside = rng.random() < self.completions
            schedule = host.schedule(first if inside else first + chosen)
            if len(set(schedule.task.tolist())) < instance.n_tasks:
                continue  # a dead end
            if inside and labels.completions is not None:
                if len(schedule.task) == instance.n_tasks:  # no task was killed
                    tick = int(rng.choice(schedule.start))
                    best = improved(instance, setting, schedule, moves, rng, tick)
                    labels.completions.offer(row, best, tick)
            elif labels.whole is not None:
                best = improved(instance, setting, schedule, moves, rng)
                labels.whole.offer(row, best)

    # -- updating ----------------------------------------------------------------------------------

    def update(self, trainer: Trainer, rollout: Rollout | Labelled) -> dict[str, float]:
        """Change the network by what `collect` returned; return the values to log."""
        if isinstance(rollout, Labelled):
            return self.imitate(trainer, rollout)
        weight = preference_weights(rollout, self.group, self.ranks)
        entropy_weight = self.entropy * trainer.progress_remaining
        losses = step_along(trainer, rollout, weight, entropy_weight, self.chunk)
        return dict(zip(("losses/policy", "losses/entropy"), losses.tolist(), strict=True))

    def imitate(self, trainer: Trainer, labelled: Labelled) -> dict[str, float]:
        """Take `updates` steps of behavioural cloning; return the values to log.

        No process of several takes any unless all have labels.
        """
        batch = labelled.batch
        have_labels = trainer.group.mean_(torch.tensor(float(batch is not None)))
        greedy, best = trainer.group.mean_(labelled.returns.clone()).tolist()
        values = {"labels/greedy_return": greedy, "labels/best_return": best}
        if batch is None or float(have_labels) < 1.0:
            return values
        trainer.update_return_std(batch.target)
        device = batch.target.device
        order = torch.randperm(len(batch.target), generator=trainer.generator, device=device)
        for rows in order.tensor_split(self.updates):
            if len(rows):
                trainer.backward(cloning_loss(trainer, batch.at(rows)))
            trainer.step()
        loss = trainer.group.mean_(trainer.loss_sum.clone() / self.updates)
        return values | {"losses/cloning": float(loss)}


def preference_weights(rollout: Rollout, group: int, ranks: int) -> Tensor:
    """Return the weight (B,) of the decisions of each episode, along which BOPO's loss falls.

    Each episode of a group is compared with `ranks` ones of other ranks, evenly spaced from the
    best to the worst. The loss of a pair is -log sigmoid(r * (l_best - l_other)), where l is the
    mean log-probability of the decisions of an episode and r >= 1 the ratio of the objectives.
    """
    length = rollout.taken.sum(dim=0).clamp(min=1)
    taken_logp = rollout.logp.view(rollout.taken.shape).masked_fill(~rollout.taken, 0.0)
    logp = taken_logp.sum(dim=0) / length
    returns = rollout.reward.sum(dim=0).view(-1, group)
    order = returns.argsort(dim=1, descending=True, stable=True)  # (G, group) best first
    places = torch.linspace(0, group - 1, min(ranks, group), device=order.device)
    order = order[:, places.round().long()]
    cost, chosen = -returns.gather(1, order), logp.view(-1, group).gather(1, order)
    least = cost[:, :1].abs().clamp(min=1e-6)
    ratio = (1.0 + (cost - cost[:, :1]) / least).clamp(max=LARGEST_RATIO)
    push = ratio * torch.sigmoid(-ratio * (chosen[:, :1] - chosen))  # of -loss along l_best
    # equal episodes, but for rounding, are not compared
    push = push * (cost - cost[:, :1] > ROUNDING * least)
    pairs = max(1, order.numel() - len(order))
    weight = torch.zeros_like(returns).scatter_add_(1, order, -push)
    weight.scatter_add_(1, order[:, :1], push.sum(dim=1, keepdim=True))
    mean_length = rollout.taken.sum() / pairs  # `step_along` divides by the number of decisions
    return weight.flatten() / length * mean_length
