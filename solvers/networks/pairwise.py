"""A network for any number of tasks and agents: it scores (task, agent) pairs and `wait`.

Tasks and agents exchange messages along the pairs that can run. Then every legal pair is scored
from the embeddings of its task and its agent, its own features and an embedding of the whole state.
No weight belongs to an index, so permuting tasks or agents permutes the scores.

Shapes: B decisions, K tasks, M agents, W = `width` units.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from bench.simulator.tensors import TensorSimulator
from solvers.networks.base import Network, RenamedModule, linear
from solvers.networks.features import (
    AGENT_FEATURES,
    CAN_RUN,
    PAIR_FEATURES,
    TASK_FEATURES,
    Features,
)


class MessageAggregation(torch.autograd.Function):
    """Messages relu(pair + task + agent) * can_run, aggregated by agent and by task.

    Plain operations give the same values and gradients. This function is faster: it overwrites
    arrays that need not be kept, because on a CPU most time is spent moving memory, and it finds
    the largest messages by arithmetic, because comparisons are not vectorised there. If several
    messages are the largest one, each gets the gradient; apart from exact ties above 0 autograd
    does the same.
    """

    @staticmethod
    def forward(
        ctx: Any, pair: Tensor, task: Tensor, agent: Tensor, can_run: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Aggregate the messages of all pairs.

        Parameters
        ----------
        pair
            (B, K, M, W).
        task
            (B, K, W).
        agent
            (B, M, W).
        can_run
            (B, K, M, 1), 1 where the pair can run, else 0.

        Returns
        -------
        agent_sum, agent_max
            (B, M, W) sum and maximum over the tasks.
        task_sum, task_max
            (B, K, W) sum and maximum over the agents.
        """
        message = (pair + task[:, :, None]).add_(agent[:, None]).relu_().mul_(can_run)
        agent_max = message.amax(dim=1)
        task_max = message.amax(dim=2)
        ctx.save_for_backward(message, agent_max, task_max)
        return message.sum(dim=1), agent_max, message.sum(dim=2), task_max

    @staticmethod
    def backward(
        ctx: Any,
        agent_sum_gradient: Tensor,
        agent_max_gradient: Tensor,
        task_sum_gradient: Tensor,
        task_max_gradient: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of `pair`, `task` and `agent`; `can_run` has none."""
        message, agent_max, task_max = ctx.saved_tensors
        # every message gets the gradients of the sums and the maxima; where it is not the largest
        # one, sign is -1 and takes the gradient of that maximum away again
        gradient = (agent_sum_gradient + agent_max_gradient)[:, None] + (
            task_sum_gradient + task_max_gradient
        )[:, :, None]
        sign = (message - agent_max[:, None]).sign_()
        gradient.addcmul_(sign, agent_max_gradient[:, None])
        torch.sub(message, task_max[:, :, None], out=sign).sign_()
        gradient.addcmul_(sign, task_max_gradient[:, :, None])
        gradient.mul_(torch.sign(message, out=sign))  # of relu and can_run: 0 where message is 0
        return gradient, gradient.sum(dim=2), gradient.sum(dim=1), None


class MessagePassingLayer(RenamedModule):
    """A layer of a graph network on the pairs that can run, with residual connections.

    Every such pair makes a message from its task, its agent and its own features. Tasks and agents
    aggregate the mean and the maximum of their messages and add an update to their embeddings.
    Sources: graph networks, Battaglia et al. 2018, arXiv:1806.01261; layer normalisation before
    use, Xiong et al. 2020, arXiv:2002.04745.
    """

    former_names: ClassVar = {
        "of_pair": "project_pair",
        "of_task": "project_task",
        "of_agent": "project_agent",
    }

    def __init__(self, width: int) -> None:
        super().__init__()
        self.task_norm = nn.LayerNorm(width)
        self.agent_norm = nn.LayerNorm(width)
        self.project_pair = linear(PAIR_FEATURES, width, 1.0)
        self.project_task = linear(width, width, 1.0)
        self.project_agent = linear(width, width, 1.0)
        self.task_in = linear(3 * width, width)
        self.agent_in = linear(3 * width, width)
        self.task_out = linear(width, width, 0.5)
        self.agent_out = linear(width, width, 0.5)

    def forward(
        self, task: Tensor, agent: Tensor, pair: Tensor, can_run: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the updated embeddings of tasks (B, K, W) and agents (B, M, W).

        Parameters
        ----------
        task
            (B, K, W) embeddings.
        agent
            (B, M, W) embeddings.
        pair
            (B, K, M, PAIR_FEATURES) features.
        can_run
            (B, K, M, 1), 1 where the pair can run, else 0.
        """
        task_normed = self.task_norm(task)
        agent_normed = self.agent_norm(agent)
        agent_sum, agent_max, task_sum, task_max = MessageAggregation.apply(
            self.project_pair(pair),
            self.project_task(task_normed),
            self.project_agent(agent_normed),
            can_run,
        )
        agent_mean = agent_sum / can_run.sum(dim=1).clamp(min=1.0)
        task_mean = task_sum / can_run.sum(dim=2).clamp(min=1.0)
        to_agent = torch.cat([agent_normed, agent_mean, agent_max], dim=-1)
        to_task = torch.cat([task_normed, task_mean, task_max], dim=-1)
        task = task + self.task_out(torch.relu(self.task_in(to_task)))
        return task, agent + self.agent_out(torch.relu(self.agent_in(to_agent)))


class PairwiseNetwork(Network):
    """Scores every legal pair by its task, its agent, its features and the state; any K and M.

    Parameters
    ----------
    width
        W, units of every layer.
    message_passing_rounds
        Number of message passing layers.
    outputs
        Numbers per action, such as quantiles of a Q function. With more than one the logits are
        (B, K * M + 1, outputs).
    """

    kind = "pairs"
    trainable_by_play = True
    former_names: ClassVar = {
        "task": "embed_task",
        "agent": "embed_agent",
        "hearing": "layers",
        "whole": "embed_state",
        "of_pair": "project_pair",
        "of_task": "project_task",
        "of_agent": "project_agent",
        "of_whole": "project_state",
    }

    def __init__(self, width: int = 32, message_passing_rounds: int = 2, outputs: int = 1) -> None:
        super().__init__()
        self.width = width
        self.message_passing_rounds = message_passing_rounds
        self.outputs = outputs
        self.embed_task = linear(TASK_FEATURES, width)
        self.embed_agent = linear(AGENT_FEATURES, width)
        self.layers = nn.ModuleList(
            MessagePassingLayer(width) for _ in range(message_passing_rounds)
        )
        self.embed_state = linear(3 * width, width)
        self.project_pair = linear(PAIR_FEATURES, width, 1.0)
        self.project_task = linear(width, width, 1.0)
        self.project_agent = linear(width, width, 1.0)
        self.project_state = linear(width, width, 1.0)
        self.score = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, outputs, 0.01))
        self.wait = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, outputs, 0.01))
        self.value = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, 1, 0.1))

    @classmethod
    def for_simulator(
        cls, simulator: TensorSimulator, width: int, message_passing_rounds: int
    ) -> Self:
        """Return a new network, on the CPU; it serves every size of `simulator`."""
        return cls(width, message_passing_rounds)

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments with which the constructor builds a network of this shape."""
        return {
            "width": self.width,
            "message_passing_rounds": self.message_passing_rounds,
            "outputs": self.outputs,
        }

    def forward(self, f: Features) -> tuple[Tensor, Tensor]:
        """Return logits (B, K * M + 1), -inf where illegal, and values (B,)."""
        task, agent, state = self.encode(f)
        legal = f.mask if self.outputs == 1 else f.mask[..., None]
        logits = self.score_actions(task, agent, state, f).masked_fill(~legal, -torch.inf)
        return logits, -1.0 - self.value(state).squeeze(1)

    def encode(self, f: Features) -> tuple[Tensor, Tensor, Tensor]:
        """Return the embeddings of tasks (B, K, W), agents (B, M, W) and the whole state (B, W)."""
        task = torch.relu(self.embed_task(f.task))
        agent = torch.relu(self.embed_agent(f.agent))
        can_run = f.pair[..., CAN_RUN, None]
        for layer in self.layers:
            task, agent = layer(task, agent, f.pair, can_run)
        # padding counts as 0, which never exceeds a maximum of values that are not negative
        largest = (torch.relu(task) * f.shown[..., None]).amax(dim=1)
        pooled = [_masked_mean(task, f.shown), largest, _masked_mean(agent, f.present)]
        return task, agent, torch.relu(self.embed_state(torch.cat(pooled, dim=-1)))

    def score_actions(self, task: Tensor, agent: Tensor, state: Tensor, f: Features) -> Tensor:
        """Return the scores (B, K * M + 1) of the pairs and of `wait`.

        With more than one output their shape is (B, K * M + 1, outputs). Scores of illegal actions
        have no meaning. `task`, `agent` and `state` are the embeddings that `encode` returns.
        """
        pairs = self._score_pairs(task, agent, state, f)
        scores = torch.cat([pairs, self.wait(state)[:, None]], dim=1)
        return scores.squeeze(2) if self.outputs == 1 else scores

    def _score_pairs(self, task: Tensor, agent: Tensor, state: Tensor, f: Features) -> Tensor:
        """Return the scores (B, K * M, outputs) of the pairs.

        On the CPU only the legal pairs, a small part of all, are scored; the others are 0. On a GPU
        all are: to find the legal ones the host would have to wait for the device, and adding their
        gradients up is slow there.
        """
        if f.pair.is_cuda:
            parts = (
                self.project_task(task)[:, :, None]
                + self.project_agent(agent)[:, None]
                + self.project_state(state)[:, None, None]
            )
            return self.score(torch.relu(self.project_pair(f.pair) + parts)).flatten(1, 2)
        b, k, m = f.pair.shape[:3]
        entry = f.mask[:, :-1].flatten().nonzero().squeeze(1)  # index into B * K * M
        row = entry // (k * m)
        hidden = (
            self.project_pair(f.pair.flatten(0, 2).index_select(0, entry))
            + self.project_task(task).flatten(0, 1).index_select(0, entry // m)
            + self.project_agent(agent).flatten(0, 1).index_select(0, row * m + entry % m)
            + self.project_state(state).index_select(0, row)
        )
        score = self.score(torch.relu(hidden))
        return (
            torch.zeros(b * k * m, self.outputs, device=score.device)
            .index_put((entry,), score)
            .view(b, k * m, -1)
        )


def _masked_mean(x: Tensor, keep: Tensor) -> Tensor:
    """Return the mean (B, W) of x (B, n, W) over the entries where `keep` (B, n) is true."""
    kept = keep[..., None].float()
    return (x * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1.0)
