"""From instance to record: solve, verify, measure, compare, write down (the record's form is in `bench.run.record`).

A run is a `Job` in a folder of its own. One that is finished is not run again; a killed one goes on where it was. A crash of
the solver on one instance is a row with its error; a crash in training is a failed record with the traceback in a file.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from bench.contracts import Budget, Learner, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.references import Progress, Reference, References, reference_of
from bench.rollout import as_solver
from bench.run import provenance
from bench.run.job import Job
from bench.run.record import (
    SCHEMA,
    Certificate,
    Entry,
    Row,
    Verdict,
    certificate,
    judge,
    own_trajectory,
    pace,
    pooled_latency,
    row,
    standing,
    summarise,
)
from bench.run.run_folder import CONFIG, CURVE, GANTT, LOCK, TRACEBACK, RunFolder
from bench.setting import Setting
from bench.simulator import Simulator

if TYPE_CHECKING:
    import pandas

TRAINING = 2**31  # seeds training apart from every instance
CURVES = 3  # panels of a learning curve
TRACKED_SEARCHES = 16  # first instances whose objective and bound over time become step metrics; the picture shows all
Record = dict[str, Any]


def silent(label: str, done: int, total: int, note: str) -> None:
    """Progress shown to nobody."""


def run(
    job: Job, runs: Path, references: References, tracker: Any, parent: Any = None, rerun: bool = False,
    pictures: bool = True, progress: Progress = silent,
) -> Record:  # fmt: skip
    """The record of a job: of the finished run in its folder, or of one that is made now.

    Args:
        tracker: a `bench.tracking` Mlflow or Off; `parent` its run above a sweep.

    Raises:
        UserError: whatever the learner says about bad input.
    """
    folder = RunFolder(job.folder(runs))
    with FileLock(folder.path / LOCK):
        if rerun:
            folder.clear()
        elif (record := folder.record()) is not None:
            return refreshed(record, folder, job, references)
        warm_up(job, progress)
        tags = {
            **job.identity,
            "git_commit": provenance.git_commit(),
            "hardware": provenance.hardware_line(),
        }
        name = f"{job.solver}-{job.dataset.name}-s{job.seed}"
        with tracker.run(job.key, name, job.parameters, tags, folder.path, parent) as tracked:
            return Session(job, folder, references, tracked, progress).run(pictures)


def warm_up(job: Job, progress: Progress) -> None:
    """Compile the simulator's step and what the solver compiles (once per machine), so that no solver's seconds hold it."""
    progress("compiling", 0, 1, "once per machine")
    simulator = Simulator(job.instances[:1], job.setting)
    simulator.step(simulator.state.mask.argmax(axis=1))
    getattr(job.plugin, "warm_up", lambda: None)()
    progress("compiling", 1, 1, "")


def refreshed(record: Record, folder: RunFolder, job: Job, references: References) -> Record:
    """A stored record, compared with what is known of its instances now."""
    rows = folder.rows()
    for one, instance, entry in zip(rows, job.instances, folder.stored_entries(), strict=True):
        known, random = _known(instance, job.setting, references)
        one |= standing(instance, one["objective"], known, random)
        one |= pace(
            instance, judge(instance, entry, job.setting.objective), known, job.budget.seconds
        )
    return {
        **record,
        **summarise(rows),
        **{key: record[key] for key in record if key.startswith("decision_latency")},
    }


class Session:
    """One go at a job: from where the folder stands to the record."""

    def __init__(
        self, job: Job, folder: RunFolder, references: References, tracked: Any, progress: Progress
    ) -> None:
        self.job, self.folder, self.references, self.tracked, self.progress = (
            job,
            folder,
            references,
            tracked,
            progress,
        )
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        folder.start_clock()

    def run(self, pictures: bool) -> Record:
        """Train where there is something to train, solve, judge, write, publish."""
        job = self.job
        write_config(self.folder.path / CONFIG, job.parameters)
        source = job.config.get("dataset", {}).get("path") or job.config.get("dataset", {}).get(
            "_target_", ""
        )
        self.tracked.input(
            job.dataset.name, job.set_hash, len(job.instances), str(source), job.split
        )
        try:
            solver = self._solver()
        except UserError:
            raise
        except Exception as error:
            return self._failed(error)
        entries = self._entries(solver)
        verdicts = [
            judge(*pair, job.setting.objective) for pair in zip(job.instances, entries, strict=True)
        ]
        rows = [
            self._row(i, instance, entries[i], verdicts[i])
            for i, instance in enumerate(job.instances)
        ]
        numbers = summarise(rows) | pooled_latency(entries)
        status = "failed" if numbers["errors"] == len(rows) else "finished"
        record = self._record(status, **numbers)
        self._track_searches(verdicts)
        if pictures:
            self._draw(entries, verdicts)
        self.folder.write(
            record, rows, job.instances, entries, self._certificates(entries, verdicts)
        )
        self._publish(record)
        return record

    # -- solving -----------------------------------------------------------------------------------------------------

    def _solver(self) -> Solver:
        job, plugin = self.job, self.job.plugin
        if not isinstance(plugin, Learner):
            return as_solver(plugin)
        with self.folder.training():
            rng = np.random.default_rng([job.seed, TRAINING])
            return as_solver(plugin.fit(job.dataset, job.setting, job.budget, rng, RunLog(self)))

    def _entries(self, solver: Solver) -> list[Entry]:
        """Solve what is not solved yet; each instance has a generator of its own, so that a kill changes nothing."""
        job, entries = self.job, self.folder.entries()
        for i, instance in enumerate(job.instances):
            if i not in entries:
                self.progress(f"{job.solver} solves", i, len(job.instances), instance.name)
                entries[i] = solve(
                    solver, instance, job.setting, job.budget, np.random.default_rng([job.seed, i])
                )
                self.folder.add(i, entries[i])
        self.progress(f"{job.solver} solves", len(job.instances), len(job.instances), "")
        return [entries[i] for i in range(len(job.instances))]

    # -- judging -----------------------------------------------------------------------------------------------------

    def _row(self, i: int, instance: Instance, entry: Entry, verdict: Verdict) -> Row:
        """The instance's row; what it teaches about the instance is kept, unless it contradicts what is known."""
        setting, name = self.job.setting, self.job.solver
        known, random = _known(instance, setting, self.references)
        wrong = known.contradiction(verdict.value, verdict.feasible, verdict.result)
        if wrong:
            entry["error"] = (
                entry["error"] or f"CONTRADICTION on {instance.name or f'instance {i}'}: {wrong}"
            )
        elif verdict.feasible or verdict.result.lower_bound > known.bound:
            proved = getattr(
                self.job.plugin, "certifies", False
            )  # else only the schedule counts: it can be checked
            result = (
                verdict.result
                if proved
                else replace(verdict.result, status="feasible", lower_bound=-math.inf)
            )
            found = reference_of(instance, result, setting.objective, name, 0.0)
            known = self.references.improve(instance, setting.objective, found)
        one = row(instance, entry, verdict)
        one |= standing(instance, one["objective"], known, random) | pace(
            instance, verdict, known, self.job.budget.seconds
        )
        self.tracked.metrics(
            i,
            {f"instance/{key}": one[key] for key in ("objective", "gap", "score", "solve_seconds")},
        )
        return one

    def _certificates(
        self, entries: Sequence[Entry], verdicts: Sequence[Verdict]
    ) -> list[Certificate]:
        """One for every instance whose bound came with a proof."""
        job = self.job
        made = {
            "solver": job.solver,
            "seed": job.seed,
            "threads": job.budget.threads,
            "budget_seconds": job.budget.seconds,
            "versions": provenance.versions(),
            "git_commit": provenance.git_commit(),
        }
        together = zip(job.instances, entries, verdicts, strict=True)
        found = [
            certificate(instance, e, v, job.setting.objective, made) for instance, e, v in together
        ]
        return [one for one in found if one is not None]

    def _record(self, status: str, **numbers: Any) -> Record:
        return {
            "schema": SCHEMA,
            **self.job.identity,
            "status": status,
            **numbers,
            **self.folder.seconds(),
            **self.folder.learning(),
            "key": self.job.key,
            "git_commit": provenance.git_commit(),
            "started": self.started,
            "versions": provenance.versions(),
            "hardware": provenance.hardware(),
        }

    def _failed(self, error: Exception) -> Record:
        """The record of a crash in training."""
        (self.folder.path / TRACEBACK).write_text(traceback.format_exc())
        record = self._record(
            "failed", error=line(error), n_instances=len(self.job.instances), errors=1, feasible=0.0
        )
        self.folder.write_record(record)
        self._publish(record)
        return record

    # -- publishing --------------------------------------------------------------------------------------------------

    def _track_searches(self, verdicts: Sequence[Verdict]) -> None:
        """Objective and bound over time as step metrics `search/objective/INSTANCE`, the step being milliseconds."""
        for i, (instance, verdict) in enumerate(zip(self.job.instances, verdicts, strict=True)):
            for at, value, bound in (
                own_trajectory(instance, verdict) if i < TRACKED_SEARCHES else ()
            ):
                self.tracked.metrics(
                    round(1000 * at), {f"search/objective/{i}": value, f"search/bound/{i}": bound}
                )

    def _draw(self, entries: Sequence[Entry], verdicts: Sequence[Verdict]) -> None:
        """A Gantt chart of the first instance that has a schedule, and a learning curve or the bound trajectories."""
        from bench.analysis import figures

        job = self.job
        together = zip(job.instances, entries, verdicts, strict=True)
        solved = [(instance, verdict) for instance, entry, verdict in together if entry["result"]]
        if solved:
            instance, verdict = solved[0]
            title = f"{job.solver} on {instance.name}: {job.setting.objective} {instance.original(verdict.value):g}"
            figures.gantt(instance, verdict.result.schedule, self.folder.path / GANTT, title)
        searched = [
            (instance, own_trajectory(instance, v)) for instance, v in solved if v.result.trajectory
        ]
        if history := self.folder.history():
            chosen = sorted(
                history, key=lambda name: (not name.startswith("validation"), "return" not in name)
            )[:CURVES]
            title = f"{job.solver} learns on {job.dataset.name}, seed {job.seed}"
            figures.learning_curve(
                {name: history[name] for name in chosen}, self.folder.path / CURVE, title
            )
        elif searched:
            title = f"{job.solver} on {searched[0][0].name}"
            trajectories = [points for _, points in searched]
            figures.bound_trajectories(
                trajectories, self.folder.path / CURVE, title, job.setting.objective
            )

    def _publish(self, record: Record) -> None:
        self.tracked.summary(record)
        for path in self.folder.files():
            self.tracked.artifact(path)
        self.tracked.finish(record["status"], record["error"])


