"""What all logged datasets have in common: names that Minari accepts, and a data card."""

import pytest

from bench.errors import UserError
from datasets.logs.recorded import Behaviour, JoinedLogs, RecordedLogs
from datasets.logs.stored import cache_folder, describe
from solvers.rules import SJF, Random
from tests.solvers.learning import FixedDataset, random_instance

DATA = FixedDataset(random_instance, 12)


def test_a_name_that_minari_does_not_accept_is_refused():
    with pytest.raises(
        UserError,
        match=r"logs.name: value 'some': must be letters, .* then -v and an .* such as some-v0$",
    ):
        RecordedLogs("some", DATA, {"random": Behaviour(Random(), 4)})
    with pytest.raises(
        UserError, match=r"logs.name: value 'a b/c-v1': must be letters, .* such as a_b_c-v0$"
    ):
        JoinedLogs("a b/c-v1", {})


def test_a_data_card_holds_size_returns_and_coverage(tmp_path):
    behaviours = {"sjf": Behaviour(SJF(), 12), "random": Behaviour(Random(), 12)}
    made = RecordedLogs("some-v0", DATA, behaviours)
    made.cache = tmp_path
    made.command = "python -m bench +solver=bc logs=some"
    log = made.episodes()
    card = describe(log)
    assert card["episodes"] == 24
    assert card["instances"] == 12
    assert card["decisions"] == len(log.action)
    assert card["return_mean"] == pytest.approx(log.returns.mean())
    assert card["return_by_behaviour"]["sjf"] == pytest.approx(log.returns[:12].mean())
    assert 1.0 <= card["actions_per_state"] <= card["legal_per_state"]
    folder = tmp_path / "logs" / "some-v0"
    assert (folder / "data" / "main_data.hdf5").exists()
    text = (folder / "CARD.md").read_text()
    assert f"hash: {log.hash}" in text
    assert "return_mean" in text
    assert "command: `python -m bench +solver=bc logs=some`" in text


def test_a_data_card_without_a_command_names_none(tmp_path):
    made = RecordedLogs("other-v0", DATA, {"sjf": Behaviour(SJF(), 2)})
    made.cache = tmp_path
    made.episodes()
    assert "command" not in (tmp_path / "logs" / "other-v0" / "CARD.md").read_text()


def test_the_cache_is_the_given_folder_or_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "environment"))
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
    assert cache_folder(None) == tmp_path / "environment"
    monkeypatch.delenv("BENCH_CACHE")
    assert cache_folder(None).name == "dl-scheduling-bench"
