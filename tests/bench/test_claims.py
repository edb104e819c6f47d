"""The page on learning from logs: its statistics by hand, and that what was collected is kept."""

import json
import math
from itertools import combinations

import numpy as np
import pytest

from bench import claims
from bench.instance import read_json

RNG = np.random.default_rng


def run(solver="bc", log="cluster-small-mixed-v0", seed=0, true=-1.4, behaviour=-2.0, gaps=(0.1, 0.2), finished=1.0, **more):
    """An offline run as it is kept."""
    values = [true - 0.1, true]
    facts = {f"ope/{name}_of_candidates": values for name in claims.ESTIMATORS}
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
        assert claims.expected_best(values, budget) == pytest.approx(expected)
    assert claims.expected_best(values, 9) == -1.0


def test_an_improvement_is_relative_to_the_behaviour_and_has_an_interval_over_seeds():
    mean, low, high = claims.improvement([run(true=-1.0), run(true=-1.5)])
    assert mean == pytest.approx((50 + 25) / 2)
    half = 12.706 * np.std([50, 25], ddof=1) / math.sqrt(2)  # Student's t with one degree of freedom
    assert (low, high) == (pytest.approx(mean - half, rel=1e-4), pytest.approx(mean + half, rel=1e-4))
    assert claims.improvement([run(true=-1.0), run(true=-1.5)], tests=10)[1] < low
    assert math.isnan(claims.improvement([run()])[1])


def test_a_gap_that_is_missing_counts_in_full():
    assert claims.gaps([run(gaps=(None, 0.5))]).tolist() == [[1.0, 0.5]]
    mean, low, high = claims.spread([run(gaps=(0.1, 0.1)), run(gaps=(0.3, None))])
    assert mean == pytest.approx(0.375)
    assert high - mean == pytest.approx(mean - low) == pytest.approx(12.706 * 0.275, rel=1e-4)  # two seeds: 0.1 and 0.65


def test_ranks_know_a_good_estimator_from_a_bad_one_over_resampled_runs():
    rng = RNG(0)
    runs = []
    for seed in range(8):
        true = rng.random(5)
        of = {"true": true, "fqe": true + 0.1 * rng.random(5), "wis": rng.random(5), "is": np.zeros(5)}
        runs.append(run(seed=seed, **{f"ope/{name}_of_candidates": values.tolist() for name, values in of.items()}))
    assert claims.rank(runs, "fqe") > 0.9
    assert claims.rank(runs, "is") == 0.0
    value, low, high = claims.resampled(runs, lambda of: claims.rank(of, "fqe") - claims.rank(of, "wis"))
    assert 0 < low < value < high
    assert math.isnan(claims.resampled(runs[:2], lambda of: 0.0)[1])
    assert claims.regret(runs, "true", 1) == 0.0
    assert claims.regret(runs, "is", 1) == max(claims.of_candidates(runs, "true")) - claims.of_candidates(runs, "true")[0]


def some(solver, values):
    return [run(solver, seed=seed, true=true, label=solver) for seed, true in enumerate(values)]


def test_the_best_of_some_is_compared_with_as_many_of_behavioural_cloning():
    bc, others = [-2.0, -1.9, -2.1, -2.0, -1.95], [*some("cql", [-1.5, -1.4, -1.6]), *some("iql", [-3.0, -3.1, -2.9])]
    value, low, high = claims.advantage(others, some("bc", bc), 1)
    assert value == pytest.approx(np.mean([-1.5, -3.0]) - np.mean(bc))
    assert low < value < high < 0  # learners are what they are: only seeds are drawn again
    value, low, _ = claims.advantage(others, some("bc", bc), 2)
    pairs = list(combinations([-1.5, -1.4, -1.6, -3.0, -3.1, -2.9], 2))
    assert value == pytest.approx(np.mean([max(p) for p in pairs]) - np.mean([max(p) for p in combinations(bc, 2)]))
    assert low > 0
    assert math.isnan(claims.advantage(others, some("bc", bc), 4)[1])
    assert math.isnan(claims.advantage(others, some("bc", bc[:3]), 1)[1])


