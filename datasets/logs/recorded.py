"""Logged datasets of behaviour policies, solvers and learners, recorded in the simulator.

The first use records a log into the cache, later uses read it. The kinds follow D4RL (Fu et al.
2020, arXiv:2004.07219): random, rules, expert, noisy expert, medium (a half-trained policy), replay
(all episodes of a training) and mixed.

Rewards are those of the decision process (cost accrues over time), not shaped rewards, which are
paid at assignment: with these, waiting seems to cost nothing, and values that are learnt from logs
alone prefer to wait.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bench.contracts import Dataset, LoggedDataset, Progress, no_progress
from bench.errors import UserError
from bench.instance import Instance
from bench.instance_set import split_hash
from bench.logs.episodes import LoggedEpisodes, concatenate
from bench.protection import TrainingData
from bench.renamed import KEYS, PLUGIN_KEYS, VALUES
from bench.setting import Setting
from bench.settings_hash import plugin_settings, settings_hash
from datasets._reading import Reading
from datasets.logs import minari_files
from datasets.logs.recorder import Behaviour, Recorder
from datasets.logs.stored import StoredLogs

# new name of a key -> its first old name, of the version before `bench.renamed.SINCE`
FORMER_KEYS = {new: old for old, new in reversed([*KEYS.items(), *PLUGIN_KEYS.items()])}


class RecordedLogs(StoredLogs):
    """A log of one or several behaviour policies.

    Parameters
    ----------
    name
        Its name in the cache, such as `cluster-small-random-v0`.
    data
        The dataset whose train split is played.
    behaviours
        The behaviour policies by their names.
    setting
        Fields of `bench.setting.Setting` that differ from the defaults.
    seed
        Seed of the random choices of behaviour policies.

    Raises
    ------
    UserError
        For a negative seed; in `episodes`, where a log of this name was recorded from other
        settings or its file cannot be read.
    """

    def __init__(
        self,
        name: str,
        data: Dataset,
        behaviours: Mapping[str, Behaviour],
        setting: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        if seed < 0:
            raise UserError(f"logs.seed: must not be negative, got {seed}")
        super().__init__(name)
        self.data = TrainingData(data, f"a reader of logs {name}")
        self.behaviours = dict(behaviours)
        self.seed = seed
        self.setting = Setting.from_dict(setting or {})

    def episodes(self, progress: Progress = no_progress) -> LoggedEpisodes:
        """Return the log; record it first where the cache does not hold it."""
        with self.lock():
            if self.folder.exists():
                return self._read()
            settings = self.settings
            began = time.perf_counter()
            recorder = Recorder(self.name, self.data, self.setting, self.seed, progress)
            parts = [recorder.record(name, one) for name, one in self.behaviours.items()]
            log = concatenate(self.name, parts)
            seconds = round(time.perf_counter() - began, 1)
            train = split_hash(self.data, "train")
            self.write(log, {"settings": settings, "train": train, "seconds": seconds})
            return log

    def instances(self) -> Iterable[Instance]:
        """Return the instances of the dataset's train split."""
        return self.data.instances("train")

    def content(self) -> Any:
        """Return the hashes of the settings and of the instances that are played."""
        return [self.settings, split_hash(self.data, "train")]

    @property
    def settings(self) -> str:
        """Hash of everything that decides the content of the log (`bench.settings_hash`)."""
        return settings_hash(self._settings())

    def _settings(self) -> list[Any]:
        behaviours = {
            name: [
                plugin_settings(one.policy),
                one.episodes,
                one.noise,
                one.seconds,
                one.decisions,
                one.replay,
            ]
            for name, one in self.behaviours.items()
        }
        hashes = dict(self.data.hashes)
        return [self.data.name, hashes, behaviours, dict(vars(self.setting)), self.seed]

    def _read(self) -> LoggedEpisodes:
        """Read the stored log, if it was recorded from these settings."""
        card = minari_files.read_card(self.folder)["card"]
        if "train" in card and card["train"] != split_hash(self.data, "train"):
            raise UserError(
                f"logs: {self.folder} was recorded on other instances: the train split of "
                f"{self.data.name} has changed since; give the log another name (logs.name=...) or "
                "delete the folder to record it again"
            )
        recorded = card.get("settings")
        if recorded not in (self.settings, _former_hash(self._settings())):
            raise UserError(
                f"logs: {self.folder} was recorded from other settings ({recorded}, now "
                f"{self.settings}); give the log another name (logs.name=...) or delete the folder "
                "to record it again"
            )
        return minari_files.read(self.folder)


