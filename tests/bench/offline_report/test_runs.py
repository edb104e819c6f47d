"""Runs that learnt from logs: told apart, and their statistics by hand."""

import json
import math
from itertools import combinations

import numpy as np
import pytest

from bench.offline_report import runs as offline_runs

RNG = np.random.default_rng


def run(
    solver="bc",
    log="cluster-small-mixed-v0",
    seed=0,
    true=-1.4,
    behaviour=-2.0,
    gaps=(0.1, 0.2),
    finished=1.0,
    **more,
):
    """An offline run as it is kept."""
    values = [true - 0.1, true]
    facts = {f"ope/{name}_of_candidates": values for name in ("fqe", "dr", "wis", "is")}
    return {
        "dataset": "small", "split": "test", "solver": solver, "ope/fqe": true, "seed": seed, "finished": finished,
        "gaps": list(gaps), "logs/name": log,
        "logs/episodes": 10, "logs/decisions": 100, "logs/return": behaviour, "logs/best_behaviour_return": behaviour,
        "logs/hash": "0" * 64, "logs/held_out_return": behaviour, "ope/true": true, "ope/true_of_candidates": values,
        **facts, **more,
    }  # fmt: skip


def test_the_best_of_some_is_the_mean_over_all_choices():
    values = np.array([-3.0, -1.0, -2.0, -7.0, -5.0])
    for budget in (1, 2, 3, 5):
        expected = np.mean([max(some) for some in combinations(values, budget)])
        assert offline_runs.expected_best(values, budget) == pytest.approx(expected)
    assert offline_runs.expected_best(values, 9) == -1.0


def test_an_improvement_is_relative_to_the_behaviour_and_has_an_interval_over_seeds():
    mean, low, high = offline_runs.improvement([run(true=-1.0), run(true=-1.5)])
    assert mean == pytest.approx((50 + 25) / 2)
    half = (
        12.706 * np.std([50, 25], ddof=1) / math.sqrt(2)
    )  # Student's t with one degree of freedom
    assert (low, high) == (
        pytest.approx(mean - half, rel=1e-4),
        pytest.approx(mean + half, rel=1e-4),
    )
    assert offline_runs.improvement([run(true=-1.0), run(true=-1.5)], tests=10)[1] < low
    assert math.isnan(offline_runs.improvement([run()])[1])


def test_a_gap_that_is_missing_counts_in_full():
    assert offline_runs.gaps([run(gaps=(None, 0.5))]).tolist() == [[1.0, 0.5]]
    mean, low, high = offline_runs.spread([run(gaps=(0.1, 0.1)), run(gaps=(0.3, None))])
    assert mean == pytest.approx(0.375)
    assert (
        high - mean == pytest.approx(mean - low) == pytest.approx(12.706 * 0.275, rel=1e-4)
    )  # two seeds: 0.1 and 0.65


def test_ranks_know_a_good_estimator_from_a_bad_one_over_resampled_runs():
    rng = RNG(0)
    runs = []
    for seed in range(8):
        true = rng.random(5)
        of = {
            "true": true,
            "fqe": true + 0.1 * rng.random(5),
            "wis": rng.random(5),
            "is": np.zeros(5),
        }
        runs.append(
            run(
                seed=seed,
                **{f"ope/{name}_of_candidates": values.tolist() for name, values in of.items()},
            )
        )
    assert offline_runs.rank(runs, "fqe") > 0.9
    assert offline_runs.rank(runs, "is") == 0.0
    value, low, high = offline_runs.resampled(
        runs, lambda of: offline_runs.rank(of, "fqe") - offline_runs.rank(of, "wis")
    )
    assert 0 < low < value < high
    assert math.isnan(offline_runs.resampled(runs[:2], lambda of: 0.0)[1])
    assert offline_runs.regret(runs, "true", 1) == 0.0
    assert (
        offline_runs.regret(runs, "is", 1)
        == max(offline_runs.of_candidates(runs, "true"))
        - offline_runs.of_candidates(runs, "true")[0]
    )


def some(solver, values):
    return [run(solver, seed=seed, true=true, label=solver) for seed, true in enumerate(values)]


def test_the_best_of_some_is_compared_with_as_many_of_behavioural_cloning():
    bc, others = (
        [-2.0, -1.9, -2.1, -2.0, -1.95],
        [*some("cql", [-1.5, -1.4, -1.6]), *some("iql", [-3.0, -3.1, -2.9])],
    )
    value, low, high = offline_runs.advantage(others, some("bc", bc), 1)
    assert value == pytest.approx(np.mean([-1.5, -3.0]) - np.mean(bc))
    assert low < value < high < 0  # learners are what they are: only seeds are drawn again
    value, low, _ = offline_runs.advantage(others, some("bc", bc), 2)
    pairs = list(combinations([-1.5, -1.4, -1.6, -3.0, -3.1, -2.9], 2))
    assert value == pytest.approx(
        np.mean([max(p) for p in pairs]) - np.mean([max(p) for p in combinations(bc, 2)])
    )
    assert low > 0
    assert math.isnan(offline_runs.advantage(others, some("bc", bc), 4)[1])
    assert math.isnan(offline_runs.advantage(others, some("bc", bc[:3]), 1)[1])


