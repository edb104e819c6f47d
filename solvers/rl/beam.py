"""Beam search over the states of the simulator: of all continuations of W partial episodes, the W most promising are kept.

EXPANSION * W continuations are tried, the likeliest by the log-probabilities of all decisions so far. W of them are kept by

    return so far + predicted return + LIKELIHOOD * log-probability.

Likelihood alone is blind to costs, and of many predictions alone the luckiest error wins; on a few validation instances the sum
was mostly, not always, better than either. Two additions:

* Orders of the same decisions lead to the same state; of equal states one is kept.
* Rewards are never positive, so what has cost as much as a finished episode is dropped.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bench.simulator.tables import (
    AGENT,
    N_FINISHED,
    N_LOST,
    N_RUNNING,
    NEXT_ARRIVAL,
    OUTAGE,
    START,
    TIME,
    UP,
)
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from solvers.networks.pairwise import Network
from solvers.rl.rollouts import value_unit

EXPANSION = 2  # continuations tried per one kept
LIKELIHOOD = 0.02  # return that one nat is worth
CLOCK = [
    TIME,
    NEXT_ARRIVAL,
    N_RUNNING,
    N_FINISHED,
    N_LOST,
]  # with the pieces and the outages: all that the future hangs on


class Account(Protocol):
    """What keeps the best finished episode (`solvers.rl.decoding.Search`)."""

    value: float
    played: int
    decisions: int

    @property
    def late(self) -> bool:
        """The budget is spent."""

    def offer(self, simulator: TensorSimulator, returns: Tensor, first: int = 0) -> None:
        """Finished environments with their returns."""


class Beam:
    """Partial episodes live in the EXPANSION * W environments of one simulator.

    P partial episodes are kept (at most W), E environments, A actions.
    """

    def __init__(
        self, network: Network, simulator: TensorSimulator, width: int, search: Account
    ) -> None:
        self.network, self.simulator, self.width, self.search = network, simulator, width, search
        self.total = torch.zeros(
            simulator.n_envs, dtype=torch.float64, device=simulator.device
        )  # (E,) return so far
        self.logp = torch.zeros_like(self.total)  # (E,) log-probability so far
        self.logits = self.value = torch.zeros(0)  # (E, A); (E,) predicted return
        self.all = torch.arange(simulator.n_envs, device=simulator.device)  # (E,)
        generator = torch.Generator(simulator.device).manual_seed(0)
        size = len(_facts(simulator)[0])
        self.mixer = torch.randint(
            -(2**63), 2**63 - 1, (size,), generator=generator, device=simulator.device
        )

    def run(self) -> None:
        """Search until every partial episode has ended or been dropped, or the budget is spent."""
        self.search.played += self.width
        kept = self.all[:1][self.simulator.playing[:1]]
        self.look()
        while len(kept) and not self.search.late:
            count = self.expand(kept)
            self._offer(count)
            self.look()
            kept = self.select(count)
        self.simulator.check()

    def look(self) -> None:
        """All environments through the network's eyes."""
        seen = self.network.see(from_simulator(self.simulator))
        self.logits, relative = self.network(seen)
        self.value = relative * value_unit(self.simulator, seen)

    def expand(self, kept: Tensor) -> int:
        """Environments 0 to C - 1 become the C likeliest continuations of `kept` (P,), others repeat the first; returns C."""
        logp = self.logp[kept, None] + self.logits[kept].log_softmax(dim=1).double()  # (P, A)
        count = min(len(self.all), int((logp > -torch.inf).sum()))
        chosen = logp.flatten().topk(count).indices  # in order of likelihood
        chosen = torch.cat([chosen, chosen[:1].expand(len(self.all) - count)])
        parent, action = kept[chosen // logp.shape[1]], chosen % logp.shape[1]
        self.simulator.copy(parent, self.all)
        self.total, self.logp = (
            self.total[parent] + self.simulator.step(action),
            logp.flatten()[chosen],
        )
        self.search.decisions += count
        return count

    def select(self, count: int) -> Tensor:
        """(P,) environments to go on with: of the first `count`, the most promising different ones that can still win."""
        score = self.total + self.value + LIKELIHOOD * self.logp
        able = (self.all < count) & self.simulator.playing & (self.total > self.search.value)
        left = able.nonzero()[:, 0]
        left = left[score[left].argsort(descending=True, stable=True)]
        state = (_facts(self.simulator)[left] * self.mixer).sum(
            dim=1
        )  # a hash: products and sums modulo 2^64
        return left[_first_of_equals(state)][: self.width]

    def _offer(self, count: int) -> None:
        """What has ended competes, as episode 1."""
        over = ~self.simulator.playing & (self.all < count)
        if over.any():
            self.search.offer(self.simulator, torch.where(over, self.total, -torch.inf), 1)


def _facts(simulator: TensorSimulator) -> Tensor:
    """(E, columns) int64: environments that are equal here have the same future."""
    s = simulator.state
    agent = s.task[:, AGENT]
    start = torch.where(agent >= 0, s.task[:, START], -1)
    columns = (
        agent,
        start,
        s.env[:, CLOCK],
        s.agents[:, :, UP],
        s.agents[:, :, OUTAGE],
        s.lost.flatten(1),
    )
    return torch.cat(columns, dim=1)


def _first_of_equals(values: Tensor) -> Tensor:
    """Increasing places at which a value (n,) stands for the first time."""
    ordered, place = values.sort(stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return place[new].sort().values
