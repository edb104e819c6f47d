"""A schedule: a table of pieces (task, agent, start, end). It says what was done; `verify` says whether it was allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bench.instance import Instance, InstanceError, Ints, read_json, whole_numbers, write_json

SCHEMA = 1


class ScheduleError(ValueError):
    """A table that is no schedule at all; the message names the column, the index and the rule."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """P pieces of work. Without kills or preemption each task has exactly one piece, of length p.

    Raises:
        ScheduleError: naming the column, the index and the rule that was broken.
    """

    task: Ints  # (P,) task index
    agent: Ints  # (P,) agent index
    start: Ints  # (P,) tick
    end: Ints  # (P,) tick, > start; the piece holds its demand over [start, end)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema > SCHEMA:
            raise ScheduleError(
                f"schema: {self.schema} is newer than {SCHEMA}, the newest this version reads; upgrade"
            )
        for column in ("task", "agent", "start", "end"):
            try:
                array = whole_numbers(column, getattr(self, column), 1)
            except InstanceError as error:
                raise ScheduleError(str(error)) from None
            array.flags.writeable = False
            object.__setattr__(self, column, array)
            if len(array) != len(self.task):
                raise ScheduleError(
                    f"{column}: {len(array)} entries, expected {len(self.task)} as in `task`"
                )
            if (array < 0).any():
                raise ScheduleError(f"{column}[{int(np.argmax(array < 0))}]: must not be negative")
        backwards = self.end <= self.start
        if backwards.any():
            raise ScheduleError(f"end[{int(np.argmax(backwards))}]: must lie after start")

    @classmethod
    def empty(cls) -> Schedule:
        """No piece at all: what a solver that found nothing hands back."""
        return cls(*np.zeros((4, 0), dtype=np.int64))

    @classmethod
    def from_assignment(
        cls, instance: Instance, agent: ArrayLike, start: ArrayLike | None = None
    ) -> Schedule:
        """One piece per task from agents (N,) and start ticks (N,) (default 0, as with `budget` sharing).

        A negative agent leaves the task out. An agent that is not eligible gives a piece of one tick, for `verify` to report.
        """
        agent = np.asarray(agent, dtype=np.int64)
        task = np.flatnonzero(agent >= 0)
        begin = (
            np.zeros(len(agent), dtype=np.int64)
            if start is None
            else np.asarray(start, dtype=np.int64)
        )
        length = np.maximum(instance.duration[task, instance.agent_type[agent[task]]], 1)
        return cls(task, agent[task], begin[task], begin[task] + length)

    def to_dict(self) -> dict[str, Any]:
        """Four equally long columns of integers and the schema version, ready for JSON."""
        columns = {name: getattr(self, name).tolist() for name in ("task", "agent", "start", "end")}
        return {"schema": self.schema, **columns}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schedule:
        """Inverse of `to_dict`."""
        if not isinstance(data, Mapping):
            raise ScheduleError(f"schedule: a JSON object is needed, got {type(data).__name__}")
        for column in ("task", "agent", "start", "end"):
            if column not in data:
                raise ScheduleError(f"{column}: missing")
        unknown = sorted(set(data) - {"schema", "task", "agent", "start", "end"})
        if unknown:
            raise ScheduleError(
                f"{unknown[0]}: unknown column; known are schema, task, agent, start, end"
            )
        schema = data.get("schema", SCHEMA)
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise ScheduleError(f"schema: a whole number of at least 1 is needed, got {schema!r}")
        return cls(data["task"], data["agent"], data["start"], data["end"], schema)

    def write(self, path: str | Path) -> None:
        """Write JSON (gzip where the name ends in .gz)."""
        write_json(path, self.to_dict())

    @classmethod
    def read(cls, path: str | Path) -> Schedule:
        """Read JSON. Raises ScheduleError naming the file, OSError where there is none."""
        try:
            return cls.from_dict(read_json(path))
        except (InstanceError, ScheduleError) as error:
            raise ScheduleError(f"{path}: {error}") from None
