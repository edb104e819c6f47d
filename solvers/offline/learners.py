"""The offline learners: the algorithm, its settings, and which of its networks decides.

d3rlpy takes seconds to import, so `solvers.offline.d3rlpy_adapter` is imported in methods.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch

from bench.errors import UserError
from bench.logs.episodes import LoggedEpisodes
from solvers.networks.base import Network
from solvers.networks.constrained import ConstrainedNetwork
from solvers.networks.decision_transformer import DecisionTransformerNetwork
from solvers.networks.pairwise import PairwiseNetwork
from solvers.offline.algorithm import CommonSettings
from solvers.offline.buffer import OfflineBuffer
from solvers.offline.learner import OfflineLearner

TARGET_ENTROPY = 0.3  # nats: mean entropy of the softmax policy made of a Q function
TIE = 1e-3  # two actions tie if their scores differ by less, relative to the range of the scores


class _D3rlpyLearner(OfflineLearner):
    """A learner whose algorithm comes from d3rlpy."""

    def make_sampler(self, buffer: OfflineBuffer) -> Any:
        """Return the sampler of a buffer that d3rlpy's training loop draws its batches from.

        The methods of the sampler are `sample_transition_batch(count)` and
        `sample_trajectory_batch(count, length)`; `update(batch)` of an algorithm takes the batches.
        """
        from solvers.offline.d3rlpy_adapter.training import BatchSampler

        return BatchSampler(buffer)

    def make_d3rlpy_buffer(self, episodes: LoggedEpisodes) -> Any:
        """Return logged episodes as d3rlpy's own ReplayBuffer, which has the same two methods.

        Algorithms of `make_algorithm` take its batches too.
        """
        from solvers.offline.d3rlpy_adapter.training import to_replay_buffer

        return to_replay_buffer(episodes)

    def common_settings(self) -> CommonSettings:
        """Return the settings that all algorithms over pairs share."""
        return CommonSettings(
            width=self.width,
            message_passing_rounds=self.message_passing_rounds,
            lr=self.lr,
            batch=self.batch,
            gamma=self.gamma,
            steps=self.steps,
        )


class _PolicyLearner(_D3rlpyLearner):
    """A learner whose policy is a network of its own, whose values nothing trains."""

    def extract_network(self, algorithm: Any, buffer: OfflineBuffer) -> Network:
        """Return a copy of the policy's network."""
        network: PairwiseNetwork = copy.deepcopy(algorithm.policy_network)
        return network


@dataclass(kw_only=True)
class _QLearner(_D3rlpyLearner):
    """A learner that decides by its Q function."""

    target_update: int = 25

    @property
    def predicts_returns(self) -> bool:
        """Whether a state's value is determined: of quantiles only its sum with a score is."""
        return getattr(self, "quantiles", 1) == 1

    def extract_network(self, algorithm: Any, buffer: OfflineBuffer) -> Network:
        """Return a copy of the Q network with its scores scaled by `calibrate_temperature`."""
        network = mean_network(algorithm.q_network)
        calibrate_temperature(network, network, buffer)
        return network


@dataclass(kw_only=True)
class BC(_PolicyLearner):
    """Behavioural cloning (Pomerleau 1991)."""

    def make_algorithm(self, buffer: OfflineBuffer) -> Any:
        """Return d3rlpy's DiscreteBC."""
        from solvers.offline.d3rlpy_adapter import algorithms

        return algorithms.BC.create(buffer, self.common_settings())


@dataclass(kw_only=True)
class DQN(_QLearner):
    """Deep Q-network (Mnih et al. 2015) on a log.

    With `double`, double DQN (van Hasselt et al. 2016, arXiv:1509.06461).
    """

    double: bool = False

    def make_algorithm(self, buffer: OfflineBuffer) -> Any:
        """Return d3rlpy's DQN or DoubleDQN."""
        from solvers.offline.d3rlpy_adapter import algorithms

        kind = algorithms.DoubleDQN if self.double else algorithms.DQN
        return kind.create(
            buffer, self.common_settings(), target_update_interval=self.target_update
        )


@dataclass(kw_only=True)
class NFQ(_QLearner):
    """Neural fitted Q iteration (Riedmiller 2005): the target network is copied at every step."""

    def make_algorithm(self, buffer: OfflineBuffer) -> Any:
        """Return d3rlpy's NFQ."""
        from solvers.offline.d3rlpy_adapter import algorithms

        return algorithms.NFQ.create(buffer, self.common_settings())


