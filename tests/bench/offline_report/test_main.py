"""The command keeps the runs that it collected in its data file and writes the page."""

from pathlib import Path

import pytest

from bench.instance import read_json, write_json
from bench.offline_report.__main__ import main
from bench.offline_report.runs import PROBLEM, group_by, under_current_names
from tests.bench.offline_report.sample import sample_run, write_run

SHIPPED = Path(__file__).parents[3] / "bench" / "results"


@pytest.fixture
def files(tmp_path):
    """The folder of runs, the data file and the page."""
    return tmp_path / "runs", tmp_path / "offline.json.gz", tmp_path / "offline.md"


def run_command(files):
    runs, data, page = map(str, files)
    return main(["--runs", runs, "--data", data, "--page", page])


def test_without_offline_runs_nothing_is_written(files, capsys):
    assert run_command(files) == 2
    assert "is no folder; name the folder of finished runs" in capsys.readouterr().err
    assert not files[1].exists()
    assert not files[2].exists()


def test_the_data_file_is_unchanged_without_new_runs(files):
    files[0].mkdir()
    write_json(files[1], [sample_run(), sample_run(seed=1)])
    before = files[1].read_bytes()
    assert run_command(files) == 0
    assert files[1].read_bytes() == before
    assert "from 2 runs" in files[2].read_text()


def test_new_runs_are_added_to_the_data_file(files):
    stored = [sample_run(), sample_run(seed=1)]
    write_json(files[1], stored)
    new = {
        key: value for key, value in sample_run("cql").items() if key not in ("finished", "gaps")
    }
    write_run(files[0] / "small" / "cql-s0-x", {**new, "status": "finished"})
    assert run_command(files) == 0
    kept = read_json(files[1])
    assert [run for run in kept if run["solver"] == "bc"] == stored
    assert [run["gaps"] for run in kept if run["solver"] == "cql"] == [[0.25, None]]
    assert "from 3 runs" in files[2].read_text()


def test_runs_stored_under_former_names_are_read(files):
    files[0].mkdir()
    stored = [
        sample_run(events="together"),
        sample_run(events="singly", gaps=(0.5, 0.5)),
        sample_run("cql", events="together"),
    ]
    write_json(files[1], stored)
    assert run_command(files) == 0
    text = files[2].read_text()
    assert "## small\n" in text
    assert "## small event_order=sequential\n" in text
    assert text.index("| cql | 15.0 |") < text.index("## small event_order=sequential")
    assert "together" not in text


def test_the_shipped_data_has_only_runs_of_the_default_problem():
    runs = [under_current_names(run) for run in read_json(SHIPPED / "offline.json.gz")]
    assert len(runs) == 415
    values = {
        dict(zip(PROBLEM, key, strict=True))["event_order"] for key in group_by(runs, *PROBLEM)
    }
    assert values == {"batched"}


def test_the_shipped_page_says_against_which_bounds_its_gaps_are():
    shown = (SHIPPED / "offline.md").read_text()
    line = "Measured 2026-11-25 to 2026-11-26; not recomputed since: each gap is to the bound that"
    assert f"\n{line}" in shown


@pytest.mark.slow
def test_the_shipped_page_is_that_of_the_shipped_data(tmp_path):
    page = tmp_path / "offline.md"
    data = SHIPPED / "offline.json.gz"
    nothing = tmp_path / "runs"
    nothing.mkdir()
    assert main(["--runs", str(nothing), "--data", str(data), "--page", str(page)]) == 0
    made = page.read_text().splitlines()
    shown = (SHIPPED / "offline.md").read_text().splitlines()
    assert [line for line in made if not line.startswith("Written by")] == [
        line for line in shown if not line.startswith("Written by")
    ]
