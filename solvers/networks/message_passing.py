"""The pairwise network as two functions with explicit derivatives: an encoder, and the heads.

Recording some hundred small operations for autograd, and calling their derivatives, would take
nearly as long as computing them. Values and gradients are those of the layers of
`solvers.networks.pairwise`, which hold the weights. There is no second derivative.

Shapes: see `solvers.networks.graph`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from solvers.networks.graph import Received, TaskAgentGraph, relu_backward

EPS = 1e-5  # of layer normalisation

Gradients = tuple[Tensor, Tensor, Tensor]


class Layer(NamedTuple):
    """Weights and biases of a `MessagePassingLayer`, in the order of its parameters."""

    task_norm: Tensor
    task_norm_bias: Tensor
    agent_norm: Tensor
    agent_norm_bias: Tensor
    project_pair: Tensor
    project_pair_bias: Tensor
    project_task: Tensor
    project_task_bias: Tensor
    project_agent: Tensor
    project_agent_bias: Tensor
    task_in: Tensor
    task_in_bias: Tensor
    agent_in: Tensor
    agent_in_bias: Tensor
    task_out: Tensor
    task_out_bias: Tensor
    agent_out: Tensor
    agent_out_bias: Tensor


class Encoder(NamedTuple):
    """Weights and biases of the encoder."""

    embed_task: Tensor
    embed_task_bias: Tensor
    embed_agent: Tensor
    embed_agent_bias: Tensor
    embed_state: Tensor
    embed_state_bias: Tensor
    layers: list[Layer]

    @classmethod
    def of(cls, weights: tuple[Tensor, ...]) -> Encoder:
        """Return them, given the parameters in their order: the layers stand before the state."""
        size = len(Layer._fields)
        layers = [Layer(*weights[i : i + size]) for i in range(4, len(weights) - 2, size)]
        first, last = weights[:4], weights[-2:]
        return cls(first[0], first[1], first[2], first[3], last[0], last[1], layers)


class Heads(NamedTuple):
    """Weights and biases of the heads, in the order of their parameters."""

    project_pair: Tensor
    project_pair_bias: Tensor
    project_task: Tensor
    project_task_bias: Tensor
    project_agent: Tensor
    project_agent_bias: Tensor
    project_state: Tensor
    project_state_bias: Tensor
    score_in: Tensor
    score_in_bias: Tensor
    score_out: Tensor
    score_out_bias: Tensor
    wait_in: Tensor
    wait_in_bias: Tensor
    wait_out: Tensor
    wait_out_bias: Tensor
    value_in: Tensor
    value_in_bias: Tensor
    value_out: Tensor
    value_out_bias: Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x W^T + bias for x (n, inputs) and W (outputs, inputs)."""
    return torch.addmm(bias, x, weight.t())


def linear_backward(x: Tensor, weight: Tensor, gradient: Tensor) -> Gradients:
    """Return the gradients of x, weight and bias, given that of `linear`."""
    return gradient @ weight, gradient.t() @ x, gradient.sum(dim=0)


class LayerState(NamedTuple):
    """What the derivatives of a layer need of its inputs and of what it computed."""

    task: Tensor
    task_statistics: list[Tensor]  # mean, 1 / standard deviation
    agent: Tensor
    agent_statistics: list[Tensor]
    received: Received  # the first thirds are the normalised embeddings
    task_hidden: Tensor
    agent_hidden: Tensor


