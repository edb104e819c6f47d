"""Offline learning: gradient steps per second of CQL with the pairwise network, by how it is fed.

`episodes` of random play on `small`, batches of 256. Rows:

* `feed`: the log's features are made once, a batch is a choice of rows (`solvers.offline.feed`), one pass of the network serves
  the TD error and the conservative term.
* `d3rlpy's sampler`: the same network and losses, fed by d3rlpy's own replay buffer with flat observations: features are made
  in every pass, and a batch is put together in Python.
* `d3rlpy's sampler and losses`: as before, with d3rlpy's own CQL, which passes twice.

`sampling_ms`: of one batch, alone. Rates are the best of `rounds`, taken in turn, per second of processor time (one thread) and
of the wall clock; `ratio`: ours over that row's, by processor time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from bench.speed.exact import build, read

BATCH = 256


def rows(
    threads: int, rounds: int = 5, steps: int = 20, episodes: int = 256
) -> Iterator[dict[str, Any]]:
    """One row per way to feed, `steps` gradient steps in each round."""
    feeds, log = import_module("solvers.offline.feed"), recorded(episodes)
    algorithms, device = import_module("solvers.offline.d3rlpy_algorithms"), torch.device("cpu")
    feed = feeds.Feed(log, device)
    ours, theirs = algorithms.FeedBuffer(feed), algorithms.replay_buffer(log)
    learner = import_module("solvers.offline.learners").CQL(logs=None, batch=BATCH)
    two_passes = learner.algorithm(feed)
    two_passes.impl.__class__ = algorithms.OnePassCQL.__mro__[1]
    ways = {
        "feed": (learner.algorithm(feed), ours),
        "d3rlpy's sampler": (learner.algorithm(feed), theirs),
        "d3rlpy's sampler and losses": (two_passes, theirs),
    }
    best: dict[str, tuple[float, float]] = {}
    for r in range(rounds + 1):
        for way, (algorithm, buffer) in ways.items():
            found = rate(
                lambda a=algorithm, b=buffer: a.update(b.sample_transition_batch(BATCH)), steps
            )  # type: ignore[misc]
            if r:
                best[way] = max(best.get(way, (0.0, 0.0)), found)
    for way, (_, buffer) in ways.items():
        sampling = 1000 / rate(lambda b=buffer: b.sample_transition_batch(BATCH), steps)[0]  # type: ignore[misc]
        yield {
            "feeding": way,
            "steps_per_cpu_second": best[way][0],
            "steps_per_second": best[way][1],
            "sampling_ms": sampling,
            "ratio": best["feed"][0] / best[way][0],
        }


def rate(call: Callable[[], Any], times: int) -> tuple[float, float]:
    """Calls per second of processor time, and of the wall clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(times):
        call()
    return times / (time.process_time() - cpu), times / (time.perf_counter() - wall)


def recorded(episodes: int) -> Any:
    """Random play on the first training instances of `small`."""
    logs = import_module("datasets.logs.recorded")
    data = build(read("dataset", "small") | {"train": episodes, "hashes": None})
    random = logs.Behaviour(build(read("solver", "random")), episodes)
    with tempfile.TemporaryDirectory() as folder:
        log = logs.RecordedLogs("speed-v0", data, {"random": random})
        log.cache = Path(folder)
        return log.episodes()
