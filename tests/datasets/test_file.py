"""A user's own instances: one file, lists, folders, splits, and damaged files."""

import pytest

from bench.errors import UserError
from bench.instance import Instance, InstanceError, write_json
from datasets.file import Files


def instance(duration):
    return Instance(duration=[[duration]], demand=[[[1]]], capacity=[[1]], agent_type=[0])


def durations(path, split="test", **options):
    return [int(i.duration[0, 0]) for i in Files(path=str(path), **options).instances(split)]


def test_files_lists_and_folders_are_read_in_order(tmp_path):
    instance(3).write(tmp_path / "b.json")
    write_json(tmp_path / "a.json.gz", [instance(1).to_dict(), instance(2).to_dict()])
    assert durations(tmp_path / "b.json") == [3]
    assert durations(tmp_path) == [1, 2, 3]
    assert durations(tmp_path, pattern="b*") == [3]
    with pytest.raises(
        UserError, match=r"has no split train; put those instances in a subfolder train/"
    ):
        durations(tmp_path, "train")


def test_subfolders_are_splits(tmp_path):
    for i, split in enumerate(("train", "test"), 1):
        (tmp_path / split).mkdir()
        instance(i).write(tmp_path / split / "x.json")
    assert (durations(tmp_path, "train"), durations(tmp_path, "test")) == ([1], [2])
    with pytest.raises(UserError, match=r"validation: does not exist"):
        durations(tmp_path, "validation")


def test_errors_name_the_damaged_file(tmp_path):
    (tmp_path / "cut.json").write_text('{"duration": [[1]')
    with pytest.raises(InstanceError, match=r"cut\.json: not readable as JSON"):
        durations(tmp_path)
    write_json(
        tmp_path / "cut.json", [instance(1).to_dict(), instance(1).to_dict() | {"duration": [[-7]]}]
    )
    with pytest.raises(InstanceError, match=r"cut\.json, instance 1: duration\[0, 0\]: -7"):
        durations(tmp_path)
    with pytest.raises(
        UserError, match=r"dataset\.path: no file was given\. Needed: an instance as JSON"
    ):
        list(Files().instances("test"))
