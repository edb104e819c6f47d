"""`python -m bench.gpu wheels DIR`: the packages that a GPU machine lacks, as files."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError
from bench.paths import output_folder
from bench.programs import ArgumentParser

PACKAGES = (
    "hydra-core",
    "omegaconf",
    "antlr4-python3-runtime",
    "PyYAML",
    "ortools",
    "pooch",
    "platformdirs",
    "filelock",
    "psutil",
)
BUILT = ("antlr4-python3-runtime",)  # there is no wheel of it: it is built here
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")


def main(arguments: Sequence[str]) -> int:
    """Fill the folder with wheels for Python 3.12 on Linux x86-64, without what they depend on."""
    parser = ArgumentParser(prog="python -m bench.gpu wheels", description=__doc__)
    parser.add_argument("folder", type=Path, help="install from it with --no-index --find-links")
    options = parser.parse_args(arguments)
    output_folder("folder", options.folder)
    options.folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        version = importlib.metadata.version(package)  # the one that is in use here
        _pip(*_command(package, options.folder), f"{package}=={version}")
    found = sorted(options.folder.glob("*.whl"))
    size = sum(path.stat().st_size for path in found)
    print(f"{options.folder}: {len(found)} wheels, {size / 2**20:.0f} MiB; on the machine:")
    print(f"pip install --no-index --no-deps {options.folder}/*.whl")
    return 0


def _command(package: str, folder: Path) -> tuple[str, ...]:
    if package in BUILT:
        return ("wheel", "--no-deps", "--wheel-dir", str(folder))
    platforms = (word for name in PLATFORMS for word in ("--platform", name))
    only = ("--only-binary=:all:", "--python-version", PYTHON)
    return ("download", "--no-deps", *only, *platforms, "--dest", str(folder))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise UserError(f"wheels: pip {' '.join(arguments)}: {lines[-1] if lines else 'failed'}")
