"""`python -m bench.claims`: what learning from logs is worth, as a page: every learner on every log, and four claims tested.

It reads finished runs (`--runs`), adds them to a data file (`--data`) and writes the page (`--page`) from that file. Of runs
that differ in nothing but when they finished the last one counts. Runs without logs (rules, online learners) are what the
others are compared with. A section is one problem: data set, track, objective and the like; policies chosen by true return
(`oracle`) are shown, marked, and take no part in the claims.

Intervals are 95 %: of mean gaps the stratified bootstrap over seeds of `bench.stats`, of improvements Student's t over seeds,
of rank correlations and of the best of some policies the bootstrap over runs (the candidates of a run are alike). All runs on
a log share its held-out instances, so true returns are comparable across runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import stats
from bench.instance import read_json, write_json

ESTIMATORS = ("fqe", "dr", "wis", "is")
PROBLEM = ("dataset", "track", "objective", "mode", "backfill", "events", "observe", "split", "set_hash")
USUAL = {
    "track": "schedule",
    "objective": "total_time",
    "mode": "fit",
    "backfill": "none",
    "events": "together",
    "observe": "all",
}
SAME = (*PROBLEM, "solver", "seed", "logs/name", "logs/hash", "learning/selection", "learning/steps")
KEPT = (*PROBLEM, "solver", "seed", "score", "feasible")
GOALS = ("sjf", "best_rule", "nearly_final")
BUDGETS = (1, 2, 4, 8)  # policies that may be tried on the real system
DRAWS = 500

Run = dict[str, Any]
Floats = NDArray[np.float64]
Found = tuple[float, float, float]  # a value and its interval, NaN where there is none


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
        facts = ("logs/", "ope/", "learning/", "offline/")
        kept = {key: record[key] for key in record if key in KEPT or key.startswith(facts)}
        found.append({**kept, "finished": path.stat().st_mtime, "gaps": [_number(value) for value in table["gap"].tolist()]})
    return found


def merged(known: Iterable[Run], new: Iterable[Run]) -> list[Run]:
    """Of runs that are the same but for when they finished, the last."""
    out: dict[str, Run] = {}
    for run in sorted([*known, *new], key=lambda run: run["finished"]):
        out[json.dumps([run.get(key) for key in SAME])] = run
    return [out[key] for key in sorted(out)]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


# -- statistics ------------------------------------------------------------------------------------------------------


def gaps(runs: Sequence[Run]) -> Floats:
    """(S, I) gaps to the best known bound, by seed; a missing one counts as 100 %."""
    return np.array([[1.0 if value is None else value for value in run["gaps"]] for run in runs])


def spread(runs: Sequence[Run], rng: np.random.Generator) -> Found:
    """Mean gap and its interval, NaN with one seed."""
    table = gaps(runs)
    return float(table.mean()), *stats.bootstrap_interval(table, rng)


def improvement(runs: Sequence[Run], tests: int = 1) -> Found:
    """How much better the chosen policies are than their behaviour on the same held-out instances, in % of its return.

    Mean over seeds with Student's interval, NaN with one seed; of level 1 - 0.05 / `tests` (Bonferroni).
    """
    from scipy.stats import t

    value = np.array([100 * (run["ope/true"] - run["logs/held_out_return"]) / abs(run["logs/held_out_return"]) for run in runs])
    if len(value) < 2:
        return float(value.mean()), math.nan, math.nan
    half = float(t.ppf(1 - 0.025 / tests, len(value) - 1) * value.std(ddof=1) / math.sqrt(len(value)))
    return float(value.mean()), float(value.mean()) - half, float(value.mean()) + half


def expected_best(values: Floats, budget: int) -> float:
    """Mean of the best of `budget` policies drawn without replacement from `values`.

    Kurenkov & Kolesnikov 2022, "Showing Your Offline Reinforcement Learning Work", arXiv:2110.04156.
    """
    ordered, n = np.sort(values), len(values)
    budget = min(budget, n)
    chance = [math.comb(i, budget - 1) / math.comb(n, budget) for i in range(n)]
    return float(np.dot(chance, ordered))


def resampled(runs: Sequence[Run], value: Callable[[Sequence[Run]], float], rng: np.random.Generator) -> Found:
    """`value` of runs and its interval over resampled runs, NaN with fewer than three."""
    found = value(runs)
    if len(runs) < 3:
        return found, math.nan, math.nan
    drawn = [value([runs[i] for i in rng.integers(len(runs), size=len(runs))]) for _ in range(DRAWS)]
    return found, *np.percentile(drawn, [2.5, 97.5]).tolist()


def rank(runs: Sequence[Run], name: str) -> float:
    """Spearman's rho of an estimator with the true return over all candidates; 0 where it tells none from another."""
    from scipy.stats import spearmanr

    estimate, true = of_candidates(runs, name), of_candidates(runs, "true")
    return 0.0 if np.ptp(estimate) == 0 or np.ptp(true) == 0 else float(spearmanr(estimate, true).statistic)


