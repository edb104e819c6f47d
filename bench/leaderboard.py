"""`python -m bench.leaderboard`: one table per track from the runs of a tracking store.

Nothing a run says about its own quality is believed: objectives, feasibility, gaps and scores are recomputed from the stored
instances and schedules. Where a record says otherwise the row says MISMATCH and the recomputed number counts. A schedule with
any violation costs at least the penalty of an unassigned task, so that breaking a rule never pays. Failed runs stay as rows.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis import stats
from bench.errors import UserError
from bench.instance import Instance, read_json
from bench.references import shipped
from bench.run.instance_set import set_hash
from bench.run.record import judge as judge_entry
from bench.run.record import selection
from bench.tracking import StoredRun, stored_runs

FILES = ("instances.json.gz", "schedules.json.gz", "instances.parquet")
# rows equal in these are ranked against each other
PROBLEM = ("dataset", "set_hash", "objective", "mode", "backfill", "events")
CONFIGURED = (
    "solver",
    "dataset",
    "budget",
    "track",
    "objective",
    "mode",
    "backfill",
    "observe",
    "events",
)
COLUMNS = (
    "rank", "solver", "configuration", "logs", "selection", "dataset", "objective", "mode", "backfill", "events", "information",
    "seeds", "feasible",
    "objective_mean", "gap_mean", "score", "score_low", "score_high", "reference", "train_seconds", "solve_seconds", "hardware",
    "git_commit", "verified", "error", "set_hash", "runs",
)  # fmt: skip
SHOWN = [
    name for name in COLUMNS if name not in ("score_low", "score_high", "set_hash", "runs")
]  # of the Markdown table

Floats = NDArray[np.float64]
Row = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """One run: its record, and what its stored schedules are worth. Arrays are (I,), in the instances' own sense and scale."""

    record: Mapping[str, Any]  # result.json; for a run that left none, its tags
    configuration: str  # short hash of its settings without the seed
    run: str  # MLflow's id
    hardware: str = ""
    objective: Floats = field(default_factory=lambda: np.zeros(0))
    gap: Floats = field(default_factory=lambda: np.zeros(0))
    score: Floats = field(default_factory=lambda: np.zeros(0))
    feasible: Floats = field(default_factory=lambda: np.zeros(0))  # 0 or 1
    proved: Floats = field(
        default_factory=lambda: np.zeros(0)
    )  # 0 or 1: the reference is a certified optimum
    mismatches: tuple[str, ...] = ()
    error: str = ""  # why there is nothing to judge


# -- one run ---------------------------------------------------------------------------------------------------------


def judge(run: StoredRun, folder: Path) -> Judged:
    """Download what a run stored to `folder` and recompute it; whatever cannot be read becomes the row's error."""
    known: dict[str, Any] = {
        "configuration": configuration(run.params),
        "run": run.id,
        "hardware": run.tags.get("hardware", ""),
    }
    record: Mapping[str, Any] = run.tags
    try:
        record = dict(read_json(run.artifact("result.json", folder)))
        if "failed" in (run.status, record["status"]):
            return Judged(
                record, error=record.get("error") or run.tags.get("error") or "failed", **known
            )
        return Judged(
            record, **known, **recompute(record, *(run.artifact(name, folder) for name in FILES))
        )
    except Exception as error:  # whatever a missing or damaged file raises
        return Judged(
            record, error=run.tags.get("error") or f"cannot be judged: {_line(error)}", **known
        )


