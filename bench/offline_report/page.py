"""`python -m bench.offline_report.page`: what learning from logs is worth, as a page: every learner on every log, and four claims tested.

It reads runs (`--runs`), adds them to a data file (`--data`) and writes the page (`--page`) from that file. Of runs that differ
in nothing but when they finished the last one counts; a learner that ran with several settings has a row for each. Runs without
logs (rules, online learners) are what the others are compared with. A section is one problem: data set, track, objective and
the like; policies chosen by true return (`oracle`) are shown, marked, and take no part in the claims.

All runs on a log share its held-out instances, so true returns are comparable across runs. What is computed of them, and its
intervals: `bench.offline_report.runs`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.analysis import stats
from bench.instance import read_json, write_json
from bench.offline_report.runs import (
    PROBLEM,
    Floats,
    Found,
    Run,
    advantage,
    cells,
    collect,
    difference,
    failed,
    from_logs,
    grouped,
    improvement,
    labelled,
    merged,
    of_candidates,
    rank,
    regret,
    resampled,
    spread,
    true_returns,
    without_logs,
)
from bench.run.record import selection

ESTIMATORS = ("fqe", "dr", "wis", "is")
USUAL = {
    "track": "schedule",
    "objective": "total_time",
    "mode": "fit",
    "backfill": "none",
    "events": "together",
    "observe": "all",
}
GOALS = ("sjf", "best_rule", "nearly_final")
BUDGETS = (1, 2, 4)  # policies that may be tried on the real system
TOP = (1, 5, 10)  # the k of regret@k


def page(runs: Sequence[Run], command: str) -> str:
    """The page, from the data."""
    count, left = sum(from_logs(run) for run in runs), []
    lines = [
        "# Learning from logs",
        "",
        f"Written by `{command}` from {count} runs. Every cell that was run is shown, or named at the end.",
    ]
    problems = sorted(
        grouped(runs, *PROBLEM).items(), key=lambda item: -len(item[1])
    )  # what was studied most comes first
    for problem, unlabelled in problems:
        title = _title(dict(zip(PROBLEM, problem, strict=True)))
        members = labelled([run for run in unlabelled if "policy" not in run])
        offline = [run for run in members if from_logs(run)]
        others = [run for run in members if not from_logs(run) and not failed(run)]
        finished = [run for run in offline if not failed(run)]
        left += [
            f"{run['solver']} on {title} (from {run['policy']})"
            for run in unlabelled
            if "policy" in run
        ]
        left += [
            f"{run['label']} on {title} (failed)"
            for run in members
            if failed(run) and not (finished and from_logs(run))
        ]
        if not finished:
            left += [f"{run['label']} on {title}" for run in others]
            continue
        lines += ["", f"## {title}", "", *logs_table(finished), "", *gap_table(offline, others), ""]
        lines += [
            *difference_tables(offline, others),
            *improvement_table(offline),
            "",
            *online_table(others),
        ]
        lines += ["", f"## Four claims, on {title}", "", *claims(finished)]
    if left:
        why = "Not shown, for they failed, began with another run's policy or have no finished run on a log beside them"
        lines += ["", f"{why}: {'; '.join(dict.fromkeys(left))}."]
    return "\n".join([*lines, ""])


def _title(problem: Run) -> str:
    """`small`, and what is unusual about it."""
    unusual = [
        f"{key}={problem[key]}" for key, value in USUAL.items() if problem[key] not in (value, None)
    ]
    unusual += [f"split={problem['split']}"] if problem["split"] not in ("test", None) else []
    return " ".join([str(problem["dataset"]), *unusual])


def logs_table(runs: Sequence[Run]) -> list[str]:
    """What the logs hold."""
    out = [
        "| log | episodes | decisions | mean return | best behaviour's | hash |",
        "|---|---|---|---|---|---|",
    ]
    for (name, digest), members in grouped(runs, "logs/name", "logs/hash").items():
        one = members[-1]
        numbers = f"{one['logs/episodes']:,} | {one['logs/decisions']:,} | {one['logs/return']:.3f}"
        out.append(
            f"| {name} | {numbers} | {one['logs/best_behaviour_return']:.3f} | {digest[:8]} |"
        )
    return out


def gap_table(runs: Sequence[Run], others: Sequence[Run]) -> list[str]:
    """Learners by logs: mean gap and its interval, in %; what does without logs below."""
    seeds = sorted({sum(not failed(run) for run in members) for members in cells(runs).values()})
    out = [
        f"Gap in %, greedy decisions, mean and interval; seeds per cell: {', '.join(map(str, seeds))}.",
        "",
    ]
    out += [*_table(runs, lambda of: _percent(spread(of))), ""]
    table = [gap for run in [*runs, *others] for gap in run["gaps"]]
    if missing := sum(gap is None for gap in table):
        out += [
            f"{missing} of {len(table)} gaps are missing, without a schedule or a bound: they count as 100 %.",
            "",
        ]
    for (name,), of in grouped(without_logs(others), "label").items():
        out.append(f"- without logs: {name}: {_percent(spread(of))} (seeds: {len(of)})")
    return out


def difference_tables(runs: Sequence[Run], others: Sequence[Run]) -> list[str]:
    """Learners by logs against each of those that had no log, such as the best rule and PPO: one table each."""
    out: list[str] = []
    for (name,), theirs in grouped(without_logs(others), "label").items():
        table = _table(runs, lambda of, b=theirs: _percent(difference(of, b)))  # type: ignore[misc]
        out += [
            f"Gap less that of {name} on the same instances, in points (below 0 is better).",
            "",
            *table,
            "",
        ]
    return out


def improvement_table(runs: Sequence[Run]) -> list[str]:
    """Learners by logs: true return against the behaviour's."""
    out = [
        "Return against the behaviour policy's on the same held-out instances, in % of the latter (above 0 is better).",
        "",
    ]
    return [*out, *_table(runs, lambda of: _percent(improvement(of), 1.0))]


