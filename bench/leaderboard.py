"""`python -m bench.leaderboard`: one table per track from the runs of a tracking store.

No number that a run reports about its own quality is used: objectives, feasibility, gaps and scores
are recomputed from the stored instances and schedules, against references and a random baseline
that are the suite's own, the same for all rows. A schedule with any violation costs at least the
penalty of an unassigned task.

Only rows that verified are ranked; in the track online only those that were isolated and whose
check of non-anticipation says `checked`. All others are listed below with the reason: what differs
from its record or is not of the right form (MISMATCH), failed runs, and what was not shown to be
online. Columns marked * are what the run claims. A row holds the seeds of one configuration on one
problem and of one origin (user of the store, code version, hardware), where all decided in
processes of their own or none did; it is `checked` only if all of them are. A newer run replaces an
older one only if all of that and the seed are the same; runs of one row with the same schedules are
copies and count once.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast, get_type_hints

import numpy as np
from numpy.typing import NDArray

from bench.analysis import stats
from bench.errors import plain_text
from bench.files import write_text
from bench.paths import output_folder
from bench.programs import ArgumentParser, program
from bench.references import References, user_cache
from bench.run.common_scores import CommonReferences
from bench.run.recompute import RecomputedRun, recompute_run
from bench.run.record import PROBLEM_FIELDS, selection
from bench.run.record_schema import weakest_outcome, why_not_online
from bench.setting import TRACKS
from bench.tracking import EXPERIMENT, stored_runs

# not in the Markdown table
HIDDEN = ("score_low", "score_high", "error", "split", "runs", "replaced")
CLAIMED = (
    "solver",
    "configuration",
    "logs",
    "selection",
    "information",
    "isolated",
    "non_anticipation",
    "seeds",
    "train_seconds",
    "solve_seconds",
    "hardware",
    "git_commit",
)
UNKNOWN = "unknown"  # the table of runs without a valid track
CELL = 80  # characters of a cell at most

Floats = NDArray[np.float64]


class LeaderboardRow(TypedDict):
    """The runs of one configuration on one problem, a run per seed; or one failed run.

    Means are over instances and runs; a missing number is NaN or None.
    """

    rank: int | None  # within a problem, equal scores share one; None: `not_ranked` says why
    solver: str
    configuration: str  # hash of all settings but seeds and paths
    logs: str | None  # name of the logged dataset that it learned from
    selection: str | None  # how a policy from logs was selected; oracle: by true return
    dataset: str
    objective: str
    mode: str
    backfill: str
    event_order: str
    information: str  # clairvoyant | online
    isolated: bool | None  # whether it decided in a process of its own
    non_anticipation: str | None  # whether its decisions were tested with rewritten futures
    seeds: int  # with different schedules; copies count once
    feasible: float | None  # share of schedules without violations
    objective_mean: float | None
    gap_mean: float | None
    score: float | None
    score_low: float | None  # 95 % interval over seeds; missing with one seed
    score_high: float | None
    reference: str | None  # what the scores are measured against, in words
    train_seconds: float
    solve_seconds: float
    hardware: str
    git_commit: str
    verified: str  # yes | no (failed) | MISMATCH: where the record differs
    error: str
    not_ranked: str  # why it has no rank, in words; empty: it has one
    set_hash: str | None  # of the stored instances
    split: str | None
    runs: list[str]  # MLflow's ids
    replaced: list[str]  # of older runs of the same key


COLUMNS = tuple(get_type_hints(LeaderboardRow))
SHOWN = tuple(name for name in COLUMNS if name not in HIDDEN)


# -- tables ------------------------------------------------------------------------------------


def tables(
    runs: Sequence[RecomputedRun], references: References, rng: np.random.Generator
) -> dict[str, list[LeaderboardRow]]:
    """Return track -> rows, ranked within each problem by score, then gap, then objective.

    Rows that are not ranked come last.
    """
    common = CommonReferences(references, runs)
    newest, replaced = _newest(runs)
    anticipate = {run.group for run in newest if run.record.get("non_anticipation") == "failed"}
    groups: dict[tuple[Any, ...], list[RecomputedRun]] = {}
    for run in newest:
        alone = run.run if run.error or run.mismatches else ""
        groups.setdefault((*run.group, alone), []).append(run)
    rows: dict[str, list[LeaderboardRow]] = {}
    for members in groups.values():
        track = str(members[0].record.get("track"))
        one = row(members, common, rng, members[0].group in anticipate)
        one["replaced"] = [old for member in members for old in replaced[member.run]]
        rows.setdefault(track if track in TRACKS else UNKNOWN, []).append(one)
    for table in rows.values():
        table.sort(key=_order)
        _rank(table)
    for text in common.contradictions:
        print(f"CONTRADICTION on {text}", file=sys.stderr)
    return rows


def _newest(
    runs: Sequence[RecomputedRun],
) -> tuple[list[RecomputedRun], dict[str, list[str]]]:
    """Return the newest run of each key, and the ids of the older ones that each replaces.

    What failed or does not verify replaces only its like, so that the newest verified run stays.
    """
    kept: dict[tuple[Any, ...], RecomputedRun] = {}
    replaced: dict[str, list[str]] = {}
    for run in sorted(runs, key=lambda one: -one.started):
        key = run.key if run.record.get("solver") else (run.run,)
        fine = not run.error and not run.mismatches
        newer = kept.get((*key, True)) or (None if fine else kept.get((*key, False)))
        if newer is None:
            kept[*key, fine] = run
            replaced[run.run] = []
        else:
            replaced[newer.run].append(run.run)
    return list(kept.values()), replaced


def row(
    members: Sequence[RecomputedRun],
    common: CommonReferences,
    rng: np.random.Generator,
    anticipates: bool = False,
) -> LeaderboardRow:
    """Return the row of the seeds of one configuration on one problem, or of one failed run.

    `anticipates`: the decisions of a seed, of this row or not, were found to depend on the future.
    """
    first = members[0]
    record = first.record
    names = ("solver", "information", "isolated", *PROBLEM_FIELDS)
    facts = {name: record.get(name) for name in names}
    distinct = list({one.schedules or one.run: one for one in members}.values())
    outcomes = [one.record.get("non_anticipation") for one in members]
    out = {
        **dict.fromkeys(COLUMNS),
        **{name: value for name, value in facts.items() if name in COLUMNS},
        "non_anticipation": weakest_outcome([*outcomes, *["failed"] * anticipates]),
        "logs": record.get("logs/name"),
        "selection": selection(record),
        "configuration": first.configuration,
        "runs": [one.run for one in members],
        "seeds": min(len(distinct), len({one.record.get("seed") for one in members})),
        "hardware": first.hardware,
        "git_commit": str(record.get("git_commit") or "")[:10],
        "train_seconds": _mean([one.record.get("train_seconds") for one in members]),
        "solve_seconds": _mean([one.record.get("solve_seconds") for one in members]),
    }
    if first.error:
        out |= {"error": first.error, "verified": "no"}
    else:
        out |= _quality(distinct, common, rng)
    return cast("LeaderboardRow", {**out, "not_ranked": _why_not_ranked(out, record)})


def _why_not_ranked(out: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Return why a row has no rank, in words; empty: it has one."""
    if out["error"] or out["verified"] != "yes":
        return str(out["error"] or out["verified"])
    if record.get("track") != "online":
        return ""
    return why_not_online(out["isolated"], out["non_anticipation"])


