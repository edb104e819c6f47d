"""PPO with online adaptation: a deployed policy keeps learning on the tasks that it schedules.

Every `interval` decisions the policy trains a copy of its network, the candidate, with PPO
(Schulman et al. 2017, arXiv:1707.06347) on

* its logged decisions, if they were drawn from its softmax (`temperature` > 0), and
* simulated rollouts: episodes drawn in the simulator on the recent instance, that is, on the tasks
  started last and those that wait, with visible durations. They explore at no cost.

Three safeguards bound the damage that an update can do:

* Trust region: the loss has a KL penalty towards the deployed policy, and a candidate whose KL
  divergence from the deployed policy exceeds `max_kl` is rejected.
* Validation: a candidate that is worse on the recent instance than the current network is rejected,
  after a half and a quarter of the step have been tried too.
* Rollback: a current network that is worse there than the deployed one is replaced by it.

Everything is computed from observations, so an online policy stays online.
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

from bench.contracts import Budget, Dataset, TrainingLogger
from bench.errors import UserError
from bench.instance import Instance
from bench.observation import Observation
from bench.rollout import one_task
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_observation
from solvers.networks.base import Network
from solvers.networks.policy import NetworkPolicy
from solvers.ppo import PPO, clipped_gain, normalised
from solvers.rl.recent_decisions import RecentDecisions
from solvers.rl.rollouts import (
    Rollout,
    RolloutCollector,
    log_probability,
    play_greedily,
    visible_load,
)
from solvers.rl.settings import AT_LEAST_0, check_settings

# shares of a step that are tried in turn, as in the line search of TRPO (Schulman et al. 2015)
STEP_FRACTIONS = (1.0, 0.5, 0.25)
# what became of an update
ACCEPTED = "accepted"
OUTSIDE_TRUST_REGION = "rejected_trust_region"
WORSE_IN_VALIDATION = "rejected_validation"
OUT_OF_TIME = "out_of_time"
ROLLED_BACK = "rollbacks"
OUTCOMES = (ACCEPTED, OUTSIDE_TRUST_REGION, WORSE_IN_VALIDATION, OUT_OF_TIME, ROLLED_BACK)


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Settings of the online adaptation; `conf/solver/ppo_continual.yaml` describes each one.

    Raises
    ------
    UserError
        For a setting outside its range, or if there is nothing to learn from.
    """

    interval: int = 64
    temperature: float = 0.0
    simulated_rollouts: int = 16
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
            "simulated_rollouts",
            "seconds_per_update",
            "lr",
            "kl_weight",
            "max_kl",
            "tolerance",
        )
        check_settings(self, "solver.adaptation", dict.fromkeys(may_be_0, AT_LEAST_0))
        if not self.temperature and not self.simulated_rollouts:
            raise UserError(
                "solver.adaptation: with temperature=0 and simulated_rollouts=0 nothing is "
                "explored, so nothing can be learnt; set one of them"
            )


@dataclass(kw_only=True)
class ContinualPPO(PPO):
    """Trains as PPO does, or loads `checkpoint`, and returns a policy that adapts online."""

    adaptation: Adaptation = field(default_factory=Adaptation)
    tracks = ("schedule", "online")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoding != "greedy":
            raise UserError(
                f"solver.decoding: value {self.decoding!r}: a policy that adapts online decides "
                "step by step; set greedy"
            )

    @property
    def critic_is_used_by(self) -> str:
        """Online adaptation: its advantages."""
        return "ppo_continual"

    def fit(
        self,
        data: Dataset,
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        logger: TrainingLogger,
    ) -> ContinualPolicy:
        """Return the policy that PPO trains, with online adaptation.

        Raises
        ------
        UserError
            As PPO's, and for `track=assign`, in which no tasks arrive.
        """
        if setting.track not in self.tracks:
            raise UserError(
                f"track: value {setting.track!r}: online adaptation needs tasks that arrive over "
                "time; use ppo"
            )
        deployed = super().fit(data, setting, budget, rng, logger)
        assert isinstance(deployed, NetworkPolicy)
        return ContinualPolicy(deployed, self, setting)


