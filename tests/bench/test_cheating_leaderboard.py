"""Attempts to get a better row on the leaderboard: each is refused, marked or without effect.

The runs are made by hand as the runner writes them, on the instances of `tiny` or on two of our
own. Random play and references are the suite's own here.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest

from bench import references
from bench.contracts import Budget
from bench.errors import UserError
from bench.instance import Instance, read_json, write_json
from bench.leaderboard import markdown, tables, write
from bench.metrics import objective
from bench.references import Reference, References
from bench.rollout import as_solver
from bench.run.recompute import FILES, recompute_run
from bench.run.record import check_facts
from bench.schedule import Schedule
from bench.setting import Setting
from bench.tracking import StoredRun
from datasets.seed_example import SeedExample
from solvers.matching import EFT
from tests.bench.run.test_runner import Off, Serial, job, run
from tests.bench.stored_runs import (
    PROBLEMS,
    RNG,
    Folders,
    board,
    honest,
    instance,
    known_optima,
    long_first,
    make_run,
    played,
    short_first,
)


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> References:
    """The suite's own cache: it knows the optimum 8 of both instances."""
    monkeypatch.setattr(references, "random_play", played)
    return known_optima(tmp_path / "cache")


def changed(run: StoredRun, **record: Any) -> StoredRun:
    """Return the run with fields of its record replaced."""
    path = Path(run.id) / "result.json"
    path.write_text(json.dumps({**read_json(path), **record}))
    return run


def without_json(run: StoredRun, text: str) -> StoredRun:
    (Path(run.id) / "result.json").write_text(text)
    return run


# -- numbers of quality: recomputed, whatever the record says --------------------------------------

UNUSED = {
    "a random baseline of its own": {"random": 1000.0},
    "a reference of its own": {"reference": 10.0, "reference_bound": 10.0},
    "a reference that is called proved": {"reference_proved": 1.0, "reference": 9.0},
    "a reference that is twice as large": {"reference": 16.0, "reference_bound": 16.0},
    "a score of its own": {"score": 468.0},
    "a gap of its own": {"gap": 0.0},
}


@pytest.mark.parametrize("attempt", UNUSED)
def test_has_no_effect(attempt: str, tmp_path: Path) -> None:
    run = honest(tmp_path / "a", table=UNUSED[attempt])
    (row,) = board(tmp_path, changed(run, score=100.0, gap_mean=0.0, reference_proved=1.0))
    zeros = [played(problem, Setting()).mean for problem in PROBLEMS]
    expected = (100 + 100 * (zeros[1] - 10) / (zeros[1] - 8)) / 2
    assert row["score"] == pytest.approx(expected)
    assert (row["gap_mean"], row["rank"]) == (pytest.approx(0.1), 1)


MISMATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "a solver that is no name": ({"solver": ["ppo"]}, "solver: ['ppo'] claimed"),
    "a solver name with control characters": ({"solver": "ppo\x1b[2J"}, "solver: "),
    "information that its setting does not have": (
        {"observe": "all", "information": "online"},
        "information: online claimed, but observe=all is clairvoyant",
    ),
    "the track online with everything observed": (
        {"track": "online", "observe": "all"},
        "observe: track=online shows arrived tasks only",
    ),
    "the track of other instances": ({"track": "assign"}, "track assign claimed"),
    "a negative seed": ({"seed": -1}, "seed: -1 claimed"),
    "a seed that is a text": ({"seed": "0"}, "seed: '0' claimed"),
    "negative seconds of training": ({"train_seconds": -5.0}, "train_seconds: -5.0 claimed"),
    "no seconds of solving": ({"solve_seconds": math.nan}, "solve_seconds: nan claimed"),
    "seconds beyond all floats": ({"solve_seconds": 10**400}, "an integer of more than 20 digits"),
    "a commit that is none": ({"git_commit": "main; rm -rf /"}, "git_commit: "),
    "another set hash": ({"set_hash": "0" * 64}, "set_hash 000"),
    "a set hash that is none": ({"set_hash": 5}, "set_hash: 5 claimed"),
    "a better mean": ({"objective_mean": 8.0}, "objective_mean 8 recorded"),
    "easier instances under the name tiny": (
        {"dataset": "tiny", "split": "test"},
        "these are not the instances of tiny, split test (set hash ",
    ),
    "an unknown split": ({"split": "easy"}, "split: 'easy' claimed"),
    "an unknown outcome of the check of non-anticipation": (
        {"non_anticipation": "passed"},
        "non_anticipation: 'passed' claimed",
    ),
    "a setting that does not exist": (
        {"mode": "fit", "backfill": "easy"},
        "backfill: easy needs mode=commit",
    ),
    "a setting that its instances do not have": (
        {"track": "assign", "mode": "commit"},
        "mode: track=assign has no clock",
    ),
    "isolation in other words": ({"isolated": "yes"}, "isolated: 'yes' claimed"),
    "an unknown mode": ({"mode": "free"}, "mode: 'free' claimed"),
}


