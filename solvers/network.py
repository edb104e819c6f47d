"""One network for any number of tasks and agents: it scores (task, agent) pairs and `wait`, and values the state.

Tasks and agents hear of each other by attention whose scores depend on the pair (Vaswani et al. 2017, arXiv:1706.03762, with
edge biases), then every legal pair is scored from its task, its agent, its own features and the pooled whole. Nothing depends
on an index, so permuting tasks or agents permutes the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from solvers.features import AGENT, PAIR, TASK, Features, View, features


def linear(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    """Orthogonal initialisation (Andrychowicz et al. 2021, arXiv:2006.05990), zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Network(nn.Module):
    """Gives logits (B, K * M + 1), -inf where illegal, and values (B,) in units of the load (`features.Features.load`)."""

    @property
    def shape(self) -> dict[str, int]:
        """The arguments that build a network of this shape."""
        raise NotImplementedError

    @staticmethod
    def see(view: View) -> Features:
        """What `forward` reads of B decisions: all features, or fewer where it needs fewer."""
        return features(view)


class Round(nn.Module):
    """Each agent hears of the tasks shown, then each task of the agents, rivals included; both keep what they knew."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = linear(width, width, 1.0), linear(width, width, 1.0)
        self.task_in, self.agent_in = linear(2 * width, width), linear(2 * width, width)

    def forward(self, task: Tensor, agent: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
        """task (B, K, width), agent (B, M, width), edge (B, K, M, 2) attention biases, very low at padding."""
        affinity = torch.einsum("bkw,bmw->bkm", self.key(task), self.query(agent)) / task.shape[2] ** 0.5
        heard = (affinity + edge[..., 0]).softmax(dim=1).transpose(1, 2) @ task
        agent = agent + torch.relu(self.agent_in(torch.cat([agent, heard], dim=-1)))
        told = (affinity + edge[..., 1]).softmax(dim=2) @ agent
        return task + torch.relu(self.task_in(torch.cat([task, told], dim=-1))), agent


class PairNetwork(Network):
    """Scores every legal pair by its task, its agent, itself and the whole; any K and M."""

    def __init__(self, width: int = 32, rounds: int = 2) -> None:
        super().__init__()
        self.width, self.rounds = width, rounds
        self.task, self.agent = linear(TASK, width), linear(AGENT, width)
        self.edge = linear(PAIR, 2 * rounds, 1.0)  # attention biases of each round: agents over tasks, tasks over agents
        self.hearing = nn.ModuleList(Round(width) for _ in range(rounds))
        self.whole = linear(3 * width, width)
        self.of_pair, self.of_task, self.of_agent, self.of_whole = (linear(n, width, 1.0) for n in (PAIR, width, width, width))
        self.score = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, 1, 0.01))
        self.wait = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, 1, 0.01))
        self.value = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, 1, 0.1))

    @property
    def shape(self) -> dict[str, int]:
        """The arguments that build a network of this shape."""
        return {"width": self.width, "rounds": self.rounds}

    def forward(self, f: Features) -> tuple[Tensor, Tensor]:
        """Logits (B, K * M + 1) and values (B,)."""
        task, agent = torch.relu(self.task(f.task)), torch.relu(self.agent(f.agent))
        hidden = torch.where(f.shown[:, :, None] & f.present[:, None], 0.0, -1e9)[..., None]
        edges = (self.edge(f.pair) + hidden).split(2, dim=-1)
        for hear, edge in zip(self.hearing, edges, strict=True):
            task, agent = hear(task, agent, edge)
        pooled = [_mean(task, f.shown), (task * f.shown[..., None]).amax(dim=1), _mean(agent, f.present)]
        whole = torch.relu(self.whole(torch.cat(pooled, dim=-1)))
        logits = torch.cat([self._scores(task, agent, whole, f), self.wait(whole)], dim=1)
        return logits.masked_fill(~f.mask, -torch.inf), -1.0 - self.value(whole).squeeze(1)

    def _scores(self, task: Tensor, agent: Tensor, whole: Tensor, f: Features) -> Tensor:
        """(B, K * M); on the CPU only legal pairs, few among all, are computed, the others are 0.

        On a GPU all are: to find the legal ones it would have to wait for the host, and adding up their gradients is slow.
        """
        if f.pair.is_cuda:
            parts = self.of_task(task)[:, :, None] + self.of_agent(agent)[:, None] + self.of_whole(whole)[:, None, None]
            return self.score(torch.relu(self.of_pair(f.pair) + parts)).flatten(1)
        b, k, m = f.pair.shape[:3]
        entry = f.mask[:, :-1].flatten().nonzero().squeeze(1)  # index into B * K * M
        row = entry // (k * m)
        hidden = (
            self.of_pair(f.pair.flatten(0, 2).index_select(0, entry))
            + self.of_task(task).flatten(0, 1).index_select(0, entry // m)
            + self.of_agent(agent).flatten(0, 1).index_select(0, row * m + entry % m)
            + self.of_whole(whole).index_select(0, row)
        )
        score = self.score(torch.relu(hidden)).squeeze(1)
        return torch.zeros(b * k * m, device=score.device).index_put((entry,), score).view(b, k * m)


def _mean(x: Tensor, keep: Tensor) -> Tensor:
    """(B, width): mean of x (B, n, width) over the entries to keep (B, n)."""
    kept = keep[..., None].float()
    return (x * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1.0)
