"""The command keeps the runs that it collected in its data file and writes the page."""

import hashlib

import pytest

from bench.instance import read_json, write_json
from bench.offline_report.__main__ import main
from bench.offline_report.page import measured
from bench.offline_report.runs import (
    PROBLEM,
    add_labels,
    group_by,
    is_offline,
    under_current_names,
    with_gaps,
)
from bench.offline_report.tables import gap_table
from bench.references import SHIPPED as REFERENCES
from tests.bench.offline_report.sample import RESULTS, sample_run, write_run

FINISHED = {"status": "finished", "objective": "total_time"}


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
    write_run(files[0] / "small" / "cql-s0-x", {**new, **FINISHED})
    assert run_command(files) == 0
    kept = read_json(files[1])
    assert [run for run in kept if run["solver"] == "bc"] == stored
    assert [run["objectives"] for run in kept if run["solver"] == "cql"] == [[1234, None]]
    assert "from 3 runs" in files[2].read_text()


def test_stored_objectives_without_their_instances_are_refused(files, capsys):
    write_json(files[1], [sample_run(objectives=[1, 2], instances=["0" * 64], objective="x")])
    files[0].mkdir()
    assert run_command(files) == 2
    assert "holds no runs that this program collected" in capsys.readouterr().err


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
    runs = [under_current_names(run) for run in read_json(RESULTS / "offline.json.gz")]
    assert len(runs) == 415
    values = {
        dict(zip(PROBLEM, key, strict=True))["event_order"] for key in group_by(runs, *PROBLEM)
    }
    assert values == {"batched"}


def test_the_shipped_page_agrees_with_its_data_and_the_references_shipped_now():
    """After a change of either, run the command that the page names in its second line."""
    shown = (RESULTS / "offline.md").read_text().splitlines()
    runs = [with_gaps(under_current_names(run)) for run in read_json(RESULTS / "offline.json.gz")]
    assert measured(runs) in shown
    sections = [add_labels(members) for members in group_by(runs, *PROBLEM).values()]
    assert len(sections) == 2
    for members in sections:
        offline = [run for run in members if is_offline(run)]
        others = [run for run in members if not is_offline(run)]
        start = shown.index(f"## {members[0]['dataset']}")
        expected = gap_table(offline, others)
        first = shown.index(expected[0], start)
        assert shown[first : first + len(expected)] == expected


def test_the_shipped_page_names_its_references():
    for name in ("small", "medium"):
        file = REFERENCES / f"{name}.json"
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        date = read_json(file)["date"]
        line = f"Gap to the bounds of {file.name} (total_time) of {date}, SHA-256 {digest}, "
        assert line in (RESULTS / "offline.md").read_text()


@pytest.mark.slow
def test_the_shipped_page_is_that_of_the_shipped_data(tmp_path):
    page = tmp_path / "offline.md"
    data = RESULTS / "offline.json.gz"
    nothing = tmp_path / "runs"
    nothing.mkdir()
    assert main(["--runs", str(nothing), "--data", str(data), "--page", str(page)]) == 0
    made = page.read_text().splitlines()
    shown = (RESULTS / "offline.md").read_text().splitlines()
    assert [line for line in made if not line.startswith("Written by")] == [
        line for line in shown if not line.startswith("Written by")
    ]
