"""Reading text, rows and numbers of files."""

import bz2
import gzip
import lzma

import pytest

from bench.errors import UserError
from datasets._tables import parse_number, parse_seconds, read_csv, read_lines, read_text


def test_text_is_read_plain_and_compressed_and_damaged_files_are_refused(tmp_path):
    whole = gzip.compress(b"1 2 3\n" * 200)
    (tmp_path / "plain").write_bytes(b"1 2")
    (tmp_path / "short").write_bytes(whole[:-12])
    (tmp_path / "short bz2").write_bytes(bz2.compress(b"1 2 3")[:-5])
    (tmp_path / "short xz").write_bytes(lzma.compress(b"1 2 3")[:-5])
    (tmp_path / "twice").write_bytes(gzip.compress(whole))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "zip").write_bytes(b"PK\x03\x04\x14\x00")
    assert read_text(tmp_path / "plain") == "1 2"
    for compress in (gzip.compress, bz2.compress, lzma.compress):
        (tmp_path / "compressed").write_bytes(compress(b"1 2 3\n" * 200))
        assert read_text(tmp_path / "compressed") == "1 2 3\n" * 200
    for name in ("short", "short bz2", "short xz", "twice", "binary", "zip", "absent"):
        with pytest.raises(UserError, match=rf"{name}: not readable as text"):
            read_text(tmp_path / name)


def test_a_line_in_latin_1_does_not_change_the_others(tmp_path):
    (tmp_path / "t").write_bytes("; é\n".encode("latin-1") + "é\n".encode())
    assert read_text(tmp_path / "t") == "; é\né\n"


def test_lines_end_at_line_ends_only_and_are_counted_with_the_blank_ones(tmp_path):
    path = tmp_path / "t"
    path.write_bytes("\ufeffa\x85b\r\n\r\n  \nc\u2028d\re".encode())
    assert list(read_lines(path)) == [
        (f"{path}: line 1", "a\x85b"),
        (f"{path}: line 4", "c\u2028d"),
        (f"{path}: line 5", "e"),
    ]


def test_read_csv_yields_rows_with_their_place(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3\n")
    rows = read_csv(path, ["b"])
    assert next(rows) == (f"{path}: line 2", {"a": "1", "b": "2"})
    with pytest.raises(UserError, match=r"t\.csv: line 3: 1 fields, expected 2; the file may be"):
        next(rows)
    with pytest.raises(UserError, match=r"t\.csv: line 1: column c is missing; found a, b"):
        next(read_csv(path, ["a", "c"]))


def test_quoted_fields_may_hold_separators_and_line_ends(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n"x, ""y""\nz",2\n\n3,4\n')
    assert list(read_csv(path, ["a"])) == [
        (f"{path}: line 3", {"a": 'x, "y"\nz', "b": "2"}),
        (f"{path}: line 5", {"a": "3", "b": "4"}),
    ]


def test_parse_number_accepts_finite_numbers_only():
    assert [parse_number(text, "here") for text in ("1.5", " -2 ", "+.5e1", "3.")] == [
        1.5,
        -2,
        5,
        3,
    ]
    for text in ("abc", "nan", "inf", "", "1_000", "1,5", "0x1", "\u0661", "1e400", "--1"):
        with pytest.raises(UserError, match=r"^here: value .*: is not a number"):
            parse_number(text, "here")


def test_parse_seconds_refuses_what_no_instance_can_hold():
    assert parse_seconds("1e12", "here") == 1e12
    with pytest.raises(UserError, match=r"^here: value -2e\+12: must be at most 1000000000000 s"):
        parse_seconds("-2e12", "here")
