"""The command line: listing, bad input, old names, runs, sweeps, and resuming after a kill."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import bench.__main__ as cli
from bench.cli import configuration, jobs
from bench.cli.hydra_private import argument_parser
from bench.contracts import Budget, Dataset, Learner, LoggedDataset, Policy, Solver
from bench.errors import UserError
from bench.instance import Instance, read_json, write_json
from bench.plugins import CONF, GROUPS, load, members, own_packages, rules
from bench.setting import Setting
from bench.tracking import Mlflow, Off

PLUGIN = '''
"""Plug-ins of a user: a policy that is slow, a solver that crashes, a constructor that objects."""
import os
import time
import numpy as np
from bench.contracts import Policy, Solver

class Slow(Policy):
    observe = "arrived"
    def __init__(self, seconds: float | None = None):
        self._seconds = float(os.environ.get("SLOW_SECONDS", 0)) if seconds is None else seconds
    def reset(self):
        time.sleep(self._seconds)
    def act(self, observation, rng):
        legal = np.flatnonzero(observation.mask)
        return int(legal[rng.integers(len(legal))])

class Crash(Solver):
    def solve(self, instance, setting, budget, rng):
        raise RuntimeError("out of luck")

def picky(level: int = 1):
    raise ValueError(f"level {level} will not do")
'''
QUICK = ["tracking=off", "baselines=[fifo]", "dataset=tiny", "dataset.test=3", "~dataset.hashes"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and cache, and a user's plug-ins beside it."""
    (tmp_path / "plug" / "conf" / "solver").mkdir(parents=True)
    (tmp_path / "plug" / "my_plugin.py").write_text(PLUGIN)
    for name, target in (("slow", "Slow"), ("crash", "Crash"), ("picky", "picky")):
        (tmp_path / "plug" / "conf" / "solver" / f"{name}.yaml").write_text(
            f"# mine\n_target_: my_plugin.{target}\n"
        )
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "plug"))
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path


def mine(place: Path) -> list[str]:
    return ["--config-dir", str(place / "plug" / "conf")]


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """solver-seed -> record of every run."""
    found = [read_json(path) for path in folder.glob("runs/*/*/result.json")]
    return {f"{record['solver']}-{record['seed']}": record for record in found}


def tables(folder: Path) -> dict[str, pandas.DataFrame]:
    """solver-seed -> table without times, which differ from run to run."""
    found = {}
    for path in sorted(folder.glob("runs/*/*/instances.parquet")):
        table = pandas.read_parquet(path)
        found[path.parent.name] = table[
            [name for name in table if "seconds" not in name and "latency" not in name]
        ]
    return found


