"""Continuing to learn while deciding: a deployed policy keeps improving on the stream it serves, within limits.

Every `interval` decisions the policy updates a copy of its network by PPO (Schulman et al. 2017, arXiv:1707.06347): on its own
logged decisions, where it draws them (`temperature`), and on rehearsals, episodes drawn in the simulator on the recent past
(the tasks started last and those that wait, with visible durations), which explore without a cost. Three guards: the loss
holds the candidate near the deployed policy (a KL penalty), and one that moved further than `max_kl` is rejected; one that
plays the recent past worse than the current network does is rejected, after half and a quarter of the step have been tried;
and a current network that plays it worse than the deployed one is rolled back. All is made of observations, so a policy that
is online stays online.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.contracts import Budget, Dataset, Log
from bench.errors import UserError
from bench.instance import Instance
from bench.observation import Observation
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_observation
from solvers.networks.pairwise import Network
from solvers.networks.policy import NetworkPolicy
from solvers.ppo import PPO, clipped_gain, normalised
from solvers.rl.recent_decisions import Journal
from solvers.rl.rollouts import Player, Rollout, log_probability, play_greedily, visible_load
from solvers.rl.settings import AT_LEAST_0, check_settings

STEPS = (
    1.0,
    0.5,
    0.25,
)  # shares of an update, tried in turn (as by the line search of TRPO, Schulman et al. 2015)


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How a deployed policy goes on learning; `conf/solver/ppo_continual.yaml` says what each one means.

    Raises:
        UserError: for a value that means nothing.
    """

    interval: int = 64
    temperature: float = 0.0
    rehearsals: int = 16
    minibatches_per_update: int = 16
    seconds_per_update: float = 30.0
    minibatch: int = 256
    lr: float = 1e-3
    kl_weight: float = 0.1
    max_kl: float = 1.0
    validation_window: int = 64
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        may_be_0 = (
            "temperature",
            "rehearsals",
            "seconds_per_update",
            "lr",
            "kl_weight",
            "max_kl",
            "tolerance",
        )
        check_settings(self, "solver.adaptation", dict.fromkeys(may_be_0, AT_LEAST_0))
        if not self.temperature and not self.rehearsals:
            raise UserError(
                "solver.adaptation: with temperature=0 and rehearsals=0 nothing is tried, so nothing can be learnt; set one"
            )


@dataclass(kw_only=True)
class ContinualPPO(PPO):
    """Trains as PPO does, or loads `checkpoint`, and hands back a policy that goes on learning."""

    adaptation: Adaptation = field(default_factory=Adaptation)
    tracks = ("schedule", "online")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoding != "greedy":
            raise UserError(
                f"solver.decoding: a policy that goes on learning decides step by step; set greedy, not {self.decoding}"
            )

    def fit(
        self, data: Dataset, setting: Setting, budget: Budget, rng: np.random.Generator, log: Log
    ) -> ContinualPolicy:
        """As PPO's; raises UserError for `budget` sharing too, where nothing ever arrives."""
        if setting.track not in self.tracks:
            raise UserError(
                f"track: going on to learn needs tasks that arrive, and track={setting.track} has no clock; use ppo"
            )
        deployed = super().fit(data, setting, budget, rng, log)
        assert isinstance(deployed, NetworkPolicy)
        return ContinualPolicy(deployed, self, setting)