@pytest.mark.parametrize("attempt", MISMATCHES)
def test_is_not_ranked_with(attempt: str, tmp_path: Path) -> None:
    change, said = MISMATCHES[attempt]
    cheat, rival = honest(tmp_path / "cheat"), honest(tmp_path / "rival", solver="rival")
    rows = {row["runs"][0]: row for row in board(tmp_path, changed(cheat, **change), rival)}
    row = rows[str(tmp_path / "cheat")]
    assert row["rank"] is None
    assert row["verified"].startswith("MISMATCH")
    assert said in row["verified"]
    assert rows[str(tmp_path / "rival")]["rank"] == 1


def test_the_instances_of_a_pinned_set_are_ranked(tmp_path: Path) -> None:
    problems = list(SeedExample("seed_example", "time").instances("test"))
    solver = as_solver(EFT())
    schedules = [solver.solve(p, Setting(), Budget(), RNG(0)).schedule for p in problems]
    values = [objective(p, s, "total_time") for p, s in zip(problems, schedules, strict=True)]
    names = {"dataset": "seed_example", "split": "test"}
    run = make_run(tmp_path / "a", schedules, values, problems=problems, **names)
    (row,) = board(tmp_path, run)
    assert (row["verified"], row["rank"]) == ("yes", 1)


# -- other rows ------------------------------------------------------------------------------------


def newer(run: StoredRun, **tags: str) -> StoredRun:
    return replace(run, started=run.started + 1000, tags={**run.tags, **tags})


def test_a_newer_run_with_the_key_of_a_rival_does_not_remove_its_row(tmp_path: Path) -> None:
    rival = replace(honest(tmp_path / "rival"), tags={"hardware": "2 cores", "key": "k"})
    worse = make_run(
        tmp_path / "worse", [long_first(p) for p in PROBLEMS], [10.0, 10.0], solver="mine"
    )
    claims = make_run(tmp_path / "claims", [long_first(p) for p in PROBLEMS], [10.0, 10.0])
    rows = board(tmp_path, newer(worse, key="k"), newer(claims, hardware="other", key="k"), rival)
    assert {str(row["runs"][0]).rpartition("/")[2]: row["objective_mean"] for row in rows} == {
        "rival": 9.0,
        "worse": 10.0,
        "claims": 10.0,
    }


def test_a_newer_run_of_the_same_origin_replaces_and_is_named(tmp_path: Path) -> None:
    older, second = honest(tmp_path / "old"), newer(honest(tmp_path / "new"))
    (row,) = board(tmp_path, older, second)
    assert (row["runs"], row["replaced"]) == ([str(tmp_path / "new")], [str(tmp_path / "old")])


def test_a_newer_run_that_does_not_verify_replaces_nothing(tmp_path: Path) -> None:
    false = changed(newer(honest(tmp_path / "new")), objective_mean=1.0)
    rows = board(tmp_path, honest(tmp_path / "old"), false)
    assert [row["rank"] for row in rows] == [1, None]


def test_copies_of_a_run_under_other_seeds_have_no_interval(tmp_path: Path) -> None:
    runs = [honest(tmp_path / str(seed), seed=seed, solver="ppo") for seed in range(5)]
    (row,) = board(tmp_path, *runs)
    assert row["seeds"] == 1
    assert row["score_low"] is None or math.isnan(row["score_low"])


def test_another_schedule_of_one_run_does_not_make_copies_of_the_rest(tmp_path: Path) -> None:
    pieces = short_first(PROBLEMS[0])
    turned = Schedule(pieces.task[::-1], pieces.agent[::-1], pieces.start[::-1], pieces.end[::-1])
    runs = [
        make_run(tmp_path / str(seed), [one, long_first(PROBLEMS[1])], [8.0, 10.0], seed=seed)
        for seed, one in enumerate((pieces, turned))
    ]
    (row,) = board(tmp_path, *runs)
    assert row["seeds"] == 1


def test_a_false_bound_in_the_cache_does_not_count_beside_a_verified_schedule(
    tmp_path: Path, known: References, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = instance(9)
    known.improve(problem, "total_time", Reference(9.5, 9.5, "liar", "liar"))
    run = make_run(tmp_path / "a", [short_first(problem)], [8.0], problems=[problem])
    (row,) = board(tmp_path, run)
    assert row["gap_mean"] == pytest.approx(0.25)  # to the trivial bound 6
    said = capsys.readouterr().err
    assert "costs 8, below the bound 9.5 of liar, which does not count here" in said


# -- records that break the build ------------------------------------------------------------------

BROKEN = {
    "a list": "[1, 2]",
    "a number": "7",
    "null": "null",
    "no fields": "{}",
    "half a file": '{"solver": "sjf"',
    "deep nesting": "[" * 100_000,
    "a number with 5,000 digits": '{"seed": ' + "9" * 5000 + "}",
    "an objective that is a list": '{"objective": []}',
}


@pytest.mark.parametrize("attempt", BROKEN)
def test_one_malformed_record_is_a_line(attempt: str, tmp_path: Path) -> None:
    broken = without_json(honest(tmp_path / "broken"), BROKEN[attempt])
    rows = board(tmp_path, honest(tmp_path / "good", solver="good"), broken)
    bad, good = sorted(rows, key=lambda row: row["runs"])
    assert (good["rank"], bad["rank"]) == (1, None)
    assert bad["error"].startswith("cannot be recomputed")
    assert "\n" not in bad["error"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (FILES[0], [{"duration": 5}]),
        (FILES[0], {"a": 1}),
        (FILES[1], [5, 6]),
        (FILES[1], [{"instance_hash": 5, "result": {"schema": 1}}] * 2),
    ],
)
def test_one_malformed_file_is_a_line(name: str, value: Any, tmp_path: Path) -> None:
    run = honest(tmp_path / "broken")
    write_json(tmp_path / "broken" / name, value)
    (row,) = board(tmp_path, run)
    assert row["rank"] is None
    assert row["error"].startswith("cannot be recomputed")


