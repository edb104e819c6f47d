"""Pretrained policies, which the suite includes: `solver.checkpoint=pretrained/NAME`.

A policy is two files in `policies/`: NAME.pt, which a learner's `checkpoint` reads (weights only,
no code), and NAME.json, its card: how it was trained, what it may observe, its measured gaps, and
the SHA-256 of NAME.pt, which is checked before every use. `python -m bench.pretrained` lists them,
adds the policy of a finished run and measures gaps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import file_hash
from bench.instance import read_json

FOLDER = Path(__file__).parent / "policies"
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
