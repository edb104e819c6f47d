"""The prepared GPU run: what comes home is checked, and a rehearsal on the CPU leaves all of it."""

import functools
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench import plugins, pretrained
from bench.gpu import wheels
from bench.gpu.__main__ import main
from bench.gpu.parts import PARTS, RESULTS, commit, read_results

# what is installed on the machine, with what it requires; the rest is carried as wheels. It may
# hold more: what is not needed here cannot be missing there
ON_THE_MACHINE = ("torch", "numba", "pandas", "pyarrow", "scipy", "h5py", "rich", "matplotlib")


@functools.cache
def modules_that_the_machine_lacks() -> set[str]:
    """Return the top-level modules that are installed here, but not there."""
    required, there = [*ON_THE_MACHINE], {canonicalize_name(name) for name in wheels.PACKAGES}
    while required:
        name = canonicalize_name(required.pop())
        if name in there:
            continue
        there.add(name)
        try:
            found = map(Requirement, importlib.metadata.requires(name) or ())
        except importlib.metadata.PackageNotFoundError:  # for another system
            continue
        required += [one.name for one in found if one.marker is None or one.marker.evaluate()]
    return {
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if not there & {canonicalize_name(package) for package in packages}
        and module not in ("bench", "conf", "datasets", "solvers", "tests")
        and module != "numba_cuda"  # it is installed there, and not required by numba
    }


def blocked() -> str:
    """Return a program that lets no module be imported that the machine lacks."""
    return f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(modules_that_the_machine_lacks())}:
            raise ImportError(f"{{name}} is not on the machine")

sys.meta_path.insert(0, Blocked())
"""


NEEDED = """
from bench import plugins
import bench.gpu.__main__, bench.speed.ppo, bench.speed.simulator
learner = plugins.load("solver", "ppo_greedy", device="cpu")
data = plugins.load("dataset", "small", train="endless")
import antlr4, filelock, hydra, omegaconf, ortools.sat.python.cp_model, pooch, psutil, yaml
from bench.run.provenance import hardware
assert hardware()["memory_gib"] > 0
print(type(learner).__name__, data.endless)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a finished run leaves it; pretrained policies are beside it."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "policies")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "small.policy.pt").write_bytes(b"weights")
    (folder / "small.training.pt").write_bytes(b"state")
    files = {
        "small.policy.pt": hashlib.sha256(b"weights").hexdigest(),
        "small.training.pt": hashlib.sha256(b"state").hexdigest(),
    }
    parts = {
        "environment": {"commit": commit(), "seconds": 1.0},
        "simulator": {"error": "no", "seconds": 1.0},
        "ppo": {"started": "2026-01-01"},
        "train-small": {
            "config": {
                "solver": "ppo_greedy",
                "dataset": "small",
                "seed": 0,
                "options": {},
                "decisions": 9,
            },
            "facts": {f"learning/{x}": 9 for x in ("decisions", "cpu_seconds", "seconds")},
            "files": files,
            "curve": [],
            "seconds": 2.0,
        },
    }
    (folder / RESULTS).write_text(json.dumps({"schema": 1, "parts": parts}))
    return folder


def changed(run: Path, **changes: Any) -> None:
    results = read_results(run)
    for name, value in changes.items():
        results["parts"][name.replace("_", "-")] |= value
    (run / RESULTS).write_text(json.dumps(results))


def adopt(run: Path) -> int:
    home = run.parent
    places = ["--figures", str(home / "gpu.json"), "--states", str(home / "states")]
    return main(["adopt", str(run), *places])