def test_conflicting_parameters_are_a_line(tmp_path: Path) -> None:
    run = replace(honest(tmp_path / "a"), params={"solver": "x", "solver.lr": "1"})
    (row,) = board(tmp_path, run)
    assert row["error"].startswith("cannot be recomputed")


# -- text ------------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script> | `x` ![i](http://a/b) [bold]\n# title \x1b[31m \u202e"


def test_text_is_escaped_in_every_file(tmp_path: Path) -> None:
    failed = changed(honest(tmp_path / "a"), status="failed", error=HOSTILE)
    tags = {"solver": "a|b<i>", "dataset": "=1+1", "track": "schedule", "hardware": HOSTILE}
    lost = StoredRun(str(tmp_path / "lost"), "x", "failed", 0, tags, {}, Folders())
    rows = board(tmp_path, failed, lost)
    page = markdown("schedule", rows)
    lines = page.splitlines()
    assert not any(text in page for text in ("<script>", "\x1b", "\u202e", "<i>"))
    assert "\\!\\[i\\](http://a/b)" in page
    assert "# title" not in lines
    assert len([line for line in lines if line.startswith("| ")]) == 3
    cells = {line.replace("\\|", "").count("|") for line in lines if line.startswith("|")}
    assert len(cells) == 1
    paths = write({"schedule": rows}, tmp_path / "out")
    assert "'=1+1" in paths[1].read_text()


@pytest.mark.parametrize("track", ["../../evil", "/etc/x", "", None, 5, "schedule/../../evil"])
def test_a_track_that_is_a_path_stays_in_the_folder(track: Any, tmp_path: Path) -> None:
    run = replace(changed(honest(tmp_path / "a"), track=track), tags={"track": str(track)})
    out = tmp_path / "recomputed"
    out.mkdir()
    found = tables([recompute_run(run, out)], References(tmp_path / "cache"), RNG(0))
    paths = write(found, tmp_path / "deep" / "er" / "out")
    assert {path.parent for path in paths} == {tmp_path / "deep" / "er" / "out"}
    assert [path.name for path in paths] == ["unknown.md", "unknown.csv", "unknown.json"]
    assert not list(tmp_path.rglob("*evil*"))


# -- facts of a learner ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["score", "solver", "objective_mean", "seed", "/x", "x/", 5])
def test_a_fact_cannot_overwrite_a_field_of_the_record(name: Any) -> None:
    with pytest.raises(UserError, match="GROUP/NAME"):
        check_facts({"learning/steps": 1, name: 100.0})


def test_facts_on_disk_do_not_overwrite_fields(tmp_path: Path) -> None:
    one = job(Serial((0, 1)))
    folder = one.folder(tmp_path / "runs")
    folder.mkdir(parents=True)
    write_json(folder / "learning.json", {"solver": "better", "score": 468.0, "learning/x": 1})
    record = run(one, tmp_path / "runs", References(tmp_path / "c"), Off(), pictures=False)
    assert (record["solver"], record["learning/x"]) == ("serial", 1)  # type: ignore[typeddict-item]
    assert record["score"] != 468.0


def test_the_stored_table_is_not_needed_to_be_right_about_instances(tmp_path: Path) -> None:
    run = honest(tmp_path / "a")
    table = pandas.read_parquet(tmp_path / "a" / FILES[2])
    table["objective"] = [8.0, 8.0]
    table.to_parquet(tmp_path / "a" / FILES[2])
    (row,) = board(tmp_path, run)
    assert row["rank"] is None
    assert "objective 8 recorded on instance 1" in row["verified"]


def test_a_swapped_instance_is_noticed(tmp_path: Path) -> None:
    run = honest(tmp_path / "a")
    easier: Instance = instance(duration=[[1], [1]])
    write_json(tmp_path / "a" / FILES[0], [easier.to_dict(), PROBLEMS[1].to_dict()])
    (row,) = board(tmp_path, run)
    assert "stored beside instance" in row["error"]
