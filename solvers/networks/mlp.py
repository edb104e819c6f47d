"""Two multilayer perceptrons, a policy and a value, for problems of one size.

This is the usual network of PPO on small problems, initialised as in Huang et al. 2022, "The 37
Implementation Details of Proximal Policy Optimization". Every task and agent has a fixed place in
one input vector. So the network does not generalise to another size, and a permuted problem is
another problem to it. `featurize` keeps only the features that it reads.

Shapes: B decisions, K tasks shown, M agents.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from bench.errors import UserError
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import BatchView
from solvers.networks.base import Network, linear
from solvers.networks.features import TASK_FEATURES, Features, featurize

# the columns of `Features` that the network reads, in the order of MLPNetwork.featurize
TASK_COLUMNS = (3, 5, 7)
AGENT_COLUMNS = (0, 3, 4, 5)
PAIR_COLUMNS = (0, 3, 4, 7)


class MLPNetwork(Network):
    """Two perceptrons on one vector of the features of at most `tasks` tasks and `agents` agents.

    Smaller problems are padded with zeros.

    Parameters
    ----------
    tasks, agents
        The largest K and M.
    width
        Units of each hidden layer.
    """

    kind = "mlp"
    serves_any_size = False
    trainable_by_play = True

    def __init__(self, tasks: int, agents: int, width: int = 64) -> None:
        super().__init__()
        self.tasks = tasks
        self.agents = agents
        self.width = width
        inputs = tasks * (1 + len(TASK_COLUMNS)) + agents * len(AGENT_COLUMNS)
        inputs += tasks * agents * len(PAIR_COLUMNS)
        self.policy = perceptron(inputs, width, tasks * agents + 1, 0.01)
        self.value = perceptron(inputs, width, 1, 1.0)

    @classmethod
    def for_simulator(
        cls, simulator: TensorSimulator, width: int, message_passing_rounds: int
    ) -> Self:
        """Return a new network, on the CPU, of the window and the most agents of `simulator`."""
        return cls(simulator.window, simulator.tables.agents.shape[1], width)

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments with which the constructor builds a network of this shape."""
        return {"tasks": self.tasks, "agents": self.agents, "width": self.width}

    @staticmethod
    def featurize(view: BatchView) -> Features:
        """Return the columns TASK_COLUMNS, AGENT_COLUMNS and PAIR_COLUMNS of the features only."""
        f = featurize(view)
        return f._replace(
            task=f.task[..., TASK_COLUMNS],
            agent=f.agent[..., AGENT_COLUMNS],
            pair=f.pair[..., PAIR_COLUMNS],
        )

    def forward(self, f: Features) -> tuple[Tensor, Tensor]:
        """Return logits (B, K * M + 1), -inf where illegal, and values (B,).

        Parameters
        ----------
        f
            What `MLPNetwork.featurize` or `features.featurize` returns.

        Raises
        ------
        UserError
            If there are more tasks or agents than the network has inputs for.
        """
        k, m = f.pair.shape[1:3]
        inputs = self.flatten(f)
        logits = self.policy(inputs)
        if (k, m) != (self.tasks, self.agents):
            pairs = logits[:, :-1].unflatten(1, (self.tasks, self.agents))[:, :k, :m]
            logits = torch.cat([pairs.flatten(1), logits[:, -1:]], dim=1)
        return logits.masked_fill(~f.mask, -torch.inf), -1.0 - self.value(inputs).squeeze(1)

    def flatten(self, f: Features) -> Tensor:
        """Return the features as one vector per decision (B, inputs), zero at unused places."""
        k, m = f.pair.shape[1:3]
        more_tasks = self.tasks - k
        more_agents = self.agents - m
        if more_tasks < 0 or more_agents < 0:
            raise UserError(
                f"network: mlp was built for {self.tasks} tasks x {self.agents} agents and is "
                f"given {k} x {m}; train one on instances as large, or use solver.network=pairs, "
                "which takes any size"
            )
        task, agent, pair = f.task, f.agent, f.pair
        if task.shape[2] == TASK_FEATURES:
            task = task[..., TASK_COLUMNS]
            agent = agent[..., AGENT_COLUMNS]
            pair = pair[..., PAIR_COLUMNS]
        task = torch.cat([task, f.shown[..., None]], dim=2)
        if more_tasks or more_agents:
            task = pad(task, (0, 0, 0, more_tasks))
            agent = pad(agent, (0, 0, 0, more_agents))
            pair = pad(pair, (0, 0, 0, more_agents, 0, more_tasks))
        return torch.cat([task.flatten(1), agent.flatten(1), pair.flatten(1)], dim=1)


def perceptron(inputs: int, width: int, outputs: int, gain: float) -> nn.Sequential:
    """Return two hidden layers with tanh and a last layer with initial weights of scale `gain`."""
    return nn.Sequential(
        linear(inputs, width),
        nn.Tanh(),
        linear(width, width),
        nn.Tanh(),
        linear(width, outputs, gain),
    )
