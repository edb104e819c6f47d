"""`python -m bench.result_tables`: the tables of results, from stored runs and today's references.

`bench/results/TABLE.json` holds, of every run in a table, the objective of each instance, verified
when it was added. The tables in `bench/results/README.md` between `<!-- TABLE -->` and
`<!-- end -->` are made from it: gaps are computed against the references that are shipped now,
whose hash and date stand below the table. With --check nothing is written, and the exit status is 1
where a table differs.

`--add TABLE RUN...` adds finished runs by their folders (RUNS/DATASET/SOLVER-sSEED-KEY, or those in
a cache's `baselines`), in place of those of the same solver, data set, track and seed.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UserError
from bench.files import write_text
from bench.instance import read_json
from bench.json_content import one_row_a_line
from bench.paths import path_component
from bench.plugins import pinned_hashes
from bench.programs import ArgumentParser, program
from bench.references.stored_gaps import shipped_gaps, shipped_source
from bench.run.recompute import FILES, recompute_schedules
from bench.run.record_schema import valid_claims
from bench.run.run_folder import RECORD

RESULTS = Path(__file__).parent / "results"
PAGE = RESULTS / "README.md"
SCHEMA = 1
BLOCK = re.compile(r"<!-- ([\w-]+) -->\n(.*?)<!-- end -->", re.S)
SAME = ("solver", "dataset", "split", "track", "objective", "observe", "seed")  # identify a row
KEPT = (  # facts of a run that are not computed from its schedules
    *SAME,
    "information",
    "decision_latency_p50",
    "decision_latency_p99",
    "started",
    "git_commit",
)


def rendered(text: str, results: Path) -> str:
    """Return a page with every table made anew from the files in `results`."""

    def block(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- {name} -->\n{table(read_json(results / f'{name}.json'))}<!-- end -->"

    return BLOCK.sub(block, text)


def table(data: Mapping[str, Any]) -> str:
    """Return the Markdown of one stored table: a part for each data set, best gap first.

    Raises
    ------
    UserError
        Where an instance has no shipped reference, or the set is not the one that conf/ pins.
    """
    parts = []
    for name, instances in data["sets"].items():
        check_set(name, instances)
        rows = [row for row in data["rows"] if row["dataset"] == name]
        rows.sort(key=lambda row: float(np.mean(gaps(row, instances["hashes"]))))
        lines = [
            f"`{name}`, {instances['split']}, {rows[0]['objective']}, track {rows[0]['track']}: "
            f"{len(instances['hashes'])} instances",
            "",
            "| solver | information | mean objective | gap | latency p50 / p99 |",
            "|---|---|---|---|---|",
            *(_line(row, instances["hashes"]) for row in rows),
            "",
            _sources(rows, instances["hashes"]),
            "",
        ]
        parts.append("\n".join(lines))
    return "\n" + "\n".join(parts)


def gaps(row: Mapping[str, Any], hashes: Sequence[str]) -> list[float]:
    """Return (I,) the gaps of a stored row to the bounds that are shipped now."""
    found = shipped_gaps(row["objectives"], hashes, row["objective"])
    if not np.isfinite(found).all():
        raise UserError(f"{row['dataset']}: an instance has no shipped reference")
    return [float(x) for x in found]


def check_set(name: str, instances: Mapping[str, Any]) -> None:
    """Check that the stored hashes are those of the data set that conf/dataset pins."""
    digest = hashlib.sha256(b"".join(map(bytes.fromhex, instances["hashes"]))).hexdigest()
    pinned = pinned_hashes(name).get(instances["split"])
    if digest != pinned:
        raise UserError(f"{name}: the stored instances hash to {digest}, pinned is {pinned}")


def add(path: Path, folders: Sequence[Path]) -> None:
    """Add finished runs to a stored table; each is verified once more.

    Raises
    ------
    UserError
        For a run that does not verify, or whose instances are not minimised as they are.
    """
    empty: dict[str, Any] = {"schema": SCHEMA, "sets": {}, "rows": []}
    data = read_json(path) if path.exists() else empty
    for folder in folders:
        stored = read_json(folder / RECORD)
        claims, wrong = valid_claims(stored)
        found = recompute_schedules(claims, *(folder / name for name in FILES))
        wrong += found["mismatches"]
        if any(one.sense == "max" or one.offset for one in found["instances"]):
            wrong.append("only objectives in the instances' own scale can be stored")
        if not found["feasible"].all():
            wrong.append("a schedule is not feasible")
        if wrong:
            raise UserError(f"{folder}: {'; '.join(wrong)}")
        row = {name: stored.get(name) for name in KEPT}
        row["hardware"] = stored["hardware"]["cpu"]
        row["objectives"] = found["objective"].tolist()
        same = [stored.get(name) for name in SAME]
        data["rows"] = [one for one in data["rows"] if [one[name] for name in SAME] != same]
        data["rows"].append(row)
        data["sets"][stored["dataset"]] = {
            "split": stored["split"],
            "hashes": [one.hash() for one in found["instances"]],
        }
    data["rows"].sort(key=lambda row: [str(row[name]) for name in SAME])
    write_text(path, one_row_a_line(data, "rows"))


def _line(row: Mapping[str, Any], hashes: Sequence[str]) -> str:
    latency = [row["decision_latency_p50"], row["decision_latency_p99"]]
    shown = " / ".join("–" if x is None else f"{1000 * x:,.3g}" for x in latency)
    return (
        f"| {row['solver']} | {row['information']} | {np.mean(row['objectives']):,.5g} "
        f"| {np.mean(gaps(row, hashes)):.2%} | {shown} ms |"
    )


def _sources(rows: Sequence[Mapping[str, Any]], hashes: Sequence[str]) -> str:
    """Return against which references the gaps are, and when and where the runs were made."""
    file, facts = shipped_source(hashes, rows[0]["objective"])
    runs = sorted({(row["started"][:10], _commit(str(row["git_commit"]))) for row in rows})
    made = ", ".join(f"{date} ({commit})" for date, commit in runs)
    return (
        f"Gap to the bounds of [{file}](../references/{file}) of {facts}. "
        f"Runs: {made}, {', '.join(sorted({row['hardware'] for row in rows}))}."
    )


def _commit(name: str) -> str:
    commit, changed, _ = name.partition("-dirty")
    return f"commit {commit[:10]}{' with changes' if changed else ''}"


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Make the tables anew, or check them; return the exit status."""
    parser = ArgumentParser(
        prog="python -m bench.result_tables",
        description="Make the tables in bench/results/README.md from stored runs.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where one differs")
    parser.add_argument("--add", metavar="TABLE", help="add the runs in these folders to TABLE")
    parser.add_argument("run", nargs="*", type=Path, help="folders of finished runs")
    options = parser.parse_args(arguments)
    if bool(options.add) != bool(options.run):
        parser.error("--add: needs a table and the folders of runs")
    if options.add:
        add(RESULTS / f"{path_component('--add', options.add)}.json", options.run)
    text = PAGE.read_text()
    new = rendered(text, RESULTS)
    if options.check:
        return int(new != text)
    write_text(PAGE, new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
