"""A trained network as a policy: greedy decisions, saving, loading; what every learner shares."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import UserError
from bench.observation import Observation
from bench.simulator.view import View, from_observation
from solvers.networks.constrained import ConstrainedNetwork
from solvers.networks.decision_transformer import TransformerNetwork
from solvers.networks.mlp import FlatNetwork
from solvers.networks.pairwise import Network, PairNetwork

SCHEMA = 4  # 4: critics in units of undisturbed flow time
NETWORKS: dict[str, type[Network]] = {
    "pairs": PairNetwork,
    "mlp": FlatNetwork,
    "constrained": ConstrainedNetwork,
    "transformer": TransformerNetwork,
}


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where it can be used. Raises UserError for `cuda` without CUDA or an unknown name."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device: {name!r} must be auto, cpu or cuda")
    missing = None
    if not torch.cuda.is_available():
        missing = "torch finds none; set solver.device=cpu or install a CUDA build of torch"
    elif importlib.util.find_spec("numba_cuda") is None:
        missing = "the simulator needs numba-cuda there; set solver.device=cpu or install the extra `cuda`"
    if name == "cuda" and missing:
        raise UserError(f"device: cuda was asked for, but {missing}")
    return torch.device("cuda" if name != "cpu" and missing is None else "cpu")


class NetworkPolicy:
    """Takes the action with the highest score. K = `window` tasks are seen.

    `shaped`: its critic learned rewards that are paid when a task starts.
    """

    def __init__(
        self, network: Network, window: int, device: torch.device, shaped: bool = True
    ) -> None:
        self.network, self.window, self.device, self.shaped = network.eval(), window, device, shaped

    def reset(self) -> None:
        """Before each episode: a network with a memory forgets."""
        self.network.reset()

    @torch.no_grad()
    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """The best legal flat action."""
        logits, _ = self.network(self.network.see(from_observation(observation, self.device)))
        return int(logits.argmax())

    @torch.no_grad()
    def distribution(self, view: View) -> Tensor:
        """(B, K * M + 1) probabilities, as the network was trained to draw; zeros where nothing is legal."""
        logits, _ = self.network(self.network.see(view))
        return logits.softmax(dim=1).nan_to_num(0.0)

    def save(self, path: Path) -> None:
        """Write the network and what is needed to build it again."""
        kind = next(name for name, network in NETWORKS.items() if type(self.network) is network)
        shape = {"kind": kind, **self.network.shape}
        state = {"schema": SCHEMA, "shape": shape, "window": self.window, "shaped": self.shaped}
        state["network"] = self.network.state_dict()
        save_atomically(path, state)


def load_policy(path: str | Path, device: torch.device) -> NetworkPolicy:
    """Read what `NetworkPolicy.save` wrote. Raises UserError naming the file where that cannot be done."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if state["schema"] != SCHEMA:
            raise ValueError(
                f"its form is {state['schema']}, this version reads {SCHEMA}: train it again"
            )
        shape = dict(state["shape"])
        network = NETWORKS[shape.pop("kind")](**shape).to(device)
        network.load_state_dict(state["network"])
        return NetworkPolicy(network, state["window"], device, state.get("shaped", True))
    except FileNotFoundError:
        raise UserError(
            f"checkpoint: {path} does not exist; give the policy.pt of a finished run's folder"
        ) from None
    except (
        Exception
    ) as error:  # torch raises many kinds for a file that is cut short or something else
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint: {path} is no policy of this suite ({reason})") from None


def save_atomically(path: Path, state: dict[str, Any]) -> None:
    """torch.save such that a kill leaves the old file or the new one, never half of one."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)
