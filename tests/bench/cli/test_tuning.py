"""Hyperparameter searches: validation only, failed trials, resuming after a kill, `trials.json`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

import bench.__main__ as cli
from bench.cli import configuration, report, tuning
from bench.cli.hydra_private import argument_parser
from bench.cli.sweeps import HyperparameterSearch
from bench.instance import read_json
from bench.plugins import CONF, members
from bench.references import Reference, References

PLUGIN = '''
"""A policy that takes the first legal action with probability `nerve`, and loses it above 0.7."""
import time
import numpy as np
from bench.contracts import Policy

class Moody(Policy):
    observe = "arrived"
    def __init__(self, nerve: float = 0.5, pause: float = 0.0):
        self.nerve, self.pause = nerve, pause
    def reset(self):
        time.sleep(self.pause)
    def act(self, observation, rng):
        if self.nerve > 0.7:
            raise RuntimeError("too much")
        legal = np.flatnonzero(observation.mask)
        return int(legal[0] if rng.random() < self.nerve else legal[-1])
'''
SEARCH = """
# @package _global_
# nerve
defaults:
  - override /hydra/sweeper: optuna
split: validation
baselines: []
hydra:
  sweep: {dir: "${runs}/sweeps/${sweep}"}
  sweeper:
    sampler: {seed: 0}
    n_trials: 3
    n_jobs: 1
    max_failure_rate: 1.0
    params:
      solver.nerve: interval(0.0, 1.0)
"""
SUGGESTED = [
    0.5488135039273248,
    0.7151893663724195,
    0.6027633760716439,
]  # by NumPy's generator with seed 0
needs_optuna = pytest.mark.skipif(
    not any("optuna" in plugin.__name__.lower() for plugin in Plugins.instance().discover()),
    reason='the sweeper plug-in is missing: pip install -e ".[tuning]"',
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and cache, and a user's plug-in and search beside it."""
    for group, content in (
        ("solver", "_target_: moody_plugin.Moody\nnerve: 0.5\npause: 0.0\n"),
        ("tuning", SEARCH),
    ):
        (tmp_path / "plug" / "conf" / group).mkdir(parents=True)
        (tmp_path / "plug" / "conf" / group / "moody.yaml").write_text(content)
    (tmp_path / "plug" / "moody_plugin.py").write_text(PLUGIN)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "plug"))
    monkeypatch.delitem(sys.modules, "moody_plugin", raising=False)  # of an earlier test
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path


def search(place: Path, *more: str) -> list[str]:
    few = ["dataset=tiny", "dataset.validation=3", "~dataset.hashes", "reference.seconds=5"]
    off = [] if any(text.startswith("tracking") for text in more) else ["tracking=off"]
    return [
        "--config-dir",
        str(place / "plug" / "conf"),
        "-m",
        "+tuning=moody",
        "+solver=moody",
        *few,
        *off,
        *more,
    ]


def trials(folder: Path) -> dict[str, Any]:
    """The one `trials.json` below a folder."""
    (path,) = folder.glob("runs/sweeps/*/trials.json")
    return read_json(path)


