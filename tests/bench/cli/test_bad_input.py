"""Command lines of bad input: one line that names the field, exit status 2, nothing written.

The lines are in bad_lines.py.
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import bench.__main__ as cli
from bench.cli import configuration
from bench.cli.hydra_private import argument_parser
from bench.cli.report import COMPILING
from bench.instance import Instance, write_json
from tests.bench.cli.bad_lines import EVERY, LATE, PROGRAMS, Table

BASE = ("+solver=sjf", "dataset=tiny", "tracking=off", "baselines=[]")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a text file, an empty folder and an instance; no cache beside it."""
    work = tmp_path / "work"
    (work / "DIR").mkdir(parents=True)
    (work / "FILE").write_text("hello\n")
    problem = Instance([[2], [4]], [[[1]], [[1]]], [[1]], [0], name="mine")
    write_json(work / "instances.json", [problem.to_dict()])
    monkeypatch.chdir(work)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path


def listed(folder: Path) -> list[str]:
    """Every file and folder below `folder`."""
    return sorted(str(path) for path in folder.rglob("*"))


def arguments(line: str) -> list[str]:
    """The arguments of a command line of a table."""
    given = shlex.split(line.replace("LONG", "x" * 5000))
    replaced = {text.lstrip("+~").split("=")[0] for text in given}
    base = [text for text in BASE if text.lstrip("+").split("=")[0] not in replaced]
    return [*base, *given]


def test_the_tables_hold_enough_different_lines() -> None:
    lines = [line for line, _ in [*EVERY, *PROGRAMS]]
    assert len(set(lines)) >= 250
    assert len([line for line in lines if lines.count(line) > 1]) <= 2  # one rule each


REPRESENTATIVES = 2  # of the lines that break one rule, in the default tests


def rule(expected: str) -> str:
    """The rule that a line breaks: its message without the field in front and the value behind."""
    message = re.sub(r"^\^[^ ]*: ", "", expected)
    return re.split("got|;", message)[0] or expected


def cases(table: Table) -> Iterator[Any]:
    """The lines of a table; after the first ones of a rule they are slow tests."""
    seen: Counter[str] = Counter()
    for line, expected in table:
        seen[rule(expected)] += 1
        slow = [pytest.mark.slow] if seen[rule(expected)] > REPRESENTATIVES else []
        yield pytest.param(line, expected, id=line[:60], marks=slow)


@pytest.mark.parametrize(("line", "expected"), cases(EVERY))
def test_bad_input_is_one_line_that_names_the_field(
    line: str, expected: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = listed(place)
    assert cli.main(arguments(line)) == 2
    shown = capsys.readouterr()
    assert re.search(expected, shown.err, re.MULTILINE)
    notices = shown.err.count("renamed; write")
    assert shown.err.count("\n") == 1 + notices
    assert len(shown.err) < 1500
    assert "Traceback" not in shown.err + shown.out
    assert listed(place) == before


@pytest.mark.parametrize(("line", "expected"), LATE)
def test_what_only_a_run_finds_out_is_one_line_too(
    line: str, expected: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(line)) == 2
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if not line.startswith(COMPILING)]
    assert len(lines) == 1
    assert re.search(expected, lines[0])
    assert "Traceback" not in shown.err + shown.out
    work = {path.name for path in (place / "work").iterdir()}
    assert work <= {"FILE", "DIR", "instances.json", "runs"}
    assert {path.name for path in place.iterdir()} <= {"work", "cache"}


