"""What a run sends to the tracker: all of it can be made again from the run's folder.

So a run that was killed after its record was written, or whose tracker did not answer, is published
when the same command finds its record.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bench.run import provenance
from bench.run.evaluation import Evaluation, evaluate_entry, verified_trajectory
from bench.run.job import Job
from bench.run.record import Record, Row
from bench.run.run_folder import RunFolder

# Of each instance. Gap and score are in the table alone: they change when references improve, and a
# point in MLflow cannot be replaced.
ROW_METRICS = ("objective", "solve_seconds")
TRACKED_SEARCHES = 16  # instances, the first ones, whose trajectories become step metrics


def tracked_run(tracker: Any, job: Job, folder: RunFolder, parent: Any, sample: bool = True) -> Any:
    """Return the tracker's run of a job, for a `with` statement.

    Parameters
    ----------
    tracker
        A `bench.tracking` Mlflow or Off; `parent` is its run above a sweep.
    sample
        Whether to log the use of the machine.
    """
    tags = {
        **job.identity,
        "git_commit": provenance.git_commit(),
        "hardware": provenance.hardware_line(),
    }
    name = f"{job.solver}-{job.dataset.name}-s{job.seed}"
    return tracker.run(job.key, name, job.parameters, tags, folder.path, parent, sample)


def publish_stored(tracker: Any, job: Job, folder: RunFolder, record: Record, parent: Any) -> None:
    """Publish the finished run of a folder, unless the tracker has all of it."""
    if tracker.published(job.key, folder.path, record["status"], record, parent):
        return
    evaluations = [
        evaluate_entry(instance, entry, job.setting.objective)
        for instance, entry in zip(job.instances, folder.stored_entries(), strict=True)
    ]
    with tracked_run(tracker, job, folder, parent, sample=False) as tracked:
        track_input(tracked, job)
        publish(tracked, job, folder, record, folder.rows(), evaluations)


def publish(
    tracked: Any,
    job: Job,
    folder: RunFolder,
    record: Record,
    rows: Sequence[Row],
    evaluations: Sequence[Evaluation],
) -> None:
    """Send everything that a finished or failed run has to the tracker and end its run.

    What the tracker has already, such as the metrics of a training, it does not take twice.
    """
    started = round(1000 * datetime.fromisoformat(record["started"]).timestamp())
    for step, values in folder.metrics():
        tracked.metrics(step, values, started)
    for i, row in enumerate(rows):
        tracked.metrics(i, {f"instance/{name}": row.get(name) for name in ROW_METRICS})
    _track_searches(tracked, job, evaluations)
    tracked.summary(record)
    for path in folder.files():
        tracked.artifact(path)
    tracked.finish(record["status"], record["error"])


def track_input(tracked: Any, job: Job) -> None:
    """Log the instance set."""
    dataset = job.config.get("dataset", {})
    source = str(dataset.get("path") or dataset.get("_target_", ""))
    tracked.input(job.dataset.name, job.set_hash, len(job.instances), source, job.split)


def _track_searches(tracked: Any, job: Job, evaluations: Sequence[Evaluation]) -> None:
    """Log objective and bound over time as step metrics; the step is milliseconds.

    Of several in one millisecond the last one counts.
    """
    searches = list(zip(job.instances, evaluations, strict=False))[:TRACKED_SEARCHES]
    for i, (instance, evaluation) in enumerate(searches):
        at = {
            round(1000 * seconds): (value, bound)
            for seconds, value, bound in verified_trajectory(instance, evaluation)
        }
        for step, (value, bound) in at.items():
            tracked.metrics(step, {f"search/objective/{i}": value, f"search/bound/{i}": bound})
