"""What there is to choose from: the files of conf/, found from a clone, an editable install and a wheel alike."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from bench.errors import UserError

HERE = Path(__file__).parent
CONF = next(
    folder for folder in (HERE / "conf", HERE.parent / "conf") if (folder / "config.yaml").exists()
)
GROUPS = ("solver", "dataset", "logs", "budget", "tracking")


def members(group: str) -> dict[str, str]:
    """name -> the first line of comment, of every file of a group."""
    found = {}
    for path in (CONF / group).glob("*.yaml"):
        comments = [
            text[1:].strip() for text in path.read_text().splitlines() if text.startswith("#")
        ]
        found[path.stem] = next((text for text in comments if not text.startswith("@package")), "")
    return found


def own_packages() -> None:
    """Make sure that the suite's own `datasets` and `solvers` are found: both are common names.

    Raises:
        UserError: saying what is found instead, and what to do.
    """
    for name in ("datasets", "solvers"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).parents[1] != HERE.parent:
            raise UserError(
                f"{name}: Python finds {spec.origin if spec else 'nothing'} under this name, not the suite's own package "
                f"(Hugging Face's `datasets` has the same name); give the suite its own environment, or run from its folder"
            )
