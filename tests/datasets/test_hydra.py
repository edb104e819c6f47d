"""The jobs published with Hydra: a hand-made file, damaged files, and the published file."""

import csv
import math
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.errors import UserError
from datasets.hydra import NO_DUE, Hydra, HydraJob, read_hydra

CONF = Path(__file__).parents[2] / "conf" / "dataset"
HEADER = ",job_name,norm_job_submit_time,ddl,A100,V100"
ROWS = [
    "0,a,0,inf,10.0,20.0",
    "1,b,5,100.0,30.5,7.0",
    "2,c,7.5,50.0,4.0,8.0",
    "3,d,9,inf,6.0,12.0",
]
AGENTS = {"A100": 1, "V100": 2}
SPLITS = {
    "train": {"jobs": 1, "first": 3, "last": 4},
    "validation": {"jobs": 1, "first": 2, "last": 3},
}


def write(folder, rows=ROWS, header=HEADER):
    path = folder / "jobs.csv"
    path.write_text("\n".join([header, *rows]))
    return str(path)


def test_hand_made_file_is_read(tmp_path):
    path = write(tmp_path)
    assert read_hydra(Path(path), ["V100"])[:2] == [
        HydraJob(0, math.inf, (20.0,)),
        HydraJob(5, 105, (7.0,)),
    ]
    one, two = Hydra(AGENTS, [1, 2], SPLITS, path=path, tick_seconds=2.0).instances("test")
    assert (one.n_tasks, two.n_tasks, two.name) == (1, 2, "hydra-2")
    assert two.duration.tolist() == [[5, 10], [16, 4]]
    assert two.release.tolist() == [0, 3]
    assert two.due.tolist() == [NO_DUE, 53]
    assert two.agent_type.tolist() == [0, 1, 1]
    assert two.demand.tolist() == [[[1], [1]]] * 2
    assert two.capacity.tolist() == [[1]] * 3


def test_ticks_of_parts_of_a_second_and_types_of_digits_are_exact(tmp_path):
    """1.1 s is 11 ticks of 0.1 s, as a release, a due date and a duration."""
    path = write(
        tmp_path,
        ["0,a,0,inf,1.1", "1,b,1.1,1.1,0.3", "2,c,2,inf,1", "3,d,3,inf,1"],
        HEADER[:-10] + ",1080",
    )
    [one] = Hydra({1080: 1}, [2], SPLITS, path=path, tick_seconds=0.1).instances("test")
    assert one.release.tolist() == [0, 11]
    assert one.due.tolist() == [NO_DUE, 22]
    assert one.duration.tolist() == [[11], [3]]


def test_other_splits_lie_after_the_first_jobs(tmp_path):
    data = Hydra(AGENTS, [2], SPLITS, path=write(tmp_path))
    [train], [validation] = data.instances("train"), data.instances("validation")
    assert (train.duration.tolist(), validation.duration.tolist()) == ([[6, 12]], [[4, 8]])
    assert (train.release.tolist(), validation.due.tolist()) == ([0], [50])
    with pytest.raises(UserError, match=r"dataset\.splits: test and validation share jobs"):
        list(Hydra(AGENTS, [3], SPLITS, path=write(tmp_path)).instances("test"))
    with pytest.raises(UserError, match=r"dataset\.splits\.test: 9 jobs do not fit"):
        list(Hydra(AGENTS, [9], SPLITS, path=write(tmp_path)).instances("test"))


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (
            ROWS,
            HEADER.replace("V100", "T4"),
            "line 1: column V100 is missing; found , job_name, norm_job_submit_time, ddl, A100, T4",
        ),
        ([], "", "line 1: column norm_job_submit_time is missing; found nothing"),
        ([*ROWS, "4,e,9,inf"], HEADER, "line 6: 4 fields, expected 6; the file may be cut short"),
        (["0,a,0,inf,x,20.0"], HEADER, "line 2, A100: value 'x': is not a number"),
        (["0,a,0,inf,10.0,0"], HEADER, "line 2, V100: value 0: must be positive"),
        (
            ["0,a,inf,inf,10.0,1"],
            HEADER,
            "line 2, norm_job_submit_time: value 'inf': is not",
        ),
        (["0,a,0,soon,10.0,1"], HEADER, "line 2, ddl: value 'soon': is not a number"),
        (
            ["0,a,-1,inf,10.0,1"],
            HEADER,
            "line 2: norm_job_submit_time and ddl must not be negative",
        ),
    ],
)
def test_damaged_files_are_user_errors(tmp_path, rows, header, message):
    with pytest.raises(UserError, match=rf"jobs\.csv: {message}"):
        list(Hydra(AGENTS, [1], SPLITS, path=write(tmp_path, rows, header)).instances("test"))


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ({"agents": {}}, "agents"),
        ({"agents": {"A100": 0}}, "agents"),
        ({"jobs": []}, "jobs"),
        ({"jobs": [0]}, "jobs"),
        ({"tick_seconds": 0}, "tick_seconds"),
    ],
)
def test_invalid_options_are_user_errors(option, field):
    with pytest.raises(UserError, match=rf"dataset\.{field}: value "):
        Hydra(**({"agents": AGENTS, "jobs": [1], "splits": SPLITS} | option))


def test_error_names_the_missing_file(tmp_path):
    with pytest.raises(
        UserError, match=r"dataset\.path: no file was given\. Needed: a job file as CSV"
    ):
        list(Hydra(AGENTS, [1], SPLITS).instances("test"))
    write(tmp_path)
    (tmp_path / "more.csv").write_text(HEADER)
    with pytest.raises(UserError, match=r"holds 2 files that match .*; name one"):
        list(Hydra(AGENTS, [1], SPLITS, path=str(tmp_path)).instances("test"))


@pytest.mark.external
def test_published_file_is_read(external):
    config = OmegaConf.load(CONF / "hydra.yaml").dataset
    config.path = str(external / "hydra" / "20_ddl.csv.gz")
    data = instantiate(config)
    instances = {split: list(data.instances(split)) for split in ("train", "validation", "test")}
    assert [i.n_tasks for i in instances["test"]] == [10, 50, 100, 200, 400]
    assert {split: len(found) for split, found in instances.items()} == {
        "train": 256,
        "validation": 9,
        "test": 5,
    }
    assert len({i.hash() for found in instances.values() for i in found}) == 270
    largest = instances["test"][-1]
    assert (largest.n_agents, largest.release.max(), largest.tick_seconds) == (45, 0, 1)
    jobs = read_hydra(Path(config.path), list(config.agents))
    assert len(jobs) == 5000
    assert largest.duration.tolist() == [list(job.seconds) for job in jobs[:400]]  # whole seconds
    with open(external / "hydra" / "published_light.csv", newline="") as file:
        assert {row["workload"] for row in csv.DictReader(file)} == {"light"}