def test_the_best_of_some_favours_nobody_where_all_are_alike():
    rng, above, below = RNG(3), 0, 0
    for _ in range(60):
        others = [one for name in ("cql", "iql", "dqn") for one in some(name, rng.normal(size=5))]
        _, low, high = offline_runs.advantage(others, some("bc", rng.normal(size=5)), 2)
        above, below = above + (low > 0), below + (high < 0)
    assert above <= 9
    assert below <= 9


def test_the_newest_of_equal_runs_counts_and_others_stay():
    old, new, other = run(true=-9.0, finished=1.0), run(true=-1.0, finished=2.0), run(seed=1)
    assert offline_runs.merged([old, other], [new]) == offline_runs.merged([new], [other, old])
    assert {one["ope/true"] for one in offline_runs.merged([old, other], [new])} == {-1.0, -1.4}
    unlike = [
        run(**{key: "x"})
        for key in ("logs/hash", "learning/selection", "learning/steps", "track", "split")
    ]
    assert len(offline_runs.merged([run()], unlike)) == 6
    assert len(offline_runs.merged([run(settings="a")], [run(settings="b")])) == 2


def test_a_failure_is_forgotten_once_the_same_came_to_its_end():
    failed, other = (
        {**run(seed=seed, finished=1.0), "status": "failed", "gaps": []} for seed in (0, 1)
    )
    for gone in ("logs/hash", "learning/selection"):
        failed.pop(gone, None)
    done = run(finished=2.0)
    assert offline_runs.merged([failed, other], [done]) == offline_runs.merged(
        [failed, other, done], []
    )
    assert len(offline_runs.merged([failed, other], [done])) == 2
    assert done in offline_runs.merged([failed], [done])
    assert offline_runs.merged([done], [{**failed, "finished": 3.0}]) == [done]


def test_policies_chosen_by_true_return_are_marked_wherever_they_went_on():
    runs = [
        run(**{"learning/selection": "oracle"}),
        run("ppo_offline", **{"offline/learning/selection": "oracle"}),
        run("dqn"),
    ]
    assert [one["label"] for one in offline_runs.labelled(runs)] == [
        "bc (oracle)",
        "ppo_offline (oracle)",
        "dqn",
    ]


def test_a_learner_with_one_seed_gives_no_interval_and_a_rule_does():
    learner, rule = {"learning/steps": 10}, {"gaps": [0.3, 0.3], "solver": "best_rule"}
    seeds = [run(seed=seed, gaps=(0.1 + seed / 10, 0.1)) for seed in range(3)]
    assert offline_runs.difference(seeds, [rule])[0] == pytest.approx(-0.15)
    assert math.isfinite(offline_runs.difference(seeds, [rule])[1])
    assert math.isnan(offline_runs.difference(seeds, [{**rule, **learner}])[1])
    assert math.isnan(offline_runs.difference([{**seeds[0], **learner}], seeds)[1])


def test_settings_are_told_apart_whatever_the_log():
    config = {
        "solver": {"alpha": 1.0, "logs": {"name": "a"}},
        "budget": {"decisions": 10},
        "seed": 0,
    }
    other_log = {**config, "solver": {"alpha": 1.0, "logs": {"name": "b"}}, "seed": 1}
    assert offline_runs.settings(config) == offline_runs.settings(other_log)
    assert offline_runs.settings({**config, "solver": {"alpha": 2.0}}) != offline_runs.settings(
        config
    )
    assert offline_runs.settings({**config, "budget": {"decisions": 20}}) != offline_runs.settings(
        config
    )


def test_runs_are_read_as_the_suite_writes_them(tmp_path):
    import pandas

    folder = tmp_path / "small" / "bc-s0-x"
    folder.mkdir(parents=True)
    record = {
        "status": "finished",
        "solver": "bc",
        "dataset": "small",
        "seed": 0,
        "ope/true": -1.0,
        "hardware": {"cpu": "x"},
    }
    (folder / "result.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text(
        "solver: {alpha: 1.0, logs: {name: some-v0}}\nbudget: {decisions: 10}\nseed: 0\n"
    )
    pandas.DataFrame({"gap": [0.25, None]}).to_parquet(folder / "instances.parquet")
    (found,) = offline_runs.collect(tmp_path)
    assert found["gaps"] == [0.25, None]
    assert found["ope/true"] == -1.0
    assert len(found["settings"]) == 8
    assert "hardware" not in found
    (folder / "result.json").write_text(json.dumps({**record, "status": "failed"}))
    (folder / "instances.parquet").unlink()
    (failed,) = offline_runs.collect(tmp_path)
    assert (failed["status"], failed["logs/name"], failed["gaps"]) == ("failed", "some-v0", [])
    (folder / "config.yaml").write_text(
        "solver: {offline: {logs: {name: some-v0}}, online: {start: a/policy.pt}}\nseed: 0\n"
    )
    assert offline_runs.collect(tmp_path)[0]["policy"] == "a/policy.pt"