def pass_messages(
    p: Layer, task: Tensor, agent: Tensor, graph: TaskAgentGraph
) -> tuple[Tensor, Tensor, LayerState]:
    """Return the updated embeddings of tasks and agents, and what the derivatives need."""
    task_normed, *task_statistics = torch.native_layer_norm(
        task, [task.shape[1]], p.task_norm, p.task_norm_bias, EPS
    )
    agent_normed, *agent_statistics = torch.native_layer_norm(
        agent, [agent.shape[1]], p.agent_norm, p.agent_norm_bias, EPS
    )
    received = graph.aggregate(
        linear(graph.pair_features, p.project_pair, p.project_pair_bias),
        task_normed,
        agent_normed,
        linear(task_normed, p.project_task, p.project_task_bias),
        linear(agent_normed, p.project_agent, p.project_agent_bias),
    )
    task_hidden = linear(received.to_task, p.task_in, p.task_in_bias).relu_()
    agent_hidden = linear(received.to_agent, p.agent_in, p.agent_in_bias).relu_()
    state = LayerState(
        task, task_statistics, agent, agent_statistics, received, task_hidden, agent_hidden
    )
    task = linear(task_hidden, p.task_out, p.task_out_bias).add_(task)
    return task, linear(agent_hidden, p.agent_out, p.agent_out_bias).add_(agent), state


def pass_messages_backward(
    p: Layer, s: LayerState, task: Tensor, agent: Tensor, graph: TaskAgentGraph
) -> tuple[Tensor, Tensor, Layer]:
    """Return the gradients of the embeddings and of the weights.

    `task` and `agent` are the gradients of the updated embeddings.
    """
    width = task.shape[1]
    hidden, *task_out = linear_backward(s.task_hidden, p.task_out, task)
    hidden = relu_backward(hidden, s.task_hidden)
    to_task, *task_in = linear_backward(s.received.to_task, p.task_in, hidden)
    hidden, *agent_out = linear_backward(s.agent_hidden, p.agent_out, agent)
    hidden = relu_backward(hidden, s.agent_hidden)
    to_agent, *agent_in = linear_backward(s.received.to_agent, p.agent_in, hidden)
    message, task_normed, agent_normed, task_part, agent_part = graph.aggregate_backward(
        s.received, to_task, to_agent
    )
    _, *project_pair = linear_backward(graph.pair_features, p.project_pair, message)
    normed, agent_input = s.received.to_task[:, :width], s.received.to_agent[:, :width]
    part, *project_task = linear_backward(normed, p.project_task, task_part)
    task_normed = part.add_(task_normed)
    part, *project_agent = linear_backward(agent_input, p.project_agent, agent_part)
    agent_normed = part.add_(agent_normed)
    part, *task_norm = torch.ops.aten.native_layer_norm_backward(
        task_normed, s.task, [width], *s.task_statistics, p.task_norm, p.task_norm_bias, [True] * 3
    )
    task = part.add_(task)
    part, *agent_norm = torch.ops.aten.native_layer_norm_backward(
        agent_normed,
        s.agent,
        [width],
        *s.agent_statistics,
        p.agent_norm,
        p.agent_norm_bias,
        [True] * 3,
    )
    gradient = Layer(
        *task_norm,
        *agent_norm,
        *project_pair,
        *project_task,
        *project_agent,
        *task_in,
        *agent_in,
        *task_out,
        *agent_out,
    )
    return task, part.add_(agent), gradient


