"""The page shows every cell, separates problems and recordings, and answers every claim."""

import pytest

from bench.offline_report import run_statistics
from bench.offline_report.page import page
from tests.bench.offline_report.sample import (
    decisions_to,
    failed_run,
    run_without_log,
    sample_run,
)


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """Draw few bootstrap samples: these tests do not look at the widths of intervals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_statistics, "DRAWS", 50)
        yield


def text_of(*runs):
    return page(runs, "the command")


@pytest.fixture(scope="module")
def full_page(few_draws):
    """A page of three learners on three logs with two seeds, a rule and two online learners."""
    results = (("bc", -1.2, (0.1, 0.1)), ("cql", -1.1, (0.05, 0.06)), ("dqn", -4.0, (0.7, None)))
    offline = [
        sample_run(solver, f"cluster-small-{log}-v0", seed, true - seed / 10, gaps=gaps)
        for seed in range(2)
        for log in ("expert", "noisy_expert", "mixed")
        for solver, true, gaps in results
    ]
    scratch = run_without_log("ppo_greedy", **decisions_to(5000, None, 9000))
    pretrained = sample_run(
        "ppo_offline",
        true=0.0,
        **{**decisions_to(5000, 0, 9000), "offline/learning/steps": 20},
    )
    return text_of(*offline, run_without_log(), scratch, pretrained)


def test_offline_runs_have_a_cell_each(full_page):
    assert "from 18 runs" in full_page  # the pretrained online learner is not an offline run
    assert "| dqn | 85.0 [85.0, 85.0] |" in full_page
    assert (
        "| cql | -14.5 [-14.5, -14.5] | -14.5 [-14.5, -14.5] | -14.5 [-14.5, -14.5] |" in full_page
    )
    assert "without logs: best_rule: 20.0 (seeds: 1)" in full_page
    assert "without logs: ppo_greedy: 20.0 (seeds: 1)" in full_page
    assert "without logs: ppo_offline" not in full_page
    assert full_page.count("Gap minus that of") == 2  # of the runs without logs


def test_online_learners_are_shown_with_their_training_cost(full_page):
    assert "| ppo_greedy | – | 1 | 5,000 | – | 9,000 | 20.0 |" in full_page
    assert "| ppo_offline | mixed | 1 | 5,000 | 0 | 9,000 |" in full_page
    assert "- ppo_offline after mixed: 0 decisions fewer than ppo_greedy to sjf" in full_page
    assert "to best_rule" not in full_page  # ppo_greedy never was better than the best rule


def test_every_claim_is_answered(full_page):
    assert "- expert: 0 of 3 (); cql: 42.5" in full_page  # too few seeds
    assert "noisy_expert: bc 0.0 [0.0, 0.0]" in full_page
    assert "| mixed | -1.250 |" in full_page
    assert "| mixed | 12 | – |" in full_page
    assert full_page.count("Answer:") == 4


def test_problems_have_sections_of_their_own():
    text = text_of(
        sample_run(gaps=(0.12, 0.12)),
        sample_run(gaps=(0.52, 0.52), track="online", observe="arrived"),
        sample_run(split="validation", gaps=(0.22, 0.22, 0.22)),
        sample_run(event_order="sequential", gaps=(0.33, 0.33)),
        sample_run("cql", event_order="sequential", gaps=(0.44, 0.44)),
    )
    assert text.index("## small event_order=sequential\n") < text.index("## small\n")
    assert "## small track=online" in text
    assert "## small split=validation" in text
    for cell in ("| bc | 12.0 |", "| bc | 52.0 |", "| bc | 22.0 |", "| bc | 33.0 |"):
        assert text.count(cell) == 1


def test_oracles_are_marked_and_do_not_count_in_the_claims():
    oracle = sample_run(gaps=(0.05, 0.05), true=-0.1, **{"learning/selection": "oracle"})
    text = text_of(sample_run(), oracle, sample_run("cql"))
    assert "| bc (oracle) | 5.0 |" in text
    claims = text.split("Four claims, on small\n")[1]
    assert "oracle" not in claims
    assert "| mixed | -1.400 |" in claims  # the mean return of BC
    assert "| mixed | 4 |" in claims  # the candidate policies
    alone = text_of(oracle).split("Four claims, on small\n")[1]
    assert "none of the claims can be tested" in alone
    assert "Answer:" not in alone


def test_one_seed_does_not_answer_whether_random_logs_are_better():
    logs = [f"cluster-small-{grade}-v0" for grade in ("expert", "random")]
    text = text_of(*(sample_run(log=log, **{"learning/steps": 10}) for log in logs))
    assert "Answer: random logs: not tested, one seed has no interval." in text
    assert "better for 0 and worse for 0" not in text.split("**2.")[1].split("**3.")[0]


def test_failed_runs_and_several_settings_are_shown():
    text = text_of(
        sample_run(),
        sample_run(seed=1),
        sample_run("sac", seed=1),
        failed_run("sac", "cluster-small-mixed-v0"),
        sample_run("cql", settings="aa"),
        sample_run("cql", settings="bb", gaps=(0.3, 0.3)),
        failed_run("sac", "cluster-small-expert-v0"),
        {**run_without_log("sjf"), "dataset": "large"},
    )
    assert "| sac | 15.0 (1 failed) | (1 failed) |" in text
    assert "| cql #aa | 15.0 |" in text
    assert "| cql #bb | 30.0 |" in text
    assert "have no finished run on a log beside them: sjf on large." in text


def test_runs_that_are_not_shown_are_named():
    started = run_without_log("ppo_greedy", policy="bc/policy.pt")
    text = text_of(sample_run(), started, failed_run("ppo_greedy"))
    assert "without logs" not in text
    assert "ppo_greedy on small (from bc/policy.pt); ppo_greedy on small (failed)." in text


def test_recordings_of_one_name_have_columns_of_their_own():
    other = sample_run(gaps=(0.5, 0.5), **{"logs/hash": "1" * 64})
    text = text_of(sample_run(), sample_run(seed=1), other)
    assert "| learner | mixed #00000000 | mixed #11111111 |" in text
    assert "| bc | 15.0 [15.0, 15.0] | 50.0 |" in text


def test_logs_of_one_grade_are_named_in_full():
    failed = failed_run("bc", "cluster-medium-mixed-v0")  # without the hash of the log
    text = text_of(sample_run(), sample_run(seed=1), failed)
    assert "| learner | cluster-small-mixed-v0 | cluster-medium-mixed-v0 |" in text
    assert "| bc | 15.0 [15.0, 15.0] | (1 failed) |" in text


def test_all_recordings_of_expert_logs_count_as_expert():
    seeds = [
        sample_run(log=f"cluster-small-{grade}-v0", seed=seed)
        for grade in ("expert", "random")
        for seed in range(2)
    ]
    again = [
        {**run, "logs/hash": "1" * 64, "gaps": [0.3, 0.3]}
        for run in seeds
        if "expert" in run["logs/name"]
    ]
    assert "- random: bc -7.5 [" in text_of(*seeds, *again)


def test_missing_gaps_and_single_seeds_are_reported():
    alone = run_without_log("ppo_greedy", gaps=(0.1, 0.2), **decisions_to(1, 1, 1))
    text = text_of(sample_run(), sample_run(seed=1, gaps=(None, 0.3)), alone)
    assert "1 of 6 gaps are missing" in text
    # a difference to a learner with one seed has no interval
    difference = text.split("Gap minus that of ppo_greedy")[1]
    assert "| bc | 25.0 |" in difference
    assert "gaps are missing" not in text_of(sample_run())


@pytest.mark.parametrize(
    ("seeds", "answer"),
    [
        (3, "Answer: mixed: not tested, too few seeds."),
        (5, "Answer: mixed: no difference shown."),
    ],
)
def test_small_budgets_are_not_tested_with_few_seeds(seeds, answer):
    runs = [
        sample_run(solver, seed=seed, true=-1 - seed)
        for seed in range(seeds)
        for solver in ("bc", "cql")
    ]
    assert answer in text_of(*runs)


@pytest.mark.parametrize(("difference", "result"), [(0.5, "beaten"), (-0.5, "better")])
def test_small_budgets_name_the_better_side(difference, result):
    runs = [
        sample_run(solver, seed=seed, true=-1 - seed / 100 + shift)
        for seed in range(5)
        for solver, shift in (("bc", 0.0), ("cql", difference))
    ]
    assert f"Answer: mixed: BC is {result} for k = 1, 2." in text_of(*runs)
