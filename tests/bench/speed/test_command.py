"""The command `python -m bench.speed`: options, tables and the record that it writes."""

import json

import pytest

from bench.errors import UserError
from bench.speed import __main__ as command
from bench.speed import exact, simulator


@pytest.fixture(autouse=True)
def keep_threads(monkeypatch):
    """Leave the numbers of threads of this process as they are."""
    monkeypatch.setattr(command, "limit_threads", lambda threads: None)


def test_command_prints_a_table_and_writes_a_record(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        simulator,
        "rows",
        lambda threads, rows=simulator.rows: rows(threads, environments=2, rounds=1),
    )
    monkeypatch.setattr(simulator, "GPU_ENVIRONMENTS", 2)
    file = tmp_path / "speed.json"
    assert command.main(["simulator", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "bench.speed simulator" in printed
    assert "torch eager" in printed
    record = json.loads(file.read_text())
    assert record["schema"] == 1
    assert {"date", "command", "hardware", "load_average", "versions", "git_commit"} <= set(record)
    rows = record["figures"]["simulator"]
    assert [(row["instances"], row["engine"]) for row in rows] == [
        ("poisson", "simulator"),
        ("poisson", "torch eager"),
        ("poisson", "simulator on the GPU"),
        ("at once", "simulator"),
        ("at once", "torch eager"),
        ("at once", "simulator on the GPU"),
        ("quotas", "simulator"),
        ("quotas", "simulator on the GPU"),
    ]
    on_cpu = [row for row in rows if row["engine"] != "simulator on the GPU"]
    assert all(row["decisions_per_second"] > 0 for row in on_cpu)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["simulater"], "'simulater' must be one of "),
        (
            ["exact", "--limt", "1"],
            "unrecognized arguments: --limt 1; python -m bench.speed exact --help",
        ),
        (["simulator", "--threads", "0"], "at least 1"),
        (
            ["simulator", "--json", "/no/such/folder/x.json"],
            "folder /no/such/folder does not exist",
        ),
    ],
)
def test_wrong_arguments_end_with_one_clear_error(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_options_are_the_parameters_with_a_number_or_string_as_default(capsys):
    def rows(threads, seconds=1.5, only="", count=3, done=()): ...

    options = command.parse_options("exact", rows, ["--seconds", "2", "--only", "x"])
    assert options == {"seconds": 2.0, "only": "x", "count": 3}
    with pytest.raises(SystemExit):
        command.parse_options("exact", rows, ["--done", "1"])
    message = "unrecognized arguments: --done 1; python -m bench.speed exact --help"
    assert message in capsys.readouterr().err


def test_file_keeps_earlier_rows_until_they_are_yielded_again(tmp_path, monkeypatch):
    rows = [{"row": i} for i in range(3)]
    file = tmp_path / "speed.json"
    command.write(file, "earlier", {"exact": rows[:2]})
    contents = []

    def interrupted(threads, done=()):
        yield from done
        contents.append(json.loads(file.read_text())["figures"]["exact"])
        yield rows[2]
        contents.append(json.loads(file.read_text())["figures"]["exact"])
        raise UserError("interrupted")

    monkeypatch.setattr(exact, "rows", interrupted)
    with pytest.raises(SystemExit):
        command.main(["exact", "--json", str(file)])
    assert contents == [rows[:2], rows]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), ("cpsat", "cpsat"), (0.012346, "0.01235"), (12, "12"), (12345.6, "12,346")],
)
def test_cells(value, text):
    assert command.cell(value) == text
