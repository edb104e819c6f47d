"""What every run is measured against: the best known objective and bound of an instance, and the mean of random legal play.

A reference belongs to (instance hash, objective) and holds in every track and mode: its objective is that of a verified
schedule, its bound that of the clairvoyant problem with free choice of starts. What is known is looked up in the files shipped
beside this module (`NAME.json`, each with the command that proves it), then in the user's cache; whatever is still unproved is
computed by the reference solver. A better verified schedule or a better bound found by any later run improves the cache.
All values are internal (minimised) ones.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from bench import metrics
from bench.analysis.stats import EQUAL
from bench.contracts import Budget, Result, Solver
from bench.errors import UserError
from bench.instance import Instance, read_json, write_json
from bench.setting import Setting
from bench.simulator import Simulator
from bench.verify import verify

SCHEMA = 1
SHIPPED = Path(__file__).parent
PLAYS = 100  # random episodes behind a score of 0
# Cached means of random play keep the keys under which they were first written.
EVENT_ORDER_IN_KEYS = {"batched": "together", "sequential": "singly"}




@dataclass(frozen=True)
class Reference:
    """What is known about (instance, objective)."""

    objective: float = math.inf  # of the best verified schedule known
    bound: float = -math.inf  # no schedule costs less
    solver: str = ""  # who found the schedule
    bound_solver: str = ""  # who proved the bound
    seconds: float = 0.0  # the longest search behind it

    @property
    def proved(self) -> bool:
        """The objective is a certified optimum."""
        return math.isfinite(self.objective) and self.objective - self.bound <= EQUAL * abs(
            self.objective
        )

    def merge(self, other: Reference) -> Reference:
        """The better objective and the better bound of two, each with its finder; `self` in a tie."""
        better = other if other.objective < self.objective else self
        tighter = other if other.bound > self.bound else self
        return Reference(
            better.objective,
            tighter.bound,
            better.solver,
            tighter.bound_solver,
            max(self.seconds, other.seconds),
        )

    def contradiction(self, value: float, feasible: bool, result: Result) -> str:
        """In words, how a verified objective and a solver's claims contradict what is known; empty where they do not."""
        if feasible and _below(value, self.bound):
            return f"objective {value:g} is below the bound {self.bound:g} proved by {self.bound_solver}: one of them is wrong"
        if _below(self.objective, result.lower_bound):
            return f"bound {result.lower_bound:g} claimed, but a verified schedule by {self.solver} costs {self.objective:g}"
        if feasible and _below(value, result.lower_bound):
            return f"bound {result.lower_bound:g} claimed, but its own schedule costs {value:g}"
        if result.status == "optimal" and (not feasible or _below(self.objective, value)):
            return f"claimed optimal at {value:g}, but a verified schedule by {self.solver} costs {self.objective:g}"
        return ""


class RandomPlay(NamedTuple):
    """Uniformly random legal play of one instance: the zero of the score."""

    mean: float  # objective, penalised where play dead-ended
    dead_ends: float  # share of plays that dead-ended


