"""Two plain multilayer perceptrons, a policy and a value, for problems of one size: K tasks shown, M agents.

The usual network of PPO on small problems, with the initialisation of Huang et al. 2022, "The 37 implementation details of
PPO". It sees every task and agent at a fixed place of one long row, so it does not carry over to another size, and a permuted
problem is another problem to it. `see` computes only the features that it reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from bench.errors import UserError
from bench.simulator.view import View
from solvers.networks.features import TASK, Features, cut, derive, share, stack
from solvers.networks.pairwise import Network, linear

OF_TASK, OF_AGENT, OF_PAIR = (
    (3, 5, 7),
    (0, 3, 4, 5),
    (0, 3, 4, 7),
)  # the columns of `Features` that are read, as in `see`


class FlatNetwork(Network):
    """Logits (B, K' * M' + 1), -inf where illegal, and values (B,) in units of the load, for K' <= tasks, M' <= agents.

    Raises:
        UserError: where more tasks or agents are seen than there are places.
    """

    def __init__(self, tasks: int, agents: int, width: int = 64) -> None:
        super().__init__()
        self.tasks, self.agents, self.width = tasks, agents, width
        inputs = tasks * (1 + len(OF_TASK)) + agents * len(OF_AGENT) + tasks * agents * len(OF_PAIR)
        self.policy = perceptron(inputs, width, tasks * agents + 1, 0.01)
        self.value = perceptron(inputs, width, 1, 1.0)

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments that build a network of this shape."""
        return {"tasks": self.tasks, "agents": self.agents, "width": self.width}

    @staticmethod
    def see(view: View) -> Features:
        """The columns OF_TASK, OF_AGENT and OF_PAIR of `features.features`, and nothing else."""
        d = derive(view)
        tau, room = d.tau[:, None], d.capacity.clamp(min=1.0)
        slack = cut((view.due.float() - d.shortest) / tau)
        left = (view.free / room).amin(dim=2)
        length = d.duration / tau[:, None]
        fraction = share(view.demand.float(), d.capacity[:, None])
        index = torch.where(
            d.can, d.weight[:, :, None] * tau[:, None] / d.duration.clamp(min=1.0), 0.0
        )
        pair = [cut(length), d.legal, fraction, torch.log1p(index)]
        return Features(
            task=stack([d.weight, cut(d.release / tau), slack], view.shown),
            agent=stack(
                [left, view.up, cut(view.next_end / tau), cut(view.last_end / tau)], d.present
            ),
            pair=stack(pair, view.shown[:, :, None] & d.present[:, None]),
            shown=view.shown,
            present=d.present,
            mask=view.mask,
            load=d.load,
        )

    def forward(self, f: Features) -> tuple[Tensor, Tensor]:
        """`f`: what `see` or `features` made of the view."""
        k, m = f.pair.shape[1:3]
        row = self.row(f)
        logits = self.policy(row)
        if (k, m) != (self.tasks, self.agents):
            pairs = logits[:, :-1].unflatten(1, (self.tasks, self.agents))[:, :k, :m]
            logits = torch.cat([pairs.flatten(1), logits[:, -1:]], dim=1)
        return logits.masked_fill(~f.mask, -torch.inf), -1.0 - self.value(row).squeeze(1)

    def row(self, f: Features) -> Tensor:
        """(B, inputs): everything at its place, zeros at places that are free."""
        k, m = f.pair.shape[1:3]
        task, agent, pair = f.task, f.agent, f.pair
        if task.shape[2] == TASK:
            task, agent, pair = task[..., OF_TASK], agent[..., OF_AGENT], pair[..., OF_PAIR]
        task = torch.cat([task, f.shown[..., None]], dim=2)
        tasks, agents = self.tasks - k, self.agents - m
        if tasks < 0 or agents < 0:
            raise UserError(
                f"network: mlp was made for {self.tasks} tasks x {self.agents} agents and is shown {k} x {m}; "
                "train one on instances as large, or solver.network=pairs, which plays any size"
            )
        if tasks or agents:
            task, agent = pad(task, (0, 0, 0, tasks)), pad(agent, (0, 0, 0, agents))
            pair = pad(pair, (0, 0, 0, agents, 0, tasks))
        return torch.cat([task.flatten(1), agent.flatten(1), pair.flatten(1)], dim=1)


def perceptron(inputs: int, width: int, outputs: int, gain: float) -> nn.Sequential:
    """Two hidden layers with tanh; `gain`: of the last layer's initial weights."""
    return nn.Sequential(
        linear(inputs, width), nn.Tanh(), linear(width, width), nn.Tanh(), linear(width, outputs, gain)
    )  # fmt: skip
