"""PPO: decisions per second of the simulator, the rollout, the update, and a whole iteration.

The instances are `instances` of the dataset `small` with 10 tasks on 4 agents each. Networks:

* `mlp`: two perceptrons 64-64, policy and value, at 10 and at 4 epochs. Where they are installed,
  MaskablePPO of Stable-Baselines3-contrib and a loop in the style of CleanRL stand beside it, with
  the same network, epochs and instances, over our batched simulator and over single environments of
  our Gymnasium class. Every engine, ours included, runs at the fastest of the settings in `SEARCH`.
* `pairs`: the pairwise network with the settings of conf/solver/ppo.yaml, on `small` itself.

Phases: `simulator`, random legal actions without a network; `rollout`, decisions drawn from the
policy, with all that an update needs stored; `update`, all epochs on one rollout; `end to end`,
rollout and update in turn, in training samples per second. Validation, checkpoints and logging are
left out for all engines. No update is stopped early. All numbers are float32.

`setting`: environments x steps, minibatch. Rates are the best of `rounds` after a first one that is
not counted; engines that are compared are measured in turn. They are per second of processor time
(user and system) of one thread, which other programs on the machine hardly distort, and per second
of the wall clock, which they do distort. On a GPU only the wall clock is meaningful. `ratio`: our
end-to-end rate per processor second over that of the row. The columns from `kflop` on are the
roofline model of `bench.speed._roofline`.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from bench.errors import UserError
from bench.instance import Instance
from bench.plugins import load
from bench.setting import Setting
from bench.speed._ppo_peers import (
    BatchedEnvs,
    CleanRLPPO,
    GymnasiumEnvs,
    MaskablePPO,
    VectorEnvs,
)
from bench.speed._roofline import (
    Work,
    count_work,
    measure_peaks,
    roofline_columns,
    synchronize,
)

PARTS = ("mlp", "pairs", "cuda")
EPOCHS = (10, 4)
MLP = {"network": "mlp", "width": 64}
NO_MAX_KL = 1e9  # `max_kl` at which no update is stopped early
SEARCH = {  # settings (num_envs, steps, minibatch), of which an engine runs at the fastest
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
GPU = {"num_envs": 16384, "steps": 32, "minibatch": 65536}  # a GPU needs many environments
EARLIER = {"RL4CO, L2D by PPO, JSSP 6x6": 416, "RL4CO, REINFORCE": 4700}  # samples/s

Key = TypeVar("Key")
Row = dict[str, Any]
Rate = tuple[float, float]  # decisions per second of the wall clock and of processor time


class Phase(NamedTuple):
    """A call to measure, the number of decisions it makes, and the work per decision."""

    call: Callable[[], Any]
    decisions: int
    work: Work | None = None


def rows(threads: int, rounds: int = 5, instances: int = 256, only: str = "") -> Iterator[Row]:
    """Yield one row per network, engine, phase and number of epochs.

    Parameters
    ----------
    threads
        Not used here: the command has limited the threads already.
    rounds
        Calls per measurement, of which the fastest counts.
    instances
        Number of training instances.
    only
        One of PARTS; default: all.

    Raises
    ------
    UserError
        For another value of `only`.
    """
    if only not in ("", *PARTS):
        raise UserError(f"--only: {only!r} must be one of {', '.join(PARTS)}")
    peak = measure_peaks(torch.device("cpu"))
    yield peak_row("machine", peak)
    if only in ("", "mlp"):
        yield from mlp_rows(draw_instances(instances, [10, 10]), rounds, peak)
    if only in ("", "pairs"):
        small = draw_instances(instances)
        yield from learner_rows(create_learner(device="cpu"), small, rounds, peak)
        yield process_row(create_learner(device="cpu"), small, rounds)
        for engine, rate in EARLIER.items():
            note = f"not measured here; an earlier figure is {rate:,} samples/s; networks differ"
            yield row({}, engine, "end to end", note=note)
    if only in ("", "cuda"):
        yield from gpu_rows(draw_instances(instances, [10, 10]), rounds)


def create_learner(**changes: Any) -> Any:
    """Return the learner of conf/solver/ppo.yaml with changes; its updates never stop early."""
    return load("solver", "ppo", **({"max_kl": NO_MAX_KL} | changes))


def draw_instances(count: int, tasks: list[int] | None = None) -> list[Instance]:
    """Return the first `count` training instances of `small`.

    `tasks`: the smallest and the largest number of tasks; default: as in the configuration.
    """
    changes = {} if tasks is None else {"tasks": tasks}
    return list(load("dataset", "small", train=count, hashes=None, **changes).instances("train"))


# -- the learner of the suite --------------------------------------------------------------------


def phases(learner: Any, instances: list[Instance]) -> dict[str, Phase]:
    """Return the phases of a learner: `simulator`, `rollout`, `update` and `end to end`."""
    trainer = learner.trainer(instances, Setting())
    rng = np.random.default_rng(0)
    decisions = learner.num_envs * learner.steps
    trainer.train_iteration()
    rollout = learner.collect(trainer)
    collect = functools.partial(learner.collect, trainer)
    update = functools.partial(learner.update, trainer, rollout)
    # operations inside of CUDA graphs would not be counted
    plain = replace(learner, cuda_graphs=False)
    counted = plain.trainer(instances, Setting())
    rollout_work = count_work(functools.partial(plain.collect, counted), decisions)
    played = plain.collect(counted)
    update_work = count_work(functools.partial(plain.update, counted, played), decisions)
    whole = Work(rollout_work.flops + update_work.flops, rollout_work.bytes + update_work.bytes)
    simulator = counted.collector.simulator
    play_random = functools.partial(simulator.play_random, rng, 16 * learner.steps, restart=True)
    return {
        "simulator": Phase(play_random, 16 * decisions),
        "rollout": Phase(collect, decisions, rollout_work),
        "update": Phase(update, decisions, update_work),
        "end to end": Phase(trainer.train_iteration, decisions, whole),
    }


def learner_rows(learner: Any, instances: list[Instance], rounds: int, peak: Work) -> Iterator[Row]:
    """Measure every phase of one learner and yield a row for each."""
    measured = phases(learner, instances)
    rates = measure(measured, rounds, torch.device(learner.device))
    yield from phase_rows(learner, measured, rates, peak)


def process_row(learner: Any, instances: list[Instance], rounds: int) -> Row:
    """Measure the training in two processes in turn with that in one; return its row."""
    alone = learner.trainer(instances, Setting())
    decisions = learner.num_envs * learner.steps
    with learner.trainer_in_processes(2, instances, Setting()) as trainer:
        measured = {
            1: Phase(alone.train_iteration, decisions),
            2: Phase(trainer.train_iteration, decisions),
        }
        rates = measure(measured, rounds, torch.device("cpu"))
    times = f"{rates[2][0] / rates[1][0]:.2f} times the rate of one process by the wall clock"
    return row(vars(learner), "ours, 2 processes", "end to end", rates[2][0], note=times)


def phase_rows(
    learner: Any, measured: Mapping[str, Phase], rates: Mapping[str, Rate], peak: Work
) -> Iterator[Row]:
    """Yield a row for each phase of our learner, with its roofline."""
    gpu = learner.device == "cuda"
    engine = "ours on a GPU" if gpu else "ours"
    for name, phase in measured.items():
        wall, processor = rates[name]
        ratio = 1.0 if name == "end to end" and learner.network == "mlp" else None
        line = row(vars(learner), engine, name, wall, None if gpu else processor, ratio)
        if phase.work:
            line |= roofline_columns(phase.work, wall if gpu else processor, peak)
        yield line


def gpu_rows(instances: list[Instance], rounds: int) -> Iterator[Row]:
    """Yield the rows of both networks on a GPU, with a note where there is none."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peak = measure_peaks(torch.device(device)) if device == "cuda" else None
    if peak is not None:
        yield peak_row(torch.cuda.get_device_name(), peak)
    for settings in (*(MLP | {"epochs": epochs} for epochs in EPOCHS), {}):
        learner = create_learner(**settings | GPU | {"device": device})
        if peak is None:
            note = "not measured: no CUDA device"
            yield row(vars(learner), "ours on a GPU", "end to end", note=note)
        else:
            yield from learner_rows(learner, instances, rounds, peak)


