"""Pretrained policies, which the suite includes: `solver.checkpoint=pretrained/NAME`.

A policy is two files in `policies/`: NAME.pt, which a learner's `checkpoint` reads (weights only,
no code), and NAME.json, its card: how it was trained, what it may observe, its measured gaps, and
the SHA-256 of NAME.pt, which is checked before every use. `python -m bench.pretrained` lists them,
adds the policy of a finished run and measures gaps.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import file_hash, write_bytes, write_text
from bench.instance import read_json

FOLDER = Path(__file__).parent / "policies"
# what a card says
SETTING = ("track", "objective", "mode", "backfill", "event_order")
PROBLEM = ("dataset", "split", *SETTING)  # what a gap is of
MEASURED = ("n_instances", "gap_mean", "objective_mean")  # of each gap, beside its interval
TRAINING = ("solver", *PROBLEM, "observe", "seed", "set_hash", "git_commit")
COST = ("decisions", "cpu_seconds", "seconds")  # of the training, in a record as learning/...
MAX_BYTES = 15 * 2**20  # of a policy's file
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
PREFIX = "pretrained/"  # of a `checkpoint` that names a policy of this folder


def names() -> list[str]:
    """Return the names of all policies."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_card(name: str) -> dict[str, Any]:
    """Return the card of a policy.

    Raises
    ------
    UserError
        If there is none of that name; it lists those there are.
    """
    if name not in names():
        known = ", ".join(names()) or "none yet"
        raise UserError(
            f"checkpoint: value {PREFIX}{name}: no such policy; there are: "
            f"{known}; write ./{PREFIX}{name} for a file of your own"
        )
    card: dict[str, Any] = read_json(FOLDER / f"{name}.json")
    return card


def checkpoint_file(checkpoint: str | Path) -> Path:
    """Return the file that a checkpoint option names.

    Raises
    ------
    UserError
        If a pretrained policy does not exist, or its file is not the one of its card.
    """
    text = str(checkpoint)
    if not text.startswith(PREFIX):
        return Path(text).expanduser()
    name = text.removeprefix(PREFIX)
    path, expected = FOLDER / f"{name}.pt", read_card(name)["sha256"]
    if not path.is_file() or file_hash(path) != expected:
        raise UserError(
            f"checkpoint: value {text}: {path.name} is missing or not the file of its card "
            f"(SHA-256 {expected[:12]}...); restore both files"
        )
    return path


def trained_for(set_hash: str, *setting: str) -> list[str]:
    """Return the policies that were trained for some test instances in the same setting.

    Parameters
    ----------
    set_hash
        Of the test instances.
    setting
        What a policy observes, the objective and the mode.
    """
    wanted = [set_hash, *setting]
    cards = {name: read_card(name)["training"] for name in names()}
    keys = ("set_hash", "observe", "objective", "mode")
    return [name for name, card in cards.items() if [card[key] for key in keys] == wanted]


def keep(name: str, policy: bytes, card: Mapping[str, Any], replace: bool = False) -> None:
    """Write a policy's file, and its card with the file's hash.

    Parameters
    ----------
    name
        Of the policy.
    policy
        The content of its file.
    card
        Its note, training and gaps.
    replace
        Whether it replaces a policy of that name.

    Raises
    ------
    UserError
        For a name that cannot be one or is taken, or a file that is too large.
    """
    if len(policy) > MAX_BYTES:
        raise UserError(f"policy: {name}: larger than {MAX_BYTES} bytes; train a smaller network")
    if not NAME.fullmatch(name):
        raise UserError(f"name: value {name!r}: must be letters, digits, - and _")
    if name in names() and not replace:
        raise UserError(f"name: value {name!r}: exists; remove its two files first, or rename it")
    digest = hashlib.sha256(policy).hexdigest()
    FOLDER.mkdir(exist_ok=True)
    write_card(name, {**card, "schema": 1, "sha256": digest})
    write_bytes(FOLDER / f"{name}.pt", policy)


def write_card(name: str, card: Mapping[str, Any]) -> None:
    """Write the card of a policy."""
    write_text(FOLDER / f"{name}.json", json.dumps(card, indent=1, allow_nan=False) + "\n")
