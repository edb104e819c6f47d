"""`python -m bench.learning_curves RUN...`: what quality costs, over decisions and CPU seconds.

Reads finished trainings (folders of runs, or folders that hold such folders), groups them by
problem and configuration, and writes for each group the mean over its seeds, with a 95 % interval,
as data (`--data`, to which further trainings are added) and as a picture (`--figure`).

The quality at a point is that of the policy that the training would have returned there: the best
one so far on the validation split, on these same instances, which is slightly optimistic. What an
`init_policy` cost is not included. With `--reference RUN`, a run with `split=validation`, it is by
how many per cent the mean cost exceeds that of the run; otherwise the mean cost itself. The cost of
an instance is objective / its trivial bound on total time.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from bench import metrics
from bench.analysis import figures, stats
from bench.errors import UserError
from bench.files import write_text
from bench.instance import Instance, read_json
from bench.json_content import one_row_a_line
from bench.paths import output_file
from bench.programs import ArgumentParser, program
from bench.row_labels import label
from bench.run.recompute import FILES, recompute_schedules
from bench.run.record_schema import valid_claims
from bench.run.run_folder import CONFIG, HISTORY, RECORD, RunFolder
from bench.tracking.values import flatten

SCHEMA = 1
RETURN = "validation/return"
COSTS = ("learning/cpu_seconds", "learning/seconds")  # logged at every validation
# what a training is of
PROBLEM = ("dataset", "track", "objective", "mode", "backfill", "event_order", "observe")
SHOWN = ("dataset", "objective", "track")  # in every title; of the others those that differ
NOT_COMPARED = {  # options that do not change what is validated: greedy episodes
    *("solver.save_seconds", "solver.threads", "solver.device", "budget.threads"),
    *("budget.seconds", "solver.decoding", "solver.rollouts", "solver.temperature"),
}
ROUND_NUMBERS = (1, 2, 5)  # times powers of ten: the decisions of the printed table

Floats = NDArray[np.float64]


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Collect trainings, write data and picture, print a table; return the exit status."""
    parser = ArgumentParser(prog="python -m bench.learning_curves", description=__doc__)
    parser.add_argument("run", nargs="*", type=Path, help="finished trainings, or their folders")
    parser.add_argument("--reference", type=Path, help="a finished run with split=validation")
    parser.add_argument("--data", type=Path, default=Path("learning-curves.json"))
    parser.add_argument("--figure", type=Path, default=Path("learning-curves.png"))
    options = parser.parse_args(arguments)
    output_file("--data", options.data)
    output_file("--figure", options.figure)
    data: dict[str, Any] = {"schema": SCHEMA, "references": {}, "trainings": []}
    if options.data.exists():
        data = stored(options.data)
    for folder in options.run:
        data["trainings"] = merged(data["trainings"], trainings(folder))
    if options.reference is not None:
        name, found = reference(options.reference)
        data["references"][name] = found
        hashes = [one["validation_hash"] for one in data["trainings"]]
        if found["set_hash"] not in hashes:
            raise UserError(
                f"--reference: {options.reference}: no training was validated on its instances"
            )
    if not data["trainings"]:
        raise UserError(
            "run: no training; name folders of finished trainings, such as runs/small after "
            "python -m bench -m +solver=ppo_greedy dataset=small seed=0,1,2"
        )
    write_text(options.data, one_row_a_line(data, "trainings"))
    drawn = curves(data)
    figures.learning_costs(drawn, options.figure)
    for line in table(drawn):
        print(line)
    print(options.data, options.figure)
    return 0


# -- reading -------------------------------------------------------------------------------------


def stored(path: Path) -> dict[str, Any]:
    """Return the content of a data file of this program."""
    data: Any = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or "trainings" not in data:
        raise UserError(f"--data: {path} was not written by this program; name another file")
    return data


def trainings(folder: Path) -> list[dict[str, Any]]:
    """Return the finished trainings in a folder.

    Raises
    ------
    UserError
        If there is none, or if one of them did not log what it had cost so far.
    """
    runs = [path.parent for path in sorted(folder.rglob(HISTORY))]
    found = [training(run) for run in runs if (run / RECORD).is_file()]
    if not found:
        raise UserError(f"run: {folder}: holds no finished training; see its result.json")
    return found