# -- beside other implementations -----------------------------------------------------------------


ENGINES: Mapping[str, tuple[Any, str]] = {  # name -> (peer, None for ours; its environments)
    "ours": (None, "batched"),
    "MaskablePPO, batched simulator": (MaskablePPO, "batched"),
    "CleanRL-style loop, batched simulator": (CleanRLPPO, "batched"),
    "MaskablePPO, Gymnasium": (MaskablePPO, "gymnasium"),
    "CleanRL-style loop, Gymnasium": (CleanRLPPO, "gymnasium"),
}


def mlp_rows(instances: list[Instance], rounds: int, peak: Work) -> Iterator[Row]:
    """Yield the rows of our learner with the network `mlp` and of its peers, measured in turn."""
    best = {
        name: find_best_setting(name, instances) for name in ENGINES if not reason_missing(name)
    }
    for epochs in EPOCHS:
        learner = create_learner(**MLP, **best["ours"], epochs=epochs, device="cpu")
        ours = phases(learner, instances)
        peers = {
            name: iteration_phase(name, instances, setting, epochs)
            for name, setting in best.items()
            if name != "ours"
        }
        rates = measure(ours | peers, rounds, torch.device("cpu"))
        yield from phase_rows(learner, ours, rates, peak)
        for name in ENGINES:
            settings: dict[str, Any] = MLP | {"epochs": epochs}
            if name in peers:
                ratio = rates["end to end"][1] / rates[name][1]
                yield row(settings | best[name], name, "end to end", *rates[name], ratio)
            elif name != "ours":
                yield row(settings, name, "end to end", note=reason_missing(name))


