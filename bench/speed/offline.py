"""Offline learning: gradient steps per second of CQL with the pairwise network, by its batches.

The log holds `episodes` of random legal actions on `small`; batches have 256 transitions. Rows:

* `offline buffer`: our buffer. Features are computed once, a batch is a selection of rows, and one
  pass of the network serves both the TD error and the conservative term.
* `d3rlpy's sampler`: the same networks and losses with batches of d3rlpy's own replay buffer of
  flat observations: features are computed in every pass, and batches are put together in Python.
* `d3rlpy's sampler and losses`: as before, with d3rlpy's own CQL, which evaluates the network
  twice.

`sampling_ms`: milliseconds to draw one batch. Rates are the best of `rounds`, measured in turn, per
second of processor time (one thread) and of the wall clock. `ratio`: our rate over that of the row,
by processor time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.contracts import LoggedDataset
from bench.logs.episodes import LoggedEpisodes
from bench.plugins import load

BATCH = 256
OURS = "offline buffer"


def rows(
    threads: int, rounds: int = 5, steps: int = 20, episodes: int = 256
) -> Iterator[dict[str, Any]]:
    """Yield one row per source of batches.

    Parameters
    ----------
    threads
        Not used here: the command has limited the threads already.
    rounds
        Measurements, of which the fastest counts, after a first one that is not counted.
    steps
        Gradient steps per measurement.
    episodes
        Episodes in the log.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = random_log(episodes, Path(folder)).episodes()
    compared = variants(log)
    best: dict[str, tuple[float, float]] = {}
    for r in range(rounds + 1):
        for name, (algorithm, sampler) in compared.items():
            rates = measure(partial(gradient_step, algorithm, sampler), steps)
            if r:
                best[name] = max(best.get(name, (0.0, 0.0)), rates)
    for name, (_, sampler) in compared.items():
        batches_per_second, _ = measure(partial(sampler.sample_transition_batch, BATCH), steps)
        yield {
            "sampler": name,
            "steps_per_cpu_second": best[name][0],
            "steps_per_second": best[name][1],
            "sampling_ms": 1000 / batches_per_second,
            "ratio": best[OURS][0] / best[name][0],
        }


def variants(log: LoggedEpisodes) -> dict[str, tuple[Any, Any]]:
    """Return name -> (algorithm, sampler of its batches), ours first."""
    learner = load("solver", "cql", logs=None, device="cpu", batch=BATCH)
    buffer = learner.make_buffer(log)
    ours = learner.make_sampler(buffer)
    theirs = learner.make_d3rlpy_buffer(log)
    return {
        OURS: (learner.make_algorithm(buffer), ours),
        "d3rlpy's sampler": (learner.make_algorithm(buffer), theirs),
        "d3rlpy's sampler and losses": (learner.make_stock_algorithm(buffer), theirs),
    }


def gradient_step(algorithm: Any, sampler: Any) -> None:
    """Draw one batch and update the networks with it."""
    algorithm.update(sampler.sample_transition_batch(BATCH))


def measure(call: Callable[[], Any], times: int) -> tuple[float, float]:
    """Return calls per second of processor time and of the wall clock."""
    processor = time.process_time()
    wall = time.perf_counter()
    for _ in range(times):
        call()
    return times / (time.process_time() - processor), times / (time.perf_counter() - wall)


def random_log(episodes: int, cache: Path) -> LoggedDataset:
    """Return a log of random legal actions, one episode on each training instance of `small`.

    It is stored in the folder `cache`.
    """
    log: LoggedDataset = load(
        "logs",
        "cluster-small-random-v0",
        data={"train": episodes, "hashes": None},
        behaviours={"random": {"episodes": episodes}},
    )
    log.cache = cache
    return log
