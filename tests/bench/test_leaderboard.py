"""The leaderboard over hand-made runs: recomputed numbers, mismatches, failed runs."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench import references
from bench.instance import Instance, read_json, write_json
from bench.leaderboard import main, markdown, tables, write
from bench.metrics import penalty
from bench.references import RandomPlay, Reference, References
from bench.run.recompute import FILES, configuration, recompute_run
from bench.schedule import Schedule
from bench.setting import Setting
from bench.tracking import Mlflow, StoredRun
from tests.bench.stored_runs import (
    RNG,
    Folders,
    honest,
    instance,
    known_optima,
    long_first,
    make_run,
    short_first,
)


@pytest.fixture(autouse=True)
def random_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random legal play costs 12, internally."""
    monkeypatch.setattr(references, "random_play", lambda *arguments: RandomPlay(12.0, 0.0))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path) -> Path:
    """The suite's own cache: it knows the optimum 8 of both instances."""
    known_optima(tmp_path / "cache")
    return tmp_path / "cache"


def rows_of(tmp_path: Path, *runs: StoredRun, track: str = "schedule") -> list[dict[str, Any]]:
    out = tmp_path / "recomputed"
    out.mkdir()
    known = References(tmp_path / "cache")
    return tables([recompute_run(run, out) for run in runs], known, RNG(0))[track]


def test_an_honest_run_is_recomputed_and_verified(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, honest(tmp_path / "a"))
    assert row["objective_mean"] == 9.0
    assert row["gap_mean"] == pytest.approx((0 + 0.2) / 2)
    assert row["score"] == pytest.approx((100 + 50) / 2)
    assert math.isnan(row["score_low"])  # one seed says nothing about the spread
    assert (row["rank"], row["seeds"], row["feasible"], row["verified"]) == (1, 1, 1.0, "yes")
    assert (row["reference"], row["hardware"], row["git_commit"]) == (
        "proved",
        "2 cores",
        "0123456789",
    )


@pytest.mark.parametrize("key", ["learning/selection", "offline/learning/selection"])
def test_a_policy_chosen_by_true_return_is_marked(tmp_path: Path, key: str) -> None:
    (row,) = rows_of(tmp_path, honest(tmp_path / "a", **{key: "oracle"}))
    assert row["selection"] == "oracle"


@pytest.mark.parametrize(
    ("tampering", "said"),
    [
        ({"objectives": [8.0, 8.0]}, "objective 8 recorded on instance 1"),
        ({"objective_mean": 8.0}, "objective_mean 8 recorded, its own table has 9"),
        ({"set_hash": "0" * 64}, "set_hash 000"),
        ({"table": {"instance_hash": ["a", "b"]}}, "instance_hash of the table"),
    ],
)
def test_a_tampered_record_is_shown_and_does_not_count(
    tmp_path: Path, tampering: dict[str, Any], said: str
) -> None:
    problems = [instance(), instance(5)]
    arguments = {"objectives": [8.0, 10.0], **tampering}
    run = make_run(tmp_path / "a", [short_first(problems[0]), long_first(problems[1])], **arguments)
    (row,) = rows_of(tmp_path, run)
    assert row["verified"].startswith("MISMATCH")
    assert said in row["verified"]
    assert row["objective_mean"] == 9.0
    assert row["rank"] is None
    page = markdown("schedule", [row])
    assert "**MISMATCH**" in page
    assert said in page.split("## Rows without a rank")[1]


@pytest.mark.parametrize("column", ["reference", "reference_bound", "random", "gap", "score"])
def test_what_a_run_says_of_references_and_scores_does_not_count(
    tmp_path: Path, column: str
) -> None:
    [row] = rows_of(tmp_path, honest(tmp_path / "a", table={column: 4.0}))
    assert (row["score"], row["gap_mean"]) == (pytest.approx(75.0), pytest.approx(0.1))


def test_all_rows_are_scored_against_the_best_schedule_of_the_table(tmp_path: Path) -> None:
    """Nothing is known of the instance at release 7: the better of two runs is the reference."""
    problem = instance(7)
    runs = [
        make_run(tmp_path / name, [order(problem)], [value], problems=[problem], solver=name)
        for name, order, value in (("a", long_first, 10.0), ("b", short_first, 8.0))
    ]
    first, second = rows_of(tmp_path, *runs)
    assert [first["score"], second["score"]] == [pytest.approx(100.0), pytest.approx(50.0)]
    assert first["reference"] == second["reference"] == "0% proved, else best known"
    assert second["gap_mean"] == pytest.approx(0.4)  # the trivial bound is 6


