"""A job: a solver on an instance set under a setting, all that decides a run's result, and the key that identifies it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.contracts import Budget, Dataset, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.run.instance_set import set_hash
from bench.run.record import SCHEMA
from bench.setting import TRACKS, Setting


@dataclass(frozen=True, eq=False)
class Job:
    """A solver on an instance set: all that decides a run's result."""

    solver: str  # its name
    plugin: Any  # a Solver, Policy or Learner
    dataset: Dataset
    instances: Sequence[Instance]  # of `split`
    setting: Setting
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    split: str = "test"
    config: Mapping[str, Any] = field(
        default_factory=dict
    )  # resolved `solver` and `dataset` (and what else decides results)

    def __post_init__(self) -> None:
        for instance in self.instances:
            self.setting.check(instance)
        tracks = getattr(self.plugin, "tracks", TRACKS)
        if self.setting.track not in tracks:
            raise UserError(
                f"track: {self.solver} solves {' and '.join(tracks)} only, and this is {self.setting.track}"
            )
        if self.setting.information == "online" and getattr(
            self.plugin, "clairvoyant", isinstance(self.plugin, Solver)
        ):
            raise UserError(
                f"track, observe: {self.solver} plans with the future known and may not enter track=online or observe=arrived; "
                "set track=schedule observe=all"
            )

    @functools.cached_property
    def set_hash(self) -> str:
        """Identity of the instances."""
        return set_hash(self.instances)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """The record's first keys: what ran on what, and how."""
        return {
            "solver": self.solver,
            "dataset": self.dataset.name,
            "split": self.split,
            "seed": self.seed,
            **asdict(self.setting),
            "information": self.setting.information,
            "set_hash": self.set_hash,
        }

    @functools.cached_property
    def parameters(self) -> dict[str, Any]:
        """The nested configuration as the tracker and `config.yaml` show it."""
        return {
            **self.config,
            "budget": asdict(self.budget),
            **asdict(self.setting),
            "seed": self.seed,
            "split": self.split,
        }

    @functools.cached_property
    def key(self) -> str:
        """Identifies (configuration, seed, instance set); files named in the solver's configuration count by their content."""
        files = {
            path: _digest(path)
            for path in _leaves(self.config.get("solver", {}))
            if Path(path).is_file()
        }
        payload = [SCHEMA, self.identity, self.parameters, files]
        return hashlib.sha256(
            json.dumps(payload, sort_keys=True, default=str).encode()
        ).hexdigest()[:16]

    def folder(self, runs: Path) -> Path:
        """Where this run lies."""
        return runs / self.dataset.name / f"{self.solver}-s{self.seed}-{self.key[:10]}"


def _leaves(config: Any) -> Iterator[str]:
    """The texts in a nested configuration."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, Mapping | list):
        for value in config.values() if isinstance(config, Mapping) else config:
            yield from _leaves(value)


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
