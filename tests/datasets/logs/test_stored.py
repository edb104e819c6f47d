"""What all logs have in common: names that Minari takes, and a data card."""

from pathlib import Path

import pytest

from bench.errors import UserError
from datasets.logs.recorded import Behaviour, JoinedLogs, RecordedLogs
from datasets.logs.stored import describe
from solvers.rules import SJF, Random
from tests.datasets.logs.test_recorded import DATA, logs


def test_a_name_that_minari_would_not_take():
    with pytest.raises(
        UserError,
        match=r"logs.name: 'some' must be letters, .* then -v and a number.* such as some-v0$",
    ):
        RecordedLogs("some", DATA, {"random": Behaviour(Random(), 4)})
    with pytest.raises(
        UserError, match=r"logs.name: 'a b/c-v1' must be letters, .* such as a_b_c-v0$"
    ):
        JoinedLogs("a b/c-v1", {})


def test_a_data_card_counts(tmp_path):
    made = logs(tmp_path, sjf=Behaviour(SJF(), 12), random=Behaviour(Random(), 12))
    made.command = "python -m bench +solver=bc logs=some"
    log = made.episodes()
    card = describe(log)
    assert card["episodes"] == 24
    assert card["instances"] == 12
    assert card["decisions"] == len(log.action)
    assert card["return_mean"] == pytest.approx(log.returns.mean())
    assert card["return_by_behaviour"]["sjf"] == pytest.approx(log.returns[:12].mean())
    assert 1.0 <= card["actions_per_state"] <= card["legal_per_state"]
    folder = Path(tmp_path / "logs" / "some-v0")
    assert (folder / "data" / "main_data.hdf5").exists()
    text = (folder / "CARD.md").read_text()
    assert f"hash: {log.hash}" in text
    assert "return_mean" in text
    assert "command: `python -m bench +solver=bc logs=some`" in text
    made.command, made.name = None, "other-v0"
    made.episodes()
    assert "command" not in (tmp_path / "logs" / "other-v0" / "CARD.md").read_text()  # nobody said
