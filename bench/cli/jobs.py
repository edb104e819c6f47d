"""One job: everything it needs, built from a checked configuration."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bench import instance_set, pretrained
from bench.cli import report
from bench.cli.configuration import (
    BAD_INPUT,
    build,
    config_of_solver,
    name_of_solver,
    plain,
    reference_is_changed,
)
from bench.cli.overrides import parse
from bench.contracts import Budget, Dataset, Plugin, Solver, check_plugin
from bench.errors import CRASHES, UserError, one_line
from bench.instance import Instance
from bench.paths import output_folder
from bench.plugins import CONF
from bench.references import References, user_cache
from bench.rollout import setting_of
from bench.run.job import Job
from bench.run.record import Record
from bench.run.rescoring import rescore
from bench.run.runner import run
from bench.setting import Setting, clairvoyant_track
from bench.tracking import Mlflow, Off

SETTING = ("objective", "mode", "backfill", "event_order")


def run_alone(config: DictConfig) -> int:
    """Run one job and print its table; return the exit status."""
    setup = JobSetup.of(config, name_of_solver(config, config.hydra.runtime.choices))
    setup.name_pretrained()
    with report.Bars() as bars:
        setup.compare(bars)
        record = setup.run(bars)
        baselines = setup.compare(bars)
        record = setup.rescore() or record
    console = report.output()
    folder = setup.job.folder(setup.runs)
    report.show(console, [record], baselines, folder)
    if config.update_references:
        command = f"python -m bench {' '.join(config.hydra.overrides.task)}"
        job = setup.job
        print(setup.references.store(job.dataset.name, job.instances, config.objective, command))
    report.say(console, f"Run: {folder}", setup.tracker.how_to_open())
    return int(record["status"] == "failed" or bool(record["errors"]))


@dataclass(frozen=True)
class JobSetup:
    """A job with references and tracker."""

    config: DictConfig
    job: Job
    references: References
    tracker: Any

    @classmethod
    def of(cls, config: DictConfig, name: str) -> JobSetup:
        """Build everything.

        Raises
        ------
        UserError, InstanceError, SettingError
            For what the user got wrong.
        """
        report.show_readers()
        values = plain(config)
        plugin = build("solver", config.solver)
        check_plugin("solver", plugin)
        if plugin.logs is not None:
            plugin.logs.cache = Path(config.cache) if config.cache else None
            plugin.logs.command = _logs_command(config)
        dataset, instances = _load(json.dumps(values["dataset"]), config.split)
        setting = _setting(config, plugin, instances)
        budget: Budget = build("budget", config.budget)
        kept = {key: values[key] for key in ("solver", "dataset")}
        job = Job(
            *(name, plugin, dataset, instances, setting, budget, config.seed, config.split, kept),
            isolate=config.isolate,
        )
        _check_kind("budget", budget, Budget)
        reference = config.reference
        reference_solver = functools.partial(_reference_solver, reference.solver)
        changed = reference_is_changed(config.hydra if "hydra" in config else HydraConfig.get())
        tracker = build("tracking", config.tracking)
        _check_kind("tracking", tracker, (Mlflow, Off))
        output_folder("runs", config.runs)
        references = References(
            output_folder("cache", config.cache or user_cache()),
            reference_solver() if changed else reference_solver,
            reference.seconds,
            budget.threads,
            reference.solver["_target_"].rsplit(".", 1)[-1].lower(),
            reference.shipped,
        )
        return cls(config, job, references, tracker)

    def name_pretrained(self) -> None:
        """Print the pretrained policies for the instances of a training."""
        solver, setting = self.config.solver, self.job.setting
        trains = "checkpoint" in solver and solver.checkpoint is None
        if not trains or self.job.plugin.logs is not None:
            return
        for name in pretrained.trained_for(
            self.job.set_hash, setting.observe, setting.objective, setting.mode
        ):
            text = f"pretrained policy available: solver.checkpoint={pretrained.PREFIX}{name}"
            print(text, file=sys.stderr)

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        return Path(self.config.runs)

    def run(self, bars: report.Bars, parent: Any = None) -> Record:
        """Return the record of the job."""
        self.tracker.prepare()
        rerun = self.config.rerun
        return run(self.job, self.runs, self.references, self.tracker, parent, rerun, progress=bars)

    def rescore(self, parent: Any = None) -> Record | None:
        """Score the job's run against what is known now; None where it left no rows."""
        return rescore(self.job, self.runs, self.references, self.tracker, parent)

    def compare(self, bars: report.Bars) -> list[Record]:
        """Compute missing references; return the records of the baselines on the same instances.

        Baselines are kept in the cache.
        """
        jobs = self._baselines  # bad ones are reported before anything is computed
        self.references.ensure(self.job.instances, self.job.setting, bars)
        runs = self.references.cache / "baselines"
        off = build("tracking", OmegaConf.load(CONF / "tracking" / "off.yaml"))
        records = []
        for i, job in enumerate(jobs):
            bars("baselines", i, len(jobs), job.solver)
            records.append(run(job, runs, self.references, off, pictures=False))
        bars("baselines", len(jobs), len(jobs), "")
        return records

    @functools.cached_property
    def _baselines(self) -> list[Job]:
        return [self._baseline(name) for name in self.config.baselines]

    def _baseline(self, name: str) -> Job:
        config = config_of_solver(name)
        plugin = build(f"baselines.{name}", config)
        setting = _setting(self.config, plugin, self.job.instances)
        kept = {"solver": plain(config), "dataset": self.job.config["dataset"]}
        return replace(
            self.job,
            solver=name,
            plugin=plugin,
            setting=setting,
            budget=Budget(),
            seed=0,
            config=kept,
            isolate=False,  # a process for each would cost more than all rules together
        )