def reason_missing(name: str) -> str:
    """Return why an engine cannot be measured, empty if it can."""
    needed = ENGINES[name][0] is MaskablePPO
    return "not installed" if needed and not importlib.util.find_spec("sb3_contrib") else ""


def iteration_phase(
    name: str, instances: list[Instance], setting: Mapping[str, int], epochs: int
) -> Phase:
    """Return the phase `end to end` of an engine at a setting: one rollout and its update."""
    peer, environments = ENGINES[name]
    decisions = setting["num_envs"] * setting["steps"]
    envs: VectorEnvs
    if environments == "gymnasium":
        envs = GymnasiumEnvs(instances, setting["num_envs"])
    else:
        learner = create_learner(**MLP, **setting, epochs=epochs, device="cpu")
        trainer = learner.trainer(instances, Setting())
        if peer is None:
            return Phase(trainer.train_iteration, decisions)
        envs = BatchedEnvs(trainer.collector)
    algorithm = peer(envs, setting["steps"], setting["minibatch"], epochs)
    return Phase(algorithm.train_iteration, decisions)


def find_best_setting(name: str, instances: list[Instance]) -> dict[str, int]:
    """Return the setting at which an engine is fastest per processor second.

    Each is measured at the smallest number of epochs: the best of two iterations after a first one.
    """
    settings = [
        dict(zip(("num_envs", "steps", "minibatch"), values, strict=True))
        for values in SEARCH[ENGINES[name][1]]
    ]
    candidates = {
        i: iteration_phase(name, instances, setting, min(EPOCHS))
        for i, setting in enumerate(settings)
    }
    rates = measure(candidates, 2, torch.device("cpu"))
    return settings[max(rates, key=lambda i: rates[i][1])]


# -- measuring -----------------------------------------------------------------------------------


def measure(measured: Mapping[Key, Phase], rounds: int, device: torch.device) -> dict[Key, Rate]:
    """Return the best rates of each phase over `rounds`.

    The phases are called in turn. A first round is not counted.
    """
    seconds: dict[Key, list[tuple[float, float]]] = {name: [] for name in measured}
    for _ in range(rounds + 1):
        for name, phase in measured.items():
            wall = time.perf_counter()
            processor = time.process_time()
            phase.call()
            synchronize(device)
            seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: (
            measured[name].decisions / min(wall for wall, _ in spent[1:]),
            measured[name].decisions / min(processor for _, processor in spent[1:]),
        )
        for name, spent in seconds.items()
    }


def row(
    settings: Mapping[str, Any],
    engine: str,
    phase: str,
    wall: float | None = None,
    processor: float | None = None,
    ratio: float | None = None,
    note: str = "",
) -> Row:
    """Return one row of the table; None where nothing was measured.

    Parameters
    ----------
    settings
        `network`, `width`, `epochs`, `num_envs`, `steps` and `minibatch`, as far as they are known.
    engine, phase, note
        Text columns.
    wall, processor
        Decisions per second of the wall clock and of processor time.
    ratio
        Our rate over that of this row.
    """
    setting = ""
    if "num_envs" in settings:
        setting = f"{settings['num_envs']} x {settings['steps']}, {settings['minibatch']}"
    return {
        "network": f"{settings.get('network', '')} {settings.get('width', '')}".strip(),
        "engine": engine,
        "phase": phase,
        "epochs": settings.get("epochs") if phase in ("update", "end to end") else None,
        "setting": setting,
        "per_cpu_second": None if processor is None else round(processor),
        "per_second": None if wall is None else round(wall),
        "ratio": None if ratio is None else round(ratio, 2),
        **dict.fromkeys(("kflop", "kbyte", "of_peak_flops", "of_peak_bytes")),
        "limit": "",
        "note": note,
    }


def peak_row(device: str, peak: Work) -> Row:
    """Return the row with the peak rates of a device."""
    note = (
        f"{peak.flops / 1e9:.0f} GFLOP/s float32 (1024 x 1024 product), "
        f"{peak.bytes / 1e9:.1f} GB/s (copy of 64 MiB)"
    )
    return row({}, device, "peak", note=note)
