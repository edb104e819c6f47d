"""PPO: decisions per second of the simulator, of playing with the network, of the update, and of both together.

10 tasks x 4 agents (`small` with 10 tasks each), `instances` of them. Rows by `network`:

* `mlp`: two perceptrons 64-64, policy and value, at 10 and at 4 epochs; beside it, where they are installed, MaskablePPO of
  Stable-Baselines3-contrib and a loop in the manner of CleanRL, with the same network, epochs and instances, over our batched
  simulator and over our Gymnasium environment one by one. All are measured at the best of the settings in `SEARCH`, ours too.
* `pairs`: the pairwise network with the settings of conf/solver/ppo.yaml, on `small` itself.

Phases: `simulator`, random legal play without any network; `rollout`, decisions drawn from the network, with all that an
update needs stored; `update`, all epochs on a rollout; `end to end`, both in turn, training samples per second. Validation,
checkpoints and logging are left out, for us and for the others. An update is never stopped early. Float32 throughout.

`setting`: environments x steps, minibatch. Rates are the best of `rounds` after a first one that is not counted; engines that
are compared take turns. They are per second of processor time, user and system, of one thread, which other programs on the
machine hardly distort, and per second of the wall clock, which they do. `ratio`: our end-to-end rate per processor second over
that row's. The roofline stands beside each figure: see `_roofline`. On a GPU only the wall clock means anything.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.errors import UserError
from bench.instance import Instance
from bench.setting import Setting
from bench.speed._ppo_peers import Batched, Gymnasium, Loop, Maskable
from bench.speed._roofline import Work, count, peaks, shares, wait
from bench.speed.exact import build, read

PARTS = ("mlp", "pairs", "cuda")
EPOCHS = (10, 4)
MLP = {"network": "mlp", "width": 64}
FOREVER = 1e9  # the KL at which an update would stop
SEARCH = {  # (environments, steps, minibatch), of which the best is taken
    "batched": (
        (8, 128, 256),
        (64, 64, 512),
        (64, 64, 2048),
        (256, 32, 512),
        (256, 32, 2048),
        (256, 32, 4096),
    ),
    "gymnasium": ((8, 128, 256), (32, 64, 2048)),
}
GPU = {"envs": 16384, "steps": 32, "minibatch": 65536}  # a GPU needs many to be busy
EARLIER = {"RL4CO, L2D by PPO, JSSP 6x6": 416, "RL4CO, REINFORCE": 4700}  # samples/s

Row = dict[str, Any]
Rate = tuple[float, float]  # decisions per second of the wall clock, and of processor time


class Phase(NamedTuple):
    """Something to measure: a call that makes so many decisions, and the work in each."""

    call: Callable[[], Any]
    decisions: int
    work: Work | None = None


def rows(threads: int, rounds: int = 5, instances: int = 256, only: str = "") -> Iterator[Row]:
    """One row per network, engine, phase and number of epochs, as it is measured; `only`: one of PARTS.

    Raises:
        UserError: for another `only`.
    """
    if only not in ("", *PARTS):
        raise UserError(f"--only: {only!r} must be one of {', '.join(PARTS)}")
    peak = peaks(torch.device("cpu"))
    yield peak_row("machine", peak)
    if only in ("", "mlp"):
        yield from perceptrons(drawn(instances, [10, 10]), rounds, peak)
    if only in ("", "pairs"):
        yield from ours(configured(device="cpu"), drawn(instances), rounds, peak)
        for engine, figure in EARLIER.items():
            note = f"not measured here; an earlier figure is {figure:,} samples/s; networks differ"
            yield row({}, engine, "end to end", note=note)
    if only in ("", "cuda"):
        yield from on_gpu(drawn(instances, [10, 10]), rounds)


def configured(**changes: Any) -> Any:
    """The learner of conf/solver/ppo.yaml with changes; its updates are not stopped early."""
    return build(read("solver", "ppo") | {"max_kl": FOREVER} | changes)


def drawn(count: int, tasks: list[int] | None = None) -> list[Instance]:
    """The first training instances of `small`, or as many with so many tasks each."""
    change = {"train": count, "hashes": None} | ({} if tasks is None else {"tasks": tasks})
    return list(build(read("dataset", "small") | change).instances("train"))


# -- ours --------------------------------------------------------------------------------------------------------


def phases(learner: Any, instances: list[Instance]) -> dict[str, Phase]:
    """`rollout`, `update` and `end to end` of a learner, and `simulator` under them."""
    descent = learner.descent(instances, Setting())
    rng, decisions = np.random.default_rng(0), learner.envs * learner.steps
    descent.turn()
    rollout = learner.play(descent)
    play, update = (
        functools.partial(learner.play, descent),
        functools.partial(learner.update, descent, rollout),
    )
    work = {"rollout": count(play, decisions), "update": count(update, decisions)}
    both = Work(*(sum(parts) for parts in zip(*work.values(), strict=True)))
    simulator = learner.descent(instances, Setting()).player.simulator
    return {
        "simulator": Phase(
            lambda: simulator.play_random(rng, 16 * learner.steps, restart=True), 16 * decisions
        ),
        "rollout": Phase(play, decisions, work["rollout"]),
        "update": Phase(update, decisions, work["update"]),
        "end to end": Phase(descent.turn, decisions, both),
    }


def ours(learner: Any, instances: list[Instance], rounds: int, peak: Work) -> Iterator[Row]:
    """A row per phase of one learner."""
    of = phases(learner, instances)
    found = measure(of, rounds, torch.device(learner.device))
    yield from rows_of(learner, of, found, peak)


def rows_of(
    learner: Any, of: Mapping[str, Phase], found: Mapping[str, Rate], peak: Work
) -> Iterator[Row]:
    """What was found of each phase, beside its roofline."""
    gpu = learner.device == "cuda"
    for phase, named in of.items():
        wall, processor = found[phase]
        ratio = 1.0 if phase == "end to end" and learner.network == "mlp" else None
        line = row(
            vars(learner),
            "ours on a GPU" if gpu else "ours",
            phase,
            wall,
            None if gpu else processor,
            ratio,
        )
        yield line | (shares(named.work, wall if gpu else processor, peak) if named.work else {})


def on_gpu(instances: list[Instance], rounds: int) -> Iterator[Row]:
    """The rows of both networks on a GPU, or that there is none."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peak = peaks(torch.device(device)) if device == "cuda" else None
    if peak is not None:
        yield peak_row(torch.cuda.get_device_name(), peak)
    for settings in (*(MLP | {"epochs": epochs} for epochs in EPOCHS), {}):
        own = configured(**settings | GPU | {"device": device})
        if peak is None:
            yield row(vars(own), "ours on a GPU", "end to end", note="not measured: no CUDA device")
        else:
            yield from ours(own, instances, rounds, peak)


