"""The decision transformer over (task, agent) pairs.

The next action follows from the last states and actions and from the return that is asked for. Each
step of the context has three tokens: return to go, state, action.

Shapes: B episodes, L steps of context, E numbers per token, W units per task and agent.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from solvers.networks.base import Network, linear
from solvers.networks.features import Features
from solvers.networks.graph import TaskAgentGraph
from solvers.networks.pairwise import PairwiseNetwork


class DecisionTransformerNetwork(Network):
    """Decision transformer (Chen et al. 2021, arXiv:2106.01345) on a `PairwiseNetwork`.

    The pairwise network embeds states and actions, and scores the actions. Returns to go are
    divided by the remaining cost (`Features.load`), so that they mean the same at every size and
    need no scale, which a policy may not know. While deciding, the return to go is always
    `target_return`.

    Deciding (`forward`) keeps the last steps in memory; `reset` begins new episodes.

    Parameters
    ----------
    width
        W, units of every layer of the pairwise network.
    message_passing_rounds
        Message passing layers of the pairwise network.
    embed
        E, numbers per token.
    layers, heads
        Attention layers, and heads of each.
    context
        L, the steps that attention spans.
    horizon
        Steps with a position embedding of their own; all later steps share the last one.
    target_return
        The return to go that the network is conditioned on while deciding.
    """

    kind = "transformer"
    has_memory = True
    former_names: ClassVar = {
        "pairs": "pairwise",
        "of_return": "embed_return",
        "of_state": "embed_state",
        "of_action": "embed_action",
        "of_wait": "wait_embedding",
        "position": "position_embedding",
        "back": "update_state",
    }

    def __init__(
        self,
        width: int = 32,
        message_passing_rounds: int = 2,
        embed: int = 64,
        layers: int = 2,
        heads: int = 4,
        context: int = 8,
        horizon: int = 512,
        target_return: float = -1.0,
    ) -> None:
        super().__init__()
        self._transformer_shape: dict[str, Any] = {
            "embed": embed,
            "layers": layers,
            "heads": heads,
            "context": context,
            "horizon": horizon,
            "target_return": target_return,
        }
        self.context = context
        self.target_return = target_return
        self.pairwise = PairwiseNetwork(width, message_passing_rounds)
        self.embed_return = linear(1, embed, 1.0)
        self.embed_state = linear(width, embed, 1.0)
        self.embed_action = linear(2 * width, embed, 1.0)
        self.wait_embedding = nn.Parameter(torch.zeros(embed))
        self.position_embedding = nn.Embedding(horizon, embed)
        self.attention = causal_transformer(embed, heads, layers, 3 * context)
        self.update_state = linear(embed, width, 0.1)
        self.reset()

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments with which the constructor builds a network of this shape."""
        return {
            "width": self.pairwise.width,
            "message_passing_rounds": self.pairwise.message_passing_rounds,
            **self._transformer_shape,
        }

    def reset(self) -> None:
        """Clear the earlier steps: new episodes begin."""
        self.past: list[Tensor] = []  # (B, 3, E) tokens of each step, the newest last
        self.step = 0

    def forward(self, f: Features) -> tuple[Tensor, Tensor]:
        """Return the logits (B, K * M + 1) of the next decision of B episodes, and zeros (B,).

        The best actions are stored as the actions that were taken. The network predicts no
        values.
        """
        graph = TaskAgentGraph.of(f)
        task, agent, state = self.pairwise.encode(graph)
        step = torch.full((len(state),), self.step, device=state.device)
        target = torch.full((len(state), 1), self.target_return, device=state.device)
        return_token = self._token(self.embed_return(target), step)
        state_token = self._token(self.embed_state(state), step)
        now = torch.stack([return_token, state_token], dim=1)
        tokens = torch.cat([*self.past, now], dim=1)
        no_padding = torch.zeros(tokens.shape[:2], device=state.device)
        attended = self.attention(tokens, no_padding)[:, -1]
        logits = self._logits(task, agent, state, attended, graph, f.mask)
        action = self._embed_taken(graph, task, agent, logits.argmax(dim=1))
        action_token = self._token(action, step)
        self.past.append(torch.cat([now, action_token[:, None]], dim=1))
        del self.past[: len(self.past) - self.context + 1]
        self.step += 1
        return logits, torch.zeros(len(state), device=state.device)

    def forward_sequence(
        self, f: Features, action: Tensor, return_to_go: Tensor, step: Tensor, known: Tensor
    ) -> Tensor:
        """Return the logits (B, L, K * M + 1), -inf where illegal, along logged decisions.

        Parameters
        ----------
        f
            Features of the B * L decisions.
        action
            (B, L) flat actions that were taken.
        return_to_go
            (B, L) returns to go, divided by the remaining cost.
        step
            (B, L) decisions since the begin of the episode.
        known
            (B, L) 1 for decisions, 0 for padding.
        """
        b, length = action.shape
        graph = TaskAgentGraph.of(f)
        task, agent, state = self.pairwise.encode(graph)
        parts = [
            self.embed_return(return_to_go.flatten()[:, None]),
            self.embed_state(state),
            self._embed_taken(graph, task, agent, action.flatten()),
        ]
        steps = torch.stack([self._token(part, step.flatten()) for part in parts], dim=1)
        tokens = steps.view(b, 3 * length, -1)
        padding = (1.0 - known).repeat_interleave(3, dim=1)
        attended = self.attention(tokens, padding)[:, 1::3].flatten(0, 1)
        return self._logits(task, agent, state, attended, graph, f.mask).view(b, length, -1)

    def _logits(
        self,
        task: Tensor,
        agent: Tensor,
        state: Tensor,
        attended: Tensor,
        graph: TaskAgentGraph,
        mask: Tensor,
    ) -> Tensor:
        """Return logits (B, K * M + 1) from the embeddings and the attention output (B, E)."""
        updated = state + self.update_state(attended)
        scores, _ = self.pairwise.score_actions(task, agent, updated, graph)
        return scores.masked_fill(~mask, -torch.inf)

    def _token(self, part: Tensor, step: Tensor) -> Tensor:
        """Return the tokens (B, E) of the embeddings `part` (B, E) at the steps `step` (B,)."""
        last = self.position_embedding.num_embeddings - 1
        return torch.tanh(part) + self.position_embedding(step.clamp(max=last))

    def _embed_taken(
        self, graph: TaskAgentGraph, task: Tensor, agent: Tensor, action: Tensor
    ) -> Tensor:
        """Return (B, E) embeddings of the flat actions (B,): of a task and an agent, or `wait`."""
        _, k, m = graph.shape
        row = torch.arange(len(action), device=action.device)
        pair = action.clamp(max=k * m - 1)
        parts = [graph.padded(task)[row, pair // m], agent[row * m + pair % m]]
        taken = self.embed_action(torch.cat(parts, dim=1))
        return torch.where((action == k * m)[:, None], self.wait_embedding, taken)


def causal_transformer(embed: int, heads: int, layers: int, tokens: int) -> nn.Module:
    """Return d3rlpy's causal transformer (GPT-2) over (B, tokens, embed), without dropout."""
    with contextlib.redirect_stderr(io.StringIO()):  # it imports the old gym, which warns
        from d3rlpy.models.torch.transformers import GPT2  # imported late: d3rlpy takes seconds

    return GPT2(
        layer_width=embed,
        pre_activation_ff_hidden_size=4 * embed,
        post_activation_ff_hidden_size=4 * embed,
        num_heads=heads,
        context_size=tokens,
        num_layers=layers,
        attn_dropout=0.0,
        resid_dropout=0.0,
        embed_dropout=0.0,
        activation=nn.GELU(),
    )