class RunLog:
    """What a learner tells while it trains (contracts.Log)."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.folder = session.folder.path

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """To the tracker, and to the history that becomes the learning curve."""
        self._session.tracked.metrics(step, values)
        self._session.folder.remember(step, values)

    def summary(self, facts: Mapping[str, Any]) -> None:
        """Into the run's record."""
        self._session.folder.learned(facts)

    def progress(self, done: int, total: int, note: str = "") -> None:
        """To the progress bar."""
        self._session.progress(f"{self._session.job.solver} trains", done, total, note)


# -- in Python -------------------------------------------------------------------------------------------------------


def evaluate(
    plugin: Solver | Any, instances: Iterable[Instance], setting: Setting | None = None, budget: Budget | None = None,
    seed: int = 0, references: References | None = None,
) -> pandas.DataFrame:  # fmt: skip
    """One row per instance (see `bench.run.record.row`), without files or tracking; `references` adds gap and score."""
    import pandas

    setting, solver, rows = setting or Setting(), as_solver(plugin), []
    for i, instance in enumerate(instances):
        played = replace(setting, track="assign") if instance.sharing == "budget" else setting
        entry = solve(
            solver, instance, played, budget or Budget(), np.random.default_rng([seed, i])
        )
        verdict = judge(instance, entry, played.objective)
        one = row(instance, entry, verdict)
        if references is not None:
            known, random = _known(instance, played, references)
            one |= standing(instance, one["objective"], known, random)
            one |= pace(instance, verdict, known, (budget or Budget()).seconds)
        rows.append(one)
    return pandas.DataFrame(rows)


def solve(
    solver: Solver, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
) -> Entry:
    """What the solver hands back for one instance; a crash becomes the entry's error."""
    began, result, error = time.perf_counter(), None, None
    try:
        result = solver.solve(instance, setting, budget, rng).to_dict()
    except Exception as crash:
        error = str(crash) if isinstance(crash, UserError) else line(crash)
    seconds = time.perf_counter() - began
    return {
        "instance_hash": instance.hash(),
        "result": result,
        "error": error,
        "solve_seconds": seconds,
    }


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """A nested configuration as YAML."""
    from omegaconf import OmegaConf

    path.write_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def line(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def _known(instance: Instance, setting: Setting, references: References) -> tuple[Reference, Any]:
    return references.known(instance, setting.objective), references.random(instance, setting)
