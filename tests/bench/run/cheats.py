"""Policies that try to learn what they must not know, or to be rated by something else."""

from __future__ import annotations

import gc
import inspect
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.contracts import Policy
from bench.observation import Observation

WANTED = ("Instance", "Simulator", "Job", "Execution", "Dataset", "OnlinePlayer")
SECRET = "BENCH_TEST_SPLIT"  # an environment variable that names a file
LOOT: list[Any] = []  # what a policy keeps outside of itself


def wanted(values: Any) -> list[str]:
    """Return the class names of those values that hold the future."""
    found = (kind.__name__ for value in values for kind in type(value).__mro__)
    return sorted({name for name in found if name in WANTED})


def on_the_stack() -> list[str]:
    """Walk the call stack."""
    found = []
    frame = sys._getframe()
    while frame is not None:
        found += wanted(frame.f_locals.values())
        frame = frame.f_back
    return found


def by_inspection() -> list[str]:
    """Read the locals and globals of all callers."""
    return [
        name
        for info in inspect.stack()
        for name in wanted([*info.frame.f_locals.values(), *info.frame.f_globals.values()])
    ]


def in_modules() -> list[str]:
    """Search the globals of all modules."""
    return [
        name
        for module in list(sys.modules.values())
        for name in wanted(list(getattr(module, "__dict__", {}).values()))
    ]


def open_files() -> list[str]:
    """Return the files that are open in the process, beside pipes and the standard streams."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        if int(number) > 2:
            try:
                found.append(os.readlink(f"/proc/self/fd/{number}"))
            except FileNotFoundError:  # that of listdir itself
                continue
    return [name for name in found if not name.startswith(("pipe:", "/dev/", "/proc/"))]


def open_pipes() -> list[int]:
    """Return the numbers of all pipes of the process."""
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if number > 2 and os.readlink(f"/proc/self/fd/{number}").startswith("pipe:"):
                found.append(number)
        except FileNotFoundError:
            continue
    return found


def named_files() -> list[str]:
    """Return the files that arguments and environment name."""
    texts = [*sys.argv, *os.environ.values()]
    return [text for text in texts if text.endswith(".json.gz") or "dataset=" in text]


def from_stdin() -> list[str]:
    """Read what is waiting on the standard input."""
    return [os.read(0, 100).decode()] if sys.stdin else []


ATTEMPTS: dict[str, Callable[[], list[Any]]] = {
    "walks the call stack": on_the_stack,
    "inspects its callers": by_inspection,
    "lists all objects of the garbage collector": lambda: wanted(gc.get_objects()),
    "searches all modules": in_modules,
    "reads the files that are open": open_files,
    "reads the command line and the environment": named_files,
    "reads the environment variable": lambda: [os.environ[SECRET]] if SECRET in os.environ else [],
    "reads the standard input": lambda: [text for text in from_stdin() if text],
    "finds what an earlier session left in memory": lambda: list(LOOT),
    "finds the runner": lambda: [name for name in sys.modules if name == "bench.run.runner"],
    "finds files in the current folder": lambda: [] if os.getcwd() == "/" else os.listdir(),
}


class Prying(Policy):
    """Takes the first legal action and reports what its attempts found."""

    observe = "arrived"

    def __init__(self) -> None:
        self.found: dict[str, list[Any]] = {}
        self.bases: list[str] = []
        self.attributes: list[str] = []
        self.entropy: Any = None

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        if not self.found:
            self.found = {name: attempt() for name, attempt in ATTEMPTS.items()}
            LOOT.append("seen")
        arrays = vars(observation)
        self.bases += [
            name
            for name, value in arrays.items()
            if isinstance(value, np.ndarray)
            and value.base is not None
            and memoryview(value.base).nbytes > value.nbytes
        ]
        self.attributes = sorted(arrays)
        self.entropy = rng.bit_generator.seed_seq.entropy  # type: ignore[attr-defined]
        return int(observation.mask.argmax())

    def facts(self) -> dict[str, Any]:
        return {
            "found": self.found,
            "bases": self.bases,
            "attributes": self.attributes,
            "entropy": str(self.entropy),
        }


class Drawing(Policy):
    """Takes random legal actions, and draws from generators that it spawns."""

    observe = "arrived"

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        (other,) = rng.spawn(1)
        legal = np.flatnonzero(observation.mask)
        return int(legal[(rng.integers(100) + other.integers(100)) % len(legal)])


class Answering(Policy):
    """Returns `action`, whatever is legal, or calls it."""

    observe = "arrived"

    def __init__(self, action: Any, facts: Any = None) -> None:
        self.action = action
        self.said = facts

    def act(self, observation: Observation, rng: np.random.Generator) -> Any:
        if self.action is None:
            return int(observation.mask.argmax())
        return self.action() if callable(self.action) else self.action

    def facts(self) -> Any:
        return {} if self.said is None else self.said


class Holding(Policy):
    """Takes the first legal action and holds something."""

    observe = "arrived"

    def __init__(self, held: Any) -> None:
        self.held = held

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        return int(observation.mask.argmax())


class Smuggled(Policy):
    """Decides by `kind`, in which a changed simulator hides the future."""

    observe = "arrived"

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        legal = np.flatnonzero(observation.mask)
        return int(legal[int(observation.kind.sum()) % len(legal)])


class Clock(Policy):
    """Decides by the time of day, so that nothing can be replayed."""

    observe = "arrived"

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        legal = np.flatnonzero(observation.mask)
        return int(legal[time.perf_counter_ns() // 64 % len(legal)])


class Rewinding(Policy):
    """Turns the clock back while it decides, so that its latency is negative."""

    observe = "arrived"

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        now = time.perf_counter()
        time.perf_counter = lambda: now - 60.0
        return int(observation.mask.argmax())


class Patching(Policy):
    """Replaces the verifier and the objective of its own process."""

    observe = "arrived"

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        import bench.metrics
        import bench.verify

        bench.verify.verify = lambda *_: []
        bench.metrics.objective = lambda *_: 0.0
        return int(observation.mask.argmax())


def forged_answers() -> int:
    """Write answers of its own on every pipe of the process: one that claims to be huge."""
    for number in open_pipes():
        try:
            os.write(number, (2**62).to_bytes(8, "little") + b"x" * 100)
        except OSError:
            continue
    return 0


def nonsense_answers() -> int:
    """Write an answer that is no JSON on every pipe of the process."""
    for number in open_pipes():
        try:
            os.write(number, (4).to_bytes(8, "little") + b"\x80\x04N.")
        except OSError:
            continue
    return 0


def end_process() -> int:
    """End the process at once."""
    os._exit(7)
