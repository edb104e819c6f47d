"""The process that a policy decides in; `bench.run.isolated` starts it and talks to it.

It is a new interpreter: nothing of the suite's memory is in it. It imports the modules that the
policy needs, and starts a copy of itself (fork) for every session, so that no session finds
anything in memory that an earlier one left. A session unpickles the policy and answers messages.

Messages to it are pickled, as it trusts the suite. Answers are JSON, as the suite does not trust
it: a list, or a mapping with `error` and `traceback`, and `ended` where the session is over.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import struct
import sys
import time
import traceback
from typing import Any

import numpy as np

from bench.errors import one_line
from bench.generators import generator
from bench.observation import Observation

LENGTH = struct.Struct("<Q")  # of a message, before it
IMPORT, SESSION, LOAD, BEGIN, ACT, FACTS, END = range(7)  # first item of a message to the process
Message = tuple[Any, ...]


def write(pipe: int, content: bytes) -> None:
    """Write one message to a file descriptor."""
    rest = memoryview(LENGTH.pack(len(content)) + content)
    while rest:
        rest = rest[os.write(pipe, rest) :]


def read(pipe: int, most: int = sys.maxsize) -> bytes | None:
    """Return the next message of a file descriptor; None: the other side has closed it.

    Nothing beyond the message is read, because another process may read on.

    Raises
    ------
    ValueError
        For a message of more than `most` bytes.
    """
    header = _read_exactly(pipe, LENGTH.size)
    if header is None:
        return None
    (length,) = LENGTH.unpack(header)
    if length > most:
        raise ValueError(f"a message of {length} bytes, more than {most}")
    return _read_exactly(pipe, length)


def _read_exactly(pipe: int, length: int) -> bytes | None:
    content = os.read(pipe, length)
    if len(content) == length:
        return content
    parts = [content]
    missing = length - len(content)
    while missing:
        part = os.read(pipe, missing)
        if not part:
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


class Session:
    """The policy of one session, and how it answers messages."""

    def __init__(self) -> None:
        self._policy: Any = None
        self._rng = np.random.default_rng(0)

    def answer(self, kind: int, values: Message) -> list[Any]:
        """Return the answer to a message."""
        if kind == LOAD:
            content, threads = values
            self._policy = pickle.loads(content)
            if threads is not None and "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(threads)
            self._policy.warm_up()
        elif kind == BEGIN:
            self._rng = generator(*values)
            self._policy.reset()
        elif kind == ACT:
            observation = Observation(*values)
            began = time.perf_counter()
            action = self._policy.act(observation, self._rng)
            seconds = time.perf_counter() - began
            return [_plain(action), seconds]
        elif kind == FACTS:
            return [self._policy.facts()]
        return []


def _plain(action: Any) -> Any:
    """Return an action as JSON can hold it; what is no integer as its text."""
    try:
        return int(action.__index__())
    except (AttributeError, TypeError, ValueError):
        return repr(action)[:100]


def serve(requests: int, answers: int) -> None:
    """Import what is asked for and fork a process for every session, until the pipe is closed."""
    while (message := read(requests)) is not None:
        kind, *values = pickle.loads(message)
        if kind == IMPORT:
            for name in values:
                with contextlib.suppress(Exception):  # unpickling the policy reports it
                    importlib.import_module(name)
        elif kind == SESSION:
            child = os.fork()
            if child == 0:
                _run_session(requests, answers)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if status != 0:
                words = f"the policy ended its process ({_ending(status)})"
                write(answers, _no_session(words))
        elif kind != END:
            write(answers, _no_session("the policy's process has ended"))


def _no_session(words: str) -> bytes:
    return json.dumps({"error": words, "traceback": "", "ended": True}).encode()


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal {-code}"


def _run_session(requests: int, answers: int) -> None:
    """Answer messages until the session ends."""
    session = Session()
    while (message := read(requests)) is not None:
        try:
            kind, *values = pickle.loads(message)
            if kind == END:
                return
            answer: Any = session.answer(kind, tuple(values))
            content = json.dumps(answer)
        except BaseException as error:
            answer = {"error": one_line(error), "traceback": traceback.format_exc()}
            content = json.dumps(answer)
        write(answers, content.encode())


def main() -> None:
    """Serve on the two pipes whose numbers are the arguments."""
    serve(int(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