def test_the_best_of_some_favours_nobody_where_all_are_alike():
    rng, above, below = RNG(3), 0, 0
    for _ in range(60):
        others = [one for name in ("cql", "iql", "dqn") for one in some(name, rng.normal(size=5))]
        _, low, high = claims.advantage(others, some("bc", rng.normal(size=5)), 2)
        above, below = above + (low > 0), below + (high < 0)
    assert above <= 9
    assert below <= 9


def test_the_newest_of_equal_runs_counts_and_others_stay():
    old, new, other = run(true=-9.0, finished=1.0), run(true=-1.0, finished=2.0), run(seed=1)
    assert claims.merged([old, other], [new]) == claims.merged([new], [other, old])
    assert {one["ope/true"] for one in claims.merged([old, other], [new])} == {-1.0, -1.4}
    unlike = [run(**{key: "x"}) for key in ("logs/hash", "learning/selection", "learning/steps", "track", "split")]
    assert len(claims.merged([run()], unlike)) == 6
    assert len(claims.merged([run(settings="a")], [run(settings="b")])) == 2


def test_a_failure_is_forgotten_once_the_same_came_to_its_end():
    failed, other = ({**run(seed=seed, finished=1.0), "status": "failed", "gaps": []} for seed in (0, 1))
    for gone in ("logs/hash", "learning/selection"):
        failed.pop(gone, None)
    done = run(finished=2.0)
    assert claims.merged([failed, other], [done]) == claims.merged([failed, other, done], [])
    assert len(claims.merged([failed, other], [done])) == 2
    assert done in claims.merged([failed], [done])


def test_settings_are_told_apart_whatever_the_log():
    config = {"solver": {"alpha": 1.0, "logs": {"name": "a"}}, "budget": {"decisions": 10}, "seed": 0}
    other_log = {**config, "solver": {"alpha": 1.0, "logs": {"name": "b"}}, "seed": 1}
    assert claims.settings(config) == claims.settings(other_log)
    assert claims.settings({**config, "solver": {"alpha": 2.0}}) != claims.settings(config)
    assert claims.settings({**config, "budget": {"decisions": 20}}) != claims.settings(config)


def test_the_page_shows_every_cell_and_answers_each_claim():
    results = (("bc", -1.2, (0.1, 0.1)), ("cql", -1.1, (0.05, 0.06)), ("dqn", -4.0, (0.7, None)))
    runs = [
        run(solver, f"cluster-small-{log}-v0", seed, true - seed / 10, gaps=gaps)
        for seed in range(2)
        for log in ("expert", "noisy_expert", "mixed")
        for solver, true, gaps in results
    ]
    rule = {"dataset": "small", "split": "test", "solver": "best_rule", "seed": 0, "finished": 1.0, "gaps": [0.2, 0.2]}
    goals = {
        "learning/decisions_to_sjf": 5000,
        "learning/decisions_to_best_rule": None,
        "learning/decisions_to_nearly_final": 9000,
    }
    ppo = {**rule, "solver": "ppo_greedy", **goals}
    tuned = {**run("ppo_offline", true=0.0), **goals, "learning/decisions_to_best_rule": 0, "offline/learning/steps": 20}
    text = claims.page([*runs, rule, ppo, tuned], "the command")
    assert "| ppo_greedy | – | 1 | 5,000 | – | 9,000 | 20.0 |" in text
    assert "| ppo_offline | mixed | 1 | 5,000 | 0 | 9,000 |" in text
    assert "- ppo_offline after mixed: 0 decisions fewer than ppo_greedy to sjf" in text
    assert "to best_rule" not in text  # which the one from scratch never beat
    assert "from 18 runs" in text  # the policy that went on playing is no offline row
    assert "| dqn | 85.0 [85.0, 85.0] |" in text
    assert "ppo_offline:" not in text  # it had a log
    assert "without logs: best_rule: 20.0 (seeds: 1)" in text
    assert text.count("Gap less that of") == 2  # of what had no log
    assert "| cql | -14.5 [-14.5, -14.5] | -14.5 [-14.5, -14.5] | -14.5 [-14.5, -14.5] |" in text
    assert "- expert: 0 of 3 (); cql: 42.5" in text  # two seeds are few
    assert "noisy_expert: bc 0.0 [0.0, 0.0]" in text
    assert "| mixed | -1.250 |" in text
    assert "| mixed | 12 | – |" in text
    assert text.count("Answer:") == 4


