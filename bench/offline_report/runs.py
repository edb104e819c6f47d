"""Runs that learnt from logs, and those beside them: collected, told apart, and what they amount to.

Intervals are 95 %, and what is drawn are seeds: a seed is one policy, which is good or bad on all instances at once. Means and
differences have Student's and Welch's t, the best of some policies the bootstrap's standard error, rank correlations the
bootstrap over runs (the candidates of a run are alike).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis import ope_metrics as dope
from bench.analysis import stats
from bench.instance import read_json
from bench.run.record import selection

PROBLEM = (
    "dataset",
    "track",
    "objective",
    "mode",
    "backfill",
    "events",
    "observe",
    "split",
    "set_hash",
)
CELL = (*PROBLEM, "solver", "seed", "logs/name", "settings")
SAME = (*CELL, "logs/hash", "learning/selection", "learning/steps")
KEPT = (*PROBLEM, "solver", "seed", "status")
DRAWS = 500

Run = dict[str, Any]
Floats = NDArray[np.float64]
Found = tuple[float, float, float]  # a value and its interval, NaN where there is none


# -- data ------------------------------------------------------------------------------------------------------------


def collect(runs: Path) -> list[Run]:
    """The finished and failed runs of a folder: what the page needs of each."""
    import pandas
    import yaml

    found = []
    for path in sorted(runs.glob("*/*/result.json")):
        record, facts = read_json(path), ("logs/", "ope/", "learning/", "offline/")
        config = yaml.safe_load(path.with_name("config.yaml").read_text())
        run = {key: record[key] for key in record if key in KEPT or key.startswith(facts)}
        run |= {"settings": settings(config), "finished": path.stat().st_mtime, "gaps": []}
        if record["status"] == "finished":
            table = pandas.read_parquet(path.with_name("instances.parquet"))
            run["gaps"] = [_number(value) for value in table["gap"].tolist()]
        elif name := _log_of(config):
            run |= {"logs/name": name}
        if given := _given_policy(config):
            run |= {"policy": given}
        found.append(run)
    return found


def settings(config: Run) -> str:
    """Short hash of what is set of a run's solver and budget, whatever log it has and on whatever data."""

    def bare(value: Any) -> Any:
        return (
            {key: bare(inner) for key, inner in value.items() if key != "logs"}
            if isinstance(value, dict)
            else value
        )

    chosen = json.dumps([bare(config.get("solver")), config.get("budget")], sort_keys=True)
    return hashlib.sha256(chosen.encode()).hexdigest()[:8]


def _log_of(config: Run) -> str | None:
    """Name of the log that a run's solver was given."""
    solver = config.get("solver", {})
    logs = (solver.get("offline") or solver).get("logs") or {}
    return logs.get("name")


def _given_policy(config: Run) -> str | None:
    """The file of another run's policy that a run plays or goes on from."""
    solver = config.get("solver", {})
    parts = [solver, *(solver.get(part) or {} for part in ("offline", "online"))]
    given = [part.get(key) for part in parts for key in ("checkpoint", "start")]
    return next((str(path) for path in given if path), None)


def merged(known: Iterable[Run], new: Iterable[Run]) -> list[Run]:
    """Of runs that are the same but for when they finished, the last; a failure only of what never came to its end."""
    runs = sorted([*known, *new], key=lambda run: run["finished"])
    ended = {_key(run, CELL) for run in runs if not failed(run)}
    out = {_key(run, SAME): run for run in runs if not failed(run) or _key(run, CELL) not in ended}
    return [out[key] for key in sorted(out)]


def _key(run: Run, names: Sequence[str]) -> str:
    return json.dumps([run.get(name) for name in names])


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


# -- groups ----------------------------------------------------------------------------------------------------------


def grouped(runs: Iterable[Run], *keys: str) -> dict[tuple[Any, ...], list[Run]]:
    """Runs by their values of `keys`, in the order they come in."""
    out: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        out.setdefault(tuple(run.get(key) for key in keys), []).append(run)
    return out


def from_logs(run: Run) -> bool:
    """Learnt from logs alone."""
    return "logs/name" in run and not any(key.startswith("offline/") for key in run)


def without_logs(runs: Iterable[Run]) -> list[Run]:
    """Rules, and learners from scratch."""
    return [run for run in runs if "logs/name" not in run]


def failed(run: Run) -> bool:
    """It did not come to its end."""
    return run.get("status") == "failed"


def labelled(runs: Sequence[Run]) -> list[Run]:
    """Runs of one problem with the names of their row and column.

    `label`: the solver, marked where its policy was chosen by true return, and with the hash of its settings where it has run
    with several. `grade`: that of its log (mixed of cluster-small-mixed-v0). `log`: the grade where one log alone has it, else
    its name, with the hash of its content where it was recorded several times: their held-out instances differ.
    """
    several = {
        solver
        for (solver,), of in grouped(runs, "solver").items()
        if len(grouped(of, "settings")) > 1
    }
    logs = grouped((run for run in runs if "logs/name" in run), "logs/name")
    again = {
        name
        for (name,), of in logs.items()
        if len({run["logs/hash"] for run in of if "logs/hash" in run}) > 1
    }
    grades = [_grade(name) for (name,) in logs]
    out = []
    for run in runs:
        marks = ["(oracle)"] if selection(run) == "oracle" else []
        marks += [f"#{run.get('settings')}"] if run["solver"] in several else []
        out.append({**run, "label": " ".join([run["solver"], *marks])})
        if name := run.get("logs/name"):
            shown = name if grades.count(_grade(name)) > 1 else _grade(name)
            mark = f" #{run['logs/hash'][:8]}" if name in again and "logs/hash" in run else ""
            out[-1] |= {"grade": _grade(name), "log": f"{shown}{mark}"}
    return out


