"""Scores of many runs against the same references: those known when the table is made.

Nothing that a run says about references counts. The random baseline is played by the suite, once
for each instance and setting: the cache keeps it, as it does for runs. The best objective is that
of the shipped file, of the suite's own cache, or of the best verified schedule in the table itself;
bounds are the shipped, the cached and the trivial ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench import metrics
from bench.analysis import stats
from bench.instance import Instance
from bench.references import RandomPlay, Reference, References
from bench.references.reference import is_below
from bench.run.recompute import RecomputedRun
from bench.setting import Setting, SettingError

Floats = NDArray[np.float64]
PLAYED = ("objective", "mode", "backfill", "event_order")


class Scores(NamedTuple):
    """One run against the common references; (I,) each, in the instances' own sense and scale."""

    objective: Floats
    gap: Floats
    score: Floats
    proved: Floats  # 1: the reference is a proven optimum


class CommonReferences:
    """What is known of all instances of a table.

    Parameters
    ----------
    references
        Shipped and cached references. No solver is run; random play that is missing is added.
    runs
        The runs of the table. Verified schedules of all of them count, also of those that are not
        ranked.
    """

    def __init__(self, references: References, runs: Iterable[RecomputedRun]) -> None:
        self.references = references
        self.contradictions: list[str] = []
        self._known: dict[tuple[str, str], Reference] = {}
        self._random: dict[tuple[Any, ...], RandomPlay] = {}
        for run in runs:
            for i, instance in enumerate(run.instances):
                if run.feasible[i]:
                    self._add(instance, run, float(run.objective[i]))

    def scores(self, run: RecomputedRun) -> Scores:
        """Return a run's objectives, gaps and scores."""
        rows = [self._row(run, i, instance) for i, instance in enumerate(run.instances)]
        return Scores(*(np.array(column, dtype=float) for column in zip(*rows, strict=True)))

    def _row(self, run: RecomputedRun, i: int, instance: Instance) -> tuple[float, ...]:
        known = self._reference(instance, run.record["objective"])
        zero = instance.original(self._random_play(instance, run).mean)
        value = instance.original(float(run.objective[i]))
        best = instance.original(known.objective) if math.isfinite(known.objective) else math.nan
        bound = instance.original(known.bound) if math.isfinite(known.bound) else math.nan
        gap = float(stats.gap(value, bound, instance.sense))
        return value, gap, float(stats.score(value, zero, best)), float(known.proved)

    def _add(self, instance: Instance, run: RecomputedRun, value: float) -> None:
        """Count a verified schedule: it may be better than the best known one."""
        objective = run.record["objective"]
        known = self._reference(instance, objective)
        solver = str(run.record.get("solver"))
        if is_below(value, known.bound):
            self.contradictions.append(
                f"{instance.hash()[:8]}: a verified schedule of {solver} (run {run.run}) costs "
                f"{value:g}, below the bound {known.bound:g} of {known.bound_solver}, which does "
                "not count here"
            )
            trivial = metrics.trivial_bound(instance, objective)
            known = replace(known, bound=trivial, bound_solver="trivial")
        self._known[instance.hash(), objective] = known.merge(Reference(value, solver=solver))

    def _reference(self, instance: Instance, objective: str) -> Reference:
        key = instance.hash(), objective
        if key not in self._known:
            self._known[key] = self.references.known(instance, objective)
        return self._known[key]

    def _random_play(self, instance: Instance, run: RecomputedRun) -> RandomPlay:
        played = {name: run.record[name] for name in PLAYED if name in run.record}
        key = (instance.hash(), *sorted(played.items()))
        if key not in self._random:
            try:
                self._random[key] = self.references.random(instance, Setting(**played))
            except SettingError:  # a claimed one that does not exist: the run is not ranked
                self._random[key] = RandomPlay(math.nan, math.nan)
        return self._random[key]
