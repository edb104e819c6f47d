"""A schedule: a table of pieces (task, agent, start, end).

It records what was done; `bench.verify` checks whether that is feasible. The form is defined in
`bench/docs/problem.md`, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bench.instance import Instance, InstanceError, Ints, integer_array, read_json, write_json

SCHEMA = 1
COLUMNS = ("task", "agent", "start", "end")


class ScheduleError(ValueError):
    """A table that is no schedule; the message names the column, the index and the rule."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """P pieces of work; without kills or preemption each task has exactly one piece, of length p.

    Raises
    ------
    ScheduleError
        If a column breaks a rule; the message names the column, the index and the rule.
    """

    task: Ints  # (P,) task index
    agent: Ints  # (P,) agent index
    start: Ints  # (P,) tick
    end: Ints  # (P,) tick, > start; the piece holds its demand over [start, end)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema > SCHEMA:
            raise ScheduleError(
                f"schema: {self.schema} is newer than {SCHEMA}, the newest this version reads; "
                "upgrade"
            )
        for column in COLUMNS:
            try:
                array = integer_array(column, getattr(self, column), 1)
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
        empty = self.end <= self.start
        if empty.any():
            raise ScheduleError(f"end[{int(np.argmax(empty))}]: must lie after start")

    @classmethod
    def empty(cls) -> Schedule:
        """Return the schedule without pieces, for a solver that found none."""
        return cls(*np.zeros((4, 0), dtype=np.int64))

    @classmethod
    def from_assignment(
        cls, instance: Instance, agent: ArrayLike, start: ArrayLike | None = None
    ) -> Schedule:
        """Build a schedule with one piece per task.

        Parameters
        ----------
        instance
            Instance with N tasks.
        agent
            (N,) agent of each task; a negative one leaves the task out. On an agent that is not
            eligible the piece is one tick long, so that `verify` can report it.
        start
            (N,) start ticks; default 0, as with `budget` sharing.
        """
        agent = np.asarray(agent, dtype=np.int64)
        task = np.flatnonzero(agent >= 0)
        if start is None:
            start = np.zeros(len(agent), dtype=np.int64)
        first = np.asarray(start, dtype=np.int64)[task]
        duration = np.maximum(instance.duration[task, instance.agent_type[agent[task]]], 1)
        return cls(task, agent[task], first, first + duration)

    def to_dict(self) -> dict[str, Any]:
        """Return four equally long lists of integers and the schema version, ready for JSON."""
        columns = {name: getattr(self, name).tolist() for name in COLUMNS}
        return {"schema": self.schema, **columns}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schedule:
        """Build a schedule from the form of `to_dict`."""
        if not isinstance(data, Mapping):
            raise ScheduleError(f"schedule: a JSON object is needed, got {type(data).__name__}")
        for column in COLUMNS:
            if column not in data:
                raise ScheduleError(f"{column}: missing")
        unknown = sorted(set(data) - {"schema", *COLUMNS})
        if unknown:
            raise ScheduleError(
                f"{unknown[0]}: unknown column; known are schema, {', '.join(COLUMNS)}"
            )
        schema = data.get("schema", SCHEMA)
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise ScheduleError(f"schema: an integer of at least 1 is needed, got {schema!r}")
        return cls(data["task"], data["agent"], data["start"], data["end"], schema)

    def write(self, path: str | Path) -> None:
        """Write JSON, compressed by gzip if the name ends in .gz."""
        write_json(path, self.to_dict())

    @classmethod
    def read(cls, path: str | Path) -> Schedule:
        """Read a JSON file.

        Raises
        ------
        ScheduleError
            If it is no schedule; the message names the file.
        OSError
            If there is no such file.
        """
        try:
            return cls.from_dict(read_json(path))
        except (InstanceError, ScheduleError) as error:
            raise ScheduleError(f"{path}: {error}") from None