# -- configurations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in GROUPS for name in sorted(members(group))]
)
def test_every_yaml_composes_and_builds_what_its_group_promises(group: str, name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        solver = [] if group == "solver" else ["+solver=fifo"]
        chosen = [*solver, f"{'+' if group == 'solver' else ''}{group}={name}"]
        logs = [] if group == "logs" else ["logs=cluster-tiny-random-v0"]  # for offline learners
        path = [f"logs.path={__file__}"] if name == "imported" else []  # read for episodes only
        config = compose("config", [*chosen, *logs, *path], return_hydra_config=True)
    assert configuration.checked(config) is config
    built = instantiate(config[group], _convert_="all")
    if group == "solver":
        assert isinstance(built, Solver | Policy | Learner)
    elif group == "dataset":
        assert isinstance(built, Dataset)
        assert built.name == name
    elif group == "logs":
        assert isinstance(built, LoggedDataset)
        assert built.name == ("imported-v0" if name == "imported" else name)
        assert built.setting == Setting(**(config.logs.get("setting") or {}))
    elif group == "budget":
        assert built == Budget(**{key: config.budget[key] for key in vars(built)})
    else:
        assert isinstance(built, Off if name == "off" else Mlflow)
        assert str(config.tracking.get("uri", "off")) in built.how_to_open()
    assert len(members(group)[name]) > 10  # a description


SMALL_LOGS = ("cluster-tiny-random-v0",)  # the others draw thousands of instances
RECORDED = [
    pytest.param(name, marks=[] if name in SMALL_LOGS else pytest.mark.slow)
    for name in sorted(set(members("logs")) - {"imported"})
]


@pytest.mark.parametrize("name", RECORDED)
def test_every_log_has_the_instances_that_it_was_played_on(name: str) -> None:
    assert isinstance(next(iter(load("logs", name).instances())), Instance)


def test_the_baselines_are_the_rules_and_no_solver_is_chosen() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config")
    assert list(config.baselines) == list(rules())
    assert "solver" not in config


def test_without_arguments_it_lists_every_plug_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    for group in GROUPS:
        for name in members(group):
            assert f" {name} " in shown
    assert "python -m bench +solver=" in shown
    assert "\x1b" not in shown


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["+solver=sjff"], "solver=sjff: unknown. Did you mean sjf"),
        (["+solver=sjf", "dataset=smal"], "Did you mean small?"),
        (["+solver=sjf", "budget=quik"], "Did you mean quick?"),
        (["+solver=sjf", "tracking=of"], "Did you mean off?"),
        (["dataset=tiny"], "solver: missing; type +solver=NAME, one of a2c, a3c, allox"),
        (["+solver=sjf", "sead=1"], "sead: unknown. Did you mean seed?"),
        (["+solver=sjf", "+sead=1"], "sead: unknown. Did you mean seed?"),
        (["+solver=sjf", "solver.skp=true"], "solver.skp: unknown. Did you mean skip?"),
        (["+solver=sjf", "+solver.skp=true"], "solver.skp: unknown. Did you mean skip?"),
        (["+solver=sjf", "+dataset.agent=2"], "dataset.agent: unknown. Did you mean agents"),
        (["+solver=sjf", "solver.skip=maybe"], "solver.skip: true or false is needed, got 'maybe'"),
        (["+solver=sjf", "seed=one"], "seed: an integer is needed, got 'one'"),
        (["+solver=sjf", "seed=-1"], "seed: must not be negative"),
        (["+solver=sjf", "budget.seconds=soon"], "budget.seconds: a number is needed, got 'soon'"),
        (["+solver=sjf", "budget.seconds=0"], "budget.seconds: a positive number is needed"),
        (["+solver=sjf", "split=tset"], "Did you mean test?"),
        (["+solver=sjf", "track=onlin"], "track: 'onlin' must be one of"),
        (
            ["+solver=lagrangian", "dataset=tiny"],
            "track: lagrangian solves assign only, and this is schedule",
        ),
        (["+solver=sjf", "backfill=easy"], "backfill: easy needs mode=commit"),
        (["+solver=sjf", "seed=["], "seed=[: "),
        (["+solver=sjf", "seed=0,1"], "add --multirun"),
        (["+solver=sjf", "baselines=[sjff]"], "baselines[0]: sjff: unknown. Did you mean sjf"),
        (["+solver=cpsat", "track=online"], "cpsat plans with the future known"),
        (
            ["+solver=sjf", "dataset=swf", "dataset.path=missing.swf"],
            "missing.swf: does not exist. Needed:",
        ),
        (["+solver=sjf", "dataset.load=3"], "dataset.hashes.test: pinned"),
        (
            ["+solver=sjf", "solver._target_=solvers.rules.SJFF"],
            "solvers.rules.SJFF cannot be imported",
        ),
        (["+solver=bc"], "logs: this solver learns from logs; type logs=NAME, one of cluster-"),
        (["+solver=bc", "logs=imported"], "logs.path: give the file"),
        (["+solver=bc", "logs=imported", "logs.path=no.csv"], "logs.path: no.csv does not exist"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    base = ["dataset=tiny", "tracking=off"]
    given = {text.split("=")[0] for text in arguments}
    assert cli.main([*(text for text in base if text.split("=")[0] not in given), *arguments]) == 2
    shown = capsys.readouterr()
    assert expected in shown.err
    assert shown.err.count("\n") == 1
    assert not (place / "work" / "runs").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            '{"duration": [[NaN]], "demand": [[[1]]], "capacity": [[1]], "agent_type": [0]}',
            "duration[0, 0]: nan",
        ),
        (
            '{"duration": [[-3]], "demand": [[[1]]], "capacity": [[1]], "agent_type": [0]}',
            "duration[0, 0]: -3",
        ),
        (
            '{"duration": [[3]], "demand": [[[2]]], "capacity": [[1]], "agent_type": [0]}',
            "no agent can run task 0",
        ),
        ('{"duration": [[3]], "dem', "cut short"),
        ("\x00\x01", "JSON"),
    ],
)
def test_a_bad_instance_file_is_one_line_and_status_2(
    content: str, expected: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "bad.json").write_text(content)
    assert (
        cli.main(["+solver=sjf", "dataset=file", f"dataset.path={place}/bad.json", "tracking=off"])
        == 2
    )
    error = capsys.readouterr().err
    assert "bad.json" in error
    assert expected in error
    assert error.count("\n") == 1


