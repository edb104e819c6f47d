"""From job to record: train, solve, verify, measure, compare with references, write, publish.

A run is a `Job` in a folder of its own. A finished one is not run again; an interrupted one resumes
from its last checkpoint. A crash of the solver on one instance is a row with its error; any other
crash is a failed record. The last traceback is in a file.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from filelock import FileLock

from bench.contracts import CHECKPOINT, Budget, Learner, Progress, Solver, no_progress
from bench.errors import CRASHES, UserError, one_line
from bench.files import cannot_write, remove_partial_files, write_text
from bench.instance import Instance
from bench.protection import TrainingData
from bench.references import References
from bench.rollout import as_solver, check_information
from bench.run import online, provenance
from bench.run.evaluation import (
    Entry,
    Evaluation,
    anytime_columns,
    certificate,
    evaluate_entry,
    pooled_latency,
    reference_columns,
    summarise,
    table_row,
    verified_trajectory,
)
from bench.run.job import Job
from bench.run.publish import publish, publish_stored, track_input, tracked_run
from bench.run.record import SCHEMA, Record, Row, StoredCertificate, check_facts, is_fact
from bench.run.rescoring import known_of, rescored
from bench.run.run_folder import CONFIG, CURVE, GANTT, LOCK, TRACEBACK, RunFolder
from bench.run.solving import solve
from bench.setting import Setting
from bench.simulator import Simulator

if TYPE_CHECKING:
    import pandas

TRAINING = 2**31  # seeds training apart from every instance
CURVES = 3  # panels of a learning curve


def run(
    job: Job,
    runs: Path,
    references: References,
    tracker: Any,
    parent: Any = None,
    rerun: bool = False,
    pictures: bool = True,
    progress: Progress = no_progress,
) -> Record:
    """Return the record of a job: of the finished run in its folder, or of one made now.

    Parameters
    ----------
    runs
        The folder of all runs.
    tracker
        A `bench.tracking` Mlflow or Off; `parent` is its run above a sweep.
    rerun
        Whether a finished run is made again.

    Raises
    ------
    UserError
        For bad input that the learner reports.
    """
    folder = RunFolder(job.folder(runs))
    with FileLock(folder.path / LOCK):
        if rerun:
            tracker.restart(folder.path)
            folder.clear()
        elif (record := folder.record()) is not None:
            publish_stored(tracker, job, folder, record, parent)
            return rescored(record, folder, job, references, tracker, parent)
        elif folder.stored_record() is not None:  # of a run that failed
            tracker.restart(folder.path)
        with tracked_run(tracker, job, folder, parent) as tracked:
            return Execution(job, folder, references, tracked, progress).run(pictures)


def compile_all(job: Job) -> None:
    """Compile the simulator's step and what the solver compiles, once per machine.

    So no solver's seconds include it.
    """
    simulator = Simulator(job.instances[:1], job.setting)
    simulator.step(simulator.state.mask.argmax(axis=1))
    job.plugin.warm_up()


class Execution:
    """One session of a job: from the state of its folder to the record."""

    def __init__(
        self, job: Job, folder: RunFolder, references: References, tracked: Any, progress: Progress
    ) -> None:
        self.job = job
        self.folder = folder
        self.references = references
        self.tracked = tracked
        self.progress = progress
        self.information = online.Information()
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        folder.start_clock()
        remove_partial_files(folder.path)

    def run(self, pictures: bool) -> Record:
        """Publish and return the record; a crash of anything but bad input is a failed one."""
        try:
            record, rows, evaluations = self._run(pictures)
        except UserError:
            raise
        except CRASHES as error:
            if (full := cannot_write(error)) is not None:
                raise full from error
            record, rows, evaluations = self._failed(error), [], []
        publish(self.tracked, self.job, self.folder, record, rows, evaluations)
        return record

    def _run(self, pictures: bool) -> tuple[Record, list[Row], list[Evaluation]]:
        """Compile, train where there is something to train, solve, verify and write."""
        job = self.job
        track_input(self.tracked, job)
        compile_all(job)
        objective = job.setting.objective
        write_config(self.folder.path / CONFIG, job.parameters)
        solver = self._solver()
        try:
            entries, self.information = online.checked(solver, job, self._entries(solver))
        finally:
            online.close(solver)
        evaluations = [
            evaluate_entry(instance, entry, objective)
            for instance, entry in zip(job.instances, entries, strict=True)
        ]
        rows = []
        for i, instance in enumerate(job.instances):
            row, entries[i] = self._row(i, instance, entries[i], evaluations[i])
            rows.append(row)
        numbers: Record = {**summarise(rows), **pooled_latency(entries)}
        status = "failed" if numbers["errors"] == len(rows) else "finished"
        record = self._record(status, numbers)
        if pictures:
            self._draw(entries, evaluations)
        certificates = self._certificates(entries, evaluations)
        self.folder.write(record, rows, job.instances, entries, certificates)
        return record, rows, evaluations

    # -- solving ---------------------------------------------------------------------------------

    def _solver(self) -> Solver:
        plugin = self.job.plugin
        job = self.job
        if not isinstance(plugin, Learner):
            return online.entrant(plugin, job)
        with self.folder.training():
            rng = np.random.default_rng([job.seed, TRAINING])
            data = TrainingData(job.dataset, job.solver)
            trained = plugin.fit(data, job.setting, job.budget, rng, FolderLogger(self))
            data.check()
        return online.entrant(trained, job)

    def _entries(self, solver: Solver) -> list[Entry]:
        """Solve what is not solved yet.

        Each instance has a generator of its own, so that a kill changes nothing.
        """
        job = self.job
        entries = self.folder.entries([instance.hash() for instance in job.instances])
        for i, instance in enumerate(job.instances):
            if i not in entries:
                self.progress(f"{job.solver} solves", i, len(job.instances), instance.name)
                rng = np.random.default_rng([job.seed, i])
                entries[i] = solve(
                    solver, instance, job.setting, job.budget, rng, self._keep_traceback
                )
                self.folder.add(i, entries[i])
        self.progress(f"{job.solver} solves", len(job.instances), len(job.instances), "")
        return [entries[i] for i in range(len(job.instances))]

    # -- rows and records ------------------------------------------------------------------------

    def _row(
        self, i: int, instance: Instance, entry: Entry, evaluation: Evaluation
    ) -> tuple[Row, Entry]:
        """Return the instance's row, and its entry, which a contradiction makes an error.

        A better schedule or a proven bound improves the references, unless it contradicts them. An
        optimum that nobody has proven is not called one in the row.
        """
        job = self.job
        known, proven, wrong = self.references.compare(
            instance, job.setting.objective, evaluation.result, job.plugin, job.solver
        )
        random = self.references.random(instance, job.setting)
        if wrong:
            name = instance.name or f"instance {i}"
            entry = replace(entry, error=entry.error or f"CONTRADICTION on {name}: {wrong}")
        row = table_row(instance, entry, evaluation)
        if row["status"] == "optimal":
            row["status"] = proven.status
        row.update(reference_columns(instance, row["objective"], known, random))
        row.update(anytime_columns(instance, evaluation, known, self.job.budget.seconds))
        return row, entry

    def _certificates(
        self, entries: Sequence[Entry], evaluations: Sequence[Evaluation]
    ) -> list[StoredCertificate]:
        """Return one for every instance whose bound came with a proof."""
        job = self.job
        origin = {
            "solver": job.solver,
            "seed": job.seed,
            "threads": job.budget.threads,
            "budget_seconds": job.budget.seconds,
            "versions": provenance.versions(),
            "git_commit": provenance.git_commit(),
        }
        found = [
            certificate(instance, entry, evaluation, job.setting.objective, origin)
            for instance, entry, evaluation in zip(job.instances, entries, evaluations, strict=True)
        ]
        return [one for one in found if one is not None]

    def _record(self, status: str, numbers: Record) -> Record:
        facts = self.folder.training_facts()
        record = {
            **{name: value for name, value in facts.items() if is_fact(name)},
            "schema": SCHEMA,
            **self.job.identity,
            **self.information.fields(),
            "status": status,
            **numbers,
            **self._seconds(facts),
            "key": self.job.key,
            "git_commit": provenance.git_commit(),
            "started": self.started,
            "versions": provenance.versions(),
            "hardware": provenance.hardware(),
        }
        return cast("Record", record)

    def _seconds(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the run's seconds; where it deploys a checkpoint, those of its training."""
        trained = {"train_seconds": facts.get("learning/seconds")} if CHECKPOINT in facts else {}
        return {**self.folder.seconds(), **trained}

    def _keep_traceback(self, text: str) -> None:
        write_text(self.folder.path / TRACEBACK, text)

    def _failed(self, error: BaseException) -> Record:
        """Write and return the record of a crash that leaves no row for any instance."""
        self._keep_traceback(traceback.format_exc())
        numbers: Record = {
            "error": one_line(error),
            "n_instances": len(self.job.instances),
            "errors": 1,
            "feasible": 0.0,
        }
        record = self._record("failed", numbers)
        self.folder.write_record(record)
        return record

    # -- pictures ------------------------------------------------------------------------------

    def _draw(self, entries: Sequence[Entry], evaluations: Sequence[Evaluation]) -> None:
        """Draw a Gantt chart of the first schedule, and learning curve or bound trajectories."""
        from bench.analysis import figures

        job = self.job
        objective = job.setting.objective
        solved = [
            (instance, evaluation)
            for instance, entry, evaluation in zip(job.instances, entries, evaluations, strict=True)
            if entry.result
        ]
        if solved:
            instance, evaluation = solved[0]
            value = instance.original(evaluation.value)
            title = f"{job.solver} on {instance.name}: {objective} {value:g}"
            path = self.folder.path / GANTT
            figures.gantt(instance, evaluation.result.schedule, path, title)
        path = self.folder.path / CURVE
        trajectories = [
            verified_trajectory(instance, evaluation)
            for instance, evaluation in solved
            if evaluation.result.trajectory
        ]
        if history := self.folder.history():
            learned = [name for name in history if not name.startswith("learning/")]
            chosen = sorted(learned, key=_validation_first)[:CURVES]
            title = f"{job.solver} learns on {job.dataset.name}, seed {job.seed}"
            figures.learning_curve({name: history[name] for name in chosen}, path, title)
        elif trajectories:
            first = next(one for one, evaluation in solved if evaluation.result.trajectory)
            title = f"{job.solver} on {first.name}"
            figures.bound_trajectories(trajectories, path, title, objective)


