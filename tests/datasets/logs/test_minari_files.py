"""Files of logs: Minari and d3rlpy read them in another process; damaged files are refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bench.errors import UserError
from datasets.logs import minari_files
from datasets.logs.recorded import Behaviour, RecordedLogs
from solvers.rules import Random
from tests.solvers.learning import FixedDataset, random_instance

READ_WITHOUT_SUITE = """
import sys, numpy as np, minari, d3rlpy
from d3rlpy.dataset import Episode, InfiniteBuffer, ReplayBuffer
assert not [m for m in sys.modules if m.split(".")[0] in ("bench", "datasets", "solvers")]
log = minari.load_dataset("some-v0")
episodes = list(log)
buffer = ReplayBuffer(
    InfiniteBuffer(),
    episodes=[
        Episode(
            e.observations[:-1],
            e.actions[:, None],
            e.rewards[:, None].astype(np.float32),
            bool(e.terminations[-1]),
        )
        for e in episodes
    ],
    action_space=d3rlpy.ActionSpace.DISCRETE,
    action_size=int(log.action_space.n),
)
batch = buffer.sample_transition_batch(64)
np.savez(
    sys.argv[1],
    observation=np.concatenate([e.observations for e in episodes]),
    action=np.concatenate([e.actions for e in episodes]),
    reward=np.concatenate([e.rewards for e in episodes]),
    terminated=np.concatenate([e.terminations for e in episodes]),
    truncated=np.concatenate([e.truncations for e in episodes]),
    length=[len(e.actions) for e in episodes],
    probability=np.concatenate([e.infos["probability"] for e in episodes]),
    transitions=buffer.transition_count,
    buffer_observations=np.concatenate([e.observations for e in buffer.episodes]),
    batch=batch.observations,
    actions=int(log.action_space.n),
)
"""


@pytest.fixture
def log(tmp_path):
    data = FixedDataset(random_instance, 8)
    logs = RecordedLogs("some-v0", data, {"random": Behaviour(Random(), 20)})
    logs.cache = tmp_path
    return logs.episodes()


@pytest.mark.slow
def test_minari_and_d3rlpy_read_the_same_in_another_process(log, tmp_path):
    environment = {
        **os.environ,
        "MINARI_DATASETS_PATH": str(tmp_path / "logs"),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(
        [sys.executable, "-c", READ_WITHOUT_SUITE, "out.npz"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
    )
    found = np.load(tmp_path / "out.npz")
    for name in (
        "observation",
        "action",
        "reward",
        "terminated",
        "truncated",
        "length",
        "probability",
    ):
        assert np.array_equal(found[name], getattr(log, name)), name
        assert found[name].dtype == getattr(log, name).dtype, name
    assert found["transitions"] == len(log.action)
    assert np.array_equal(found["buffer_observations"], log.observation[log.state])
    assert found["batch"].shape == (64, log.layout.size)
    assert found["actions"] == log.layout.actions


def test_read_returns_what_was_written(log, tmp_path):
    found = minari_files.read(tmp_path / "logs" / "some-v0")
    assert found.hash == log.hash
    for name in ("layout", "objective", "instance", "behaviour"):
        assert getattr(found, name) == getattr(log, name)
    card = minari_files.read_card(tmp_path / "logs" / "some-v0")
    assert card["hash"] == log.hash
    assert card["card"]["episodes"] == 20


def test_a_log_without_probabilities_is_read_without(log, tmp_path):
    minari_files.write(tmp_path / "bare-v0", replace(log, name="bare-v0", probability=None), {})
    assert minari_files.read(tmp_path / "bare-v0").probability is None


def test_a_file_that_is_cut_short_is_refused(log, tmp_path):
    path = tmp_path / "logs" / "some-v0" / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        UserError,
        match=r"some-v0/data cannot be read \(.*\); it may be cut short, delete the folder",
    ):
        minari_files.read(tmp_path / "logs" / "some-v0")


def test_a_file_that_was_changed_is_refused(log, tmp_path):
    import h5py

    with h5py.File(tmp_path / "logs" / "some-v0" / "data" / "main_data.hdf5", "a") as file:
        file["episode_3/rewards"][0] -= 1.0
    with pytest.raises(UserError, match=r"its card says .*changed after it was written"):
        minari_files.read(tmp_path / "logs" / "some-v0")


def test_a_changed_instance_hash_is_refused(log, tmp_path):
    import h5py

    with h5py.File(tmp_path / "logs" / "some-v0" / "data" / "main_data.hdf5", "a") as file:
        file["episode_3"].attrs["instance"] = "0" * 64
    with pytest.raises(UserError, match=r"its card says"):
        minari_files.read(tmp_path / "logs" / "some-v0")


def test_a_folder_without_a_log_is_refused(tmp_path):
    (tmp_path / "other" / "data").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no log of this suite"):
        minari_files.read(tmp_path / "other")
    for card in (
        {},
        {"layout": [3, 2], "objective": "total_time", "hash": "x"},
        {"objective": "total_time", "hash": "x"},
    ):
        metadata = {
            "dataset_id": "x",
            **({minari_files.METADATA_KEY: json.dumps(card)} if card else {}),
        }
        (tmp_path / "other" / "data" / "metadata.json").write_text(json.dumps(metadata))
        with pytest.raises(UserError, match=r"holds no log of this suite"):
            minari_files.read(tmp_path / "other")
