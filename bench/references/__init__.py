"""References: the best known objective and bound of an instance, and the mean of random play.

Every run is measured against them. A reference belongs to (instance hash, objective) and holds on
every track and in every mode: its objective is that of a verified schedule, its bound that of the
clairvoyant problem with free choice of starts.

References are looked up in the files shipped with this package (`NAME.json`, each with the command
that computes it), then in the user's cache. What has no proven optimum yet is computed by the
reference solver. A better verified schedule found by any later run improves the cache, and so does
a better bound that is accepted (`bench.references.claims`). A claim that contradicts what is known
is reported with both sides and changes nothing. A verified schedule that costs less than a cached
bound shows that the bound is wrong, and removes it. All values are internal (minimised) ones.

The cache is the user's own: its files are checked for their form and for values that no schedule
can have, but a changed one can still claim what cannot be computed again. Do not use a cache that
you have received.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from bench import metrics
from bench.contracts import Budget, Plugin, Progress, Result, Solver
from bench.errors import CRASHES, UserError
from bench.files import write_text
from bench.instance import Instance, read_json, write_json
from bench.paths import CACHE, path_component
from bench.protection import solve_copy
from bench.references.claims import accepted
from bench.references.reference import Reference, is_below, reference_of
from bench.setting import Setting, clairvoyant_track
from bench.simulator import Simulator

__all__ = [
    "EPISODES",
    "SHIPPED",
    "RandomPlay",
    "Reference",
    "References",
    "random_play",
    "reference_of",
    "shipped_reference",
    "user_cache",
]

SCHEMA = 1  # of the shipped files
# Of the cached files. In those of schema 1 the bounds of any solver were kept that declared them
# certified: what they hold of schedules and of random play counts, their bounds do not.
CACHE_SCHEMA = 2
SHIPPED = Path(__file__).parent  # folder of the shipped files
EPISODES = 100  # random episodes whose mean is a score of 0
# Cached means of random play keep the keys under which they were first written.
EVENT_ORDER_IN_KEYS = {"batched": "together", "sequential": "singly"}

_log = logging.getLogger(__name__)


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
        Computes what is neither shipped nor cached; None: it stays unknown. A function that
        returns the solver is called when the first reference has to be computed.
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
        solver: Solver | Callable[[], Solver] | None = None,
        seconds: float = 20.0,
        threads: int = 2,
        name: str = "reference",
        shipped: bool = True,
    ) -> None:
        self.cache = Path(cache)
        self._given = solver
        self.seconds = seconds
        self.threads = threads
        self.name = name
        self.shipped = shipped

    @functools.cached_property
    def solver(self) -> Solver | None:
        """The solver; a computation of references is the first to build it."""
        given = self._given
        return given if given is None or isinstance(given, Solver) else given()

    def known(self, instance: Instance, objective: str) -> Reference:
        """Return the best of the shipped and the cached reference and the trivial bound."""
        known = Reference()
        for source in self.sources(instance, objective).values():
            known = known.merge(source)
        return known

    def sources(self, instance: Instance, objective: str) -> dict[str, Reference]:
        """Return where each part of what is known of an instance stands: place -> reference.

        A cached objective below the trivial bound is that of no schedule and does not count. Of a
        cached and a shipped reference that contradict each other, the shipped one counts.
        """
        digest = instance.hash()
        trivial = Reference(
            bound=metrics.trivial_bound(instance, objective), bound_solver="trivial"
        )
        shipped = shipped_reference(digest, objective) if self.shipped else Reference()
        known = trivial.merge(shipped)
        cached = self.cached(digest, objective)
        if is_below(cached.objective, known.bound):
            _log.warning("%s: %s", self._file(digest), _conflict(cached, known))
            cached = replace(cached, objective=math.inf, solver="")
        if is_below(known.objective, cached.bound):
            _log.warning("%s: %s", self._file(digest), _conflict(known, cached))
            cached = replace(cached, bound=-math.inf, bound_solver="")
        found = {
            "trivial bound": trivial,
            f"shipped file {shipped_file(digest)}": shipped,
            str(self._file(digest)): cached,
        }
        return {place: one for place, one in found.items() if one != Reference()}

    def cached(self, digest: str, objective: str) -> Reference:
        """Return what the cache holds about the instance of this hash."""
        known: Reference = self._read(digest)["references"].get(objective, Reference())
        return known

    def ensure(self, instances: Sequence[Instance], setting: Setting, progress: Progress) -> None:
        """Compute the missing random play and references of instances.

        An instance without a proven optimum is searched if no search of it had `seconds` yet.
        """
        for i, instance in enumerate(instances):
            progress("references", i, len(instances), instance.name)
            self.random(instance, setting)
            known = self.known(instance, setting.objective)
            if known.proved or known.seconds >= self.seconds or self.solver is None:
                continue
            self._compute(self.solver, instance, setting)
        progress("references", len(instances), len(instances), "")

    def compare(
        self,
        instance: Instance,
        objective: str,
        result: Result,
        plugin: Plugin,
        solver: str,
        seconds: float = 0.0,
    ) -> tuple[Reference, Result, str]:
        """Compare a result with what is known, and improve the cache by what it shows.

        Parameters
        ----------
        plugin, solver
            What found the result, and its name.
        seconds
            The time limit of a search whose result is kept, so that it is not made again.

        Returns
        -------
        Reference
            What is known now.
        Result
            The result without claims that nobody has proven (`bench.references.claims`).
        str
            How the result contradicts what is known, with both sides; empty: it does not.
        """
        proven = accepted(plugin, instance, objective, result)
        found = reference_of(instance, proven, objective, solver, seconds)
        feasible = math.isfinite(found.objective)
        self._remove_refuted(instance, objective, found)
        known = self.known(instance, objective)
        value = found.objective if feasible else metrics.penalty(instance, objective)
        wrong = known.contradiction(value, feasible, result)
        if wrong:
            place = self._place(instance, objective, known)
            return known, proven, f"{wrong} (by {solver}; known from {place})"
        return self.improve(instance, objective, found), proven, ""

    def improve(self, instance: Instance, objective: str, found: Reference) -> Reference:
        """Cache `found` where it is better than the known reference; return the better of both.

        Nothing changes where the two contradict each other.
        """
        known = self.known(instance, objective)
        if is_below(found.objective, known.bound) or is_below(known.objective, found.bound):
            _log.warning("%s: %s", instance.name, _conflict(known, found))
            return known
        merged = known.merge(found)
        if merged != known:
            with self._update(instance.hash()) as data:
                cached = data["references"].get(objective, Reference())
                data["references"][objective] = cached.merge(merged)
        return merged

    def _remove_refuted(self, instance: Instance, objective: str, found: Reference) -> None:
        """Remove a cached bound that is above the cost of a verified schedule, and say so."""
        digest = instance.hash()
        cached = self.cached(digest, objective)
        shown = Reference(found.objective, solver=found.solver)
        if is_below(shown.objective, cached.bound):
            _log.warning(
                "%s: %s; the bound is removed", self._file(digest), _conflict(shown, cached)
            )
            with self._update(digest) as data:
                kept = replace(cached, bound=-math.inf, bound_solver="", seconds=0.0)
                data["references"][objective] = kept

    def _place(self, instance: Instance, objective: str, known: Reference) -> str:
        """Return where the objective and the bound of a known reference stand."""
        return " and ".join(
            place
            for place, one in self.sources(instance, objective).items()
            if known.objective == one.objective < math.inf or one.bound == known.bound
        )

    def random(self, instance: Instance, setting: Setting) -> RandomPlay:
        """Return `random_play` of an instance, from the cache where it was played before."""
        played = _for_random_play(instance, setting)
        events = EVENT_ORDER_IN_KEYS[played.event_order]
        key = "-".join((played.objective, played.mode, played.backfill, events, str(EPISODES)))
        digest = instance.hash()
        cached = self._read(digest)["random"].get(key)
        if cached is None:
            cached = list(random_play(instance, setting))
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
        """Write the known references of a dataset's instances into its shipped file, with the date.

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
        data["date"] = datetime.now(UTC).date().isoformat()
        for instance in instances:
            known = self.known(instance, objective).to_dict()
            data["references"].setdefault(instance.hash(), {})[objective] = known
        write_text(path, json.dumps(data, indent=1, sort_keys=True) + "\n")
        _shipped_references.cache_clear()
        return path

    def _compute(self, solver: Solver, instance: Instance, setting: Setting) -> None:
        """Search once and keep what is found.

        Where the solver fails only the seconds are kept, so that it does not try again with the
        same time limit.
        """
        free = Setting(clairvoyant_track(instance), setting.objective)
        rng = np.random.default_rng(0)
        budget = Budget(self.seconds, threads=self.threads)
        try:
            solver.warm_up()  # so that no time limit includes compilation
            result = solve_copy(solver, instance, free, budget, rng, "the reference solver")
            _, _, wrong = self.compare(
                instance, setting.objective, result, solver, self.name, self.seconds
            )
        except CRASHES as error:
            wrong = f"the search failed ({error})"
        if wrong:
            _log.warning("reference of %s: %s", instance.name, wrong)
            self.improve(instance, setting.objective, Reference(seconds=self.seconds))

    def _file(self, digest: str) -> Path:
        return self.cache / "references" / digest[:2] / f"{digest}.json"

    def _read(self, digest: str) -> dict[str, Any]:
        """Return {"references": {objective: Reference}, "random": {key: [mean, dead ends]}}.

        A damaged file, or a part of it, counts as missing, since all can be computed again.
        """
        path = self._file(digest)
        try:
            data = read_json(path) if path.exists() else {}
        except ValueError:
            data = {}
        if not isinstance(data, dict) or data.get("schema") not in (1, CACHE_SCHEMA):
            data = {}
        found: dict[str, Any] = {"references": {}, "random": {}}
        for kind, read in (("references", Reference.from_dict), ("random", _random_from_list)):
            part = data.get(kind)
            for name, value in part.items() if isinstance(part, dict) else ():
                try:
                    found[kind][name] = read(value)
                except ValueError as error:
                    _log.warning("%s: %s.%s is left out: %s", path, kind, name, error)
        if data.get("schema") == 1:
            for name, one in found["references"].items():
                found["references"][name] = Reference(one.objective, solver=one.solver)
        return found

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
            written = {name: one.to_dict() for name, one in data["references"].items()}
            write_json(path, {**data, "schema": CACHE_SCHEMA, "references": written})