class ContinualPolicy(NetworkPolicy):
    """Decides with its network and updates it every `interval` decisions; each episode starts from the deployed network.

    All randomness comes from the generator given to `act`. Updates run inside `act`, so they count in its latency.
    """

    def __init__(
        self,
        deployed: NetworkPolicy,
        learner: ContinualPPO,
        setting: Setting,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(deployed.network, deployed.window, deployed.device)
        self.deployed, self.learner, self.clock = deployed.network, learner, clock
        self.rules, self.objective = learner.adaptation, setting.objective
        self.setting = replace(
            setting, track="online", observe="arrived"
        )  # in which the recent past is played
        self.shaped = deployed.shaped  # as the critic was trained
        self.reset()

    def reset(self) -> None:
        """A new deployment: the deployed network, nothing remembered."""
        self.network = self.deployed
        self.journal = Journal(self.objective, self.rules.validation_window)
        self.counts: Counter[str] = Counter()

    def facts(self) -> dict[str, Any]:
        """How many updates were tried and what became of them."""
        names = (
            "updates",
            "kept",
            "moved_too_far",
            "did_worse",
            "out_of_time",
            "rollbacks",
            "minibatches",
        )
        return {name: self.counts[name] for name in names}

    @torch.no_grad()
    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """A legal flat action: the best one, or with a temperature one that is drawn."""
        if len(self.journal.decisions) == self.rules.interval:
            self._learn(observation, rng)
        seen = self.network.see(from_observation(observation, self.device))
        logits, relative = self.network(seen)
        unit = float(visible_load(seen, self.objective, self.shaped))
        action, logp = _choose(logits, self.rules.temperature, rng)
        self.journal.add(observation, seen, action, logp, unit, float(relative) * unit)
        return action

    # -- one update ------------------------------------------------------------------------------------------------

    def _learn(self, observation: Observation, rng: np.random.Generator) -> None:
        """Update, unless the current network has become worse than the deployed one: then that one is back."""
        self.counts["updates"] += 1
        began = self.clock()
        past = self.journal.instance(observation)
        deployed = self._played(past, self.deployed)
        allowance = Allowance(
            self.clock, began + self.rules.seconds_per_update, len(STEPS) * (self.clock() - began)
        )
        current = deployed if self.network is self.deployed else self._played(past, self.network)
        if current < deployed - self.rules.tolerance * abs(deployed):
            self.counts["rollbacks"] += 1
            self.network = self.deployed
        else:
            self._consider(self._candidate(observation, past, rng, allowance), past, current)
        self.journal.decisions.clear()

    def _consider(self, candidate: Network | None, past: Instance, current: float) -> None:
        """Go the whole way to the candidate, else half, else a quarter: the first that passes is kept, if any does."""
        if candidate is None:
            self.counts["out_of_time"] += 1
            return
        for share in STEPS:
            network = between(self.network, candidate, share)
            verdict = self._verdict(network, past, current)
            if verdict == "kept":
                self.network = network
                break
        self.counts[verdict] += 1

    def _verdict(self, candidate: Network, past: Instance, current: float) -> str:
        """Whether it moved too far (or does not compute numbers), or plays the recent past worse than `current`."""
        if not self._moved(candidate) <= self.rules.max_kl:
            return "moved_too_far"
        return "did_worse" if self._played(past, candidate) < current else "kept"

    def _played(self, past: Instance, network: Network) -> float:
        """Return of the greedy policy on the recent past."""
        return float(
            play_greedily(
                network, TensorSimulator([past], self.setting, 1, self.window, device=self.device)
            )[0]
        )

    def _moved(self, candidate: Network) -> float:
        """Mean KL from the deployed policy to the candidate over the logged decisions, in nats."""
        seen = self.journal.rollout(0.0).seen
        return float(divergence(self.deployed(seen)[0], candidate(seen)[0]).mean())

    def _candidate(
        self,
        observation: Observation,
        past: Instance,
        rng: np.random.Generator,
        allowance: Allowance,
    ) -> Network | None:
        """The current network after some minibatches; None where the time allows for none."""
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        candidate = copy.deepcopy(self.network)
        lessons = self._lessons(observation, past, generator, allowance)
        batches = itertools.islice(
            shuffled(lessons, self.rules.minibatch, generator), self.rules.minibatches_per_update
        )
        optimizer, done = torch.optim.Adam(candidate.parameters(), lr=self.rules.lr, eps=1e-5), 0
        for lesson, rows in batches:
            if not allowance.lasts():
                break
            with torch.enable_grad():
                loss = self._loss(candidate, lesson, rows)
                optimizer.zero_grad()
                loss.backward()
            nn.utils.clip_grad_norm_(candidate.parameters(), self.learner.max_grad_norm)
            optimizer.step()
            done += 1
        self.counts["minibatches"] += done
        return candidate if done else None

    def _lessons(
        self,
        observation: Observation,
        past: Instance,
        generator: torch.Generator,
        allowance: Allowance,
    ) -> list[Lesson]:
        """The logged decisions where they were drawn, and a rehearsal where the time allows for it."""
        lessons = []
        if self.rules.temperature:
            seen = self.network.see(from_observation(observation, self.device))
            following = float(self.network(seen)[1]) * float(
                visible_load(seen, self.objective, self.shaped)
            )
            lessons.append(self._lesson(self.journal.rollout(following), self.rules.temperature))
        if self.rules.rehearsals and allowance.lasts(more=1.0):
            simulator = TensorSimulator(
                [past],
                self.setting,
                self.rules.rehearsals,
                self.window,
                self.shaped,
                device=self.device,
            )
            rehearsal = Player(self.network, simulator, generator).episodes(self.rules.rehearsals)
            lessons.append(self._lesson(rehearsal, 1.0))
        return lessons

    def _lesson(self, rollout: Rollout, temperature: float) -> Lesson:
        """With advantages, and what the deployed policy would have done."""
        advantage, target = rollout.advantages(self.learner.gamma, self.learner.lam)
        taken = rollout.taken.flatten().nonzero()[:, 0]
        return Lesson(
            rollout, temperature, taken, advantage, target, self.deployed(rollout.seen)[0]
        )

    def _loss(self, network: Network, lesson: Lesson, rows: Tensor) -> Tensor:
        """PPO's clipped surrogate and value loss on the decisions `rows`, and the KL from the deployed policy."""
        learner, rollout = self.learner, lesson.rollout
        logits, relative = network(rollout.seen.at(rows))
        ratio = (
            log_probability(logits / lesson.temperature, rollout.action[rows]) - rollout.logp[rows]
        ).exp()
        policy = -clipped_gain(ratio, normalised(lesson.advantage[rows]), learner.clip).mean()
        value = learner.value_loss(
            relative * rollout.unit[rows],
            rollout.value.flatten()[rows],
            lesson.target[rows],
            lesson.spread,
        )
        moved = divergence(lesson.deployed[rows], logits).mean()
        return policy + learner.value_weight * 0.5 * value + self.rules.kl_weight * moved


class Lesson(NamedTuple):
    """n decisions to learn from, of which some were taken."""

    rollout: Rollout
    temperature: float  # of the softmax they were drawn from
    taken: Tensor  # indices of those that were taken
    advantage: Tensor  # (n,)
    target: Tensor  # (n,) return from here on
    deployed: Tensor  # (n, K * M + 1) logits of the deployed policy

    @property
    def spread(self) -> float:
        """Standard deviation of the targets."""
        return float(self.target[self.taken].std(correction=0)) + 1e-8


class Allowance(NamedTuple):
    """The time an update may take: until `deadline` on the clock, of which the last `reserve` seconds are for its tests."""

    clock: Callable[[], float]
    deadline: float
    reserve: float

    def lasts(self, more: float = 0.0) -> bool:
        """Time is left for the tests and `more` times as long; a rehearsal takes about as long as all tests."""
        return self.clock() + (1.0 + more) * self.reserve < self.deadline


def shuffled(
    lessons: Sequence[Lesson], minibatch: int, generator: torch.Generator
) -> Iterator[tuple[Lesson, Tensor]]:
    """Minibatches without end, from the lessons in turn; each lesson passes through all it has before it starts again."""
    sources = [_passes(lesson, minibatch, generator) for lesson in lessons]
    for source in itertools.cycle(sources):
        yield next(source)


def _passes(
    lesson: Lesson, minibatch: int, generator: torch.Generator
) -> Iterator[tuple[Lesson, Tensor]]:
    while True:
        order = torch.randperm(len(lesson.taken), generator=generator, device=lesson.taken.device)
        for rows in lesson.taken[order].split(minibatch):
            yield lesson, rows


@torch.no_grad()
def between(one: Network, other: Network, share: float) -> Network:
    """A new network with weights `share` of the way from one to the other."""
    network = copy.deepcopy(one)
    for weight, end in zip(network.parameters(), other.parameters(), strict=True):
        weight.lerp_(end, share)
    return network


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """(B,) KL(one || other) in nats of the softmax of logits (B, A), which are -inf at the same entries."""
    ours, theirs = (logits.log_softmax(dim=1).clamp(min=-1e9) for logits in (one, other))
    return (ours.exp() * (ours - theirs)).sum(dim=1)


def _choose(logits: Tensor, temperature: float, rng: np.random.Generator) -> tuple[int, float]:
    """The best action (temperature 0) or one drawn from the softmax of logits (1, A) / temperature; its log-probability."""
    if not temperature:
        return int(logits.argmax()), 0.0
    tempered = logits / temperature
    noise = torch.from_numpy(rng.gumbel(size=logits.shape)).to(logits.device)
    action = (tempered + noise).argmax(dim=1)
    return int(action), float(log_probability(tempered, action))
