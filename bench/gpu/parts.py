"""The parts of a prepared GPU run, in order of value for their time.

| part | result |
|---|---|
| `environment` | commit, hardware and versions |
| `agreement` | whether the code for the GPU does what that for the CPU does: `pytest -m gpu` |
| `simulator` | decisions per second of random play, with and without observations |
| `ppo` | rollout, update and both at three sizes of network, without and with CUDA graphs |
| `train-NAME` | a policy and its learning curve, for each conf/gpu/NAME.yaml |
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench import plugins
from bench.contracts import Budget
from bench.errors import CRASHES, UserError, one_line
from bench.files import write_bytes, write_text
from bench.pretrained import MAX_BYTES
from bench.run.provenance import git_commit, hardware, versions
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import empty_view

RESULTS = "results.json"
TRAININGS = sorted(path.stem for path in (plugins.CONF / "gpu").glob("*.yaml"))
PARTS = ("environment", "agreement", "simulator", "ppo", *(f"train-{name}" for name in TRAININGS))
# share of the time after which a part is given up: its process ends, another goes on with the next
LIMITS = {"environment": 0.15, "agreement": 0.25, "simulator": 0.3, "ppo": 0.25}
SPARE = 40.0  # seconds after the end of a training for what it writes: policy, state and cost
GIVEN_UP = 3  # exit status of the process then
WIDTHS = (32, 64, 128)  # of the networks that are measured
TESTS = "tests/bench/simulator/test_cuda.py"
SIZES = {  # device -> environments of random play, and settings of PPO
    "cuda": (65536, {"num_envs": 16384, "steps": 32, "minibatch": 65536}),
    "cpu": (64, {"num_envs": 64, "steps": 8, "minibatch": 256}),
}

Result = dict[str, Any]


def read_results(out: Path) -> dict[str, Any]:
    """Return the content of a run's results.json."""
    found: dict[str, Any] = json.loads((out / RESULTS).read_text())
    return found


def run_all(options: argparse.Namespace, deadline: float) -> None:
    """Run all parts that have not been run; each result is written at once.

    Parameters
    ----------
    options
        `out`, `device`, `resume` and `only` of the command line.
    deadline
        `time.monotonic()` at which trainings end.
    """
    chosen = set(filter(None, options.only.split(","))) or set(PARTS)
    trainings = [name for name in PARTS if name.startswith("train-") and name in chosen]
    for name in PARTS:
        results = read_results(options.out)
        if name not in chosen or name in results["parts"]:
            continue
        results["parts"][name] = {"started": datetime.now(UTC).isoformat(timespec="seconds")}
        write_text(options.out / RESULTS, json.dumps(results))
        began = time.monotonic()
        limit = LIMITS[name] * (deadline - began) if name in LIMITS else deadline + SPARE - began
        watch = threading.Timer(limit, os._exit, [GIVEN_UP])
        watch.daemon = True
        watch.start()
        try:
            if name in trainings:
                found = train(
                    name.removeprefix("train-"), options, _until(name, trainings, deadline)
                )
                trainings.remove(name)
            else:
                found = MEASUREMENTS[name](options)
        except CRASHES as error:
            found = {"error": one_line(error), "traceback": traceback.format_exc()}
        watch.cancel()
        results["parts"][name] |= found | {"seconds": round(time.monotonic() - began, 1)}
        write_text(options.out / RESULTS, json.dumps(results))
        print(f"{name}: {found.get('error') or 'done'}", file=sys.stderr, flush=True)


def _until(name: str, trainings: list[str], deadline: float) -> float:
    """Return when a training ends: it gets its share of the time left to it and those after it."""
    shares = {one: float(_config(one.removeprefix("train-"))["share"]) for one in trainings}
    now = time.monotonic()
    return now + max(deadline - now, 0.0) * shares[name] / sum(shares.values())


# -- measurements ----------------------------------------------------------------------------------


def environment(options: argparse.Namespace) -> Result:
    """Return commit, hardware and versions."""
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: value cuda: torch finds no CUDA device")
    return {
        "device": options.device,
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions() | {"cuda": str(torch.version.cuda)},
    }


def commit() -> str | None:
    """Return the commit of the code: of the clone, or BENCH_COMMIT where there is none."""
    return os.environ.get("BENCH_COMMIT") or git_commit()


def agreement(options: argparse.Namespace) -> Result:
    """Run the tests that compare both devices, in this process: its CUDA kernels are compiled."""
    import pytest

    file = Path(__file__).parents[2] / TESTS
    if not file.exists():
        raise UserError(f"{TESTS}: not found; run from a clone")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = pytest.main(["-m", "gpu", "-q", "-p", "no:cacheprovider", str(file)])
    lines = printed.getvalue().splitlines()
    result: Result = {"status": int(status), "summary": lines[-1] if lines else ""}
    if status not in (0, 5):
        result |= {"error": "tests failed", "output": printed.getvalue()[-4000:]}
    return result


