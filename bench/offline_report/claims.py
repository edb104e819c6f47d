"""Tests of four claims about offline learning, as lines of Markdown with intervals and answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bench.offline_report.run_statistics import (
    Estimate,
    best_of_k_difference,
    bootstrap,
    candidate_values,
    gap_difference,
    improvement,
    rank_correlation,
    regret,
    true_returns,
)
from bench.offline_report.runs import RunFacts, group_by, group_cells
from bench.offline_report.tables import percent, signed
from bench.run.record import selection

ESTIMATORS = ("fqe", "dr", "wis", "is")
POLICY_COUNTS = (1, 2, 4)  # policies that are evaluated in the real system, claim 3
REGRET_AT = (1, 5, 10)  # the k of regret@k, claim 4


def claims(runs: Sequence[RunFacts]) -> list[str]:
    """Return the tests of the four claims on the finished offline runs of one problem.

    Policies that were selected by their true return (`oracle`) do not count.
    """
    selected = [run for run in runs if selection(run) != "oracle"]
    if not selected:
        return ["Every policy was selected by true return, so none of the claims can be tested."]
    lines = [
        "Gaps, and with them claim 2, are of the test split. Returns (claims 1, 3 and 4) are of "
        "instances of the",
        "train split that no policy was trained on; the defaults of learners and estimators were "
        "chosen by the",
        "returns of `small` and `medium`.",
    ]
    for test in (_beats_behaviour, _noise_against_expert, _best_of_k, _ranking):
        lines += ["", *test(selected)]
    return lines


def _beats_behaviour(runs: Sequence[RunFacts]) -> list[str]:
    """Test claim 1: offline learning beats its behaviour policy."""
    lines = [
        "**1. Offline learning beats its behaviour policy.** For each log: the learners whose "
        "improvement is above 0, corrected for their number; and the learner with the highest "
        "estimate of fitted Q evaluation, with its improvement in %:",
        "",
    ]
    by_log = group_by(runs, "log")
    some_learner = 0
    highest_estimate = 0
    for (log,), members in by_log.items():
        learners = {label: own for (label,), own in group_by(members, "label").items()}
        better = [
            label for label, own in learners.items() if improvement(own, len(learners))[1] > 0
        ]
        taken = max(
            learners, key=lambda label: float(np.mean([run["ope/fqe"] for run in learners[label]]))
        )
        found = improvement(learners[taken])
        some_learner += bool(better)
        highest_estimate += found[1] > 0
        lines.append(
            f"- {log}: {len(better)} of {len(learners)} ({', '.join(better)}); {taken}: "
            f"{percent(found, 1.0)}"
        )
    if all(len(cell) < 2 for cell in group_cells(runs).values()):
        return [*lines, "", "Answer: not tested, one seed has no interval."]
    return [
        *lines,
        "",
        f"Answer: some learner does for {some_learner} of {len(by_log)} logs; the learner with the "
        f"highest estimate does for {highest_estimate}.",
    ]


def _noise_against_expert(runs: Sequence[RunFacts]) -> list[str]:
    """Test claim 2: random or noisy logs are at least as good as an expert's.

    Gaps are of the test split, so it does not matter which instances a log held out.
    """
    lines = [
        "**2. Random or noisy logs are at least as good as an expert's** (Offline-LD, "
        "arXiv:2409.10589; CDQAC). Gap after learning from these logs minus gap after learning "
        "from expert logs, in points (below 0: the claim holds); the answer is corrected for the "
        "number of learners:",
        "",
    ]
    by_grade = group_by(runs, "grade", "label")
    expert = {label: own for (grade, label), own in by_grade.items() if grade == "expert"}
    if not expert:
        return [*lines, "Answer: not tested, there is no run on an expert log."]
    answers = []
    for name in ("noisy_expert", "random"):
        pairs = [
            (label, own, expert[label])
            for (grade, label), own in by_grade.items()
            if grade == name and label in expert
        ]
        if not pairs:
            continue
        shown = [f"{label} {percent(gap_difference(own, best))}" for label, own, best in pairs]
        lines.append(f"- {name}: {'; '.join(shown)}")
        found = [gap_difference(own, best, 1 - 0.05 / len(pairs)) for _, own, best in pairs]
        if all(math.isnan(low) for _, low, _ in found):
            answers.append(f"{name} logs: not tested, one seed has no interval")
            continue
        better = sum(high < 0 for _, _, high in found)
        worse = sum(low > 0 for _, low, _ in found)
        answers.append(
            f"{name} logs are better for {better} and worse for {worse} of {len(found)} learners"
        )
    return [*lines, "", f"Answer: {'; '.join(answers) or 'not tested'}."]


def _best_of_k(runs: Sequence[RunFacts]) -> list[str]:
    """Test claim 3: BC is hard to beat where few policies can be evaluated."""
    heads = " | ".join(f"k = {k}" for k in POLICY_COUNTS)
    lines = [
        "**3. BC is hard to beat at a small evaluation budget** (Kurenkov & Kolesnikov 2022, "
        "arXiv:2110.04156). Mean true return of BC, and how much better the best of k policies "
        "drawn from all other learners and seeds is than the best of k policies of BC; no interval "
        "where BC has fewer seeds than 4 or twice k:",
        "",
        f"| log | BC | {heads} |",
        f"|---|---|{'---|' * len(POLICY_COUNTS)}",
    ]
    answers = []
    for (log,), members in group_by(runs, "log").items():
        cloned = [run for run in members if run["solver"] == "bc"]
        others = [run for run in members if run["solver"] != "bc"]
        if not cloned or not others:
            continue
        found = {
            k: best_of_k_difference(others, cloned, k) for k in POLICY_COUNTS if k <= len(cloned)
        }
        row = [signed(found[k]) if k in found else "–" for k in POLICY_COUNTS]
        lines.append(f"| {log} | {true_returns(cloned).mean():.3f} | {' | '.join(row)} |")
        answers.append(f"{log}: {_answer_best_of_k(found)}")
    return [*lines, "", f"Answer: {'; '.join(answers) or 'not tested'}."]


def _answer_best_of_k(found: dict[int, Estimate]) -> str:
    """Return in words for which k BC is beaten, and for which it is better."""
    beaten = [k for k, (_, low, _) in found.items() if low > 0]
    better = [k for k, (_, _, high) in found.items() if high < 0]
    parts = [
        f"BC is {result} for k = {', '.join(map(str, counts))}"
        for result, counts in (("beaten", beaten), ("better", better))
        if counts
    ]
    if parts:
        return " and ".join(parts)
    if any(math.isfinite(low) for _, low, _ in found.values()):
        return "no difference shown"
    return "not tested, too few seeds"


def _ranking(runs: Sequence[RunFacts]) -> list[str]:
    """Test claim 4: FQE ranks policies better than importance sampling."""
    by_log = {log: members for (log,), members in group_by(runs, "log").items()}
    compared = {log: members for log, members in by_log.items() if "wis" in _estimators(members)}
    differences = {log: _rank_difference(members) for log, members in compared.items()}
    lines = [
        "**4. FQE ranks policies better than importance sampling.** Spearman's rho with the true "
        "return over all candidate policies of a log, and the mean absolute error. `n_eff`: the "
        "median effective number of episodes behind importance sampling. Where no weight is left, "
        "WIS is the logged mean reward, so with `n_eff` near 0 it mostly is that:",
        "",
        "| log | policies | n_eff | FQE | DR | WIS | IS | FQE - WIS | error FQE | DR | WIS | IS |",
        "|" + "---|" * 12,
        *(_ranking_row(log, members, differences.get(log)) for log, members in by_log.items()),
    ]
    heads = [f"{name}@{k}" for name in ("FQE", "WIS") for k in REGRET_AT]
    lines += [
        "",
        "Regret@k: the highest true return minus the highest true return among the k policies with "
        "the highest",
        "estimates, over all candidates of a log, and, in the last two columns, over those of one "
        "training, which is",
        "how a policy is selected.",
        "",
        f"| log | {' | '.join(heads)} | FQE@1 in a run | WIS@1 in a run |",
        "|" + "---|" * (3 + len(heads)),
    ]
    lines += [_regret_row(log, members) for log, members in compared.items()]
    better = sum(low > 0 for _, low, _ in differences.values())
    worse = sum(high < 0 for _, _, high in differences.values())
    chosen = sum(
        regret(members, "fqe", 1) < regret(members, "wis", 1) for members in compared.values()
    )
    return [
        *lines,
        "",
        f"Answer: FQE ranks better than weighted importance sampling for {better} and worse for "
        f"{worse} of {len(compared)} logs; the policy with the highest FQE estimate is better than "
        f"the one with the highest WIS estimate for {chosen}.",
    ]


def _ranking_row(log: str, runs: Sequence[RunFacts], difference: Estimate | None) -> str:
    """Return the row of one log: rank correlations and errors of the estimators.

    `difference` is the rank correlation of FQE minus that of WIS, None without WIS.
    """
    known = _estimators(runs)
    true = candidate_values(runs, "true")
    ranks = [f"{rank_correlation(runs, key):.2f}" if key in known else "–" for key in ESTIMATORS]
    errors = [
        f"{np.abs(candidate_values(runs, key) - true).mean():.2f}" if key in known else "–"
        for key in ESTIMATORS
    ]
    effective = [run.get("ope/effective_episodes") for run in runs]
    size = "–" if None in effective else f"{np.median(np.array(effective, dtype=float)):.1f}"
    versus = "–" if difference is None else signed(difference, 2)
    return f"| {' | '.join([log, str(len(true)), size, *ranks, versus, *errors])} |"


def _regret_row(log: str, runs: Sequence[RunFacts]) -> str:
    """Return the row of one log: regrets over all candidates, then over those of one run."""
    values = [regret(runs, key, k) for key in ("fqe", "wis") for k in REGRET_AT]
    for key in ("fqe", "wis"):
        values.append(float(np.mean([regret([run], key, 1) for run in runs])))
    return f"| {log} | {' | '.join(f'{value:.2f}' for value in values)} |"


def _rank_difference(runs: Sequence[RunFacts]) -> Estimate:
    """Return the rank correlation of FQE minus that of WIS, with the bootstrap over runs."""
    return bootstrap(
        runs, lambda sample: rank_correlation(sample, "fqe") - rank_correlation(sample, "wis")
    )


def _estimators(runs: Sequence[RunFacts]) -> list[str]:
    """Return the estimators that all runs have."""
    return [key for key in ESTIMATORS if all(f"ope/{key}_of_candidates" in run for run in runs)]
