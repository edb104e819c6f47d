"""Tables of the offline evaluation report, as lines of Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from bench.analysis import stats
from bench.offline_report.run_statistics import (
    Estimate,
    Floats,
    gap_difference,
    improvement,
    mean_gap,
)
from bench.offline_report.runs import RunFacts, group_by, group_cells, is_failed, without_logs

GOALS = ("sjf", "best_rule", "nearly_final")  # of `solvers.rl.learning_cost`


def log_table(runs: Sequence[RunFacts]) -> list[str]:
    """Return the table of the logs: size, returns and hash."""
    lines = [
        "| log | episodes | decisions | mean return | best behaviour policy's | hash |",
        "|---|---|---|---|---|---|",
    ]
    for (name, digest), members in group_by(runs, "logs/name", "logs/hash").items():
        run = members[-1]
        columns = [
            name,
            f"{run['logs/episodes']:,}",
            f"{run['logs/decisions']:,}",
            f"{run['logs/return']:.3f}",
            f"{run['logs/best_behaviour_return']:.3f}",
            digest[:8],
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def gap_table(runs: Sequence[RunFacts], others: Sequence[RunFacts]) -> list[str]:
    """Return the table of mean gaps, learners by logs, and the gaps of solvers without logs.

    Parameters
    ----------
    runs
        Offline runs, failed ones included.
    others
        Finished runs that were not trained on a log only.
    """
    counts = {sum(not is_failed(run) for run in cell) for cell in group_cells(runs).values()}
    seeds = ", ".join(map(str, sorted(counts)))
    lines = [f"Gap in %, greedy decisions, mean and interval; seeds per cell: {seeds}.", ""]
    lines += [*_learners_by_logs(runs, lambda cell: percent(mean_gap(cell))), ""]
    all_gaps = [gap for run in [*runs, *others] for gap in run["gaps"]]
    if missing := sum(gap is None for gap in all_gaps):
        lines += [
            f"{missing} of {len(all_gaps)} gaps are missing, without a schedule or a bound: they "
            "count as 100 %.",
            "",
        ]
    for (name,), members in group_by(without_logs(others), "label").items():
        lines.append(
            f"- without logs: {name}: {percent(mean_gap(members))} (seeds: {len(members)})"
        )
    return lines


def difference_tables(runs: Sequence[RunFacts], others: Sequence[RunFacts]) -> list[str]:
    """Return one table for each solver without logs: gaps of learners by logs minus its gap."""
    lines: list[str] = []
    for (name,), theirs in group_by(without_logs(others), "label").items():

        def difference(cell: Sequence[RunFacts], theirs: Sequence[RunFacts] = theirs) -> str:
            return percent(gap_difference(cell, theirs))

        lines += [
            f"Gap minus that of {name} on the same instances, in points (below 0 is better).",
            "",
            *_learners_by_logs(runs, difference),
            "",
        ]
    return lines


def improvement_table(runs: Sequence[RunFacts]) -> list[str]:
    """Return the table of true returns against the behaviour policy, learners by logs."""
    return [
        "Difference to the return of the behaviour policy on the same held-out instances, in % of "
        "the latter (above 0 is better).",
        "",
        *_learners_by_logs(runs, lambda cell: percent(improvement(cell), 1.0)),
    ]


def online_table(runs: Sequence[RunFacts]) -> list[str]:
    """Return the training cost of online learners, from scratch and pretrained on a log.

    The cost is the number of decisions in the simulator until a goal was reached, as the mean over
    seeds.
    """
    learned = [run for run in runs if f"learning/decisions_to_{GOALS[0]}" in run]
    if not learned:
        return []
    lines = [
        "Decisions in the simulator until the policy was better than SJF and the best rule on the "
        "validation",
        "split, and until it was within 1 % of its own final value; – where a seed never was.",
        "",
        "| online learner | log | seeds | SJF | best rule | final | gap |",
        "|---|---|---|---|---|---|---|",
    ]
    for (solver, log), members in group_by(learned, "label", "log").items():
        costs = [_decisions_to(members, goal) for goal in GOALS]
        cells = [f"{cost.mean():,.0f}" if np.isfinite(cost).all() else "–" for cost in costs]
        columns = [solver, log or "–", str(len(members)), *cells, percent(mean_gap(members))]
        lines.append(f"| {' | '.join(columns)} |")
    return [*lines, *_saved_decisions(learned)]


def _saved_decisions(learned: Sequence[RunFacts]) -> list[str]:
    """Return the decisions that pretraining on a log saved until a rule was beaten."""
    lines = []
    pretrained = group_by((run for run in learned if "log" in run), "label", "log")
    for (solver, log), after in pretrained.items():
        for (scratch,), alone in group_by(without_logs(learned), "label").items():
            for goal in GOALS[:2]:
                ours = _decisions_to(after, goal)
                theirs = _decisions_to(alone, goal)
                if np.isfinite(ours).all() and np.isfinite(theirs).all():
                    saved = stats.paired_difference(theirs[:, None], ours[:, None])
                    lines.append(
                        f"- {solver} after {log}: {_thousands(saved)} decisions fewer than "
                        f"{scratch} to {goal}"
                    )
    return ["", *lines] if lines else []


def _decisions_to(runs: Sequence[RunFacts], goal: str) -> Floats:
    """Return the decisions (S,) until a goal was reached, NaN where it never was."""
    return np.array([run[f"learning/decisions_to_{goal}"] for run in runs], dtype=float)


def _learners_by_logs(
    runs: Sequence[RunFacts], text_of: Callable[[Sequence[RunFacts]], str]
) -> list[str]:
    """Return a table of learners by logs.

    Parameters
    ----------
    runs
        Offline runs; those that failed are counted in their cells.
    text_of
        Returns the text of a cell from its finished runs.
    """
    cells = group_cells(runs)
    logs = [log for (log,) in group_by(runs, "log")]
    lines = [f"| learner | {' | '.join(logs)} |", f"|---|{'---|' * len(logs)}"]
    for label in dict.fromkeys(label for _, label in cells):
        row = []
        for log in logs:
            members = cells.get((log, label), [])
            finished = [run for run in members if not is_failed(run)]
            parts = [text_of(finished)] if finished else []
            if len(members) > len(finished):
                parts.append(f"({len(members) - len(finished)} failed)")
            row.append(" ".join(parts) or "–")
        lines.append(f"| {label} | {' | '.join(row)} |")
    return lines


def percent(estimate: Estimate, factor: float = 100.0) -> str:
    """Return an estimate, times `factor`, with one decimal."""
    return _with_interval([factor * value for value in estimate], ".1f")


def signed(estimate: Estimate, digits: int = 3) -> str:
    """Return an estimate with its sign."""
    return _with_interval(estimate, f"+.{digits}f")


def _thousands(estimate: Estimate) -> str:
    return _with_interval(estimate, ",.0f")


def _with_interval(estimate: Sequence[float], form: str) -> str:
    """Return `value [low, high]`, or the value alone where there is no interval."""
    value, low, high = (format(number, form) for number in estimate)
    return f"{value} [{low}, {high}]" if math.isfinite(estimate[1]) else value
