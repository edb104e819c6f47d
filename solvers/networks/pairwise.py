"""One network for any number of tasks and agents: it scores (task, agent) pairs and `wait`, and values the state.

Tasks and agents hear of each other by messages along the pairs that could be, then every legal pair is scored from its task,
its agent, its own features and the pooled whole. Nothing depends on an index, so permuting tasks or agents permutes the scores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.simulator.view import View
from solvers.networks.features import AGENT, CAN, PAIR, TASK, Features, features


def linear(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    """Orthogonal initialisation (Andrychowicz et al. 2021, arXiv:2006.05990), zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class _Heard(torch.autograd.Function):
    """Messages relu(pair + task + agent) * can, and what is heard of them: their sums and maxima by agent and by task.

    Plain operations give the same; this writes over what it need not keep, because on a CPU most of the time goes into moving
    arrays, and finds the largest messages by arithmetic, because comparisons are not vectorised there. Where several messages
    are the largest each one gets the gradient: apart from exact ties above 0 that is what autograd would do.
    """

    @staticmethod
    def forward(
        ctx: Any, pair: Tensor, task: Tensor, agent: Tensor, can: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """pair (B, K, M, W), task (B, K, W), agent (B, M, W), can (B, K, M, 1); by agent (B, M, W) twice, by task (B, K, W)."""
        said = (pair + task[:, :, None]).add_(agent[:, None]).relu_().mul_(can)
        by_agent, by_task = said.amax(dim=1), said.amax(dim=2)
        ctx.save_for_backward(said, by_agent, by_task)
        return said.sum(dim=1), by_agent, said.sum(dim=2), by_task

    @staticmethod
    def backward(
        ctx: Any, sum1: Tensor, max1: Tensor, sum2: Tensor, max2: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of pair, task and agent."""
        said, by_agent, by_task = ctx.saved_tensors
        gradient = (sum1 + max1)[:, None] + (sum2 + max2)[:, :, None]
        sign = (said - by_agent[:, None]).sign_()  # 0 where it is the largest, else -1
        gradient.addcmul_(sign, max1[:, None])
        torch.sub(said, by_task[:, :, None], out=sign).sign_()
        gradient.addcmul_(sign, max2[:, :, None])
        gradient.mul_(torch.sign(said, out=sign))
        return gradient, gradient.sum(dim=2), gradient.sum(dim=1), None


class Network(nn.Module):
    """Gives logits (B, K * M + 1), -inf where illegal, and values (B,) in units of the load (`features.Features.load`)."""

    remembers = False  # whether a decision depends on those before

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments that build a network of this shape."""
        raise NotImplementedError

    def reset(self) -> None:
        """New episodes begin; a network with a memory forgets."""

    @staticmethod
    def see(view: View) -> Features:
        """What `forward` reads of B decisions: all features, or fewer where it needs fewer."""
        return features(view)


class Round(nn.Module):
    """Every pair that could be makes a message of its task, its agent and itself; tasks and agents hear the mean and the
    maximum of theirs and add them to what they knew (graph network: Battaglia et al. 2018, arXiv:1806.01261; layers normalised
    before use: Xiong et al. 2020, arXiv:2002.04745)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.task_norm, self.agent_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.of_pair, self.of_task, self.of_agent = (
            linear(n, width, 1.0) for n in (PAIR, width, width)
        )
        self.task_in, self.agent_in = linear(3 * width, width), linear(3 * width, width)
        self.task_out, self.agent_out = linear(width, width, 0.5), linear(width, width, 0.5)

    def forward(
        self, task: Tensor, agent: Tensor, pair: Tensor, can: Tensor
    ) -> tuple[Tensor, Tensor]:
        """task (B, K, width), agent (B, M, width), pair (B, K, M, PAIR), can (B, K, M, 1) = 1 where the pair could be."""
        t, a = self.task_norm(task), self.agent_norm(agent)
        sum1, max1, sum2, max2 = _Heard.apply(
            self.of_pair(pair), self.of_task(t), self.of_agent(a), can
        )
        to_agent = torch.cat([a, sum1 / can.sum(dim=1).clamp(min=1.0), max1], dim=-1)
        to_task = torch.cat([t, sum2 / can.sum(dim=2).clamp(min=1.0), max2], dim=-1)
        task = task + self.task_out(torch.relu(self.task_in(to_task)))
        return task, agent + self.agent_out(torch.relu(self.agent_in(to_agent)))


class PairNetwork(Network):
    """Scores every legal pair by its task, its agent, itself and the whole; any K and M."""

    def __init__(self, width: int = 32, rounds: int = 2, outputs: int = 1) -> None:
        """`outputs`: numbers per action, such as quantiles; with more than one the scores are (B, K * M + 1, outputs)."""
        super().__init__()
        self.width, self.rounds, self.outputs = width, rounds, outputs
        self.task, self.agent = linear(TASK, width), linear(AGENT, width)
        self.hearing = nn.ModuleList(Round(width) for _ in range(rounds))
        self.whole = linear(3 * width, width)
        self.of_pair, self.of_task, self.of_agent, self.of_whole = (
            linear(n, width, 1.0) for n in (PAIR, width, width, width)
        )
        self.score = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, outputs, 0.01))
        self.wait = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, outputs, 0.01))
        self.value = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, 1, 0.1))

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments that build a network of this shape."""
        return {"width": self.width, "rounds": self.rounds, "outputs": self.outputs}

    def forward(self, f: Features) -> tuple[Tensor, Tensor]:
        """Logits (B, K * M + 1) and values (B,)."""
        task, agent, whole = self.hear(f)
        legal = f.mask if self.outputs == 1 else f.mask[..., None]
        logits = self.scores(task, agent, whole, f).masked_fill(~legal, -torch.inf)
        return logits, -1.0 - self.value(whole).squeeze(1)

    def hear(self, f: Features) -> tuple[Tensor, Tensor, Tensor]:
        """What is known of tasks (B, K, width), agents (B, M, width) and the whole (B, width) after the messages."""
        task, agent, can = (
            torch.relu(self.task(f.task)),
            torch.relu(self.agent(f.agent)),
            f.pair[..., CAN, None],
        )
        for hear in self.hearing:
            task, agent = hear(task, agent, f.pair, can)
        largest = (torch.relu(task) * f.shown[..., None]).amax(
            dim=1
        )  # padding is 0, which no maximum of these notices
        pooled = [_mean(task, f.shown), largest, _mean(agent, f.present)]
        return task, agent, torch.relu(self.whole(torch.cat(pooled, dim=-1)))

    def scores(self, task: Tensor, agent: Tensor, whole: Tensor, f: Features) -> Tensor:
        """(B, K * M + 1) of the pairs and `wait`, where illegal any number; (B, K * M + 1, outputs) of more than one."""
        pairs = self._pairs(task, agent, whole, f)
        scores = torch.cat([pairs, self.wait(whole)[:, None]], dim=1)
        return scores.squeeze(2) if self.outputs == 1 else scores

    def _pairs(self, task: Tensor, agent: Tensor, whole: Tensor, f: Features) -> Tensor:
        """(B, K * M, outputs); on the CPU only legal pairs, few among all, are computed, the others are 0.

        On a GPU all are: to find the legal ones it would have to wait for the host, and adding up their gradients is slow.
        """
        if f.pair.is_cuda:
            parts = (
                self.of_task(task)[:, :, None]
                + self.of_agent(agent)[:, None]
                + self.of_whole(whole)[:, None, None]
            )
            return self.score(torch.relu(self.of_pair(f.pair) + parts)).flatten(1, 2)
        b, k, m = f.pair.shape[:3]
        entry = f.mask[:, :-1].flatten().nonzero().squeeze(1)  # index into B * K * M
        row = entry // (k * m)
        hidden = (
            self.of_pair(f.pair.flatten(0, 2).index_select(0, entry))
            + self.of_task(task).flatten(0, 1).index_select(0, entry // m)
            + self.of_agent(agent).flatten(0, 1).index_select(0, row * m + entry % m)
            + self.of_whole(whole).index_select(0, row)
        )
        score = self.score(torch.relu(hidden))
        return (
            torch.zeros(b * k * m, self.outputs, device=score.device)
            .index_put((entry,), score)
            .view(b, k * m, -1)
        )


def _mean(x: Tensor, keep: Tensor) -> Tensor:
    """(B, width): mean of x (B, n, width) over the entries to keep (B, n)."""
    kept = keep[..., None].float()
    return (x * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1.0)
