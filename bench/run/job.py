"""A job: a solver on an instance set under a setting, and the key that identifies its result."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.contracts import Budget, Dataset, Learner, Policy, Solver, check_plugin
from bench.errors import UserError
from bench.instance import Instance
from bench.instance_set import set_hash
from bench.paths import path_component
from bench.rollout import check_information
from bench.run.inputs import inputs
from bench.run.record import SCHEMA, Record
from bench.setting import Setting
from bench.settings_hash import settings_hash


@dataclass(frozen=True, eq=False)
class Job:
    """A solver on an instance set: all that decides a run's result.

    Attributes
    ----------
    solver
        Name of the solver, for records and folders.
    plugin
        The solver itself.
    instances
        The instances of `split`.
    config
        Resolved configuration of `solver` and `dataset`, and of whatever else decides results.
    isolate
        Whether a policy decides in a process of its own where information is online.

    Raises
    ------
    UserError
        Where the plug-in may not enter the setting's track, or is no plug-in, or the name of solver
        or data set cannot name a folder.
    SettingError
        Where an instance cannot be played under the setting.
    """

    solver: str
    plugin: Solver | Policy | Learner
    dataset: Dataset
    instances: Sequence[Instance]
    setting: Setting
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    split: str = "test"
    config: Mapping[str, Any] = field(default_factory=dict)
    isolate: bool = True

    def __post_init__(self) -> None:
        check_plugin("solver", self.plugin)
        path_component("solver", self.solver)
        path_component("dataset.name", self.dataset.name)
        for instance in self.instances:
            self.setting.check(instance)
        tracks = self.plugin.tracks
        if self.setting.track not in tracks:
            raise UserError(
                f"track: {self.solver} solves {' and '.join(tracks)} only, "
                f"and this is {self.setting.track}"
            )
        check_information(self.solver, self.plugin, self.setting)

    @functools.cached_property
    def set_hash(self) -> str:
        """Identity of the instances."""
        return set_hash(self.instances)

    @functools.cached_property
    def identity(self) -> Record:
        """The record's first keys: what ran on what, and how."""
        return {
            "solver": self.solver,
            "dataset": self.dataset.name,
            "split": self.split,
            "seed": self.seed,
            **asdict(self.setting),  # type: ignore[typeddict-item]  # the fields of Setting
            "information": self.setting.information,
            "set_hash": self.set_hash,
        }

    @functools.cached_property
    def parameters(self) -> dict[str, Any]:
        """The nested configuration, as the tracker and `config.yaml` hold it."""
        shared_process = self.setting.information == "online" and not self.isolate
        return {
            **self.config,
            **({"isolate": False} if shared_process else {}),
            "budget": asdict(self.budget),
            **asdict(self.setting),
            "seed": self.seed,
            "split": self.split,
        }

    @functools.cached_property
    def key(self) -> str:
        """Identify (configuration, seed, instance set, inputs)."""
        return settings_hash([SCHEMA, self.identity, self.parameters, self.inputs])

    @functools.cached_property
    def inputs(self) -> dict[str, Any]:
        """What else decides the result, by its content (`bench.run.inputs`)."""
        return inputs(self.plugin, self.dataset, self.config.get("solver", {}))

    def folder(self, runs: Path) -> Path:
        """Return the folder of this run below `runs`."""
        return runs / self.dataset.name / f"{self.solver}-s{self.seed}-{self.key[:10]}"