@dataclass(kw_only=True)
class CQL(_QLearner):
    """Conservative Q-learning (Kumar et al. 2020, arXiv:2006.04779).

    With `quantiles` > 1, of quantiles of the return instead of its mean.
    """

    alpha: float = 1.0
    quantiles: int = 1

    def make_algorithm(self, buffer: OfflineBuffer) -> Any:
        """Return d3rlpy's DiscreteCQL, with a loss that evaluates the network once per step."""
        from solvers.offline.d3rlpy_adapter import algorithms

        return self._create(algorithms.CQL, buffer)

    def make_stock_algorithm(self, buffer: OfflineBuffer) -> Any:
        """Return d3rlpy's DiscreteCQL with its own loss, which evaluates the network twice.

        For comparisons of speed.
        """
        from solvers.offline.d3rlpy_adapter import algorithms

        return self._create(algorithms.StockCQL, buffer)

    def _create(self, kind: Any, buffer: OfflineBuffer) -> Any:
        return kind.create(
            buffer,
            self.common_settings(),
            self.quantiles,
            alpha=self.alpha,
            target_update_interval=self.target_update,
        )


@dataclass(kw_only=True)
class BCQ(_QLearner):
    """Batch-constrained Q-learning, discrete actions (Fujimoto et al. 2019, arXiv:1910.01708)."""

    flexibility: float = 0.3

    def make_algorithm(self, buffer: OfflineBuffer) -> Any:
        """Return d3rlpy's DiscreteBCQ."""
        from solvers.offline.d3rlpy_adapter import algorithms

        return algorithms.BCQ.create(
            buffer,
            self.common_settings(),
            action_flexibility=self.flexibility,
            target_update_interval=self.target_update,
        )

    def extract_network(self, algorithm: Any, buffer: OfflineBuffer) -> Network:
        """Return imitator and Q function as one network, with scaled scores as in `_QLearner`."""
        network = ConstrainedNetwork(self.width, self.message_passing_rounds, self.flexibility)
        network = network.to(buffer.device)
        network.imitator.load_state_dict(algorithm.policy_network.state_dict())
        network.q_network.load_state_dict(algorithm.q_network.state_dict())
        calibrate_temperature(network, network.q_network, buffer)
        return network


@dataclass(kw_only=True)
class SAC(_PolicyLearner):
    """Soft actor-critic for discrete actions (Christodoulou 2019, arXiv:1910.07207) on a log."""

    target_update: int = 25

    def make_algorithm(self, buffer: OfflineBuffer) -> Any:
        """Return d3rlpy's DiscreteSAC."""
        from solvers.offline.d3rlpy_adapter import algorithms

        return algorithms.SAC.create(
            buffer,
            self.common_settings(),
            temp_learning_rate=self.lr,
            target_update_interval=self.target_update,
        )


@dataclass(kw_only=True)
class IQL(_PolicyLearner):
    """Implicit Q-learning (Kostrikov et al. 2022, arXiv:2110.06169) for discrete actions.

    `inverse_temperature` is per unit of scaled return.
    """

    target_update: int = 25
    expectile: float = 0.8
    inverse_temperature: float = 1.0

    def make_algorithm(self, buffer: OfflineBuffer) -> Any:
        """Return the implementation of this package: d3rlpy's is for continuous actions."""
        from solvers.offline.d3rlpy_adapter import iql

        return iql.IQL.create(
            buffer,
            self.common_settings(),
            expectile=self.expectile,
            inverse_temperature=self.inverse_temperature,
            target_update_interval=self.target_update,
        )


@dataclass(kw_only=True)
class CDQAC(_PolicyLearner):
    """Conservative discrete quantile actor-critic (van Remmerden et al. 2026, arXiv:2509.10303).

    Two critics estimate quantiles of the return; their minimum counts. The policy is updated every
    `actor_update_interval` steps, with the learning rate `actor_lr`.
    """

    alpha: float = 0.05
    quantiles: int = 64
    tau: float = 0.005
    entropy: float = 0.005
    actor_lr: float = 1e-3
    actor_update_interval: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantiles < 2:
            raise UserError(
                f"solver.quantiles: value {self.quantiles}: must be at least 2; cql learns the mean"
            )

    def make_algorithm(self, buffer: OfflineBuffer) -> Any:
        """Return the implementation of this package: d3rlpy has none."""
        from solvers.offline.d3rlpy_adapter import cdqac

        return cdqac.CDQAC.create(
            buffer,
            self.common_settings(),
            self.quantiles,
            actor_learning_rate=self.actor_lr,
            alpha=self.alpha,
            tau=self.tau,
            entropy=self.entropy,
            actor_update_interval=self.actor_update_interval,
        )