class FolderLogger:
    """The `TrainingLogger` of a run: writes to the run's folder and the tracker."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self.folder = execution.folder.path

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Save for the learning curve, and send to the tracker."""
        self._execution.folder.add_metrics(step, values)
        self._execution.tracked.metrics(step, values)

    def summary(self, facts: Mapping[str, Any]) -> None:
        """Save for the run's record, whose own fields they cannot be."""
        check_facts(facts)
        self._execution.folder.add_training_facts(facts)

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Show on the progress bar."""
        self._execution.progress(f"{self._execution.job.solver} trains", done, total, note)


# -- in Python -----------------------------------------------------------------------------------


def evaluate(
    plugin: Any,
    instances: Iterable[Instance],
    setting: Setting | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    references: References | None = None,
) -> pandas.DataFrame:
    """Solve instances without files or tracking.

    Parameters
    ----------
    plugin
        A solver or a policy.
    setting
        Default: `Setting()`; instances with `budget` sharing are solved in the track `assign`.
    references
        Add the columns that compare with them, such as gap and score.

    Returns
    -------
    pandas.DataFrame
        One `bench.run.record.Row` per instance.
    """
    import pandas

    setting = setting or Setting()
    budget = budget or Budget()
    solver = as_solver(plugin)
    rows = []
    check_information(type(plugin).__name__, plugin, setting)
    for i, instance in enumerate(instances):
        played = replace(setting, track="assign") if instance.sharing == "budget" else setting
        entry = solve(solver, instance, played, budget, np.random.default_rng([seed, i]))
        evaluation = evaluate_entry(instance, entry, played.objective)
        row = table_row(instance, entry, evaluation)
        if references is not None:
            known, random = known_of(instance, played, references)
            row.update(reference_columns(instance, row["objective"], known, random))
            row.update(anytime_columns(instance, evaluation, known, budget.seconds))
        rows.append(row)
    return pandas.DataFrame(rows)


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a nested configuration as YAML."""
    from omegaconf import OmegaConf

    write_text(path, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def _validation_first(name: str) -> tuple[bool, bool]:
    """Return the sort key that puts validation metrics and returns first."""
    return (not name.startswith("validation"), "return" not in name)