class References:
    """Looks up, computes and improves references.

    Args:
        cache: folder of what is found here.
        solver: computes what is neither shipped nor cached; none: unknown stays unknown.
        seconds: its budget per instance.
        threads: threads it may use.
        name: of that solver, for the record.
        shipped: whether the shipped files count; without them (and with an empty cache) everything is proved from scratch.
    """

    def __init__(
        self, cache: str | Path, solver: Solver | None = None, seconds: float = 20.0, threads: int = 2, name: str = "reference",
        shipped: bool = True,
    ) -> None:  # fmt: skip
        self.cache, self.solver, self.seconds, self.threads, self.name = (
            Path(cache),
            solver,
            seconds,
            threads,
            name,
        )
        self.shipped = shipped

    def known(self, instance: Instance, objective: str) -> Reference:
        """The best of what is shipped and cached, with the trivial bound where there is no better one."""
        digest = instance.hash()
        cached = self.read(digest)["references"].get(objective, {})
        trivial = Reference(
            bound=metrics.trivial_bound(instance, objective), bound_solver="trivial"
        )
        known = trivial.merge(shipped(digest, objective)) if self.shipped else trivial
        return known.merge(Reference(**cached))

    def ensure(self, instances: Sequence[Instance], setting: Setting, progress: Progress) -> None:
        """Random play of every instance, and a search for each that is not proved and had less than `seconds` of it."""
        for i, instance in enumerate(instances):
            progress("references", i, len(instances), instance.name)
            self.random(instance, setting)
            known = self.known(instance, setting.objective)
            if self.solver is not None and not known.proved and known.seconds < self.seconds:
                self._compute(self.solver, instance, setting)
        progress("references", len(instances), len(instances), "")

    def improve(self, instance: Instance, objective: str, found: Reference) -> Reference:
        """Keep `found` where it is better than what is known; what is known then."""
        known = self.known(instance, objective)
        merged = known.merge(found)
        if merged != known:
            with self._update(instance.hash()) as data:
                cached = Reference(**data["references"].get(objective, {}))
                data["references"][objective] = plain(cached.merge(merged))
        return merged

    def random(self, instance: Instance, setting: Setting) -> RandomPlay:
        """The mean of PLAYS random legal plays that see arrived tasks only; the same on every machine."""
        played = replace(
            setting,
            track="assign" if instance.sharing == "budget" else "schedule",
            observe="arrived",
        )
        events = EVENT_ORDER_IN_KEYS[played.event_order]
        key = "-".join((played.objective, played.mode, played.backfill, events, str(PLAYS)))
        digest = instance.hash()
        cached = self.read(digest)["random"].get(key)
        if cached is None:
            cached = list(_play(instance, played, np.random.default_rng(int(digest[:16], 16))))
            with self._update(digest) as data:
                data["random"][key] = cached
        return RandomPlay(*cached)

    def ship(
        self,
        name: str,
        instances: Sequence[Instance],
        objective: str,
        command: str,
        folder: Path = SHIPPED,
    ) -> Path:
        """Write what is known of `instances` into the file shipped for the data set `name`, with the command that proves it."""
        path = folder / f"{name}.json"
        empty: dict[str, Any] = {"schema": SCHEMA, "commands": {}, "references": {}}
        data = read_json(path) if path.exists() else empty
        data["commands"][objective] = command
        for instance in instances:
            data["references"].setdefault(instance.hash(), {})[objective] = plain(
                self.known(instance, objective)
            )
        path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
        _shipped.cache_clear()
        return path

    def _compute(self, solver: Solver, instance: Instance, setting: Setting) -> None:
        """One search; where the solver fails the effort is kept, so that it is not tried again with the same budget."""
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

    def read(self, digest: str) -> dict[str, Any]:
        """The cached data of one instance; a damaged file counts as none, since all in it can be computed again."""
        path = self._file(digest)
        try:
            data = read_json(path) if path.exists() else {}
        except ValueError:
            data = {}
        if data.get("schema") != SCHEMA:
            return {"schema": SCHEMA, "references": {}, "random": {}}
        return data

    @contextmanager
    def _update(self, digest: str) -> Iterator[dict[str, Any]]:
        """Read, change, write: one process at a time, never half a file."""
        path = self._file(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            data = self.read(digest)
            yield data
            write_json(path, data)


def reference_of(
    instance: Instance, result: Result, objective: str, solver: str, seconds: float
) -> Reference:
    """What a result says about an instance: its objective if it is feasible, and its bound (its objective if optimal)."""
    feasible = not verify(instance, result.schedule)
    value = metrics.objective(instance, result.schedule, objective) if feasible else math.inf
    bound = (
        max(result.lower_bound, value)
        if feasible and result.status == "optimal"
        else result.lower_bound
    )
    return Reference(value, min(bound, value), solver, solver, seconds)


def shipped(digest: str, objective: str) -> Reference:
    """What is shipped about an instance."""
    return Reference(**_shipped().get(digest, {}).get(objective, {}))


@functools.cache
def _shipped() -> Mapping[str, Mapping[str, Any]]:
    """instance hash -> objective -> fields of a Reference, from all shipped files."""
    held: dict[str, Mapping[str, Any]] = {}
    for path in sorted(SHIPPED.glob("*.json")):
        data = read_json(path)
        if data["schema"] > SCHEMA:
            raise UserError(
                f"{path}: schema {data['schema']} is newer than {SCHEMA}, the newest this version reads; upgrade"
            )
        held |= data["references"]
    return held


def _play(instance: Instance, setting: Setting, rng: np.random.Generator) -> RandomPlay:
    simulator = Simulator([instance], setting, num_envs=PLAYS)
    returns = simulator.play_random(rng)[:, 1]
    dead_ends = np.mean([simulator.dead_end(b) for b in range(PLAYS)])
    return RandomPlay(float(-returns.mean() * simulator.scale[0]), float(dead_ends))


def _below(a: float, b: float) -> bool:
    """a < b by more than rounding."""
    return a < b - EQUAL * abs(b) if math.isfinite(b) else a < b


def plain(reference: Reference) -> dict[str, Any]:
    """For JSON: what is infinite is left out, and comes back as the field's default."""
    return {
        key: value
        for key, value in asdict(reference).items()
        if not isinstance(value, float) or math.isfinite(value)
    }