def test_a_class_that_is_no_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="dataset: SJF is no data set; derive it from Dataset"):
        jobs._load('{"_target_": "solvers.rules.SJF"}', "test")


def test_an_error_of_a_constructor_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*mine(place), "+solver=picky", *QUICK]) == 2
    assert capsys.readouterr().err == "solver: ValueError: level 1 will not do\n"


def test_a_trained_policy_needs_no_log(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["+solver=bc", "solver.checkpoint=no.pt", *QUICK]) == 2
    assert capsys.readouterr().err.startswith("solver.checkpoint: no.pt does not exist")


def test_in_a_sweep_options_of_a_swept_group_may_be_set(place: Path) -> None:
    assert cli.main([*mine(place), "-m", "+solver=sjf,ljf", "solver.skip=false", *QUICK]) == 0
    configs = [OmegaConf.load(path) for path in (place / "work").glob("runs/*/*/config.yaml")]
    assert [config.solver.skip for config in configs] == [False] * 2


def test_all_rows_of_a_sweep_are_scored_against_the_same_references(place: Path) -> None:
    """Nothing is known at first, so that each job may find a better schedule than those before."""
    nothing = ["reference.shipped=false", "reference.seconds=0", "baselines=[]"]
    sweep = ["-m", "+solver=ljf,fifo,sjf", *QUICK, *nothing]
    assert cli.main(sweep) == 0
    folders = {path.name.split("-")[0]: path for path in (place / "work/runs/tiny").iterdir()}
    tables = {
        name: pandas.read_parquet(path / "instances.parquet") for name, path in folders.items()
    }
    best = pandas.DataFrame({name: table["objective"] for name, table in tables.items()}).min(
        axis=1
    )
    for name, table in tables.items():
        assert table["reference"].tolist() == best.tolist()
        share = (table["random"] - table["objective"]) / (table["random"] - best)
        assert table["score"].tolist() == pytest.approx((100 * share).tolist())
        record = read_json(folders[name] / "result.json")
        assert record["score"] == pytest.approx(table["score"].mean())
    stored = [read_json(path) for path in (place / "work" / "runs" / "sweeps").rglob("[0-2].json")]
    scores = {one["solver"]: one["score"] for one in stored}
    assert scores == {name: pytest.approx(table["score"].mean()) for name, table in tables.items()}
    assert len({round(score, 6) for score in scores.values()}) > 1
    before = [path.read_text() for path in (place / "work" / "runs").rglob("result.json")]
    assert cli.main(sweep) == 0
    assert before == [path.read_text() for path in (place / "work" / "runs").rglob("result.json")]


def test_a_sweep_cannot_be_shown_as_one_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-m", "+solver=sjf,ljf", "--cfg", "job"]) == 2
    assert capsys.readouterr().err.startswith("--multirun: ")


def test_another_configuration_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--config-name", "mine", "+solver=sjf"]) == 2
    assert capsys.readouterr().err.startswith("--config-name, --config-path: the suite has one")


def test_old_names_may_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["+solver=ppo", "solver.lam=0.9", "--cfg", "job"]) == 0
    shown = capsys.readouterr()
    assert "gae_lambda: 0.9" in shown.out
    assert "renamed; write solver.gae_lambda=0.9" in shown.err


def test_in_a_sweep_bad_input_is_found_before_any_job_starts(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["-m", "+solver=sjf", "dataset=tiny,swf", "tracking=off"]) == 2
    assert cli.main(["-m", "+solver=sjf,ljf", "+solver.skp=true", "tracking=off"]) == 2
    shown = capsys.readouterr()
    assert "dataset.path: no file was given" in shown.err
    assert not (place / "work" / "runs").exists()


def test_another_package_called_datasets_is_an_error_that_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = place / "other" / "datasets"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(other.parent))
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    with pytest.raises(UserError, match="not the suite's own package"):
        own_packages()


