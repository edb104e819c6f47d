"""The Philly CSV: a hand-made trace, damaged traces, and October 2017."""

import logging
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.errors import UserError
from datasets.philly import Philly, read_philly

CONF = Path(__file__).parents[2] / "conf" / "dataset"
HEADER = "timestamp,duration,num_gpus,gpu_time,cluster"
ROWS = [
    "2017-10-01 00:00:45,30.0,1,30.0,a",
    "2017-10-01 00:02:00,61.0,4,244.0,a",
    "2017-10-01 00:01:46,120,2,240.0,b",  # out of order
    "2017-10-01 00:02:30,10.0,8,80.0,a",  # needs more GPUs than any agent has
    "2017-10-01 00:02:40,0.0,1,0.0,a",  # no duration
    "2017-10-01 00:03:00,600.0,1,600.0,a",
]
SPLITS = {
    "train": {"jobs": 1, "first": 0, "last": 1},
    "validation": {"jobs": 1, "first": 1, "last": 2},
    "test": {"jobs": 2, "first": 2, "last": 4},
}


def write(folder, rows=ROWS, header=HEADER):
    path = folder / "trace.csv"
    path.write_text("\n".join([header, *rows]))
    return str(path)


def test_hand_made_trace_is_read(tmp_path, caplog):
    data = Philly(SPLITS, [4, 2], path=write(tmp_path))
    with caplog.at_level(logging.INFO):
        [instance] = data.instances("test")
    assert (
        "6 jobs, left out: 1 that need more GPUs than any agent has, 1 without duration or GPUs"
        in caplog.text
    )
    assert instance.capacity.tolist() == [[4], [2]]
    assert instance.release.tolist() == [0, 1]
    assert instance.duration.tolist() == [[2], [10]]
    assert instance.demand.tolist() == [[[4]], [[1]]]
    assert [next(data.instances(split)).demand[0, 0, 0] for split in ("train", "validation")] == [
        1,
        2,
    ]


def test_virtual_cluster_and_tick_are_used(tmp_path):
    only = SPLITS | {"test": {"jobs": 1, "first": 2, "last": 3}}
    [instance] = Philly(only, [4], path=write(tmp_path), cluster="a", tick_seconds=1.0).instances(
        "test"
    )
    assert instance.duration.tolist() == [[600]]
    with pytest.raises(UserError, match=r"dataset\.cluster: value 'z': no job of it fits"):
        list(Philly(only, [4], path=write(tmp_path), cluster="z").instances("test"))


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (
            ["2017-10-01 00:00:45,-60,1,30.0,a"],
            HEADER,
            r"line 2, duration: value -60: must not be negative",
        ),
        (
            ["2017-10-01 00:00:45,60,1.7,30.0,a"],
            HEADER,
            r"line 2, num_gpus: value 1.7: must be an integer",
        ),
        (ROWS, "time,duration,num_gpus,gpu_time,cluster", "line 1: column timestamp is missing"),
        (["2017-10-01 00:00:45,30.0,1"], HEADER, "line 2: 3 fields, expected 5"),
        (
            ["yesterday,30.0,1,30.0,a"],
            HEADER,
            "line 2, timestamp: value 'yesterday': is not",
        ),
        (
            [ROWS[0], "2017-10-01 00:00:45,nan,1,30.0,a"],
            HEADER,
            "line 3, duration: value 'nan': is not a number",
        ),
        (
            ["2017-10-01 00:00:45,30,many,30.0,a"],
            HEADER,
            "line 2, num_gpus: value 'many': is not a number",
        ),
    ],
)
def test_damaged_traces_are_user_errors(tmp_path, rows, header, message):
    with pytest.raises(UserError, match=rf"trace\.csv: {message}"):
        list(Philly(SPLITS, [4], path=write(tmp_path, rows, header)).instances("test"))


@pytest.mark.parametrize(
    "option", [{"agents": []}, {"agents": [4, 0]}, {"agents": [4], "tick_seconds": 0}]
)
def test_invalid_options_are_user_errors(option):
    with pytest.raises(UserError, match=r"dataset\.(agents|tick_seconds)"):
        Philly(SPLITS, **option)


@pytest.mark.external
def test_october_2017_is_read(external):
    path = external / "philly" / "philly_oct2017.csv.gz"
    assert len(read_philly(path)) == 47_192
    config = OmegaConf.load(CONF / "philly.yaml").dataset
    config.path = str(path)
    data = instantiate(config)
    sizes = {}
    hashes = []
    for split in ("train", "validation", "test"):
        instances = list(data.instances(split))
        sizes[split] = len(instances)
        hashes += [instance.hash() for instance in instances]
        assert all(instance.n_tasks == 64 and instance.n_agents == 4 for instance in instances)
    assert sizes == {"train": 256, "validation": 16, "test": 16}
    assert len(set(hashes)) == len(hashes)
