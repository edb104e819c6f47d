"""Runs are collected from their folders, merged, and labelled."""

import pytest

from bench.offline_report.runs import (
    add_labels,
    collect,
    merge,
    settings_of,
    under_current_names,
    with_gaps,
)
from bench.references import Reference, stored_gaps
from bench.row_labels import label
from tests.bench.offline_report.sample import SHIPPED_INSTANCES, sample_run, write_run

RECORD = {
    "status": "finished",
    "solver": "bc",
    "dataset": "small",
    "objective": "total_time",
    "seed": 0,
    "ope/true": -1.0,
    "hardware": {"cpu": "x"},
}


def test_finished_runs_are_collected(tmp_path):
    write_run(tmp_path / "small" / "bc-s0-x", RECORD)
    (found,) = collect(tmp_path)
    assert found["instances"] == SHIPPED_INSTANCES
    assert found["objectives"] == [1234, None]
    assert "gaps" not in found
    assert found["ope/true"] == -1.0
    assert len(found["settings"]) == 8
    assert "hardware" not in found
    assert "policy" not in found


def test_failed_runs_are_collected_without_their_table(tmp_path):
    folder = tmp_path / "small" / "bc-s0-x"
    write_run(folder, {**RECORD, "status": "failed"})
    (folder / "instances.parquet").unlink()
    (failed,) = collect(tmp_path)
    assert (failed["status"], failed["logs/name"]) == ("failed", "some-v0")
    assert with_gaps(failed)["gaps"] == failed["objectives"] == []


def test_gaps_are_to_the_bounds_that_are_shipped_now(tmp_path, monkeypatch):
    write_run(tmp_path / "small" / "bc-s0-x", RECORD)
    (found,) = collect(tmp_path)
    for bound, gap in ((617.0, 0.5), (1234.0, 0.0)):
        known = Reference(1234.0, bound)
        monkeypatch.setattr(stored_gaps, "shipped_reference", lambda *_, known=known: known)
        assert with_gaps(found)["gaps"] == [gap, None]


def test_instances_without_shipped_references_keep_the_gap_that_was_known(tmp_path):
    write_run(tmp_path / "a" / "bc-s0-x", RECORD, instances=("0" * 64, "1" * 64))
    (found,) = collect(tmp_path)
    assert with_gaps(found)["gaps"] == found["gaps"] == [0.25, None]


@pytest.mark.parametrize("key", ["init_policy", "start", "checkpoint"])
def test_the_policy_that_a_run_starts_from_is_collected(tmp_path, key):
    config = f"solver: {{offline: {{logs: {{name: a-v0}}}}, online: {{{key}: a/policy.pt}}}}\n"
    write_run(tmp_path / "small" / "bc-s0-x", RECORD, config)
    assert collect(tmp_path)[0]["policy"] == "a/policy.pt"


def test_runs_are_collected_under_current_names(tmp_path):
    former = {**RECORD, "solver": "ppo_taught", "events": "singly"}
    write_run(tmp_path / "small" / "x", former)
    (found,) = collect(tmp_path)
    assert found["solver"] == "ppo_pretrained"
    assert found["event_order"] == "sequential"
    assert "events" not in found
    assert under_current_names(found) == found


def test_the_last_run_of_each_identity_is_kept():
    old = sample_run(true=-9.0, finished=1.0)
    new = sample_run(true=-1.0, finished=2.0)
    other = sample_run(seed=1)
    assert merge([old, other], [new]) == merge([new], [other, old])
    assert {run["ope/true"] for run in merge([old, other], [new])} == {-1.0, -1.4}
    unlike = [
        sample_run(**{key: "x"})
        for key in (
            "logs/hash",
            "learning/selection",
            "learning/steps",
            "track",
            "split",
            "observe",
            "event_order",
        )
    ]
    assert len(merge([sample_run()], unlike)) == 8
    assert len(merge([sample_run(settings="a")], [sample_run(settings="b")])) == 2


def test_a_failed_run_is_dropped_once_its_configuration_is_finished():
    failed, other = (
        {**sample_run(seed=seed, finished=1.0), "status": "failed", "gaps": []} for seed in (0, 1)
    )
    for unknown in ("logs/hash", "learning/selection"):
        failed.pop(unknown, None)
    done = sample_run(finished=2.0)
    assert merge([failed, other], [done]) == merge([failed, other, done], [])
    assert len(merge([failed, other], [done])) == 2
    assert done in merge([failed], [done])
    assert merge([done], [{**failed, "finished": 3.0}]) == [done]


def test_policies_selected_by_true_return_are_marked():
    runs = [
        sample_run(**{"learning/selection": "oracle"}),
        sample_run("ppo_offline", **{"offline/learning/selection": "oracle"}),
        sample_run("dqn", **{"learning/selection": "fqe"}),
    ]
    labels = [run["label"] for run in add_labels(runs)]
    assert labels == ["bc (oracle)", "dqn", "ppo_offline (oracle)"]


def test_labels_name_the_options_in_which_the_settings_of_a_solver_differ():
    def with_alpha(alpha):
        options = {"solver.alpha": alpha, "solver.steps": 2000}
        return sample_run("cql", settings=str(alpha), options=options)

    runs = [*map(with_alpha, (1.0, 0.1, 10.0, 0.05)), sample_run("bc", options={"solver.alpha": 9})]
    alphas = (0.05, 0.1, 1.0, 10.0)  # in the order of the numbers
    assert [run["label"] for run in add_labels(runs)] == ["bc", *(f"cql alpha={a}" for a in alphas)]
    absent = sample_run("cql", settings="b", options={"solver.steps": 2000})
    unset = [sample_run("cql", settings="a", options={"solver.alpha": None}), absent]
    assert [run["label"] for run in add_labels(unset)] == [
        "cql alpha=None steps=unset",
        "cql alpha=unset steps=2000",
    ]
    threads = [
        {"budget.threads": budget, "solver.threads": solver} for budget, solver in ((1, 2), (2, 1))
    ]
    assert label("ppo", threads[0], threads) == "ppo budget.threads=1 solver.threads=2"
    former = [runs[0], sample_run("cql", settings="5e1f")]
    assert [run["label"] for run in add_labels(former)] == ["cql #1.0", "cql #5e1f"]


def test_settings_differ_by_solver_and_budget_and_not_by_log():
    config = {
        "solver": {"_target_": "solvers.ppo.PPO", "alpha": 1.0, "logs": {"name": "a"}},
        "budget": {"decisions": 10},
        "seed": 0,
    }
    other_log = {**config, "solver": {**config["solver"], "logs": {"name": "b"}}, "seed": 1}
    moved = {**config, "solver": {**config["solver"], "_target_": "solvers.elsewhere.PPO"}}
    assert settings_of(config) == settings_of(other_log) == settings_of(moved)
    for changes in ({"alpha": 2.0}, {"_target_": "solvers.ppo.A2C"}):
        changed = {**config, "solver": {**config["solver"], **changes}}
        assert settings_of(changed) != settings_of(config)
    assert settings_of({**config, "budget": {"decisions": 20}}) != settings_of(config)


def test_settings_are_the_same_under_former_names():
    def with_solver(**solver):
        return {"solver": solver, "budget": {"decisions": 10}}

    former = with_solver(envs=64, online={"lam": 0.9})
    current = with_solver(num_envs=64, online={"gae_lambda": 0.9})
    assert settings_of(former) == settings_of(current)