# -- beside others -----------------------------------------------------------------------------------------------


def perceptrons(instances: list[Instance], rounds: int, peak: Work) -> Iterator[Row]:
    """Rows of `mlp` and of its peers; all take turns."""
    best = {name: find_best(name, instances) for name in ENGINES if not absent(name)}
    for epochs in EPOCHS:
        own = configured(**MLP, **best["ours"], epochs=epochs, device="cpu")
        of = phases(own, instances)
        others = {
            name: turn(name, instances, at, epochs) for name, at in best.items() if name != "ours"
        }
        found = measure(of | others, rounds, torch.device("cpu"))
        yield from rows_of(own, of, found, peak)
        for name in ENGINES:
            if name in others:
                ratio = found["end to end"][1] / found[name][1]
                yield row(
                    MLP | best[name] | {"epochs": epochs}, name, "end to end", *found[name], ratio
                )
            elif name != "ours":
                yield row(MLP | {"epochs": epochs}, name, "end to end", note=absent(name))


ENGINES: Mapping[str, tuple[Any, str]] = {  # what plays and updates, and what it plays in
    "ours": (None, "batched"),
    "MaskablePPO, batched simulator": (Maskable, "batched"),
    "CleanRL-style loop, batched simulator": (Loop, "batched"),
    "MaskablePPO, Gymnasium": (Maskable, "gymnasium"),
    "CleanRL-style loop, Gymnasium": (Loop, "gymnasium"),
}


