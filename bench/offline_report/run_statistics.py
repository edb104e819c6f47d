"""Statistics of runs for the offline evaluation report.

Intervals have a confidence level of 95 %, and seeds are the sample: a seed is one policy, which is
good or bad on all instances at the same time. Means and differences use Student's and Welch's t,
the best of k policies the standard error of the bootstrap, rank correlations the bootstrap over
runs (the candidate policies of one run are alike).

Notation: S runs (seeds), I instances, C candidate policies.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.analysis import ope_metrics, stats
from bench.offline_report.runs import RunFacts, group_by

DRAWS = 500  # bootstrap samples

Floats = NDArray[np.float64]
Estimate = tuple[float, float, float]  # (value, low, high); low and high are NaN without interval


def gaps(runs: Sequence[RunFacts]) -> Floats:
    """Return the gaps (S, I) to the best known bound; a missing gap counts as 100 %."""
    return np.array([[1.0 if value is None else value for value in run["gaps"]] for run in runs])


def mean_gap(runs: Sequence[RunFacts]) -> Estimate:
    """Return the mean gap; no interval with one seed."""
    return stats.student_interval(gaps(runs))


def gap_difference(
    ours: Sequence[RunFacts], theirs: Sequence[RunFacts], level: float = 0.95
) -> Estimate:
    """Return the mean gap of `ours` minus that of `theirs` on the same instances.

    No interval where one of them is a learner with one seed.
    """
    found = stats.paired_difference(gaps(ours), gaps(theirs), level)
    single_seed = any(
        len(runs) == 1 and any(key.startswith("learning/") for key in runs[0])
        for runs in (ours, theirs)
    )
    return (found[0], math.nan, math.nan) if single_seed else found


def improvement(runs: Sequence[RunFacts], tests: int = 1) -> Estimate:
    """Return how much better the selected policies are than their behaviour policy.

    Parameters
    ----------
    runs
        Seeds of one learner on one log.
    tests
        Number of tests that the level is corrected for (Bonferroni): it is 1 - 0.05 / `tests`.

    Returns
    -------
    Estimate
        The difference of true returns on the held-out instances, in % of the return of the
        behaviour policy; no interval with one seed.
    """
    behaviour = np.array([run["logs/held_out_return"] for run in runs])
    percent = 100 * (true_returns(runs) - behaviour) / np.abs(behaviour)
    return stats.student_interval(percent[:, None], 1 - 0.05 / tests)


def true_returns(runs: Sequence[RunFacts]) -> Floats:
    """Return the mean true returns (S,) of the selected policies on the held-out instances."""
    return np.array([run["ope/true"] for run in runs])


def expected_best(values: Floats, k: int) -> float:
    """Return the expected maximum of k of `values`, drawn without replacement.

    Kurenkov & Kolesnikov 2022, "Showing Your Offline Reinforcement Learning Work",
    arXiv:2110.04156.
    """
    n = len(values)
    return float(np.dot(_chances_of_maximum(n, min(k, n)), np.sort(values)))


@functools.cache
def _chances_of_maximum(n: int, k: int) -> Floats:
    """Return (n,) the probability that the i-th smallest of n values is the maximum of k."""
    return np.array([math.comb(i, k - 1) / math.comb(n, k) for i in range(n)])


def best_of_k_difference(others: Sequence[RunFacts], own: Sequence[RunFacts], k: int) -> Estimate:
    """Return the best true return of k policies of `others` minus that of k policies of `own`.

    Both are expectations over the choice of the policies (`expected_best`). The interval uses the
    standard error of the bootstrap within each learner, and Student's t with the seeds of `own`.

    Returns
    -------
    Estimate
        No interval where `own` has fewer than 4 seeds or fewer than 2 * k: the best of k is then
        nearly the best of all, whose variance resampling cannot estimate.
    """
    from scipy.stats import t

    learners = [true_returns(runs) for runs in group_by(others, "label").values()]
    own_returns = true_returns(own)
    rng = np.random.default_rng(0)
    value = expected_best(np.concatenate(learners), k) - expected_best(own_returns, k)
    if len(own_returns) < 2 * max(k, 2):
        return value, math.nan, math.nan
    drawn = []
    for _ in range(DRAWS):
        own_sample, *other_samples = (
            values[rng.integers(len(values), size=len(values))]
            for values in (own_returns, *learners)
        )
        best = expected_best(np.concatenate(other_samples), k)
        drawn.append(best - expected_best(own_sample, k))
    half = float(t.ppf(0.975, len(own_returns) - 1) * np.std(drawn, ddof=1))
    return value, value - half, value + half


def bootstrap(
    runs: Sequence[RunFacts], statistic: Callable[[Sequence[RunFacts]], float]
) -> Estimate:
    """Return a statistic of runs with the percentile bootstrap over runs.

    No interval with fewer than three runs.
    """
    value = statistic(runs)
    rng = np.random.default_rng(0)
    if len(runs) < 3:
        return value, math.nan, math.nan
    drawn = [
        statistic([runs[i] for i in rng.integers(len(runs), size=len(runs))]) for _ in range(DRAWS)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return value, low, high


def rank_correlation(runs: Sequence[RunFacts], estimator: str) -> float:
    """Return Spearman's rho of an estimator with the true return over all candidate policies.

    0 where the estimator gives all of them the same value.
    """
    estimate = candidate_values(runs, estimator)
    rho = ope_metrics.rank_correlation(estimate, candidate_values(runs, "true"))
    return float(np.nan_to_num(rho))


def regret(runs: Sequence[RunFacts], estimator: str, k: int) -> float:
    """Return regret@k of an estimator over all candidate policies of the runs."""
    estimate = candidate_values(runs, estimator)
    return ope_metrics.regret(estimate, candidate_values(runs, "true"), k)


def candidate_values(runs: Sequence[RunFacts], name: str) -> Floats:
    """Return an estimate, or the `true` return, of all candidate policies of the runs (C,)."""
    return np.concatenate([run[f"ope/{name}_of_candidates"] for run in runs])
