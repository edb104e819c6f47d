"""A policy in a process of its own, which receives observations and nothing else.

The process is a new interpreter (`bench.run.policy_server`): the instance, the simulator and the
rest of the suite's memory are not in it, nor are the command line and the environment variables
that name files. Its answers are data, never code: an action, the seconds that it took, facts.

What this does not prevent: the process may read files and compute, so a policy can make the
instances of a public data set again. No technique can tell such a policy from a good one by its
decisions on public instances.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from importlib.machinery import ModuleSpec
from types import FunctionType
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from bench.contracts import Dataset, LoggedDataset, Policy
from bench.errors import PolicyError, UserError, one_line
from bench.generators import state_of
from bench.instance import Instance
from bench.observation import Observation
from bench.run.policy_server import ACT, BEGIN, END, FACTS, IMPORT, LOAD, SESSION, read, write
from bench.simulator import Simulator

LARGEST_ANSWER = 2**24  # bytes
CLOSED = -1  # file descriptor of a closed pipe
# environment variables that the process inherits; all others could name files or settings
INHERITED = (
    "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "USER", "XDG_CACHE_HOME",
)  # fmt: skip
INHERITED_PREFIXES = ("CUDA_", "KMP_", "MKL_", "NUMBA_", "NVIDIA_", "OMP_", "OPENBLAS_", "TORCH_")


class Snapshot(NamedTuple):
    """A policy in a form that another process can load, from `pickled`."""

    content: bytes  # pickled
    modules: tuple[str, ...]  # those that loading it imports
    window: int | None  # K, the tasks that it observes


class PolicyProcess:
    """A process in which copies of policies decide; `close` ends it.

    Parameters
    ----------
    snapshot
        A policy, whose modules are imported at once, while the suite does other things.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.run.policy_server", str(requests), str(answers)],
            pass_fds=(requests, answers),
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a policy prints must not be mixed with the table
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
        os.close(requests)
        os.close(answers)
        self.in_session = False
        self._send(IMPORT, *snapshot.modules)

    def start_session(self) -> None:
        """Start a copy of the process in which no policy has been, and end the one before."""
        self._send(END)
        self._send(SESSION)
        self.in_session = True

    def ask(self, *message: Any) -> list[Any]:
        """Return the answer to a message.

        Raises
        ------
        PolicyError
            If the policy raises an exception, ends its process, or answers nonsense.
        """
        self._send(*message)
        try:
            content = read(self._answers, LARGEST_ANSWER)
            answer = json.loads(content) if content is not None else {"error": "no answer"}
            if not isinstance(answer, list | dict):
                raise ValueError(f"value {answer!r:.80}")
        except (ValueError, OSError, RecursionError) as error:
            self.close()  # what follows in the pipe belongs to no question
            raise PolicyError(f"the policy's process: unreadable answer ({error})") from None
        if isinstance(answer, list):
            return answer
        failure = PolicyError(str(answer.get("error"))[:500])
        failure.add_note(str(answer.get("traceback", "")))
        failure.ended = bool(answer.get("ended"))
        self.in_session = self.in_session and not failure.ended
        raise failure

    def _send(self, *message: Any) -> None:
        try:
            write(self._requests, pickle.dumps(message, protocol=5))
        except OSError as error:
            raise PolicyError(f"the policy's process has ended ({one_line(error)})") from None

    def close(self) -> None:
        """End the process and all that it started."""
        if self._requests == CLOSED:
            return
        os.close(self._requests)
        os.close(self._answers)
        self._requests = self._answers = CLOSED
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class IsolatedActor:
    """A policy in a session of a `PolicyProcess`: an `Actor` of `bench.rollout`.

    Parameters
    ----------
    process
        Where it decides. One actor at a time can use it.
    snapshot
        The policy.
    """

    def __init__(self, process: PolicyProcess, snapshot: Snapshot) -> None:
        self.process = process
        self.window = snapshot.window
        self._snapshot = snapshot
        self._loaded = False

    def load(self) -> None:
        """Make a new copy of the policy in the session, in a new one where it has ended."""
        if not self.process.in_session:
            self.process.start_session()
        torch = sys.modules.get("torch")
        threads = None if torch is None else torch.get_num_threads()
        self.process.ask(LOAD, self._snapshot.content, threads)
        self._loaded = True

    def begin(self, rng: np.random.Generator) -> None:
        """Begin an episode; the process receives the state of `rng`, not its seed."""
        if not self._loaded:
            self.load()
        self._ask(BEGIN, *state_of(rng))

    def act(self, observation: Observation) -> tuple[Any, float]:
        """Return the action and the seconds that it took in the process."""
        answer = self._ask(ACT, *vars(observation).values())
        action, seconds = answer if len(answer) == 2 else (None, None)
        if not isinstance(seconds, float) or not math.isfinite(seconds) or seconds < 0:
            raise PolicyError(f"the policy's process: value {answer!r:.80}: is no action and time")
        return action, seconds

    def facts(self) -> dict[str, Any]:
        """Return the policy's facts about its last episode."""
        (found,) = self._ask(FACTS)
        if not isinstance(found, dict):
            raise PolicyError(f"facts: value {found!r:.80}: must be a mapping")
        return found

    def _ask(self, *message: Any) -> list[Any]:
        try:
            return self.process.ask(*message)
        except PolicyError as error:
            self._loaded = self._loaded and not error.ended
            raise


