"""Statistics of runs agree with calculations by hand."""

import math
from itertools import combinations

import numpy as np
import pytest

from bench.offline_report import run_statistics
from bench.offline_report.run_statistics import (
    best_of_k_difference,
    bootstrap,
    candidate_values,
    expected_best,
    gap_difference,
    gaps,
    improvement,
    mean_gap,
    rank_correlation,
    regret,
)
from tests.bench.offline_report.sample import sample_run

T_1 = 12.706  # 97.5 % quantile of Student's t with one degree of freedom


def test_expected_best_is_the_mean_over_all_choices():
    values = np.array([-3.0, -1.0, -2.0, -7.0, -5.0])
    for k in (1, 2, 3, 5):
        expected = np.mean([max(some) for some in combinations(values, k)])
        assert expected_best(values, k) == pytest.approx(expected)
    assert expected_best(values, 9) == -1.0


def test_improvement_is_relative_to_the_behaviour_policy():
    runs = [sample_run(true=-1.0), sample_run(true=-1.5)]
    mean, low, high = improvement(runs)
    assert mean == pytest.approx((50 + 25) / 2)
    half = T_1 * np.std([50, 25], ddof=1) / math.sqrt(2)
    assert low == pytest.approx(mean - half, rel=1e-4)
    assert high == pytest.approx(mean + half, rel=1e-4)
    assert improvement(runs, tests=10)[1] < low
    assert math.isnan(improvement([sample_run()])[1])


def test_a_missing_gap_counts_as_100_percent():
    assert gaps([sample_run(gaps=(None, 0.5))]).tolist() == [[1.0, 0.5]]
    mean, low, high = mean_gap([sample_run(gaps=(0.1, 0.1)), sample_run(gaps=(0.3, None))])
    assert mean == pytest.approx(0.375)
    half = T_1 * 0.275  # the means of the seeds are 0.1 and 0.65
    assert high - mean == pytest.approx(half, rel=1e-4)
    assert mean - low == pytest.approx(half, rel=1e-4)


def test_rank_correlations_separate_good_and_bad_estimators():
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(8):
        true = rng.random(5)
        candidates = {
            "true": true,
            "fqe": true + 0.1 * rng.random(5),
            "wis": rng.random(5),
            "is": np.zeros(5),
        }
        columns = {
            f"ope/{name}_of_candidates": values.tolist() for name, values in candidates.items()
        }
        runs.append(sample_run(seed=seed, **columns))
    assert rank_correlation(runs, "fqe") > 0.9
    assert rank_correlation(runs, "is") == 0.0

    def difference(sample):
        return rank_correlation(sample, "fqe") - rank_correlation(sample, "wis")

    value, low, high = bootstrap(runs, difference)
    assert 0 < low < value < high
    assert math.isnan(bootstrap(runs[:2], lambda sample: 0.0)[1])
    assert regret(runs, "true", 1) == 0.0
    true = candidate_values(runs, "true")
    assert regret(runs, "is", 1) == max(true) - true[0]


def seeds_of(solver, values):
    return [
        sample_run(solver, seed=seed, true=true, label=solver) for seed, true in enumerate(values)
    ]


def test_best_of_k_is_compared_with_as_many_of_behavioural_cloning():
    bc = [-2.0, -1.9, -2.1, -2.0, -1.95]
    others = [*seeds_of("cql", [-1.5, -1.4, -1.6]), *seeds_of("iql", [-3.0, -3.1, -2.9])]
    value, low, high = best_of_k_difference(others, seeds_of("bc", bc), 1)
    assert value == pytest.approx(np.mean([-1.5, -3.0]) - np.mean(bc))
    assert low < value < high < 0  # seeds are resampled within each learner
    value, low, _ = best_of_k_difference(others, seeds_of("bc", bc), 2)
    pairs = combinations([-1.5, -1.4, -1.6, -3.0, -3.1, -2.9], 2)
    own_pairs = combinations(bc, 2)
    expected = np.mean([max(p) for p in pairs]) - np.mean([max(p) for p in own_pairs])
    assert value == pytest.approx(expected)
    assert low > 0
    assert math.isnan(best_of_k_difference(others, seeds_of("bc", bc), 4)[1])
    assert math.isnan(best_of_k_difference(others, seeds_of("bc", bc[:3]), 1)[1])


def test_best_of_k_shows_no_difference_where_there_is_none(monkeypatch):
    monkeypatch.setattr(run_statistics, "DRAWS", 100)
    rng = np.random.default_rng(3)
    above = 0
    below = 0
    for _ in range(60):
        others = [
            run for name in ("cql", "iql", "dqn") for run in seeds_of(name, rng.normal(size=5))
        ]
        _, low, high = best_of_k_difference(others, seeds_of("bc", rng.normal(size=5)), 2)
        above += low > 0
        below += high < 0
    assert above <= 9
    assert below <= 9


def test_differences_with_one_seed_of_a_learner_have_no_interval():
    learner = {"learning/steps": 10}
    rule = {"gaps": [0.3, 0.3], "solver": "best_rule"}
    seeds = [sample_run(seed=seed, gaps=(0.1 + seed / 10, 0.1)) for seed in range(3)]
    value, low, high = gap_difference(seeds, [rule])
    assert value == pytest.approx(-0.15)
    assert low < value < high
    assert math.isnan(gap_difference(seeds, [{**rule, **learner}])[1])
    assert math.isnan(gap_difference([{**seeds[0], **learner}], seeds)[1])
