"""The graph on which the pairwise network passes messages: tasks and agents, joined by pairs.

There are two implementations with the same results: `PaddedGraph` computes every pair, padding
included, with operations of torch on any device; `CompiledGraph` computes on the CPU only what is
there, in compiled code. On a GPU padding is cheaper than finding out what is there, for which the
host would have to wait for the device.

Shapes: B decisions, K tasks and M agents with padding, W units. n tasks are B * K, or those that
are shown; p pairs are B * K * M, or those that can run; q pairs are B * K * M, or the legal ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from solvers.networks.features import CAN_RUN, Features
from solvers.networks.kernels import graph as kernels
from solvers.networks.kernels.graph import GraphArrays

COMPILED = True  # whether CPU tensors get a `CompiledGraph`


class TaskAgentGraph(ABC):
    """The tasks, agents and pairs of B decisions.

    Attributes
    ----------
    task_features
        (n, TASK_FEATURES).
    agent_features
        (B, M, AGENT_FEATURES).
    pair_features
        (p, PAIR_FEATURES) of the pairs that exchange messages.
    legal_features
        (q, PAIR_FEATURES) of the pairs that are scored.
    """

    task_features: Tensor
    agent_features: Tensor
    pair_features: Tensor
    legal_features: Tensor

    @staticmethod
    def of(f: Features) -> TaskAgentGraph:
        """Return the graph of the decisions `f`, by the implementation for their device."""
        return CompiledGraph(f) if COMPILED and not f.pair.is_cuda else PaddedGraph(f)

    @abstractmethod
    def aggregate(
        self, message: Tensor, task: Tensor, agent: Tensor, task_part: Tensor, agent_part: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what tasks and agents receive from the messages relu(sum of three parts).

        Parameters
        ----------
        message
            (p, W) the part of the pairs.
        task, agent
            (n, W) and (B, M, W).
        task_part, agent_part
            (n, W) and (B, M, W) the parts of tasks and agents.

        Returns
        -------
        to_task, to_agent
            (n, 3 * W) and (B, M, 3 * W): `task` or `agent`, mean and maximum of their messages.
        """

    @abstractmethod
    def pool(self, task: Tensor, agent: Tensor) -> Tensor:
        """Return the mean and the positive maximum of the tasks and the mean of the agents.

        `task` is (n, W), `agent` (B, M, W), the result (B, 3 * W).
        """

    @abstractmethod
    def combine(
        self, hidden: Tensor, task_part: Tensor, agent_part: Tensor, state_part: Tensor
    ) -> Tensor:
        """Return relu(sum of four parts) of the pairs that are scored, (q, W).

        Parameters
        ----------
        hidden
            (q, W).
        task_part, agent_part, state_part
            (n, W), (B, M, W) and (B, W).
        """

    @abstractmethod
    def place(self, score: Tensor) -> Tensor:
        """Return the scores (q, outputs) as (B, K * M, outputs), any values at illegal pairs."""

    @abstractmethod
    def padded(self, task: Tensor) -> Tensor:
        """Return rows (n, W) of tasks as (B, K, W), any values at padding."""


