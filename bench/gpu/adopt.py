"""`python -m bench.gpu adopt DIR`: check what a GPU run left, and bring it home."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import file_hash, write_bytes, write_text
from bench.gpu.parts import MAX_BYTES, RESULTS
from bench.instance import read_json
from bench.programs import ArgumentParser

FIGURES = Path(__file__).parents[1] / "results" / "gpu.json"
POLICIES = Path(__file__).parents[1] / "results" / "policies"


def main(arguments: Sequence[str]) -> int:
    """Adopt a run; the policies keep their names, the figures replace those of the same parts."""
    parser = ArgumentParser(prog="python -m bench.gpu adopt", description=__doc__)
    parser.add_argument("folder", type=Path, help="the --out of a run")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="default %(default)s")
    parser.add_argument("--policies", type=Path, default=POLICIES, help="default %(default)s")
    options = parser.parse_args(arguments)
    results = checked(options.folder)
    figures: dict[str, Any] = {"schema": 1, "parts": {}}
    if options.figures.exists():
        figures = read_json(options.figures)
    environment = results["parts"]["environment"]
    for name, part in results["parts"].items():
        if "error" in part or "seconds" not in part:
            continue
        figures["parts"][name] = part | {"environment": environment}
        for file in part.get("files", {}):
            options.policies.mkdir(parents=True, exist_ok=True)
            write_bytes(options.policies / file, (options.folder / file).read_bytes())
    write_text(options.figures, json.dumps(figures, indent=1) + "\n")
    print(f"{options.figures}: {', '.join(figures['parts'])}")
    return 0


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
            if (folder / file).stat().st_size > MAX_BYTES:
                raise UserError(f"adopt: {folder / file}: larger than {MAX_BYTES} bytes")
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
