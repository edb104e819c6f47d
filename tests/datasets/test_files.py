"""Finding files, and cutting traces into windows."""

import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.errors import UserError
from datasets._files import find_file, find_files, other_files, split_windows


def split(train, validation, test):
    return {"train": train, "validation": validation, "test": test}


FRACTIONS = split(
    {"first": 0.0, "last": 0.5, "jobs": 10, "windows": 3},
    {"first": 0.5, "last": 0.75, "jobs": 25},
    {"first": 0.75, "last": 1.0, "jobs": 5, "windows": 2},
)


def test_find_files_accepts_a_file_or_a_folder(tmp_path):
    for name in ("b.swf", "a.swf", "notes.md", ".hidden.swf"):
        (tmp_path / name).write_text(name)
    assert [f.name for f in find_files(tmp_path, {}, "it", "*.swf")] == ["a.swf", "b.swf"]
    assert find_files(tmp_path / "notes.md", {}, "it", "*.swf") == [tmp_path / "notes.md"]
    for path in (tmp_path / "no such", None, tmp_path):
        with pytest.raises(UserError, match=r"^dataset\.path: .*Needed: the data from X; put it"):
            find_files(path, {}, "the data from X", "*.csv")


def test_find_file_accepts_one_file_only(tmp_path):
    (tmp_path / "a.swf").write_text("x")
    assert find_file(tmp_path, {}, "it", "*.swf") == tmp_path / "a.swf"
    (tmp_path / "b.swf").write_text("x")
    with pytest.raises(UserError, match=r"holds 2 files that match '\*\.swf'; name one of them"):
        find_file(tmp_path, {}, "it", "*.swf")


def test_copies_of_editors_and_backups_are_not_files_of_their_own(tmp_path):
    names = ("a.csv", "B.CSV.gz", "a.csv~", "a.csv.bak", "a.csv.bak.gz", "c.csv.orig", "#a.csv#")
    more = ("a.csv.1", "d.csv.tmp", "e.csv.part", "f.csvx", ".a.csv.swp")
    for name in (*names, *more):
        (tmp_path / name).write_text(name)
    found = find_files(tmp_path, {}, "it", "*.csv")
    assert [file.name for file in found] == ["B.CSV.gz", "a.csv"]
    others = other_files(tmp_path, found)
    assert others == sorted({*names, *more} - {"a.csv", "B.CSV.gz", ".a.csv.swp"})
    assert other_files(tmp_path / "a.csv", [tmp_path / "a.csv"]) == other_files(None, []) == []
    assert [file.name for file in find_files(tmp_path, {}, "it", "*.csv.gz")] == ["B.CSV.gz"]
    every = [file.name for file in find_files(tmp_path, {}, "it", "*")]
    assert every == ["B.CSV.gz", "a.csv", "a.csv.1", "f.csvx"]
    assert find_files(tmp_path / "a.csv~", {}, "it", "*.csv") == [tmp_path / "a.csv~"]


@pytest.mark.parametrize(
    ("first", "second", "content"),
    [("a.csv", "a.csv.gz", "other"), ("a (1).csv", "a.csv", "a.csv"), ("b.csv.GZ", "b.csv", "x")],
)
def test_a_file_and_its_copy_in_one_folder_are_an_error_that_names_both(
    tmp_path, first, second, content
):
    (tmp_path / second).write_text("a.csv")
    (tmp_path / first).write_text(content)
    (tmp_path / "c.csv").write_text("c.csv")
    with pytest.raises(UserError, match=r"dataset\.path: value .* are copies of one file") as error:
        find_files(tmp_path, {}, "it", "*.csv")
    assert f" {first} and {second} are" in str(error.value) or (
        f" {second} and {first} are" in str(error.value)
    )


def test_error_of_a_failed_download_says_what_to_obtain():
    url = "nosuchprotocol://example.org/trace"
    with pytest.raises(
        UserError,
        match=r"could not be downloaded .*Needed: the trace; put it anywhere and set dataset\.path",
    ):
        find_files(None, {url: "0" * 64}, "the trace")


def test_downloads_are_checked_and_cached(tmp_path, monkeypatch):
    content = b"1 2 3"
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "gap1").write_bytes(content)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/gap1"
        base, name = url.rsplit("/", 1)
        right = {url: hashlib.sha256(content).hexdigest()}
        [first] = find_files(None, right, "it")
        assert find_file(None, {name: right[url]}, "it", download_base=f"{base}/") == first
        with pytest.raises(UserError, match=r"could not be downloaded \(.*hash"):
            find_files(None, {url: "0" * 64}, "it")
        server.shutdown()
    [again] = find_files(None, right, "it")  # the server has stopped: from the cache
    assert first == again
    assert (first.name, first.read_bytes()) == ("gap1", content)
    assert tmp_path in first.parents


def test_windows_by_fraction_by_index_and_by_start():
    assert split_windows(FRACTIONS, 100) == {
        "train": ([0, 20, 40], 10),
        "validation": ([50], 25),
        "test": ([75, 95], 5),
    }
    indexed = FRACTIONS | {"test": {"starts": [90, 80], "jobs": 10}}
    assert split_windows(indexed, 100)["test"] == ([90, 80], 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": {"first": 0.4, "last": 1.0, "jobs": 5}}, "train and test share jobs"),
        ({"test": {"starts": [96], "jobs": 5}}, r"splits\.test: 5 jobs do not fit in \[96, 101\)"),
        ({"test": {"first": 0.9, "last": 1.0, "jobs": 11}}, r"splits\.test: 11 jobs do not fit"),
        (
            {"test": {"first": 0.8, "last": 1.0, "jobs": 19, "windows": 5}},
            r"test\.windows: 5 different windows",
        ),
        ({"test": {"size": 3}}, r"splits\.test: needs jobs"),
    ],
)
def test_windows_that_do_not_fit_are_user_errors(change, message):
    with pytest.raises(UserError, match=message):
        split_windows(FRACTIONS | change, 100)
    with pytest.raises(UserError, match=r"splits\.test: needs jobs"):
        split_windows({name: FRACTIONS[name] for name in ("train", "validation")}, 100)
