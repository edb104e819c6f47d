"""The graph on which the pairwise network passes messages: tasks and agents, joined by pairs.

What a graph computes has no parameters; of each operation there is the derivative, too. There are
two implementations with the same results: `PaddedGraph` computes every pair, padding
included, with operations of torch on any device; `CompiledGraph` computes on the CPU only what is
there, in compiled code. On a GPU padding is cheaper than finding out what is there, for which the
host would have to wait for the device.

Shapes: B decisions, K tasks and M agents with padding, W units. n tasks are B * K, or those that
are shown; p pairs are B * K * M, or those that can run; q pairs are B * K * M, or the legal ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

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
        (B * M, AGENT_FEATURES).
    pair_features
        (p, PAIR_FEATURES) of the pairs that exchange messages.
    legal_features
        (q, PAIR_FEATURES) of the pairs that are scored.
    shape
        B, K and M.
    """

    task_features: Tensor
    agent_features: Tensor
    pair_features: Tensor
    legal_features: Tensor
    shape: tuple[int, int, int]

    @staticmethod
    def of(f: Features) -> TaskAgentGraph:
        """Return the graph of the decisions `f`, by the implementation for their device."""
        return CompiledGraph(f) if COMPILED and not f.pair.is_cuda else PaddedGraph(f)

    @abstractmethod
    def aggregate(
        self, message: Tensor, task: Tensor, agent: Tensor, task_part: Tensor, agent_part: Tensor
    ) -> Received:
        """Return what tasks and agents receive from the messages relu(sum of three parts).

        Parameters
        ----------
        message
            (p, W) the part of the pairs; the messages replace it.
        task, agent
            (n, W) and (B * M, W).
        task_part, agent_part
            (n, W) and (B * M, W) the parts of tasks and agents.
        """

    @abstractmethod
    def aggregate_backward(
        self, received: Received, to_task: Tensor, to_agent: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of the arguments of `aggregate`, in their order.

        `to_task` and `to_agent` are the gradients of those of `received`. If several messages are
        the largest one, each gets the gradient of the maximum.
        """

    @abstractmethod
    def pool(self, task: Tensor, agent: Tensor) -> Tensor:
        """Return the mean and the positive maximum of the tasks and the mean of the agents.

        `task` is (n, W), `agent` (B * M, W), the result (B, 3 * W).
        """

    @abstractmethod
    def pool_backward(
        self, task: Tensor, pooled: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of `task` and `agent`, given that of `pooled`.

        Tasks that share a maximum share its gradient.
        """

    @abstractmethod
    def combine(
        self, hidden: Tensor, task_part: Tensor, agent_part: Tensor, state_part: Tensor
    ) -> None:
        """Replace `hidden` by relu(sum of four parts) of the pairs that are scored.

        Parameters
        ----------
        hidden
            (q, W).
        task_part, agent_part, state_part
            (n, W), (B * M, W) and (B, W).
        """

    @abstractmethod
    def combine_backward(
        self, hidden: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of the arguments of `combine`, given that of the result `hidden`."""

    @abstractmethod
    def place(self, score: Tensor) -> Tensor:
        """Return scores (q, outputs) as (B, K * M, outputs), any values at illegal pairs."""

    @abstractmethod
    def place_backward(self, gradient: Tensor) -> Tensor:
        """Return the gradient (q, outputs) of `score`, given that of the result of `place`."""

    @abstractmethod
    def padded(self, task: Tensor) -> Tensor:
        """Return rows (n, W) of tasks as (B, K, W), any values at padding."""


class Received(NamedTuple):
    """What tasks and agents receive, and the messages."""

    message: Tensor  # (p, W)
    to_task: Tensor  # (n, 3 * W): the task, the mean and the maximum of its messages
    to_agent: Tensor  # (B * M, 3 * W): the same of agents


class PaddedGraph(TaskAgentGraph):
    """The graph of the decisions `f` with operations of torch, on any device."""

    def __init__(self, f: Features) -> None:
        b, k, m = f.pair.shape[:3]
        self.shape = b, k, m
        self.task_features = f.task.flatten(0, 1)
        self.agent_features = f.agent.flatten(0, 1)
        self.pair_features = self.legal_features = f.pair.flatten(0, 2)
        self.can_run = f.pair[..., CAN_RUN, None]
        self.per_task = self.can_run.sum(dim=2).clamp(min=1.0)
        self.per_agent = self.can_run.sum(dim=1).clamp(min=1.0)
        self.shown = f.shown[..., None].to(f.pair.dtype)
        self.present = f.present[..., None].to(f.pair.dtype)

    def aggregate(
        self, message: Tensor, task: Tensor, agent: Tensor, task_part: Tensor, agent_part: Tensor
    ) -> Received:
        """Return what tasks and agents receive; pairs that cannot run have messages of 0."""
        pairs = message.view(*self.shape, -1)
        pairs.add_(self.padded(task_part)[:, :, None]).add_(self._agents(agent_part)[:, None])
        pairs.relu_().mul_(self.can_run)
        to_task = [self.padded(task), pairs.sum(dim=2) / self.per_task, pairs.amax(dim=2)]
        to_agent = [self._agents(agent), pairs.sum(dim=1) / self.per_agent, pairs.amax(dim=1)]
        return Received(
            message,
            torch.cat(to_task, dim=2).flatten(0, 1),
            torch.cat(to_agent, dim=2).flatten(0, 1),
        )

    def aggregate_backward(
        self, received: Received, to_task: Tensor, to_agent: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients."""
        pairs = received.message.view(*self.shape, -1)
        task, task_mean, task_max = self.padded(to_task).chunk(3, dim=2)
        agent, agent_mean, agent_max = self._agents(to_agent).chunk(3, dim=2)
        # every message gets the gradients of the means and the maxima; where it is not the largest
        # one, sign is -1 and takes the gradient of that maximum away again: arithmetic, because
        # choosing is slow
        gradient = (agent_mean / self.per_agent + agent_max)[:, None] + (
            task_mean / self.per_task + task_max
        )[:, :, None]
        largest = self._agents(received.to_agent).chunk(3, dim=2)[2]
        sign = (pairs - largest[:, None]).sign_()
        gradient.addcmul_(sign, agent_max[:, None])
        largest = self.padded(received.to_task).chunk(3, dim=2)[2]
        torch.sub(pairs, largest[:, :, None], out=sign).sign_()
        gradient.addcmul_(sign, task_max[:, :, None])
        gradient.mul_(torch.sign(pairs, out=sign))  # of relu and can_run: 0 where the message is 0
        return (
            gradient.flatten(0, 2),
            task.flatten(0, 1),
            agent.flatten(0, 1),
            gradient.sum(dim=2).flatten(0, 1),
            gradient.sum(dim=1).flatten(0, 1),
        )

    def pool(self, task: Tensor, agent: Tensor) -> Tensor:
        """Return means and positive maxima."""
        rows = self.padded(task) * self.shown
        # padding counts as 0, which never exceeds a maximum of values that are not negative
        largest = torch.relu(rows).amax(dim=1)
        means = _mean(rows, self.shown), _mean(self._agents(agent), self.present)
        return torch.cat([means[0], largest, means[1]], dim=1)

    def pool_backward(
        self, task: Tensor, pooled: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients."""
        of_mean, of_max, of_agents = gradient.chunk(3, dim=1)
        rows, largest = self.padded(task), pooled.chunk(3, dim=1)[1][:, None]
        is_largest = ((rows == largest) & (rows > 0)) * self.shown
        share = is_largest / is_largest.sum(dim=1, keepdim=True).clamp(min=1.0)
        of_task = _mean_backward(of_mean, self.shown) + share * of_max[:, None]
        return of_task.flatten(0, 1), _mean_backward(of_agents, self.present).flatten(0, 1)

    def combine(
        self, hidden: Tensor, task_part: Tensor, agent_part: Tensor, state_part: Tensor
    ) -> None:
        """Replace `hidden` of all pairs."""
        pairs = hidden.view(*self.shape, -1)
        pairs.add_(self.padded(task_part)[:, :, None]).add_(self._agents(agent_part)[:, None])
        pairs.add_(state_part[:, None, None]).relu_()

    def combine_backward(
        self, hidden: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients."""
        part = relu_backward(gradient, hidden)
        pairs = part.view(*self.shape, -1)
        task, agent = pairs.sum(dim=2), pairs.sum(dim=1)
        return part, task.flatten(0, 1), agent.flatten(0, 1), agent.sum(dim=1)

    def place(self, score: Tensor) -> Tensor:
        """Return the scores of all pairs."""
        b, k, m = self.shape
        return score.view(b, k * m, -1)

    def place_backward(self, gradient: Tensor) -> Tensor:
        """Return the gradient."""
        return gradient.flatten(0, 1)

    def padded(self, task: Tensor) -> Tensor:
        """Return the rows of all tasks."""
        return task.view(*self.shape[:2], -1)

    def _agents(self, agent: Tensor) -> Tensor:
        """Return rows (B * M, W) of agents as (B, M, W)."""
        return agent.view(self.shape[0], self.shape[2], -1)


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
        self.agent_features = f.agent.flatten(0, 1)
        self.pair_features = tensors.pair_features
        self.legal_features = tensors.legal_features
        self.position = tensors.position
        self.legal_position = tensors.legal_position
        self.present = _arrays(f.present)[0]
        self.shape = b, k, m

    def aggregate(
        self, message: Tensor, task: Tensor, agent: Tensor, task_part: Tensor, agent_part: Tensor
    ) -> Received:
        """Return what tasks and agents receive."""
        width = message.shape[1]
        to_task = message.new_empty(len(task), 3, width)
        to_agent = message.new_empty(len(agent), 3, width)
        arrays = _arrays(task, agent, task_part, agent_part, message, to_task, to_agent)
        kernels.aggregate(self.arrays, *arrays)
        return Received(message, to_task.flatten(1), to_agent.flatten(1))

    def aggregate_backward(
        self, received: Received, to_task: Tensor, to_agent: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients."""
        message = received.message
        width = message.shape[1]
        gradient = torch.empty_like(message)
        task_part = message.new_zeros(len(to_task), width)
        agent_part = message.new_zeros(len(to_agent), width)
        thirds = (received.to_task, received.to_agent, to_task, to_agent)
        kernels.aggregate_backward(
            self.arrays,
            *_arrays(message, *(one.view(-1, 3, width) for one in thirds)),
            *_arrays(gradient, task_part, agent_part),
        )
        return gradient, to_task[:, :width], to_agent[:, :width], task_part, agent_part

    def pool(self, task: Tensor, agent: Tensor) -> Tensor:
        """Return means and positive maxima."""
        pooled = task.new_empty(self.shape[0], 3, task.shape[1])
        kernels.pool(self.arrays, self.present, *_arrays(task, agent, pooled))
        return pooled.flatten(1)

    def pool_backward(
        self, task: Tensor, pooled: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients."""
        width = task.shape[1]
        of_task = torch.empty_like(task)
        of_agent = task.new_empty(self.present.size, width)
        thirds = (pooled.view(-1, 3, width), gradient.view(-1, 3, width))
        notes = task.new_empty(width)
        kernels.pool_backward(
            self.arrays, self.present, *_arrays(task, *thirds, notes, of_task, of_agent)
        )
        return of_task, of_agent

    def combine(
        self, hidden: Tensor, task_part: Tensor, agent_part: Tensor, state_part: Tensor
    ) -> None:
        """Replace `hidden` of the legal pairs."""
        kernels.combine(self.arrays, *_arrays(task_part, agent_part, state_part, hidden))

    def combine_backward(
        self, hidden: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients."""
        b, _, m = self.shape
        width = hidden.shape[1]
        part = torch.empty_like(hidden)
        task, agent, state = (
            hidden.new_zeros(rows, width) for rows in (len(self.position), b * m, b)
        )
        arrays = _arrays(hidden, gradient, part, task, agent, state)
        kernels.combine_backward(self.arrays, *arrays)
        return part, task, agent, state

    def place(self, score: Tensor) -> Tensor:
        """Return the scores of the legal pairs, 0 at the others."""
        b, k, m = self.shape
        scores = score.new_zeros(b * k * m, score.shape[1])
        return scores.index_copy_(0, self.legal_position, score).view(b, k * m, -1)

    def place_backward(self, gradient: Tensor) -> Tensor:
        """Return the gradient."""
        return gradient.reshape(-1, gradient.shape[2]).index_select(0, self.legal_position)

    def padded(self, task: Tensor) -> Tensor:
        """Return the rows of the tasks, 0 at padding."""
        b, k, _ = self.shape
        rows = task.new_zeros(b * k, task.shape[1])
        return rows.index_copy(0, self.position, task).view(b, k, -1)


def relu_backward(gradient: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of x, given that of y = relu(x)."""
    return torch.ops.aten.threshold_backward(gradient, y, 0)


def _arrays(*tensors: Tensor) -> list[Any]:
    """Return the memory of CPU tensors without gradients as arrays in C order.

    They are copies where a tensor has another order.
    """
    return [tensor.contiguous().numpy() for tensor in tensors]


def _mean(x: Tensor, kept: Tensor) -> Tensor:
    """Return the mean (B, W) of x (B, n, W) over the entries where `kept` (B, n, 1) is 1."""
    return (x * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1.0)


def _mean_backward(gradient: Tensor, kept: Tensor) -> Tensor:
    """Return the gradient (B, n, W) of x, given that of `_mean`."""
    return kept * (gradient / kept.sum(dim=1).clamp(min=1.0))[:, None]
