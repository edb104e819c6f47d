"""One network for any number of tasks and agents: it scores (task, agent) pairs and `wait`, and values the state.

Tasks and agents hear of each other by attention whose scores depend on the pair (Vaswani et al. 2017, arXiv:1706.03762, with
edge biases), then every legal pair is scored from its task, its agent, its own features and the pooled whole. Nothing depends
on an index, so permuting tasks or agents permutes the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from solvers.features import AGENT, PAIR, TASK, Features


def linear(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    """Orthogonal initialisation (Andrychowicz et al. 2021, arXiv:2006.05990), zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class PairNetwork(nn.Module):
    """Logits (B, K * M + 1), -inf where illegal, and values (B,) in units of the load (see `features.Features.load`)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.task, self.agent = linear(TASK, width), linear(AGENT, width)
        self.query, self.key = linear(width, width, 1.0), linear(width, width, 1.0)
        self.edge = linear(PAIR, 2, 1.0)  # attention biases: agents over tasks, tasks over agents
        self.task_in, self.agent_in = linear(2 * width, width), linear(2 * width, width)
        self.whole = linear(3 * width, width)
        self.of_pair, self.of_task, self.of_agent, self.of_whole = (linear(n, width, 1.0) for n in (PAIR, width, width, width))
        self.score = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, 1, 0.01))
        self.wait = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, 1, 0.01))
        self.value = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, 1, 0.1))

    def forward(self, f: Features) -> tuple[Tensor, Tensor]:
        """Logits (B, K * M + 1) and values (B,)."""
        task, agent = self._attend(torch.relu(self.task(f.task)), torch.relu(self.agent(f.agent)), f)
        pooled = [_mean(task, f.shown), (task * f.shown[..., None]).amax(dim=1), _mean(agent, f.present)]
        whole = torch.relu(self.whole(torch.cat(pooled, dim=-1)))
        logits = torch.cat([self._scores(task, agent, whole, f), self.wait(whole)], dim=1)
        return logits.masked_fill(~f.mask, -torch.inf), -1.0 - self.value(whole).squeeze(1)

    def _attend(self, task: Tensor, agent: Tensor, f: Features) -> tuple[Tensor, Tensor]:
        """Each agent hears of the tasks shown, then each task of the agents, rivals included: (B, K, width), (B, M, width)."""
        affinity = torch.einsum("bkw,bmw->bkm", self.key(task), self.query(agent)) / self.width**0.5
        to_agent, to_task = (affinity[..., None] + self.edge(f.pair)).unbind(dim=-1)
        over_tasks = to_agent.masked_fill(~f.shown[..., None], -1e9).softmax(dim=1)
        heard = torch.einsum("bkm,bkw->bmw", over_tasks, task)
        agent = torch.relu(self.agent_in(torch.cat([agent, heard], dim=-1)))
        over_agents = to_task.masked_fill(~f.present[:, None], -1e9).softmax(dim=2)
        told = torch.einsum("bkm,bmw->bkw", over_agents, agent)
        return torch.relu(self.task_in(torch.cat([task, told], dim=-1))), agent

    def _scores(self, task: Tensor, agent: Tensor, whole: Tensor, f: Features) -> Tensor:
        """(B, K * M); only legal pairs, few among all, are computed, the others are 0."""
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
