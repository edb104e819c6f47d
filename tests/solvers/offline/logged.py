"""Small logs that tests of offline learners share."""

from typing import Any

import torch

from bench.episodes import Episodes
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from datasets.recorded_logs import Behaviour, Recorder
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


def logged(
    episodes: int = 24, policy: Any = None, noise: float = 0.0, data: Any = DATA, seed: int = 0
) -> tuple[Episodes, TensorSimulator]:
    """A log of random play, or of another policy, and a simulator of its instances."""
    instances = list(data.instances("train"))
    log = Recorder("logged", data, Setting(), seed).record("who", Behaviour(policy or Random(), episodes, noise))
    return log, TensorSimulator(instances, Setting(), shaped=True)


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
