"""Rollouts of a network's policy in B environments at once, kept as tensors on the device.

No step waits for the device, so that a GPU is never idle. S is the number of steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.logs.episodes import EpisodeRecorder
from bench.simulator.tables import NO_ACTION
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator, return_scale
from solvers.networks.base import Network
from solvers.networks.features import ALONE, RUNNING, TASKS, TICKS, WAITED, Features
from solvers.rl.advantages import gae

CHECK_EVERY = (
    8  # steps between two tests of whether all episodes are over: each waits for the device
)


class PolicyOutput(NamedTuple):
    """The output of a network for the current decisions of B environments, and its input."""

    features: Features  # each (B, ...)
    logits: Tensor  # (B, K * M + 1)
    value: Tensor  # (B,) predicted return
    unit: Tensor  # (B,) return that one unit of the network's value output stands for


@dataclass(frozen=True)
class Rollout:
    """The S * B decisions of S steps in B environments, ordered by step, then environment.

    Where every environment plays one episode to its end, those that have finished wait for the
    others; their entries are no decisions, and `taken` is false for them.
    """

    features: Features  # each (S * B, ...) input of the network
    action: Tensor  # (S * B,) flat actions
    logp: Tensor  # (S * B,) log-probability of the action when it was taken
    unit: Tensor  # (S * B,) return that one unit of the network's value output stands for
    reward: Tensor  # (S, B)
    value: Tensor  # (S, B) predicted return
    next_value: Tensor  # (S, B) of the state that the step led to, before any restart
    terminated: Tensor  # (S, B) bool: the episode ended, nothing follows
    truncated: Tensor  # (S, B) bool: the episode was cut off, what follows was not played
    taken: Tensor  # (S, B) bool: a decision was made
    finished: Tensor  # (2,) number of episodes that ended, and the sum of their returns

    def advantages(self, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
        """Return generalised advantage estimates and the critic's targets, (S * B,) each.

        A target is the advantage plus the predicted return: an estimate of the return to go.
        """
        advantage = gae(
            self.reward,
            self.value,
            self.next_value,
            self.terminated,
            self.truncated,
            gamma,
            gae_lambda,
        )
        return advantage.flatten(), (advantage + self.value).flatten()

    @property
    def episodic_return(self) -> float:
        """Mean return of the episodes that ended; NaN if none did."""
        count, total = self.finished.tolist()
        return total / count if count else float("nan")


def sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw actions (B,) from the softmax of logits (B, A), by the Gumbel-max trick."""
    noise = torch.rand(logits.shape, generator=generator, device=logits.device)
    noise = noise.clamp(1e-20, 1 - 1e-7)
    return (logits - torch.log(-torch.log(noise))).argmax(dim=1)


