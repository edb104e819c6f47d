"""The offline learners: which algorithm, with which settings, and which of its networks decides."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch

from bench.errors import UserError
from solvers.networks.constrained import ConstrainedNetwork
from solvers.networks.decision_transformer import TransformerNetwork
from solvers.networks.pairwise import Network, PairNetwork
from solvers.offline.feed import Feed
from solvers.offline.learner import OfflineLearner

CALM = 0.3  # nats: mean entropy of the policy that a Q function becomes
ALIKE = 1e-3  # of the spread of the scores: the distance below which two actions are as good as each other


class _FromD3(OfflineLearner):
    """With the settings that all algorithms of d3rlpy have."""

    def made(self, feed: Feed, kind: str) -> Any:
        """An algorithm of one of `solvers.offline.d3rlpy_algorithms.KINDS`."""
        from solvers.offline import (
            d3rlpy_algorithms as module,
        )  # d3rlpy takes seconds to import: only where it is used

        own = {
            key: value
            for key in module.Settings._fields
            if (value := getattr(self, key, None)) is not None
        }
        return module.build(kind, feed, module.Settings(**own), self.steps)


class _OfPolicy(_FromD3):
    """One whose policy is a network of its own."""

    def network(self, algorithm: Any, feed: Feed) -> Network:
        """The policy's network."""
        from solvers.offline.d3rlpy_algorithms import policy_network

        return copy.deepcopy(policy_network(algorithm))


@dataclass(kw_only=True)
class _OfQ(_FromD3):
    """One that decides by its Q function."""

    target_update: int = 25

    def network(self, algorithm: Any, feed: Feed) -> Network:
        """The Q function's network, its scores stretched until the policy that draws from them is calm."""
        from solvers.offline.d3rlpy_algorithms import q_network

        return calmed(mean_network(q_network(algorithm)), feed)


@dataclass(kw_only=True)
class BC(_OfPolicy):
    """Behavioural cloning (Pomerleau 1991)."""

    def algorithm(self, feed: Feed) -> Any:
        """d3rlpy's DiscreteBC."""
        return self.made(feed, "BC")


@dataclass(kw_only=True)
class DQN(_OfQ):
    """Deep Q-network (Mnih et al. 2015), from the log alone; `double`: van Hasselt et al. 2016, arXiv:1509.06461."""

    double: bool = False

    def algorithm(self, feed: Feed) -> Any:
        """d3rlpy's DQN or DoubleDQN."""
        return self.made(feed, "DoubleDQN" if self.double else "DQN")


@dataclass(kw_only=True)
class NFQ(_OfQ):
    """Neural fitted Q iteration (Riedmiller 2005): every step has the newest target."""

    def algorithm(self, feed: Feed) -> Any:
        """d3rlpy's NFQ."""
        return self.made(feed, "NFQ")


@dataclass(kw_only=True)
class CQL(_OfQ):
    """Conservative Q-learning (Kumar et al. 2020, arXiv:2006.04779), of the mean or of `quantiles` of the return."""

    alpha: float = 1.0
    quantiles: int = 1

    def algorithm(self, feed: Feed) -> Any:
        """d3rlpy's DiscreteCQL."""
        return self.made(feed, "CQL")


@dataclass(kw_only=True)
class BCQ(_OfQ):
    """Batch-constrained Q-learning for discrete actions (Fujimoto et al. 2019, arXiv:1910.01708)."""

    flexibility: float = 0.3

    def algorithm(self, feed: Feed) -> Any:
        """d3rlpy's DiscreteBCQ."""
        return self.made(feed, "BCQ")

    def network(self, algorithm: Any, feed: Feed) -> Network:
        """Imitator and Q function together, the latter's scores stretched as other Q functions' are."""
        from solvers.offline.d3rlpy_algorithms import policy_network, q_network

        both = ConstrainedNetwork(self.width, self.rounds, self.flexibility).to(feed.device)
        both.imitator.load_state_dict(policy_network(algorithm).state_dict())
        both.values.load_state_dict(q_network(algorithm).state_dict())
        return calmed(both, feed)


@dataclass(kw_only=True)
class SAC(_OfPolicy):
    """Soft actor-critic for discrete actions (Christodoulou 2019, arXiv:1910.07207), from the log alone."""

    target_update: int = 25

    def algorithm(self, feed: Feed) -> Any:
        """d3rlpy's DiscreteSAC."""
        return self.made(feed, "SAC")