@dataclass(kw_only=True)
class DecisionTransformer(_D3rlpyLearner):
    """Decision transformer (Chen et al. 2021, arXiv:2106.01345).

    `batch` counts decisions: a batch holds batch // context sequences of `context` decisions. The
    return that the policy is conditioned on is the quantile `target_return_quantile` of the logged
    returns to go.
    """

    embed: int = 64
    layers: int = 2
    heads: int = 4
    context: int = 8
    target_return_quantile: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embed % self.heads:
            raise UserError(
                f"solver.embed: value {self.embed}: must be a multiple of solver.heads={self.heads}"
            )

    def make_algorithm(self, buffer: OfflineBuffer) -> Any:
        """Return d3rlpy's DiscreteDecisionTransformer."""
        from solvers.offline.d3rlpy_adapter import decision_transformer

        every = 1 + len(buffer) // 10_000_000  # torch.quantile takes at most 2^24 values
        target_return = torch.quantile(buffer.return_to_go[::every], self.target_return_quantile)
        network = self._new_network(float(target_return))
        sequences = max(1, self.batch // self.context)
        return decision_transformer.DecisionTransformer.create(
            network, buffer, self.lr, sequences, self.steps
        )

    def extract_network(self, algorithm: Any, buffer: OfflineBuffer) -> Network:
        """Return a copy of the transformer."""
        network = self._new_network(algorithm.network.target_return).to(buffer.device)
        network.load_state_dict(algorithm.network.state_dict())
        return network

    def _new_network(self, target_return: float) -> DecisionTransformerNetwork:
        return DecisionTransformerNetwork(
            self.width,
            self.message_passing_rounds,
            self.embed,
            self.layers,
            self.heads,
            self.context,
            target_return=target_return,
        )


@torch.no_grad()
def mean_network(network: PairwiseNetwork) -> PairwiseNetwork:
    """Return a copy with one output per action: the mean of the outputs.

    The outputs are linear in the last layer, so its weights are averaged.
    """
    single = PairwiseNetwork(network.width, network.message_passing_rounds)
    single = single.to(next(network.parameters()).device)
    state = dict(network.state_dict())
    for name in ("score.2", "wait.2"):
        state[f"{name}.weight"] = state[f"{name}.weight"].mean(dim=0, keepdim=True)
        state[f"{name}.bias"] = state[f"{name}.bias"].mean(dim=0, keepdim=True)
    single.load_state_dict(state)
    return single


@torch.no_grad()
def calibrate_temperature(
    network: Network, scoring_network: PairwiseNetwork, buffer: OfflineBuffer
) -> None:
    """Scale the scores of a Q network so that its softmax policy has the entropy TARGET_ENTROPY.

    The entropy is the mean over states of the buffer.

    The greedy policy does not change. The scale matters to whatever samples from the policy or
    trains it further: without it the softmax of Q values is nearly uniform. Two cases have another
    target: where the legal actions allow less entropy, and where ties between actions (on identical
    agents, for instance) have more entropy than that, which no scaling removes. Then the target is
    a little above the entropy of the ties, and at most halfway from it to the uniform policy.

    Parameters
    ----------
    network
        The network that decides.
    scoring_network
        The network whose scores it decides by, itself or a part of it; its weights are changed.
    buffer
        About 512 evenly spread states of it are used.
    """
    rows = buffer.row[:: max(1, len(buffer) // 512)]
    scores = network(buffer.states.select(rows).features)[0]
    legal = scores.isfinite()
    best = scores.amax(dim=1, keepdim=True)
    score_range = (best - scores).masked_fill(~legal, 0.0).amax(dim=1, keepdim=True)
    ties = legal & (best - scores <= TIE * score_range)
    uniform_entropy = float(legal.sum(dim=1).double().log().mean())
    tie_entropy = float(ties.sum(dim=1).double().log().mean())
    target = min(
        max(TARGET_ENTROPY, tie_entropy + 0.1 * TARGET_ENTROPY),
        (tie_entropy + uniform_entropy) / 2,
    )
    low = -10.0  # bisection of the logarithm of the factor
    high = 20.0
    for _ in range(30):
        middle = (low + high) / 2
        logp = (scores * math.exp(middle)).log_softmax(dim=1)
        entropy = -(logp.exp() * logp.clamp(min=-1e9)).sum(dim=1).mean()
        if entropy > target:
            low = middle
        else:
            high = middle
    for head in (scoring_network.score, scoring_network.wait):
        last: Any = head[-1]
        last.weight.mul_(math.exp(low))
        last.bias.mul_(math.exp(low))
