"""Reading and checking a scheduler's table of jobs, for `datasets.logs.imported`."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.limits import MAX_INTEGER
from bench.ticks import seconds_between
from datasets._tables import read_rows

if TYPE_CHECKING:
    import pandas

COLUMNS = ("submit", "start", "end", "agent")  # times: seconds, or dates and times
TIMES = COLUMNS[:3]
PARQUET = b"PAR1"  # the first bytes of a Parquet file
SHOWN_AGENTS = 10  # that a message names


@dataclass(frozen=True)
class JobTable:
    """A CSV or Parquet file of jobs.

    Attributes
    ----------
    path
        The file.
    agents
        The agents by their names: capacity by resource, and `speed`.
    resources
        The resources, each of which is a column of demands.
    columns
        Name used here -> name in the file, where they differ.
    tick_seconds
        Seconds per tick.
    """

    path: Path
    agents: Mapping[str, Mapping[str, Any]]
    resources: Sequence[str]
    columns: Mapping[str, str]
    tick_seconds: float

    def read(self) -> tuple[pandas.DataFrame, list[tuple[int, str]]]:
        """Return the good rows and the rejected ones.

        Returns
        -------
        table
            The good rows by submission; times in seconds from the first submission, to the
            microsecond, demands as integers.
        rejected
            (row, reason) of each row that breaks a rule, by row; rows count from 0.

        Raises
        ------
        UserError
            Where the file cannot be read, is empty, lacks a column or mixes kinds of times.
        """
        raw, damaged = self._read_file()
        table = self._standard_form(raw)
        reasons = self._reasons(table)
        bad = np.zeros(len(table), dtype=bool)
        bad[list(damaged)] = True
        rejected = list(damaged.items())
        for reason, rows in reasons.items():
            rejected += [(int(row), reason) for row in np.flatnonzero(rows.to_numpy() & ~bad)]
            bad |= rows.to_numpy()
        crowded = self._crowded(table, np.flatnonzero(~bad))
        rejected += [
            (row, "its agent has no room for its integer units beside the rows running there")
            for row in crowded
        ]
        bad[crowded] = True
        good = table[~bad].sort_values(["submit", "start"], kind="stable")
        first = good["submit"].min()
        good[list(TIMES)] = seconds_between(first, good[list(TIMES)])
        return good, sorted(rejected)

    def _read_file(self) -> tuple[pandas.DataFrame, dict[int, str]]:
        """Return the rows as they stand in the file, and row -> reason of each damaged one."""
        import pandas

        path = self.path.expanduser()
        try:
            with path.open("rb") as file:
                is_parquet = file.read(len(PARQUET)) == PARQUET
            if is_parquet:
                return pandas.read_parquet(path, dtype_backend="numpy_nullable"), {}
            rows = [fields for _, fields in read_rows(path)]
        except Exception as error:  # each reader raises its own kinds for a damaged file
            raise UserError(
                f"logs.path: {path} cannot be read ({str(error).splitlines()[0]})"
            ) from None
        if not rows:
            raise UserError(f"logs.path: {path} cannot be read (it is empty)")
        header, *rows = rows
        width = len(header)
        damaged = {
            i: f"has {len(row)} fields, the header has {width}"
            for i, row in enumerate(rows)
            if len(row) != width
        }
        whole = [(row + [""] * width)[:width] for row in rows]
        return pandas.DataFrame(whole, columns=header, dtype=object), damaged

    def _standard_form(self, table: pandas.DataFrame) -> pandas.DataFrame:
        """Return the needed columns under the names used here, as numbers and agent names."""
        import pandas

        from datasets.logs import columns

        if table.empty:
            raise UserError(f"logs.path: {self.path} has no rows")
        in_file = {name: self.columns.get(name, name) for name in (*COLUMNS, *self.resources)}
        there = list(table)
        for name in in_file.values():
            if there.count(name) != 1:
                problem = f"no column {name!r}" if name not in there else f"two columns {name!r}"
                raise UserError(
                    f"logs: {self.path} has {problem}; it has {', '.join(map(str, there))}. "
                    "Name it in logs.columns"
                )
        standard: dict[str, Any] = {"agent": columns.names(table[in_file["agent"]])}
        kinds: dict[str, str] = {}  # kind of times -> first column that has it
        for name in TIMES:
            found, standard[name] = columns.times(table[in_file[name]])
            kinds |= {kind: name for kind in found if kind not in kinds}
        if len(kinds) > 1:
            held = ", ".join(f"{in_file[name]} has {kind}" for kind, name in kinds.items())
            raise UserError(
                f"logs: {self.path}: {held}; write all times as numbers of seconds, as dates and "
                "times (all with a time zone or none), or as durations"
            )
        for name in self.resources:
            demand = columns.numbers(table[in_file[name]])
            standard[name] = np.where(demand < 0, demand, np.ceil(demand))
        return pandas.DataFrame(standard)

    def _reasons(self, table: pandas.DataFrame) -> dict[str, pandas.Series]:
        """Return the rows (bool) that break each rule, by the reason in words."""
        import pandas

        missing = {
            f"{name} is missing or no number{' and no ISO date' if name in TIMES else ''}": table[
                name
            ].isna()
            for name in (*TIMES, *self.resources)
        }
        limits = (table[list(TIMES)].abs() > MAX_INTEGER).any(axis=1)
        speeds = [agent.get("speed", 1.0) for agent in self.agents.values()]
        first = table.loc[~limits, "submit"].min()
        slowest = (table["end"] - first) * (max(speeds) / min(speeds))
        too_late = slowest / self.tick_seconds > MAX_INTEGER
        misfits = ~pandas.Series(self._demands_fit(table), index=table.index)
        return {
            **missing,
            f"a time is more than {MAX_INTEGER:,} s": limits,
            "started before it was submitted": table["start"] < table["submit"],
            "ended before it began": table["end"] <= table["start"],
            f"it may end after more than {MAX_INTEGER:,} ticks; raise logs.tick_seconds": too_late,
            f"agent is none of {_listed(self.agents)}": ~table["agent"].isin(list(self.agents)),
            "a demand is negative or more than its agent has": misfits,
        }

    def _demands_fit(self, table: pandas.DataFrame) -> list[bool]:
        """Return whether the demands of each row are within the capacity of its agent.

        True for an agent that is unknown, which another rule rejects.
        """
        fits = []
        demands = table[list(self.resources)].to_numpy()
        for name, demand in zip(table["agent"], demands, strict=True):
            agent = self.agents.get(name)
            pairs = zip(self.resources, demand, strict=True)
            fits.append(agent is None or all(0 <= need <= agent.get(key, 0) for key, need in pairs))
        return fits

    def _crowded(self, table: pandas.DataFrame, rows: NDArray[np.int64]) -> list[int]:
        """Return those of `rows` that did not fit on their agent beside earlier rows."""
        times = table[["start", "end"]].to_numpy()
        demands = table[list(self.resources)].to_numpy()
        free = {
            name: np.array([agent.get(key, 0) for key in self.resources], dtype=float)
            for name, agent in self.agents.items()
        }
        running: dict[str, list[tuple[float, int]]] = {  # heaps of (end, row)
            name: [] for name in self.agents
        }
        agents = table["agent"].tolist()
        crowded = []
        for row in rows[np.lexsort((rows, times[rows, 0]))].tolist():
            agent = agents[row]
            while running[agent] and running[agent][0][0] <= times[row, 0] + self.tick_seconds:
                free[agent] += demands[heapq.heappop(running[agent])[1]]
            if (demands[row] > free[agent]).any():
                crowded.append(row)
            else:
                heapq.heappush(running[agent], (times[row, 1], row))
                free[agent] -= demands[row]
        return crowded


def is_number(value: Any) -> bool:
    """Return whether `value` is a finite number and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _listed(agents: Mapping[str, Any]) -> str:
    """Return the first names of agents."""
    more = len(agents) - SHOWN_AGENTS
    return ", ".join(list(agents)[:SHOWN_AGENTS]) + (f" and {more} more" if more > 0 else "")