def _grade(name: str) -> str:
    """cluster-small-mixed-v0 -> mixed."""
    parts = name.split("-")
    return parts[-2] if len(parts) > 2 else name


def cells(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """(log, learner) -> its seeds, by their labels."""
    return {(log, label): of for (log, label), of in grouped(runs, "log", "label").items()}


# -- statistics ------------------------------------------------------------------------------------------------------


def gaps(runs: Sequence[Run]) -> Floats:
    """(S, I) gaps to the best known bound, by seed; a missing one counts as 100 %."""
    return np.array([[1.0 if value is None else value for value in run["gaps"]] for run in runs])


def spread(runs: Sequence[Run]) -> Found:
    """Mean gap and its interval, NaN with one seed."""
    return stats.student_interval(gaps(runs))


def difference(ours: Sequence[Run], theirs: Sequence[Run], level: float = 0.95) -> Found:
    """Mean gap of `ours` less that of `theirs` on the same instances; no interval where one seed is all of a learner."""
    found = stats.paired_difference(gaps(ours), gaps(theirs), level)
    alone = any(
        len(side) == 1 and any(key.startswith("learning/") for key in side[0])
        for side in (ours, theirs)
    )
    return (found[0], math.nan, math.nan) if alone else found


def improvement(runs: Sequence[Run], tests: int = 1) -> Found:
    """How much better the chosen policies are than their behaviour on the same held-out instances, in % of its return.

    Mean over seeds with Student's interval, NaN with one seed; of level 1 - 0.05 / `tests` (Bonferroni).
    """
    behaviour = np.array([run["logs/held_out_return"] for run in runs])
    return stats.student_interval(
        (100 * (true_returns(runs) - behaviour) / np.abs(behaviour))[:, None], 1 - 0.05 / tests
    )


def true_returns(runs: Sequence[Run]) -> Floats:
    """(S,) mean true return of the chosen policies on the log's held-out instances."""
    return np.array([run["ope/true"] for run in runs])


def expected_best(values: Floats, budget: int) -> float:
    """Mean of the best of `budget` policies drawn without replacement from `values`.

    Kurenkov & Kolesnikov 2022, "Showing Your Offline Reinforcement Learning Work", arXiv:2110.04156.
    """
    ordered, n = np.sort(values), len(values)
    budget = min(budget, n)
    chance = [math.comb(i, budget - 1) / math.comb(n, budget) for i in range(n)]
    return float(np.dot(chance, ordered))


def advantage(others: Sequence[Run], own: Sequence[Run], budget: int) -> Found:
    """How much better the best of `budget` policies drawn from `others` is than the best of as many of `own`, by true return.

    The interval has the standard error of the bootstrap within each learner, and Student's t with the seeds of `own`; NaN where
    these are fewer than 4 or twice the budget: their best is then nearly the best of all, which no resampling tells from luck.
    """
    from scipy.stats import t

    learners = [true_returns(of) for of in grouped(others, "label").values()]
    mine, rng = true_returns(own), np.random.default_rng(0)
    value = expected_best(np.concatenate(learners), budget) - expected_best(mine, budget)
    if len(mine) < 2 * max(budget, 2):
        return value, math.nan, math.nan
    drawn = []
    for _ in range(DRAWS):
        again, *rest = (
            values[rng.integers(len(values), size=len(values))] for values in (mine, *learners)
        )
        drawn.append(expected_best(np.concatenate(rest), budget) - expected_best(again, budget))
    half = float(t.ppf(0.975, len(mine) - 1) * np.std(drawn, ddof=1))
    return value, value - half, value + half


def resampled(runs: Sequence[Run], value: Callable[[Sequence[Run]], float]) -> Found:
    """`value` of runs and its interval over resampled runs, NaN with fewer than three."""
    found, rng = value(runs), np.random.default_rng(0)
    if len(runs) < 3:
        return found, math.nan, math.nan
    drawn = [
        value([runs[i] for i in rng.integers(len(runs), size=len(runs))]) for _ in range(DRAWS)
    ]
    return found, *np.percentile(drawn, [2.5, 97.5]).tolist()


def rank(runs: Sequence[Run], name: str) -> float:
    """Spearman's rho of an estimator with the true return over all candidates; 0 where it tells none from another."""
    return float(
        np.nan_to_num(dope.rank_correlation(of_candidates(runs, name), of_candidates(runs, "true")))
    )


def regret(runs: Sequence[Run], name: str, k: int) -> float:
    """Regret@k of an estimator over all candidates of the runs."""
    return dope.regret(of_candidates(runs, name), of_candidates(runs, "true"), k)


def of_candidates(runs: Sequence[Run], name: str) -> Floats:
    """(C,) an estimate, or the true return, of every candidate policy of the runs."""
    return np.concatenate([run[f"ope/{name}_of_candidates"] for run in runs])
