"""Rollouts of a network's policy in B environments at once, kept as tensors on the device.

No step waits for the device, so that a GPU is never idle. S is the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.logs.episodes import EpisodeRecorder
from bench.simulator.tables import NO_ACTION, TIME
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator, return_scale
from solvers.networks.base import Network
from solvers.networks.features import ALONE, RUNNING, TASKS, TICKS, WAITED, Features
from solvers.rl.advantages import gae
from solvers.rl.cuda_graphs import GraphedCall, Recorder

CHECK_EVERY = (
    8  # steps between two tests of whether all episodes are over: each waits for the device
)
CRITIC = "critic_"  # begins the names of the buffer's columns that only a separate critic reads


class PolicyOutput(NamedTuple):
    """The output of a network for the current decisions of B environments, and its input."""

    features: Features  # each (B, ...)
    logits: Tensor  # (B, K * M + 1)
    value: Tensor  # (B,) predicted return
    unit: Tensor  # (B,) return that one unit of the critic's output stands for
    critic_features: Features | None = None  # what a separate critic observes


@dataclass(frozen=True)
class Rollout:
    """The S * B decisions of S steps in B environments, ordered by step, then environment.

    Where every environment plays one episode to its end, those that have finished wait for the
    others; their entries are no decisions, and `taken` is false for them.
    """

    features: Features  # each (S * B, ...) input of the network
    action: Tensor  # (S * B,) flat actions
    logp: Tensor  # (S * B,) log-probability of the action when it was taken
    unit: Tensor  # (S * B,) return that one unit of the critic's output stands for
    reward: Tensor  # (S, B)
    value: Tensor  # (S, B) predicted return
    next_value: Tensor  # (S, B) of the state that the step led to, before any restart
    terminated: Tensor  # (S, B) bool: the episode ended, nothing follows
    truncated: Tensor  # (S, B) bool: the episode was cut off, what follows was not played
    taken: Tensor  # (S, B) bool: a decision was made
    finished: Tensor  # (2,) number of episodes that ended, and the sum of their returns
    tick: Tensor | None = None  # (S + 1, B) of the steps and of the end, of whole episodes
    critic_features: Features | None = None  # input of a separate critic

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


def log_probability_and_entropy(logits: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probability (B,) of actions (B,), and the entropy (B,) of the softmax in nats.

    Of the logits (B, A) some may be -inf.
    """
    logp = logits.log_softmax(dim=1)
    entropy = -(logp.exp() * logp.clamp(min=-1e9)).sum(dim=1)
    return logp.gather(1, action[:, None])[:, 0], entropy


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
    graphs
        Records a step as a CUDA graph; None: every step is called.
    critic
        Predicts the returns; it observes future tasks and true durations. None: the network does.
    """

    def __init__(
        self,
        network: Network,
        simulator: TensorSimulator,
        generator: torch.Generator,
        recorder: EpisodeRecorder | None = None,
        graphs: Recorder | None = None,
        critic: Network | None = None,
    ) -> None:
        self.network = network
        self.critic = critic
        self.simulator = simulator
        self.generator = generator
        self.recorder = recorder
        # (B,) sums of the rewards so far in the episodes that are being played
        self.returns_so_far = torch.zeros(
            simulator.num_envs, dtype=torch.float64, device=simulator.device
        )
        self.buffer = RolloutBuffer(simulator.device)
        self._graphed_step = GraphedCall(
            self.play_step, graphs if recorder is None else None, [generator]
        )
        self.begin_episodes()

    def begin_episodes(self, group: int = 1) -> None:
        """Begin new episodes everywhere; each `group` of environments plays the same instance."""
        instances = self._draw_instances(self.simulator.num_envs // group)
        self.simulator.restart(instances.repeat_interleave(group), all_envs=True)
        self.returns_so_far.zero_()

    def _draw_instances(self, n: int) -> Tensor:
        """Return n indices of instances, drawn uniformly."""
        device = self.simulator.device
        count = len(self.simulator.instances)
        return torch.randint(count, (n,), generator=self.generator, device=device)

    def policy_output(self) -> PolicyOutput:
        """Return the network's output for the current decisions of all environments."""
        features = self.network.featurize(from_simulator(self.simulator))
        logits, value = self.network(features)
        future = None
        if self.critic is not None:
            future = self.critic.featurize(from_simulator(self.simulator, clairvoyant=True))
            _, value = self.critic(future)
        unit = value_unit(self.simulator, features if future is None else future)
        return PolicyOutput(features, logits, value * unit, unit, future)

    @torch.no_grad()
    def collect(self, steps: int) -> Rollout:
        """Play `steps` decisions in every environment, from its current state.

        An episode that ends is followed by another one. The next rollout overwrites this one.
        """
        self.buffer.begin(steps)
        for _ in range(steps):
            self.buffer.begin_step()
            self._graphed_step()
        self.simulator.check()
        return self.buffer.rollout(self.policy_output().value)

    def play_step(self) -> None:
        """Play and store one decision in every environment."""
        simulator = self.simulator
        output = self.policy_output()
        action = sample(output.logits, self.generator)
        if self.recorder is not None:
            probability = log_probability(output.logits, action).exp()
            self.recorder.before_step(simulator, action, probability)
        reward = simulator.step(action)
        if self.recorder is not None:
            self.recorder.after_step(reward)
        terminated, truncated = simulator.terminated, simulator.truncated
        self._count_finished(reward, terminated | truncated)
        taken = torch.ones_like(terminated)
        columns = {"terminated": terminated, "truncated": truncated, "taken": taken}
        if simulator.can_truncate:  # a restart replaces the states where episodes were cut off
            columns["cut_value"] = self.policy_output().value
        simulator.restart(self._draw_instances(simulator.num_envs))
        self.buffer.write(output, action, reward, **columns)

    @torch.no_grad()
    def collect_episodes(self, group: int) -> Rollout:
        """Play one whole episode in every environment.

        Environments g * group to (g + 1) * group - 1 play the same instance. The next rollout
        overwrites this one.
        """
        simulator = self.simulator
        self.begin_episodes(group)
        self.buffer.begin(1)
        time = simulator.state.env[:, TIME]
        if simulator.tables.budget_sharing:  # there is no clock: decisions are counted
            time = torch.zeros_like(time)
        for _ in steps_to_the_end(simulator):
            self.buffer.begin_step()
            playing, tick = simulator.playing, time.clone()
            output = self.policy_output()
            action = torch.where(playing, sample(output.logits, self.generator), NO_ACTION)
            reward = simulator.step(action)
            if simulator.tables.budget_sharing:
                time += 1
            over = ~simulator.playing
            self._count_finished(reward, playing & over)
            columns = {"terminated": over, "truncated": torch.zeros_like(over), "taken": playing}
            self.buffer.write(output, action.clamp(min=0), reward, **columns, tick=tick)
        return self.buffer.rollout(torch.zeros_like(self.returns_so_far).float(), time)

    def _count_finished(self, reward: Tensor, over: Tensor) -> None:
        self.returns_so_far += reward
        total = (self.returns_so_far * over).sum()
        self.buffer.finished += torch.stack([over.sum().double(), total])
        self.returns_so_far *= ~over


