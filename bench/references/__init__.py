"""References: the best known objective and bound of an instance, and the mean of random play.

Every run is measured against them. A reference belongs to (instance hash, objective) and holds on
every track and in every mode: its objective is that of a verified schedule, its bound that of the
clairvoyant problem with free choice of starts.

References are looked up in the files shipped with this package (`NAME.json`, each with the command
that computes it), then in the user's cache. What has no proven optimum yet is computed by the
reference solver. A better verified schedule or a better bound found by any later run improves the
cache. All values are internal (minimised) ones.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from bench import metrics
from bench.contracts import Budget, Progress, Solver
from bench.errors import UserError
from bench.instance import Instance, read_json, write_json
from bench.paths import path_component
from bench.references.reference import Reference, reference_of
from bench.setting import Setting
from bench.simulator import Simulator

__all__ = [
    "EPISODES",
    "SHIPPED",
    "RandomPlay",
    "Reference",
    "References",
    "reference_of",
    "shipped_reference",
]

SCHEMA = 1
SHIPPED = Path(__file__).parent  # folder of the shipped files
EPISODES = 100  # random episodes whose mean is a score of 0
# Cached means of random play keep the keys under which they were first written.
EVENT_ORDER_IN_KEYS = {"batched": "together", "sequential": "singly"}


class RandomPlay(NamedTuple):
    """Uniformly random legal play of one instance: the zero of the score."""

    mean: float  # objective, penalised where an episode ended in a dead end
    dead_ends: float  # share of the episodes that ended in a dead end


class References:
    """Looks up, computes and improves references.

    Parameters
    ----------
    cache
        Folder in which computed references are kept.
    solver
        Computes what is neither shipped nor cached; None: it stays unknown.
    seconds
        Time limit of that solver per instance.
    threads
        Threads that it may use.
    name
        Its name in the references.
    shipped
        Whether the shipped files count. Without them and with an empty cache, every reference is
        computed anew.
    """

    def __init__(
        self,
        cache: str | Path,
        solver: Solver | None = None,
        seconds: float = 20.0,
        threads: int = 2,
        name: str = "reference",
        shipped: bool = True,
    ) -> None:
        self.cache = Path(cache)
        self.solver = solver
        self.seconds = seconds
        self.threads = threads
        self.name = name
        self.shipped = shipped

    def known(self, instance: Instance, objective: str) -> Reference:
        """Return the best of the shipped and the cached reference and the trivial bound."""
        digest = instance.hash()
        known = Reference(bound=metrics.trivial_bound(instance, objective), bound_solver="trivial")
        if self.shipped:
            known = known.merge(shipped_reference(digest, objective))
        return known.merge(self.cached(digest, objective))

    def cached(self, digest: str, objective: str) -> Reference:
        """Return what the cache holds about the instance of this hash."""
        return Reference(**self._read(digest)["references"].get(objective, {}))

    def ensure(self, instances: Sequence[Instance], setting: Setting, progress: Progress) -> None:
        """Compute the missing random play and references of instances.

        An instance without a proven optimum is searched if no search of it had `seconds` yet.
        """
        for i, instance in enumerate(instances):
            progress("references", i, len(instances), instance.name)
            self.random(instance, setting)
            known = self.known(instance, setting.objective)
            if self.solver is not None and not known.proved and known.seconds < self.seconds:
                self._compute(self.solver, instance, setting)
        progress("references", len(instances), len(instances), "")

    def improve(self, instance: Instance, objective: str, found: Reference) -> Reference:
        """Cache `found` where it is better than the known reference; return the better of both."""
        known = self.known(instance, objective)
        merged = known.merge(found)
        if merged != known:
            with self._update(instance.hash()) as data:
                cached = Reference(**data["references"].get(objective, {}))
                data["references"][objective] = cached.merge(merged).to_dict()
        return merged

    def random(self, instance: Instance, setting: Setting) -> RandomPlay:
        """Return the mean of EPISODES episodes of random legal play, the same on every machine.

        Only tasks that have arrived are observed, whatever the setting says, so that all solvers
        have the same zero.
        """
        played = replace(
            setting,
            track="assign" if instance.sharing == "budget" else "schedule",
            observe="arrived",
        )
        events = EVENT_ORDER_IN_KEYS[played.event_order]
        key = "-".join((played.objective, played.mode, played.backfill, events, str(EPISODES)))
        digest = instance.hash()
        cached = self._read(digest)["random"].get(key)
        if cached is None:
            cached = list(_play(instance, played, np.random.default_rng(int(digest[:16], 16))))
            with self._update(digest) as data:
                data["random"][key] = cached
        return RandomPlay(*cached)

    def store(
        self,
        name: str,
        instances: Sequence[Instance],
        objective: str,
        command: str,
        folder: Path = SHIPPED,
    ) -> Path:
        """Write the known references of a dataset's instances into its shipped file.

        Parameters
        ----------
        name
            Of the dataset.
        command
            Computes these references; kept in the file.

        Returns
        -------
        Path
            The file `folder`/`name`.json.
        """
        path = folder / f"{path_component('dataset.name', name)}.json"
        empty: dict[str, Any] = {"schema": SCHEMA, "commands": {}, "references": {}}
        data = read_json(path) if path.exists() else empty
        data["commands"][objective] = command
        for instance in instances:
            known = self.known(instance, objective).to_dict()
            data["references"].setdefault(instance.hash(), {})[objective] = known
        path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
        _shipped_references.cache_clear()
        return path

    def _compute(self, solver: Solver, instance: Instance, setting: Setting) -> None:
        """Search once and keep what is found.

        Where the solver fails only the seconds are kept, so that it does not try again with the
        same time limit.
        """
        free = Setting("assign" if instance.sharing == "budget" else "schedule", setting.objective)
        rng = np.random.default_rng(0)
        found = Reference(seconds=self.seconds)
        try:
            result = solver.solve(instance, free, Budget(self.seconds, threads=self.threads), rng)
            found = reference_of(instance, result, setting.objective, self.name, self.seconds)
        except Exception as error:
            logging.getLogger(__name__).warning(
                "reference of %s: the search failed (%s)", instance.name, error
            )
        self.improve(instance, setting.objective, found)

    def _file(self, digest: str) -> Path:
        return self.cache / "references" / digest[:2] / f"{digest}.json"

    def _read(self, digest: str) -> dict[str, Any]:
        """Return the cached data of one instance.

        A damaged file counts as empty, since everything in it can be computed again.
        """
        path = self._file(digest)
        try:
            data: dict[str, Any] = read_json(path) if path.exists() else {}
        except ValueError:
            data = {}
        if data.get("schema") != SCHEMA:
            return {"schema": SCHEMA, "references": {}, "random": {}}
        return data

    @contextmanager
    def _update(self, digest: str) -> Iterator[dict[str, Any]]:
        """Read the cached data, let the caller change it, and write it.

        One process at a time; the file is replaced as a whole.
        """
        path = self._file(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            data = self._read(digest)
            yield data
            write_json(path, data)


def shipped_reference(digest: str, objective: str) -> Reference:
    """Return what the shipped files hold about the instance of this hash."""
    return Reference(**_shipped_references().get(digest, {}).get(objective, {}))


@functools.cache
def _shipped_references() -> Mapping[str, Mapping[str, Any]]:
    """Return {instance hash: {objective: fields of a Reference}} from all shipped files."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(SHIPPED.glob("*.json")):
        data = read_json(path)
        if data["schema"] > SCHEMA:
            raise UserError(
                f"{path}: schema {data['schema']} is newer than {SCHEMA}, "
                "the newest this version reads; upgrade"
            )
        found |= data["references"]
    return found


def _play(instance: Instance, setting: Setting, rng: np.random.Generator) -> RandomPlay:
    simulator = Simulator([instance], setting, num_envs=EPISODES)
    returns = simulator.play_random(rng)[:, 1]
    dead_ends = np.mean([simulator.dead_end(b) for b in range(EPISODES)])
    return RandomPlay(float(-returns.mean() * simulator.scale[0]), float(dead_ends))