def simulator(options: argparse.Namespace) -> Result:
    """Measure random play without observations, and one step at a time with them."""
    from bench.speed import simulator as benchmark

    count = SIZES[options.device][0]
    rates = {}
    for kind in benchmark.KINDS:
        rng = np.random.default_rng(0)
        instances = [benchmark.draw_instance(rng, kind) for _ in range(64)]
        envs = TensorSimulator(instances, benchmark.SETTING, count, device=options.device)

        def play(decisions: int, envs: TensorSimulator = envs) -> None:
            envs.play_random(np.random.default_rng(1), decisions, restart=True).sum().item()

        view = empty_view(envs)

        def observe(decisions: int, envs: TensorSimulator = envs, view: Any = view) -> None:
            numbers = envs.state.env[:, 0].clone()
            for _ in range(decisions):
                envs.observe(view)
                envs.step(envs.state.mask.int().argmax(dim=1))
                envs.restart(numbers)
            envs.check()

        rates[kind] = {
            "environments": count,
            "play": round(benchmark.measure(play, 200, count, 3)[0]),
            "observe and step": round(benchmark.measure(observe, 50, count, 3)[0]),
        }
    return {"decisions_per_second": rates}


def ppo(options: argparse.Namespace) -> Result:
    """Measure PPO at three sizes of network, as many as fit into half of the part's time."""
    import torch

    from bench.speed import ppo as benchmark
    from bench.speed._roofline import measure_peaks

    peak = measure_peaks(torch.device(options.device))
    until = time.monotonic() + 60 * options.minutes * LIMITS["ppo"] / 2
    rows: list[Any] = []
    instances = benchmark.draw_instances(256)
    for width in WIDTHS:
        if rows and time.monotonic() > until:
            break
        settings = SIZES[options.device][1] | {"width": width, "device": options.device}
        for graphs in (False, True) if options.device == "cuda" else (False,):
            learner = benchmark.create_learner(**settings, cuda_graphs=graphs)
            measured = benchmark.learner_rows(learner, instances, 3, peak)
            rows += [one | {"cuda_graphs": graphs} for one in measured]
    return {"peak_flops": peak.flops, "peak_bytes": peak.bytes, "rows": rows}


MEASUREMENTS: Mapping[str, Callable[[argparse.Namespace], Result]] = {
    "environment": environment,
    "agreement": agreement,
    "simulator": simulator,
    "ppo": ppo,
}


# -- trainings -------------------------------------------------------------------------------------


class CurveLogger:
    """A training logger that keeps the validation curve, with the seconds of each point."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.curve: list[dict[str, float]] = []
        self.facts: dict[str, Any] = {}
        self._began = time.monotonic()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep a point where the policy was validated."""
        if "validation/return" in values:
            names = ("validation/return", "charts/SPS", "losses/approx_kl")
            point = {name: float(values[name]) for name in names if name in values}
            seconds = round(time.monotonic() - self._began, 2)
            self.curve.append({"decisions": step, "seconds": seconds} | point)

    def summary(self, facts: Mapping[str, Any]) -> None:
        """Keep the facts of the training."""
        self.facts |= facts

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Show nothing."""


def _config(name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(OmegaConf.load(plugins.CONF / "gpu" / f"{name}.yaml"))
    if not isinstance(content, dict):
        raise UserError(f"conf/gpu/{name}.yaml: must hold settings")
    return {str(key): value for key, value in content.items()}


def train(name: str, options: argparse.Namespace, until: float) -> Result:
    """Train what conf/gpu/NAME.yaml says until `until`, and save the policy and the state.

    The state lacks the environments, which are large: a resumed training begins new episodes.
    """
    config = _config(name)
    state = f"{name}.training.pt"
    folder = options.out / f".{name}"
    folder.mkdir(exist_ok=True)
    if options.resume is not None and (options.resume / state).exists():
        shutil.copy(options.resume / state, folder / "training.pt")
    changes = config["options"] | {"device": options.device, "save_seconds": 1e9}
    if options.device == "cpu":
        changes |= SIZES["cpu"][1]
    learner = plugins.load(
        "solver", config["solver"], **changes, max_seconds=max(until - time.monotonic(), 1.0)
    )
    data = plugins.load("dataset", config["dataset"], train="endless")
    logger = CurveLogger(folder)
    learner.fit(
        data,
        Setting(**config.get("setting", {})),
        Budget(decisions=config["decisions"], threads=1),
        np.random.default_rng(config["seed"]),
        logger,
    )
    files = {}
    for saved, content in (
        (f"{name}.policy.pt", (folder / "policy.pt").read_bytes()),
        (state, _without_environments(folder / "training.pt")),
    ):
        if len(content) > MAX_BYTES:
            raise UserError(f"{saved}: {len(content)} bytes: more than {MAX_BYTES} come back")
        write_bytes(options.out / saved, content)
        files[saved] = hashlib.sha256(content).hexdigest()
    shutil.rmtree(folder)
    return {"config": config, "curve": logger.curve, "facts": logger.facts, "files": files}


def _without_environments(path: Path) -> bytes:
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    state["environments"] = []
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()