# -- old names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "option", "expected"),
    [
        (["+solver=ppo", "solver.lam=0.9"], "solver.gae_lambda", 0.9),
        (["+solver=ppo", "solver.rounds=1"], "solver.message_passing_rounds", 1),
        (["+solver=ppo_taught", "solver.imitation.together=8"], "solver.imitation.num_envs", 8),
        (["+solver=sjf", "events=singly"], "event_order", "sequential"),
        (["+solver=sjf", "ship=false"], "update_references", False),
    ],
)
def test_old_names_are_accepted_with_a_notice(
    old: list[str], option: str, expected: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    new = configuration.current_overrides(old, None)
    (config,) = configuration.composed(argument_parser().parse_args(new))
    assert OmegaConf.select(config, option) == expected
    notices = capsys.readouterr().err.splitlines()
    assert (
        f"{old[-1]}: renamed; write {new[-1]} (the old name ends with the next version)" in notices
    )
    assert len(notices) == sum(one not in new for one in old)


def test_an_old_name_that_a_plug_in_has_itself_is_not_translated(place: Path) -> None:
    folder = place / "plug" / "conf" / "solver"
    (folder / "slow.yaml").write_text("# mine\n_target_: my_plugin.Slow\nrounds: 1.0\n")
    given = ["+solver=slow", "solver.rounds=0.5"]
    assert configuration.current_overrides(given, str(folder.parent)) == given


def test_old_names_in_a_users_own_yaml_are_accepted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "defaults: [ppo, _self_]\nenvs: 8\nimitation:\n  _target_: solvers.imitation.Imitation\n"
    teacher = "  teacher: {_target_: solvers.rules.SJF}\n  lessons: file.json\n"
    (place / "plug" / "conf" / "solver" / "mine.yaml").write_text(f"# mine\n{own}{teacher}")
    flags = argument_parser().parse_args([*mine(place), "+solver=mine"])
    (config,) = configuration.composed(flags)
    assert config.solver.num_envs == 8
    assert "envs" not in config.solver
    assert config.solver.imitation["_target_"] == "solvers.rl.imitation.Imitation"
    assert config.solver.imitation.demonstrations == "file.json"
    assert capsys.readouterr().err.count("renamed; write") == 3


def test_a_sweep_over_an_old_name_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["-m", "+solver=sjf", "events=singly,together", *QUICK]
    assert cli.main(sweep) == 0
    orders = {
        OmegaConf.load(path).event_order for path in (place / "work").glob("runs/*/*/config.yaml")
    }
    assert orders == {"sequential", "batched"}
    assert "renamed; write event_order=sequential,batched" in capsys.readouterr().err


# -- runs ----------------------------------------------------------------------------------------


def test_a_run_ends_in_a_table_against_reference_rules_and_random_play(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["solver=sjf", "dataset=tiny", "tracking=off", "baselines=[fifo,ljf]"]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert [
        name
        for name in ("certified optimum", "random play", "sjf", "fifo", "ljf")
        if not any(name in x for x in lines)
    ] == []
    for column in (
        "objective",
        "gap",
        "score",
        "feasible",
        "mean JCT",
        "p99 JCT",
        "util.",
        "latency p50",
        "wall",
    ):
        assert column in shown
    assert "\x1b" not in shown
    record = records(place / "work")["sjf-0"]
    assert f"{record['score']:.1f}" in next(line for line in lines if "→" in line)
    assert record["reference_proved"] == 1.0
    assert not (place / "work" / "mlflow.db").exists()
    assert (place / "cache" / "baselines" / "tiny").is_dir()


@pytest.mark.slow
def test_the_card_of_a_log_holds_the_command_that_makes_it_again(place: Path) -> None:
    rows = [f"{60 * k},{60 * k + 30},{60 * k + 900 + 60 * (k % 3)},n{k % 2},1,4" for k in range(24)]
    (place / "log.csv").write_text("\n".join(["submit,start,end,agent,gpu,cpu", *rows]))
    agents = "logs.agents=[{name: n0, gpu: 9, cpu: 40}, {name: n1, gpu: 9, cpu: 40, speed: 2}]"
    mine = [
        "logs=imported",
        f"logs.path={place}/log.csv",
        agents,
        "logs.name=mine-v0",
        "logs.jobs=4",
        "logs.reject=0",
    ]
    short = ["solver.steps=10", "solver.candidates=1", "solver.fqe_steps=5", *QUICK]
    assert cli.main(["+solver=bc", *mine, *short]) == 0
    cards = [place / "cache" / "logs" / "mine-v0" / "CARD.md"]
    command = shlex.split(cards[0].read_text().split("command: `")[1].split("`")[0])
    assert command == ["python", "-m", "bench", "+solver=bc", *mine]
    cards.append(place / "again" / "logs" / "mine-v0" / "CARD.md")
    assert cli.main([*command[3:], *short, f"cache={place}/again", "rerun=true"]) == 0
    assert cards[0].read_text() == cards[1].read_text()


def test_your_own_instances_run_without_a_configuration_of_their_own(place: Path) -> None:
    problem = Instance([[2], [4]], [[[1]], [[1]]], [[1]], [0], name="mine")
    write_json(place / "mine.json", [problem.to_dict()])
    arguments = [
        "+solver=cpsat",
        "dataset=file",
        f"dataset.path={place}/mine.json",
        "tracking=off",
        "baselines=[]",
    ]
    assert cli.main(arguments) == 0
    record = records(place / "work")["cpsat-0"]
    assert (record["objective_mean"], record["gap_mean"], record["score"], record["optimal"]) == (
        8.0,
        0.0,
        100.0,
        1.0,
    )


def test_budget_sharing_is_the_assign_track_by_itself(place: Path) -> None:
    assert (
        cli.main(["+solver=eft", "dataset=seed_example_budget", "tracking=off", "baselines=[]"])
        == 0
    )
    assert records(place / "work")["eft-0"]["track"] == "assign"


@pytest.mark.parametrize(
    ("observe", "expected"), [("auto", "online"), ("all", "clairvoyant"), ("arrived", "online")]
)
def test_the_information_is_recorded(place: Path, observe: str, expected: str) -> None:
    assert cli.main(["+solver=sjf", *QUICK, f"observe={observe}"]) == 0
    assert records(place / "work")["sjf-0"]["information"] == expected


def test_a_run_that_crashes_is_a_row_and_status_1(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*mine(place), "+solver=crash", *QUICK]) == 1
    assert "RuntimeError: out of luck" in capsys.readouterr().out
    assert records(place / "work")["crash-0"]["status"] == "failed"


def test_a_sweep_continues_after_a_bad_job_and_is_one_parent_run(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = [
        *mine(place),
        "-m",
        "+solver=sjf,crash",
        *QUICK,
        "tracking=local",
        "tracking.system_metrics=false",
    ]
    assert cli.main(sweep) == 1
    shown = capsys.readouterr().out
    assert "2 jobs, 1 failed" in shown
    assert "RuntimeError: out of luck" in shown
    first = records(place / "work")
    assert {name: record["status"] for name, record in first.items()} == {
        "sjf-0": "finished",
        "crash-0": "failed",
    }
    assert cli.main(sweep) == 1
    assert records(place / "work")["sjf-0"] == first["sjf-0"]  # not run again
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{place}/work/mlflow.db")
    experiment = client.get_experiment_by_name("dl-scheduling-bench")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["role"] == "sweep"]
    children = [run for run in runs if run.data.tags["role"] == "run"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert sorted(run.info.status for run in children) == ["FAILED", "FINISHED"]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {"jobs": 2.0, "failed": 1.0}


@pytest.mark.slow
def test_a_killed_sweep_resumes_to_the_rows_of_an_uninterrupted_one(place: Path) -> None:
    sweep = [*mine(place), "-m", "+solver=slow", "seed=0,1,2", *QUICK, "baselines=[]"]
    (place / "uninterrupted").mkdir()
    os.chdir(place / "uninterrupted")
    assert cli.main([*sweep]) == 0
    os.chdir(place / "work")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(place / "plug"), str(CONF.parent), *sys.path]),
        "SLOW_SECONDS": "0.3",
    }
    job = subprocess.Popen(
        [sys.executable, "-m", "bench", *sweep], env=environment, stdout=subprocess.DEVNULL
    )
    while len(list((place / "work").glob("runs/*/slow-s1-*/progress.jsonl"))) < 1:
        assert job.poll() is None
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    killed = list((place / "work").glob("runs/*/*/result.json"))
    assert len(killed) == 1  # the second of three jobs was under way
    assert (
        subprocess.run(
            [sys.executable, "-m", "bench", *sweep], env=environment, capture_output=True
        ).returncode
        == 0
    )
    uninterrupted, again = tables(place / "uninterrupted"), tables(place / "work")
    assert list(uninterrupted) == list(again)
    assert len(uninterrupted) == 3
    for name, table in uninterrupted.items():
        pandas.testing.assert_frame_equal(table, again[name])
