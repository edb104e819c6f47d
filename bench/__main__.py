"""`python -m bench`: the command line. The only file that knows Hydra, which turns names into plug-ins.

A configuration is checked before anything runs, in a sweep that of every job. What the user got wrong is one line and exit
status 2 (HYDRA_FULL_ERROR=1 shows the traceback); a run that failed is a row and status 1.
"""

from __future__ import annotations

import argparse
import copy
import functools
import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.cli import options, report, tuning
from bench.contracts import SPLITS, Budget, Dataset
from bench.errors import UserError
from bench.instance import Instance, InstanceError, read_json, write_json
from bench.plugins import CONF, GROUPS, members, own_packages
from bench.references import References
from bench.rollout import played_as
from bench.run import instance_set, provenance
from bench.run.job import Job
from bench.run.runner import Record, line, run
from bench.setting import Setting, SettingError
from bench.tracking import flatten

SETTING = ("objective", "mode", "backfill", "events")
EXAMPLE = """
  python -m bench +solver=ppo dataset=small seed=0
  python -m bench -m +solver=ppo,cpsat,sjf dataset=small,medium seed=0,1,2
  python -m bench +solver=cql logs=cluster-small-mixed-v0
  python -m bench -m +tuning=ppo +solver=ppo dataset=small budget.decisions=200000
Every key stands in conf/config.yaml; a solver's own are solver.KEY=VALUE; --cfg job shows what a command means."""
WRONG = (UserError, InstanceError, SettingError, HydraException, OmegaConfBaseException)


def _instances_of(name: str) -> Any:
    """`${instances_of:small}`: the data set of conf/dataset/small.yaml, for logs that were recorded on it."""
    return OmegaConf.load(CONF / "dataset" / f"{name}.yaml").dataset