def test_a_violation_costs_at_least_the_penalty(tmp_path: Path) -> None:
    problems = [instance(), instance(5)]
    both_at_once = Schedule.from_assignment(
        problems[0], [0, 0], [0, 0]
    )  # total time 6, less than the optimum
    run = make_run(tmp_path / "a", [both_at_once, short_first(problems[1])], [6.0, 8.0])
    (row,) = rows_of(tmp_path, run)
    assert row["feasible"] == 0.5
    assert row["objective_mean"] == pytest.approx((penalty(problems[0], "total_time") + 8) / 2)
    assert row["score"] < 50  # the broken one scores below random play
    assert "objective 6 recorded" in row["verified"]
    assert "feasible 1 recorded" in row["verified"]


def test_a_crashed_instance_counts_as_nothing_assigned(tmp_path: Path) -> None:
    problems = [instance(), instance(5)]
    run = make_run(
        tmp_path / "a", [short_first(problems[0]), None], [8.0, math.nan], objective_mean=8.0
    )
    (row,) = rows_of(tmp_path, run)
    assert row["objective_mean"] == pytest.approx((8 + 2 * penalty(problems[1], "total_time")) / 2)
    assert (row["feasible"], row["verified"]) == (0.5, "yes")


def test_seeds_of_one_configuration_are_one_row_with_an_interval(tmp_path: Path) -> None:
    problems = [instance(), instance(5)]
    orders = {
        0: (short_first, short_first),
        1: (long_first, short_first),
        2: (long_first, long_first),
    }
    runs = [
        make_run(
            tmp_path / str(seed),
            [order(problem) for order, problem in zip(pair, problems, strict=True)],
            [8.0 if order is short_first else 10.0 for order in pair],
            seed=seed,
            solver="ppo",
            params={"solver.lr": "0.1", "seed": str(seed), "solver.seed": str(seed)},
        )
        for seed, pair in orders.items()
    ]
    other = honest(tmp_path / "other", solver="ppo", params={"solver.lr": "0.2"})
    first, second = sorted(rows_of(tmp_path, *runs, other), key=lambda row: -row["seeds"])
    assert [first["seeds"], second["seeds"]] == [3, 1]
    assert first["configuration"] != second["configuration"]
    assert first["score"] == pytest.approx(75.0)
    assert 50 <= first["score_low"] < 75 < first["score_high"] <= 100
    assert first["rank"] == second["rank"] == 1  # both 75


def test_a_configuration_is_all_settings_but_seed_split_and_modules() -> None:
    old = {"solver._target_": "solvers.ppo.PPO", "solver.lam": "0.9", "events": "singly"}
    new = {
        "solver._target_": "solvers.x.PPO",
        "solver.gae_lambda": "0.9",
        "event_order": "sequential",
    }
    here = configuration({**new, "seed": "1", "split": "test", "dataset.path": "a.csv"})
    assert configuration({**old, "seed": "2", "split": "validation"}) == here
    for change in ({"event_order": "batched"}, {"budget.seconds": "9"}, {"dataset.load": "2"}):
        assert configuration({**new, **change}) != here


def test_copies_of_one_seed_count_once(tmp_path: Path) -> None:
    runs = [honest(tmp_path / str(seed), seed=seed) for seed in range(3)]
    (row,) = rows_of(tmp_path, *runs)
    assert (row["seeds"], len(row["runs"]), row["rank"]) == (1, 3, 1)
    assert math.isnan(row["score_low"])


def test_rows_are_ranked_within_their_problem(tmp_path: Path) -> None:
    problems = [instance(), instance(5)]
    best = make_run(
        tmp_path / "best", [short_first(p) for p in problems], [8.0, 8.0], solver="cpsat"
    )
    elsewhere = honest(tmp_path / "elsewhere", dataset="zwei")
    rows = rows_of(tmp_path, honest(tmp_path / "sjf"), best, elsewhere)
    assert [(row["solver"], row["dataset"], row["rank"]) for row in rows] == [
        ("cpsat", "two", 1),
        ("sjf", "two", 2),
        ("sjf", "zwei", 1),
    ]


def test_maximisation_is_scored_in_its_own_sense(tmp_path: Path) -> None:
    """Profits 7 and 3 as costs 10 - profit: on agents 0 and 1 the profit is 3 + 7 = 10."""
    problem = instance(
        duration=[[7, 3], [3, 3]],
        demand=[[[1], [1]], [[1], [1]]],
        capacity=[[1], [1]],
        agent_type=[0, 1],
        sharing="budget",
        sense="max",
        offset=10,
    )
    run = make_run(
        tmp_path / "a",
        [Schedule.from_assignment(problem, [0, 1])],
        [10.0],
        problems=[problem],
        track="assign",
    )
    optimum = Reference(6.0, 6.0, "exact", "exact")  # profit 14; random play has 8
    References(tmp_path / "cache").improve(problem, "total_time", optimum)
    (row,) = rows_of(tmp_path, run, track="assign")
    assert row["verified"] == "yes"
    assert row["gap_mean"] == pytest.approx(0.4)
    assert row["score"] == pytest.approx(100 * 2 / 6)