def of_candidates(runs: Sequence[Run], name: str) -> Floats:
    """(C,) an estimate, or the true return, of every candidate policy of the runs."""
    return np.concatenate([run[f"ope/{name}_of_candidates"] for run in runs])


# -- the page --------------------------------------------------------------------------------------------------------


def page(runs: Sequence[Run], command: str) -> str:
    """The page, from the data."""
    rng = np.random.default_rng(0)
    count = sum(_from_logs(run) for run in runs)
    lines = ["# Learning from logs", "", f"Written by `{command}` from {count} runs. Every cell that was run is shown."]
    for problem, members in _grouped(runs, *PROBLEM).items():
        offline = [run for run in members if _from_logs(run)]
        others = [run for run in members if not _from_logs(run)]
        if offline:
            title = _title(dict(zip(PROBLEM, problem, strict=True)))
            lines += ["", f"## {title}", "", *logs_table(offline), "", *gap_table(offline, others, rng), ""]
            lines += [*difference_tables(offline, others, rng), *improvement_table(offline), "", *online_table(others, rng)]
            lines += ["", f"## Four claims, on {title}", "", *claims(offline, rng)]
    return "\n".join([*lines, ""])


def _title(problem: Run) -> str:
    """`small`, and what is unusual about it."""
    unusual = [f"{key}={problem[key]}" for key, value in USUAL.items() if problem[key] not in (value, None)]
    unusual += [f"split={problem['split']}"] if problem["split"] not in ("test", None) else []
    return " ".join([str(problem["dataset"]), *unusual])


def logs_table(runs: Sequence[Run]) -> list[str]:
    """What the logs hold."""
    out = ["| log | episodes | decisions | mean return | best behaviour's | hash |", "|---|---|---|---|---|---|"]
    for (name, digest), members in _grouped(runs, "logs/name", "logs/hash").items():
        one = members[-1]
        numbers = f"{one['logs/episodes']:,} | {one['logs/decisions']:,} | {one['logs/return']:.3f}"
        out.append(f"| {name} | {numbers} | {one['logs/best_behaviour_return']:.3f} | {digest[:8]} |")
    return out


def gap_table(runs: Sequence[Run], others: Sequence[Run], rng: np.random.Generator) -> list[str]:
    """Learners by logs: mean gap and its interval, in %; what does without logs below."""
    seeds = sorted({len(members) for members in _cells(runs).values()})
    out = [f"Gap in %, greedy decisions, mean and interval; seeds per cell: {', '.join(map(str, seeds))}.", ""]
    out += [*_table(runs, lambda of: _percent(spread(of, rng))), ""]
    for (name,), of in _grouped(others, "solver").items():
        out.append(f"- without logs: {name}: {_percent(spread(of, rng))} (seeds: {len(of)})")
    return out


def difference_tables(runs: Sequence[Run], others: Sequence[Run], rng: np.random.Generator) -> list[str]:
    """Learners by logs against each of those that had no log, such as the best rule and PPO: one table each."""
    out: list[str] = []
    for (name,), theirs in _grouped([run for run in others if "logs/name" not in run], "solver").items():
        table = _table(runs, lambda of, b=theirs: _percent(stats.paired_difference(gaps(of), gaps(b), rng)))  # type: ignore[misc]
        out += [f"Gap less that of {name} on the same instances, in points (below 0 is better).", "", *table, ""]
    return out


def improvement_table(runs: Sequence[Run]) -> list[str]:
    """Learners by logs: true return against the behaviour's."""
    out = ["Return against the behaviour policy's on the same held-out instances, in % of the latter (above 0 is better).", ""]
    return [*out, *_table(runs, lambda of: _percent(improvement(of), 1.0))]