class PaddedGraph(TaskAgentGraph):
    """The graph of the decisions `f` with operations of torch, on any device."""

    def __init__(self, f: Features) -> None:
        self.task_features = f.task.flatten(0, 1)
        self.agent_features = f.agent
        self.pair_features = self.legal_features = f.pair.flatten(0, 2)
        self.shape = f.pair.shape[:3]
        self.can_run = f.pair[..., CAN_RUN, None]
        self.per_task = self.can_run.sum(dim=2).clamp(min=1.0)
        self.per_agent = self.can_run.sum(dim=1).clamp(min=1.0)
        self.shown = f.shown
        self.present = f.present

    def aggregate(
        self, message: Tensor, task: Tensor, agent: Tensor, task_part: Tensor, agent_part: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what tasks and agents receive."""
        agent_sum, agent_max, task_sum, task_max = MessageAggregation.apply(
            message.view(*self.shape, -1), self.padded(task_part), agent_part, self.can_run
        )
        to_task = torch.cat([self.padded(task), task_sum / self.per_task, task_max], dim=-1)
        to_agent = torch.cat([agent, agent_sum / self.per_agent, agent_max], dim=-1)
        return to_task.flatten(0, 1), to_agent

    def pool(self, task: Tensor, agent: Tensor) -> Tensor:
        """Return means and positive maxima."""
        rows = self.padded(task)
        # padding counts as 0, which never exceeds a maximum of values that are not negative
        largest = (torch.relu(rows) * self.shown[..., None]).amax(dim=1)
        means = _masked_mean(rows, self.shown), _masked_mean(agent, self.present)
        return torch.cat([means[0], largest, means[1]], dim=-1)

    def combine(
        self, hidden: Tensor, task_part: Tensor, agent_part: Tensor, state_part: Tensor
    ) -> Tensor:
        """Return the hidden units of all pairs."""
        parts = self.padded(task_part)[:, :, None] + agent_part[:, None] + state_part[:, None, None]
        return torch.relu(hidden.view(*self.shape, -1) + parts).flatten(0, 2)

    def place(self, score: Tensor) -> Tensor:
        """Return the scores of all pairs."""
        return score.view(self.shape[0], self.shape[1] * self.shape[2], -1)

    def padded(self, task: Tensor) -> Tensor:
        """Return the rows of all tasks."""
        return task.view(*self.shape[:2], -1)


class CompiledGraph(TaskAgentGraph):
    """The graph of the decisions `f` in compiled code, on the CPU; features have no gradient."""

    def __init__(self, f: Features) -> None:
        b, k, m, features = f.pair.shape
        shown, task, pair, mask = _arrays(f.shown, f.task, f.pair, f.mask)
        n, p, q = kernels.count_graph(shown, pair, mask)

        def floats(*shape: int) -> Tensor:
            return f.pair.new_empty(shape)

        def integers(size: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.empty(size, dtype=dtype)

        tensors = GraphArrays(
            task_features=floats(n, f.task.shape[2]),
            first_task=integers(b + 1, torch.int64),
            position=integers(n, torch.int64),
            pair_features=floats(p, features),
            pair_task=integers(p),
            pair_agent=integers(p),
            legal_features=floats(q, features),
            legal_task=integers(q),
            legal_agent=integers(q),
            legal_decision=integers(q),
            legal_position=integers(q, torch.int64),
            per_task=floats(n),
            per_agent=floats(b * m),
        )
        self.arrays = GraphArrays._make(_arrays(*tensors))
        kernels.list_graph(shown, task, pair, mask, self.arrays)
        self.task_features = tensors.task_features
        self.agent_features = f.agent
        self.pair_features = tensors.pair_features
        self.legal_features = tensors.legal_features
        self.position = tensors.position
        self.legal_position = tensors.legal_position
        self.present = f.present
        self.shape = b, k, m

    def aggregate(
        self, message: Tensor, task: Tensor, agent: Tensor, task_part: Tensor, agent_part: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what tasks and agents receive."""
        return CompiledAggregation.apply(self.arrays, message, task, agent, task_part, agent_part)

    def pool(self, task: Tensor, agent: Tensor) -> Tensor:
        """Return means and positive maxima."""
        return CompiledPool.apply(self.arrays, self.present, task, agent)

    def combine(
        self, hidden: Tensor, task_part: Tensor, agent_part: Tensor, state_part: Tensor
    ) -> Tensor:
        """Return the hidden units of the legal pairs."""
        return CompiledCombination.apply(self.arrays, hidden, task_part, agent_part, state_part)

    def place(self, score: Tensor) -> Tensor:
        """Return the scores of the legal pairs, 0 at the others."""
        b, k, m = self.shape
        scores = score.new_zeros(b * k * m, score.shape[1])
        return scores.index_copy(0, self.legal_position, score).view(b, k * m, -1)

    def padded(self, task: Tensor) -> Tensor:
        """Return the rows of the tasks, 0 at padding."""
        b, k, _ = self.shape
        rows = task.new_zeros(b * k, task.shape[1])
        return rows.index_copy(0, self.position, task).view(b, k, -1)


class MessageAggregation(torch.autograd.Function):
    """Messages relu(pair + task + agent) * can_run, aggregated by agent and by task.

    Plain operations give the same values and gradients. This function is faster: it overwrites
    arrays that need not be kept, because most time is spent moving memory, and it finds the largest
    messages by arithmetic. If several messages are the largest one, each gets the gradient; apart
    from exact ties above 0 autograd does the same.
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


class CompiledAggregation(torch.autograd.Function):
    """`TaskAgentGraph.aggregate` of the pairs that can run; overwrites `message`."""

    @staticmethod
    def forward(
        ctx: Any,
        arrays: GraphArrays,
        message: Tensor,
        task: Tensor,
        agent: Tensor,
        task_part: Tensor,
        agent_part: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return `to_task` and `to_agent`."""
        to_task = task.new_empty(len(task), 3 * task.shape[1])
        to_agent = agent.new_empty(*agent.shape[:2], 3 * agent.shape[2])
        kernels.aggregate(
            arrays,
            *_rows(task, agent, task_part, agent_part, message),
            *_thirds(to_task, to_agent),
        )
        if any(ctx.needs_input_grad):
            ctx.arrays = arrays
            ctx.save_for_backward(message, to_task, to_agent)
        return to_task, to_agent

    @staticmethod
    def backward(
        ctx: Any, to_task_gradient: Tensor, to_agent_gradient: Tensor
    ) -> tuple[None, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of all but the arrays."""
        message, to_task, to_agent = ctx.saved_tensors
        width = message.shape[1]
        message_gradient = torch.empty_like(message)
        task_part = message.new_zeros(len(to_task), width)
        agent_part = message.new_zeros(*to_agent.shape[:2], width)
        task = to_task_gradient[..., :width].contiguous()
        agent = to_agent_gradient[..., :width].contiguous()
        kernels.aggregate_backward(
            ctx.arrays,
            *_rows(message),
            *_thirds(to_task, to_agent, to_task_gradient, to_agent_gradient),
            *_rows(message_gradient, task_part, agent_part),
        )
        return None, message_gradient, task, agent, task_part, agent_part


class CompiledCombination(torch.autograd.Function):
    """`TaskAgentGraph.combine` of the legal pairs; overwrites `hidden`."""

    @staticmethod
    def forward(
        ctx: Any,
        arrays: GraphArrays,
        hidden: Tensor,
        task_part: Tensor,
        agent_part: Tensor,
        state_part: Tensor,
    ) -> Tensor:
        """Return the hidden units (q, W)."""
        kernels.combine(arrays, *_rows(task_part, agent_part, state_part, hidden))
        ctx.mark_dirty(hidden)
        if any(ctx.needs_input_grad):
            ctx.arrays = arrays
            ctx.shapes = task_part.shape, agent_part.shape, state_part.shape
            ctx.save_for_backward(hidden)
        return hidden

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of all but the arrays."""
        (hidden,) = ctx.saved_tensors
        hidden_part = torch.empty_like(hidden)
        parts = [hidden.new_zeros(shape) for shape in ctx.shapes]
        kernels.combine_backward(ctx.arrays, *_rows(hidden, gradient, hidden_part, *parts))
        return None, hidden_part, parts[0], parts[1], parts[2]


class CompiledPool(torch.autograd.Function):
    """`TaskAgentGraph.pool` of the tasks that are shown."""

    @staticmethod
    def forward(
        ctx: Any, arrays: GraphArrays, present: Tensor, task: Tensor, agent: Tensor
    ) -> Tensor:
        """Return means and positive maxima (B, 3 * W)."""
        pooled = task.new_empty(len(present), 3 * task.shape[1])
        kernels.pool(arrays, *_arrays(present), *_rows(task, agent), *_thirds(pooled))
        if any(ctx.needs_input_grad):
            ctx.arrays = arrays
            ctx.save_for_backward(present, task, pooled)
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor, Tensor]:
        """Return the gradients of `task` and `agent`."""
        present, task, pooled = ctx.saved_tensors
        task_gradient = torch.empty_like(task)
        agent_gradient = task.new_empty(*present.shape, task.shape[1])
        kernels.pool_backward(
            ctx.arrays,
            *_arrays(present),
            *_rows(task),
            *_thirds(pooled, gradient),
            *_arrays(task.new_empty(task.shape[1])),
            *_rows(task_gradient, agent_gradient),
        )
        return None, None, task_gradient, agent_gradient


def _arrays(*tensors: Tensor) -> list[Any]:
    """Return the memory of CPU tensors as arrays in C order, a copy where they have another one."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _rows(*tensors: Tensor) -> list[Any]:
    """Return the memory of CPU tensors (..., W) as arrays of rows (n, W)."""
    return _arrays(*(tensor.flatten(0, -2) for tensor in tensors))


def _thirds(*tensors: Tensor) -> list[Any]:
    """Return the memory of CPU tensors (..., 3 * W) as arrays (n, 3, W)."""
    return _arrays(*(tensor.reshape(-1, 3, tensor.shape[-1] // 3) for tensor in tensors))


def _masked_mean(x: Tensor, keep: Tensor) -> Tensor:
    """Return the mean (B, W) of x (B, n, W) over the entries where `keep` (B, n) is true."""
    kept = keep[..., None].float()
    return (x * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1.0)
