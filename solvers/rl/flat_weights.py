"""The weights of a network in one tensor: norm, clipping and optimizer take one operation each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FlatWeights:
    """The trainable weights of a network; its parameters become views of them.

    Attributes
    ----------
    flat
        (P,) the weights; its `grad` is never None.
    views
        The parameters of the network, in its order.
    """

    def __init__(self, network: nn.Module) -> None:
        self.views = [one for one in network.parameters() if one.requires_grad]
        self.flat = nn.Parameter(torch.cat([view.detach().flatten() for view in self.views]))
        self.flat.grad = torch.zeros_like(self.flat)
        lengths = [view.numel() for view in self.views]
        for view, part in zip(self.views, self.flat.data.split(lengths), strict=True):
            view.data = part.view_as(view)

    def gradient(self, loss: Tensor) -> Tensor:
        """Return the gradient (P,) of a scalar; weights that it does not depend on get 0."""
        gradients = torch.autograd.grad(loss, self.views, allow_unused=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in gradients])

    def found_by(self, state: dict[str, Any]) -> dict[int, dict[str, Tensor]]:
        """Return what an optimizer of `flat` has found, given a state of it or of the views.

        Checkpoints of earlier versions hold the latter.
        """
        found: dict[int, dict[str, Tensor]] = state["state"]
        if len(state["param_groups"][0]["params"]) == 1:
            return found
        joined = {}
        for key, value in next(iter(found.values()), {}).items():
            if value.dim() == 0:  # the number of steps
                joined[key] = value
                continue
            parts = [  # that of a weight without a gradient is missing
                found[i][key].flatten() if i in found else torch.zeros(view.numel())
                for i, view in enumerate(self.views)
            ]
            joined[key] = torch.cat(parts)
        return {0: joined} if joined else {}
