"""The decision transformer over pairs: what was seen and done before, and the return asked for, tell what to do now.

B environments, L steps of context, E numbers per token, W per task and agent. Three tokens a step: return to go, state, action.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from solvers.networks.features import Features
from solvers.networks.pairwise import Network, PairNetwork, linear


class TransformerNetwork(Network):
    """Decision transformer (Chen et al. 2021, arXiv:2106.01345) whose states, actions and scores are those of a PairNetwork.

    The return to go is in units of what is left to do: so it means the same at every size and needs no scale, which a policy
    may not know. While deciding it is always `target_return`. A network that decides remembers: `reset` begins new episodes.
    """

    remembers = True

    def __init__(
        self, width: int = 32, rounds: int = 2, embed: int = 64, layers: int = 2, heads: int = 4, context: int = 8,
        horizon: int = 512, target_return: float = -1.0,
    ) -> None:  # fmt: skip
        """`context`: steps looked at. `horizon`: steps that have a position of their own, later ones share the last one."""
        super().__init__()
        self._shape: dict[str, Any] = {
            "embed": embed,
            "layers": layers,
            "heads": heads,
            "context": context,
            "horizon": horizon,
        }
        self._shape |= {"target_return": target_return}
        self.pairs, self.context, self.target_return = (
            PairNetwork(width, rounds),
            context,
            target_return,
        )
        self.of_return, self.of_state, self.of_action = (
            linear(1, embed, 1.0),
            linear(width, embed, 1.0),
            linear(2 * width, embed, 1.0),
        )
        self.of_wait, self.position = nn.Parameter(torch.zeros(embed)), nn.Embedding(horizon, embed)
        self.attention, self.back = (
            gpt2(embed, heads, layers, 3 * context),
            linear(embed, width, 0.1),
        )
        self.reset()

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments that build a network of this shape."""
        return {"width": self.pairs.width, "rounds": self.pairs.rounds, **self._shape}

    def reset(self) -> None:
        """Forget: new episodes begin."""
        self.past: list[Tensor] = []  # (B, 3, E) tokens of each step, the newest last
        self.step = 0

    def forward(self, f: Features) -> tuple[Tensor, Tensor]:
        """The next decisions of B episodes: logits (B, K * M + 1); there are no values. The best actions are taken as done."""
        task, agent, whole = self.pairs.hear(f)
        step = torch.full((len(whole),), self.step, device=whole.device)
        target = torch.full((len(whole), 1), self.target_return, device=whole.device)
        now = torch.stack(
            [self._token(self.of_return(target), step), self._token(self.of_state(whole), step)],
            dim=1,
        )
        tokens = torch.cat([*self.past, now], dim=1)
        heard = self.attention(tokens, torch.zeros(tokens.shape[:2], device=whole.device))[:, -1]
        logits = self.pairs.scores(task, agent, whole + self.back(heard), f).masked_fill(
            ~f.mask, -torch.inf
        )
        done = self._token(self._action(task, agent, logits.argmax(dim=1)), step)
        self.past.append(torch.cat([now, done[:, None]], dim=1))
        del self.past[: len(self.past) - self.context + 1]
        self.step += 1
        return logits, torch.zeros(len(whole), device=whole.device)

    def along(
        self, f: Features, action: Tensor, return_to_go: Tensor, step: Tensor, known: Tensor
    ) -> Tensor:
        """Logits (B, L, K * M + 1), -inf where illegal, along B * L decisions that were made.

        `f`: of B * L. action, return_to_go, step, known (B, L): flat actions, returns in loads, decisions since the episode's
        begin, and 0 where there is padding.
        """
        b, length = action.shape
        task, agent, whole = self.pairs.hear(f)
        parts = [
            self.of_return(return_to_go.flatten()[:, None]),
            self.of_state(whole),
            self._action(task, agent, action.flatten()),
        ]
        tokens = torch.stack([self._token(part, step.flatten()) for part in parts], dim=1).view(
            b, 3 * length, -1
        )
        heard = self.attention(tokens, (1.0 - known).repeat_interleave(3, dim=1))[:, 1::3].flatten(
            0, 1
        )
        logits = self.pairs.scores(task, agent, whole + self.back(heard), f).masked_fill(
            ~f.mask, -torch.inf
        )
        return logits.view(b, length, -1)

    def _token(self, part: Tensor, step: Tensor) -> Tensor:
        return torch.tanh(part) + self.position(step.clamp(max=self.position.num_embeddings - 1))

    def _action(self, task: Tensor, agent: Tensor, action: Tensor) -> Tensor:
        """(B, E) what was done: the task and the agent of the pair, or `wait`."""
        (k, m), row = (
            (task.shape[1], agent.shape[1]),
            torch.arange(len(action), device=action.device),
        )
        pair = action.clamp(max=k * m - 1)
        done = self.of_action(torch.cat([task[row, pair // m], agent[row, pair % m]], dim=1))
        return torch.where((action == k * m)[:, None], self.of_wait, done)


def gpt2(embed: int, heads: int, layers: int, tokens: int) -> nn.Module:
    """d3rlpy's causal transformer over (B, tokens, embed), without dropout."""
    from d3rlpy.models.torch.transformers import GPT2  # d3rlpy takes seconds to import

    return GPT2(
        layer_width=embed, pre_activation_ff_hidden_size=4 * embed, post_activation_ff_hidden_size=4 * embed, num_heads=heads,
        context_size=tokens, num_layers=layers, attn_dropout=0.0, resid_dropout=0.0, embed_dropout=0.0, activation=nn.GELU(),
    )  # fmt: skip