class JoinedLogs(StoredLogs):
    """Several logs as one.

    Parameters
    ----------
    name
        Its name in the cache.
    parts
        The logs by the names that `shares` uses.
    shares
        How many episodes of a part are taken, evenly spread over it; all of a part not named.

    Raises
    ------
    UserError
        Where the parts were played under different settings, or a share is impossible.
    """

    def __init__(
        self,
        name: str,
        parts: Mapping[str, LoggedDataset],
        shares: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(name)
        self.parts = dict(parts)
        self.shares = dict(shares or {})
        unknown = sorted(set(self.shares) - set(self.parts))
        if unknown:
            raise UserError(
                f"logs.shares: {unknown[0]} is not a part; the parts are {', '.join(self.parts)}"
            )
        for part_name, share in self.shares.items():
            if share < 1:
                raise UserError(
                    f"logs.shares.{part_name}: at least 1 episode is needed, got {share}; leave "
                    "the part out instead"
                )
        (first_name, first), *others = self.parts.items()
        self.setting = first.setting
        for other_name, other in others:
            if other.setting != self.setting:
                raise UserError(
                    f"logs.parts.{other_name}: was played with {other.setting}, {first_name} with "
                    f"{self.setting}; logs can be joined only where these agree"
                )

    def episodes(self, progress: Progress = no_progress) -> LoggedEpisodes:
        """Return the episodes of the parts, part by part."""
        chosen = []
        reading = Reading(self.name, "episodes")
        for name, part in self.parts.items():
            part.cache = self.cache
            part.command = self.command
            log = part.episodes(progress)
            count = self.shares.get(name, len(log.length))
            if count > len(log.length):
                raise UserError(
                    f"logs.shares.{name}: {count} episodes asked for, {log.name} has "
                    f"{len(log.length)}; lower the share"
                )
            numbers = np.linspace(0, len(log.length) - 1, count).round().astype(np.int64)
            chosen.append(log.select(numbers))
            reading.use(count)
            if count < len(log.length):
                reading.leave_out(f"beyond logs.shares.{name}", len(log.length) - count)
        reading.finish()
        log = concatenate(self.name, chosen)
        self.store(log, {"parts": {part.name: part.hash for part in chosen}})
        return log

    def content(self) -> Any:
        """Return what the contents of the parts change."""
        return [part.content() for part in self.parts.values()]

    def instances(self) -> Iterable[Instance]:
        """Return the instances of all parts, made one by one as they are needed."""
        return itertools.chain.from_iterable(part.instances() for part in self.parts.values())


def _former_hash(settings: list[Any]) -> str:
    """Return the hash that the version before `bench.renamed.SINCE` wrote into the card of a log.

    It is the hash of the same settings under their former names.
    """
    text = json.dumps(_under_former_names(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _under_former_names(settings: Any) -> Any:
    """Translate renamed keys and values of nested settings back to their former names."""
    if isinstance(settings, list):
        return [_under_former_names(value) for value in settings]
    if not isinstance(settings, Mapping):
        return settings
    former = {}
    for key, value in settings.items():
        renamed_values = {new: old for old, new in VALUES.get(key, {}).items()}
        is_renamed = isinstance(value, str) and value in renamed_values
        former[FORMER_KEYS.get(key, key)] = (
            renamed_values[value] if is_renamed else _under_former_names(value)
        )
    return former
