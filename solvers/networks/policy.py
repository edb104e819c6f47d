"""A trained network as a policy: greedy decisions, and the file that keeps it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts import CHECKPOINT, Policy, TrainingLogger
from bench.errors import UserError
from bench.files import file_hash, write_bytes
from bench.observation import Observation
from bench.pretrained import checkpoint_file
from bench.simulator.view import BatchView, from_observation
from solvers.networks.base import Network
from solvers.networks.checkpoint import serialised
from solvers.networks.registry import network_kinds

SCHEMA = 5  # 5: layers have new names; 4: critics in units of the undisturbed flow time
READABLE = (4, 5)
TRAINING_COST = ("learning/decisions", "learning/cpu_seconds", "learning/seconds")
FORMER_SHAPE_KEYS = {"rounds": "message_passing_rounds"}  # of schema 4


def choose_device(name: str) -> torch.device:
    """Return the torch device `name`; `auto` is CUDA where it can be used.

    Raises
    ------
    UserError
        For `cuda` where it cannot be used, or an unknown name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device: {name!r} must be auto, cpu or cuda")
    missing = None
    if not torch.cuda.is_available():
        missing = "torch finds none; set solver.device=cpu or install a CUDA build of torch"
    elif importlib.util.find_spec("numba_cuda") is None:
        missing = (
            "the simulator needs numba-cuda there; set solver.device=cpu or install the extra "
            "`cuda`"
        )
    if name == "cuda" and missing:
        raise UserError(f"device: value cuda: {missing}")
    return torch.device("cuda" if name != "cpu" and missing is None else "cpu")


class NetworkPolicy(Policy):
    """Takes the legal action with the highest logit.

    Attributes
    ----------
    network
        Maps the features of a decision to logits and a value.
    window
        K, the number of tasks that an observation shows.
    device
        Where the network computes.
    shaped
        Whether its critic predicts shaped rewards, which are paid at assignment.
    predicts_returns
        Whether its training trained the network's values, which beam search and online adaptation
        need; files of earlier versions, which do not say so, count as trained.
    training
        What its training cost: facts as a run records them, such as `learning/cpu_seconds`; empty
        where that is unknown.
    """

    window: int

    def __init__(
        self,
        network: Network,
        window: int,
        device: torch.device,
        shaped: bool = True,
        training: Mapping[str, Any] | None = None,
        predicts_returns: bool = True,
    ) -> None:
        self.network = network.eval()
        self.window = window
        self.device = device
        self.shaped = shaped
        self.training = dict(training or {})
        self.predicts_returns = predicts_returns

    def reset(self) -> None:
        """Begin an episode: a network with a memory clears the last one."""
        self.network.reset()

    @torch.no_grad()
    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """Return the legal flat action with the highest logit."""
        view = from_observation(observation, self.device)
        logits, _ = self.network(self.network.featurize(view))
        return int(logits.argmax())

    @torch.no_grad()
    def distribution(self, view: BatchView) -> Tensor:
        """Return the probabilities (B, K * M + 1) of the actions: the softmax of the logits.

        A row without a legal action is all zeros.
        """
        logits, _ = self.network(self.network.featurize(view))
        return logits.softmax(dim=1).nan_to_num(0.0)

    def save(self, path: Path) -> None:
        """Write the network and all that is needed to build it again to `path`."""
        state = {
            "schema": SCHEMA,
            "shape": {"kind": self.network.kind, **self.network.shape},
            "window": self.window,
            "shaped": self.shaped,
            "predicts_returns": self.predicts_returns,
            "training": self.training,
            "network": self.network.state_dict(),
        }
        write_bytes(path, serialised(state))


def deployed_policy(
    path: str | Path, device: torch.device, logger: TrainingLogger
) -> NetworkPolicy:
    """Return the policy of a file, for a run that trains nothing; log what its training cost.

    What the file does not carry, as those of earlier versions, is logged as None.
    """
    policy = load_policy(path, device)
    content = file_hash(checkpoint_file(path))
    unknown = dict.fromkeys(TRAINING_COST)
    logger.summary({CHECKPOINT: content[:16], **unknown, **policy.training})
    return policy


def load_policy(path: str | Path, device: torch.device) -> NetworkPolicy:
    """Return the policy that `NetworkPolicy.save` wrote to `path`, or `pretrained/NAME`.

    Files of schema 4, in which layers and the number of message passing rounds have former names,
    are read too.

    Raises
    ------
    UserError
        Naming the file, if it does not exist or cannot be read.
    """
    file = checkpoint_file(path)
    try:
        state = torch.load(file, map_location=device, weights_only=True)
        if state["schema"] not in READABLE:
            raise ValueError(
                f"its schema is {state['schema']}, this version reads "
                f"{' and '.join(map(str, READABLE))}: train it again"
            )
        shape = {FORMER_SHAPE_KEYS.get(key, key): value for key, value in state["shape"].items()}
        network = network_kinds()[shape.pop("kind")](**shape).to(device)
        network.load_state_dict(state["network"])
        return NetworkPolicy(
            network,
            state["window"],
            device,
            state.get("shaped", True),
            state.get("training"),
            state.get("predicts_returns", True),
        )
    except FileNotFoundError:
        raise UserError(
            f"checkpoint: {path} does not exist; give the policy.pt of a finished run's folder"
        ) from None
    except Exception as error:  # torch raises many types for a file that is cut short or foreign
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint: {path} is no policy of this suite ({reason})") from None