# -- other programs ------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "expected"), PROGRAMS, ids=[line[:60] for line, _ in PROGRAMS])
def test_every_program_says_in_one_line_what_is_wrong(
    line: str, expected: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *given = shlex.split(line.replace("LONG", "x" * 5000))
    module = "bench.leaderboard" if name == "leaderboard" else f"bench.{name}.__main__"
    before = listed(place)
    try:
        status = importlib.import_module(module).main(given)
    except SystemExit as end:
        status = end.code
    shown = capsys.readouterr()
    assert status == 2
    assert re.search(expected, shown.err)
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err + shown.out
    assert listed(place) == before


# -- legal lines ---------------------------------------------------------------------------------


def composed(line: str) -> list[Any]:
    """The checked configuration of every job of a command line."""
    flags = argument_parser().parse_intermixed_args(arguments(line))
    return configuration.composed(flags)


@pytest.mark.parametrize(
    ("line", "field", "expected"),
    [
        ("seed=0 seed=2", "seed", [2]),
        ("++seed=3", "seed", [3]),
        ("-m seed=range(0,3)", "seed", [0, 1, 2]),
        ("-m seed=0,1 split=test", "seed", [0, 1]),
        ("~logs", "logs", [None]),
        ("+solver=sjf solver={skip:false}", "solver.skip", [False]),
        ("+dataset.seed=3", "dataset.seed", [3]),
        ("reference.seconds=0", "reference.seconds", [0]),
        ("reference.seconds=2.5", "reference.seconds", [2.5]),
        ("budget.seconds=1", "budget.seconds", [1]),
        ("cache=null", "cache", [None]),
        ("dataset={load:1.0}", "dataset.load", [1.0]),
        ("dataset.name=a.b-c_d+1", "dataset.name", ["a.b-c_d+1"]),
        (
            "dataset=swf '++dataset.splits={test:{jobs:1,starts:[0]}}'",
            "dataset.splits.test.starts",
            [[0]],
        ),
    ],
)
def test_legal_lines_do_what_they_say(
    line: str, field: str, expected: list[Any], place: Path
) -> None:
    assert [OmegaConf.select(config, field) for config in composed(line)] == expected


def test_a_sweep_over_a_pattern_names_every_file_that_matches(place: Path) -> None:
    configs = composed("-m '+solver=glob([s*,w*],exclude=[sac,self*,*published])'")
    names = [config.hydra.runtime.choices.solver for config in configs]
    assert names == ["sjf", "sufferage", "wfp3", "wspt"]
    own = place / "mine"
    (own / "solver").mkdir(parents=True)
    for name in ("zz_one", "zz_two"):
        (own / "solver" / f"{name}.yaml").write_text("# mine\n_target_: solvers.rules.SJF\n")
    configs = composed(f"-m '+solver=glob(zz*)' --config-dir {own}")
    assert [config.hydra.runtime.choices.solver for config in configs] == ["zz_one", "zz_two"]


def test_a_sweep_over_a_pattern_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["dataset.test=1", "~dataset.hashes"]
    line = arguments("-m '+solver=glob([s*,w*],exclude=[sac,self*,*published])'")
    assert cli.main([*line, *quick]) == 0
    shown = capsys.readouterr().out
    assert "4 jobs, 0 failed" in shown
    assert all(name in shown for name in ("sjf", "sufferage", "wfp3", "wspt"))


def test_a_solver_with_a_defaults_list_may_be_a_baseline(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["dataset.test=1", "~dataset.hashes", "baselines=[local_search]"]
    base = [text for text in arguments("budget=quick") if not text.startswith("baselines")]
    assert cli.main([*base, *quick]) == 0
    assert "local_search" in capsys.readouterr().out


# -- runs that fail ------------------------------------------------------------------------------

PLUGINS = """
import sys
from solvers.rules import SJF

class Leaves(SJF):
    def act(self, observation, rng):
        sys.exit(0)

class LeavesAtOnce(SJF):
    def __init__(self):
        sys.exit(0)
"""


@pytest.fixture
def plugins(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags that add two plug-ins which end the process, in act and when they are built."""
    folder = place / "mine"
    (folder / "solver").mkdir(parents=True)
    (folder / "leaving_plugins.py").write_text(PLUGINS)
    for name, target in (("leaves", "Leaves"), ("leaves_at_once", "LeavesAtOnce")):
        yaml = f"# mine\n_target_: leaving_plugins.{target}\n"
        (folder / "solver" / f"{name}.yaml").write_text(yaml)
    monkeypatch.syspath_prepend(str(folder))
    return ["--config-dir", str(folder), "dataset.test=1", "~dataset.hashes"]


def test_a_policy_that_ends_the_process_is_a_failed_row(
    plugins: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*plugins, *arguments("+solver=leaves")]) == 1
    shown = capsys.readouterr()
    assert "SystemExit: 0" in shown.out
    (traceback,) = Path("runs/tiny").glob("leaves-*/traceback.txt")
    assert "sys.exit(0)" in traceback.read_text()
    assert "Traceback" not in shown.out + shown.err


def test_a_sweep_continues_after_a_policy_that_ends_the_process(
    plugins: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*plugins, *arguments("-m +solver=leaves,sjf")]) == 1
    assert "2 jobs, 1 failed" in capsys.readouterr().out


def test_a_constructor_that_ends_the_process_is_bad_input(
    plugins: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*plugins, *arguments("+solver=leaves_at_once")]) == 2
    assert capsys.readouterr().err == "solver: SystemExit: 0\n"


def test_an_unexpected_error_outside_of_a_run_is_one_line_and_status_1(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: Any) -> int:
        raise ZeroDivisionError("over\ntwo lines")

    run: Callable[[Any], int] = broken
    monkeypatch.setattr("bench.cli.jobs.run_alone", run)
    assert cli.main(arguments("seed=0")) == 1
    expected = "ZeroDivisionError: over two lines (HYDRA_FULL_ERROR=1 shows the traceback)\n"
    assert capsys.readouterr().err == expected
