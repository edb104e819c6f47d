"""Offline pretraining followed by online learning in the simulator."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.contracts import Budget, Dataset, Learner, Policy, Solver, TrainingLogger
from bench.errors import UserError
from bench.setting import Setting
from solvers.networks.policy import choose_device, deployed_policy, load_policy
from solvers.offline.learner import OfflineLearner
from solvers.rl.training import NetworkLearner


@dataclass
class OfflineToOnline(Learner):
    """Trains `offline` on its log, then `online` from the resulting policy.

    The facts of the first part are recorded as `offline/...`, those of the second without prefix.
    `learning/decisions_to_best_rule` and the like count decisions in the simulator, so a comparison
    with a run of `online` alone shows how many decisions the log saves.
    """

    offline: OfflineLearner
    online: NetworkLearner

    def __post_init__(self) -> None:
        self.logs = self.offline.logs
        self.observe = self.offline.observe

    def fit(
        self,
        data: Dataset,
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        logger: TrainingLogger,
    ) -> Policy | Solver:
        """Run both parts; an interrupted run resumes in the part that it was in."""
        folder = logger.folder / "offline"
        folder.mkdir(exist_ok=True)
        offline_rng, online_rng = (
            np.random.default_rng(seed) for seed in [int(rng.integers(2**62)) for _ in range(2)]
        )
        policy = Path(self.offline.checkpoint or folder / "policy.pt").expanduser()
        prefixed = _PrefixedLogger(logger, folder)
        if self.offline.checkpoint is not None:
            deployed_policy(policy, choose_device("cpu"), prefixed)
        elif not _is_policy(policy):  # it is written at the end of the first part
            self.offline.fit(data, setting, budget, offline_rng, prefixed)
        online = replace(self.online, init_policy=str(policy))
        return online.fit(data, setting, budget, online_rng, logger)


def _is_policy(path: Path) -> bool:
    """Return whether the first part has ended, with a policy that can be read."""
    if not path.exists():
        return False
    try:
        load_policy(path, choose_device("cpu"))
    except UserError as error:
        logging.getLogger(__name__).warning("%s; the offline training makes it again", error)
        return False
    return True


class _PrefixedLogger:
    """The logger of the first part: a folder of its own, and names that begin with `offline/`."""

    def __init__(self, logger: TrainingLogger, folder: Path) -> None:
        self._logger = logger
        self.folder = folder

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics as `offline/NAME`; `step` counts gradient steps, not decisions."""
        self._logger.metrics(step, {f"offline/{name}": value for name, value in values.items()})

    def summary(self, facts: Mapping[str, Any]) -> None:
        """Log facts as `offline/NAME`, but `logs/...` and `ope/...` unchanged.

        The second part has no facts of these two groups.
        """
        unchanged = ("logs/", "ope/")
        prefixed = {
            name if name.startswith(unchanged) else f"offline/{name}": value
            for name, value in facts.items()
        }
        self._logger.summary(prefixed)

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Report progress unchanged."""
        self._logger.progress(done, total, note)
