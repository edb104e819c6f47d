"""Finding and reading files, and cutting traces into windows."""

import functools
import gzip
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.errors import UserError
from datasets._files import (
    find_file,
    find_files,
    parse_number,
    read_csv,
    read_text,
    split_windows,
)


def split(train, validation, test):
    return {"train": train, "validation": validation, "test": test}


FRACTIONS = split(
    {"first": 0.0, "last": 0.5, "jobs": 10, "windows": 3},
    {"first": 0.5, "last": 0.75, "jobs": 25},
    {"first": 0.75, "last": 1.0, "jobs": 5, "windows": 2},
)


def test_find_files_accepts_a_file_or_a_folder(tmp_path):
    for name in ("b.swf", "a.swf", "notes.md", ".hidden.swf"):
        (tmp_path / name).write_text("x")
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


def test_read_text_accepts_plain_and_gzip_and_rejects_damaged_files(tmp_path):
    whole = gzip.compress(b"1 2 3\n" * 200)
    (tmp_path / "plain").write_bytes(b"1 2")
    (tmp_path / "zip").write_bytes(whole)
    (tmp_path / "short").write_bytes(whole[:-12])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert read_text(tmp_path / "plain") == "1 2"
    assert read_text(tmp_path / "zip") == "1 2 3\n" * 200
    for name in ("short", "binary", "absent"):
        with pytest.raises(UserError, match=rf"{name}: not readable as text"):
            read_text(tmp_path / name)


def test_read_csv_yields_rows_with_their_place(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3\n")
    rows = read_csv(path, ["b"])
    assert next(rows) == (f"{path}: line 2", {"a": "1", "b": "2"})
    with pytest.raises(UserError, match=r"t\.csv: line 3: 1 fields, expected 2; the file may be"):
        next(rows)
    with pytest.raises(UserError, match=r"t\.csv: line 1: column c is missing; found a, b"):
        next(read_csv(path, ["a", "c"]))


def test_parse_number_accepts_finite_numbers_only():
    assert parse_number("1.5", "here") == 1.5
    for text in ("abc", "nan", "inf", ""):
        with pytest.raises(UserError, match=r"^here: value .*: is not a number"):
            parse_number(text, "here")


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
