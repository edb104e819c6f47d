"""A scheduler's own log, as decisions: a table with one row per job of when it was submitted, started and ended, and where.

The jobs are cut into episodes of consecutive submissions; each is an instance, and the log's agents and order of starts are
replayed on it. Starts are the earliest that the order allows (`bench.left_shift`): what a scheduler lost between an event and
its reaction is not in the decision process. An episode begins on empty agents: what ran or waited from before its first job is
not in it, so its return is what the scheduler's decisions are worth there, not what its users saw. How likely the scheduler was
to do what it did is not known.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.errors import UserError
from bench.instance import LARGEST, Instance
from bench.left_shift import active
from bench.logs.episodes import Episodes, Tape, joined
from bench.logs.replay import Plans
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator.tables import LEAVE
from bench.simulator.tensors import TensorSimulator
from datasets.logs.stored import StoredLogs, silent

if TYPE_CHECKING:
    import pandas

COLUMNS = ("submit", "start", "end", "agent")  # times: seconds, or dates and times
TOGETHER = 64  # episodes replayed at once
SHOWN = 10  # rejected rows that the message names


class ImportedLogs(StoredLogs):
    """The table `path` (CSV or Parquet) as a log.

    Args:
        agents: mappings of `name`, capacity by resource, and optionally `speed` (1 if not given). The table has a column of
            demands for each resource, in the same units and counted in whole ones (for shares of a GPU give both in
            hundredths). A job is taken to need (its time) * (its agent's speed) / (an agent's speed) elsewhere.
        columns: our name -> the table's, where they differ; ours are submit, start, end, agent and the resources.
        jobs: per episode; what is left over at the end is an episode of its own.
        reject: rows that break a rule are left out; with fewer than this share of good rows the file is refused. A row that its
            agent has no room for beside the rows running there breaks one (an overlap of up to a tick is none).

    Raises:
        UserError: where the file cannot be read, lacks a column, or has too few good rows, or a setting means nothing.
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        agents: Sequence[Mapping[str, Any]],
        columns: Mapping[str, str] | None = None,
        tick_seconds: float = 60.0,
        jobs: int = 64,
        reject: float = 0.5,
        setting: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name)
        self.path, self.columns = path, dict(columns or {})
        self.tick_seconds, self.jobs, self.reject = tick_seconds, jobs, reject
        self.agents = _checked(agents)
        self.resources = sorted(
            {key for has in self.agents.values() for key in has} - {"name", "speed"}
        )
        self.setting = Setting(**(setting or {"track": "online", "observe": "arrived"}))
        if path is None:
            raise UserError(
                "logs.path: give the file, CSV or Parquet, with columns submit, start, end, agent and the demands"
            )
        if not Path(path).expanduser().is_file():
            raise UserError(f"logs.path: {path} does not exist")
        if not self.resources:
            raise UserError(
                "logs.agents: agents with capacities are needed, such as {name: node1, gpu: 4}"
            )
        if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
            raise UserError(
                f"logs.jobs: jobs of at least 1 are needed for an episode, got {jobs!r}"
            )
        if not (_is_number(tick_seconds) and tick_seconds > 0):
            raise UserError(f"logs.tick_seconds: a number above 0 is needed, got {tick_seconds!r}")
        if not (_is_number(reject) and 0 <= reject <= 1):
            raise UserError(f"logs.reject: a share from 0 to 1 is needed, got {reject!r}")
        ours = [*COLUMNS, *self.resources]
        unknown = sorted(set(self.columns) - set(ours))
        if unknown:
            raise UserError(f"logs.columns: {unknown[0]!r} is none of {', '.join(ours)}")
        theirs = [self.columns.get(name, name) for name in ours]
        for name, column in zip(ours, theirs, strict=True):
            if theirs.count(column) > 1:
                raise UserError(
                    f"logs.columns.{name}: {column!r} is taken for two of {', '.join(ours)}; name another column"
                )

    def episodes(self, progress: Any = silent) -> Episodes:
        """The replayed log; what was rejected stands in `rejected` and is told to `progress`."""
        pairs, parts = self._pairs, []
        if self.rejected:
            progress(0, len(pairs), f"{len(self.rejected)} rows rejected: {self.why()}")
        window = max(instance.n_tasks for instance, _ in pairs)
        for first in range(0, len(pairs), TOGETHER):
            instances, schedules = zip(*pairs[first : first + TOGETHER], strict=True)
            simulator, tape = (
                TensorSimulator(instances, self.setting, window=window),
                Tape("imported"),
            )
            plans = Plans(schedules, simulator)
            while simulator.playing.any():
                action = plans.allowed(plans.right()).float().argmax(dim=1)
                tape.saw(simulator, action, torch.ones(len(action)))
                tape.got(simulator.step(torch.where(simulator.playing, action, LEAVE)))
            simulator.check()
            parts.append(tape.episodes(self.name))
            progress(first + len(instances), len(pairs), f"replays {self.name}")
        log = replace(joined(self.name, parts), probability=None)
        self.store(log, {"rejected_rows": len(self.rejected)})
        return log

    def instances(self) -> Sequence[Instance]:
        """One per episode."""
        return [instance for instance, _ in self._pairs]

    def why(self) -> str:
        """The first rejected rows and their reasons."""
        told = "; ".join(f"row {row}: {reason}" for row, reason in self.rejected[:SHOWN])
        return told + (
            f"; and {len(self.rejected) - SHOWN} more" if len(self.rejected) > SHOWN else ""
        )

    # -- reading -----------------------------------------------------------------------------------------------------

    @cached_property
    def _pairs(self) -> list[tuple[Instance, Schedule]]:
        """The instances and their schedules, read once: who learns from a log asks for both its episodes and its instances."""
        table = self._table()
        names = list(self.agents)
        speed = np.array([self.agents[name].get("speed", 1.0) for name in names])
        capacity = np.array(
            [[self.agents[name].get(key, 0) for key in self.resources] for name in names],
            dtype=np.int64,
        )
        out = []
        for first in range(0, len(table), self.jobs):
            part = table.iloc[first : first + self.jobs]
            agent = part["agent"].map(names.index).to_numpy()
            demand = part[self.resources].to_numpy().astype(np.int64)
            release = (
                ((part["submit"] - part["submit"].iloc[0]) // self.tick_seconds)
                .to_numpy()
                .astype(np.int64)
            )
            start = (
                np.ceil((part["start"] - part["submit"].iloc[0]) / self.tick_seconds)
                .to_numpy()
                .astype(np.int64)
            )
            seconds = (
                (part["end"] - part["start"]).to_numpy()[:, None] * speed[agent][:, None] / speed
            )
            duration = np.maximum(1, np.ceil(seconds / self.tick_seconds)).astype(np.int64)
            fits = (demand[:, None] <= capacity).all(axis=2)
            instance = Instance.from_dict(
                {
                    "name": f"{self.name}/{first}",
                    "release": release,
                    "duration": np.where(fits, duration, -1),
                    "demand": np.repeat(demand[:, None], len(names), axis=1),
                    "capacity": capacity,
                    "agent_type": np.arange(len(names)),
                    "resources": self.resources,
                    "tick_seconds": self.tick_seconds,
                }
            )
            begun = Schedule.from_assignment(instance, agent, np.maximum(start, release))
            out.append((instance, active(instance, begun)))
        return out

    def _table(self) -> pandas.DataFrame:
        """The good rows, by submission; times in seconds from the first one."""
        import pandas

        table = self._read()
        if table.empty:
            raise UserError(f"logs.path: {self.path} has no rows")
        needed = [*COLUMNS, *self.resources]
        theirs = {self.columns.get(name, name): name for name in needed}
        missing = [name for name in theirs if name not in table]
        if missing:
            has = ", ".join(map(str, table))
            raise UserError(
                f"logs: {self.path} has no column {missing[0]!r}; it has {has}. Name it in logs.columns"
            )
        table = table[list(theirs)].rename(columns=theirs)
        table["agent"] = table["agent"].map(_name)
        for name in (*COLUMNS[:3], *self.resources):
            table[name] = _numbers(table[name], dates=name in COLUMNS)
        demands = table[self.resources]
        table[self.resources] = demands.where(demands < 0, np.ceil(demands))
        reasons = {
            f"{name} is missing or no number{' and no ISO date' if name in COLUMNS else ''}": table[
                name
            ].isna()
            for name in (*COLUMNS[:3], *self.resources)
        }
        speeds = [agent.get("speed", 1.0) for agent in self.agents.values()]
        ticks = (
            (table["end"] - table["submit"].min()) * (max(speeds) / min(speeds)) / self.tick_seconds
        )
        reasons |= {
            "started before it was submitted": table["start"] < table["submit"],
            "ended before it began": table["end"] <= table["start"],
            f"it may end after more than {LARGEST:,} ticks; raise logs.tick_seconds": ticks
            > LARGEST,
            f"agent is none of {', '.join(self.agents)}": ~table["agent"].isin(list(self.agents)),
            "a demand is negative or more than its agent has": ~pandas.Series(
                self._fit(table), index=table.index
            ),
        }
        bad = np.zeros(len(table), dtype=bool)
        self.rejected = []
        for reason, rows in reasons.items():
            self.rejected += [(int(row), reason) for row in np.flatnonzero(rows.to_numpy() & ~bad)]
            bad |= rows.to_numpy()
        crowded = self._crowded(table, np.flatnonzero(~bad))
        self.rejected += [
            (row, "its agent has no room for its whole units beside the rows running there")
            for row in crowded
        ]
        bad[crowded] = True
        self.rejected.sort()
        if (~bad).sum() < max(1.0, self.reject * len(table)):
            raise UserError(
                f"logs: {self.path}: {bad.sum()} of {len(table)} rows are rejected ({self.why()})"
            )
        good = table[~bad].sort_values(["submit", "start"], kind="stable")
        good[list(COLUMNS[:3])] -= good["submit"].min()
        return good

    def _fit(self, table: pandas.DataFrame) -> list[bool]:
        """Whether each row's demands are what its agent has; an agent that is not known has no say."""
        fits = []
        for agent, demand in zip(table["agent"], table[self.resources].to_numpy(), strict=True):
            has = self.agents.get(agent)
            pairs = zip(self.resources, demand, strict=True)
            fits.append(has is None or all(0 <= need <= has.get(key, 0) for key, need in pairs))
        return fits

    def _crowded(self, table: pandas.DataFrame, rows: NDArray[np.int64]) -> list[int]:
        """Those of `rows` for which, when they started, their agent had too little left beside rows before them."""
        times, demands = table[["start", "end"]].to_numpy(), table[self.resources].to_numpy()
        free = {
            name: np.array([has.get(key, 0) for key in self.resources], dtype=float)
            for name, has in self.agents.items()
        }
        running: dict[str, list[tuple[float, int]]] = {
            name: [] for name in self.agents
        }  # heaps of (end, row)
        agents, found = table["agent"].tolist(), []
        for row in rows[np.lexsort((rows, times[rows, 0]))].tolist():
            agent = agents[row]
            while running[agent] and running[agent][0][0] <= times[row, 0] + self.tick_seconds:
                free[agent] += demands[heapq.heappop(running[agent])[1]]
            if (demands[row] > free[agent]).any():
                found.append(row)
            else:
                heapq.heappush(running[agent], (times[row, 1], row))
                free[agent] -= demands[row]
        return found

    def _read(self) -> pandas.DataFrame:
        import pandas

        path = Path(str(self.path)).expanduser()
        try:
            return (
                pandas.read_parquet(path)
                if path.suffix in (".parquet", ".pq")
                else pandas.read_csv(path)
            )
        except Exception as error:  # each reader raises its own kinds for a file that is cut short or something else
            raise UserError(
                f"logs.path: {path} cannot be read ({str(error).splitlines()[0]})"
            ) from None


def _checked(agents: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """name -> what an agent has. Raises UserError naming the agent and the field."""
    found: dict[str, dict[str, Any]] = {}
    for i, agent in enumerate(agents):
        if "name" not in agent or str(agent["name"]) in found:
            raise UserError(f"logs.agents[{i}]: needs a name of its own")
        for key, value in agent.items():
            if key == "speed" and not (_is_number(value) and value > 0):
                raise UserError(f"logs.agents[{i}].speed: must be above 0, got {value!r}")
            if key not in ("name", "speed") and not (
                _is_number(value) and value >= 0 and value == int(value)
            ):
                raise UserError(
                    f"logs.agents[{i}].{key}: a whole number of units is needed, got {value!r}"
                )
        found[str(agent["name"])] = dict(agent)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name(value: Any) -> str:
    """An agent's name: pandas reads numbers as floating-point ones where some are missing."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _numbers(column: pandas.Series, dates: bool) -> pandas.Series:
    """Numbers, NaN where there are none; of a column of dates and times: seconds."""
    import pandas

    is_date = pandas.api.types.is_datetime64_any_dtype(column)
    found = pandas.to_numeric(column, errors="coerce")
    if dates and len(column) and (is_date or found.isna().all()):
        times = pandas.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
        found = (times - pandas.Timestamp(0, tz="utc")).dt.total_seconds()
    return found.astype(float).where(lambda x: x.abs() < math.inf)
