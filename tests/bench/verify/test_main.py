"""The command on an instance and a schedule: exit status and messages."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.verify.__main__ import main
from tests.bench.verify.examples import GOOD, changed, schedule_of, three_tasks

Files = tuple[str, str]  # instance, schedule


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A feasible schedule and its instance."""
    three_tasks().write(tmp_path / "instance.json.gz")
    schedule_of(*GOOD).write(tmp_path / "schedule.json")
    return str(tmp_path / "instance.json.gz"), str(tmp_path / "schedule.json")


def test_feasible_schedule(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--objective", "makespan"]) == 0
    out = capsys.readouterr().out
    assert "objective (makespan): 9\n" in out
    assert re.search(r"jct_mean +4\.666666667\n", out)
    assert re.search(r"qos_violation_rate +missing\n", out)
    assert out.endswith("feasible\n")


def test_infeasible_schedules(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    changed(0, 0, 0, 3).write(files[1])
    assert main(list(files)) == 1
    assert "runs 3 ticks, its duration there is 4" in capsys.readouterr().out
    # An index that does not exist is a violation; the objective is computed without the piece.
    schedule_of(*GOOD, (9, 9, 20, 24)).write(files[1])
    assert main(list(files)) == 1
    assert "piece 3: task 9 on agent 9 does not exist" in capsys.readouterr().out
    schedule_of(*GOOD[1:]).write(files[1])
    assert main(list(files)) == 1
    assert "unassigned tasks penalised" in capsys.readouterr().out


INSTANCE_JSON = b'{"duration": [[2]], "demand": [[[1]]], "capacity": [[1]], "agent_type": [0]}'
INSTANCE_GZIP = gzip.compress(INSTANCE_JSON, mtime=0)
SCHEDULE_JSON = json.dumps(schedule_of(*GOOD).to_dict()).encode()


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("schedule", b"not json", "not readable as JSON"),
        ("schedule", SCHEDULE_JSON[:-9], "may be cut short"),
        (
            "schedule",
            SCHEDULE_JSON.replace(b"[0, 1, 2]", b"[0, 1, NaN]", 1),
            "task[2]: nan must be a number",
        ),
        (
            "schedule",
            SCHEDULE_JSON.replace(b"[0, 1, 2]", b"[0, 1, -2]", 1),
            "task[2]: must not be negative",
        ),
        (
            "schedule",
            SCHEDULE_JSON.replace(b'"schema": 1', b'"schema": 2'),
            "schema: 2 is newer than 1",
        ),
        ("schedule", b"[1, 2]", "a JSON object is needed"),
        ("schedule", b'{"task": [0]}', "agent: missing"),
        ("instance", b"\x1f\x8b\x08\x00\x00", "may be cut short"),
        (
            "instance",
            INSTANCE_JSON.replace(b"[[2]]", b"[[NaN]]"),
            "duration[0, 0]: nan must be a number",
        ),
        ("instance", b'{"duration": [[1]]}', "demand: missing"),
        ("instance", b"[" * 100_000, "recursion"),
        (
            "instance",
            INSTANCE_JSON[:-1] + b', "resources": 5}',
            "resources: a list of names is needed",
        ),
        ("instance", INSTANCE_GZIP[:12] + b"\xff" + INSTANCE_GZIP[13:], "not readable as JSON"),
    ],
)
def test_unreadable_file_is_a_one_line_error(
    files: Files, file: str, content: bytes, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(files[0 if file == "instance" else 1]).write_bytes(content)
    assert main(list(files)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert expected in captured.err


def test_missing_file_and_objective_that_the_instance_lacks(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([files[0], files[1] + ".absent"]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main([*files, "--objective", "tardiness"]) == 2
    assert "due dates" in capsys.readouterr().err


def test_module_returns_the_exit_status(files: Files) -> None:
    command = [sys.executable, "-m", "bench.verify"]
    assert subprocess.run([*command, *files], check=False, capture_output=True).returncode == 0
    missing = subprocess.run(
        [*command, files[0], "nowhere.json"], check=False, capture_output=True, text=True
    )
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: nowhere.json")
    shown = subprocess.run([*command, "--help"], check=True, capture_output=True, text=True).stdout
    assert "exit status" in shown