def test_finished_parts_and_their_files_are_adopted(run: Path) -> None:
    (run.parent / "gpu.json").write_text('{"schema": 1, "parts": {"simulator": {"seconds": 9}}}')
    assert adopt(run) == 0
    figures = json.loads((run.parent / "gpu.json").read_text())["parts"]
    assert set(figures) == {"environment", "simulator", "train-small"}
    assert figures["simulator"] == {"seconds": 9}
    assert figures["train-small"]["environment"]["commit"] == commit()
    assert pretrained.checkpoint_file("pretrained/small-gpu").read_bytes() == b"weights"
    training = pretrained.read_card("small-gpu")["training"]
    assert training["set_hash"] == plugins.pinned_hashes("small")["test"]
    assert [training[name] for name in ("track", "observe")] == ["schedule", "all"]
    assert (run.parent / "states" / "small.training.pt").read_bytes() == b"state"
    card = pretrained.read_card("small-gpu") | {"note": "measured"}
    pretrained.write_card("small-gpu", card)
    assert adopt(run) == 0
    assert pretrained.read_card("small-gpu") == card, "the same policy keeps its card"
    (run / "small.policy.pt").write_bytes(b"other")
    changed(run, train_small={"files": {"small.policy.pt": hashlib.sha256(b"other").hexdigest()}})
    assert adopt(run) == 0
    assert pretrained.checkpoint_file("pretrained/small-gpu").read_bytes() == b"other"
    assert pretrained.read_card("small-gpu")["note"] != "measured"


def test_a_run_of_measurements_alone_is_adopted(run: Path) -> None:
    changed(run, train_small={"files": {}})
    assert adopt(run) == 0
    assert (run.parent / "gpu.json").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"environment": {"commit": "0" * 40}}, "commit '0+' is not in this clone"),
        ({"environment": {"commit": "--help"}}, "commit '--help' is not in this clone"),
        ({"train_small": {"files": {"../x": ""}}}, "'../x' is no file of"),
        ({"train_small": {"files": {"small.policy.pt": "00"}}}, "its content is not what"),
    ],
)
def test_what_is_not_what_it_says_is_refused(
    changes: dict[str, Any], expected: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(run, **changes)
    assert adopt(run) == 2
    assert re.search(expected, capsys.readouterr().err)
    assert not (run.parent / "policies").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["--minutes", "0", "--out", "x"], "--minutes: value 0.0: must be positive"),
        (["--out", "x", "--resume", "nowhere"], "--resume: nowhere holds no results.json"),
        (["--out", "x", "--only", "all"], "--only: all: must be of"),
        (["adopt", "nowhere"], "nowhere/results.json does not exist"),
    ],
)
def test_bad_input_is_one_line(
    line: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(line)
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    shown = capsys.readouterr().err
    assert expected in shown
    assert shown.count("\n") == 1


def test_what_the_machine_lacks_is_not_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", blocked() + NEEDED], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["PPO", "True"], done.stderr
    assert {"mlflow", "d3rlpy", "google"} <= modules_that_the_machine_lacks()


def test_wheels_are_of_the_versions_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(wheels, "_pip", lambda *arguments: asked.append(arguments))
    assert main(["wheels", str(tmp_path / "wheels")]) == 0
    assert {line[-1] for line in asked} == {
        f"{name}=={importlib.metadata.version(name)}" for name in wheels.PACKAGES
    }
    assert all("3.12" in line or line[0] == "wheel" for line in asked)


@pytest.mark.slow
def test_a_rehearsal_on_the_cpu_leaves_everything_and_is_resumed(tmp_path: Path) -> None:
    def rehearse(out: Path, *more: str) -> dict[str, Any]:
        command = ["--device", "cpu", "--minutes", "6", "--out", str(out), *more]
        program = f"{blocked()}\nfrom bench.gpu.__main__ import main\nsys.exit(main({command!r}))"
        subprocess.run([sys.executable, "-c", program], check=True)
        return read_results(out)["parts"]  # type: ignore[no-any-return]

    first = rehearse(tmp_path / "first")
    assert set(first) == set(PARTS)
    assert not [name for name, part in first.items() if "error" in part]
    curve = first["train-small"]["curve"]
    chosen = ("--only", "environment,train-small")
    again = rehearse(tmp_path / "second", "--resume", str(tmp_path / "first"), *chosen)
    assert again["train-small"]["curve"][0]["decisions"] > curve[-1]["decisions"]
    files = [path for path in (tmp_path / "first").iterdir() if path.name[0] != "."]
    assert len(files) <= 8
    assert all(path.stat().st_size < 15 * 2**20 for path in files)
    assert adopt(tmp_path / "second") == 0