def _reference_solver(config: DictConfig) -> Solver:
    solver = build("reference.solver", config)
    _check_kind("reference.solver", solver, Solver)
    return cast("Solver", solver)


def _check_kind(where: str, built: object, kind: type | tuple[type, ...]) -> None:
    if not isinstance(built, kind):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise UserError(f"{where}: {type(built).__name__} is no {names}; change {where}._target_")


def _setting(config: DictConfig, plugin: Plugin, instances: Sequence[Instance]) -> Setting:
    """Replace `auto`: the track follows from the instances, what is observed from the plug-in."""
    track = clairvoyant_track(instances[0]) if config.track == "auto" else config.track
    observe = config.observe
    if observe == "auto":
        observe = "arrived" if track == "online" else "all"
    setting = Setting(track=track, observe=observe, **{key: config[key] for key in SETTING})
    return setting_of(plugin, setting) if config.observe == "auto" else setting


def forget_data() -> None:
    """Read data sets again, which may have changed since the last command of this process."""
    _load.cache_clear()


@functools.cache
def _load(dataset: str, split: str) -> tuple[Dataset, tuple[Instance, ...]]:
    """Return the data set of a configuration (as JSON) and its checked instances.

    They are read once per process.
    """
    data = build("dataset", OmegaConf.create(json.loads(dataset)))
    if not isinstance(data, Dataset):
        raise UserError(
            f"dataset: {type(data).__name__} is no data set; derive it from Dataset of "
            "bench.contracts"
        )
    try:
        instances = tuple(data.instances(split))
    except BAD_INPUT:
        raise
    except CRASHES as error:
        raise UserError(f"dataset: {data.name} cannot be read ({one_line(error)})") from error
    if not instances:
        raise UserError(f"dataset: {data.name} has no instances in split={split}")
    instance_set.check(split, instances, data.hashes)
    return data, instances


def _logs_command(config: DictConfig) -> str:
    """Return the command that makes the log of a configuration again, with its overrides."""
    overrides = (config.hydra if "hydra" in config else HydraConfig.get()).overrides.task
    of_logs = [
        str(one.input_line)
        for one in parse(overrides)
        if one.key_or_group.partition(".")[0] == "logs"
    ]
    return shlex.join(["python", "-m", "bench", "+solver=bc", *of_logs])