OmegaConf.register_new_resolver("instances_of", _instances_of, replace=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """List what there is, or run; returns the exit status (0 done, 1 something failed, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments:
        report.listing(
            report.output(), {group: members(group) for group in (*GROUPS, "tuning")}, EXAMPLE
        )
        return 0
    try:
        own_packages()
        return _start(arguments)
    except WRONG as error:
        return _wrong(error)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return 130


def _start(arguments: list[str]) -> int:
    flags = get_args_parser().parse_args(arguments)
    flags.overrides = [
        f"+{text}" if text.startswith(("solver=", "tuning=")) else text for text in flags.overrides
    ]
    known = [
        text
        for text in arguments
        if text not in flags.overrides and f"+{text}" not in flags.overrides
    ]
    if flags.multirun and (flags.cfg or flags.info):
        raise UserError(
            "--multirun: what a sweep means cannot be shown at once; leave -m out and name one job"
        )
    if flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion:
        return _hydra([*known, *flags.overrides])
    flags.multirun = flags.multirun or "hydra.mode=MULTIRUN" in flags.overrides
    if flags.multirun:
        flags.overrides = _said_in_jobs(flags.overrides)
    configs = [_checked(job) for job in _composed(flags)]
    if not flags.multirun:
        return _hydra([*known, *flags.overrides])
    sweep = Search(configs[0], flags.overrides) if _searches(configs[0]) else Sweep(configs)
    sweep.prepare()
    status = _hydra([*known, *flags.overrides, f"sweep={sweep.key}"])
    return max(status, sweep.finish())


def _hydra(arguments: Sequence[str]) -> int:
    """Hand over to Hydra, which calls `task` once per job."""
    before, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(task)()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def task(config: DictConfig) -> float | None:
    """One job. Alone it prints its table and ends with its status; in a sweep it leaves its record for the end and goes on.

    Returns:
        What a search minimises, None for a job that failed.
    """
    choices = HydraConfig.get().runtime.choices
    if config.sweep is not None:
        return _sweep_job(config, choices)
    try:
        setup = Setup.of(config, _name(config, choices))
        with report.Bars() as bars:
            setup.compare(bars)
            record = setup.run(bars)
            baselines = setup.compare(bars)
    except WRONG as error:
        sys.exit(_wrong(error))
    console = report.output()
    report.show(console, [record], baselines, setup.job.folder(setup.runs))
    if config.ship:
        command = f"python -m bench {' '.join(HydraConfig.get().overrides.task)}"
        print(
            setup.references.ship(
                setup.job.dataset.name, setup.job.instances, config.objective, command
            )
        )
    _say(console, f"Run: {setup.job.folder(setup.runs)}", setup.tracker.how_to_open())
    sys.exit(int(record["status"] == "failed" or bool(record["errors"])))


def _sweep_job(config: DictConfig, choices: Mapping[str, str]) -> float | None:
    number, name = HydraConfig.get().job.num, _name(config, choices)
    folder, value = Path(config.runs) / "sweeps" / config.sweep, None
    try:
        setup = Setup.of(config, name)
        with report.Bars(
            shown=choices["hydra/launcher"] == "basic"
        ) as bars:  # not from many processes at once
            record = setup.run(bars, _parent(setup.tracker, config.sweep, folder))
        value = tuning.value(record, setup.job.instances[0].sense)
    except Exception as error:  # one bad job is a row
        facts = {
            "solver": name,
            "dataset": config.dataset.name,
            "seed": config.seed,
            "errors": 1,
            "feasible": 0.0,
        }
        record = {
            **facts,
            "status": "failed",
            "error": str(error) if isinstance(error, WRONG) else line(error),
        }
    write_json(folder / f"{number}.json", {**record, "values": _values(config)})
    print(f"[{number}] {report.one_line(record)}", flush=True)
    return value


# -- one job ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """A job with all that it needs, built from a checked configuration."""

    config: DictConfig
    job: Job
    references: References
    tracker: Any

    @classmethod
    def of(cls, config: DictConfig, name: str) -> Setup:
        """Build everything. Raises one of WRONG."""
        plain = _plain(config)
        plugin = _build("solver", config.solver)
        if getattr(plugin, "logs", None) is not None:
            plugin.logs.cache, plugin.logs.command = (
                Path(config.cache) if config.cache else None,
                _logs_command(config),
            )
        dataset, instances = _load(json.dumps(plain["dataset"]), config.split)
        setting = _setting(config, plugin, instances)
        budget: Budget = _build("budget", config.budget)
        kept = {key: plain[key] for key in ("solver", "dataset")}
        job = Job(
            name, plugin, dataset, instances, setting, budget, config.seed, config.split, kept
        )
        references = References(
            config.cache or _user_cache(), _build("reference.solver", config.reference.solver), config.reference.seconds,
            budget.threads, config.reference.solver["_target_"].rsplit(".", 1)[-1].lower(), config.reference.shipped,
        )  # fmt: skip
        return cls(config, job, references, _build("tracking", config.tracking))

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        return Path(self.config.runs)

    def run(self, bars: report.Bars, parent: Any = None) -> Record:
        """The record of the job."""
        self.tracker.prepare()
        return run(
            self.job,
            self.runs,
            self.references,
            self.tracker,
            parent,
            self.config.rerun,
            progress=bars,
        )

    def compare(self, bars: report.Bars) -> list[Record]:
        """See to the references; the records of the baselines on the job's instances, which are kept in the cache."""
        self.references.ensure(self.job.instances, self.job.setting, bars)
        runs, off = (
            self.references.cache / "baselines",
            _build("tracking", OmegaConf.load(CONF / "tracking" / "off.yaml")),
        )
        jobs = list(self._baselines())
        records = []
        for i, job in enumerate(jobs):
            bars("baselines", i, len(jobs), job.solver)
            records.append(run(job, runs, self.references, off, pictures=False))
        bars("baselines", len(jobs), len(jobs), "")
        return records

    def _baselines(self) -> Iterator[Job]:
        for name in self.config.baselines:
            config = OmegaConf.load(CONF / "solver" / f"{name}.yaml")
            plugin = _build(f"baselines.{name}", config)
            setting = _setting(self.config, plugin, self.job.instances)
            kept = {"solver": _plain(config), "dataset": self.job.config["dataset"]}
            yield replace(
                self.job,
                solver=name,
                plugin=plugin,
                setting=setting,
                budget=Budget(),
                seed=0,
                config=kept,
            )


def _setting(config: DictConfig, plugin: Any, instances: Sequence[Instance]) -> Setting:
    """`auto` made concrete: the track by the instances' sharing, what is observed by the plug-in and the track."""
    shared = "assign" if instances[0].sharing == "budget" else "schedule"
    track = shared if config.track == "auto" else config.track
    observe = (
        ("arrived" if track == "online" else "all") if config.observe == "auto" else config.observe
    )
    setting = Setting(track=track, observe=observe, **{key: config[key] for key in SETTING})
    return played_as(plugin, setting) if config.observe == "auto" else setting


@functools.cache
def _load(dataset: str, split: str) -> tuple[Dataset, tuple[Instance, ...]]:
    """The data set of a configuration (as JSON) and the checked instances of a split, read once per process."""
    data = _build("dataset", OmegaConf.create(json.loads(dataset)))
    try:
        instances = tuple(data.instances(split))
    except WRONG:
        raise
    except Exception as error:
        raise UserError(f"dataset: {data.name} cannot be read ({line(error)})") from error
    if not instances:
        raise UserError(f"dataset: {data.name} has no instances in split={split}")
    instance_set.check(split, instances, getattr(data, "hashes", {}))
    return data, instances


def _build(where: str, config: Any) -> Any:
    """Instantiate a plug-in; whatever its constructor objects to is the user's to mend."""
    try:
        return instantiate(config, _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{where}: {line(cause)}") from error


def _logs_command(config: DictConfig) -> str:
    """What makes the log of a configuration again: a learner, and what was said of the log."""
    told = (config.hydra if "hydra" in config else HydraConfig.get()).overrides.task
    chosen = [
        str(one.input_line) for one in _parsed(told) if one.key_or_group.partition(".")[0] == "logs"
    ]
    return shlex.join(["python", "-m", "bench", "+solver=bc", *chosen])


def _user_cache() -> Path:
    import pooch

    return Path(pooch.os_cache("dl-scheduling-bench"))


# -- sweeps ----------------------------------------------------------------------------------------------------------


class Sweep:
    """The jobs of a `-m` command: all built before the first one starts, one MLflow run above them, one table at the end."""

    def __init__(self, configs: Sequence[DictConfig]) -> None:
        self.setups = [
            Setup.of(config, _name(config, config.hydra.runtime.choices)) for config in configs
        ]
        decisive = sorted(json.dumps([one.job.key, one.job.solver]) for one in self.setups)
        self.key = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]
        self.folder = self.setups[0].runs / "sweeps" / self.key
        self.problems = {
            (one.job.set_hash, replace(one.job.setting, observe="arrived")): one
            for one in self.setups
        }

    def prepare(self) -> None:
        """The store's schema, the run above the jobs, references and baselines: once, before any parallel work."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*.json"):
            if path.stem.isdigit():
                path.unlink()
        self.setups[0].tracker.prepare()
        _parent(self.setups[0].tracker, self.key, self.folder)
        with report.Bars() as bars:
            for setup in self.problems.values():
                setup.compare(bars)

    def finish(self) -> int:
        """The table over all jobs, and the status: 1 where one failed or is missing."""
        numbers = sorted(
            int(path.stem) for path in self.folder.glob("*.json") if path.stem.isdigit()
        )
        records = {number: read_json(self.folder / f"{number}.json") for number in numbers}
        failed = [
            record
            for record in records.values()
            if record["status"] == "failed" or record["errors"]
        ]
        console, tracker = report.output(), self.setups[0].tracker
        parent = _parent(tracker, self.key, self.folder)
        parent.summary(
            {"jobs": len(records), "failed": len(failed), **self.show(console, records, parent)}
        )
        parent.finish("finished")
        _say(
            console,
            f"{len(records)} jobs, {len(failed)} failed. Runs: {self.setups[0].runs}",
            tracker.how_to_open(),
        )
        return int(bool(failed) or not records)

    def show(self, console: Any, records: Mapping[int, Record], parent: Any) -> dict[str, float]:
        """The table of the jobs, number -> record; returns what else the run above them is to hold."""
        with report.Bars() as bars:
            baselines = [
                record for setup in self.problems.values() for record in setup.compare(bars)
            ]
        report.show(console, list(records.values()), baselines, self.folder)
        return {}


class Search(Sweep):
    """A sweep whose jobs are suggested one after the other by what came out before; see `bench.cli.tuning` for what it leaves.

    It begins with the solver's own values. Optuna starts anew each time: with a seed it makes the same suggestions, and the
    trials that are finished are found by their folders.
    """

    def __init__(self, config: DictConfig, overrides: Sequence[str]) -> None:
        super().__init__([config])
        varied = _varied(config, overrides)
        self.space = {key: str(one.input_line).partition("=")[2] for key, one in varied.items()}
        self.sampler = _plain(config.hydra.sweeper.sampler)
        self.command = shlex.join(["python", "-m", "bench", "-m", *overrides])
        decisive = json.dumps(
            [self.key, self.space, self.sampler, config.hydra.sweeper.get("n_jobs")]
        )
        self.key = hashlib.sha256(decisive.encode()).hexdigest()[:16]
        self.folder = self.folder.with_name(self.key)

    def prepare(self) -> None:
        """As any sweep; then the run with the solver's own values."""
        super().prepare()
        (setup,) = self.setups
        with report.Bars() as bars:
            record = setup.run(bars, _parent(setup.tracker, self.key, self.folder))
        self.default = {**record, "values": _values(setup.config)}
        print(f"[default] {report.one_line(record)}", flush=True)

    def show(self, console: Any, records: Mapping[int, Record], parent: Any) -> dict[str, float]:
        """The trials, best first, and `trials.json`."""
        (setup,) = self.setups
        sense, choices = setup.job.instances[0].sense, setup.config.hydra.runtime.choices
        found = tuning.report(
            self.default, records, sense, self.space, self.sampler, setup.job.budget, self.command
        )
        tuning.write(self.folder / "trials.json", found)
        parent.artifact(self.folder / "trials.json")
        report.trials(console, found)
        shipped = (
            [f"Shipped: {tuning.ship(choices.get('tuning', setup.job.solver), found)}"]
            if setup.config.ship
            else []
        )
        _say(console, f"Trials: {self.folder / 'trials.json'}", *shipped)
        values = {"default": found["default"]["value"], "best": (found["best"] or {}).get("value")}
        return {key: value for key, value in values.items() if value is not None}


def _parent(tracker: Any, key: str, folder: Path) -> Any:
    """The run above a sweep, the same one from every job."""
    return tracker.parent(key, f"sweep-{key[:8]}", {"git_commit": provenance.git_commit()}, folder)


# -- configurations --------------------------------------------------------------------------------------------------


def _composed(flags: argparse.Namespace) -> list[DictConfig]:
    """The configuration of every job of a command, with Hydra's own part under `hydra`."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        extra = (
            [f"hydra.searchpath=[file://{Path(flags.config_dir).absolute()}]"]
            if flags.config_dir
            else []
        )
        if not flags.multirun:
            return [_compose([*flags.overrides, *extra])]
        extra.append("hydra.mode=MULTIRUN")
        parsed = _parsed(flags.overrides)
        of_sweep = [
            str(one.input_line)
            for one in parsed
            if re.match(r"tuning$|hydra[./]", one.key_or_group)
        ]
        swept = _compose([*of_sweep, *extra])
        if _searches(swept):
            return [_compose([*_fixed(swept, flags.overrides), *extra])]
        return [_compose([*job, *extra]) for job in BasicSweeper.split_arguments(parsed, None)[0]]


def _parsed(overrides: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))


def _said_in_jobs(overrides: Sequence[str]) -> list[str]:
    """The same sweep, in words that Hydra takes.

    It composes once what all jobs have in common. A key of a group that is swept, as in `+solver=cql,iql solver.steps=100`, is
    not there then; said as a choice of one value it is left to the jobs.
    """
    parsed = _parsed(overrides)
    swept = {one.key_or_group for one in parsed if one.is_sweep_override()}

    def said(text: str, one: Override) -> str:
        group, inside, _ = one.key_or_group.partition(".")
        if not inside or group not in swept or one.is_sweep_override() or one.is_delete():
            return text
        key, _, value = text.partition("=")
        return f"{key}=choice({value or repr(value)})"

    return [said(text, one) for text, one in zip(overrides, parsed, strict=True)]


def _searches(config: DictConfig) -> bool:
    """Whether the jobs of a sweep are suggested by what came out of those before."""
    return config.hydra.runtime.choices["hydra/sweeper"] != "basic"


def _parameters(config: DictConfig, overrides: Sequence[str]) -> dict[str, Override]:
    """key -> what is last said of it: the search's own list comes first, then the command line."""
    own = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    return {one.get_key_element(): one for one in _parsed([*own, *overrides])}


def _fixed(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """What holds for every trial of a search."""
    return [
        str(one.input_line)
        for one in _parameters(config, overrides).values()
        if not one.is_sweep_override()
    ]


def _varied(config: DictConfig, overrides: Sequence[str]) -> dict[str, Override]:
    """parameter -> the values it may take in a search.

    Raises:
        UserError: for a parameter that is no key of the solver, a value that the solver does not take, or no parameter at all.
    """
    found = {
        key: one for key, one in _parameters(config, overrides).items() if one.is_sweep_override()
    }
    for key, one in found.items():
        if not key.startswith("solver."):
            raise UserError(f"{key}: a search varies keys of the solver only, such as solver.lr")
        if key not in _values(config):
            raise _unknown(key, _plain(config))
        for value in _ends(one):
            changed = copy.deepcopy(config)
            OmegaConf.update(changed, key, value)
            _build("solver", _checked(changed).solver)
    if not found:
        raise UserError(
            "hydra.sweeper.params: a search needs parameters, such as solver.lr=interval(1e-4,1e-2)"
        )
    return found


def _ends(varied: Override) -> list[Any]:
    """The values, or the two ends of an interval."""
    value = varied.value()
    if isinstance(value, IntervalSweep):
        return [value.start, value.end]
    return list(varied.sweep_iterator(transformer=Transformer.encode))


def _compose(overrides: list[str]) -> DictConfig:
    try:
        config = hydra.compose("config", overrides, return_hydra_config=True)
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/sweeper":
            raise UserError(
                f'{group}={name}: the plug-in is missing; pip install -e ".[tuning]"'
            ) from None
        raise options.unknown(
            f"{group}={name}", f"{group}:", name, error.options or members(group)
        ) from None
    except HydraException as error:
        key = re.search(r"Could not override '([^']+)'", str(error))
        if key is None:
            raise
        groups = [
            text
            for text in overrides
            if text.split("=")[0].lstrip("+") in (*GROUPS, "hydra.searchpath")
        ]
        raise _unknown(key[1], _plain(hydra.compose("config", groups))) from None
    return config


def _checked(config: DictConfig) -> DictConfig:
    """The configuration, if every key exists and has the right type."""
    plain = _plain(config)
    solver = plain.get("solver", {})
    learner = solver.get("offline", solver)
    if "logs" in learner and learner["logs"] is None and not learner.get("checkpoint"):
        raise UserError(
            f"logs: this solver learns from logs; type logs=NAME, one of {', '.join(sorted(members('logs')))}"
        )
    known = {
        key: value
        for key, value in _plain(OmegaConf.load(CONF / "config.yaml")).items()
        if key != "defaults"
    }
    for key in plain:
        if key not in known and key not in GROUPS:
            raise _unknown(key, {**known, **dict.fromkeys(GROUPS)})
    if "solver" not in plain:
        raise UserError(
            f"solver: missing; type +solver=NAME, one of {', '.join(sorted(members('solver')))}"
        )
    for key, kind in (
        ("seed", int),
        ("rerun", bool),
        ("ship", bool),
        ("runs", str),
        ("baselines", list),
    ):
        if not options.fits(plain[key], kind):
            raise UserError(f"{key}: {options.words(kind)} is needed, got {plain[key]!r}")
    if plain["seed"] < 0:
        raise UserError(f"seed: must not be negative, got {plain['seed']}")
    if plain["split"] not in SPLITS:
        raise options.unknown(f"split={plain['split']}", "splits:", str(plain["split"]), SPLITS)
    if _searches(config) and config.hydra.mode != RunMode.MULTIRUN:
        raise UserError("tuning: a search is a sweep; add -m")
    if _searches(config) and plain["split"] != "validation":
        raise UserError(
            f"split: hyperparameters are chosen with split=validation, not {plain['split']}; "
            "the test instances are for what was chosen, once"
        )
    for name in plain["baselines"]:
        if name not in members("solver"):
            raise options.unknown(f"baselines: {name}", "there are", str(name), members("solver"))
    for key in GROUPS:
        options.check(key, plain.get(key), _found)
    return config


def _found(target: str) -> Any:
    try:
        return get_object(target)
    except Exception as error:
        raise UserError(f"_target_: {target} cannot be imported ({line(error)})") from error


def _unknown(key: str, config: Mapping[str, Any]) -> UserError:
    """The error for a key that is not there: `config` holds those beside it."""
    above, _, name = key.rpartition(".")
    beside: Any = functools.reduce(
        lambda part, step: part.get(step) or {}, above.split(".") if above else [], config
    )
    keys = (
        [one for one in beside if one not in options.SPECIAL] if isinstance(beside, Mapping) else []
    )
    return options.unknown(key, "Keys:", name, keys or list(flatten(config)))


def _name(config: DictConfig, choices: Mapping[str, str]) -> str:
    """The solver's name: its file in conf/solver, else its class."""
    return choices.get("solver") or config.solver["_target_"].rsplit(".", 1)[-1].lower()


def _values(config: DictConfig) -> dict[str, Any]:
    """The solver's configuration, dotted key -> value."""
    return flatten({"solver": _plain(config)["solver"]})


def _plain(config: Any) -> dict[str, Any]:
    """Resolved, as plain mappings and lists, without Hydra's part."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    plain.pop("hydra", None)
    return OmegaConf.to_container(OmegaConf.create(plain), resolve=True)  # type: ignore[return-value]


def _wrong(error: Exception) -> int:
    """Say in one line what the user got wrong; the status for it."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    where = (
        f"{error.override}: "
        if isinstance(error, OverrideParseException) and error.override
        else ""
    )
    print(where + " ".join(str(error).split()), file=sys.stderr)
    return 2


def _say(console: Any, *lines: str) -> None:
    for text in lines:
        console.print(text, markup=False, soft_wrap=True)


if __name__ == "__main__":
    from bench.__main__ import main as imported  # so that launchers can pickle the task by its name

    sys.exit(imported())
