"""Playing with a network: decisions in B environments at once, kept as tensors where they are made.

Nothing here waits for the device within a step; S steps, B environments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.logs.episodes import Tape
from bench.simulator.tables import LEAVE
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator, return_scale
from solvers.networks.features import ALONE, RUNNING, TASKS, TICKS, WAITED, Features
from solvers.networks.pairwise import Network
from solvers.rl.advantages import gae

CHECK_EVERY = (
    8  # steps between two looks at whether every episode is over: each one waits for the device
)


class Look(NamedTuple):
    """One decision in each of B environments, and what the network says of it."""

    seen: Features
    logits: Tensor  # (B, K * M + 1)
    value: Tensor  # (B,) predicted return
    unit: Tensor  # (B,) what one unit of the network's value is worth in return


@dataclass(frozen=True)
class Rollout:
    """The S * B decisions of S steps in B environments, step by step; T of them were `taken`.

    Where every environment plays to its end, those that are over wait for the others: their entries are not taken.
    """

    seen: Features  # each (S * B, ...)
    action: Tensor  # (S * B,)
    logp: Tensor  # (S * B,) log-probability of the action when it was taken
    unit: Tensor  # (S * B,) what one unit of the network's value is worth in return
    reward: Tensor  # (S, B)
    value: Tensor  # (S, B) predicted return
    next_value: Tensor  # (S, B) of the state that the step led to, before any restart
    terminated: Tensor  # (S, B) bool: nothing follows
    truncated: Tensor  # (S, B) bool: what follows was not played
    taken: Tensor  # (S, B) bool: a decision was made
    finished: Tensor  # (2,) number of episodes that ended, and the sum of their returns

    def advantages(self, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
        """(S * B,) generalised advantage estimates, and (S * B,) the returns that they make the critic's targets."""
        advantage = gae(
            self.reward, self.value, self.next_value, self.terminated, self.truncated, gamma, lam
        )
        return advantage.flatten(), (advantage + self.value).flatten()

    @property
    def episodic_return(self) -> float:
        """Mean return of the episodes that ended; NaN where none did."""
        count, total = self.finished.tolist()
        return total / count if count else float("nan")


def sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Actions (B,) from the softmax of logits (B, A), by the Gumbel-max trick."""
    noise = torch.rand(logits.shape, generator=generator, device=logits.device).clamp(
        1e-20, 1 - 1e-7
    )
    return (logits - torch.log(-torch.log(noise))).argmax(dim=1)


def log_probability(logits: Tensor, action: Tensor) -> Tensor:
    """(B,) log-probability of actions (B,) under logits (B, A)."""
    return logits.log_softmax(dim=1).gather(1, action[:, None])[:, 0]


def entropy(logits: Tensor) -> Tensor:
    """(B,) entropy in nats of the softmax of logits (B, A), of which some are -inf."""
    logp = logits.log_softmax(dim=1)
    return -(logp.exp() * logp.clamp(min=-1e9)).sum(dim=1)


class Player:
    """Plays training episodes with a network; actions are drawn from its policy."""

    def __init__(
        self,
        network: Network,
        simulator: TensorSimulator,
        generator: torch.Generator,
        tape: Tape | None = None,
    ) -> None:
        """`tape`: records what `collect` plays."""
        self.network, self.simulator, self.generator, self.tape = (
            network,
            simulator,
            generator,
            tape,
        )
        self.totals = torch.zeros(
            simulator.n_envs, dtype=torch.float64, device=simulator.device
        )  # of the episodes now played
        simulator.restart(self._drawn(simulator.n_envs), everyone=True)

    def _drawn(self, n: int) -> Tensor:
        """(n,) instances, drawn uniformly."""
        device, count = self.simulator.device, len(self.simulator.instances)
        return torch.randint(count, (n,), generator=self.generator, device=device)

    def see(self) -> Features:
        """What the network reads of the current decisions of all environments."""
        return self.network.see(from_simulator(self.simulator))

    def look(self) -> Look:
        """The current decisions of all environments through the network's eyes."""
        seen = self.see()
        logits, relative = self.network(seen)
        unit = value_unit(self.simulator, seen)
        return Look(seen, logits, relative * unit, unit)

    @torch.no_grad()
    def collect(self, steps: int) -> Rollout:
        """`steps` decisions in every environment, from where it stands; an episode that ends is followed by another."""
        everyone = torch.ones(self.simulator.n_envs, dtype=torch.bool, device=self.simulator.device)
        tape, look = _Tape(), self.look()
        for _ in range(steps):
            action = sample(look.logits, self.generator)
            if self.tape is not None:
                self.tape.saw(self.simulator, action, log_probability(look.logits, action).exp())
            reward = self.simulator.step(action)
            if self.tape is not None:
                self.tape.got(reward)
            terminated, truncated = self.simulator.terminated, self.simulator.truncated
            before = (
                self.look().value if self.simulator.can_truncate else None
            )  # of the states that were cut
            self._count(tape, reward, terminated | truncated)
            self.simulator.restart(self._drawn(len(everyone)))
            following = self.look()
            value = (
                following.value
                if before is None
                else torch.where(truncated, before, following.value)
            )
            tape.add(look, action, reward, value, terminated, truncated, everyone)
            look = following
        self.simulator.check()
        return tape.rollout()

    @torch.no_grad()
    def episodes(self, group: int) -> Rollout:
        """One whole episode in every environment; environments g * group to (g + 1) * group - 1 play the same instance."""
        simulator = self.simulator
        simulator.restart(
            self._drawn(simulator.n_envs // group).repeat_interleave(group), everyone=True
        )
        self.totals.zero_()
        tape, look = _Tape(), self.look()
        for _ in to_the_end(simulator):
            playing = simulator.playing
            action = torch.where(playing, sample(look.logits, self.generator), LEAVE)
            reward = simulator.step(action)
            over = ~simulator.playing
            self._count(tape, reward, playing & over)
            following = self.look()
            tape.add(
                look,
                action.clamp(min=0),
                reward,
                following.value,
                over,
                torch.zeros_like(over),
                playing,
            )
            look = following
        return tape.rollout()

    def _count(self, tape: _Tape, reward: Tensor, over: Tensor) -> None:
        self.totals += reward
        tape.finished.append(torch.stack([over.sum().double(), (self.totals * over).sum()]))
        self.totals *= ~over


class _Tape:
    """Collects the steps of a rollout."""

    def __init__(self) -> None:
        self.looks: list[Look] = []
        self.columns: list[tuple[Tensor, ...]] = []
        self.finished: list[Tensor] = []

    def add(self, look: Look, *columns: Tensor) -> None:
        self.looks.append(look)
        self.columns.append(columns)

    def rollout(self) -> Rollout:
        action, reward, next_value, terminated, truncated, taken = (
            torch.stack(column) for column in zip(*self.columns, strict=True)
        )
        return Rollout(
            seen=Features(
                *(
                    torch.cat(column)
                    for column in zip(*(look.seen for look in self.looks), strict=True)
                )
            ),
            action=action.flatten(),
            logp=log_probability(torch.cat([look.logits for look in self.looks]), action.flatten()),
            unit=torch.cat([look.unit for look in self.looks]),
            reward=reward.float(),
            value=torch.stack([look.value for look in self.looks]),
            next_value=next_value,
            terminated=terminated,
            truncated=truncated,
            taken=taken,
            finished=torch.stack(self.finished).sum(dim=0),
        )


def value_unit(simulator: TensorSimulator, seen: Features) -> Tensor:
    """(B,) return that the visible load stands for: only the critic, which no decision hears of, may use the scale."""
    return (
        visible_load(seen, simulator.setting.objective, simulator.tables.shaped)
        / return_scale(simulator).float()
    )


def visible_load(seen: Features, objective: str, shaped: bool) -> Tensor:
    """(B,) what is left to pay as far as can be seen, in units of the objective: weighted ticks, ticks, or tasks.

    Shaped rewards have paid for what runs, those of the decision process for what was waited.
    """
    if objective in ("makespan", "bounded_slowdown"):
        return seen.load[:, TICKS if objective == "makespan" else TASKS]
    return seen.load[:, ALONE] + seen.load[:, WAITED if shaped else RUNNING]


def to_the_end(simulator: TensorSimulator) -> Iterator[int]:
    """Steps 0, 1, ... until every episode is over, perhaps some more; then an illegal action is an error."""
    step = 0
    while step % CHECK_EVERY or simulator.playing.any():
        yield step
        step += 1
    simulator.check()


@torch.no_grad()
def play_greedily(network: Network, simulator: TensorSimulator) -> Tensor:
    """Every environment from the start of its instance (b mod I) to its end, by the best actions; returns (B,) float64."""
    simulator.restart(
        torch.arange(simulator.n_envs, device=simulator.device) % len(simulator.instances),
        everyone=True,
    )
    network.reset()
    total = torch.zeros(simulator.n_envs, dtype=torch.float64, device=simulator.device)
    for _ in to_the_end(simulator):
        logits, _ = network(network.see(from_simulator(simulator)))
        total += simulator.step(torch.where(simulator.playing, logits.argmax(dim=1), LEAVE))
    return total