def recompute(
    record: Mapping[str, Any], instances: Path, schedules: Path, table: Path
) -> dict[str, Any]:
    """Judge every stored schedule; the array fields and mismatches of `Judged`.

    Raises:
        ValueError: for files that do not belong together; a damaged one raises what its reader raises.
    """
    import pandas

    problems = [Instance.from_dict(data) for data in read_json(instances)]
    entries, recorded = read_json(schedules), pandas.read_parquet(table)
    if not len(problems) == len(entries) == len(recorded) > 0:
        raise ValueError(
            f"{len(problems)} instances, {len(entries)} schedules, {len(recorded)} rows: must be equally many"
        )
    verdicts = [
        _verdict(*pair, record["objective"]) for pair in zip(problems, entries, strict=True)
    ]
    objective, feasible = (
        np.array([value for value, _ in verdicts]),
        np.array([float(not rules) for _, rules in verdicts]),
    )
    hashes = [problem.hash() for problem in problems]
    known = recorded[["reference", "reference_bound", "reference_proved"]].to_numpy(
        dtype=float, na_value=math.nan
    )
    for i, (problem, digest) in enumerate(
        zip(problems, hashes, strict=True)
    ):  # what is shipped goes before what a run says
        best = shipped(digest, record["objective"])
        if math.isfinite(best.objective):
            known[i] = problem.original(best.objective), problem.original(best.bound), best.proved
    reference, bounds, proved = known.T
    found = {
        "objective": objective,
        "gap": np.array(
            [
                float(stats.gap(v, bound, p.sense))
                for v, bound, p in zip(objective, bounds, problems, strict=True)
            ]
        ),
        "score": stats.score(
            objective, recorded["random"], reference
        ),  # the same in every affine scale
        "feasible": feasible,
        "proved": np.nan_to_num(proved),
    }
    return {
        **found,
        "mismatches": tuple(_mismatches(record, recorded, found, hashes, set_hash(problems))),
    }


def configuration(params: Mapping[str, str]) -> str:
    """Short hash of the settings that make runs comparable as seeds of one another: all but seeds and places of files."""
    chosen = {
        key: value
        for key, value in params.items()
        if key.split(".")[0] in CONFIGURED and key.rsplit(".")[-1] not in ("seed", "path")
    }
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]


def _verdict(instance: Instance, entry: dict[str, Any], name: str) -> tuple[float, list[str]]:
    """(objective in the instance's own sense, violations) of a stored schedule; none at all leaves every task out."""
    if entry["instance_hash"] != instance.hash():
        raise ValueError(
            f"schedule of instance {entry['instance_hash'][:8]} stored beside instance {instance.hash()[:8]}"
        )
    verdict = judge_entry(instance, entry, name)
    return instance.original(verdict.value), verdict.violations


def _mismatches(
    record: Mapping[str, Any],
    recorded: Any,
    found: Mapping[str, Floats],
    hashes: Sequence[str],
    digest: str,
) -> Iterable[str]:
    """Every way in which what a run recorded differs from what its schedules say."""
    if record.get("set_hash") != digest:
        yield f"set_hash {record.get('set_hash')} recorded, the stored instances have {digest}"
    if list(recorded["instance_hash"]) != list(hashes):
        yield "instance_hash of the table and of the stored instances differ"
    for column in ("objective", "feasible"):
        stated = recorded[column].to_numpy(dtype=float)
        wrong = np.isfinite(stated) & ~np.isclose(stated, found[column], rtol=1e-9, atol=1e-9)
        for i in np.flatnonzero(wrong).tolist():
            yield f"{column} {stated[i]:g} recorded on instance {i} ({hashes[i][:8]}), recomputed {found[column][i]:g}"
    for name, column in (("objective_mean", "objective"), ("feasible", "feasible")):
        stated, mean = (
            record.get(name),
            recorded[column].astype(float).mean(),
        )  # missing (crashed) ones left out
        if stated is not None and not math.isclose(stated, mean, rel_tol=1e-9, abs_tol=1e-9):
            yield f"{name} {stated:g} recorded, its own table has {mean:g}"
    if (found["gap"] < -1e-9).any():
        yield f"objective beyond the recorded bound on instance {int(np.nanargmin(found['gap']))}: the bound is wrong"


# -- tables ----------------------------------------------------------------------------------------------------------