def test_random_play_is_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = []

    def play(problem: Instance, setting: Setting) -> RandomPlay:
        played.append((problem.hash(), setting.mode))
        return RandomPlay(12.0, 0.0)

    monkeypatch.setattr(references, "random_play", play)
    runs = [honest(tmp_path / mode, mode=mode, solver=mode) for mode in ("fit", "commit")]
    out = tmp_path / "recomputed"
    out.mkdir()
    for _ in range(2):
        found = tables(
            [recompute_run(run, out) for run in runs], References(tmp_path / "cache"), RNG(0)
        )
        assert [row["score"] for row in found["schedule"]] == [pytest.approx(75.0)] * 2
    every = [
        (problem.hash(), mode)
        for mode in ("fit", "commit")
        for problem in (instance(), instance(5))
    ]
    assert sorted(played) == sorted(every)


def test_unproved_references_are_described(tmp_path: Path) -> None:
    problems = [instance(), instance(6)]
    schedules = [short_first(problems[0]), long_first(problems[1])]
    run = make_run(tmp_path / "a", schedules, [8.0, 10.0], problems=problems)
    (row,) = rows_of(tmp_path, run)
    assert row["reference"] == "50% proved, else best known"


def test_failed_runs_stay_as_rows(tmp_path: Path) -> None:
    failed = honest(tmp_path / "failed", status="failed", error="RuntimeError: out of memory")
    tags = {"track": "schedule", "solver": "ppo", "dataset": "two", "error": "killed at start"}
    without = StoredRun(str(tmp_path / "nothing"), "ppo-s0", "failed", 0, tags, {}, Folders())
    rows = rows_of(tmp_path, failed, honest(tmp_path / "good"), without)
    assert {row["error"]: row["rank"] for row in rows} == {
        "": 1,
        "RuntimeError: out of memory": None,
        "killed at start": None,
    }
    assert "killed at start" in markdown("schedule", rows)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (name, change)
        for name in ("result.json", *FILES)
        for change in ("missing", "cut short", "flipped")
    ],
)
def test_files_that_cannot_be_read_make_a_row(tmp_path: Path, name: str, change: str) -> None:
    run = honest(tmp_path / "a")
    path = tmp_path / "a" / name
    if change == "missing":
        path.unlink()
    elif change == "cut short":
        path.write_bytes(path.read_bytes()[:40])
    else:
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2 :: 3] = b"\xff" * len(raw[len(raw) // 2 :: 3])
        path.write_bytes(raw)
    (row,) = rows_of(tmp_path, run)
    assert row["error"].startswith("cannot be recomputed")
    assert row["rank"] is None


def test_schedules_that_do_not_belong_make_a_row(tmp_path: Path) -> None:
    run = honest(tmp_path / "a")
    entries = read_json(tmp_path / "a" / FILES[1])
    write_json(tmp_path / "a" / FILES[1], entries[::-1])
    (row,) = rows_of(tmp_path, run)
    assert "stored beside instance" in row["error"]


def test_the_three_files_agree(tmp_path: Path) -> None:
    failed = honest(tmp_path / "failed", solver="x", status="failed", error="a | b\nc")
    rows = rows_of(tmp_path, honest(tmp_path / "a"), failed)
    paths = write({"schedule": rows}, tmp_path / "out")
    assert [path.name for path in paths] == ["schedule.md", "schedule.csv", "schedule.json"]
    data = json.loads(paths[2].read_text())
    assert [data[0]["score"], data[0]["score_low"], data[1]["score"]] == [
        pytest.approx(75.0),
        None,
        None,
    ]
    with paths[1].open() as file:
        table = list(csv.DictReader(file))
    assert [table[0]["score"], table[0]["solver"], table[1]["error"]] == [
        str(data[0]["score"]),
        "sjf",
        "a | b c",
    ]
    lines = [line for line in paths[0].read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[0].count("|")}


def test_the_command_reads_a_real_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = Mlflow(system_metrics=False)
    for name, recorded in (("old", 7.0), ("new", 10.0)):  # the same key: the newer one counts
        made = (
            honest(tmp_path / name)
            if recorded == 10.0
            else make_run(
                tmp_path / name,
                [long_first(instance()), long_first(instance(5))],
                [recorded, recorded],
            )
        )
        with tracker.run("key", name, {"seed": 0}, made.tags, tmp_path / name) as run:
            for file in ("result.json", *FILES):
                run.artifact(tmp_path / name / file)
    assert main(["--out", "tables", "--cache", "cache"]) == 0
    shown = capsys.readouterr()
    assert "| 1 | sjf |" in shown.out
    assert "MISMATCH" not in shown.err
    (row,) = json.loads((tmp_path / "tables" / "schedule.json").read_text())
    assert (row["objective_mean"], row["hardware"]) == (9.0, "2 cores")


def test_a_store_that_does_not_exist_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--uri", f"sqlite:///{tmp_path}/none.db", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