def _quality(
    members: Sequence[RecomputedRun], common: CommonReferences, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the columns that are recomputed from schedules."""
    scores = [common.scores(one) for one in members]
    score = np.stack([one.score for one in scores])  # (S, I)
    instances = score.shape[1]
    score = score[:, np.isfinite(score).all(axis=0)]
    low, high = stats.bootstrap_interval(score, rng) if score.size else (math.nan, math.nan)
    proved = np.concatenate([one.proved for one in scores])
    mismatches = [
        f"seed {one.record.get('seed')}: {text}" for one in members for text in one.mismatches
    ]
    return {
        "feasible": _mean(np.concatenate([one.feasible for one in members])),
        "objective_mean": _mean(np.concatenate([one.objective for one in scores])),
        "gap_mean": _mean(np.concatenate([one.gap for one in scores])),
        "score": _mean(score.ravel()),
        "score_low": low,
        "score_high": high,
        "reference": _reference(proved, score.shape[1], instances),
        "verified": "MISMATCH: " + "; ".join(mismatches) if mismatches else "yes",
        "error": "",
    }


def _reference(proved: Floats, scored: int, instances: int) -> str:
    """Describe what the scores are measured against."""
    words = "proved" if proved.all() else f"{proved.mean():.0%} proved, else best known"
    return words if scored == instances else f"{words}; {scored} of {instances} instances have one"


def _order(one: LeaderboardRow) -> tuple[Any, ...]:
    """Sort key: problems together, what is not ranked last, then by score, gap and objective.

    Missing numbers come after known ones.
    """
    score = one["score"]
    return (
        *_problem_of(one),
        bool(one["not_ranked"]),
        -score if score is not None and math.isfinite(score) else math.inf,
        _last(one["gap_mean"]),
        _last(one["objective_mean"]),
        str(one["solver"]),
    )


def _rank(rows: Sequence[LeaderboardRow]) -> None:
    """Number the rows of each problem that have a rank from 1; equal scores share one."""
    ranked: dict[tuple[str, ...], list[LeaderboardRow]] = {}
    for one in rows:
        above = ranked.setdefault(_problem_of(one), [])
        if one["not_ranked"]:
            continue
        tied = bool(above) and _equal(one["score"], above[-1]["score"])
        one["rank"] = above[-1]["rank"] if tied else len(above) + 1
        above.append(one)


def _problem_of(one: LeaderboardRow) -> tuple[str, ...]:
    """Return the fields of a row that distinguish problems; its track is that of its table."""
    values = cast("dict[str, Any]", one)
    return tuple(str(values[name]) for name in PROBLEM_FIELDS if name != "track")


def _equal(score: float | None, other: float | None) -> bool:
    if score is None or other is None:
        return False
    return math.isfinite(score) and math.isclose(score, other, rel_tol=1e-9)


def _last(value: float | None) -> float:
    return math.inf if value is None or not math.isfinite(value) else value


def _mean(values: Iterable[float | None] | Floats) -> float:
    """Return the mean of the known values, NaN without any."""
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


# -- files -------------------------------------------------------------------------------------


def markdown(track: str, rows: Sequence[LeaderboardRow]) -> str:
    """Return a page with the track's table and, below it, why rows have no rank, in full."""
    names = [f"{name}\\*" if name in CLAIMED else name for name in SHOWN]
    lines = [
        f"# Leaderboard: {track}",
        "",
        "Score: 0 = random legal play, 100 = reference; 95 % interval over seeds. Recomputed from "
        "the runs' schedules, except columns marked \\*, which the runs claim. Rows without a rank "
        "are listed below with the reason.",
        "",
    ]
    lines += [f"| {' | '.join(names)} |", f"|{'---|' * len(SHOWN)}"]
    lines += [f"| {' | '.join(_cell(one, name) for name in SHOWN)} |" for one in rows]
    notes = [
        f"- **{_escaped(one['solver'])} on {_escaped(one['dataset'])}** "
        f"(run {_escaped(' '.join(one['runs']))}): {_escaped(one['not_ranked'])}"
        for one in rows
        if one["not_ranked"]
    ]
    return "\n".join([*lines, *(["", "## Rows without a rank", "", *notes] if notes else []), ""])


def write(rows: Mapping[str, Sequence[LeaderboardRow]], out: Path) -> list[Path]:
    """Write TRACK.md, TRACK.csv and TRACK.json for every track; return their paths.

    Missing numbers are empty or null.
    """
    out.mkdir(parents=True, exist_ok=True)
    for track, table in rows.items():
        plain = [
            {
                name: None if isinstance(x, float) and not math.isfinite(x) else x
                for name, x in one.items()
            }
            for one in table
        ]
        write_text(out / f"{track}.md", markdown(track, table))
        write_text(out / f"{track}.json", json.dumps(plain, indent=1) + "\n")
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, COLUMNS)
        writer.writeheader()
        writer.writerows({name: _csv(x) for name, x in one.items()} for one in plain)
        write_text(out / f"{track}.csv", buffer.getvalue())
    return [out / f"{track}.{kind}" for track in rows for kind in ("md", "csv", "json")]


