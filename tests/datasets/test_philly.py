"""The Philly CSV: a hand-made trace, damaged traces, and October 2017."""

import gzip
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
    [instance] = data.instances("test")
    [line] = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage() == (
        f"{tmp_path / 'trace.csv'}: 6 jobs read, 4 used, 2 left out: 1 that need more than the 4 "
        "GPUs of the largest agent (6.7 % of the GPU time), 1 without duration or GPUs"
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


def test_everything_used_is_one_line_too_but_no_warning(tmp_path, caplog):
    data = Philly(SPLITS, [8], path=write(tmp_path, [*ROWS[:4], ROWS[5]]))
    with caplog.at_level(logging.INFO):
        assert len(list(data.instances("test"))) == len(list(data.instances("train"))) == 1
    [line] = caplog.records
    assert line.levelno == logging.INFO
    assert line.getMessage() == f"{tmp_path / 'trace.csv'}: 5 jobs read, 5 used"


def test_a_folder_counts_no_copies_and_names_what_it_does_not_read(tmp_path, caplog):
    text = Path(write(tmp_path)).read_text()
    (tmp_path / "trace.csv.bak").write_text(text.replace(",a", ",c"))
    (tmp_path / "trace.csv~").write_text(text.replace(",a", ",d"))
    assert len(next(Philly(SPLITS, [4], path=str(tmp_path)).instances("test")).release) == 2
    assert f"{tmp_path}: 6 jobs read, 4 used" in caplog.text
    assert "; not read in the folder: trace.csv.bak, trace.csv~" in caplog.text
    (tmp_path / "trace.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(UserError, match=r"trace\.csv and trace\.csv\.gz are copies of one file"):
        list(Philly(SPLITS, [4], path=str(tmp_path)).instances("test"))


def test_names_of_virtual_clusters_are_never_numbers(tmp_path):
    names = ("007", "7", "1e5", "100000.0", "NA", "nan", "null", "6214e9", "")
    rows = [f"2017-10-01 00:0{i}:00,{60 * (i + 1)},1,0,{name}" for i, name in enumerate(names)]
    path = Path(write(tmp_path, rows))
    assert [job.cluster for job in read_philly(path)] == list(names)
    only = {"train": {"jobs": 1}, "validation": {"jobs": 1}, "test": {"jobs": 1}}
    for i, name in enumerate(names):
        data = Philly(only, [1], path=str(path), cluster=name)
        assert [job.duration for job in data._read()] == [60 * (i + 1)]


def test_byte_order_marks_blank_lines_and_semicolons_are_read(tmp_path):
    rows = ["2017-10-01 00:00:45,100,1,0,Universit\u00e9"]
    expected = read_philly(Path(write(tmp_path, rows)))
    text = Path(tmp_path / "trace.csv").read_text()
    path = tmp_path / "other.csv"
    for content in (
        text.encode("utf-8-sig"),
        text.encode("utf-16"),
        text.encode("latin-1"),
        f"\n{text}\n\n \n,,,,\n".encode(),
        text.replace("\n", "\r\n").encode() + b"\r\n\x1a",
        text.replace("\n", "\r").encode(),
        text.replace(",", ";").encode(),
        text.replace(",", "\t").encode(),
        text.replace("timestamp,duration", '"timestamp", duration').encode(),
    ):
        path.write_bytes(content)
        assert read_philly(path) == expected


def test_ticks_of_parts_of_a_second_are_exact(tmp_path):
    rows = [f"2017-10-01 00:00:{44 + i / 10:.1f},{3 * i / 10},1,0,a" for i in range(1, 90)]
    splits = {"train": {"jobs": 1}, "validation": {"jobs": 1, "first": 1, "last": 2}}
    splits["train"]["last"] = 1
    data = Philly(
        splits | {"test": {"jobs": 80, "starts": [2]}},
        [1],
        path=write(tmp_path, rows),
        tick_seconds=0.1,
    )
    [instance] = data.instances("test")
    assert instance.release.tolist() == list(range(80))
    assert instance.duration[:, 0].tolist() == [3 * i for i in range(3, 83)]


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
        (
            ["2017-10-01 00:00:45,1_0,1,30.0,a"],
            HEADER,
            "line 2, duration: value '1_0': is not a number",
        ),
        (
            ["2017-10-01 00:00:45,1e300,1,30.0,a"],
            HEADER,
            r"line 2, duration: value 1e\+300: must be at most 1000000000000 s",
        ),
        (
            ["", "2017-10-01 00:00:45,inf,1,30.0,a"],
            HEADER,
            "line 3, duration: value 'inf': is not a number",
        ),
        (
            ["2017-10-01 00:00:45,1,1e13,30.0,a"],
            HEADER,
            "line 2, num_gpus: value 1e13: must be an integer of at least 0 and at most",
        ),
        (
            [ROWS[0], "2017-10-01T00:00:45Z,1,1,30.0,a"],
            HEADER,
            "line 3, timestamp: value '2017-10-01T00:00:45Z': all timestamps must have a time",
        ),
        (ROWS, f"{HEADER},duration", "line 1: column duration stands more than once"),
        (ROWS, HEADER.upper(), "line 1: column timestamp is missing; found TIMESTAMP, DURATION"),
        ([], HEADER, "no rows below the header"),
        (['2017-10-01 00:00:45,"30,1,30.0,a'], HEADER, "line 2: unexpected end of data"),
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
