"""A user's own instances: one file, lists, folders, splits, and damaged files."""

import json

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


def test_copies_in_a_folder_are_no_instances(tmp_path, caplog):
    """A backup beside the file, of an editor or compressed, is not an instance of its own."""
    for i, name in enumerate(("a.json", "a.json.bak", "a.json~", "a.json.orig", "notes.txt")):
        instance(i + 1).write(tmp_path / name)
    with caplog.at_level("INFO"):
        assert durations(tmp_path) == [1]
    assert caplog.messages == [
        f"{tmp_path / 'a.json'}: 1 instances read, 1 used; not read in the folder: a.json.bak, "
        "a.json.orig, a.json~, notes.txt"
    ]
    instance(9).write(tmp_path / "a.json.gz")
    with pytest.raises(UserError, match=r"a\.json and a\.json\.gz are copies of one file; delete"):
        durations(tmp_path)


def test_equal_instances_under_different_names_count_and_are_mentioned(tmp_path, caplog):
    for name in ("0.json", "1.json", "2.json"):
        instance(7).write(tmp_path / name)
    with caplog.at_level("INFO"):
        assert durations(tmp_path) == [7, 7, 7]
    assert caplog.messages == [
        f"{tmp_path}: 3 instances read, 3 used; 2 files have the content of another one, such as "
        "1.json that of 0.json"
    ]


def test_files_beside_the_splits_are_named(tmp_path, caplog):
    (tmp_path / "test").mkdir()
    instance(1).write(tmp_path / "test" / "x.json")
    instance(2).write(tmp_path / "y.json")
    with caplog.at_level("INFO"):
        assert durations(tmp_path) == [1]
    assert caplog.messages[0].endswith("read, 1 used; not read beside the splits: y.json")


def test_keys_that_stand_twice_are_errors(tmp_path):
    text = json.dumps(instance(1).to_dict())
    (tmp_path / "a.json").write_text(f'[{text}, {text[:-1]}, "weight": [9]}}]')
    with pytest.raises(InstanceError, match=r"a\.json: .*key 'weight' stands twice in one object"):
        durations(tmp_path)


def test_a_byte_order_mark_and_blank_lines_are_read(tmp_path):
    text = json.dumps(instance(3).to_dict())
    (tmp_path / "a.json").write_bytes(f"\r\n{text}\r\n\r\n".encode("utf-8-sig"))
    assert durations(tmp_path) == [3]


def test_errors_name_the_damaged_file(tmp_path):
    (tmp_path / "cut.json").write_text('{"duration": [[1]')
    with pytest.raises(InstanceError, match=r"cut\.json: not readable as JSON"):
        durations(tmp_path)
    write_json(
        tmp_path / "cut.json", [instance(1).to_dict(), instance(1).to_dict() | {"duration": [[-7]]}]
    )
    with pytest.raises(InstanceError, match=r"cut\.json, instance 1: duration\[0, 0\]: -7"):
        durations(tmp_path)
    write_json(tmp_path / "cut.json", [])
    with pytest.raises(InstanceError, match=r"cut\.json: holds an empty list"):
        durations(tmp_path)
    with pytest.raises(
        UserError, match=r"dataset\.path: no file was given\. Needed: an instance as JSON"
    ):
        list(Files().instances("test"))