def read_record(field: str, folder: Path) -> dict[str, Any]:
    """Return the record of a finished run; `field` is where its folder was given."""
    if not (folder / RECORD).is_file():
        raise UserError(f"{field}: {folder} is no finished run: it has no {RECORD}")
    record: dict[str, Any] = read_json(folder / RECORD)
    for name in ("solver", *PROBLEM, "split", "seed", "git_commit"):
        if name not in record:
            raise UserError(f"{field}: {folder}: {RECORD} has no {name}: an earlier version's")
    return record


def training(folder: Path) -> dict[str, Any]:
    """Return one finished training: what it is of, and its validations as columns."""
    record = read_record("run", folder)
    history = RunFolder(folder).history()
    points = dict(history.get(RETURN, []))
    costs = [dict(history.get(name, [])) for name in COSTS]
    steps = [step for step in points if all(step in column for column in costs)]
    if not steps:
        raise UserError(
            f"run: {folder}: logged no {RETURN} with {COSTS[0]}: no learner that validates, or "
            "made by an earlier version; train again (rerun=true)"
        )
    return {
        **{name: record[name] for name in ("solver", *PROBLEM, "seed")},
        "validation_hash": record.get("learning/validation_hash"),
        "options": options_of(folder / CONFIG),
        "commit": str(record["git_commit"]),
        "hardware": record["hardware"],
        "decisions": [int(step) for step in steps],
        **{
            name.rpartition("/")[2]: [round(column[step], 3) for step in steps]
            for name, column in zip(COSTS, costs, strict=True)
        },
        "cost": [round(-points[step], 6) for step in steps],
    }


def options_of(config: Path) -> dict[str, Any]:
    """Return the options of solver, budget and train split as dotted name -> value."""
    content: Any = OmegaConf.to_container(OmegaConf.load(config))
    kept = {key: content[key] for key in ("solver", "budget") if key in content}
    kept["dataset"] = {"train": content.get("dataset", {}).get("train")}
    return {
        name: shortened_path(value)
        for name, value in flatten(kept).items()
        if name not in NOT_COMPARED
    }


def shortened_path(value: Any) -> Any:
    """Return an option; of an absolute path its end: a run's folder has a name of its own."""
    if isinstance(value, str) and Path(value).is_absolute():
        return "/".join(Path(value).parts[-2:])
    return value


