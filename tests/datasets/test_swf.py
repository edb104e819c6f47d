"""The Standard Workload Format: a hand-made trace, damaged traces, and Lublin-1."""

import csv
import gzip
import heapq
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.errors import UserError
from bench.run.instance_set import check
from datasets.swf import Swf, SwfJob, read_swf

CONF = Path(__file__).parents[2] / "conf" / "dataset"
SPLITS = {
    "train": {"jobs": 1, "first": 0, "last": 1},
    "validation": {"jobs": 1, "first": 1, "last": 2},
    "test": {"jobs": 2, "starts": [2]},
}


def row(submit, run, allocated, wanted=-1, requested=-1):
    return f"1 {submit} -1 {run} {allocated} -1 -1 {wanted} {requested} -1 1 -1 -1 -1 -1 -1 -1 -1"


TRACE = "\n".join(
    [
        "; Version: 2",
        "; MaxNodes: 4",
        "; MaxProcs: 8",
        row(5, 10, 4),
        row(6, 0, 1),  # no run time
        row(7, 20, 2, 3, 30),
        row(8, 5, 9),  # needs more processors than the pool has
        row(9, 7, 8),
        row(9, 1, -1),  # no processors
        row(11, 6, 1, -1, 2),
    ]
)


def write(folder, text, name="trace.swf"):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def test_hand_made_trace_is_read(tmp_path, caplog):
    jobs, processors = read_swf(write(tmp_path, TRACE))
    assert processors == 8
    assert jobs == [
        SwfJob(5, 10, 4, 10),
        SwfJob(7, 20, 3, 30),
        SwfJob(9, 7, 8, 7),
        SwfJob(11, 6, 1, 2),
    ]
    assert "3 of 7 jobs left out" in caplog.text


def test_windows_become_instances(tmp_path):
    data = Swf("t", SPLITS, str(write(tmp_path, TRACE, "trace.swf.gz")), agents=2)
    [instance] = data.instances("test")
    assert (instance.tick_seconds, instance.resources, instance.name) == (
        1.0,
        ("processor",),
        "t-2",
    )
    assert instance.capacity.tolist() == [[8], [8]]
    assert instance.release.tolist() == [9, 11]
    assert instance.duration.tolist() == [[7], [6]]
    assert instance.estimate.tolist() == [[7], [2]]
    assert instance.demand.tolist() == [[[8]], [[1]]]
    assert next(data.instances("train")).release.tolist() == [5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TRACE[:-10], r"line 10: \d+ fields, expected 18"),
        (TRACE.replace("7 -1 20", "7 -1 x"), "line 6, field 4: value 'x': is not a number"),
        (TRACE.replace("5 -1 10", "nan -1 10"), "line 4, field 2: value 'nan': is not a number"),
        ("; MaxProcs: 8\n" + row(1, 0, 1), "none of 1 rows is a job that 8 processors can run"),
    ],
)
def test_damaged_traces_are_user_errors(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"trace\.swf: {message}"):
        read_swf(write(tmp_path, text))


def test_number_of_processors_must_be_known(tmp_path):
    path = write(tmp_path, row(1, 2, 3))
    with pytest.raises(UserError, match=r"dataset\.processors: .* has no `; MaxProcs:` line"):
        read_swf(path)
    assert read_swf(path, 16) == ([SwfJob(1, 2, 3, 2)], 16)


def test_a_folder_must_hold_one_trace(tmp_path):
    write(tmp_path, TRACE)
    write(tmp_path, TRACE, "other.swf")
    with pytest.raises(UserError, match=r"holds 2 files that match .*; name one"):
        list(Swf("t", SPLITS, str(tmp_path)).instances("test"))


def mean_slowdown_of_fcfs(instance):
    """Return the mean bounded slowdown of FCFS on one pool, independently of the suite."""
    free = int(instance.capacity[0, 0])
    running = []
    now = 0
    slowdowns = []
    for release, run, need in zip(
        instance.release, instance.duration[:, 0], instance.demand[:, 0, 0], strict=True
    ):
        now = max(now, int(release))
        while running and (running[0][0] <= now or free < need):
            end, held = heapq.heappop(running)
            now = max(now, end)
            free += held
        heapq.heappush(running, (now + int(run), int(need)))
        free -= int(need)
        slowdowns.append(max(1.0, (now + run - release) / max(run, 10)))
    return np.mean(slowdowns)


@pytest.mark.external
def test_lublin_sequences_equal_the_published_ones(external):
    config = OmegaConf.load(CONF / "lublin1.yaml").dataset
    config.path = str(external / "swf" / "lublin_256.swf.gz")
    data = instantiate(config)
    instances = {split: list(data.instances(split)) for split in ("train", "validation", "test")}
    with open(external / "swf" / "lublin1_sequences.csv", newline="") as file:
        published = [row for row in csv.DictReader(file) if row["backfill"] == "0"]
    assert [f"lublin1-{row['start']}" for row in published] == [i.name for i in instances["test"]]
    for row, instance in zip(published, instances["test"], strict=True):
        assert instance.n_tasks == 1024
        assert mean_slowdown_of_fcfs(instance) == pytest.approx(float(row["fcfs"]), rel=1e-9)
    last = max(int(i.release.max()) for i in instances["train"] + instances["validation"])
    assert last < min(int(i.release.min()) for i in instances["test"])
    for split, expected in data.hashes.items():
        assert check(split, instances[split], data.hashes) == expected
    assert set(data.hashes) == {"train", "validation", "test"}