@dataclass(kw_only=True)
class IQL(_OfPolicy):
    """Implicit Q-learning (Kostrikov et al. 2022, arXiv:2110.06169) for discrete actions; temperature per scaled return."""

    target_update: int = 25
    expectile: float = 0.8
    inverse_temperature: float = 1.0

    def algorithm(self, feed: Feed) -> Any:
        """Ours, in d3rlpy's frame."""
        return self.made(feed, "IQL")


@dataclass(kw_only=True)
class DecisionTransformer(OfflineLearner):
    """Decision transformer (Chen et al. 2021, arXiv:2106.01345); `batch` counts decisions, in stretches of `context`."""

    embed: int = 64
    layers: int = 2
    heads: int = 4
    context: int = 8
    target_return_quantile: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embed % self.heads:
            raise UserError(
                f"solver.embed: {self.embed} must be a multiple of solver.heads={self.heads}"
            )

    def algorithm(self, feed: Feed) -> Any:
        """d3rlpy's DiscreteDecisionTransformer; its target return while deciding is a quantile of the log's."""
        from solvers.offline.d3rlpy_algorithms import decision_transformer

        returns = feed.return_to_go[
            :: 1 + len(feed) // 10_000_000
        ]  # more than 2^24 are too many for quantile
        network = self._new(float(torch.quantile(returns, self.target_return_quantile)))
        stretches = max(1, self.batch // self.context)
        return decision_transformer(
            network, feed.layout, feed.device, self.lr, stretches, self.steps
        )

    def network(self, algorithm: Any, feed: Feed) -> Network:
        """Its network."""
        network = self._new(algorithm.network.target_return).to(feed.device)
        network.load_state_dict(algorithm.network.state_dict())
        return network

    def _new(self, target_return: float) -> TransformerNetwork:
        return TransformerNetwork(
            self.width,
            self.rounds,
            self.embed,
            self.layers,
            self.heads,
            self.context,
            target_return=target_return,
        )


@torch.no_grad()
def mean_network(network: PairNetwork) -> PairNetwork:
    """A copy with one output: the mean over the outputs, which are linear in the last layer."""
    one = PairNetwork(network.width, network.rounds).to(next(network.parameters()).device)
    state = dict(network.state_dict())
    for name in ("score.2", "wait.2"):
        state[f"{name}.weight"] = state[f"{name}.weight"].mean(dim=0, keepdim=True)
        state[f"{name}.bias"] = state[f"{name}.bias"].mean(dim=0, keepdim=True)
    one.load_state_dict(state)
    return one


@torch.no_grad()
def calmed(network: PairNetwork | ConstrainedNetwork, feed: Feed) -> Any:
    """`network`, its scores multiplied until the softmax over them has the mean entropy CALM on states of the log.

    The best action stays what it was; who draws from the policy, or trains it on, does not start from a uniform one. Where
    the choice between actions that are ALIKE (on identical agents, say) has more, which no factor takes away: a little above.
    """
    scores = network(feed.states.at(feed.state[:: max(1, len(feed) // 512)]).features)[0]
    legal = scores.isfinite()
    best = scores.amax(dim=1, keepdim=True)
    spread = (best - scores).masked_fill(~legal, 0.0).amax(dim=1, keepdim=True)
    uniform = legal.sum(dim=1).double().log().mean()
    alike = (legal & (best - scores <= ALIKE * spread)).sum(dim=1).double().log().mean()
    aim = min(max(CALM, float(alike) + 0.1 * CALM), (float(alike) + float(uniform)) / 2)
    low, high = -10.0, 20.0  # log of the factor
    for _ in range(30):
        middle = (low + high) / 2
        logp = (scores * math.exp(middle)).log_softmax(dim=1)
        entropy = -(logp.exp() * logp.clamp(min=-1e9)).sum(dim=1).mean()
        low, high = (middle, high) if entropy > aim else (low, middle)
    for name in ("score", "wait"):
        last = getattr(
            network.values if isinstance(network, ConstrainedNetwork) else network, name
        )[2]
        last.weight.mul_(math.exp(low))
        last.bias.mul_(math.exp(low))
    return network
