"""The base of the offline learners: settings, the logged dataset, and the contract of a learner.

A learner adds its algorithm and says which network decides (`solvers.offline.learners`); the
training itself is `solvers.offline.training.OfflineTraining`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np
import torch

from bench.contracts import Budget, Dataset, Learner, LoggedDataset, Policy, TrainingLogger
from bench.errors import UserError
from bench.files import write_text
from bench.logs.episodes import LoggedEpisodes
from bench.setting import Setting
from solvers.networks.base import Network
from solvers.networks.policy import NetworkPolicy, choose_device, deployed_policy
from solvers.offline.algorithm import OfflineAlgorithm
from solvers.offline.buffer import OfflineBuffer
from solvers.offline.training import OfflineTraining
from solvers.rl.settings import ABOVE_0, AT_LEAST_0, SHARE, Range, check_choice, check_settings

SELECTIONS = ("fqe", "oracle", "last")
RANGES: dict[str, Range] = {
    **dict.fromkeys(("lr", "actor_lr", "reward_scale", "inverse_temperature"), ABOVE_0),
    **dict.fromkeys(("gamma", "expectile", "tau", "target_return_quantile"), SHARE),
    "held_out": ("must lie between 0 and 1, both excluded", lambda x: 0 < x < 1),
    **dict.fromkeys(("alpha", "entropy"), AT_LEAST_0),
    "flexibility": ("must be above 0 and at most 1", lambda x: 0 < x <= 1),
}
SAME_SETTING = ("objective", "mode", "backfill", "event_order", "observe")  # of a run and its log


@dataclass(kw_only=True)
class OfflineLearner(Learner):
    """Settings of every offline learner; `conf/learner/offline.yaml` documents each one.

    The learner declares `observe="arrived"` where its log shows no more than arrived tasks, so that
    the policy observes what the log shows. With `checkpoint`, `logs` may be None.

    Raises
    ------
    UserError
        For a setting out of range or a log that cannot be used.
    FloatingPointError
        Where a network or an estimate is no longer finite: the run fails, with a record.
    """

    logs: LoggedDataset = field()  # required: it does not take the default of `Plugin`
    device: str = "auto"
    checkpoint: str | None = None
    episodes: int | None = None
    held_out: float = 0.15
    steps: int = 2000
    batch: int = 128
    lr: float = 1e-3
    gamma: float = 1.0
    reward_scale: float | None = None
    width: int = 32
    message_passing_rounds: int = 2
    window: int = 64
    candidates: int = 5
    selection: str = "fqe"
    fqe_steps: int = 1000
    threads: int = 1

    def __post_init__(self) -> None:
        choose_device(self.device)
        check_settings(self, "solver", RANGES)
        check_choice("solver.selection", self.selection, SELECTIONS)
        if self.logs is not None and self.logs.setting.observe == "arrived":
            self.observe = "arrived"
        if self.steps % (2 * self.candidates):
            raise UserError(
                f"solver.steps: value {self.steps}: must be a multiple of twice "
                f"solver.candidates={self.candidates}"
            )

    # -- what a learner defines --------------------------------------------------------------------

    @property
    def predicts_returns(self) -> bool:
        """Whether the network that decides has the values of a critic."""
        return False

    @abstractmethod
    def make_algorithm(self, buffer: OfflineBuffer) -> OfflineAlgorithm:
        """Return a new algorithm for the observations of a buffer."""

    @abstractmethod
    def extract_network(self, algorithm: OfflineAlgorithm, buffer: OfflineBuffer) -> Network:
        """Return a copy of the network that decides as the algorithm does now.

        It is on the device of the buffer.
        """

    # -- the contract ------------------------------------------------------------------------------

    def fit(
        self,
        data: Dataset,
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        logger: TrainingLogger,
    ) -> Policy:
        """Train on the log and return one of the `candidates` policies of the second half.

        Only `selection=oracle` uses the simulator to select. Afterwards the simulator computes the
        true returns, with which the offline evaluation report compares its estimates.
        `budget.decisions` is not used. An interrupted run resumes from the last checkpoint in
        `logger.folder`, on the CPU to the same network. With `checkpoint` nothing is trained, and
        the training cost is that of the checkpoint.
        """
        torch.set_num_threads(min(self.threads, int(budget.threads)))
        device = choose_device(self.device)
        if self.checkpoint is not None:
            return deployed_policy(self.checkpoint, device, logger)
        episodes = self.load_episodes(setting, logger)
        training = OfflineTraining(self, episodes, rng, device, logger)
        training.train()
        network = training.select_network(data, setting)
        facts = training.report()
        logger.summary(facts)
        cost = {name: value for name, value in facts.items() if name.startswith("learning/")}
        policy = NetworkPolicy(
            network, self.window, device, training=cost, predicts_returns=self.predicts_returns
        )
        policy.save(logger.folder / "policy.pt")
        return policy

    def load_episodes(self, setting: Setting, logger: TrainingLogger) -> LoggedEpisodes:
        """Return the logged episodes to use, `self.episodes` of them or all.

        Raises
        ------
        UserError
            Where the log was recorded under another setting, shows more tasks than `window`, or has
            fewer episodes.
        """
        episodes = self.logs.episodes(
            lambda label, done, total, note: logger.progress(done, total, note or label)
        )
        if self.logs.rejected:
            lines = "".join(f"{row},{reason}\n" for row, reason in self.logs.rejected)
            write_text(logger.folder / "rejected.csv", f"row,reason\n{lines}")
            logger.summary({"logs/rejected_rows": len(self.logs.rejected)})
        logged = vars(self.logs.setting)
        for name in SAME_SETTING:
            value = vars(setting)[name]
            if logged[name] != value:
                raise UserError(
                    f"logs: {episodes.name} was recorded with {name}={logged[name]}, the run has "
                    f"{value}; set {name}={logged[name]} or take other logs"
                )
        tasks = episodes.layout.tasks
        if tasks > self.window:
            raise UserError(
                f"solver.window: value {self.window}: {episodes.name} shows up to {tasks} tasks; "
                f"set solver.window={tasks}"
            )
        count = len(episodes.length)
        if self.episodes is None:
            return episodes
        if self.episodes > count:
            raise UserError(
                f"solver.episodes: value {self.episodes}: {episodes.name} has {count}; "
                "record a larger log"
            )
        evenly = np.linspace(0, count - 1, self.episodes).round().astype(np.int64)
        return episodes.select(evenly)

    def make_buffer(
        self, episodes: LoggedEpisodes, device: torch.device | None = None, seed: int = 0
    ) -> OfflineBuffer:
        """Return the replay buffer of logged episodes, with the rewards scaled by `reward_scale`.

        Parameters
        ----------
        episodes
            The episodes to sample from.
        device
            Where batches are made; None: the learner's.
        seed
            Seed of the batches.
        """
        scale = self.reward_scale or float(episodes.layout.tasks)
        return OfflineBuffer(episodes, device or choose_device(self.device), seed, scale)
