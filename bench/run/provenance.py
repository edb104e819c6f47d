"""Where a record comes from: code version, package versions, hardware."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

PACKAGES = (
    "dl-scheduling-bench",
    "numpy",
    "numba",
    "numba-cuda",
    "scipy",
    "ortools",
    "torch",
    "mlflow",
    "hydra-core",
)
PEERS = (
    "highspy",
    "pyscipopt",
    "pyjobshop",
    "stable_baselines3",
    "sb3-contrib",
    "gymnasium",
    "optuna",
)


@functools.cache
def git_commit() -> str | None:
    """Return the commit of this code, `-dirty` with uncommitted changes; None outside a clone."""
    code = Path(__file__).parents[2]
    commit = _output("git", "-C", str(code), "rev-parse", "HEAD")
    if commit is None or not (code / ".git").exists():
        return None
    changed = _output("git", "-C", str(code), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that decide results."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *PEERS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def hardware() -> dict[str, str | int | float]:
    """Return processor, cores this process may use, memory in GiB, system and GPUs."""
    import psutil

    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": ", ".join(sorted(gpus.splitlines())) if gpus else "",
    }


def hardware_line() -> str:
    """Return the hardware in a few words."""
    facts = hardware()
    gpu = f", {facts['gpu']}" if facts["gpu"] else ""
    return f"{facts['cores']} cores {facts['cpu']}, {facts['memory_gib']:.0f} GiB{gpu}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _output(*command: str) -> str | None:
    """Return what a command prints; None where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
