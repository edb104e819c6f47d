"""The page of the offline evaluation report: every learner on every log, and four claims tested.

Of runs that differ only in when they finished the last one counts; a learner that ran with several
settings has a row for each. Runs without logs (rules, online learners) are what the others are
compared with. There is one section per problem: dataset, track, objective and so on. Policies that
were selected by their true return (`oracle`) are shown, marked, and do not count in the claims.

All runs on a log have the same held-out instances, so their true returns can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from bench.offline_report.claims import claims
from bench.offline_report.runs import (
    PROBLEM,
    RunFacts,
    add_labels,
    group_by,
    is_failed,
    is_offline,
)
from bench.offline_report.tables import (
    difference_tables,
    gap_table,
    improvement_table,
    log_table,
    online_table,
)
from bench.references import shipped_file
from bench.references.stored_gaps import shipped_source

DEFAULTS = {  # values that the title of a section does not name
    "track": "schedule",
    "objective": "total_time",
    "mode": "fit",
    "backfill": "none",
    "event_order": "batched",
    "observe": "all",
}


def page(runs: Sequence[RunFacts], command: str) -> str:
    """Return the page as Markdown.

    Parameters
    ----------
    runs
        All runs, from `bench.offline_report.runs`.
    command
        The command that the page names as its origin.
    """
    count = sum(is_offline(run) for run in runs)
    lines = [
        "# Offline evaluation report",
        "",
        f"Written by `{command}` from {count} runs. Every cell that was run is shown, or named at "
        "the end.",
        "",
        measured(runs),
    ]
    left_out: list[str] = []
    # the problem with the most runs comes first
    problems = sorted(group_by(runs, *PROBLEM).items(), key=lambda item: -len(item[1]))
    for problem, members in problems:
        title = _title(dict(zip(PROBLEM, problem, strict=True)))
        section, names = _section(title, members)
        lines += section
        left_out += names
    if left_out:
        reasons = (
            "Not shown, because they failed, started from another run's policy or have no finished "
            "run on a log beside them"
        )
        lines += ["", f"{reasons}: {'; '.join(dict.fromkeys(left_out))}."]
    return "\n".join([*lines, ""])


def measured(runs: Sequence[RunFacts]) -> str:
    """Return when the runs ended and against which references their gaps are."""
    days = [datetime.fromtimestamp(run["finished"], UTC).date().isoformat() for run in runs]
    lines = [f"Measured {min(days)} to {max(days)}."]
    files: dict[tuple[str, str], dict[str, None]] = {}  # (file, objective) -> instances
    former = 0
    for run in runs:
        hashes = run.get("instances", ())
        shipped = [one for one in hashes if shipped_file(one)]
        former += len(shipped) < len(run["gaps"])
        for one in shipped:
            files.setdefault((shipped_file(one), run["objective"]), {})[one] = None
    for (name, objective), instances in sorted(files.items()):
        facts = shipped_source(list(instances), objective).facts
        lines.append(f"Gap to the bounds of {name} ({objective}) of {facts}.")
    if former:
        lines.append(
            f"{former} runs are on instances without shipped references, or were stored without "
            "objectives: their gaps are to the bounds that were known when they ended."
        )
    return " ".join(lines)


def _section(title: str, runs: Sequence[RunFacts]) -> tuple[list[str], list[str]]:
    """Return the section of one problem and the names of the runs that it does not show."""
    given = [run for run in runs if "policy" in run]
    labelled = add_labels([run for run in runs if "policy" not in run])
    offline = [run for run in labelled if is_offline(run)]
    others = [run for run in labelled if not is_offline(run) and not is_failed(run)]
    finished = [run for run in offline if not is_failed(run)]
    left_out = [f"{run['solver']} on {title} (from {run['policy']})" for run in given]
    left_out += [
        f"{run['label']} on {title} (failed)"
        for run in labelled
        if is_failed(run) and not (finished and is_offline(run))
    ]
    if not finished:
        return [], left_out + [f"{run['label']} on {title}" for run in others]
    lines = [
        "",
        f"## {title}",
        "",
        *log_table(finished),
        "",
        *gap_table(offline, others),
        "",
        *difference_tables(offline, others),
        *improvement_table(offline),
        "",
        *online_table(others),
        "",
        f"## Four claims, on {title}",
        "",
        *claims(finished),
    ]
    return lines, left_out


def _title(problem: RunFacts) -> str:
    """Return the name of the dataset and the values that differ from the defaults."""
    unusual = [
        f"{key}={problem[key]}"
        for key, default in DEFAULTS.items()
        if problem[key] not in (default, None)
    ]
    unusual += [f"split={problem['split']}"] if problem["split"] not in ("test", None) else []
    return " ".join([str(problem["dataset"]), *unusual])
