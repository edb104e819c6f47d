"""Decisions per second of the simulator: N=32 tasks, M=8 agents, random legal actions.

Observations and masks are written in every step. Beside the simulator on the CPU stand the same
decision process in torch, eager and vectorised over the environments, and, if there is a GPU, the
simulator on it. Rates are the best of several rounds, per second of the wall clock and of the
processor time of the thread, which other programs on the machine do not distort. With several
threads or a GPU only the wall clock is meaningful. `ratio`: the rate of the simulator on the CPU
over that of the engine, by processor time with one thread, by the wall clock otherwise and for a
GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.instance import Instance
from bench.setting import Setting
from bench.simulator import Simulator
from bench.simulator.tensors import TensorSimulator
from bench.speed._eager import EagerSimulator

SETTING = Setting(track="online", observe="arrived")
N, M, T, R = 32, 8, 3, 2
KINDS = ("poisson", "at once", "quotas")
ENVIRONMENTS = 1024
GPU_ENVIRONMENTS = 131072  # a GPU needs many environments
GPU_ENGINE = "simulator on the GPU"

Row = dict[str, Any]


def draw_instance(rng: np.random.Generator, kind: str) -> Instance:
    """Draw an instance of 32 tasks with two resources on 8 agents of 3 types.

    Parameters
    ----------
    rng
        Source of all randomness.
    kind
        `poisson`: arrivals at about the rate at which the agents can serve; `at once`: all tasks
        arrive at tick 0; `quotas`: as `poisson`, with quotas for 4 tenants.
    """
    duration = rng.integers(5, 100, (N, T))
    demand = np.stack([rng.choice([1, 1, 1, 2, 4], N), rng.integers(1, 9, N)], axis=1)
    more: dict[str, Any] = {}
    if kind != "at once":
        more.update(release=np.cumsum(rng.poisson(duration.mean() / 12, N)))
    if kind == "quotas":
        more.update(tenant=rng.integers(0, 4, N), quota=np.tile([12, 80], (4, 1)))
    return Instance(
        duration=duration,
        demand=np.repeat(demand[:, None], T, axis=1),
        capacity=np.tile([4, 32], (M, 1)),
        agent_type=np.arange(M) % T,
        weight=rng.integers(1, 5, N),
        **more,
    )


def rows(threads: int, environments: int = ENVIRONMENTS, rounds: int = 10) -> list[Row]:
    """Return one row per kind of instance and engine.

    Parameters
    ----------
    threads
        To which the command has limited numba and torch; 1: ratios are by processor time.
    environments
        Number of environments on the CPU.
    rounds
        Measurements, of which the fastest counts.
    """
    table = []
    for kind in KINDS:
        rng = np.random.default_rng(0)
        instances = [draw_instance(rng, kind) for _ in range(environments)]
        simulator = Simulator(instances, SETTING)
        engines: dict[str, tuple[Callable[[int], Any], int]] = {
            "simulator": (partial(simulator.play_random, rng, restart=True), 200)
        }
        if kind != "quotas":  # the eager simulator has no quotas
            engines["torch eager"] = (EagerSimulator(instances, seed=0).play_random, 5)
        rates = {
            name: measure(play, decisions, environments, rounds)
            for name, (play, decisions) in engines.items()
        }
        ours = rates["simulator"]
        for name, (wall, processor) in rates.items():
            ratio = ours[1] / processor if threads == 1 else ours[0] / wall
            table.append(row(kind, name, environments, wall, processor, ratio))
        table.append(gpu_row(kind, instances, rounds, ours[0]))
    return table


def row(
    kind: str,
    engine: str,
    environments: int,
    wall: float | None = None,
    processor: float | None = None,
    ratio: float | None = None,
    note: str = "",
) -> Row:
    """Return one row of the table; None where nothing was measured.

    Parameters
    ----------
    kind, engine, environments, note
        Columns of the table.
    wall, processor
        Decisions per second of the wall clock and of processor time.
    ratio
        Our rate on the CPU over that of this row.
    """
    return {
        "instances": kind,
        "engine": engine,
        "environments": environments,
        "decisions_per_second": None if wall is None else round(wall),
        "per_cpu_second": None if processor is None else round(processor),
        "ratio": None if ratio is None else round(ratio, 4 if ratio < 1 else 1),
        "note": note,
    }


def gpu_row(kind: str, instances: list[Instance], rounds: int, cpu_rate: float) -> Row:
    """Measure random legal actions on the GPU and return the row.

    `cpu_rate`: decisions per second of the simulator on the CPU, by the wall clock.
    """
    if not torch.cuda.is_available():
        return row(kind, GPU_ENGINE, GPU_ENVIRONMENTS, note="not measured: no CUDA device")
    rng = np.random.default_rng(0)
    try:
        simulator = TensorSimulator(instances, SETTING, GPU_ENVIRONMENTS, device="cuda")
    except ImportError as error:
        return row(kind, GPU_ENGINE, GPU_ENVIRONMENTS, note=f"not measured: {error}")

    def play(decisions: int) -> None:
        simulator.play_random(rng, decisions, restart=True).sum().item()  # waits for the GPU

    wall, _ = measure(play, 200, GPU_ENVIRONMENTS, rounds)
    device = torch.cuda.get_device_name()
    return row(kind, GPU_ENGINE, GPU_ENVIRONMENTS, wall, None, cpu_rate / wall, device)


def measure(
    play: Callable[[int], Any], decisions: int, environments: int, rounds: int
) -> tuple[float, float]:
    """Return decisions per second of the wall clock and of the processor time of this thread.

    Each is the best of `rounds` calls after a first one that is not counted, in which code is
    compiled.

    Parameters
    ----------
    play
        Makes the given number of decisions in each environment.
    decisions, environments
        Decisions per call and environment; number of environments.
    rounds
        Number of calls.
    """
    play(decisions)
    walls = []
    processors = []
    for _ in range(rounds):
        wall = time.perf_counter()
        processor = time.thread_time()
        play(decisions)
        walls.append(time.perf_counter() - wall)
        processors.append(time.thread_time() - processor)
    total = decisions * environments
    return total / min(walls), total / min(processors)