# -- what is sent --------------------------------------------------------------------------------


def pickled(policy: Policy, hidden: Collection[Instance]) -> Snapshot:
    """Return a policy in a form that another process can load.

    Its class may stand in a script, a notebook or a test: then the code is sent as well.

    Parameters
    ----------
    policy
        The policy.
    hidden
        Instances that it must not hold: those that it is going to be measured on.

    Raises
    ------
    UserError
        If it cannot be sent, or holds one of `hidden`, a simulator or a data set.
    """
    name = type(policy).__name__
    buffer = io.BytesIO()
    try:
        with _by_value(policy):
            pickler = _Pickler(buffer, {instance.hash() for instance in hidden})
            pickler.dump(policy)
    except _Held as error:
        raise UserError(
            f"solver: {name} holds {error}, from which it could read what it must not know; keep "
            "only what deciding needs, or set observe=all"
        ) from None
    except Exception as error:
        raise UserError(
            f"solver: {name} cannot be sent to a process of its own ({one_line(error, 200)}); keep "
            "no open files, locks or generators in it, or set isolate=false"
        ) from None
    modules = tuple(name for name in pickler.modules if _can_import(name))
    return Snapshot(buffer.getvalue(), modules, policy.window)


class _Held(Exception):
    """A policy holds what it must not know; the message names it."""


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Refuses instances that are measured on, simulators and data sets."""

    def __init__(self, file: io.BytesIO, hidden: Collection[str]) -> None:
        super().__init__(file)
        self._hidden = hidden
        self.modules: dict[str, None] = {}  # of everything pickled, in order

    def reducer_override(self, obj: Any) -> Any:
        """Raise `_Held` for what is refused; leave the rest to cloudpickle."""
        if isinstance(obj, Dataset | LoggedDataset | Simulator):
            raise _Held(f"a {type(obj).__name__}")
        if isinstance(obj, Instance) and obj.hash() in self._hidden:
            raise _Held(f"the instance {obj.name or obj.hash()[:8]}")
        of_code = isinstance(obj, type | FunctionType)
        self.modules[obj.__module__ if of_code else type(obj).__module__] = None
        return super().reducer_override(obj)


@contextlib.contextmanager
def _by_value(policy: Policy) -> Iterator[None]:
    """Send the code of the policy's modules that another process cannot import."""
    names = {kind.__module__ for kind in type(policy).__mro__}
    sent = [
        sys.modules[name]
        for name in names
        if name in sys.modules and name != "__main__" and not _can_import(name)
    ]
    for module in sent:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in sent:
            cloudpickle.unregister_pickle_by_value(module)


def _can_import(name: str) -> bool:
    """Return whether a new process finds the module `name`, in the same file."""
    if name == "__main__":
        return False
    path = None
    found = None
    parts = name.split(".")
    for i in range(len(parts)):
        found = _find(".".join(parts[: i + 1]), path)
        if found is None:
            return False
        path = found.submodule_search_locations
    return found is not None and found.origin in (
        "built-in",
        "frozen",
        getattr(sys.modules.get(name), "__file__", None),
    )


def _find(name: str, path: Any) -> ModuleSpec | None:
    for finder in sys.meta_path:
        with contextlib.suppress(ImportError, ValueError, AttributeError):
            if (found := finder.find_spec(name, path)) is not None:
                return found
    return None


def _environment() -> dict[str, str]:
    """Return the environment of the process: where Python finds modules, and little else."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {**kept, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
