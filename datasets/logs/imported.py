"""A scheduler's own log: a table with one row per job of when and where it ran.

The jobs are cut into episodes of consecutive submissions. Each episode is an instance, and the
agents and the order of starts of the log are replayed on it. Starts are the earliest that the order
allows (`bench.left_shift`), because the delay between an event and the scheduler's reaction is not
part of the decision process. An episode begins with empty agents: jobs that ran or waited from
before its first job are not part of it, so its return is the value of the scheduler's decisions on
that instance, not what its users experienced. The probabilities of the scheduler's actions are
unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.contracts import Progress, no_progress
from bench.errors import UserError
from bench.files import file_hash
from bench.instance import Instance
from bench.left_shift import active
from bench.limits import MAX_INTEGER
from bench.logs.episodes import EpisodeRecorder, LoggedEpisodes, concatenate
from bench.logs.replay import ScheduleReplay
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator.tables import NO_ACTION
from bench.simulator.tensors import TensorSimulator
from bench.ticks import duration_to_ticks, seconds_between, time_to_ticks
from datasets._reading import Reading
from datasets.logs.job_table import COLUMNS, JobTable, is_number
from datasets.logs.stored import StoredLogs

if TYPE_CHECKING:
    import pandas

BATCH_SIZE = 64  # episodes replayed side by side
SHOWN_ROWS = 10  # rejected rows that a message names


class ImportedLogs(StoredLogs):
    """A table of jobs (CSV or Parquet) as a logged dataset.

    Parameters
    ----------
    name
        Its name in the cache.
    path
        The file. Times are numbers of seconds, dates and times (ISO 8601), or durations; releases
        and starts are rounded up to ticks, as durations are.
    agents
        Mappings of `name`, capacity by resource, and optionally `speed` (1 if not given). The table
        has a column of demands for each resource, in the same units and rounded up to integers (for
        shares of a GPU give both in hundredths). The processing time of a job on another agent is
        taken to be (its processing time) * (speed of its agent) / (speed of the other agent).
    columns
        Name used here -> name in the table, where they differ. The names used here are submit,
        start, end, agent and the resources.
    tick_seconds
        Seconds per tick.
    jobs
        Jobs per episode; the remainder at the end is an episode of its own.
    reject
        Rows that break a rule are left out; with a smaller share of good rows than this the file is
        refused. One rule is that the row's agent has room for it beside the rows that run there; an
        overlap of at most one tick is allowed.
    setting
        Fields of `bench.setting.Setting`; by default what an online scheduler observes.

    Raises
    ------
    UserError
        Where the file cannot be read, lacks a column or has too few good rows, or a setting is
        outside its range.
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
        self.jobs = jobs
        self.agents = _checked_agents(agents)
        self.resources = sorted(
            {key for agent in self.agents.values() for key in agent} - {"name", "speed"}
        )
        self.setting = Setting.from_dict(setting or {"track": "online", "observe": "arrived"})
        if path is None:
            raise UserError(
                "logs.path: give the file, CSV or Parquet, with columns submit, start, end, agent "
                "and the demands"
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
        if not (is_number(tick_seconds) and tick_seconds > 0):
            raise UserError(f"logs.tick_seconds: a number above 0 is needed, got {tick_seconds!r}")
        if not (is_number(reject) and 0 <= reject <= 1):
            raise UserError(f"logs.reject: a share from 0 to 1 is needed, got {reject!r}")
        self.tick_seconds = tick_seconds
        self.reject = reject
        self.columns = self._checked_columns(columns or {})
        self.path = Path(path)

    def _checked_columns(self, columns: Mapping[str, str]) -> dict[str, str]:
        """Return `columns`, or raise a UserError for a name that is unknown or used twice."""
        names = [*COLUMNS, *self.resources]
        unknown = sorted(set(columns) - set(names))
        if unknown:
            raise UserError(f"logs.columns: {unknown[0]!r} is none of {', '.join(names)}")
        in_table = [columns.get(name, name) for name in names]
        for name, column in zip(names, in_table, strict=True):
            if in_table.count(column) > 1:
                raise UserError(
                    f"logs.columns.{name}: {column!r} is taken for two of {', '.join(names)}; name "
                    "another column"
                )
        return {name: str(column) for name, column in columns.items()}

    def episodes(self, progress: Progress = no_progress) -> LoggedEpisodes:
        """Return the replayed log.

        The rows that were left out are in `rejected`, and the first of them in a note to
        `progress`.
        """
        pairs = self._pairs
        label = f"replays {self.name}"
        if self.rejected:
            reasons = f"{len(self.rejected)} rows rejected: {self.rejection_reasons()}"
            progress(label, 0, len(pairs), reasons)
        parts = []
        window = max(instance.n_tasks for instance, _ in pairs)
        for first in range(0, len(pairs), BATCH_SIZE):
            instances, schedules = zip(*pairs[first : first + BATCH_SIZE], strict=True)
            parts.append(self._replay(instances, schedules, window))
            progress(label, first + len(instances), len(pairs), "")
        log = replace(concatenate(self.name, parts), probability=None)
        self.store(log, {"rejected_rows": len(self.rejected)})
        return log

    def _replay(
        self, instances: Sequence[Instance], schedules: Sequence[Schedule], window: int
    ) -> LoggedEpisodes:
        """Replay one schedule per instance, side by side, with `window` tasks shown."""
        simulator = TensorSimulator(instances, self.setting, window=window)
        recorder = EpisodeRecorder("imported")
        replay = ScheduleReplay(schedules, simulator)
        while simulator.playing.any():
            allowed = replay.with_fallback(replay.scheduled_actions())
            action = allowed.float().argmax(dim=1)
            recorder.before_step(simulator, action, torch.ones(len(action)))
            recorder.after_step(simulator.step(torch.where(simulator.playing, action, NO_ACTION)))
        simulator.check()
        return recorder.episodes(self.name)

    def instances(self) -> Sequence[Instance]:
        """Return the instances, one per episode."""
        return [instance for instance, _ in self._pairs]

    def content(self) -> Any:
        """Return the SHA-256 of the file."""
        return file_hash(self.path.expanduser())

    def rejection_reasons(self) -> str:
        """Return the first rejected rows and their reasons in one line."""
        first = "; ".join(f"row {row}: {reason}" for row, reason in self.rejected[:SHOWN_ROWS])
        more = len(self.rejected) - SHOWN_ROWS
        return first + (f"; and {more} more" if more > 0 else "")

    @cached_property
    def _pairs(self) -> list[tuple[Instance, Schedule]]:
        """The instances and their schedules, read once although learners ask for them twice."""
        source = JobTable(
            self.path, self.agents, self.resources, self.columns, float(self.tick_seconds)
        )
        table, self.rejected = source.read()
        count = len(table) + len(self.rejected)
        if len(table) < max(1.0, self.reject * count):
            raise UserError(
                f"logs: {self.path}: {len(self.rejected)} of {count} rows are rejected "
                f"({self.rejection_reasons()})"
            )
        reading = Reading(self.path, "rows")
        reading.use(len(table))
        for _, reason in self.rejected:
            reading.leave_out(f"({reason})")
        reading.finish()
        return [
            self._pair(table.iloc[first : first + self.jobs], f"{self.name}/{first}")
            for first in range(0, len(table), self.jobs)
        ]

    def _pair(self, table: pandas.DataFrame, name: str) -> tuple[Instance, Schedule]:
        """Return the instance of some consecutive jobs, and the schedule of the log on it."""
        names = list(self.agents)
        speed = np.array([self.agents[one].get("speed", 1.0) for one in names])
        capacity = np.array(
            [[self.agents[one].get(key, 0) for key in self.resources] for one in names],
            dtype=np.int64,
        )
        agent = table["agent"].map(names.index).to_numpy()
        demand = table[self.resources].to_numpy().astype(np.int64)
        origin = table["submit"].iloc[0]
        release, start = (
            time_to_ticks(seconds_between(origin, table[key]), self.tick_seconds, key)
            for key in ("submit", "start")
        )
        used = seconds_between(table["start"], table["end"])
        # The ratio of an agent's speed to itself is exactly 1: there a job takes what it took.
        seconds = used[:, None] * (speed[agent][:, None] / speed)  # (N, M)
        duration = duration_to_ticks(seconds, self.tick_seconds)
        fits = (demand[:, None] <= capacity).all(axis=2)
        instance = Instance.from_dict(
            {
                "name": name,
                "release": release,
                "duration": np.where(fits, duration, -1),
                "demand": np.repeat(demand[:, None], len(names), axis=1),
                "capacity": capacity,
                "agent_type": np.arange(len(names)),
                "resources": self.resources,
                "tick_seconds": self.tick_seconds,
            }
        )
        logged = Schedule.from_assignment(instance, agent, np.maximum(start, release))
        return instance, active(instance, logged)


def _checked_agents(agents: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the agents by their names, or raise a UserError that names the agent and the field."""
    found: dict[str, dict[str, Any]] = {}
    for i, agent in enumerate(agents):
        if isinstance(agent.get("name"), bool | float):
            raise UserError(
                f"logs.agents[{i}].name: value {agent['name']!r}: is no text; put the name in "
                "quotes, so that it is kept as it is written"
            )
        if "name" not in agent or str(agent["name"]) in found:
            raise UserError(f"logs.agents[{i}]: needs a name of its own; add or change `name`")
        for key, value in agent.items():
            if key == "speed" and not (is_number(value) and value > 0):
                raise UserError(f"logs.agents[{i}].speed: must be above 0, got {value!r}")
            is_units = is_number(value) and 0 <= value <= MAX_INTEGER and value == int(value)
            if key not in ("name", "speed") and not is_units:
                raise UserError(
                    f"logs.agents[{i}].{key}: an integer number of units is needed, got {value!r}"
                )
        found[str(agent["name"])] = {str(key): value for key, value in agent.items()}
    return found
