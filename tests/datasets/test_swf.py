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
from bench.instance_set import check
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
    assert caplog.messages == [
        f"{tmp_path / 'trace.swf'}: 7 lines read, 4 used, 3 left out: 1 without run time, 1 with "
        "more than 8 processors (21.7 % of the processor time), 1 without processors"
    ]


def job(number, submit, run, processors=2, status=1, preceding=-1, requested=30):
    return (
        f"{number} {submit} 0 {run} {processors} -1 -1 {processors} {requested} -1 {status} 1 1 1 "
        f"1 1 {preceding} -1"
    )


def test_partial_executions_stand_in_their_summary_lines(tmp_path, caplog):
    """Status 2, 3 and 4 are executions of a job that was swapped out; 0, 1 and 5 are whole jobs."""
    lines = [
        "; MaxProcs: 8",
        job(1, 10, 90, 8),
        job(1, 10, 30, 8, status=2),
        job(1, -1, 30, 8, status=2),
        job(1, -1, 30, 8, status=3),
        job(2, 20, 40, status=0),
        job(2, 20, 20, status=2),
        job(2, -1, 20, status=4),
        job(3, 30, 50, status=5),
        job(4, 40, -1, status=5),
        job(5, 50, 20, status=-1),
        job(6, 60, 20, 1, status=3),
    ]
    jobs, _ = read_swf(write(tmp_path, "\n".join(lines)))
    assert [(one.submit, one.run) for one in jobs] == [(10, 90), (20, 40), (30, 50), (50, 20)]
    assert sum(one.run * one.processors for one in jobs) == 8 * 90 + 2 * (40 + 50 + 20)
    assert caplog.messages[0].endswith(
        "11 lines read, 4 used, 7 left out: 5 partial executions of jobs with a summary line, "
        "1 cancelled before they ran, 1 partial executions of jobs without a summary line (2.1 % "
        "of the processor time)"
    )


def test_fractions_of_seconds_are_rounded_up(tmp_path):
    lines = ["; MaxProcs: 8", job(1, 0.5, 0.25, requested=1.5), job(2, 1.0, 2.0, requested=-1)]
    jobs, _ = read_swf(write(tmp_path, "\n".join(lines)))
    assert jobs == [SwfJob(1, 1, 2, 2), SwfJob(1, 2, 2, 2)]


def test_jobs_are_sorted_and_repeated_lines_are_left_out(tmp_path, caplog):
    lines = ["; MaxProcs: 8", job(1, 9, 1), job(2, 5, 2), job(1, 9, 1), job(3, 5, 3, preceding=2)]
    jobs, _ = read_swf(write(tmp_path, "\n".join(lines)))
    assert [one.run for one in jobs] == [2, 3, 1]
    assert caplog.messages[0].endswith(
        "4 lines read, 3 used, 1 left out: 1 that repeat an earlier line; sorted by submit time; "
        "1 jobs name a preceding job, which they do not wait for here"
    )


@pytest.mark.parametrize(
    "content",
    [
        TRACE.encode("utf-8-sig"),
        ("; Computer: Universit\u00e9\n" + TRACE).encode("latin-1"),
        TRACE.replace("\n", "\r\n").encode() + b"\r\n\r\n",
        TRACE.replace("; MaxProcs: 8", "  ;MaxProcs :  8 (all of them)").encode(),
        TRACE.replace(" ", "\t").encode(),
    ],
)
def test_byte_order_marks_old_comments_and_blank_lines_are_read(tmp_path, content):
    (tmp_path / "other.swf").write_bytes(content)
    assert read_swf(tmp_path / "other.swf") == read_swf(write(tmp_path, TRACE))


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
        (TRACE.replace("5 -1 10", "5 -1 -10"), r"line 4, field 4: value -10: must be -1 \(unknown"),
        (
            TRACE.replace("-1 10 4", "-1 10 4.5"),
            "line 4, field 5: value 4.5: must .* an integer",
        ),
        (TRACE.replace("-1 1 -1", "-1 7 -1"), "line 4, field 11: value 7: must be a status from"),
        (TRACE.replace("5 -1 10", "1e13 -1 10"), r"line 4, field 2: value 1e\+13: must be at most"),
        (TRACE.replace("MaxProcs: 8", "MaxProcs: 1,024"), "header MaxProcs: value '1,024': must"),
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


@pytest.mark.parametrize("option", [{"agents": 0}, {"processors": 0}])
def test_invalid_options_are_user_errors(option):
    with pytest.raises(UserError, match=r"dataset\.(agents|processors): value 0: must be at least"):
        Swf("t", SPLITS, "trace.swf", **option)


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
