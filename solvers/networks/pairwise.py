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
from solvers.networks.features import AGENT_FEATURES, PAIR_FEATURES, TASK_FEATURES, Features
from solvers.networks.graph import TaskAgentGraph
from solvers.networks.message_passing import Encoding, Heads, Scoring


class MessagePassingLayer(RenamedModule):
    """A layer of a graph network on the pairs that can run, with residual connections.

    Every such pair makes a message from its task, its agent and its own features. Tasks and agents
    aggregate the mean and the maximum of their messages and add an update to their embeddings.
    `solvers.networks.message_passing` computes it; here are its weights.
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
    layer_type: ClassVar[type[nn.Module]] = MessagePassingLayer
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
        self.layers = nn.ModuleList(self.layer_type(width) for _ in range(message_passing_rounds))
        self.embed_state = linear(3 * width, width)
        self.project_pair = linear(PAIR_FEATURES, width, 1.0)
        self.project_task = linear(width, width, 1.0)
        self.project_agent = linear(width, width, 1.0)
        self.project_state = linear(width, width, 1.0)
        self.score = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, outputs, 0.01))
        self.wait = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, outputs, 0.01))
        self.value = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, 1, 0.1))
        # finding them takes longer than some layers; conversions keep the parameters' identity
        everything = list(self.parameters())
        heads = len(Heads._fields)
        self._encoder, self._heads = everything[:-heads], everything[-heads:]

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
        graph = self.graph_of(f)
        scores, value = self.score_actions(*self.encode(graph), graph)
        legal = f.mask if self.outputs == 1 else f.mask[..., None]
        return scores.masked_fill(~legal, -torch.inf), -1.0 - value

    @staticmethod
    def graph_of(f: Features) -> TaskAgentGraph:
        """Return the graph on which `encode` computes."""
        return TaskAgentGraph.of(f)

    def encode(self, graph: TaskAgentGraph) -> tuple[Tensor, Tensor, Tensor]:
        """Return the embeddings of tasks (n, W), agents (B * M, W) and the whole state (B, W)."""
        return Encoding.apply(graph, *self._encoder)

    def score_actions(
        self, task: Tensor, agent: Tensor, state: Tensor, graph: TaskAgentGraph
    ) -> tuple[Tensor, Tensor]:
        """Return the scores (B, K * M + 1) of the pairs and of `wait`, and (B,) of the state.

        With more than one output their shape is (B, K * M + 1, outputs). Scores of illegal actions
        have no meaning. `task`, `agent` and `state` are the embeddings that `encode` returns.
        """
        scores, value = Scoring.apply(graph, task, agent, state, *self._heads)
        return scores.squeeze(2) if self.outputs == 1 else scores, value.squeeze(1)