def test_unlike_problems_have_sections_of_their_own_and_oracles_are_marked():
    schedule, online = run(gaps=(0.1, 0.1)), run(gaps=(0.5, 0.5), track="online", observe="arrived")
    oracle = run(gaps=(0.05, 0.05), true=-0.1, **{"learning/selection": "oracle"})
    text = claims.page([schedule, online, oracle, run(split="validation", gaps=(0.2, 0.2, 0.2))], "the command")
    assert text.index("## small\n") > 0
    assert "## small track=online" in text
    assert "## small split=validation" in text
    assert "| bc | 10.0 |" in text
    assert "| bc | 50.0 |" in text
    assert "| bc (oracle) | 5.0 |" in text
    assert "-0.100" not in text.split("Four claims, on small\n")[1]  # the oracle's return plays no part


def test_failed_runs_and_several_settings_are_shown():
    failed = {"dataset": "small", "split": "test", "solver": "sac", "seed": 0, "status": "failed", "gaps": [], "finished": 1.0}
    failed |= {"logs/name": "cluster-small-mixed-v0"}
    runs = [
        run(),
        run(seed=1),
        run("sac", seed=1),
        failed,
        run("cql", settings="aa"),
        run("cql", settings="bb", gaps=(0.3, 0.3)),
    ]
    alone = {**failed, "logs/name": "cluster-small-expert-v0"}
    unseen = {"dataset": "large", "split": "test", "solver": "sjf", "seed": 0, "gaps": [0.1], "finished": 1.0}
    text = claims.page([*runs, alone, unseen], "the command")
    assert "| sac | 15.0 (1 failed) | (1 failed) |" in text
    assert "| cql #aa | 15.0 |" in text
    assert "| cql #bb | 30.0 |" in text
    assert "and so not shown: sjf on large." in text


def test_what_was_collected_is_kept_in_the_data_file(tmp_path, capsys):
    data, page = tmp_path / "offline.json.gz", tmp_path / "offline.md"
    empty = ["--runs", str(tmp_path / "none"), "--data", str(data), "--page", str(page)]
    assert claims.main(empty) == 2
    assert "no finished run that learnt from logs" in capsys.readouterr().err
    from bench.instance import write_json

    write_json(data, [run(), run(seed=1)])
    assert claims.main(empty) == 0
    assert read_json(data) == [run(), run(seed=1)]
    assert "from 2 runs" in page.read_text()
    assert json.dumps(read_json(data))


def test_runs_are_read_as_the_suite_writes_them(tmp_path):
    import pandas

    folder = tmp_path / "small" / "bc-s0-x"
    folder.mkdir(parents=True)
    record = {"status": "finished", "solver": "bc", "dataset": "small", "seed": 0, "ope/true": -1.0, "hardware": {"cpu": "x"}}
    (folder / "result.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text("solver: {alpha: 1.0, logs: {name: some-v0}}\nbudget: {decisions: 10}\nseed: 0\n")
    pandas.DataFrame({"gap": [0.25, None]}).to_parquet(folder / "instances.parquet")
    (found,) = claims.collect(tmp_path)
    assert found["gaps"] == [0.25, None]
    assert found["ope/true"] == -1.0
    assert len(found["settings"]) == 8
    assert "hardware" not in found
    (folder / "result.json").write_text(json.dumps({**record, "status": "failed"}))
    (folder / "instances.parquet").unlink()
    (failed,) = claims.collect(tmp_path)
    assert (failed["status"], failed["logs/name"], failed["gaps"]) == ("failed", "some-v0", [])