def absent(name: str) -> str:
    """Why an engine cannot be measured, empty if it can."""
    return (
        "not installed"
        if ENGINES[name][0] is Maskable and not importlib.util.find_spec("sb3_contrib")
        else ""
    )


def turn(name: str, instances: list[Instance], at: Mapping[str, int], epochs: int) -> Phase:
    """What an engine does end to end at one of the settings: play and update once."""
    (kind, world), decisions = ENGINES[name], at["envs"] * at["steps"]
    if world == "gymnasium":
        return Phase(
            kind(Gymnasium(instances, at["envs"]), at["steps"], at["minibatch"], epochs).turn,
            decisions,
        )
    descent = configured(**MLP, **at, epochs=epochs, device="cpu").descent(instances, Setting())
    if kind is None:
        return Phase(descent.turn, decisions)
    return Phase(
        kind(Batched(descent.player), at["steps"], at["minibatch"], epochs).turn, decisions
    )


def find_best(name: str, instances: list[Instance]) -> dict[str, int]:
    """The setting at which an engine is fastest at the smallest number of epochs, best of two turns after the first."""
    settings = [
        dict(zip(("envs", "steps", "minibatch"), at, strict=True))
        for at in SEARCH[ENGINES[name][1]]
    ]
    found = measure(
        {i: turn(name, instances, at, min(EPOCHS)) for i, at in enumerate(settings)},
        2,
        torch.device("cpu"),
    )
    return settings[max(found, key=lambda i: found[i][1])]


# -- measuring ---------------------------------------------------------------------------------------------------


def measure(calls: Mapping[Any, Phase], rounds: int, device: torch.device) -> dict[Any, Rate]:
    """Best decisions per wall second and per processor second of each; they take turns, the first round is not counted."""
    spent: dict[Any, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, phase in calls.items():
            wall, processor = time.perf_counter(), time.process_time()
            phase.call()
            wait(device)
            spent[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: (
            calls[name].decisions / min(x for x, _ in seconds[1:]),
            calls[name].decisions / min(x for _, x in seconds[1:]),
        )
        for name, seconds in spent.items()
    }


def row(
    of: Mapping[str, Any],
    engine: str,
    phase: str,
    wall: float | None = None,
    processor: float | None = None,
    ratio: float | None = None,
    note: str = "",
) -> Row:
    """One line of the table; None where nothing was measured. `of`: the settings."""
    return {
        "network": f"{of.get('network', '')} {of.get('width', '')}".strip(), "engine": engine, "phase": phase,
        "epochs": of.get("epochs") if phase in ("update", "end to end") else None,
        "setting": f"{of['envs']} x {of['steps']}, {of['minibatch']}" if "envs" in of else "",
        "per_cpu_second": None if processor is None else round(processor), "per_second": None if wall is None else round(wall),
        "ratio": None if ratio is None else round(ratio, 2),
        **dict.fromkeys(("kflop", "kbyte", "of_peak_flops", "of_peak_bytes")), "limit": "", "note": note,
    }  # fmt: skip


def peak_row(name: str, peak: Work) -> Row:
    """What the machine can do at best."""
    note = f"{peak.flops / 1e9:.0f} GFLOP/s float32 (1024 x 1024 product), {peak.bytes / 1e9:.1f} GB/s (copy of 64 MiB)"
    return row({}, name, "peak", note=note)
