"""Recorded logs are recorded once, belong to their settings, and can be joined."""

import pytest

from bench import plugins
from bench.errors import UserError
from bench.setting import Setting
from datasets.logs import minari_files
from datasets.logs.recorded import Behaviour, JoinedLogs, RecordedLogs
from datasets.logs.recorder import Recorder
from solvers.allox import AlloX
from solvers.ppo import PPO
from solvers.rules import SJF, WSPT, Random
from tests.solvers.learning import FixedDataset, random_instance, small_learner

DATA = FixedDataset(random_instance, 12)
FORMER_HASHES = {  # that version 0.1 wrote into the cards of these logs
    "cluster-medium-medium-v0": "e08182a9bd47419b",
    "cluster-medium-random-v0": "d99c2a619426fe4c",
    "cluster-medium-replay-v0": "b7bc101d2b5787be",
    "cluster-medium-rules-v0": "bc39e0bfc0d3fa67",
    "cluster-small-expert-v0": "b0e035e59322a456",
    "cluster-small-expert_4096-v0": "58fc5c2dd62877ac",
    "cluster-small-medium-v0": "e429a5389c5085b9",
    "cluster-small-noisy_expert-v0": "4f16e7c61b4b4efe",
    "cluster-small-random-v0": "56c9421441804128",
    "cluster-small-replay-v0": "47b90f9cfca33724",
    "cluster-small-rules-v0": "6480cb563abbceaa",
    "cluster-tiny-random-v0": "9bc883c7cd7a0b24",
}


def logs(folder, name="some-v0", **behaviours):
    """Return a recorded log in the cache `folder`."""
    made = RecordedLogs(name, DATA, behaviours)
    made.cache = folder
    return made


def must_not_record(label, done, total, note):
    pytest.fail("recorded again")


def test_a_log_is_recorded_once_and_belongs_to_its_settings(tmp_path):
    first = logs(tmp_path, random=Behaviour(Random(), 10))
    reports = []
    log = first.episodes(lambda label, done, total, note: reports.append((label, done, total)))
    assert reports == [("records some-v0", 10, 10)]
    assert first.episodes(must_not_record).hash == log.hash
    again = logs(tmp_path, random=Behaviour(Random(), 10))
    assert again.episodes(must_not_record).hash == log.hash
    with pytest.raises(UserError, match=r"recorded from other settings.*delete the folder"):
        logs(tmp_path, random=Behaviour(Random(), 11)).episodes()
    with pytest.raises(UserError, match=r"recorded from other settings"):
        logs(tmp_path, random=Behaviour(WSPT(), 10)).episodes()


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(AlloX(), 2),
        Behaviour(
            small_learner(PPO, steps=8, minibatch=64, decoding="greedy", shaped=False),
            0,
            decisions=200,
            replay=True,
        ),
    ],
    ids=["planning policy", "learner"],
)
def test_settings_stay_the_same_when_the_policy_was_played_or_trained(tmp_path, behaviour):
    made = logs(tmp_path, policy=behaviour)
    before = made.settings
    made.episodes()
    assert made.settings == before
    assert made.episodes(must_not_record).behaviour[0] == "policy"


def test_settings_do_not_depend_on_the_module_of_a_class(monkeypatch):
    made = RecordedLogs("x-v0", DATA, {"rule": Behaviour(SJF(), 1)})
    before = made.settings
    monkeypatch.setattr(SJF, "__module__", "solvers.elsewhere")
    assert made.settings == before
    monkeypatch.setattr(SJF, "__module__", "elsewhere")  # a class of the user
    assert made.settings != before
    monkeypatch.undo()
    assert RecordedLogs("x-v0", DATA, {"rule": Behaviour(WSPT(), 1)}).settings != before


@pytest.mark.parametrize("name", FORMER_HASHES)
def test_a_log_of_the_former_version_is_accepted(tmp_path, name):
    stored = Recorder(name, DATA, Setting(), 0).record("random", Behaviour(Random(), 2))
    made = plugins.load("logs", name)
    made.cache = tmp_path
    minari_files.write(made.folder, stored, {"settings": FORMER_HASHES[name]})
    assert made.episodes(must_not_record).hash == stored.hash
    made.seed += 1
    with pytest.raises(UserError, match=r"recorded from other settings"):
        made.episodes(must_not_record)


def test_former_names_of_a_setting_are_accepted():
    former = RecordedLogs("x-v0", DATA, {}, {"mode": "fit", "events": "singly"})
    assert former.setting == Setting(event_order="sequential")


def test_several_behaviours_and_several_logs_are_joined(tmp_path):
    both = logs(tmp_path, "both-v0", sjf=Behaviour(SJF(), 4), random=Behaviour(Random(), 8))
    assert both.episodes().behaviour == ("sjf",) * 4 + ("random",) * 8
    rules = logs(tmp_path, "rules-v0", wspt=Behaviour(WSPT(), 6))
    mixed = JoinedLogs("mixed-v0", {"both": both, "rules": rules}, {"both": 3})
    mixed.cache = tmp_path
    log = mixed.episodes()
    assert log.behaviour == ("sjf", "random", "random") + ("wspt",) * 6
    assert log.name == "mixed-v0"
    assert minari_files.read(tmp_path / "logs" / "mixed-v0").hash == log.hash
    assert mixed.episodes().hash == log.hash
    assert {i.hash() for i in mixed.instances()} >= set(log.instance)
    with pytest.raises(UserError, match=r"shares.rules: 7 episodes asked for, rules-v0 has 6"):
        JoinedLogs("x-v0", {"rules": rules}, {"rules": 7}).episodes()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"rule": 7}, r"shares: rule is not a part; the parts are rules"),
        ({"rules": 0}, r"shares.rules: at least 1 episode is needed, got 0; leave the part out"),
    ],
)
def test_impossible_shares_are_refused(shares, message):
    rules = RecordedLogs("rules-v0", DATA, {"wspt": Behaviour(WSPT(), 6)})
    with pytest.raises(UserError, match=message):
        JoinedLogs("x-v0", {"rules": rules}, shares)


def test_logs_of_different_settings_cannot_be_joined():
    rules = RecordedLogs("rules-v0", DATA, {"wspt": Behaviour(WSPT(), 6)})
    online = RecordedLogs(
        "online-v0", DATA, {"random": Behaviour(Random(), 4)}, {"observe": "arrived"}
    )
    with pytest.raises(
        UserError,
        match=r"parts.online: was played with .*observe='arrived'.* only where these agree",
    ):
        JoinedLogs("x-v0", {"rules": rules, "online": online})


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": 1.5, "episodes": 1},
        {"episodes": 0},
        {"episodes": 1, "seconds": 0},
        {"episodes": 1, "decisions": 0},
    ],
)
def test_behaviour_settings_outside_their_range_are_refused(settings):
    with pytest.raises(
        UserError, match=r"logs.behaviours: (noise|episodes|seconds|decisions) must"
    ):
        Behaviour(SJF(), **settings)


def test_a_negative_seed_is_refused():
    with pytest.raises(UserError, match=r"logs.seed: must not be negative, got -1"):
        RecordedLogs("x-v0", DATA, {"random": Behaviour(Random(), 4)}, seed=-1)
