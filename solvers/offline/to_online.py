"""From logs to the simulator: a policy is learnt from a log first, then goes on learning by playing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.contracts import Budget, Dataset, Log, Logs, Policy, Solver
from bench.setting import Setting
from solvers.offline.learner import OfflineLearner
from solvers.rl.training import NetworkLearner


@dataclass
class OfflineToOnline:
    """What `offline` makes of its log is where `online` starts; both are settings of their own.

    The facts of the first part are recorded as `offline/...`, those of the second as ever: `learning/decisions_to_best_rule`
    and its like count decisions in the simulator, so beside a run of `online` alone they say how many the log has saved.
    """

    offline: OfflineLearner
    online: NetworkLearner

    def __post_init__(self) -> None:
        if hasattr(self.offline, "observe"):
            self.observe = self.offline.observe

    @property
    def logs(self) -> Logs:
        """Those that are learnt from."""
        return self.offline.logs

    def fit(
        self, data: Dataset, setting: Setting, budget: Budget, rng: np.random.Generator, log: Log
    ) -> Policy | Solver:
        """Both parts, each continued where it was interrupted."""
        folder = log.folder / "offline"
        folder.mkdir(exist_ok=True)
        seeds = [int(rng.integers(2**62)) for _ in range(2)]
        start = Path(self.offline.checkpoint or folder / "policy.pt")
        if not start.exists():  # it is written at the end
            self.offline.fit(
                data, setting, budget, np.random.default_rng(seeds[0]), _Prefixed(log, folder)
            )
        online = replace(self.online, start=str(start))
        return online.fit(data, setting, budget, np.random.default_rng(seeds[1]), log)


class _Prefixed:
    """The run's log for its first part: a folder of its own, names that begin with `offline/`."""

    def __init__(self, log: Log, folder: Path) -> None:
        self._log, self.folder = log, folder

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """As `offline/...`: steps of gradient descent, not decisions."""
        self._log.metrics(step, {f"offline/{name}": value for name, value in values.items()})

    def summary(self, facts: Mapping[str, Any]) -> None:
        """As `offline/...`, but for those of the log and of off-policy evaluation, which the second part has none of."""
        self._log.summary(
            {
                name if name.startswith(("logs/", "ope/")) else f"offline/{name}": v
                for name, v in facts.items()
            }
        )

    def progress(self, done: int, total: int, note: str = "") -> None:
        """As it is."""
        self._log.progress(done, total, note)