def identity(one: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what makes two trainings seeds of one another."""
    problem = [one[name] for name in (*PROBLEM, "validation_hash")]
    return (
        one["solver"],
        *problem,
        bool(one["hardware"].get("gpu")),
        json.dumps(one["options"], sort_keys=True),
    )


def merged(known: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return trainings by identity and seed; a new one takes the place of a known one."""
    by_key = {(identity(one), one["seed"]): one for one in (*known, *new)}
    return [by_key[key] for key in sorted(by_key, key=str)]


def reference(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the problem of a run on the validation split, as a name, and its mean cost.

    Raises
    ------
    UserError
        If the run is of another split, or does not verify.
    """
    record = read_record("--reference", folder)
    if record["split"] != "validation":
        raise UserError(
            f"--reference: {folder}: split={record['split']}: trainings are validated on the "
            "validation split; run python -m bench with split=validation"
        )
    claims, wrong = valid_claims(record)
    found = recompute_schedules(claims, *(folder / name for name in FILES))
    wrong += found["mismatches"]
    if wrong or not found["feasible"].all():
        raise UserError(f"--reference: {folder}: {'; '.join(wrong) or 'an infeasible schedule'}")
    scale = np.array([cost_unit(one) for one in found["instances"]])
    return problem_name(record), {
        "solver": record["solver"],
        "track": record["track"],
        "set_hash": record["set_hash"],
        "commit": str(record["git_commit"]),
        "seconds_per_instance": round(record["solve_seconds"] / record["n_instances"], 3),
        "cost": float(np.mean(found["objective"] / scale)),
    }


def cost_unit(instance: Instance) -> float:
    """Return what the simulator divides objectives by: a bound on total time, at least 1."""
    return max(1.0, metrics.trivial_bound(instance, "total_time"))


def problem_name(one: Mapping[str, Any]) -> str:
    """Return data set and objective: what a reference is of, on every track."""
    return f"{one['dataset']} {one['objective']}"


# -- curves --------------------------------------------------------------------------------------


def curves(data: Mapping[str, Any]) -> dict[str, list[figures.CostCurve]]:
    """Return problem -> the curve of each group of seeds, gaps in % where there is a reference."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in data["trainings"]:
        groups.setdefault(identity(one), []).append(one)
    firsts = [members[0] for members in groups.values()]
    differing = [
        name for name in PROBLEM if name not in SHOWN and len({one[name] for one in firsts}) > 1
    ]
    found: dict[str, list[figures.CostCurve]] = {}
    for key, members in groups.items():
        first = members[0]
        known = data["references"].get(problem_name(first))
        if known and known["set_hash"] != first["validation_hash"]:
            known = None  # of other instances
        rivals = [  # equal but for hardware and options
            others[0]["options"] for other, others in groups.items() if other[:-2] == key[:-2]
        ]
        quality = f"% above {known['solver']}" if known else "cost / trivial bound"
        problem = ", ".join(f"{name}={first[name]}" for name in differing)
        title = f"{problem_name(first)}, {first['track']}{problem and ', '}{problem}: {quality}"
        name = label(first["solver"], first["options"], rivals)
        if gpu := first["hardware"].get("gpu"):
            name += f" on {gpu}"
        found.setdefault(title, []).append(curve(members, name, known))
    return found


def curve(
    members: Sequence[Mapping[str, Any]], name: str, known: Mapping[str, Any] | None
) -> figures.CostCurve:
    """Return the mean over seeds of the best quality so far, where all seeds have begun."""
    seeds = [best_so_far(one) for one in members]
    last = min(seed[-1, 0] for seed in seeds)
    decisions = np.unique(np.concatenate([seed[:, 0] for seed in seeds]))
    first = max(1.0, *(seed[0, 0] for seed in seeds))  # there is no place for 0 on the axis
    decisions = decisions[(decisions >= first) & (decisions <= last)]
    if not len(decisions):
        raise UserError(f"run: {name}: its seeds have no number of decisions in common")
    at = [np.searchsorted(seed[:, 0], decisions, side="right") - 1 for seed in seeds]
    cost = np.stack([seed[rows, 2] for seed, rows in zip(seeds, at, strict=True)])  # (S, n)
    spent = np.mean([np.interp(decisions, seed[:, 0], seed[:, 1]) for seed in seeds], axis=0)
    if known is not None:
        cost = 100.0 * (cost / known["cost"] - 1.0)
    interval = np.array([stats.student_interval(column[:, None]) for column in cost.T])
    return figures.CostCurve(name, len(seeds), decisions, spent, *interval.T)


def best_so_far(one: Mapping[str, Any]) -> Floats:
    """Return (n, 3) decisions, CPU seconds (on a GPU: seconds) and the smallest cost until then."""
    cost = np.minimum.accumulate(np.asarray(one["cost"], dtype=float))
    spent = one["seconds" if one["hardware"].get("gpu") else "cpu_seconds"]
    return np.stack([one["decisions"], spent, cost], axis=1)


def table(drawn: Mapping[str, Sequence[figures.CostCurve]]) -> Iterator[str]:
    """Yield the curves at round numbers of decisions, and at their ends, as lines of Markdown."""
    for title, members in drawn.items():
        yield f"\n{title}\n"
        yield "| training | seeds | decisions | CPU (GPU) seconds | mean | 95 % interval |"
        yield "|---|---|---|---|---|---|"
        for one in members:
            last = float(one.decisions[-1])
            exponents = range(int(math.log10(last)) + 1)
            marks = [m * 10.0**e for e in exponents for m in ROUND_NUMBERS]
            inside = [x for x in marks if one.decisions[0] <= x < last]
            for x in (*inside, last):
                i = int(np.searchsorted(one.decisions, x, side="right")) - 1
                interval = "–"
                if math.isfinite(one.low[i]):
                    interval = f"[{one.low[i]:.2f}, {one.high[i]:.2f}]"
                yield (
                    f"| {one.label} | {one.seeds} | {x:,.0f} | {one.seconds[i]:,.0f} "
                    f"| {one.mean[i]:.2f} | {interval} |"
                )


if __name__ == "__main__":
    sys.exit(main())