def numbers(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Its trials without times, which differ from run to run."""
    return [
        {key: value for key, value in trial.items() if key not in ("seconds", "started")}
        for trial in found["trials"]
    ]


def started(folder: Path) -> dict[str, str]:
    """key -> when a run began."""
    found = [read_json(path) for path in folder.glob("runs/*/*/result.json")]
    return {record["key"]: record["started"] for record in found if record["status"] == "finished"}


# -- what is minimised ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "sense", "expected"),
    [
        ({"status": "finished", "errors": 0, "gap_mean": 0.25, "objective_mean": 8.0}, "min", 0.25),
        ({"status": "finished", "errors": 0, "gap_mean": None, "objective_mean": 8.0}, "min", 8.0),
        ({"status": "finished", "errors": 0, "gap_mean": None, "objective_mean": 8.0}, "max", -8.0),
        ({"status": "finished", "errors": 1, "gap_mean": 0.25, "objective_mean": 8.0}, "min", None),
        ({"status": "failed", "errors": 1}, "min", None),
    ],
)
def test_the_value_of_a_run_is_its_gap_else_its_objective(
    record: dict[str, Any], sense: str, expected: float | None
) -> None:
    assert tuning.value(record, sense) == expected


def test_the_best_trial_is_the_first_with_the_smallest_value_and_none_if_all_failed() -> None:
    tried = [{"number": i, "value": value} for i, value in enumerate([None, 3.0, 2.0, 2.0])]
    assert tuning.best(tried) == tried[2]
    assert tuning.best(tried[:1]) is None


# -- what is refused -----------------------------------------------------------------------------


def test_without_the_sweeper_the_error_says_what_to_install(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Plugins.instance()
    sweepers = ConfigStore.instance().repo["hydra"]["sweeper"]
    kept = sweepers.pop("optuna.yaml", None)
    try:
        assert cli.main(search(place)) == 2
    finally:
        if kept is not None:
            sweepers["optuna.yaml"] = kept
    assert (
        capsys.readouterr().err
        == 'hydra/sweeper=optuna: the plug-in is missing; pip install -e ".[tuning]"\n'
    )


@needs_optuna
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["split=test"], "split: hyperparameters are chosen with split=validation, not test"),
        (["split=train"], "split: hyperparameters are chosen with split=validation, not train"),
        (["solver.nerve=0.5"], "a search needs parameters"),
        (["solver.nerv=interval(0,1)"], "solver.nerv: unknown. Did you mean nerve?"),
        (["seed=0,1"], "seed: a search varies options of the solver only"),
        (
            ["solver.nerve=0.5", "solver.pause=choice(0,high)"],
            "solver.pause: a number is needed, got 'high'",
        ),
        (["tuning=mody"], "tuning=mody: unknown"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    change: list[str], said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = search(place, *change)
    if change[0].startswith("tuning="):
        arguments.remove("+tuning=moody")
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
    assert not (place / "work" / "runs").exists()


@needs_optuna
def test_a_search_is_a_sweep(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([text for text in search(place) if text != "-m"]) == 2
    assert "add -m" in capsys.readouterr().err


# -- searches ------------------------------------------------------------------------------------


@needs_optuna
@pytest.mark.parametrize("name", sorted(members("tuning")))
def test_every_yaml_composes_to_a_search_over_options_of_its_solver(name: str) -> None:
    overrides = [f"+tuning={name}", f"+solver={name}", "dataset=tiny", "tracking=off"]
    (config,) = configuration.composed(argument_parser().parse_args(["-m", *overrides]))
    found = HyperparameterSearch(config, overrides)
    assert found.setups[0].job.split == "validation"
    assert set(found.space) <= {f"solver.{key}" for key in config.solver}
    assert found.sampler["seed"] is not None
    assert len(members("tuning")[name]) > 10


@needs_optuna
def test_a_search_keeps_its_trials_survives_a_failed_one_and_can_be_extended(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "RESULTS", place)
    work = place / "work"
    assert cli.main(search(place)) == 1  # one of its trials failed
    found = trials(work)
    assert [trial["parameters"]["solver.nerve"] for trial in found["trials"]] == pytest.approx(
        SUGGESTED
    )
    assert found["trials"][1]["value"] is None
    assert "too much" in found["trials"][1]["error"]
    assert found["default"]["parameters"] == {"solver.nerve": 0.5}
    assert found["fixed"] == {"solver._target_": "moody_plugin.Moody", "solver.pause": 0.0}
    assert found["best"]["value"] == min(found["trials"][i]["value"] for i in (0, 2)) > 0
    assert (found["value"], found["problem"]["split"], found["space"]) == (
        "gap_mean", "validation", {"solver.nerve": "interval(0.0, 1.0)"}
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "3 jobs, 1 failed" in shown
    assert "default" in shown
    began = started(work)
    assert cli.main(search(place, "hydra.sweeper.n_trials=4", "update_references=true")) == 1
    again = trials(work)
    assert numbers(again)[:3] == numbers(found)
    assert len(again["trials"]) == 4
    assert began.items() <= started(work).items()  # what was finished was not run again
    assert read_json(place / "tuning-moody.json") == again


@needs_optuna
def test_all_trials_are_scored_against_the_references_known_at_the_end(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = References.known
    described = report.describe_job
    jobs: list[Any] = []

    def improving(self: References, instance: Any, objective: str) -> Reference:
        found = known(self, instance, objective)
        return found if len(jobs) > 1 else replace(found, bound=1.0)

    def describe(record: Any) -> str:
        jobs.append(record)  # the solver's own values, then the trials
        return described(record)

    monkeypatch.setattr(References, "known", improving)
    monkeypatch.setattr(report, "describe_job", describe)
    assert cli.main(search(place)) == 1
    found = trials(place / "work")
    records = [read_json(path) for path in (place / "work" / "runs").glob("*/*/result.json")]
    now = {one["key"]: one["gap_mean"] for one in records}
    shown = [found["default"], found["trials"][0], found["trials"][2]]
    assert [one["value"] for one in shown] == [now[one["key"]] for one in shown]
    first, last = found["trials"][0], found["trials"][2]
    assert first["value"] < first["value_when_ended"] == pytest.approx(jobs[1]["gap_mean"])
    assert last["value"] == last["value_when_ended"]
    assert "References have improved since 1 of the trials ended" in capsys.readouterr().out


@needs_optuna
def test_all_trials_are_children_of_one_run(place: Path) -> None:
    for _ in range(2):
        assert (
            cli.main(
                search(
                    place,
                    "tracking=local",
                    "tracking.system_metrics=false",
                    "hydra.sweeper.n_trials=1",
                )
            )
            == 0
        )
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{place}/work/mlflow.db")
    experiment = client.get_experiment_by_name("dl-scheduling-bench")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["role"] == "sweep"]
    children = [run for run in runs if run.data.tags["role"] == "run"]
    assert len(children) == 2  # the trial and the solver's own values
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    found = trials(place / "work")
    assert parent.data.metrics["best"] == pytest.approx(found["best"]["value"])
    assert parent.data.metrics["default"] == pytest.approx(found["default"]["value"])
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["trials.json"]


@needs_optuna
def test_a_killed_search_resumes_to_the_trials_of_an_uninterrupted_one(place: Path) -> None:
    slow = PLUGIN.replace("time.sleep(self.pause)", "time.sleep(0.3)")
    (place / "plug" / "moody_plugin.py").write_text(slow)  # in both: it is part of the keys
    calm, work = place / "calm", place / "work"
    calm.mkdir()
    os.chdir(calm)
    assert cli.main(search(place)) == 1
    os.chdir(work)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(place / "plug"), str(CONF.parent), *sys.path]),
    }
    command = [sys.executable, "-m", "bench", *search(place)]
    job = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(started(work)) < 2:  # the solver's own values and the first trial
        assert job.poll() is None
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    began = started(work)
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 1
    assert numbers(trials(work)) == numbers(trials(calm))
    assert began.items() <= started(work).items()
