"""The pairwise network with cross-attention between tasks and agents in place of messages.

Tasks attend to the agents that can run them, and agents to the tasks that they can run. The
features of a pair add to its attention scores and to the values, as in the mixed-score attention of
MatNet (Kwon et al. 2021, arXiv:2106.11113) and GOAL (Drakulic et al. 2025, arXiv:2406.15079).
Everything is computed with operations of torch, padding included, so that it takes longer than the
messages of `solvers.networks.pairwise`, which are compiled.

Shapes: B decisions, K tasks, M agents, W = `width` units, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bench.errors import UserError
from solvers.networks.base import linear
from solvers.networks.features import CAN_RUN, PAIR_FEATURES, Features
from solvers.networks.graph import PaddedGraph, TaskAgentGraph
from solvers.networks.pairwise import PairwiseNetwork

HEADS = 4


class CrossAttention(nn.Module):
    """One side attends to the other one: multi-head attention with features of the pairs.

    Parameters
    ----------
    width
        W, a multiple of HEADS.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = linear(width, width, 1.0)
        self.key = linear(width, width, 1.0, bias=False)  # the softmax would not depend on one
        self.value = linear(width, width, 1.0)
        self.pair_score = linear(PAIR_FEATURES, HEADS, 1.0, bias=False)
        self.pair_value = linear(PAIR_FEATURES, width, 1.0)
        self.out = linear(width, width, 0.5)

    def forward(self, x: Tensor, other: Tensor, pair: Tensor, joined: Tensor) -> Tensor:
        """Return what x (B, X, W) receives from the other side (B, Y, W); 0 from nothing.

        Parameters
        ----------
        x, other
            Normalised embeddings.
        pair
            (B, X, Y, PAIR_FEATURES).
        joined
            (B, X, Y) bool, who attends to whom.
        """
        query, key, value = (
            part.unflatten(2, (HEADS, -1))
            for part in (self.query(x), self.key(other), self.value(other))
        )
        score = torch.einsum("bxhd,byhd->bxyh", query, key) / math.sqrt(key.shape[3])
        score = (score + self.pair_score(pair)).masked_fill(~joined[..., None], -1e9)
        share = score.softmax(dim=2) * joined[..., None]
        received = torch.einsum("bxyh,byhd->bxhd", share, value)
        of_pairs = self.pair_value(pair).unflatten(3, (HEADS, -1))
        received = received + torch.einsum("bxyh,bxyhd->bxhd", share, of_pairs)
        result: Tensor = self.out(received.flatten(2))
        return result


class AttentionLayer(nn.Module):
    """Cross-attention in both directions, then a perceptron, each with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.task_norm = nn.LayerNorm(width)
        self.agent_norm = nn.LayerNorm(width)
        self.to_task = CrossAttention(width)
        self.to_agent = CrossAttention(width)
        self.task_update = _update(width)
        self.agent_update = _update(width)

    def forward(
        self, task: Tensor, agent: Tensor, pair: Tensor, joined: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the updated embeddings of tasks (B, K, W) and agents (B, M, W)."""
        tasks, agents = self.task_norm(task), self.agent_norm(agent)
        task = task + self.to_task(tasks, agents, pair, joined)
        agent = agent + self.to_agent(agents, tasks, pair.transpose(1, 2), joined.transpose(1, 2))
        return task + self.task_update(task), agent + self.agent_update(agent)


def _update(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), linear(width, 2 * width), nn.ReLU(), linear(2 * width, width, 0.5)
    )


class AttentionNetwork(PairwiseNetwork):
    """Scores every legal pair as `PairwiseNetwork` does, from embeddings made by cross-attention.

    Parameters
    ----------
    width
        W, units of every layer; a multiple of HEADS.
    message_passing_rounds
        Number of attention layers.
    outputs
        Numbers per action, see `PairwiseNetwork`.

    Raises
    ------
    UserError
        For another width.
    """

    kind = "attention"
    layer_type = AttentionLayer

    def __init__(self, width: int = 32, message_passing_rounds: int = 2, outputs: int = 1) -> None:
        if width % HEADS:
            raise UserError(
                f"solver.width: value {width}: must be a multiple of {HEADS} with "
                "solver.network=attention"
            )
        super().__init__(width, message_passing_rounds, outputs)

    @staticmethod
    def graph_of(f: Features) -> PaddedGraph:
        """Return the graph of decisions, with padding: 0 in place of what padding holds."""
        pairs = f.shown[:, :, None] & f.present[:, None]
        return PaddedGraph(
            f._replace(
                task=f.task.masked_fill(~f.shown[..., None], 0.0),
                agent=f.agent.masked_fill(~f.present[..., None], 0.0),
                pair=f.pair.masked_fill(~pairs[..., None], 0.0),
            )
        )

    def encode(self, graph: TaskAgentGraph) -> tuple[Tensor, Tensor, Tensor]:
        """Return the embeddings of tasks (B * K, W), agents (B * M, W) and the state (B, W)."""
        b, k, m = graph.shape
        task = self.embed_task(graph.task_features).relu().view(b, k, -1)
        agent = self.embed_agent(graph.agent_features).relu().view(b, m, -1)
        pair = graph.pair_features.view(b, k, m, -1)
        joined = pair[..., CAN_RUN] > 0
        for layer in self.layers:
            task, agent = layer(task, agent, pair, joined)
        task, agent = task.flatten(0, 1), agent.flatten(0, 1)
        return task, agent, self.embed_state(graph.pool(task, agent)).relu()
