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

    def flat_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of an optimizer of `flat`, given one of it or of the views.

        Checkpoints of earlier versions hold the latter.
        """
        if len(state["param_groups"][0]["params"]) == 1:
            return state
        found = state["state"]  # that of a weight without a gradient is missing
        joined = {
            key: value
            if value.dim() == 0
            else torch.cat(
                [
                    found[i][key].flatten() if i in found else torch.zeros(view.numel())
                    for i, view in enumerate(self.views)
                ]
            )
            for key, value in next(iter(found.values()), {}).items()
        }
        groups = [state["param_groups"][0] | {"params": [0]}]
        return {"state": {0: joined} if joined else {}, "param_groups": groups}