def tables(judged: Sequence[Judged], rng: np.random.Generator) -> dict[str, list[Row]]:
    """One list of rows per track, ranked within each problem by score (then gap, then objective); failed runs come last."""
    groups: dict[tuple[Any, ...], list[Judged]] = {}
    for one in judged:
        record = one.record
        same = (
            *(record.get(name) for name in ("track", "solver", "information", *PROBLEM)),
            one.configuration,
        )
        groups.setdefault((*same, one.run if one.error else ""), []).append(one)
    rows: dict[str, list[Row]] = {}
    for members in groups.values():
        rows.setdefault(str(members[0].record.get("track") or "unknown"), []).append(
            row(members, rng)
        )
    for track in rows:
        rows[track].sort(key=_order)
        _rank(rows[track])
    return rows


def row(members: Sequence[Judged], rng: np.random.Generator) -> Row:
    """One row from the seeds of one configuration on one instance set (or from one failed run)."""
    first = members[0]
    record = first.record
    facts = {name: record.get(name) for name in ("solver", "information", *PROBLEM)}
    facts |= {"logs": record.get("logs/name"), "selection": selection(record)}
    out = dict.fromkeys(COLUMNS) | facts
    out |= {
        "configuration": first.configuration,
        "runs": [one.run for one in members],
        "seeds": len({one.record.get("seed") for one in members}),
        "hardware": " / ".join(sorted({one.hardware for one in members})),
        "git_commit": " / ".join(
            sorted({str(one.record.get("git_commit") or "")[:10] for one in members})
        ),
        "train_seconds": _mean([one.record.get("train_seconds") for one in members]),
        "solve_seconds": _mean([one.record.get("solve_seconds") for one in members]),
    }
    if first.error:
        return out | {"error": first.error, "verified": "no"}
    score = np.stack([one.score for one in members])  # (S, I)
    score = score[:, np.isfinite(score).all(axis=0)]
    low, high = stats.bootstrap_interval(score, rng) if score.size else (math.nan, math.nan)
    mismatches = [
        f"seed {one.record.get('seed')}: {text}" for one in members for text in one.mismatches
    ]
    return out | {
        "feasible": _mean(np.concatenate([one.feasible for one in members])),
        "objective_mean": _mean(np.concatenate([one.objective for one in members])),
        "gap_mean": _mean(np.concatenate([one.gap for one in members])),
        "score": _mean(score.ravel()),
        "score_low": low,
        "score_high": high,
        "reference": _reference(
            np.concatenate([one.proved for one in members]), score.shape[1], len(first.score)
        ),
        "verified": "MISMATCH: " + "; ".join(mismatches) if mismatches else "yes",
        "error": "",
    }


def _reference(proved: Floats, scored: int, instances: int) -> str:
    """What the scores are measured against, in words."""
    words = "proved" if proved.all() else f"{proved.mean():.0%} proved, else best known"
    return words if scored == instances else f"{words}; {scored} of {instances} instances have one"


def _order(one: Row) -> tuple[Any, ...]:
    """Sort key: problems together, failed runs last, then by score, gap and objective; missing numbers after known ones."""
    quality = [
        (-one["score"] if _known(one["score"]) else math.inf),
        *(_last(one[k]) for k in ("gap_mean", "objective_mean")),
    ]
    return (*(str(one[name]) for name in PROBLEM), bool(one["error"]), *quality, str(one["solver"]))


def _rank(rows: Sequence[Row]) -> None:
    """Number the rows of each problem from 1; equal scores share a rank, failed runs have none."""
    place: dict[tuple[Any, ...], list[Row]] = {}
    for one in rows:
        ranked = place.setdefault(tuple(one[name] for name in PROBLEM), [])
        if one["error"]:
            continue
        tied = (
            bool(ranked)
            and _known(one["score"])
            and math.isclose(one["score"], ranked[-1]["score"], rel_tol=1e-9)
        )
        one["rank"] = ranked[-1]["rank"] if tied else len(ranked) + 1
        ranked.append(one)


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _last(value: float | None) -> float:
    return math.inf if value is None or not math.isfinite(value) else value


