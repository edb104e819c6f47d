"""`python -m bench.claims`: what learning from logs is worth, as a page: every learner on every log, and four claims tested.

It reads finished runs (`--runs`), adds them to a data file (`--data`, one entry per solver, log, data set and seed, the newest
counts) and writes the page (`--page`) from that file. Runs without logs (rules, online learners) are what the others are
compared with. Intervals are 95 %: of means over seeds and instances by the stratified bootstrap of `bench.stats`, of rank
correlations over resampled policies.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import stats
from bench.instance import read_json, write_json

ESTIMATORS = ("fqe", "dr", "wis", "is")
KEPT = (
    "dataset",
    "solver",
    "seed",
    "objective",
    "track",
    "mode",
    "split",
    "set_hash",
    "objective_mean",
    "gap_mean",
    "score",
    "feasible",
)
GOALS = ("sjf", "best_rule", "nearly_final")
BUDGETS = (1, 2, 4, 8)  # policies that may be tried on the real system
DRAWS = 2000

Run = dict[str, Any]
Floats = NDArray[np.float64]


# -- data ------------------------------------------------------------------------------------------------------------


def collect(runs: Path) -> list[Run]:
    """The finished runs of a folder: what the page needs of each."""
    import pandas

    found = []
    for path in sorted(runs.glob("*/*/result.json")):
        record = read_json(path)
        if record.get("status") != "finished":
            continue
        table = pandas.read_parquet(path.with_name("instances.parquet"))
        kept = {key: record[key] for key in record if key in KEPT or key.startswith(("logs/", "ope/", "learning/", "offline/"))}
        found.append({**kept, "finished": path.stat().st_mtime, "gaps": [_number(value) for value in table["gap"].tolist()]})
    return found


def merged(known: Iterable[Run], new: Iterable[Run]) -> list[Run]:
    """One run per solver, log, data set and seed (and setting): the one that finished last."""
    out: dict[str, Run] = {}
    for run in sorted([*known, *new], key=lambda run: run["finished"]):
        same = [run.get(key) for key in ("dataset", "track", "objective", "mode", "split", "logs/name", "solver", "seed")]
        out[json.dumps(same)] = run
    return [out[key] for key in sorted(out)]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


# -- statistics ------------------------------------------------------------------------------------------------------


def gaps(runs: Sequence[Run]) -> Floats:
    """(S, I) gaps to the best known bound, by seed; a missing one counts as 100 %."""
    return np.array([[1.0 if value is None else value for value in run["gaps"]] for run in runs])


def spread(runs: Sequence[Run], rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean gap and its interval; NaN for the latter with one seed."""
    table = gaps(runs)
    return float(table.mean()), *stats.bootstrap_interval(table, rng)


def improvement(runs: Sequence[Run]) -> tuple[float, float, float]:
    """How much better the chosen policies are than their behaviour on the same held-out instances, in % of its return.

    Mean over seeds and mean +- 2 standard errors, NaN with one seed.
    """
    value = np.array([100 * (run["ope/true"] - run["logs/held_out_return"]) / abs(run["logs/held_out_return"]) for run in runs])
    half = 2 * value.std(ddof=1) / math.sqrt(len(value)) if len(value) > 1 else math.nan
    return float(value.mean()), float(value.mean() - half), float(value.mean() + half)


def expected_best(values: Floats, budget: int) -> float:
    """Mean of the best of `budget` policies drawn without replacement from `values`.

    Kurenkov & Kolesnikov 2022, "Showing Your Offline Reinforcement Learning Work", arXiv:2110.04156.
    """
    ordered, n = np.sort(values), len(values)
    budget = min(budget, n)
    chance = [math.comb(i, budget - 1) / math.comb(n, budget) for i in range(n)]
    return float(np.dot(chance, ordered))


