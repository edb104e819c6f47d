"""Small logs that tests of offline learners share."""

from typing import Any

import numpy as np
import torch

from bench.instance import Instance
from bench.logs.episodes import Episodes
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from datasets.logs.recorded import Behaviour, Recorder
from solvers.offline import learners
from solvers.rules import Random
from tests.solvers.learning import Fixed, random_instance

CPU = torch.device("cpu")
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {  # every learner that d3rlpy trains on transitions
    "bc": (learners.BC, {}),
    "dqn": (learners.DQN, {}),
    "double_dqn": (learners.DQN, {"double": True}),
    "nfq": (learners.NFQ, {}),
    "cql": (learners.CQL, {}),
    "cql_quantile": (learners.CQL, {"quantiles": 4}),
    "bcq": (learners.BCQ, {}),
    "sac": (learners.SAC, {}),
    "iql": (learners.IQL, {}),
}
DATA = Fixed(random_instance, 24)


class Logs:
    """A log held in memory."""

    def __init__(self, log: Episodes, data: Any = DATA, setting: Setting | None = None) -> None:
        self.log, self.name, self.data = log, log.name, data
        self.setting, self.cache, self.rejected = setting or Setting(), None, []

    def episodes(self, progress: Any = None) -> Episodes:
        return self.log

    def instances(self) -> Any:
        return self.data.instances("train")


def two_tasks(rng: np.random.Generator) -> Instance:
    """One agent, one task at a time: 2 ticks of weight 1, 3 ticks of weight 4."""
    return Instance([[2], [3]], np.ones((2, 1, 1)), [[1]], [0], weight=[1, 4])


def recorded(
    episodes: int = 24,
    policy: Any = None,
    noise: float = 0.0,
    data: Any = DATA,
    seed: int = 0,
    **setting: Any,
) -> Episodes:
    """A log of random play, or of another policy."""
    behaviour = Behaviour(
        policy or Random(), episodes, noise, seconds=20.0
    )  # a busy machine has time to plan
    return Recorder("logged", data, Setting(**setting), seed).record("who", behaviour)


def logged(
    episodes: int = 24, policy: Any = None, noise: float = 0.0, data: Any = DATA, seed: int = 0
) -> tuple[Episodes, TensorSimulator]:
    """A log under the usual setting, and a simulator of its instances."""
    simulator = TensorSimulator(list(data.instances("train")), Setting(), shaped=True)
    return recorded(episodes, policy, noise, data, seed), simulator


class Greedy:
    """A network that decides, always by its best action, in all environments at once; it may have a memory."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def reset(self) -> None:
        self.network.reset()

    @torch.no_grad()
    def distribution(self, view: Any) -> torch.Tensor:
        logits, _ = self.network(self.network.see(view))
        return torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).double()

    def act(self, observation: Any, rng: Any) -> int:
        raise NotImplementedError
