"""A trained network as a policy: greedy decisions, saving, loading; what every learner shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.contracts import UserError
from bench.observation import Observation
from bench.simulator import Simulator
from bench.simulator.tables import LEAVE
from solvers.features import features, from_observation, from_simulator
from solvers.network import PairNetwork

SCHEMA = 1


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises UserError for `cuda` without CUDA or an unknown name."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device: {name!r} must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device: cuda was asked for and torch finds none; set solver.device=cpu or install a CUDA build of torch"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class NetworkPolicy:
    """Takes the action with the highest score. K = `window` tasks are seen."""

    def __init__(self, network: PairNetwork, window: int, device: torch.device) -> None:
        self.network, self.window, self.device = network.eval(), window, device

    @torch.no_grad()
    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """The best legal flat action."""
        logits, _ = self.network(features(from_observation(observation, self.device)))
        return int(logits.argmax())

    def save(self, path: Path) -> None:
        """Write the network and what is needed to build it again."""
        state = {"schema": SCHEMA, "width": self.network.width, "window": self.window, "network": self.network.state_dict()}
        save_atomically(path, state)


def load_policy(path: str | Path, device: torch.device) -> NetworkPolicy:
    """Read what `NetworkPolicy.save` wrote. Raises UserError naming the file where that cannot be done."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        network = PairNetwork(state["width"]).to(device)
        network.load_state_dict(state["network"])
        return NetworkPolicy(network, state["window"], device)
    except FileNotFoundError:
        raise UserError(f"checkpoint: {path} does not exist; give the policy.pt of a finished run's folder") from None
    except Exception as error:  # torch raises many kinds for a file that is cut short or something else
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint: {path} is no policy of this suite ({reason})") from None


def save_atomically(path: Path, state: dict[str, Any]) -> None:
    """torch.save such that a kill leaves the old file or the new one, never half of one."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)


@torch.no_grad()
def greedy_returns(network: PairNetwork, simulator: Simulator, device: torch.device) -> np.ndarray:
    """Play every instance of `simulator` once, greedily and all at once; returns (I,) the undiscounted returns."""
    everyone = np.arange(simulator.n_envs)
    simulator.reset(everyone, everyone)
    total = np.zeros(simulator.n_envs)
    while (playing := ~(simulator.terminated | simulator.truncated)).any():
        logits, _ = network(features(from_simulator(simulator, device)))
        actions = np.where(playing, logits.argmax(dim=1).cpu().numpy(), LEAVE)
        total += simulator.step(actions)
    return total