def _random_from_list(data: Any) -> list[float]:
    """Return a cached mean of random play with its share of dead ends.

    Raises
    ------
    ValueError
        Where it is not two finite numbers, the second from 0 to 1.
    """
    numbers = isinstance(data, list) and all(type(x) in (int, float) for x in data)
    if not numbers or len(data) != 2 or not (math.isfinite(data[0]) and 0 <= data[1] <= 1):
        raise ValueError("a finite mean and a share from 0 to 1 are needed")
    return [float(x) for x in data]


def _conflict(schedule: Reference, bound: Reference) -> str:
    """Return in words that two references contradict each other, whichever has the bound."""
    if not is_below(schedule.objective, bound.bound):
        schedule, bound = bound, schedule
    return (
        f"a schedule of {schedule.solver or 'unknown'} costs {schedule.objective:g}, below the "
        f"bound {bound.bound:g} of {bound.bound_solver or 'unknown'}: one of them is wrong"
    )


def user_cache() -> Path:
    """Return the folder of the user's own cache, used where none is named."""
    configured = os.environ.get("BENCH_CACHE")
    if configured:
        return Path(configured)
    import pooch

    return Path(pooch.os_cache(CACHE))


def shipped_reference(digest: str, objective: str) -> Reference:
    """Return what the shipped files hold about the instance of this hash."""
    return Reference(**_shipped_references().get(digest, ("", {}))[1].get(objective, {}))