def policies(runs: Sequence[Run]) -> dict[str, Floats]:
    """True return and each estimate of all candidates of these runs, (C,) each; without an estimator where a run refused it."""
    out = {"true": np.concatenate([run["ope/true_of_candidates"] for run in runs])}
    for name in ESTIMATORS:
        if all(f"ope/{name}_of_candidates" in run for run in runs):
            out[name] = np.concatenate([run[f"ope/{name}_of_candidates"] for run in runs])
    return out


def rank(estimate: Floats, true: Floats) -> float:
    """Spearman's rho; 0 where all estimates are equal, which rank nothing."""
    from scipy.stats import spearmanr

    return 0.0 if np.ptp(estimate) == 0 or np.ptp(true) == 0 else float(spearmanr(estimate, true).statistic)


def ranks(of: Mapping[str, Floats], rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
    """estimator -> Spearman's rho with its interval over resampled policies; `fqe - NAME`: of the difference."""
    count, drawn = len(of["true"]), {name: [rank(of[name], of["true"])] for name in ESTIMATORS if name in of}
    for _ in range(DRAWS // 4):
        rows = rng.integers(count, size=count)
        for name, values in drawn.items():
            values.append(rank(of[name][rows], of["true"][rows]))
    out = {name: _interval(np.array(values)) for name, values in drawn.items()}
    return out | {f"fqe - {name}": _interval(np.array(drawn["fqe"]) - np.array(drawn[name])) for name in drawn if name != "fqe"}


def _interval(values: Floats) -> tuple[float, float, float]:
    """The first value and the central 95 % of the others."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return float(values[0]), float(low), float(high)


# -- the page --------------------------------------------------------------------------------------------------------


def page(runs: Sequence[Run], command: str) -> str:
    """The page, from the data."""
    rng = np.random.default_rng(0)
    offline = [run for run in runs if _from_logs(run)]
    lines = ["# Learning from logs", "", f"Written by `{command}` from {len(offline)} runs. Every cell that was run is shown."]
    for name in sorted({run["dataset"] for run in offline}):
        of = [run for run in offline if run["dataset"] == name]
        others = [run for run in runs if run["dataset"] == name and not _from_logs(run)]
        lines += ["", f"## {name}", "", *logs_table(of), "", *gap_table(of, others, rng), "", *improvement_table(of)]
        lines += ["", *online_table([run for run in others if f"learning/decisions_to_{GOALS[0]}" in run], rng)]
        lines += ["", f"## Four claims, on {name}", "", *claims(of, rng)]
    return "\n".join([*lines, ""])


def logs_table(runs: Sequence[Run]) -> list[str]:
    """What the logs hold."""
    out = ["| log | episodes | decisions | mean return | best behaviour's | hash |", "|---|---|---|---|---|---|"]
    for name, members in _by(runs, "logs/name").items():
        one = members[-1]
        numbers = f"{one['logs/episodes']:,} | {one['logs/decisions']:,} | {one['logs/return']:.3f}"
        out.append(f"| {name} | {numbers} | {one['logs/best_behaviour_return']:.3f} | {one['logs/hash'][:8]} |")
    return out


def gap_table(runs: Sequence[Run], others: Sequence[Run], rng: np.random.Generator) -> list[str]:
    """Learners by logs: mean gap on the test instances and its interval, in %; what does without logs below."""
    names = list(_by(runs, "logs/name"))
    seeds = sorted({len(members) for members in _cells(runs).values()})
    out = [
        f"Gap on the test instances in %, greedy decisions, mean and interval; seeds per cell: {', '.join(map(str, seeds))}.",
        "",
    ]
    out += [f"| learner | {' | '.join(_short(name) for name in names)} |", f"|---|{'---|' * len(names)}"]
    cells = _cells(runs)
    for solver in _by(runs, "solver"):
        row = [_percent(spread(cells[name, solver], rng)) if (name, solver) in cells else "–" for name in names]
        out.append(f"| {solver} | {' | '.join(row)} |")
    out.append("")
    out += [
        f"- without logs: {name}: {_percent(spread(of, rng))} ({len(of)} seeds)" for name, of in _by(others, "solver").items()
    ]
    return out


def improvement_table(runs: Sequence[Run]) -> list[str]:
    """Learners by logs: true return against the behaviour's, on the held-out instances of the log."""
    names, cells = list(_by(runs, "logs/name")), _cells(runs)
    out = ["Return against the behaviour policy's on the same held-out instances, in % of the latter (above 0 is better).", ""]
    out += [f"| learner | {' | '.join(_short(name) for name in names)} |", f"|---|{'---|' * len(names)}"]
    for solver in _by(runs, "solver"):
        row = [_percent(improvement(cells[name, solver]), 1.0) if (name, solver) in cells else "–" for name in names]
        out.append(f"| {solver} | {' | '.join(row)} |")
    return out


def online_table(runs: Sequence[Run], rng: np.random.Generator) -> list[str]:
    """Online learners, from scratch and from what a log taught: decisions in the simulator until each goal, by seeds' means."""
    out = [
        "Decisions in the simulator until SJF and the best rule were beaten on the validation split, and until within 1 % of",
        "the final value; – where a seed never got there.", "",
        "| online learner | log | seeds | SJF | best rule | final | gap |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for (solver, log), members in _grouped(runs, "solver", "logs/name").items():
        row = []
        for goal in GOALS:
            values = [run[f"learning/decisions_to_{goal}"] for run in members]
            row.append("–" if None in values else f"{np.mean(values):,.0f}")
        out.append(
            f"| {solver} | {_short(log or '–')} | {len(members)} | {' | '.join(row)} | {_percent(spread(members, rng))} |"
        )
    return out if runs else []


def claims(runs: Sequence[Run], rng: np.random.Generator) -> list[str]:
    """The four claims, each with its answer and intervals."""
    return [*_beats_behaviour(runs), "", *_noise_against_expert(runs, rng), "", *_small_budget(runs), "", *_ranking(runs, rng)]


def _beats_behaviour(runs: Sequence[Run]) -> list[str]:
    """Offline learning beats its behaviour policy."""
    out, won = ["**1. Offline learning beats its behaviour policy.** By log, the learners whose interval lies above 0:", ""], 0
    cells = _cells(runs)
    for name in _by(runs, "logs/name"):
        found = {solver: improvement(cells[name, solver]) for log, solver in cells if log == name}
        better = [solver for solver, (mean, low, _) in found.items() if (low if math.isfinite(low) else mean) > 0]
        best = max(found, key=lambda solver: found[solver][0])
        won += bool(better)
        out.append(f"- {_short(name)}: {len(better)} of {len(found)}; the best, {best}: {_percent(found[best], 1.0)} %")
    total = len(_by(runs, "logs/name"))
    return [
        *out,
        "",
        f"So for {won} of {total} logs some learner beats its behaviour policy.",
    ]


def _noise_against_expert(runs: Sequence[Run], rng: np.random.Generator) -> list[str]:
    """Random or noisy data are at least as good as an expert's."""
    out = [
        "**2. Random or noisy logs are at least as good as an expert's** (Offline-LD, arXiv:2409.10589; CDQAC). Gap after "
        "learning from the one minus gap after learning from expert logs, in points (below 0: the claim holds):", "",
    ]  # fmt: skip
    cells, names = _cells(runs), list(_by(runs, "logs/name"))
    expert = next((name for name in names if _short(name) == "expert"), None)
    if expert is None:
        return [*out, "No expert log was learnt from."]
    for name in names:
        if _short(name) not in ("random", "noisy_expert"):
            continue
        parts = []
        for solver in _by(runs, "solver"):
            if (name, solver) in cells and (expert, solver) in cells:
                difference = stats.paired_difference(gaps(cells[name, solver]), gaps(cells[expert, solver]), rng)
                parts.append(f"{solver} {_percent(difference)}")
        out.append(f"- {_short(name)}: {'; '.join(parts)}")
    return out


def _small_budget(runs: Sequence[Run]) -> list[str]:
    """BC is hard to beat where few policies can be tried."""
    heads = " | ".join(f"{budget} tried" for budget in BUDGETS)
    out = [
        "**3. BC is hard to beat at a small evaluation budget** (Kurenkov & Kolesnikov 2022, arXiv:2110.04156). Return of "
        "BC, and of the best of so many policies drawn from all other learners and seeds:", "", f"| log | BC | {heads} |",
        f"|---|---|{'---|' * len(BUDGETS)}",
    ]  # fmt: skip
    for name, members in _by(runs, "logs/name").items():
        cloned = [run["ope/true"] for run in members if run["solver"] == "bc"]
        others = np.array([run["ope/true"] for run in members if run["solver"] != "bc"])
        if cloned and len(others):
            row = " | ".join(f"{expected_best(others, budget):.3f}" for budget in BUDGETS)
            out.append(f"| {_short(name)} | {np.mean(cloned):.3f} | {row} |")
    return out


def _ranking(runs: Sequence[Run], rng: np.random.Generator) -> list[str]:
    """FQE ranks policies better than importance sampling."""
    out = [
        "**4. FQE ranks policies better than importance sampling.** Spearman's rho with the true return over all candidate "
        "policies of a log, and the mean absolute error:", "",
        "| log | policies | FQE | DR | WIS | IS | FQE - WIS | error FQE | DR | WIS | IS |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, members in _by(runs, "logs/name").items():
        of = policies(members)
        found = ranks(of, rng)
        row = [f"{found[key][0]:.2f}" if key in found else "–" for key in ESTIMATORS]
        error = [f"{np.abs(of[key] - of['true']).mean():.2f}" if key in of else "–" for key in ESTIMATORS]
        versus = "{:.2f} [{:.2f}, {:.2f}]".format(*found["fqe - wis"]) if "fqe - wis" in found else "–"
        out.append(f"| {_short(name)} | {len(of['true'])} | {' | '.join(row)} | {versus} | {' | '.join(error)} |")
    return out


def _by(runs: Iterable[Run], key: str) -> dict[str, list[Run]]:
    out: dict[str, list[Run]] = {}
    for run in runs:
        out.setdefault(run[key], []).append(run)
    return out


def _cells(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    return _grouped(runs, "logs/name", "solver")


def _grouped(runs: Iterable[Run], *keys: str) -> dict[tuple[str, str], list[Run]]:
    out: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        first, second = (run.get(key) for key in keys)
        out.setdefault((first, second), []).append(run)  # type: ignore[arg-type]
    return out


def _from_logs(run: Run) -> bool:
    """Learnt from logs alone."""
    return "logs/name" in run and "offline/learning/steps" not in run


def _short(name: str) -> str:
    """cluster-small-mixed-v0 -> mixed."""
    parts = name.split("-")
    return parts[-2] if len(parts) > 2 else name


def _percent(found: tuple[float, float, float], unit: float = 100.0) -> str:
    mean, low, high = (unit * value for value in found)
    return f"{mean:.1f}" + (f" [{low:.1f}, {high:.1f}]" if math.isfinite(low) else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, merge, write; exit status 2 where there is nothing to write about."""
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description="What learning from logs is worth.")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of finished runs (default %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("offline.json.gz"), help="collected so far (default %(default)s)")
    parser.add_argument("--page", type=Path, default=Path("offline.md"), help="what is written (default %(default)s)")
    options = parser.parse_args(arguments)
    known = read_json(options.data) if options.data.exists() else []
    runs = merged(known, collect(options.runs) if options.runs.is_dir() else [])
    if not any("logs/name" in run for run in runs):
        print(f"no finished run that learnt from logs in {options.runs} or {options.data}", file=sys.stderr)
        return 2
    write_json(options.data, runs)
    command = f"python -m bench.claims --runs RUNS --data {options.data} --page {options.page}"
    options.page.write_text(page(runs, command))
    print(options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