class Encoding(torch.autograd.Function):
    """Embeddings of tasks (n, W), agents (B * M, W) and states (B, W) of a graph."""

    @staticmethod
    def forward(ctx: Any, graph: TaskAgentGraph, *weights: Tensor) -> tuple[Tensor, ...]:
        """Return the embeddings; `weights` are the parameters of the encoder in their order."""
        p = Encoder.of(weights)
        task = linear(graph.task_features, p.embed_task, p.embed_task_bias).relu_()
        agent = linear(graph.agent_features, p.embed_agent, p.embed_agent_bias).relu_()
        states = []
        embedded = task, agent
        for layer in p.layers:
            task, agent, needed = pass_messages(layer, task, agent, graph)
            states.append(needed)
        pooled = graph.pool(task, agent)
        state = linear(pooled, p.embed_state, p.embed_state_bias).relu_()
        ctx.graph, ctx.embedded, ctx.states, ctx.pooled = graph, embedded, states, pooled
        ctx.save_for_backward(task, state, *weights)
        return task, agent, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, task: Tensor, agent: Tensor, state: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the weights, given those of the embeddings."""
        last_task, last_state, *weights = ctx.saved_tensors
        p = Encoder.of(tuple(weights))
        graph: TaskAgentGraph = ctx.graph
        state = relu_backward(state, last_state)
        pooled, *embed_state = linear_backward(ctx.pooled, p.embed_state, state)
        of_task, of_agent = graph.pool_backward(last_task, ctx.pooled, pooled)
        task, agent = of_task.add_(task), of_agent.add_(agent)
        layers: list[Layer] = []
        for layer, s in zip(reversed(p.layers), reversed(ctx.states), strict=True):
            task, agent, gradient = pass_messages_backward(layer, s, task, agent, graph)
            layers.insert(0, gradient)
        task, agent = map(relu_backward, (task, agent), ctx.embedded)
        return (
            None,
            *(task.t() @ graph.task_features, task.sum(dim=0)),
            *(agent.t() @ graph.agent_features, agent.sum(dim=0)),
            *(one for layer in layers for one in layer),
            *embed_state,
        )


class Scoring(torch.autograd.Function):
    """Scores of the pairs and of `wait`, and the value of the states."""

    @staticmethod
    def forward(
        ctx: Any,
        graph: TaskAgentGraph,
        task: Tensor,
        agent: Tensor,
        state: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return (B, K * M + 1, outputs) and (B, 1).

        Parameters
        ----------
        graph
            Its legal pairs are scored.
        task, agent, state
            (n, W), (B * M, W) and (B, W) embeddings.
        weights
            Parameters of the heads in their order.
        """
        p = Heads(*weights)
        hidden = linear(graph.legal_features, p.project_pair, p.project_pair_bias)
        graph.combine(
            hidden,
            linear(task, p.project_task, p.project_task_bias),
            linear(agent, p.project_agent, p.project_agent_bias),
            linear(state, p.project_state, p.project_state_bias),
        )
        score_hidden = linear(hidden, p.score_in, p.score_in_bias).relu_()
        wait_hidden = linear(state, p.wait_in, p.wait_in_bias).relu_()
        value_hidden = linear(state, p.value_in, p.value_in_bias).relu_()
        pairs = graph.place(linear(score_hidden, p.score_out, p.score_out_bias))
        wait = linear(wait_hidden, p.wait_out, p.wait_out_bias)
        ctx.graph = graph
        ctx.hidden = hidden, score_hidden, wait_hidden, value_hidden
        ctx.save_for_backward(task, agent, state, *weights)
        value = linear(value_hidden, p.value_out, p.value_out_bias)
        return torch.cat([pairs, wait[:, None]], dim=1), value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scores: Tensor, value: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the embeddings and the weights, given those of the results."""
        task, agent, state, *weights = ctx.saved_tensors
        p = Heads(*weights)
        hidden, score_hidden, wait_hidden, value_hidden = ctx.hidden
        graph: TaskAgentGraph = ctx.graph
        x, *value_out = linear_backward(value_hidden, p.value_out, value)
        of_state, *value_in = linear_backward(state, p.value_in, relu_backward(x, value_hidden))
        x, *wait_out = linear_backward(wait_hidden, p.wait_out, scores[:, -1])
        x, *wait_in = linear_backward(state, p.wait_in, relu_backward(x, wait_hidden))
        of_state += x
        x = graph.place_backward(scores[:, :-1])
        x, *score_out = linear_backward(score_hidden, p.score_out, x)
        x, *score_in = linear_backward(hidden, p.score_in, relu_backward(x, score_hidden))
        x, of_task, of_agent, state_part = graph.combine_backward(hidden, x)
        _, *project_pair = linear_backward(graph.legal_features, p.project_pair, x)
        of_task, *project_task = linear_backward(task, p.project_task, of_task)
        of_agent, *project_agent = linear_backward(agent, p.project_agent, of_agent)
        x, *project_state = linear_backward(state, p.project_state, state_part)
        of_state += x
        return (
            *(None, of_task, of_agent, of_state),
            *(*project_pair, *project_task, *project_agent, *project_state),
            *(*score_in, *score_out, *wait_in, *wait_out, *value_in, *value_out),
        )
