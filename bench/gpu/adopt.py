"""`python -m bench.gpu adopt DIR`: check what a GPU run left, and copy it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import pretrained
from bench.errors import UserError
from bench.files import file_hash, write_bytes, write_text
from bench.gpu.parts import RESULTS
from bench.instance import read_json
from bench.plugins import pinned_hashes
from bench.programs import ArgumentParser
from bench.setting import Setting

FIGURES = Path(__file__).parents[1] / "results" / "gpu.json"
STATES = Path(__file__).parents[1] / "results" / "gpu"
POLICY = ".policy.pt"  # after the name of a training


def main(arguments: Sequence[str]) -> int:
    """Adopt a run: policies become NAME-gpu, figures replace those of the same parts."""
    parser = ArgumentParser(prog="python -m bench.gpu adopt", description=__doc__)
    parser.add_argument("folder", type=Path, help="the --out of a run")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="default %(default)s")
    parser.add_argument(
        "--states",
        type=Path,
        default=STATES,
        help="of trainings, for --resume; default %(default)s",
    )
    options = parser.parse_args(arguments)
    results = checked(options.folder)
    figures: dict[str, Any] = {"schema": 1, "parts": {}}
    if options.figures.exists():
        figures = read_json(options.figures)
    environment = results["parts"]["environment"]
    options.states.mkdir(parents=True, exist_ok=True)
    for name, part in results["parts"].items():
        if "error" in part or "seconds" not in part:
            continue
        figures["parts"][name] = part | {"environment": environment}
        for file, digest in part.get("files", {}).items():
            content = (options.folder / file).read_bytes()
            if file.endswith(POLICY):
                name_there = f"{file.removesuffix(POLICY)}-gpu"
                keep_policy(name_there, content, digest, card(part, environment))
            else:
                write_bytes(options.states / file, content)
    write_text(options.states / RESULTS, json.dumps(results))
    write_text(options.figures, json.dumps(figures, indent=1) + "\n")
    print(f"{options.figures}: {', '.join(figures['parts'])}")
    return 0


def keep_policy(name: str, content: bytes, digest: str, found: dict[str, Any]) -> None:
    """Make a trained policy a pretrained one; an earlier one of its name is replaced."""
    if name in pretrained.names():
        known = pretrained.read_card(name)
        if known["sha256"] == digest:
            return
        print(f"{name}: replaces the policy of commit {known['training']['git_commit'][:10]}")
    pretrained.keep(name, content, found, replace=True)
    print(f"measure its gap: python -m bench.pretrained evaluate {name}")


def card(part: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card of a trained policy, without gaps."""
    config, facts = part["config"], part["facts"]
    training = {
        "solver": config["solver"],
        "dataset": config["dataset"],
        "split": "test",
        "seed": config["seed"],
        "set_hash": pinned_hashes(config["dataset"]).get("test"),
        "git_commit": environment["commit"],
        "hardware": environment.get("hardware", {}),
        "options": {
            "solver": config["options"],
            "dataset": {"name": config["dataset"], "train": "endless"},
            "budget": {"decisions": config["decisions"]},
        },
        **{name: facts[f"learning/{name}"] for name in pretrained.COST},
        **asdict(Setting(**config.get("setting", {}))),
    }
    return {"note": "Trained by python -m bench.gpu.", "training": training, "gaps": []}


def checked(folder: Path) -> dict[str, Any]:
    """Return the results of a run whose files and commit are what they say.

    Raises
    ------
    UserError
        Naming what is wrong.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise UserError(f"adopt: {path} does not exist; name the --out of a GPU run")
    results: Any = read_json(path)
    parts = results.get("parts") if isinstance(results, dict) else None
    if not isinstance(parts, dict) or "commit" not in parts.get("environment", {}):
        raise UserError(f"adopt: {path}: no part `environment` with a commit: not a whole run")
    commit = parts["environment"]["commit"]
    if not _is_commit(str(commit).removesuffix("-dirty")):
        raise UserError(f"adopt: {path}: commit {commit!r} is not in this clone; fetch it first")
    for name, part in parts.items():
        for file, digest in part.get("files", {}).items():
            if Path(file).name != file or not (folder / file).is_file():
                raise UserError(f"adopt: parts.{name}.files: {file!r} is no file of {folder}")
            if (folder / file).stat().st_size > pretrained.MAX_BYTES:
                raise UserError(f"adopt: {folder / file}: larger than {pretrained.MAX_BYTES} bytes")
            if file_hash(folder / file) != digest:
                raise UserError(f"adopt: {folder / file}: its content is not what {RESULTS} says")
    found: dict[str, Any] = results
    return found


def _is_commit(name: str) -> bool:
    """Return whether a commit is an ancestor of, or equal to, one that this clone has."""
    if not name or name.startswith("-"):
        return False
    command = ["git", "-C", str(Path(__file__).parent), "cat-file", "-e", f"{name}^{{commit}}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
