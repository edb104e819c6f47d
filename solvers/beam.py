"""Beam search over the states of the simulator: of all continuations of W partial episodes, the W most promising are kept.

EXPANSION * W continuations are tried, the likeliest by the log-probabilities of all decisions so far. W of them are kept by

    return so far + predicted return + LIKELIHOOD * log-probability.

Likelihood alone is blind to costs, and of many predictions alone the luckiest error wins: on three validation instances of
`medium` (W = 16) the sum cost 1.40, likelihood alone and prediction alone 1.47, greedy 1.50. Three additions:

* Orders of the same decisions lead to the same state; of equal states one is kept.
* Rewards are never positive, so what has cost as much as a finished episode is dropped.
* The greedy episode is never dropped, whatever its rank.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from bench.simulator.tables import AGENT, N_FINISHED, N_LOST, N_RUNNING, NEXT_ARRIVAL, OUTAGE, START, TIME, UP
from bench.simulator.tensors import TensorSimulator
from solvers.features import features, from_simulator
from solvers.rollouts import value_unit

EXPANSION = 2  # continuations tried per one kept
NARROW = 2  # width once the budget is spent: the greedy episode and the most promising other one
LIKELIHOOD = 0.02  # return that one nat is worth
CLOCK = [TIME, NEXT_ARRIVAL, N_RUNNING, N_FINISHED, N_LOST]  # with the pieces and the outages: all that the future hangs on


def environments(width: int) -> int:
    """E for a beam of `width`; one of width 1 is the greedy episode."""
    return EXPANSION * width if width > 1 else 1


class Account(Protocol):
    """What keeps the best finished episode (`solvers.decoding.Search`)."""

    value: float
    played: int
    decisions: int

    @property
    def late(self) -> bool:
        """The budget is spent."""

    def offer(self, simulator: TensorSimulator, returns: Tensor, first: int = 0) -> None:
        """Finished environments with their returns."""


class Beam:
    """Partial episodes live in the `environments(W)` of one simulator; the greedy one is the first while it lasts.

    P partial episodes are kept (at most W), E environments, A actions.
    """

    def __init__(self, network: nn.Module, simulator: TensorSimulator, width: int, search: Account) -> None:
        self.network, self.simulator, self.width, self.search = network, simulator, width, search
        self.total = torch.zeros(simulator.n_envs, dtype=torch.float64, device=simulator.device)  # (E,) return so far
        self.logp = torch.zeros_like(self.total)  # (E,) log-probability so far
        self.logits = self.value = torch.zeros(0)  # (E, A); (E,) predicted return
        self.all = torch.arange(simulator.n_envs, device=simulator.device)  # (E,)
        generator = torch.Generator(simulator.device).manual_seed(0)
        size = len(_facts(simulator)[0])
        self.mixer = torch.randint(-(2**63), 2**63 - 1, (size,), generator=generator, device=simulator.device)

    def run(self) -> None:
        """Search until every partial episode has ended or been dropped."""
        self.search.played = self.width
        greedy = bool(self.simulator.playing[0])
        kept = self.all[:1] if greedy else self.all[:0]
        if not greedy:
            self._offer(greedy=True, count=1)
        self.look()
        while len(kept):
            count = self.expand(kept, greedy)
            self._offer(greedy, count)
            greedy = greedy and bool(self.simulator.playing[0])
            self.look()
            kept = self.select(count, greedy)
        self.simulator.check()

    def look(self) -> None:
        """All environments through the network's eyes."""
        seen = features(from_simulator(self.simulator))
        self.logits, relative = self.network(seen)
        self.value = relative * value_unit(self.simulator, seen)

    def expand(self, kept: Tensor, greedy: bool) -> int:
        """Environments 0 to C - 1 become the C likeliest continuations of `kept` (P,); the others repeat the first. Returns C.

        With `greedy` the first is the best action of the first one kept.
        """
        step = self.logits[kept].log_softmax(dim=1).double()  # (P, A)
        logp = self.logp[kept, None] + step
        rank = logp.clone()
        if greedy:
            rank[0, step[0].argmax()] = torch.inf
        count = min(len(self.all), int((rank > -torch.inf).sum()))
        chosen = rank.flatten().topk(count).indices  # in order of likelihood
        chosen = torch.cat([chosen, chosen[:1].expand(len(self.all) - count)])
        parent, action = kept[chosen // rank.shape[1]], chosen % rank.shape[1]
        self.simulator.copy(parent, self.all)
        self.total, self.logp = self.total[parent] + self.simulator.step(action), logp.flatten()[chosen]
        self.search.decisions += count
        return count

    def select(self, count: int, greedy: bool) -> Tensor:
        """(P,) environments to go on with: of the first `count`, the most promising different ones that can still win."""
        score = self.total + self.value + LIKELIHOOD * self.logp
        able = (self.all < count) & self.simulator.playing & (self.total > self.search.value)
        if greedy:
            able[0], score[0] = True, torch.inf
        left = able.nonzero()[:, 0]
        left = left[score[left].argsort(descending=True, stable=True)]
        state = (_facts(self.simulator)[left] * self.mixer).sum(dim=1)  # a hash: products and sums modulo 2^64
        return left[_first_of_equals(state)][: NARROW if self.search.late else self.width]

    def _offer(self, greedy: bool, count: int) -> None:
        """What has ended competes; number 0 is the greedy episode alone."""
        over = ~self.simulator.playing & (self.all < count)
        if over.any():
            returns = torch.where(over, self.total, -torch.inf)
            self.search.offer(self.simulator, returns, 0 if greedy else 1)


def _facts(simulator: TensorSimulator) -> Tensor:
    """(E, columns) int64: environments that are equal here have the same future."""
    s = simulator.state
    agent = s.task[:, AGENT]
    start = torch.where(agent >= 0, s.task[:, START], -1)
    columns = (agent, start, s.env[:, CLOCK], s.agents[:, :, UP], s.agents[:, :, OUTAGE], s.lost.flatten(1))
    return torch.cat(columns, dim=1)


def _first_of_equals(values: Tensor) -> Tensor:
    """Increasing places at which a value (n,) stands for the first time."""
    ordered, place = values.sort(stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return place[new].sort().values