def shipped_file(digest: str) -> str:
    """Return the name of the shipped file that holds the instance of this hash; empty: none."""
    return _shipped_references().get(digest, ("", {}))[0]


@functools.cache
def _shipped_references() -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """Return {instance hash: (file, {objective: fields of a Reference})} from all shipped files."""
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for path in sorted(SHIPPED.glob("*.json")):
        data = read_json(path)
        if data["schema"] > SCHEMA:
            raise UserError(
                f"{path}: schema {data['schema']} is newer than {SCHEMA}, "
                "the newest this version reads; upgrade"
            )
        found |= {digest: (path.name, known) for digest, known in data["references"].items()}
    return found


def random_play(instance: Instance, setting: Setting) -> RandomPlay:
    """Return the mean of EPISODES episodes of random legal play, the same on every machine.

    Only tasks that have arrived are observed, whatever the setting says, so that all solvers have
    the same zero.
    """
    rng = np.random.default_rng(int(instance.hash()[:16], 16))
    simulator = Simulator([instance], _for_random_play(instance, setting), num_envs=EPISODES)
    returns = simulator.play_random(rng)[:, 1]
    dead_ends = np.mean([simulator.dead_end(b) for b in range(EPISODES)])
    return RandomPlay(float(-returns.mean() * simulator.scale[0]), float(dead_ends))


def _for_random_play(instance: Instance, setting: Setting) -> Setting:
    return replace(setting, track=clairvoyant_track(instance), observe="arrived")
