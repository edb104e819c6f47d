"""A trained network as a policy: greedy decisions, saving, loading; what every learner shares."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.contracts import Budget, Result, UserError
from bench.instance import Instance
from bench.observation import Observation
from bench.setting import Setting
from bench.simulator import Simulator
from bench.simulator.tables import LEAVE, Floats
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


def sample(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Actions (B,) from the softmax of logits (B, A), by the Gumbel-max trick."""
    noise = torch.rand(logits.shape, generator=generator, device=logits.device).clamp(1e-20, 1 - 1e-7)
    return (logits - torch.log(-torch.log(noise))).argmax(dim=1)


@torch.no_grad()
def play(
    network: torch.nn.Module, simulator: Simulator, device: torch.device, sampling: torch.Generator | None = None,
    latency: list[float] | None = None,
) -> Floats:  # fmt: skip
    """Play all environments from their start to their end, at once; returns their undiscounted returns (B,).

    Every decision is greedy; with `sampling`, those of all environments but the first are drawn from the policy. `latency`
    gets the seconds that each decision, taken in all environments together, needed.
    """
    everyone = np.arange(simulator.n_envs)
    simulator.reset(everyone, everyone % len(simulator.instances))
    total = np.zeros(simulator.n_envs)
    while (playing := ~(simulator.terminated | simulator.truncated)).any():
        began = time.perf_counter()
        logits, _ = network(features(from_simulator(simulator, device)))
        chosen = logits.argmax(dim=1)
        if sampling is not None:
            chosen[1:] = sample(logits[1:], sampling)
        actions = np.where(playing, chosen.cpu().numpy(), LEAVE)
        if latency is not None:
            latency.append(time.perf_counter() - began)
        total += simulator.step(actions)
    return total


class BestOf:
    """Plans with a policy: the best of one greedy and k - 1 sampled episodes, played at once in the true simulator.

    To play an instance several times over is to know it, so this is for the tracks where the future is known.
    """

    clairvoyant = True

    def __init__(self, policy: NetworkPolicy, samples: int) -> None:
        self.policy, self.samples = policy, samples

    def solve(self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator) -> Result:
        """The schedule with the highest return; `info` tells how many episodes were played and which won (0 = greedy)."""
        device = self.policy.device
        window = min(self.policy.window, instance.n_tasks)
        simulator = Simulator([instance], setting, n_envs=self.samples, window=window)
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        latency: list[float] = []
        best = int(play(self.policy.network, simulator, device, generator, latency).argmax())
        status = "infeasible" if simulator.dead_end(best) else "feasible"
        info = {"episodes": self.samples, "best": best}
        return Result(simulator.schedule(best), status, latency=tuple(latency), info=info)
