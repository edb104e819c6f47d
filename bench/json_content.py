"""The content of JSON files: plain or compressed, and without keys that stand twice."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any


def parse_json(raw: bytes) -> Any:
    """Return the content of a JSON file, compressed by gzip or plain.

    Raises
    ------
    ValueError
        If it is no JSON or cut short, or if a key stands twice in one object: of its two values
        one would be lost without a word.
    """
    try:
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        return json.loads(text, object_pairs_hook=_unique_keys)
    except (EOFError, OSError, zlib.error, RecursionError) as error:
        raise ValueError(str(error)) from None


def one_row_a_line(data: Mapping[str, Any], rows: str) -> str:
    """Return a mapping as JSON: a line for each entry, and one for each item of the list `rows`.

    The list is the last entry, so that a changed row is a changed line.
    """
    head = "".join(f' "{key}": {_compact(value)},\n' for key, value in data.items() if key != rows)
    lines = ",\n".join(f"  {_compact(row)}" for row in data[rows])
    return f'{{\n{head} "{rows}": [\n{lines}\n ]\n}}\n'


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} stands twice in one object; remove one of them")
    return found
