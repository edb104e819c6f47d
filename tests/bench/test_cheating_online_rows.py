"""Attempts to be ranked online without having been played online: each row has no rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import references
from bench.leaderboard import markdown
from bench.references import References
from bench.tracking import StoredRun
from tests.bench.stored_runs import board, honest, known_optima, played

ONLINE = {
    "track": "online",
    "observe": "arrived",
    "information": "online",
    "isolated": True,
    "non_anticipation": "checked",
}
NOT_ONLINE: dict[str, tuple[dict[str, Any], str]] = {
    "it decided in the suite's process": ({"isolated": False}, "not isolated"),
    "it does not say where it decided": ({"isolated": None}, "not isolated"),
    "it decides differently each time": (
        {"non_anticipation": "not reproducible"},
        "not reproducible",
    ),
    "its decisions depend on the future": (
        {"non_anticipation": "failed"},
        "non-anticipation failed: decisions depend on the future",
    ),
    "its decisions were not checked": (
        {"non_anticipation": "not applicable"},
        "non-anticipation was not checked",
    ),
    "it does not say whether they were": (
        {"non_anticipation": None},
        "non-anticipation was not checked",
    ),
}


def online(folder: Path, seed: int = 0, **changes: Any) -> StoredRun:
    """Return a run of the track online; a field that is None is not in its record."""
    claims = {name: value for name, value in {**ONLINE, **changes}.items() if value is not None}
    return honest(folder, seed=seed, **claims)


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> References:
    """The suite's own cache: it knows the optimum 8 of both instances."""
    monkeypatch.setattr(references, "random_play", played)
    return known_optima(tmp_path / "cache")


@pytest.mark.parametrize("attempt", NOT_ONLINE)
def test_a_row_of_the_track_online_has_no_rank_where(attempt: str, tmp_path: Path) -> None:
    change, said = NOT_ONLINE[attempt]
    runs = online(tmp_path / "cheat", **change), online(tmp_path / "rival", solver="rival")
    ranked, row = board(tmp_path, *runs)
    assert (ranked["solver"], ranked["rank"], ranked["not_ranked"]) == ("rival", 1, "")
    assert (row["rank"], row["verified"]) == (None, "yes")
    assert row["not_ranked"].startswith(said)
    _, listed = markdown("online", [ranked, row]).split("## Rows without a rank")
    assert f"(run {tmp_path / 'cheat'}): {row['not_ranked']}" in listed


def test_all_reasons_are_named(tmp_path: Path) -> None:
    (row,) = board(tmp_path, online(tmp_path / "a", isolated=False, non_anticipation="failed"))
    assert row["not_ranked"] == (
        "not isolated: it did not decide in a process of its own (isolate=true); non-anticipation "
        "failed: decisions depend on the future"
    )


def test_a_run_that_failed_the_check_is_read_as_it_is(tmp_path: Path) -> None:
    error = "decisions depend on the future: wave-0: decision 3"
    failed = online(tmp_path / "a", status="failed", error=error, non_anticipation="failed")
    (row,) = board(tmp_path, failed)
    assert (row["error"], row["non_anticipation"], row["rank"]) == (error, "failed", None)


def test_a_seed_that_failed_the_check_takes_the_rank_of_the_others(tmp_path: Path) -> None:
    outcomes = ("checked", "failed", "checked")
    runs = [
        online(
            tmp_path / str(seed),
            seed,
            status="failed" if outcome == "failed" else "finished",
            non_anticipation=outcome,
        )
        for seed, outcome in enumerate(outcomes)
    ]
    rows = board(tmp_path, *runs, online(tmp_path / "rival", solver="rival"))
    assert [(row["solver"], row["rank"]) for row in rows] == [
        ("rival", 1),
        ("sjf", None),
        ("sjf", None),
    ]
    assert {row["non_anticipation"] for row in rows[1:]} == {"failed"}


def test_a_seed_that_crashed_takes_no_rank(tmp_path: Path) -> None:
    crashed = online(tmp_path / "1", 1, status="failed", non_anticipation="not reproducible")
    assert [row["rank"] for row in board(tmp_path, online(tmp_path / "0"), crashed)] == [1, None]


def test_rows_of_other_tracks_need_no_check(tmp_path: Path) -> None:
    (row,) = board(tmp_path, honest(tmp_path / "a", isolated=False))
    assert (row["rank"], row["not_ranked"]) == (1, "")


def test_a_row_holds_no_seeds_that_were_isolated_beside_others(tmp_path: Path) -> None:
    runs = [online(tmp_path / str(seed), seed, isolated=seed > 0) for seed in range(3)]
    rows = board(tmp_path, *runs)
    assert sorted((row["isolated"], len(row["runs"])) for row in rows) == [(False, 1), (True, 2)]


def test_a_run_in_the_suites_process_replaces_no_isolated_one(tmp_path: Path) -> None:
    isolated = online(tmp_path / "isolated")
    newer = replace(online(tmp_path / "newer", isolated=False), started=1)
    rows = board(tmp_path, isolated, newer)
    assert sorted((row["isolated"], row["replaced"]) for row in rows) == [(False, []), (True, [])]


def test_a_row_is_not_called_checked_where_one_seed_is_not(tmp_path: Path) -> None:
    outcomes = ("checked", "not reproducible", "checked")
    runs = [
        online(tmp_path / str(seed), seed, non_anticipation=outcome)
        for seed, outcome in enumerate(outcomes)
    ]
    (row,) = board(tmp_path, *runs)
    assert (row["non_anticipation"], row["rank"]) == ("not reproducible", None)
