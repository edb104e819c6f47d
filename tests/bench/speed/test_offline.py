"""The speed program of offline learning: a tiny run has a row for each way of feeding."""

import pytest

from bench.speed import offline

COLUMNS = {"feeding", "steps_per_cpu_second", "steps_per_second", "sampling_ms", "ratio"}


def test_a_tiny_run_has_every_row(monkeypatch):
    monkeypatch.setattr(offline, "BATCH", 8)
    found = list(offline.rows(1, rounds=1, steps=2, episodes=4))
    assert all(set(row) == COLUMNS for row in found)
    assert [row["feeding"] for row in found] == [
        "feed",
        "d3rlpy's sampler",
        "d3rlpy's sampler and losses",
    ]
    assert found[0]["ratio"] == 1.0
    for row in found:
        assert row["ratio"] == pytest.approx(
            found[0]["steps_per_cpu_second"] / row["steps_per_cpu_second"]
        )
        assert row["sampling_ms"] > 0


def test_what_is_recorded_is_random_play_on_small():
    log = offline.recorded(4)
    assert len(log.length) == 4
    assert set(log.behaviour) == {"random"}
    assert (log.probability < 1.0).any()
