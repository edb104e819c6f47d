"""Beam search over the states of the simulator: keep the W most promising partial episodes.

In each step EXPANSION * W continuations of the kept partial episodes are tried: those with the
highest log-probability of all decisions so far. Of these, W are kept by the score

    return so far + predicted return + LOG_PROBABILITY_WEIGHT * log-probability.

The log-probability alone ignores costs. The predicted return alone, of many states, selects the
largest error of the prediction. On a few validation instances the sum was mostly, not always,
better than either. Two reductions are exact:

* The same decisions in another order lead to the same state; of equal states one is kept.
* Rewards are never positive, so a partial episode that has cost as much as the best finished
  episode is dropped.

Shapes: E environments, P <= W partial episodes kept, A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.simulator.tables import (
    AGENT,
    N_FINISHED,
    N_KILLED,
    N_RUNNING,
    NEXT_ARRIVAL,
    OUTAGE_INDEX,
    START,
    TIME,
    UP,
)
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from solvers.networks.base import Network
from solvers.rl.incumbent import Incumbent
from solvers.rl.rollouts import value_unit

EXPANSION = 2  # continuations tried per partial episode kept
LOG_PROBABILITY_WEIGHT = 0.02  # return that counts as much as one nat
# with the started tasks, the killed pieces and the outages, these columns determine the future
CLOCK_COLUMNS = [TIME, NEXT_ARRIVAL, N_RUNNING, N_FINISHED, N_KILLED]


class BeamSearch:
    """A beam search in the environments of one simulator.

    Parameters
    ----------
    network
        Gives the logits and the predicted returns.
    simulator
        E = EXPANSION * `width` new environments of one instance.
    width
        W, the most partial episodes that are kept.
    incumbent
        The best finished episode so far; the search improves it and counts its decisions there.
    """

    def __init__(
        self, network: Network, simulator: TensorSimulator, width: int, incumbent: Incumbent
    ) -> None:
        self.network = network
        self.simulator = simulator
        self.width = width
        self.incumbent = incumbent
        num_envs = simulator.num_envs
        device = simulator.device
        self.total = torch.zeros(num_envs, dtype=torch.float64, device=device)  # return so far
        self.logp = torch.zeros_like(self.total)  # (E,) log-probability of the decisions so far
        self.logits = torch.zeros(0)  # (E, A)
        self.value = torch.zeros(0)  # (E,) predicted return
        self.all = torch.arange(num_envs, device=device)  # (E,) every environment
        generator = torch.Generator(device).manual_seed(0)
        size = len(_state_columns(simulator)[0])
        self.hash_factors = torch.randint(
            -(2**63), 2**63 - 1, (size,), generator=generator, device=device
        )

    def run(self) -> None:
        """Search until every partial episode has ended or been dropped, or the time is spent."""
        self.incumbent.episodes_played += self.width
        kept = self.all[:1][self.simulator.playing[:1]]
        self.evaluate()
        while len(kept) and not self.incumbent.out_of_time:
            count = self.expand(kept)
            self._offer_finished(count)
            self.evaluate()
            kept = self.select(count)
        self.simulator.check()

    def evaluate(self) -> None:
        """Compute the logits and the predicted return of every environment."""
        features = self.network.featurize(from_simulator(self.simulator))
        self.logits, value = self.network(features)
        self.value = value * value_unit(self.simulator, features)

    def expand(self, kept: Tensor) -> int:
        """Replace all environments by the likeliest continuations of `kept` (P,).

        Returns
        -------
        int
            C, the number of continuations: the environments 0 to C - 1, in order of likelihood; the
            other environments repeat the first one.
        """
        logp = self.logp[kept, None] + self.logits[kept].log_softmax(dim=1).double()  # (P, A)
        count = min(len(self.all), int((logp > -torch.inf).sum()))
        chosen = logp.flatten().topk(count).indices  # in order of likelihood
        chosen = torch.cat([chosen, chosen[:1].expand(len(self.all) - count)])
        parent = kept[chosen // logp.shape[1]]
        action = chosen % logp.shape[1]
        self.simulator.copy(parent, self.all)
        self.total = self.total[parent] + self.simulator.step(action)
        self.logp = logp.flatten()[chosen]
        self.incumbent.decisions += count
        return count

    def select(self, count: int) -> Tensor:
        """Return the environments (P,) to keep: the most promising of the first `count`.

        Their states differ, and all of them can still become better than the incumbent.
        """
        score = self.total + self.value + LOG_PROBABILITY_WEIGHT * self.logp
        can_win = self.total > self.incumbent.best_return
        candidates = ((self.all < count) & self.simulator.playing & can_win).nonzero()[:, 0]
        order = score[candidates].argsort(descending=True, stable=True)
        candidates = candidates[order]
        # a hash: products and sums modulo 2^64
        state_hash = (_state_columns(self.simulator)[candidates] * self.hash_factors).sum(dim=1)
        return candidates[_first_occurrences(state_hash)][: self.width]

    def _offer_finished(self, count: int) -> None:
        """Offer the finished episodes among the first `count` environments to the incumbent."""
        over = ~self.simulator.playing & (self.all < count)
        if over.any():
            self.incumbent.offer(self.simulator, torch.where(over, self.total, -torch.inf), 1)


def _state_columns(simulator: TensorSimulator) -> Tensor:
    """Return (E, columns) int64; environments that are equal in all of them have one future."""
    s = simulator.state
    agent = s.task[:, AGENT]
    start = torch.where(agent >= 0, s.task[:, START], -1)
    columns = (
        agent,
        start,
        s.env[:, CLOCK_COLUMNS],
        s.agents[:, :, UP],
        s.agents[:, :, OUTAGE_INDEX],
        s.killed.flatten(1),
    )
    return torch.cat(columns, dim=1)


def _first_occurrences(values: Tensor) -> Tensor:
    """Return, in increasing order, the indices at which each value of (n,) occurs first."""
    ordered, index = values.sort(stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return index[new].sort().values