def online_table(runs: Sequence[Run]) -> list[str]:
    """Online learners, from scratch and from what a log taught: decisions in the simulator until each goal, by seeds' means."""
    learned = [run for run in runs if f"learning/decisions_to_{GOALS[0]}" in run]
    out = [
        "Decisions in the simulator until SJF and the best rule were beaten on the validation split, and until within 1 % of",
        "the final value of its own; – where a seed never got there.", "",
        "| online learner | log | seeds | SJF | best rule | final | gap |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for (solver, log), members in grouped(learned, "label", "log").items():
        row = [
            f"{steps.mean():,.0f}" if np.isfinite(steps := _decisions(members, goal)).all() else "–"
            for goal in GOALS
        ]
        out.append(
            f"| {solver} | {log or '–'} | {len(members)} | {' | '.join(row)} | {_percent(spread(members))} |"
        )
    return [*out, *_saved(learned)] if learned else []


def _saved(learned: Sequence[Run]) -> list[str]:
    """What a log has saved: decisions until SJF and the best rule were beaten, from scratch less those after the log."""
    out = []
    for (solver, log), after in grouped(
        (run for run in learned if "log" in run), "label", "log"
    ).items():
        for (scratch,), alone in grouped(without_logs(learned), "label").items():
            for goal in GOALS[:2]:
                ours, theirs = _decisions(after, goal), _decisions(alone, goal)
                if np.isfinite(ours).all() and np.isfinite(theirs).all():
                    found = stats.paired_difference(theirs[:, None], ours[:, None])
                    out.append(
                        f"- {solver} after {log}: {_thousands(found)} decisions fewer than {scratch} to {goal}"
                    )
    return ["", *out] if out else []


def _decisions(runs: Sequence[Run], goal: str) -> Floats:
    """(S,) decisions in the simulator until a goal was reached, NaN where it never was."""
    return np.array([run[f"learning/decisions_to_{goal}"] for run in runs], dtype=float)


# -- the claims ------------------------------------------------------------------------------------------------------


def claims(runs: Sequence[Run]) -> list[str]:
    """The four claims, each with intervals and an answer, from the policies that were chosen without the simulator."""
    honest = [run for run in runs if selection(run) != "oracle"]
    if not honest:
        return ["Every policy was chosen by true return, which answers none of them."]
    out = [
        "Gaps, and with them claim 2, are of the test split. Returns (claims 1, 3 and 4) are of instances of the train split",
        "that no policy learnt from; by those of `small` and `medium` the defaults of learners and estimators were chosen.", "",
    ]  # fmt: skip
    parts = (
        _beats_behaviour(honest),
        _noise_against_expert(honest),
        _small_budget(honest),
        _ranking(honest),
    )
    return [*out, *[line for part in parts for line in [*part, ""]][:-1]]


def _beats_behaviour(runs: Sequence[Run]) -> list[str]:
    """Offline learning beats its behaviour policy."""
    out = [
        "**1. Offline learning beats its behaviour policy.** By log: learners whose improvement is above 0, corrected for "
        "their number; and the learner that fitted Q evaluation would take, with its improvement in %:", "",
    ]  # fmt: skip
    logs, won, blind = grouped(runs, "log"), 0, 0
    for (name,), members in logs.items():
        learners = grouped(members, "label")
        better = [
            solver for (solver,), of in learners.items() if improvement(of, len(learners))[1] > 0
        ]
        (taken,) = max(
            learners, key=lambda solver: np.mean([run["ope/fqe"] for run in learners[solver]])
        )
        found = improvement(learners[taken,])
        won, blind = won + bool(better), blind + (found[1] > 0)
        out.append(
            f"- {name}: {len(better)} of {len(learners)} ({', '.join(better)}); {taken}: {_percent(found, 1.0)}"
        )
    if all(len(of) < 2 for of in cells(runs).values()):
        return [*out, "", "Answer: not tested, one seed has no interval."]
    return [
        *out,
        "",
        f"Answer: some learner does for {won} of {len(logs)} logs; the one taken without the simulator for {blind}.",
    ]


def _noise_against_expert(runs: Sequence[Run]) -> list[str]:
    """Random or noisy data are at least as good as an expert's."""
    out = [
        "**2. Random or noisy logs are at least as good as an expert's** (Offline-LD, arXiv:2409.10589; CDQAC). Gap after "
        "learning from the one minus gap after learning from expert logs, in points (below 0: the claim holds); the answer is "
        "corrected for the number of learners:", "",
    ]  # fmt: skip
    table, answers = (
        grouped(runs, "grade", "label"),
        [],
    )  # gaps are of the test split, whichever instances a log held out
    expert = {solver: of for (grade, solver), of in table.items() if grade == "expert"}
    if not expert:
        return [*out, "Answer: not tested, no expert log was learnt from."]
    for name in ("noisy_expert", "random"):
        both = [
            (solver, of, expert[solver])
            for (grade, solver), of in table.items()
            if grade == name and solver in expert
        ]
        if not both:
            continue
        told = [f"{solver} {_percent(difference(ours, theirs))}" for solver, ours, theirs in both]
        out.append(f"- {name}: {'; '.join(told)}")
        found = [difference(ours, theirs, 1 - 0.05 / len(both)) for _, ours, theirs in both]
        better, worse = sum(high < 0 for _, _, high in found), sum(low > 0 for _, low, _ in found)
        answers.append(
            f"{name} logs are better for {better} and worse for {worse} of {len(found)} learners"
        )
    return [*out, "", f"Answer: {'; '.join(answers) or 'not tested'}."]


def _small_budget(runs: Sequence[Run]) -> list[str]:
    """BC is hard to beat where few policies can be tried."""
    heads = " | ".join(f"{budget} tried" for budget in BUDGETS)
    out = [
        "**3. BC is hard to beat at a small evaluation budget** (Kurenkov & Kolesnikov 2022, arXiv:2110.04156). Mean true "
        "return of BC, and how much better the best of so many policies drawn from all other learners and seeds is than the "
        "best of as many of BC's; no interval where BC has fewer seeds than 4 or twice as many:", "",
        f"| log | BC | {heads} |", f"|---|---|{'---|' * len(BUDGETS)}",
    ]  # fmt: skip
    answers: list[str] = []
    for (name,), members in grouped(runs, "log").items():
        cloned, others = (
            [run for run in members if (run["solver"] == "bc") == is_bc] for is_bc in (True, False)
        )
        if not cloned or not others:
            continue
        found = {
            budget: advantage(others, cloned, budget) for budget in BUDGETS if budget <= len(cloned)
        }
        row = [_signed(found[budget]) if budget in found else "–" for budget in BUDGETS]
        out.append(f"| {name} | {true_returns(cloned).mean():.3f} | {' | '.join(row)} |")
        verdicts = {
            "beaten": [k for k, v in found.items() if v[1] > 0],
            "better": [k for k, v in found.items() if v[2] < 0],
        }
        told = [
            f"BC is {verdict} with {', '.join(map(str, tried))} tried"
            for verdict, tried in verdicts.items()
            if tried
        ]
        nothing = (
            "no difference shown"
            if any(math.isfinite(v[1]) for v in found.values())
            else "not tested, too few seeds"
        )
        answers.append(f"{name}: {' and '.join(told) or nothing}")
    return [*out, "", f"Answer: {'; '.join(answers) or 'not tested'}."]


def _ranking(runs: Sequence[Run]) -> list[str]:
    """FQE ranks policies better than importance sampling."""
    out = [
        "**4. FQE ranks policies better than importance sampling.** Spearman's rho with the true return over all candidate "
        "policies of a log, and the mean absolute error. `n_eff`: the median effective number of episodes behind importance "
        "sampling; where no weight is left WIS counts the logged mean reward, so near 0 it mostly is that:", "",
        "| log | policies | n_eff | FQE | DR | WIS | IS | FQE - WIS | error FQE | DR | WIS | IS |", "|" + "---|" * 12,
    ]  # fmt: skip
    tops = [f"{name}@{k}" for name in ("FQE", "WIS") for k in TOP]
    regrets = [
        "Regret@k: how much worse the truly best of the k that look best is than the truly best, over all candidates of a log,",
        "and, in the last two columns, over those of one training, as the choice of a policy has it.", "",
        f"| log | {' | '.join(tops)} | FQE@1 in a run | WIS@1 in a run |", "|" + "---|" * (3 + len(tops)),
    ]  # fmt: skip
    better = worse = logs = chosen = 0
    for (name,), members in grouped(runs, "log").items():
        known = [
            key for key in ESTIMATORS if all(f"ope/{key}_of_candidates" in run for run in members)
        ]
        true = of_candidates(members, "true")
        row = [f"{rank(members, key):.2f}" if key in known else "–" for key in ESTIMATORS]
        error = [
            f"{np.abs(of_candidates(members, key) - true).mean():.2f}" if key in known else "–"
            for key in ESTIMATORS
        ]
        effective, versus = [run.get("ope/effective_episodes") for run in members], "–"
        size = "–" if None in effective else f"{np.median(np.array(effective, dtype=float)):.1f}"
        if "wis" in known:
            found = resampled(members, lambda of: rank(of, "fqe") - rank(of, "wis"))
            versus, logs, better, worse = (
                _signed(found, 2),
                logs + 1,
                better + (found[1] > 0),
                worse + (found[2] < 0),
            )
            values = [regret(members, key, k) for key in ("fqe", "wis") for k in TOP]
            values += [
                float(np.mean([regret([run], key, 1) for run in members])) for key in ("fqe", "wis")
            ]
            regrets.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |")
            chosen += values[0] < values[len(TOP)]
        out.append(
            f"| {name} | {len(true)} | {size} | {' | '.join(row)} | {versus} | {' | '.join(error)} |"
        )
    return [
        *out,
        "",
        *regrets,
        "",
        f"Answer: FQE ranks better than weighted importance sampling for {better} and worse for {worse} of {logs} logs; "
        f"the one policy that it likes best of all is better than the other's for {chosen}.",
    ]


# -- how it is written -----------------------------------------------------------------------------------------------


def _table(runs: Sequence[Run], cell: Callable[[Sequence[Run]], str]) -> list[str]:
    """Learners by logs; runs that failed are counted."""
    table, names = cells(runs), [name for (name,) in grouped(runs, "log")]
    out = [f"| learner | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for label in dict.fromkeys(label for _, label in table):
        row = []
        for name in names:
            of = table.get((name, label), [])
            finished = [run for run in of if not failed(run)]
            missing = len(of) - len(finished)
            parts = [cell(finished)] if finished else []
            row.append(" ".join([*parts, f"({missing} failed)"] if missing else parts) or "–")
        out.append(f"| {label} | {' | '.join(row)} |")
    return out


def _percent(found: Found, unit: float = 100.0) -> str:
    return _shown([unit * value for value in found], ".1f")


def _thousands(found: Found) -> str:
    return _shown(found, ",.0f")


def _signed(found: Found, digits: int = 3) -> str:
    return _shown(found, f"+.{digits}f")


def _shown(found: Sequence[float], form: str) -> str:
    """A value and, where there is one, its interval."""
    value, low, high = (format(number, form) for number in found)
    return f"{value} [{low}, {high}]" if math.isfinite(found[1]) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, merge, write; exit status 2 where there is nothing to write about."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.offline_report.page", description="What learning from logs is worth."
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        help="folder of finished runs (default %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("offline.json.gz"),
        help="collected so far (default %(default)s)",
    )
    parser.add_argument(
        "--page",
        type=Path,
        default=Path("offline.md"),
        help="what is written (default %(default)s)",
    )
    options = parser.parse_args(arguments)
    known = read_json(options.data) if options.data.exists() else []
    runs = merged(known, collect(options.runs) if options.runs.is_dir() else [])
    if not any(map(from_logs, runs)):
        print(
            f"no finished run that learnt from logs in {options.runs} or {options.data}",
            file=sys.stderr,
        )
        return 2
    write_json(options.data, runs)
    command = f"python -m bench.offline_report.page --runs RUNS --data {options.data} --page {options.page}"
    options.page.write_text(page(runs, command))
    print(options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
