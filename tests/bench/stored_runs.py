"""Finished runs made by hand, as the runner writes them and the tracking store returns them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from bench.contracts import Result
from bench.instance import Instance, write_json
from bench.instance_set import set_hash
from bench.leaderboard import LeaderboardRow, tables
from bench.references import RandomPlay, Reference, References, random_play
from bench.run.recompute import FILES, recompute_run
from bench.schedule import Schedule
from bench.setting import Setting
from bench.tracking import StoredRun

RNG = np.random.default_rng


def instance(release: int = 0, **changes: Any) -> Instance:
    """Two tasks of 4 and 2 ticks, one agent, one at a time.

    Total time 8 (short first) or 10 at release 0.
    """
    fields = {
        "duration": [[4], [2]],
        "demand": [[[1]], [[1]]],
        "capacity": [[1]],
        "agent_type": [0],
    }
    return Instance(**{**fields, "release": [release, release], **changes})


def short_first(problem: Instance) -> Schedule:
    start = int(problem.release[0])
    return Schedule.from_assignment(problem, [0, 0], [start + 2, start])


def long_first(problem: Instance) -> Schedule:
    start = int(problem.release[0])
    return Schedule.from_assignment(problem, [0, 0], [start, start + 4])


PROBLEMS = [instance(), instance(5)]

PLAYED: dict[tuple[str, Setting], RandomPlay] = {}


class Folders:
    """A stub of the tracking store's client: a run's artifacts are the files of its folder."""

    def download_artifacts(self, run_id: str, name: str, folder: str) -> str:
        if not Path(run_id, name).exists():
            raise FileNotFoundError(name)
        return shutil.copy(Path(run_id, name), folder)


def make_run(
    folder: Path,
    schedules: list[Schedule | None],
    objectives: list[float],
    *,
    problems: list[Instance] | None = None,
    table: dict[str, Any] | None = None,
    params: dict[str, str] | None = None,
    **record: Any,
) -> StoredRun:
    """A finished run as the runner writes it; `objectives`, `table`, `record` may be false."""
    folder.mkdir(parents=True)
    problems = problems or PROBLEMS
    write_json(folder / FILES[0], [problem.to_dict() for problem in problems])
    entries = [
        {
            "instance_hash": problem.hash(),
            "result": Result(schedule).to_dict() if schedule else None,
            "error": None,
            "solve_seconds": 0.25,
        }
        for problem, schedule in zip(problems, schedules, strict=True)
    ]
    write_json(folder / FILES[1], entries)
    columns: dict[str, Any] = {
        "instance_hash": [problem.hash() for problem in problems],
        "objective": objectives,
        "feasible": [float(schedule is not None) for schedule in schedules],
        "reference": 8.0,
        "reference_bound": 8.0,
        "reference_proved": True,
        "random": 12.0,
    }
    pandas.DataFrame({**columns, **(table or {})}).to_parquet(folder / FILES[2])
    honest = {
        "solver": "sjf",
        "dataset": "two",
        "track": "schedule",
        "information": "clairvoyant",
        "objective": "total_time",
        "mode": "fit",
        "backfill": "none",
        "seed": 0,
        "status": "finished",
        "error": None,
        "set_hash": set_hash(problems),
        "objective_mean": float(np.mean(objectives)),
        "feasible": float(np.mean([s is not None for s in schedules])),
        "train_seconds": 1.5,
        "solve_seconds": 0.5,
        "git_commit": "0123456789abcdef",
    }
    full = {**honest, **record}
    write_json(folder / "result.json", full)
    tags = {
        "role": "run",
        "track": full["track"],
        "solver": full["solver"],
        "dataset": "two",
        "hardware": "2 cores",
    }
    return StoredRun(str(folder), folder.name, "finished", 0, tags, params or {}, Folders())


def honest(folder: Path, **changes: Any) -> StoredRun:
    schedules: list[Schedule | None] = [short_first(PROBLEMS[0]), long_first(PROBLEMS[1])]
    return make_run(folder, schedules, [8.0, 10.0], **changes)


def known_optima(cache: Path) -> References:
    """Return a cache of the suite that knows the optimum 8 of both instances."""
    known = References(cache)
    for problem in PROBLEMS:
        known.improve(problem, "total_time", Reference(8.0, 8.0, "exact", "exact"))
    return known


def played(problem: Instance, setting: Setting) -> RandomPlay:
    """Return the suite's own random play, played once for all tests."""
    key = problem.hash(), setting
    if key not in PLAYED:
        PLAYED[key] = random_play(problem, setting)
    return PLAYED[key]


def board(tmp_path: Path, *runs: StoredRun) -> list[LeaderboardRow]:
    """Return all rows of all tracks."""
    out = tmp_path / "recomputed"
    out.mkdir(exist_ok=True)
    known = References(tmp_path / "cache")
    found = tables([recompute_run(run, out) for run in runs], known, RNG(0))
    return [row for table in found.values() for row in table]
