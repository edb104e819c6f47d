"""Decisions per second of the simulator: N=32 tasks, M=8 agents, random legal play, observations and masks written.

Beside it the same process written in torch, eagerly, vectorised over the environments, and, where there is a GPU, the
simulator on it. Rates are the best of several rounds, by the wall clock and by the processor time of the thread, which other
programs on the machine do not distort; with several threads or a GPU only the wall clock means anything. `ratio` says how
many times as fast as that engine the simulator on the CPU is, by processor time with one thread, else and beside a GPU by the
wall clock.
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
from bench.speed._eager import Eager

SETTING = Setting(track="online", observe="arrived")
N, M, T, R = 32, 8, 3, 2
KINDS = ("poisson", "at once", "quotas")
ENVIRONMENTS = 1024
GPU_ENVIRONMENTS = 131072  # a GPU needs many to be busy


def build(rng: np.random.Generator, kind: str) -> Instance:
    """An instance of 32 tasks with two resources on 8 agents of 3 types.

    `poisson`: arrivals at about the rate at which the agents serve; `at once`: all at tick 0; `quotas`: Poisson and 4 tenants.
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


def rows(threads: int, environments: int = ENVIRONMENTS, rounds: int = 10) -> list[dict[str, Any]]:
    """One row per kind of instance and engine."""
    found = []
    for kind in KINDS:
        rng = np.random.default_rng(0)
        instances = [build(rng, kind) for _ in range(environments)]
        simulator = Simulator(instances, SETTING)
        engines: dict[str, tuple[Callable[[int], Any], int]] = {
            "simulator": (partial(simulator.play_random, rng, restart=True), 200)
        }
        if kind != "quotas":  # the eager equivalent knows no quotas
            engines["torch eager"] = (Eager(instances, seed=0).play_random, 5)
        rates = {
            name: rate(play, decisions, environments, rounds)
            for name, (play, decisions) in engines.items()
        }
        mine = rates["simulator"]
        for name, (wall, processor) in rates.items():
            ratio = mine[1] / processor if threads == 1 else mine[0] / wall
            found.append(row(kind, name, environments, wall, processor, ratio))
        found.append(on_gpu(kind, instances, rounds, mine[0]))
    return found


def row(
    kind: str,
    engine: str,
    environments: int,
    wall: float | None,
    processor: float | None,
    ratio: float | None,
    note: str = "",
) -> dict[str, Any]:
    """One line of the table; None where nothing was measured."""
    return {
        "instances": kind, "engine": engine, "environments": environments,
        "decisions_per_second": None if wall is None else round(wall),
        "per_cpu_second": None if processor is None else round(processor),
        "ratio": None if ratio is None else round(ratio, 4 if ratio < 1 else 1), "note": note,
    }  # fmt: skip


def on_gpu(kind: str, instances: list[Instance], rounds: int, mine: float) -> dict[str, Any]:
    """The row of random play on the GPU; `mine` is the rate of the simulator on the CPU by the wall clock."""
    if not torch.cuda.is_available():
        return row(
            kind,
            "simulator on the GPU",
            GPU_ENVIRONMENTS,
            None,
            None,
            None,
            "not measured: no CUDA device",
        )
    rng = np.random.default_rng(0)
    try:
        simulator = TensorSimulator(instances, SETTING, GPU_ENVIRONMENTS, device="cuda")
    except ImportError as error:
        return row(
            kind,
            "simulator on the GPU",
            GPU_ENVIRONMENTS,
            None,
            None,
            None,
            f"not measured: {error}",
        )

    def play(decisions: int) -> None:
        simulator.play_random(rng, decisions, restart=True).sum().item()  # waits for the GPU

    wall, _ = rate(play, 200, GPU_ENVIRONMENTS, rounds)
    name = torch.cuda.get_device_name()
    return row(kind, "simulator on the GPU", GPU_ENVIRONMENTS, wall, None, mine / wall, name)


def rate(
    play: Callable[[int], Any], decisions: int, environments: int, rounds: int
) -> tuple[float, float]:
    """Best decisions/s by wall clock and by this thread's processor time; a first round, not counted, compiles and warms up."""
    play(decisions)
    walls, processors = [], []
    for _ in range(rounds):
        wall, processor = time.perf_counter(), time.thread_time()
        play(decisions)
        walls.append(time.perf_counter() - wall)
        processors.append(time.thread_time() - processor)
    total = decisions * environments
    return total / min(walls), total / min(processors)