def online_table(runs: Sequence[Run], rng: np.random.Generator) -> list[str]:
    """Online learners, from scratch and from what a log taught: decisions in the simulator until each goal, by seeds' means."""
    learned = [run for run in runs if f"learning/decisions_to_{GOALS[0]}" in run]
    out = [
        "Decisions in the simulator until SJF and the best rule were beaten on the validation split, and until within 1 % of",
        "the final value; – where a seed never got there.", "",
        "| online learner | log | seeds | SJF | best rule | final | gap |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for (solver, log), members in _grouped(learned, "solver", "logs/name").items():
        row = []
        for goal in GOALS:
            values = [run[f"learning/decisions_to_{goal}"] for run in members]
            row.append("–" if None in values else f"{np.mean(values):,.0f}")
        out.append(f"| {solver} | {_short(log)} | {len(members)} | {' | '.join(row)} | {_percent(spread(members, rng))} |")
    return out if learned else []


# -- the claims ------------------------------------------------------------------------------------------------------


def claims(runs: Sequence[Run], rng: np.random.Generator) -> list[str]:
    """The four claims, each with intervals and an answer, from the policies that were chosen without the simulator."""
    honest = [run for run in runs if run.get("learning/selection") != "oracle"]
    if not honest:
        return ["Every policy was chosen by true return, which answers none of them."]
    parts = (_beats_behaviour(honest), _noise_against_expert(honest, rng), _small_budget(honest, rng), _ranking(honest, rng))
    return [line for part in parts for line in [*part, ""]][:-1]


def _beats_behaviour(runs: Sequence[Run]) -> list[str]:
    """Offline learning beats its behaviour policy."""
    out = [
        "**1. Offline learning beats its behaviour policy.** By log: learners whose improvement is above 0, corrected for "
        "their number; and the learner that fitted Q evaluation would take, with its improvement in %:", "",
    ]  # fmt: skip
    logs, won, blind = _grouped(runs, "logs/name"), 0, 0
    for (name,), members in logs.items():
        learners = _grouped(members, "solver")
        better = [solver for (solver,), of in learners.items() if improvement(of, len(learners))[1] > 0]
        (taken,) = max(learners, key=lambda solver: np.mean([run["ope/fqe"] for run in learners[solver]]))
        found = improvement(learners[taken,])
        won, blind = won + bool(better), blind + (found[1] > 0)
        out.append(f"- {_short(name)}: {len(better)} of {len(learners)} ({', '.join(better)}); {taken}: {_percent(found, 1.0)}")
    if all(len(of) < 2 for of in _grouped(runs, "logs/name", "solver").values()):
        return [*out, "", "Answer: not tested, one seed has no interval."]
    return [
        *out,
        "",
        f"Answer: some learner does for {won} of {len(logs)} logs; the one taken without the simulator for {blind}.",
    ]


def _noise_against_expert(runs: Sequence[Run], rng: np.random.Generator) -> list[str]:
    """Random or noisy data are at least as good as an expert's."""
    out = [
        "**2. Random or noisy logs are at least as good as an expert's** (Offline-LD, arXiv:2409.10589; CDQAC). Gap after "
        "learning from the one minus gap after learning from expert logs, in points (below 0: the claim holds):", "",
    ]  # fmt: skip
    cells, names = _cells(runs), [name for (name,) in _grouped(runs, "logs/name")]
    expert = next((name for name in names if _short(name) == "expert"), None)
    if expert is None:
        return [*out, "Answer: not tested, no expert log was learnt from."]
    answers = []
    for name in names:
        if _short(name) not in ("random", "noisy_expert"):
            continue
        both = [solver for (log, solver) in cells if log == name and (expert, solver) in cells]
        found = {s: stats.paired_difference(gaps(cells[name, s]), gaps(cells[expert, s]), rng) for s in both}
        out.append(f"- {_short(name)}: {'; '.join(f'{solver} {_percent(value)}' for solver, value in found.items())}")
        better, worse = sum(high < 0 for _, _, high in found.values()), sum(low > 0 for _, low, _ in found.values())
        answers.append(f"{_short(name)} logs are better for {better} and worse for {worse} of {len(found)} learners")
    return [*out, "", f"Answer: {'; '.join(answers) or 'not tested'}."]


def _small_budget(runs: Sequence[Run], rng: np.random.Generator) -> list[str]:
    """BC is hard to beat where few policies can be tried."""
    heads = " | ".join(f"{budget} tried" for budget in BUDGETS)
    out = [
        "**3. BC is hard to beat at a small evaluation budget** (Kurenkov & Kolesnikov 2022, arXiv:2110.04156). True return of "
        "BC, and how much better the best of so many policies is, drawn from all other learners and seeds:", "",
        f"| log | BC | {heads} |", f"|---|---|{'---|' * len(BUDGETS)}",
    ]  # fmt: skip
    beaten: list[str] = []
    for (name,), members in _grouped(runs, "logs/name").items():
        cloned = [run["ope/true"] for run in members if run["solver"] == "bc"]
        others = [run for run in members if run["solver"] != "bc"]
        if not cloned or not others:
            continue
        bc = float(np.mean(cloned))
        found = [resampled(others, lambda of, k=k, bc=bc: expected_best(_true(of), k) - bc, rng) for k in BUDGETS]  # type: ignore[misc]
        out.append(f"| {_short(name)} | {bc:.3f} | {' | '.join(_signed(value) for value in found)} |")
        first = next((budget for budget, value in zip(BUDGETS, found, strict=True) if value[1] > 0), None)
        beaten.append(f"{_short(name)}: {f'from {first} on' if first else f'not up to {BUDGETS[-1]}'}")
    return [*out, "", f"Answer: BC is surely beaten with so many policies tried: {'; '.join(beaten) or 'not tested'}."]


def _ranking(runs: Sequence[Run], rng: np.random.Generator) -> list[str]:
    """FQE ranks policies better than importance sampling."""
    out = [
        "**4. FQE ranks policies better than importance sampling.** Spearman's rho with the true return over all candidate "
        "policies of a log, and the mean absolute error:", "",
        "| log | policies | FQE | DR | WIS | IS | FQE - WIS | error FQE | DR | WIS | IS |", "|" + "---|" * 11,
    ]  # fmt: skip
    better = worse = logs = 0
    for (name,), members in _grouped(runs, "logs/name").items():
        known = [key for key in ESTIMATORS if all(f"ope/{key}_of_candidates" in run for run in members)]
        true = of_candidates(members, "true")
        row = [f"{rank(members, key):.2f}" if key in known else "–" for key in ESTIMATORS]
        error = [f"{np.abs(of_candidates(members, key) - true).mean():.2f}" if key in known else "–" for key in ESTIMATORS]
        versus = "–"
        if "wis" in known:
            found = resampled(members, lambda of: rank(of, "fqe") - rank(of, "wis"), rng)
            versus, logs, better, worse = _signed(found, 2), logs + 1, better + (found[1] > 0), worse + (found[2] < 0)
        out.append(f"| {_short(name)} | {len(true)} | {' | '.join(row)} | {versus} | {' | '.join(error)} |")
    return [
        *out,
        "",
        f"Answer: FQE ranks better than weighted importance sampling for {better} and worse for {worse} of {logs} logs.",
    ]


# -- small things ----------------------------------------------------------------------------------------------------


def _table(runs: Sequence[Run], cell: Callable[[Sequence[Run]], str]) -> list[str]:
    """Learners (marked where they were chosen by true return) by logs."""
    cells, names = _cells(runs), [name for (name,) in _grouped(runs, "logs/name")]
    out = [f"| learner | {' | '.join(_short(name) for name in names)} |", f"|---|{'---|' * len(names)}"]
    for solver in dict.fromkeys(solver for _, solver in cells):
        row = [cell(cells[name, solver]) if (name, solver) in cells else "–" for name in names]
        out.append(f"| {solver} | {' | '.join(row)} |")
    return out


def _cells(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    out: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        marked = run["solver"] + (" (oracle)" if run.get("learning/selection") == "oracle" else "")
        out.setdefault((run["logs/name"], marked), []).append(run)
    return out


def _grouped(runs: Iterable[Run], *keys: str) -> dict[tuple[Any, ...], list[Run]]:
    out: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        out.setdefault(tuple(run.get(key) for key in keys), []).append(run)
    return out


def _from_logs(run: Run) -> bool:
    """Learnt from logs alone."""
    return "logs/name" in run and "offline/learning/steps" not in run


def _true(runs: Sequence[Run]) -> Floats:
    return np.array([run["ope/true"] for run in runs])


def _short(name: str | None) -> str:
    """cluster-small-mixed-v0 -> mixed."""
    parts = (name or "–").split("-")
    return parts[-2] if len(parts) > 2 else name or "–"


def _percent(found: Found, unit: float = 100.0) -> str:
    mean, low, high = (unit * value for value in found)
    return f"{mean:.1f}" + (f" [{low:.1f}, {high:.1f}]" if math.isfinite(low) else "")


def _signed(found: Found, digits: int = 3) -> str:
    value, low, high = found
    interval = f" [{low:+.{digits}f}, {high:+.{digits}f}]" if math.isfinite(low) else ""
    return f"{value:+.{digits}f}{interval}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, merge, write; exit status 2 where there is nothing to write about."""
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description="What learning from logs is worth.")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of finished runs (default %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("offline.json.gz"), help="collected so far (default %(default)s)")
    parser.add_argument("--page", type=Path, default=Path("offline.md"), help="what is written (default %(default)s)")
    options = parser.parse_args(arguments)
    known = read_json(options.data) if options.data.exists() else []
    runs = merged(known, collect(options.runs) if options.runs.is_dir() else [])
    if not any(map(_from_logs, runs)):
        print(f"no finished run that learnt from logs in {options.runs} or {options.data}", file=sys.stderr)
        return 2
    write_json(options.data, runs)
    command = f"python -m bench.claims --runs RUNS --data {options.data} --page {options.page}"
    options.page.write_text(page(runs, command))
    print(options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
