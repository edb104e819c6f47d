"""Fixtures of the tests of the command line."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing: the tests of the runner look at pictures, which take most of a short run."""
    monkeypatch.setattr("bench.run.runner.Execution._draw", lambda self, entries, evaluations: None)
