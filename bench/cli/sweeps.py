"""Sweeps (`-m`): many jobs under one MLflow run, and searches over hyperparameters."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from bench.cli import report, tuning
from bench.cli.configuration import (
    BAD_INPUT,
    is_search,
    name_of_solver,
    plain,
    use_current_names,
    values_of_solver,
    varied,
)
from bench.cli.jobs import JobSetup
from bench.errors import CRASHES, one_line
from bench.files import cannot_write
from bench.instance import read_json, write_json
from bench.paths import own_folder
from bench.run import provenance
from bench.run.record import Record, problem
from bench.settings_hash import settings_hash


def run_job(config: DictConfig, setup: JobSetup | None = None) -> float | None:
    """Run one job of a sweep and leave its record for the end.

    Parameters
    ----------
    setup
        The job, where it is built already; Hydra passes the configuration alone.

    Returns
    -------
    float or None
        What a search minimises; None for a job that failed.
    """
    use_current_names(config)
    hydra_config = HydraConfig.get()
    choices = hydra_config.runtime.choices
    name = name_of_solver(config, choices)
    folder = Path(config.runs) / "sweeps" / config.sweep
    value = None
    record: Record
    try:
        setup = setup or JobSetup.of(config, name)
        shown = choices["hydra/launcher"] == "basic"  # not from many processes at once
        with report.Bars(shown=shown) as bars:
            record = setup.run(bars, _parent(setup.tracker, config.sweep, folder))
        value = tuning.value(record, setup.job.instances[0].sense)
    except CRASHES as error:  # one bad job is a row
        if (full := cannot_write(error)) is not None:
            raise full from error
        record = {
            "solver": name,
            "dataset": config.dataset.name,
            "seed": config.seed,
            "errors": 1,
            "feasible": 0.0,
            "status": "failed",
            "error": str(error) if isinstance(error, BAD_INPUT) else one_line(error),
        }
    number = hydra_config.job.num
    write_json(folder / f"{number}.json", {**record, "values": values_of_solver(config)})
    print(f"[{number}] {report.describe_job(record)}", flush=True)
    return value


def sweep_of(configs: Sequence[DictConfig], overrides: Sequence[str]) -> Sweep:
    """Return the sweep over checked configurations, a search where the sweeper suggests jobs."""
    if is_search(configs[0]):
        return HyperparameterSearch(configs[0], overrides)
    return Sweep(configs)


class Sweep:
    """The jobs of a `-m` command: one MLflow run above them, one table at the end.

    All are built before the first one starts, so that bad input is found early.
    """

    def __init__(self, configs: Sequence[DictConfig]) -> None:
        self.setups = [
            JobSetup.of(config, name_of_solver(config, config.hydra.runtime.choices))
            for config in configs
        ]
        self.key = settings_hash(sorted([one.job.key, one.job.solver] for one in self.setups))
        self.problems = {problem(one.job.identity): one for one in self.setups}

    @property
    def runs_here(self) -> bool:
        """Whether the jobs run in this process, from the configurations composed already.

        Other sweepers and launchers of Hydra compose each job's configuration where it runs.
        """
        hydra_config = self.setups[0].config.hydra
        choices = hydra_config.runtime.choices
        basic = choices["hydra/launcher"] == choices["hydra/sweeper"] == "basic"
        return basic and not hydra_config.callbacks

    def run(self) -> None:
        """Run the jobs one after another in this process."""
        for number, setup in enumerate(self.setups):
            config = setup.config
            with read_write(config), open_dict(config):
                config.sweep = self.key
                config.hydra.job.num = number
            HydraConfig.instance().set_config(config)
            run_job(config, setup)

    @property
    def folder(self) -> Path:
        """Where the jobs leave their records."""
        return self.setups[0].runs / "sweeps" / self.key

    def prepare(self) -> None:
        """Prepare what all jobs share, once and before any parallel work.

        That is the schema of the store, the run above the jobs, references and baselines.
        """
        own_folder("runs", self.folder)
        for path in self.folder.glob("*.json"):
            if path.stem.isdigit():
                path.unlink()
        self.setups[0].tracker.prepare()
        _parent(self.setups[0].tracker, self.key, self.folder)
        with report.Bars() as bars:
            for setup in self.problems.values():
                setup.compare(bars)

    def finish(self) -> int:
        """Print the table over all jobs; return the status: 1 where one failed or is missing."""
        numbers = sorted(
            int(path.stem) for path in self.folder.glob("*.json") if path.stem.isdigit()
        )
        records = {number: read_json(self.folder / f"{number}.json") for number in numbers}
        failed = [one for one in records.values() if one["status"] == "failed" or one["errors"]]
        console = report.output()
        tracker = self.setups[0].tracker
        parent = _parent(tracker, self.key, self.folder)
        more = self.show(console, records, parent)
        parent.summary({"jobs": len(records), "failed": len(failed), **more})
        parent.finish("finished")
        done = f"{len(records)} jobs, {len(failed)} failed. Runs: {self.setups[0].runs}"
        report.say(console, done, tracker.how_to_open(parent))
        return int(bool(failed) or not records)

    def show(self, console: Any, records: Mapping[int, Record], parent: Any) -> dict[str, float]:
        """Print the jobs' table; return further metrics for the run above them.

        All rows are scored against the references known now, after the last job.
        """
        with report.Bars() as bars:
            baselines = [one for setup in self.problems.values() for one in setup.compare(bars)]
        rows = self.rescored(records, self.setups, parent)
        report.show(console, list(rows.values()), baselines, self.folder)
        return {}

    def rescored(
        self, records: Mapping[int, Record], setups: Sequence[JobSetup], parent: Any
    ) -> dict[int, Record]:
        """Return the records of the jobs, compared with what is known now; update their files."""
        found = {one.job.key: one.rescore(parent) for one in setups}
        rows = {
            number: cast("Record", {**record, **(found.get(str(record.get("key"))) or {})})
            for number, record in records.items()
        }
        for number, record in rows.items():
            write_json(self.folder / f"{number}.json", record)
        return rows


class HyperparameterSearch(Sweep):
    """A sweep whose jobs are suggested one after another by the results so far.

    It begins with the solver's own values. Optuna starts anew each time: with a seed it makes the
    same suggestions, and finished trials are found by their folders. `bench.cli.tuning` says what
    it writes.
    """

    def __init__(self, config: DictConfig, overrides: Sequence[str]) -> None:
        super().__init__([config])
        parameters = varied(config, overrides)
        self.space = {key: str(one.input_line).partition("=")[2] for key, one in parameters.items()}
        self.sampler = plain(config.hydra.sweeper.sampler)
        self.command = shlex.join(["python", "-m", "bench", "-m", *overrides])
        jobs = config.hydra.sweeper.get("n_jobs")
        self.key = settings_hash([self.key, self.space, self.sampler, jobs])

    def prepare(self) -> None:
        """Prepare as any sweep, then run with the solver's own values."""
        super().prepare()
        (setup,) = self.setups
        with report.Bars() as bars:
            record = setup.run(bars, _parent(setup.tracker, self.key, self.folder))
        self.default: dict[str, Any] = {**record, "values": values_of_solver(setup.config)}
        print(f"[default] {report.describe_job(record)}", flush=True)

    def show(self, console: Any, records: Mapping[int, Record], parent: Any) -> dict[str, float]:
        """Print the trials, best first, and write `trials.json`.

        All are scored against the references known now; Optuna keeps the values that it was given.
        """
        (setup,) = self.setups
        with report.Bars() as bars:
            setup.compare(bars)
        ended = records
        trials = [self._setup_of(one) for one in records.values() if "key" in one]
        records = self.rescored(ended, trials, parent)
        self.default |= setup.rescore(parent) or {}
        sense = setup.job.instances[0].sense
        budget = setup.job.budget
        found = tuning.report(
            self.default, records, ended, sense, self.space, self.sampler, budget, self.command
        )
        path = self.folder / "trials.json"
        tuning.write(path, found)
        parent.artifact(path)
        report.trials(console, found)
        if changed := tuning.changed(found["trials"]):
            report.say(
                console,
                f"References have improved since {changed} of the trials ended: the table has the "
                "values of now; Optuna suggested the trials by those of then (value_when_ended).",
            )
        report.say(console, f"Trials: {path}")
        if setup.config.update_references:
            name = setup.config.hydra.runtime.choices.get("tuning", setup.job.solver)
            report.say(console, f"Stored: {tuning.store(name, found)}")
        values = {
            "default": found["default"]["value"],
            "best": (found["best"] or {}).get("value"),
        }
        return {key: value for key, value in values.items() if value is not None}

    def _setup_of(self, record: Record) -> JobSetup:
        """Build the job of a trial again, from its record."""
        (setup,) = self.setups
        config = copy.deepcopy(setup.config)
        values = cast("Mapping[str, Any]", record)["values"]
        with read_write(config), open_dict(config):
            for key in self.space:
                OmegaConf.update(config, key, values[key])
        return JobSetup.of(config, setup.job.solver)


def _parent(tracker: Any, key: str, folder: Path) -> Any:
    """Return the run above a sweep, the same one from every job."""
    tags = {"git_commit": provenance.git_commit()}
    return tracker.parent(key, f"sweep-{key[:8]}", tags, folder)