def _mean(values: Iterable[float | None] | Floats) -> float:
    """Mean of the known values, NaN without any."""
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


# -- files -----------------------------------------------------------------------------------------------------------


def markdown(track: str, rows: Sequence[Row]) -> str:
    """A page with the track's table and, below it, every mismatch and error in full."""
    lines = [
        f"# Leaderboard: {track}",
        "",
        "Score: 0 = random legal play, 100 = reference; 95 % interval over seeds.",
        "",
    ]
    lines += [f"| {' | '.join(SHOWN)} |", f"|{'---|' * len(SHOWN)}"]
    lines += [f"| {' | '.join(_cell(one, name) for name in SHOWN)} |" for one in rows]
    notes = [
        f"- **{one['solver']} on {one['dataset']}**: {text}" for one in rows if (text := _note(one))
    ]
    return "\n".join([*lines, *(["", "## What is wrong", "", *notes] if notes else []), ""])


def write(rows: Mapping[str, Sequence[Row]], out: Path) -> list[Path]:
    """TRACK.md, TRACK.csv and TRACK.json in `out` for every track; missing numbers are empty or null."""
    out.mkdir(parents=True, exist_ok=True)
    for track, table in rows.items():
        plain = [
            {
                name: None if isinstance(x, float) and not math.isfinite(x) else x
                for name, x in one.items()
            }
            for one in table
        ]
        (out / f"{track}.md").write_text(markdown(track, table))
        (out / f"{track}.json").write_text(json.dumps(plain, indent=1) + "\n")
        with (out / f"{track}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(one | {"runs": " ".join(one["runs"] or ())} for one in plain)
    return [out / f"{track}.{kind}" for track in rows for kind in ("md", "csv", "json")]


def _note(one: Row) -> str:
    return one["error"] or (one["verified"] if one["verified"] != "yes" else "")


def _cell(one: Row, name: str) -> str:
    """One cell of the Markdown table, short."""
    value = one[name]
    if name == "verified" and value not in ("yes", "no"):
        return "**MISMATCH**"
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if name == "score":
        interval = (
            f" [{one['score_low']:.1f}, {one['score_high']:.1f}]"
            if _known(one["score_low"])
            else ""
        )
        return f"{value:.1f}{interval}"
    if name in ("gap_mean", "feasible"):
        return f"{value:.1%}"
    text = f"{value:.5g}" if isinstance(value, float) else " ".join(str(value).split())
    return (text if len(text) <= 80 else text[:77] + "...").replace("|", "\\|")


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def build(uri: str, experiment: str, rng: np.random.Generator) -> dict[str, list[Row]]:
    """The tables of a store: the newest finished or failed run of every key (configuration, seed, instance set)."""
    newest: dict[str, StoredRun] = {}
    for run in stored_runs(uri, experiment):
        if run.status in ("finished", "failed"):
            newest.setdefault(run.tags.get("key", run.id), run)
    judged = []
    for run in newest.values():
        with tempfile.TemporaryDirectory() as folder:
            judged.append(judge(run, Path(folder)))
    return tables(judged, rng)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the tables; exit status 2 where the store cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.leaderboard", description="Judge the runs of a tracking store."
    )
    parser.add_argument(
        "--uri", default="sqlite:///mlflow.db", help="tracking store (default %(default)s)"
    )
    parser.add_argument("--experiment", default="dl-scheduling-bench", help="default %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("leaderboard"),
        help="folder for the tables (default %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        rows = build(options.uri, options.experiment, np.random.default_rng(0))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        "\n".join(markdown(track, table) for track, table in rows.items())
        or "no finished or failed runs yet"
    )
    for path in write(rows, options.out):
        print(path)
    wrong = sum(
        str(one["verified"]).startswith("MISMATCH") for table in rows.values() for one in table
    )
    if wrong:
        print(
            f"MISMATCH in {wrong} rows: their records differ from their schedules; see the tables",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
