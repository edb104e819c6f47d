"""The page on learning from logs: that it shows every cell and answers every claim, and that what was collected is kept."""

import json

from bench.instance import read_json, write_json
from bench.offline_report import page as claims
from tests.bench.offline_report.test_runs import run


def test_the_page_shows_every_cell_and_answers_each_claim():
    results = (("bc", -1.2, (0.1, 0.1)), ("cql", -1.1, (0.05, 0.06)), ("dqn", -4.0, (0.7, None)))
    runs = [
        run(solver, f"cluster-small-{log}-v0", seed, true - seed / 10, gaps=gaps)
        for seed in range(2)
        for log in ("expert", "noisy_expert", "mixed")
        for solver, true, gaps in results
    ]
    rule = {
        "dataset": "small",
        "split": "test",
        "solver": "best_rule",
        "seed": 0,
        "finished": 1.0,
        "gaps": [0.2, 0.2],
    }
    goals = {
        "learning/decisions_to_sjf": 5000,
        "learning/decisions_to_best_rule": None,
        "learning/decisions_to_nearly_final": 9000,
    }
    ppo = {**rule, "solver": "ppo_greedy", **goals}
    tuned = {
        **run("ppo_offline", true=0.0),
        **goals,
        "learning/decisions_to_best_rule": 0,
        "offline/learning/steps": 20,
    }
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
    text = claims.page(
        [schedule, online, oracle, run(split="validation", gaps=(0.2, 0.2, 0.2))], "the command"
    )
    assert text.index("## small\n") > 0
    assert "## small track=online" in text
    assert "## small split=validation" in text
    assert "| bc | 10.0 |" in text
    assert "| bc | 50.0 |" in text
    assert "| bc (oracle) | 5.0 |" in text
    assert (
        "-0.100" not in text.split("Four claims, on small\n")[1]
    )  # the oracle's return plays no part


def test_failed_runs_and_several_settings_are_shown():
    failed = {
        "dataset": "small",
        "split": "test",
        "solver": "sac",
        "seed": 0,
        "status": "failed",
        "gaps": [],
        "finished": 1.0,
    }
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
    unseen = {
        "dataset": "large",
        "split": "test",
        "solver": "sjf",
        "seed": 0,
        "gaps": [0.1],
        "finished": 1.0,
    }
    text = claims.page([*runs, alone, unseen], "the command")
    assert "| sac | 15.0 (1 failed) | (1 failed) |" in text
    assert "| cql #aa | 15.0 |" in text
    assert "| cql #bb | 30.0 |" in text
    assert "have no finished run on a log beside them: sjf on large." in text


def test_what_is_not_shown_is_said():
    started = run("ppo_greedy", policy="bc/policy.pt")
    del started["logs/name"], started["logs/hash"]
    failed = {
        "dataset": "small",
        "split": "test",
        "solver": "ppo_greedy",
        "seed": 0,
        "status": "failed",
        "gaps": [],
    }
    text = claims.page([run(), started, failed], "the command")
    assert "without logs" not in text
    assert "ppo_greedy on small (from bc/policy.pt); ppo_greedy on small (failed)." in text


def test_recordings_of_one_name_are_columns_of_their_own():
    text = claims.page(
        [run(), run(seed=1), run(gaps=(0.5, 0.5), **{"logs/hash": "1" * 64})], "the command"
    )
    assert "| learner | mixed #00000000 | mixed #11111111 |" in text
    assert "| bc | 15.0 [15.0, 15.0] | 50.0 |" in text
    both = [run(), run(seed=1), run(log="cluster-medium-mixed-v0", status="failed", gaps=())]
    del both[-1]["logs/hash"]  # which a failure does not know
    text = claims.page(both, "the command")
    assert "| learner | cluster-small-mixed-v0 | cluster-medium-mixed-v0 |" in text
    assert "| bc | 15.0 [15.0, 15.0] | (1 failed) |" in text


def test_experts_are_experts_whatever_their_recording():
    seeds = [
        run(log=f"cluster-small-{grade}-v0", seed=seed)
        for grade in ("expert", "random")
        for seed in range(2)
    ]
    again = [
        {**one, "logs/hash": "1" * 64, "gaps": [0.3, 0.3]}
        for one in seeds
        if "expert" in one["logs/name"]
    ]
    assert "- random: bc -7.5 [" in claims.page([*seeds, *again], "the command")


def test_missing_gaps_and_learners_of_one_seed_are_told():
    alone = {
        **run("ppo_greedy"),
        "learning/decisions_to_sjf": 1,
        "learning/decisions_to_best_rule": 1,
    }
    alone |= {"learning/decisions_to_nearly_final": 1}
    del alone["logs/name"], alone["logs/hash"]
    text = claims.page([run(), run(seed=1, gaps=(None, 0.3)), alone], "the command")
    assert "1 of 6 gaps are missing" in text
    assert "| bc | 25.0 |" in text  # beside one policy: no interval
    assert "gaps are missing" not in claims.page([run()], "the command")


def test_small_budgets_are_not_tested_with_few_seeds():
    few = [run(solver, seed=seed, true=-1 - seed) for seed in range(3) for solver in ("bc", "cql")]
    assert "Answer: mixed: not tested, too few seeds." in claims.page(few, "the command")
    more = [run(solver, seed=seed, true=-1 - seed) for seed in range(5) for solver in ("bc", "cql")]
    assert "Answer: mixed: no difference shown." in claims.page(more, "the command")


def test_what_was_collected_is_kept_in_the_data_file(tmp_path, capsys):
    data, page = tmp_path / "offline.json.gz", tmp_path / "offline.md"
    empty = ["--runs", str(tmp_path / "none"), "--data", str(data), "--page", str(page)]
    assert claims.main(empty) == 2
    assert "no finished run that learnt from logs" in capsys.readouterr().err
    write_json(data, [run(), run(seed=1)])
    assert claims.main(empty) == 0
    assert read_json(data) == [run(), run(seed=1)]
    assert "from 2 runs" in page.read_text()
    assert json.dumps(read_json(data))
