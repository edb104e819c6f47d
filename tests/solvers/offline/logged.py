"""Small logs and learners that the tests of offline learning share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.contracts import Budget, LoggedDataset, Policy
from bench.instance import Instance
from bench.logs.episodes import LoggedEpisodes
from bench.rollout import PolicySolver
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from datasets.logs.recorded import Behaviour
from datasets.logs.recorder import Recorder
from solvers.offline import learners
from solvers.rules import Random
from tests.solvers.learning import FixedDataset, MemoryLogger, random_instance

CPU = torch.device("cpu")
DATA = FixedDataset(random_instance, 24)
TRANSITION_LEARNERS: dict[str, tuple[Any, dict[str, Any]]] = {  # those that train on transitions
    "bc": (learners.BC, {}),
    "dqn": (learners.DQN, {}),
    "double_dqn": (learners.DQN, {"double": True}),
    "nfq": (learners.NFQ, {}),
    "cql": (learners.CQL, {}),
    "cql_quantile": (learners.CQL, {"quantiles": 4}),
    "bcq": (learners.BCQ, {}),
    "sac": (learners.SAC, {}),
    "iql": (learners.IQL, {}),
    "cdqac": (learners.CDQAC, {"quantiles": 4}),
}
LEARNERS = {
    **TRANSITION_LEARNERS,
    "decision_transformer": (
        learners.DecisionTransformer,
        {"embed": 16, "layers": 1, "heads": 2, "context": 4},
    ),
}
VARIANTS = ("double_dqn", "nfq", "cql_quantile")  # of dqn and cql, by one option
SMALL = {
    "width": 8,
    "message_passing_rounds": 1,
    "steps": 20,
    "batch": 32,
    "candidates": 2,
    "fqe_steps": 10,
}


class InMemoryLog(LoggedDataset):
    """A logged dataset that is held in memory."""

    def __init__(
        self, log: LoggedEpisodes, data: Any = DATA, setting: Setting | None = None
    ) -> None:
        self.log = log
        self.name = log.name
        self.data = data
        self.setting = setting or Setting()

    def episodes(self, progress: Any = None) -> LoggedEpisodes:
        return self.log

    def instances(self) -> Any:
        return self.data.instances("train")


class GreedyPolicy(Policy):
    """A behaviour policy that takes the best action of a network, which may have a memory."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def reset(self) -> None:
        self.network.reset()

    @torch.no_grad()
    def distribution(self, view: Any) -> torch.Tensor:
        logits, _ = self.network(self.network.featurize(view))
        return torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).double()

    def act(self, observation: Any, rng: Any) -> int:
        raise NotImplementedError


def two_tasks(rng: np.random.Generator) -> Instance:
    """One agent, one task at a time: 2 ticks of weight 1, 3 ticks of weight 4."""
    return Instance([[2], [3]], np.ones((2, 1, 1)), [[1]], [0], weight=[1, 4])


def record_log(
    episodes: int = 24,
    policy: Any = None,
    noise: float = 0.0,
    data: Any = DATA,
    seed: int = 0,
    **setting: Any,
) -> LoggedEpisodes:
    """Record a log of `policy`, by default uniform legal play."""
    # planners end with their proof before
    behaviour = Behaviour(policy or Random(), episodes, noise, seconds=3600.0)
    return Recorder("logged", data, Setting(**setting), seed).record("who", behaviour)


def training_simulator(data: Any = DATA) -> TensorSimulator:
    """Return a simulator of the training instances, which pays shaped rewards."""
    return TensorSimulator(list(data.instances("train")), Setting(), shaped=True)


def make_learner(name: str, log: LoggedEpisodes | None, **changes: Any) -> Any:
    """Return a small learner of LEARNERS for a log held in memory."""
    kind, own = LEARNERS[name]
    logs = None if log is None else InMemoryLog(log)
    return kind(**{"logs": logs, **SMALL, **own, **changes})


def fit(
    learner: Any,
    folder: Path,
    data: Any = DATA,
    setting: Setting | None = None,
    seed: int = 0,
    after_iteration: Callable[[MemoryLogger], None] = lambda logger: None,
    decisions: int = 1_000_000,
) -> tuple[Any, MemoryLogger]:
    """Return the trained policy and the logger of the training."""
    folder.mkdir(exist_ok=True)
    logger = MemoryLogger(folder, after_iteration)
    budget = Budget(decisions=decisions, threads=1)
    rng = np.random.default_rng(seed)
    return learner.fit(data, setting or Setting(), budget, rng, logger), logger


def schedules(policy: Policy, instances: list[Instance]) -> list[Any]:
    """Return the schedule that a policy makes of each instance."""
    solver = PolicySolver(policy)
    results = [
        solver.solve(one, Setting(), Budget(), np.random.default_rng(0)) for one in instances
    ]
    return [result.schedule.to_dict() for result in results]