class RolloutBuffer:
    """Stores the steps of a rollout in memory that the next rollout uses again.

    Parameters
    ----------
    device
        Of all tensors.

    Attributes
    ----------
    step
        (1,) int64, the step that is written next. It is a tensor so that a CUDA graph can move it.
    finished
        (2,) float64, number of episodes that ended, and the sum of their returns.
    """

    def __init__(self, device: torch.device) -> None:
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.finished = torch.zeros(2, dtype=torch.float64, device=device)
        self._columns: dict[str, Tensor] = {}  # (capacity, B, ...) each
        self._capacity = 0
        self._written = 0

    def begin(self, steps: int) -> None:
        """Begin a rollout of `steps` steps; more may follow."""
        self.step.zero_()
        self.finished.zero_()
        self._written = 0
        self._reserve(steps)

    def _reserve(self, steps: int) -> None:
        """Make room for `steps` steps; what has been written is kept."""
        if steps <= self._capacity:
            return
        for name, column in self._columns.items():
            self._columns[name] = column.new_empty(steps, *column.shape[1:])
            self._columns[name][: len(column)] = column
        self._capacity = steps

    def begin_step(self) -> None:
        """Make room for the step that is written next, and count it; no CUDA graph can do so."""
        if self._written == self._capacity:
            self._reserve(2 * self._capacity)
        self._written += 1

    def write(
        self, output: PolicyOutput, action: Tensor, reward: Tensor, **columns: Tensor
    ) -> None:
        """Store one step of B environments: what is given, (B, ...) each, and what follows."""
        columns |= output.features._asdict()
        if output.critic_features is not None:
            future = output.critic_features._asdict()
            columns |= {CRITIC + name: value for name, value in future.items()}
        columns |= {"action": action, "reward": reward.float()}
        columns |= {"logp": log_probability(output.logits, action)}
        columns |= {"unit": output.unit, "value": output.value}
        for name, value in columns.items():
            if name not in self._columns:
                self._columns[name] = value.new_empty(self._capacity, *value.shape)
            self._columns[name].index_copy_(0, self.step, value[None])
        self.step += 1

    def rollout(self, last_value: Tensor, end: Tensor | None = None) -> Rollout:
        """Return the steps that have been written.

        Parameters
        ----------
        last_value
            (B,) predicted return of the state after the last one.
        end
            (B,) the tick then, where the ticks of the steps have been written.
        """
        columns = {name: column[: self._written] for name, column in self._columns.items()}
        next_value = torch.cat([columns["value"][1:], last_value[None]])
        if "cut_value" in columns:
            next_value = torch.where(columns["truncated"], columns["cut_value"], next_value)

        def features(prefix: str) -> Features:
            return Features(*(columns[prefix + name].flatten(0, 1) for name in Features._fields))

        return Rollout(
            features=features(""),
            action=columns["action"].flatten(),
            logp=columns["logp"].flatten(),
            unit=columns["unit"].flatten(),
            reward=columns["reward"],
            value=columns["value"],
            next_value=next_value,
            terminated=columns["terminated"],
            truncated=columns["truncated"],
            taken=columns["taken"],
            finished=self.finished,
            tick=None if end is None else torch.cat([columns["tick"], end[None]]),
            critic_features=features(CRITIC) if CRITIC + "task" in columns else None,
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
    returns, _ = play_to_the_end(network, simulator, lambda logits, _: logits.argmax(dim=1))
    return returns


@torch.no_grad()
def play_to_the_end(
    network: Network, simulator: TensorSimulator, choose: Callable[[Tensor, int], Tensor]
) -> tuple[Tensor, Tensor]:
    """Play the episodes that have begun in B environments.

    Parameters
    ----------
    network, simulator
        The policy, and the environments.
    choose
        Return the actions (B,) of step s, given the logits (B, A) and s.

    Returns
    -------
    tuple
        Returns (B,) float64, and the number of decisions, a scalar.
    """
    network.reset()
    returns = torch.zeros(simulator.num_envs, dtype=torch.float64, device=simulator.device)
    decisions = torch.zeros((), dtype=torch.int64, device=simulator.device)
    for step in steps_to_the_end(simulator):
        logits, _ = network(network.featurize(from_simulator(simulator)))
        playing = simulator.playing
        decisions += playing.sum()
        returns += simulator.step(torch.where(playing, choose(logits, step), NO_ACTION))
    return returns, decisions