class ContinualPolicy(NetworkPolicy):
    """A policy that updates its network every `interval` decisions.

    Each episode starts from the deployed network. All randomness comes from the generator given to
    `act`. Updates run inside `act`, so they count in its latency.

    Parameters
    ----------
    deployed
        The trained policy.
    learner
        Settings of PPO and of the adaptation.
    setting
        Under which it is deployed.
    clock
        Returns seconds, for `seconds_per_update`.
    """

    def __init__(
        self,
        deployed: NetworkPolicy,
        learner: ContinualPPO,
        setting: Setting,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(deployed.network, deployed.window, deployed.device, deployed.shaped)
        self.deployed = deployed.network
        self.learner = learner
        self.clock = clock
        self.adaptation = learner.adaptation
        self.objective = setting.objective
        # the recent instance is played under this setting
        self.setting = replace(setting, track="online", observe="arrived")
        self.reset()

    @torch.no_grad()
    def warm_up(self) -> None:
        """Compile the simulator, in which recent instances are played."""
        self._greedy_return(one_task(), self.deployed)

    def reset(self) -> None:
        """Begin an episode with the deployed network and without logged decisions."""
        self.network = self.deployed
        self.recent = RecentDecisions(self.objective, self.adaptation.validation_window)
        self.counts: Counter[str] = Counter()

    def facts(self) -> dict[str, Any]:
        """Return the numbers of updates, of each of their OUTCOMES, and of minibatches."""
        return {name: self.counts[name] for name in ("updates", *OUTCOMES, "minibatches")}

    @torch.no_grad()
    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """Return a legal flat action: the best one, or one drawn if `temperature` is positive."""
        if len(self.recent.decisions) == self.adaptation.interval:
            self._update(observation, rng)
        features = self.network.featurize(from_observation(observation, self.device))
        logits, value = self.network(features)
        unit = float(visible_load(features, self.objective, self.shaped))
        action, logp = choose_action(logits, self.adaptation.temperature, rng)
        self.recent.add(observation, features, action, logp, unit, float(value) * unit)
        return action

    # -- one update --------------------------------------------------------------------------------

    def _update(self, observation: Observation, rng: np.random.Generator) -> None:
        """Train a candidate, unless the current network is worse than the deployed one."""
        self.counts["updates"] += 1
        start = self.clock()
        recent = self.recent.instance(observation)
        deployed_return = self._greedy_return(recent, self.deployed)
        # each step fraction is tested by one more play of the recent instance
        test_seconds = len(STEP_FRACTIONS) * (self.clock() - start)
        time_limit = TimeLimit(self.clock, start + self.adaptation.seconds_per_update, test_seconds)
        current_return = deployed_return
        if self.network is not self.deployed:
            current_return = self._greedy_return(recent, self.network)
        if current_return < deployed_return - self.adaptation.tolerance * abs(deployed_return):
            self.counts[ROLLED_BACK] += 1
            self.network = self.deployed
        else:
            candidate = self._train_candidate(observation, recent, rng, time_limit)
            self.counts[self._adopt(candidate, recent, current_return)] += 1
        self.recent.decisions.clear()

    def _adopt(self, candidate: Network | None, recent: Instance, current_return: float) -> str:
        """Adopt the largest of the STEP_FRACTIONS towards the candidate that passes both tests.

        Returns
        -------
        str
            The outcome; if no step passes, that of the smallest one.
        """
        if candidate is None:
            return OUT_OF_TIME
        outcome = ""
        for fraction in STEP_FRACTIONS:
            network = interpolate(self.network, candidate, fraction)
            outcome = self._test(network, recent, current_return)
            if outcome == ACCEPTED:
                self.network = network
                break
        return outcome

    def _test(self, network: Network, recent: Instance, current_return: float) -> str:
        """Return whether `network` is in the trust region and not worse than the current one."""
        if not self._mean_kl(network) <= self.adaptation.max_kl:  # also if it is NaN
            return OUTSIDE_TRUST_REGION
        worse = self._greedy_return(recent, network) < current_return
        return WORSE_IN_VALIDATION if worse else ACCEPTED

    def _greedy_return(self, recent: Instance, network: Network) -> float:
        """Return the return of the greedy policy on the recent instance."""
        simulator = TensorSimulator([recent], self.setting, 1, self.window, device=self.device)
        return float(play_greedily(network, simulator)[0])

    def _mean_kl(self, network: Network) -> float:
        """Return the mean KL (nats) from the deployed policy to `network`, at logged decisions."""
        features = self.recent.rollout(0.0).features
        return float(kl_divergence(self.deployed(features)[0], network(features)[0]).mean())

    def _train_candidate(
        self,
        observation: Observation,
        recent: Instance,
        rng: np.random.Generator,
        time_limit: TimeLimit,
    ) -> Network | None:
        """Return a copy of the current network after some minibatches; None: no time for any."""
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        candidate = copy.deepcopy(self.network)
        experience = self._experience(observation, recent, generator, time_limit)
        batches = minibatches(experience, self.adaptation.minibatch, generator)
        optimizer = torch.optim.Adam(candidate.parameters(), lr=self.adaptation.lr, eps=1e-5)
        done = 0
        for source, rows in itertools.islice(batches, self.adaptation.minibatches_per_update):
            if not time_limit.allows():
                break
            with torch.enable_grad():
                loss = self._loss(candidate, source, rows)
                optimizer.zero_grad()
                loss.backward()
            nn.utils.clip_grad_norm_(candidate.parameters(), self.learner.max_grad_norm)
            optimizer.step()
            done += 1
        self.counts["minibatches"] += done
        return candidate if done else None

    def _experience(
        self,
        observation: Observation,
        recent: Instance,
        generator: torch.Generator,
        time_limit: TimeLimit,
    ) -> list[Experience]:
        """Return the logged decisions, if drawn, and simulated rollouts, if there is time."""
        experience = []
        if self.adaptation.temperature:
            features = self.network.featurize(from_observation(observation, self.device))
            unit = float(visible_load(features, self.objective, self.shaped))
            last_value = float(self.network(features)[1]) * unit
            logged = self.recent.rollout(last_value)
            experience.append(self._with_targets(logged, self.adaptation.temperature))
        if self.adaptation.simulated_rollouts and time_limit.allows(extra=1.0):
            count = self.adaptation.simulated_rollouts
            simulator = TensorSimulator(
                [recent], self.setting, count, self.window, self.shaped, device=self.device
            )
            collector = RolloutCollector(self.network, simulator, generator)
            experience.append(self._with_targets(collector.collect_episodes(count), 1.0))
        return experience

    def _with_targets(self, rollout: Rollout, temperature: float) -> Experience:
        """Return the rollout with advantages, targets and the logits of the deployed policy."""
        advantage, target = rollout.advantages(self.learner.gamma, self.learner.gae_lambda)
        taken = rollout.taken.flatten().nonzero()[:, 0]
        deployed_logits = self.deployed(rollout.features)[0]
        return Experience(rollout, temperature, taken, advantage, target, deployed_logits)

    def _loss(self, network: Network, experience: Experience, rows: Tensor) -> Tensor:
        """Return the loss of PPO on the decisions `rows`, plus the KL from the deployed policy."""
        learner = self.learner
        rollout = experience.rollout
        logits, value = network(rollout.features.at(rows))
        logp = log_probability(logits / experience.temperature, rollout.action[rows])
        ratio = (logp - rollout.logp[rows]).exp()
        advantage = experience.advantage[rows]
        advantage = normalised(advantage, advantage.mean(), advantage.std(correction=0))
        gain = clipped_gain(ratio, advantage, learner.clip)
        policy_loss = -gain.mean()
        value_loss = learner.value_loss(
            value * rollout.unit[rows],
            rollout.value.flatten()[rows],
            experience.target[rows],
            experience.return_std,
        )
        kl = kl_divergence(experience.deployed_logits[rows], logits).mean()
        return (
            policy_loss + learner.value_weight * 0.5 * value_loss + self.adaptation.kl_weight * kl
        )


class Experience(NamedTuple):
    """A rollout of n decisions to learn from, of which some were taken."""

    rollout: Rollout
    temperature: float  # of the softmax from which the actions were drawn
    taken: Tensor  # indices of the decisions that were taken
    advantage: Tensor  # (n,)
    target: Tensor  # (n,) return to go, the critic's target
    deployed_logits: Tensor  # (n, K * M + 1)

    @property
    def return_std(self) -> float:
        """Standard deviation of the targets of the decisions that were taken."""
        return float(self.target[self.taken].std(correction=0)) + 1e-8


class TimeLimit(NamedTuple):
    """The time that an update may take.

    Attributes
    ----------
    clock
        Returns seconds.
    deadline
        The update must end by then, on the clock.
    test_seconds
        Reserved at the end, for the tests of the candidate.
    """

    clock: Callable[[], float]
    deadline: float
    test_seconds: float

    def allows(self, extra: float = 0.0) -> bool:
        """Return whether there is time for the tests and for `extra` times as long.

        Simulated rollouts take about as long as all tests together.
        """
        return self.clock() + (1.0 + extra) * self.test_seconds < self.deadline


def minibatches(
    experience: Sequence[Experience], size: int, generator: torch.Generator
) -> Iterator[tuple[Experience, Tensor]]:
    """Yield minibatches (source, decisions) without end, from each of the sources in turn.

    Each source is passed through in random order before it starts again.
    """
    sources = [_passes(source, size, generator) for source in experience]
    for source in itertools.cycle(sources):
        yield next(source)


def _passes(
    source: Experience, size: int, generator: torch.Generator
) -> Iterator[tuple[Experience, Tensor]]:
    while True:
        order = torch.randperm(len(source.taken), generator=generator, device=source.taken.device)
        for rows in source.taken[order].split(size):
            yield source, rows


@torch.no_grad()
def interpolate(start: Network, end: Network, fraction: float) -> Network:
    """Return a new network with weights start + fraction * (end - start)."""
    network = copy.deepcopy(start)
    for weight, target in zip(network.parameters(), end.parameters(), strict=True):
        weight.lerp_(target, fraction)
    return network


def kl_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Return (B,) KL(p || q) in nats of the softmax of logits (B, A), -inf at the same entries."""
    log_p, log_q = (logits.log_softmax(dim=1).clamp(min=-1e9) for logits in (p_logits, q_logits))
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def choose_action(
    logits: Tensor, temperature: float, rng: np.random.Generator
) -> tuple[int, float]:
    """Return an action and its log-probability.

    The action is drawn from the softmax of logits (1, A) / temperature. With temperature 0 it is
    the best one, with log-probability 0.
    """
    if not temperature:
        return int(logits.argmax()), 0.0
    tempered = logits / temperature
    noise = torch.from_numpy(rng.gumbel(size=logits.shape)).to(logits.device)
    action = (tempered + noise).argmax(dim=1)
    return int(action), float(log_probability(tempered, action))
