"""The base class of all networks, and what their layers share.

A kind of network is one module of this package with one subclass of `Network`, which declares its
`kind`: the name by which `solver.network` and saved policies refer to it. No list has to be edited:
`solvers.networks.registry` finds the class by its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import BatchView
from solvers.networks.features import Features, featurize


def linear(inputs: int, outputs: int, gain: float = 2**0.5, bias: bool = True) -> nn.Linear:
    """Return a layer with orthogonal weights, scaled by `gain`, and zero bias, or none.

    Source: Andrychowicz et al. 2021, arXiv:2006.05990.
    """
    layer = nn.Linear(inputs, outputs, bias)
    nn.init.orthogonal_(layer.weight, gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class RenamedModule(nn.Module):
    """A module that also loads state dictionaries in which its attributes have former names.

    Attributes
    ----------
    former_names
        Former name of a submodule or parameter -> its present name. No former name may be a present
        name of another attribute, so that present state dictionaries are loaded unchanged.
    """

    former_names: ClassVar[Mapping[str, str]] = {}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """Rename the entries of `state_dict` below `prefix`, then load them (called by torch)."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name, dot, rest = key.removeprefix(prefix).partition(".")
            if name in self.former_names:
                state_dict[prefix + self.former_names[name] + dot + rest] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Network(RenamedModule):
    """Maps features to logits of the actions and to the value of the state.

    Attributes
    ----------
    kind
        Name of the class in the configuration and in saved policies; declared by each subclass.
    trainable_by_play
        Whether learners that collect rollouts can train it; then `for_simulator` is defined.
    has_memory
        Whether its output depends on earlier decisions of the episode.
    serves_any_size
        Whether it decides among any number of tasks and agents.
    """

    kind: ClassVar[str]
    trainable_by_play: ClassVar[bool] = False
    has_memory: ClassVar[bool] = False
    serves_any_size: ClassVar[bool] = True

    @classmethod
    def for_simulator(
        cls, simulator: TensorSimulator, width: int, message_passing_rounds: int
    ) -> Self:
        """Return a new network, on the CPU, for what `simulator` shows.

        Parameters
        ----------
        simulator
            The environments to train in: K = `simulator.window` tasks are shown.
        width
            Units of every hidden layer.
        message_passing_rounds
            Message passing layers; kinds without message passing ignore it.
        """
        raise NotImplementedError(f"{cls.__name__} is not trained by collecting rollouts")

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments with which the constructor builds a network of this shape."""
        raise NotImplementedError

    def reset(self) -> None:
        """Begin new episodes: a network with a memory clears the earlier decisions."""

    @staticmethod
    def featurize(view: BatchView) -> Features:
        """Return the features of `view` that `forward` reads: all, or fewer if it needs fewer."""
        return featurize(view)

    def forward(self, f: Features) -> tuple[Tensor, Tensor]:
        """Return logits and values of B decisions.

        Returns
        -------
        logits
            (B, K * M + 1), -inf where an action is illegal.
        value
            (B,) predicted return in units of the remaining cost (`Features.load`).
        """
        raise NotImplementedError
