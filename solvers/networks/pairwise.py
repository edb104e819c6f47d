"""A network for any number of tasks and agents: it scores (task, agent) pairs and `wait`.

Tasks and agents exchange messages along the pairs that can run. Then every legal pair is scored
from the embeddings of its task and its agent, its own features and an embedding of the whole state.
No weight belongs to an index, so permuting tasks or agents permutes the scores.

Shapes: B decisions, K tasks, M agents, W = `width` units.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

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
from solvers.networks.kernels.messages import aggregate, aggregate_backward

COMPILED = True  # on the CPU, compiled code aggregates messages; False: operations of torch


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


class CompiledMessageAggregation(torch.autograd.Function):
    """The same on the CPU, of the pairs that can run only, with the projection of pairs.

    Features of pairs have no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        pair: Tensor,
        row: Tensor,
        weight: Tensor,
        bias: Tensor,
        task: Tensor,
        agent: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Aggregate the messages of all pairs that can run.

        Parameters
        ----------
        pair
            (B, K, M, PAIR_FEATURES) features.
        row
            (B, K) row in `task` of each task, of padding any.
        weight, bias
            (W, PAIR_FEATURES) and (W,) of the projection of pairs.
        task, agent
            (n, W), (B, M, W).

        Returns
        -------
        agent_sum, agent_max
            (B, M, W) sum and maximum over the tasks.
        task_sum, task_max
            (n, W) sum and maximum over the agents.
        """
        arrays = _arrays(pair, row, weight.t(), bias, task, agent)
        wanted = any(ctx.needs_input_grad)
        kept = int(pair[..., CAN_RUN].count_nonzero()) if wanted else 1
        message = task.new_empty(max(kept, 1), len(bias))
        sums = [torch.zeros_like(tensor) for tensor in (agent, agent, task, task)]
        aggregate(*arrays, *_arrays(message, *sums))
        agent_sum, agent_max, task_sum, task_max = sums
        if wanted:
            ctx.save_for_backward(pair, row, message, agent_max, task_max)
        return agent_sum, agent_max, task_sum, task_max

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of `weight`, `bias`, `task` and `agent`; the others have none."""
        pair, row, message, agent_max, task_max = ctx.saved_tensors
        weight = message.new_zeros(pair.shape[3], message.shape[1])
        bias = torch.zeros_like(message[0])
        task, agent = torch.zeros_like(task_max), torch.zeros_like(agent_max)
        aggregate_backward(
            *_arrays(pair, row, message, agent_max, task_max, *gradients),
            *_arrays(weight, bias, task, agent),
        )
        return None, None, weight.t(), bias, task, agent


def _arrays(*tensors: Tensor) -> list[Any]:
    """Return the memory of CPU tensors as arrays in C order, a copy where they have another one."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


class Pairs(NamedTuple):
    """What the layers need to know of the pairs of B decisions.

    On a GPU the n tasks are all B * K, padding included. On the CPU they are those that are shown.
    """

    features: Tensor  # (B, K, M, PAIR_FEATURES)
    can_run: Tensor  # (B, K, M, 1), 1 where the pair can run, else 0
    shown: Tensor | None  # (n,) the tasks that are shown, as indices into B * K; None: all are kept
    row: Tensor  # (B, K) the row of each task among the n, of padding any row
    per_agent: Tensor  # (B, M, 1) tasks that each agent can run, at least 1
    per_task: Tensor  # (n, 1) agents that can run each task, at least 1

    @classmethod
    def of(cls, f: Features) -> Pairs:
        """Return them for the decisions `f`."""
        can_run = f.pair[..., CAN_RUN, None]
        if COMPILED and not f.pair.is_cuda:
            shown = f.shown.flatten().nonzero().squeeze(1)
            row = f.shown.flatten().cumsum(0).sub_(1).clamp_(min=0).view(f.shown.shape)
        else:
            shown = None
            row = torch.arange(f.shown.numel(), device=f.shown.device).view(f.shown.shape)
        pairs = cls(f.pair, can_run, shown, row, can_run.sum(dim=1).clamp(min=1.0), can_run)
        return pairs._replace(per_task=pairs.rows(can_run.sum(dim=2)).clamp(min=1.0))

    def rows(self, tasks: Tensor) -> Tensor:
        """Return the rows (n, ...) of tasks (B, K, ...)."""
        flat = tasks.flatten(0, 1)
        return flat if self.shown is None else flat.index_select(0, self.shown)

    def tasks(self, rows: Tensor) -> Tensor:
        """Return rows (n, W) as tasks (B, K, W), 0 at padding that is not among the rows."""
        if self.shown is not None:
            empty = rows.new_zeros(self.row.numel(), rows.shape[1])
            rows = empty.index_copy(0, self.shown, rows)
        return rows.view(*self.row.shape, -1)

    def aggregate(
        self, project: nn.Linear, task: Tensor, agent: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return sum and maximum of the messages by agent (B, M, W) and by task (n, W).

        Parameters
        ----------
        project
            The projection of pair features.
        task, agent
            (n, W), (B, M, W).
        """
        if self.shown is not None:
            return CompiledMessageAggregation.apply(
                self.features, self.row, project.weight, project.bias, task, agent
            )
        agent_sum, agent_max, *by_task = MessageAggregation.apply(
            project(self.features), self.tasks(task), agent, self.can_run
        )
        return agent_sum, agent_max, by_task[0].flatten(0, 1), by_task[1].flatten(0, 1)


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

    def forward(self, task: Tensor, agent: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Return the updated embeddings of tasks (n, W) and agents (B, M, W).

        Parameters
        ----------
        task, agent
            (n, W), (B, M, W) embeddings.
        pairs
            Of the n tasks and the agents.
        """
        task_normed = self.task_norm(task)
        agent_normed = self.agent_norm(agent)
        agent_sum, agent_max, task_sum, task_max = pairs.aggregate(
            self.project_pair, self.project_task(task_normed), self.project_agent(agent_normed)
        )
        to_agent = torch.cat([agent_normed, agent_sum / pairs.per_agent, agent_max], dim=-1)
        to_task = torch.cat([task_normed, task_sum / pairs.per_task, task_max], dim=-1)
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
        pairs = Pairs.of(f)
        rows = torch.relu(self.embed_task(pairs.rows(f.task)))
        agent = torch.relu(self.embed_agent(f.agent))
        for layer in self.layers:
            rows, agent = layer(rows, agent, pairs)
        task = pairs.tasks(rows)
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
            + _project_rows(self.project_task, task.flatten(0, 1), entry // m)
            + _project_rows(self.project_agent, agent.flatten(0, 1), row * m + entry % m)
            + _project_rows(self.project_state, state, row)
        )
        score = self.score(torch.relu(hidden))
        return (
            score.new_zeros(b * k * m, self.outputs).index_put((entry,), score).view(b, k * m, -1)
        )


def _project_rows(project: nn.Linear, x: Tensor, rows: Tensor) -> Tensor:
    """Return the projection (r, W) of the rows (r,) of x (n, W), by the smaller product."""
    if len(rows) < len(x):
        return project(x.index_select(0, rows))
    return project(x).index_select(0, rows)


def _masked_mean(x: Tensor, keep: Tensor) -> Tensor:
    """Return the mean (B, W) of x (B, n, W) over the entries where `keep` (B, n) is true."""
    kept = keep[..., None].float()
    return (x * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1.0)