def _cell(one: LeaderboardRow, name: str) -> str:
    """Return one cell of the Markdown table, short."""
    value = cast("dict[str, Any]", one)[name]
    if name == "verified" and value not in ("yes", "no"):
        return "**MISMATCH**"
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if name == "score":
        low = one["score_low"]
        known = low is not None and math.isfinite(low)
        return f"{value:.1f} [{low:.1f}, {one['score_high']:.1f}]" if known else f"{value:.1f}"
    if name in ("gap_mean", "feasible"):
        return f"{value:.1%}"
    if name == "set_hash":
        return str(value)[:8]
    return f"{value:.5g}" if isinstance(value, float) else _escaped(plain_text(str(value), CELL))


def _escaped(text: str | None) -> str:
    """Return a foreign text that neither Markdown nor HTML takes for markup, in one line."""
    plain = plain_text(text or "–", 10_000)
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{x}" if x in "\\`*|[]!~" else x for x in plain)


def _csv(value: Any) -> Any:
    """Return a value of a CSV cell; a spreadsheet takes no text for a formula."""
    if isinstance(value, list):
        value = " ".join(value)
    if isinstance(value, str):
        return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value
    return value


def build(
    uri: str, experiment: str, references: References, rng: np.random.Generator
) -> dict[str, list[LeaderboardRow]]:
    """Return the tables of a store, of its finished and failed runs."""
    recomputed = []
    for run in stored_runs(uri, experiment):
        if run.status in ("finished", "failed"):
            with tempfile.TemporaryDirectory() as folder:
                recomputed.append(recompute_run(run, Path(folder)))
    return tables(recomputed, references, rng)


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the tables; exit status 2 where the store cannot be read."""
    parser = ArgumentParser(
        prog="python -m bench.leaderboard",
        description="Recompute and rank the runs of a tracking store.",
    )
    parser.add_argument(
        "--uri", default="sqlite:///mlflow.db", help="tracking store (default %(default)s)"
    )
    parser.add_argument("--experiment", default=EXPERIMENT, help="default %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("leaderboard"),
        help="folder for the tables (default %(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder of references that this suite computed, to which random play is added "
        "(default: the user's cache)",
    )
    options = parser.parse_args(arguments)
    references = References(output_folder("--cache", options.cache or user_cache()))
    output_folder("--out", options.out)
    rows = build(options.uri, options.experiment, references, np.random.default_rng(0))
    pages = [markdown(track, table) for track, table in rows.items()]
    print("\n".join(pages) or "no finished or failed runs yet")
    for path in write(rows, options.out):
        print(path)
    every = [one for table in rows.values() for one in table]
    mismatches = sum(one["verified"].startswith("MISMATCH") for one in every)
    if mismatches:
        print(
            f"MISMATCH in {mismatches} rows, which are not ranked: their records differ from their "
            "schedules or from the suite; see the tables",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
