"""The published tables: they agree with their records and today's references, or say their date."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import result_tables
from bench.errors import UserError
from bench.instance import read_json
from bench.json_content import one_row_a_line
from bench.references import SHIPPED, stored_gaps
from bench.result_tables import PAGE, RESULTS, add, gaps, main, rendered, table
from tests.bench.stored_runs import honest

ROOT = Path(__file__).parents[2]
STORED = read_json(RESULTS / "planners.json")


def test_every_table_agrees_with_its_records_and_the_references_shipped_now() -> None:
    """After a change of either: `python -m bench.result_tables`."""
    text = PAGE.read_text()
    assert "<!-- planners -->" in text
    assert rendered(text, RESULTS) == text


def test_every_other_table_says_when_it_was_measured() -> None:
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.M)[1:]
    with_tables = [text for text in sections if re.search(r"^\|---", text, re.M)]
    assert len(with_tables) >= 9
    for text in with_tables:
        dated = re.search(r"^Measured 2\d\d\d-\d\d-\d\d.*not recomputed since", text, re.M)
        assert dated or "<!-- end -->" in text, text.splitlines()[0]


def test_the_planner_is_better_than_every_rule() -> None:
    for name, instances in STORED["sets"].items():
        rows = [row for row in STORED["rows"] if row["dataset"] == name]
        means = {row["solver"]: float(np.mean(gaps(row, instances["hashes"]))) for row in rows}
        assert len(means) > 16
        assert min(means, key=lambda solver: means[solver]) == "cpsat_rolling"


def test_the_rules_in_readme_are_those_of_the_records() -> None:
    shown = (ROOT / "README.md").read_text()
    hashes = STORED["sets"]["small"]["hashes"]
    rows = {row["solver"]: row for row in STORED["rows"] if row["dataset"] == "small"}
    for solver in ("sufferage", "min_min"):
        row = rows[solver]
        objective, gap = np.mean(row["objectives"]), np.mean(gaps(row, hashes))
        assert re.search(rf"^ +{solver} +online +{objective:,.5g} +{gap:.2%} ", shown, re.M)


def test_the_records_have_the_form_in_which_they_are_written() -> None:
    assert one_row_a_line(STORED, "rows") == (RESULTS / "planners.json").read_text()


def test_another_reference_is_another_table(monkeypatch: pytest.MonkeyPatch) -> None:
    known = stored_gaps.shipped_reference

    def lower(digest: str, objective: str) -> Any:
        reference = known(digest, objective)
        return type(reference)(reference.objective, 0.9 * reference.bound)

    before = table(STORED)
    monkeypatch.setattr(stored_gaps, "shipped_reference", lower)
    assert table(STORED) != before


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(PAGE, tmp_path / "README.md")
    shutil.copy(RESULTS / "planners.json", tmp_path)
    monkeypatch.setattr(result_tables, "PAGE", tmp_path / "README.md")
    monkeypatch.setattr(result_tables, "RESULTS", tmp_path)
    return tmp_path


def test_the_command_notices_and_mends_a_changed_figure(copy: Path) -> None:
    page = copy / "README.md"
    good = page.read_text()
    assert main(["--check"]) == 0
    page.write_text(good.replace("| cpsat_rolling | online |", "| cpsat_rolling | told |"))
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert page.read_text() == good


def test_other_instances_are_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = read_json(copy / "planners.json")
    data["sets"]["small"]["hashes"][0] = "0" * 64
    (copy / "planners.json").write_text(json.dumps(data))
    assert main([]) == 2
    assert "small: the stored instances hash to" in capsys.readouterr().err


def test_a_run_that_does_not_verify_is_not_added(tmp_path: Path) -> None:
    honest(tmp_path / "run", objective_mean=1.0)
    with pytest.raises(UserError, match="objective_mean 1 recorded, its own table has 9"):
        add(tmp_path / "t.json", [tmp_path / "run"])
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--add", "../x", "."], "--add: value '../x': must consist of letters"),
        (["--add", "x", "nowhere"], "nowhere/result.json: No such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], line: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown.startswith(line)
    assert sorted(path.name for path in copy.iterdir()) == ["README.md", "planners.json"]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_file_has_its_date(path: Path) -> None:
    assert re.fullmatch(r"2\d\d\d-\d\d-\d\d", read_json(path)["date"])