def log_probability(logits: Tensor, action: Tensor) -> Tensor:
    """Return the log-probability (B,) of actions (B,) under logits (B, A)."""
    return logits.log_softmax(dim=1).gather(1, action[:, None])[:, 0]


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy (B,), in nats, of the softmax of logits (B, A); some may be -inf."""
    logp = logits.log_softmax(dim=1)
    return -(logp.exp() * logp.clamp(min=-1e9)).sum(dim=1)


class RolloutCollector:
    """Plays training episodes with actions drawn from a network's policy.

    Parameters
    ----------
    network, simulator
        The policy, and the environments; each episode plays an instance drawn uniformly.
    generator
        Draws instances and actions.
    recorder
        Records the steps of `collect` for a logged dataset; None: nothing is recorded.
    """

    def __init__(
        self,
        network: Network,
        simulator: TensorSimulator,
        generator: torch.Generator,
        recorder: EpisodeRecorder | None = None,
    ) -> None:
        self.network = network
        self.simulator = simulator
        self.generator = generator
        self.recorder = recorder
        # (B,) sums of the rewards so far in the episodes that are being played
        self.returns_so_far = torch.zeros(
            simulator.num_envs, dtype=torch.float64, device=simulator.device
        )
        simulator.restart(self._draw_instances(simulator.num_envs), all_envs=True)

    def _draw_instances(self, n: int) -> Tensor:
        """Return n indices of instances, drawn uniformly."""
        device = self.simulator.device
        count = len(self.simulator.instances)
        return torch.randint(count, (n,), generator=self.generator, device=device)

    def features(self) -> Features:
        """Return the network's input for the current decisions of all environments."""
        return self.network.featurize(from_simulator(self.simulator))

    def policy_output(self) -> PolicyOutput:
        """Return the network's output for the current decisions of all environments."""
        features = self.features()
        logits, value = self.network(features)
        unit = value_unit(self.simulator, features)
        return PolicyOutput(features, logits, value * unit, unit)

    @torch.no_grad()
    def collect(self, steps: int) -> Rollout:
        """Play `steps` decisions in every environment, from its current state.

        An episode that ends is followed by another one.
        """
        simulator = self.simulator
        all_taken = torch.ones(simulator.num_envs, dtype=torch.bool, device=simulator.device)
        buffer = _RolloutBuffer()
        output = self.policy_output()
        for _ in range(steps):
            action = sample(output.logits, self.generator)
            if self.recorder is not None:
                probability = log_probability(output.logits, action).exp()
                self.recorder.before_step(simulator, action, probability)
            reward = simulator.step(action)
            if self.recorder is not None:
                self.recorder.after_step(reward)
            terminated, truncated = simulator.terminated, simulator.truncated
            # the value of the states where episodes were cut off, which a restart replaces
            cut_value = self.policy_output().value if simulator.can_truncate else None
            self._count_finished(buffer, reward, terminated | truncated)
            simulator.restart(self._draw_instances(simulator.num_envs))
            next_output = self.policy_output()
            next_value = next_output.value
            if cut_value is not None:
                next_value = torch.where(truncated, cut_value, next_value)
            buffer.add(output, action, reward, next_value, terminated, truncated, all_taken)
            output = next_output
        simulator.check()
        return buffer.rollout()

    @torch.no_grad()
    def collect_episodes(self, group: int) -> Rollout:
        """Play one whole episode in every environment.

        Environments g * group to (g + 1) * group - 1 play the same instance.
        """
        simulator = self.simulator
        instances = self._draw_instances(simulator.num_envs // group).repeat_interleave(group)
        simulator.restart(instances, all_envs=True)
        self.returns_so_far.zero_()
        buffer = _RolloutBuffer()
        output = self.policy_output()
        for _ in steps_to_the_end(simulator):
            playing = simulator.playing
            action = torch.where(playing, sample(output.logits, self.generator), NO_ACTION)
            reward = simulator.step(action)
            over = ~simulator.playing
            never = torch.zeros_like(over)
            self._count_finished(buffer, reward, playing & over)
            next_output = self.policy_output()
            action = action.clamp(min=0)
            buffer.add(output, action, reward, next_output.value, over, never, playing)
            output = next_output
        return buffer.rollout()

    def _count_finished(self, buffer: _RolloutBuffer, reward: Tensor, over: Tensor) -> None:
        self.returns_so_far += reward
        total = (self.returns_so_far * over).sum()
        buffer.finished.append(torch.stack([over.sum().double(), total]))
        self.returns_so_far *= ~over


class _RolloutBuffer:
    """Stores the steps of a rollout."""

    def __init__(self) -> None:
        self.outputs: list[PolicyOutput] = []
        self.columns: list[tuple[Tensor, ...]] = []
        self.finished: list[Tensor] = []

    def add(self, output: PolicyOutput, *columns: Tensor) -> None:
        self.outputs.append(output)
        self.columns.append(columns)

    def rollout(self) -> Rollout:
        action, reward, next_value, terminated, truncated, taken = (
            torch.stack(column) for column in zip(*self.columns, strict=True)
        )
        features = zip(*(output.features for output in self.outputs), strict=True)
        logits = torch.cat([output.logits for output in self.outputs])
        return Rollout(
            features=Features(*(torch.cat(column) for column in features)),
            action=action.flatten(),
            logp=log_probability(logits, action.flatten()),
            unit=torch.cat([output.unit for output in self.outputs]),
            reward=reward.float(),
            value=torch.stack([output.value for output in self.outputs]),
            next_value=next_value,
            terminated=terminated,
            truncated=truncated,
            taken=taken,
            finished=torch.stack(self.finished).sum(dim=0),
        )


def value_unit(simulator: TensorSimulator, features: Features) -> Tensor:
    """Return the return (B,) that the visible load stands for.

    The scale of the return depends on the whole instance, of which a policy may not know all. So
    only predicted returns are multiplied by it, never anything that decides.
    """
    load = visible_load(features, simulator.setting.objective, simulator.tables.shaped)
    return load / return_scale(simulator).float()


def visible_load(features: Features, objective: str, shaped: bool) -> Tensor:
    """Estimate the objective still to be paid (B,), as far as the visible tasks show it.

    Parameters
    ----------
    features
        Of B decisions.
    objective
        Its unit is that of the result: weighted ticks, ticks (makespan) or tasks (slowdown).
    shaped
        Whether rewards are shaped. Then running tasks are paid for already; otherwise the time
        that was waited is.
    """
    if objective in ("makespan", "bounded_slowdown"):
        return features.load[:, TICKS if objective == "makespan" else TASKS]
    return features.load[:, ALONE] + features.load[:, WAITED if shaped else RUNNING]


def steps_to_the_end(simulator: TensorSimulator) -> Iterator[int]:
    """Yield steps 0, 1, ... until all episodes are over, possibly a few more.

    Raises
    ------
    IllegalAction
        At the end, if a masked action was taken.
    """
    step = 0
    while step % CHECK_EVERY or simulator.playing.any():
        yield step
        step += 1
    simulator.check()


@torch.no_grad()
def play_greedily(network: Network, simulator: TensorSimulator) -> Tensor:
    """Play one episode in every environment by the best actions; return the returns (B,) float64.

    Environment b plays instance b mod I.
    """
    everyone = torch.arange(simulator.num_envs, device=simulator.device)
    simulator.restart(everyone % len(simulator.instances), all_envs=True)
    network.reset()
    total = torch.zeros(simulator.num_envs, dtype=torch.float64, device=simulator.device)
    for _ in steps_to_the_end(simulator):
        logits, _ = network(network.featurize(from_simulator(simulator)))
        total += simulator.step(torch.where(simulator.playing, logits.argmax(dim=1), NO_ACTION))
    return total
