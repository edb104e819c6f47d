"""The runner: from job to record, with solvers that crash, cheat, train and are interrupted."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import bench.run.job
from bench import metrics, references
from bench.analysis.anytime import MEASURES
from bench.analysis.stats import gap, score
from bench.contracts import (
    CHECKPOINT,
    Budget,
    Dataset,
    Learner,
    Policy,
    Result,
    Solver,
    TrainingLogger,
)
from bench.errors import UserError
from bench.instance import Instance, read_json, write_json
from bench.references import Reference, References
from bench.run.job import Job
from bench.run.record import Record, problem
from bench.run.rescoring import rescore
from bench.run.run_folder import RunFolder
from bench.run.runner import evaluate, run
from bench.schedule import Schedule
from bench.setting import Setting
from bench.tracking import Mlflow, Off, stored_runs
from bench.verify import verify
from bench.verify.__main__ import main as check_files

SEARCH = ((0.0, math.inf, 6.0), (1.0, 10.0, 6.0), (3.0, 8.0, 8.0))  # seconds, objective, bound


class Pairs(Dataset):
    """Three instances of two tasks (2 + i and 4 ticks) on one agent that holds one."""

    name = "pairs"

    def instances(self, split: str) -> Iterator[Instance]:
        for i in range(3):
            yield Instance([[2 + i], [4]], [[[1]], [[1]]], [[1]], [0], due=[3, 9], name=f"pair-{i}")


class Serial(Solver):
    """Runs the tasks in a given order, or a random one; crashes on instance `crash`."""

    def __init__(
        self, order: tuple[int, int] | None = None, crash: str = "", **claims: Any
    ) -> None:
        self.order, self.crash, self.claims, self.solved = order, crash, claims, 0

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        if instance.name == self.crash:
            raise ZeroDivisionError("of all things")
        self.solved += 1
        first, second = self.order or rng.permutation(2)
        half = int(instance.duration[first, 0])
        start = np.zeros(2, dtype=int)
        start[second] = half
        return Result(Schedule.from_assignment(instance, [0, 0], start), **self.claims)


class Proving(Serial):
    """Serial with proofs of kind `assignment_duals`: the shorter task, 0, goes first."""

    certifies = True

    def solve(self, instance: Instance, *arguments: Any) -> Result:
        short, long = instance.duration[:, 0].tolist()
        proof = {
            "kind": "assignment_duals",
            "task_duals": [2 * short, short + long],
            "column_duals": [[0, 1, -short]],
        }
        return replace(super().solve(instance, *arguments), info={"proof": proof})


class First(Policy):
    """A policy that takes the first legal action."""

    observe = "arrived"

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        return int(np.argmax(observation.mask))


class CountingLearner(Learner):
    """A learner that counts to three, saves its state and may fail at step `stumble`."""

    def __init__(
        self, stumble: int | None = None, error: type[BaseException] = RuntimeError
    ) -> None:
        self.stumble, self.error = stumble, error

    def fit(
        self,
        data: Dataset,
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        logger: TrainingLogger,
    ) -> First:
        state = logger.folder / "state.json"
        done = json.loads(state.read_text()) if state.exists() else 0
        for step in range(done, 3):
            if step == self.stumble:
                raise self.error("stumbled\nover two lines")
            logger.metrics(step, {"validation/return": float(step)})
            logger.progress(step + 1, 3)
            state.write_text(json.dumps(step + 1))
        return First()


def job(plugin: Any, name: str = "serial", seed: int = 0, **changes: Any) -> Job:
    data = Pairs()
    config = {"solver": {"_target_": name}, "dataset": {"_target_": "pairs"}}
    fields: dict[str, Any] = {"setting": Setting(), "seed": seed, "config": config, **changes}
    return Job(name, plugin, data, tuple(data.instances("test")), **fields)


@pytest.fixture
def go(tmp_path: Path) -> Any:
    """Run a job in tmp_path without tracking."""

    def run_it(one: Job, **options: Any) -> Record:
        return run(
            one,
            tmp_path / "runs",
            References(tmp_path / "cache"),
            Off(),
            **{"pictures": False, **options},
        )

    return run_it


def folder(tmp_path: Path, one: Job) -> Path:
    return one.folder(tmp_path / "runs")


def test_recorded_numbers_equal_a_recomputation_from_the_stored_schedules(
    tmp_path: Path, go: Any
) -> None:
    known = References(tmp_path / "cache")
    for instance in Pairs().instances("test"):
        known.improve(
            instance,
            "total_time",
            Reference(metrics.trivial_bound(instance, "total_time") + 2, 7.0, "x", "x"),
        )
    one = job(Serial())
    record = go(one)
    where = folder(tmp_path, one)
    instances = [Instance.from_dict(data) for data in read_json(where / "instances.json.gz")]
    results = [
        Result.from_dict(entry["result"]) for entry in read_json(where / "schedules.json.gz")
    ]
    table = pandas.read_parquet(where / "instances.parquet")
    values, scores, gaps = [], [], []
    for instance, result, (_, row) in zip(instances, results, table.iterrows(), strict=True):
        assert verify(instance, result.schedule) == []
        value = metrics.objective(instance, result.schedule, "total_time")
        reference, random = known.known(instance, "total_time"), known.random(instance, Setting())
        values.append(value)
        scores.append(float(score(value, random.mean, reference.objective)))
        gaps.append(float(gap(value, reference.bound)))
        expected = {
            "objective": value,
            "instance_hash": instance.hash(),
            "gap": gaps[-1],
            "score": scores[-1],
            "feasible": 1.0,
            "reference": reference.objective,
            "reference_bound": reference.bound,
            "random": random.mean,
        }
        assert {key: row[key] for key in expected} == pytest.approx(expected)
        for name, number in metrics.metrics(instance, result.schedule).items():
            assert row[name] == pytest.approx(number, nan_ok=True)
    assert record["objective_mean"] == pytest.approx(np.mean(values))
    assert record["gap_mean"] == pytest.approx(np.mean(gaps))
    assert record["score"] == pytest.approx(np.nanmean(scores))
    assert record["total_time"] == record["objective_mean"]
    assert (record["n_instances"], record["feasible"], record["errors"], record["status"]) == (
        3,
        1.0,
        0,
        "finished",
    )
    assert read_json(where / "result.json") == record


def test_the_record_is_flat_complete_and_plain_json(tmp_path: Path, go: Any) -> None:
    record = go(job(First(), "first", setting=Setting(observe="arrived")))
    assert record["information"] == "online"
    assert record["decision_latency_p99"] > 0
    assert record["jain_index"] is None  # no tenants
    assert {"python", "numpy"} <= set(record["versions"])
    assert {"cpu", "cores", "memory_gib"} <= set(record["hardware"])
    assert all(
        not isinstance(value, dict | list) or key in ("versions", "hardware")
        for key, value in record.items()
    )
    names = set(metrics.metrics(next(Pairs().instances("test")), Schedule([], [], [], []))) - {
        "unassigned"
    }
    assert names <= set(record)
    json.dumps(record, allow_nan=False)


def test_a_finished_run_is_shown_not_run_again_unless_asked(tmp_path: Path, go: Any) -> None:
    one = job(Serial())
    first = go(one)
    assert go(one) == first
    assert one.plugin.solved == 3
    again = go(one, rerun=True)
    assert one.plugin.solved == 6
    assert again["objective_mean"] == first["objective_mean"]


def test_a_stored_record_is_compared_with_what_is_known_now(tmp_path: Path, go: Any) -> None:
    one = job(Serial((1, 0)))
    before = go(one)
    assert before["gap_mean"] > 0
    assert before["reference_proved"] == 0.0
    claims, exact = (Serial((0, 1), status="optimal") for _ in range(2))
    exact.certifies = True
    go(job(claims, "claims"))
    assert go(one)["reference_proved"] == 0.0, (
        "a claim by a solver that does not certify is no proof"
    )
    go(job(exact, "exact"))
    assert go(one)["reference_proved"] == 0.0, "nor is a claim without a proof"
    go(job(Proving((0, 1), status="optimal"), "proving"))
    after = go(one)
    assert after["reference_proved"] == 1.0
    assert after["reference_mean"] < before["reference_mean"]
    assert after["gap_mean"] < before["gap_mean"]


def test_a_run_is_scored_again_in_its_folder_and_in_mlflow(tmp_path: Path) -> None:
    tracker = Mlflow(
        f"sqlite:///{tmp_path}/mlflow.db", "test", str(tmp_path / "artifacts"), system_metrics=False
    )
    known = References(tmp_path / "cache")
    one = job(Serial((1, 0)))
    first = run(one, tmp_path / "runs", known, tracker, pictures=False)
    assert first["score"] == pytest.approx(100.0)  # the best schedule known is its own
    run(job(Serial((0, 1)), "better"), tmp_path / "runs", known, Off(), pictures=False)
    again = rescore(one, tmp_path / "runs", known, tracker)
    assert again is not None
    rows = pandas.read_parquet(folder(tmp_path, one) / "instances.parquet")
    assert rows["reference"].tolist() == [8.0, 10.0, 12.0]
    assert again["score"] == pytest.approx(rows["score"].mean())
    assert again["score"] < 0 < first["score"]
    assert read_json(folder(tmp_path, one) / "result.json") == again
    (stored,) = [
        found
        for found in stored_runs(f"sqlite:///{tmp_path}/mlflow.db", "test")
        if found.tags["solver"] == "serial"
    ]
    assert stored.status == "finished"
    metric = stored._client.get_run(stored.id).data.metrics["score"]
    assert metric == pytest.approx(again["score"])
    assert read_json(stored.artifact("result.json", tmp_path)) == again
    assert rescore(one, tmp_path / "runs", known, Off()) == again
    assert rescore(job(Serial(), "unknown"), tmp_path / "runs", known, Off()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"budget": Budget(1.0)},
        {"setting": Setting(objective="makespan")},
        {"split": "validation"},
        {"config": {"solver": {"_target_": "serial", "x": 1}, "dataset": {}}},
    ],
)
def test_whatever_decides_a_result_decides_the_key(changes: dict[str, Any]) -> None:
    assert job(Serial()).key == job(Serial()).key
    assert job(Serial(), **changes).key != job(Serial()).key


def test_a_record_of_another_form_belongs_to_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    of_today = job(Serial()).key
    monkeypatch.setattr(bench.run.job, "SCHEMA", bench.run.job.SCHEMA - 1)
    assert job(Serial()).key != of_today


@pytest.mark.parametrize(
    "setting", [Setting(observe="arrived"), Setting(track="online", observe="arrived")]
)
def test_a_planner_that_knows_the_future_is_never_recorded_as_online(setting: Setting) -> None:
    with pytest.raises(UserError, match="future known"):
        job(Serial(), setting=setting)


@pytest.mark.parametrize("seconds", [12.5, None])
def test_a_deployed_checkpoint_reports_the_seconds_of_its_training(
    seconds: float | None, go: Any
) -> None:
    class Deploys(Learner):
        def fit(self, *arguments: Any) -> First:
            arguments[-1].summary({CHECKPOINT: "abc", "learning/seconds": seconds})
            return First()

    record = go(job(Deploys(), "deploys"))
    assert record["train_seconds"] == seconds
    assert record["learning/seconds"] == seconds


def test_a_checkpoint_counts_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "policy.pt"
    keys = set()
    for content in ("a", "b", "a"):
        file.write_text(content)
        keys.add(job(Serial(), config={"solver": {"checkpoint": str(file)}, "dataset": {}}).key)
    assert len(keys) == 2


def test_a_crash_on_one_instance_is_a_row_and_only_that_one_is_tried_again(
    tmp_path: Path, go: Any
) -> None:
    go(job(Serial((0, 1)), "good"))
    one = job(Serial((0, 1), crash="pair-1"))
    record = go(one)
    assert (record["status"], record["errors"], record["feasible"]) == (
        "finished",
        1,
        pytest.approx(2 / 3),
    )
    assert record["error"] == "ZeroDivisionError: of all things"
    assert "in solve" in (folder(tmp_path, one) / "traceback.txt").read_text()
    rows = RunFolder(folder(tmp_path, one)).rows()
    assert [row["status"] for row in rows] == ["feasible", "error", "feasible"]
    penalty = metrics.penalty(one.instances[1], "total_time")
    assert rows[1]["objective"] == 2 * penalty > rows[0]["objective"]
    assert rows[1]["score"] < 0
    mended = job(Serial((0, 1)))
    assert go(mended)["errors"] == 0
    assert mended.plugin.solved == 1


def test_a_run_that_crashes_everywhere_has_failed(go: Any) -> None:
    class Broken(Solver):
        def solve(self, *arguments: object) -> Result:
            raise MemoryError

    record = go(job(Broken()))
    assert (record["status"], record["errors"], record["feasible"]) == ("failed", 3, 0.0)


class Leaves(Solver):
    """A solver that ends the process, as a script does: in solve."""

    def solve(self, *arguments: object) -> Result:
        sys.exit(0)


class LeavesInAct(First):
    """In act."""

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        sys.exit(0)


class LeavesInFit(CountingLearner):
    """In fit."""

    def fit(self, *arguments: object) -> First:
        sys.exit(0)


class LeavesInWarmUp(Serial):
    """Before anything is solved."""

    def warm_up(self) -> None:
        sys.exit(0)


@pytest.mark.parametrize("kind", [Leaves, LeavesInAct, LeavesInFit, LeavesInWarmUp])
def test_a_plug_in_that_ends_the_process_has_failed(
    tmp_path: Path, go: Any, kind: type[Any]
) -> None:
    one = job(kind())
    record = go(one)
    assert (record["status"], record["feasible"], record["error"]) == (
        "failed",
        0.0,
        "SystemExit: 0",
    )
    assert record["errors"] >= 1
    assert "sys.exit(0)" in (folder(tmp_path, one) / "traceback.txt").read_text()


def test_an_interrupt_by_the_user_is_no_crash(go: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(job(CountingLearner(0, KeyboardInterrupt), "student"))


def test_an_infeasible_schedule_is_counted_and_penalised(tmp_path: Path, go: Any) -> None:
    class Overlap(Solver):
        def solve(self, instance: Instance, *arguments: object) -> Result:
            return Result(Schedule.from_assignment(instance, [0, 0]), "optimal")

    one = job(Overlap())
    record = go(one)
    row = RunFolder(folder(tmp_path, one)).rows()[0]
    assert record["feasible"] == 0.0
    assert "agent 0 holds 2" in row["violations"]
    assert row["objective"] == metrics.penalty(one.instances[0], "total_time")
    assert (
        References(tmp_path / "cache").known(one.instances[0], "total_time").objective == math.inf
    )


def test_an_objective_below_a_shipped_bound_is_an_error_never_a_new_reference(
    tmp_path: Path, go: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(Serial((0, 1)))
    wrong = {"objective": 1000.0, "bound": 1000.0, "solver": "liar", "bound_solver": "liar"}
    shipped = {one.instances[2].hash(): ("pairs.json", {"total_time": wrong})}
    monkeypatch.setattr(references, "_shipped_references", lambda: shipped)
    record = go(one)
    assert record["errors"] == 1
    assert record["error"] == (
        "CONTRADICTION on pair-2: objective 12 is below the bound 1000 proved by liar: one of them "
        "is wrong (by serial; known from shipped file pairs.json)"
    )
    assert References(tmp_path / "cache").known(one.instances[2], "total_time").bound == 1000


def test_a_cached_bound_above_a_verified_schedule_is_removed(
    tmp_path: Path, go: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one = job(Serial((0, 1)))
    wrong = Reference(1000.0, 1000.0, "liar", "liar", seconds=9.0)
    References(tmp_path / "cache").improve(one.instances[2], "total_time", wrong)
    assert go(one)["errors"] == 0
    known = References(tmp_path / "cache").known(one.instances[2], "total_time")
    assert (known.objective, known.bound, known.seconds) == (12.0, 8.0, 0.0)
    (text,) = caplog.messages
    assert "a schedule of serial costs 12, below the bound 1000 of liar" in text
    assert one.instances[2].hash() in text


def test_a_false_claim_of_an_optimum_is_an_error(tmp_path: Path, go: Any) -> None:
    go(job(Serial((0, 1)), "good"))
    record = go(job(Serial((1, 0), status="optimal"), "boaster"))
    assert record["errors"] == 2  # on pair-2 both orders cost the same
    assert "claimed optimal" in record["error"]


def test_a_learner_is_trained_measured_and_drawn(tmp_path: Path, go: Any) -> None:
    shown: list[tuple[Any, ...]] = []
    one = job(CountingLearner(), "student")
    record = go(one, pictures=True, progress=lambda *state: shown.append(state))
    where = folder(tmp_path, one)
    assert ("student trains", 3, 3, "") in shown
    assert ("student solves", 3, 3, "") in shown
    assert 0 < record["train_seconds"] <= record["wall_seconds"]
    assert RunFolder(where).history() == {"validation/return": [(0, 0.0), (1, 1.0), (2, 2.0)]}
    for name in ("gantt.png", "curve.png"):
        assert (where / name).read_bytes().startswith(b"\x89PNG")


def test_facts_that_a_learner_logs_at_two_times_are_all_recorded(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.add_training_facts({"logs/name": "some-v0", "learning/steps": 1})
    RunFolder(tmp_path / "run").add_training_facts({"learning/steps": 2})
    assert folder.training_facts() == {"logs/name": "some-v0", "learning/steps": 2}


def test_a_crash_in_training_is_a_failed_record_and_the_next_run_resumes(
    tmp_path: Path, go: Any
) -> None:
    broken = job(CountingLearner(stumble=2), "student")
    record = go(broken)
    assert (record["status"], record["error"]) == (
        "failed",
        "RuntimeError: stumbled over two lines",
    )
    assert record["objective"] == "total_time"
    assert "in fit" in (folder(tmp_path, broken) / "traceback.txt").read_text()
    again = go(
        job(CountingLearner(stumble=0), "student")
    )  # nothing is repeated: steps 0 and 1 are done
    assert again["status"] == "finished"
    assert again["train_seconds"] > 0


def test_bad_input_to_a_learner_is_the_users_error(go: Any) -> None:
    with pytest.raises(UserError, match="stumbled"):
        go(job(CountingLearner(0, UserError), "student"))


@pytest.mark.parametrize("solved", [0, 1, 2])
def test_an_interrupted_run_resumes_to_the_same_rows(tmp_path: Path, solved: int) -> None:
    class Interrupted(Serial):
        def solve(self, instance: Instance, *arguments: Any) -> Result:
            if self.solved == solved:
                raise KeyboardInterrupt
            return super().solve(instance, *arguments)

    claims: dict[str, Any] = {
        "trajectory": SEARCH,
        "lower_bound": 6.0,
        "info": {"proof": {"kind": "trivial"}},
    }

    def rows(plugin: Serial, where: str) -> list[dict[str, Any]]:
        one = job(plugin, seed=7)
        run(one, tmp_path / where, References(tmp_path / "cache"), Off(), pictures=False)
        kept = (
            "instance_hash",
            "objective",
            "feasible",
            "score",
            "gap",
            "makespan",
            "primal_integral",
            "time_to_best",
        )
        certified = [
            {**data, "seconds": 0}
            for data in read_json(one.folder(tmp_path / where) / "certificates.json.gz")
        ]
        found = RunFolder(one.folder(tmp_path / where)).rows()
        return [
            {key: row[key] for key in kept} | one for row, one in zip(found, certified, strict=True)
        ]

    undisturbed = rows(Serial(**claims), "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        rows(Interrupted(**claims), "killed")
    progress = job(Serial(), seed=7).folder(tmp_path / "killed") / "progress.jsonl"
    if progress.exists():
        progress.write_text(
            progress.read_text() + '\n{"index": 2, "ent'
        )  # a line cut short by a kill
    second = Serial(**claims)
    assert rows(second, "killed") == undisturbed
    assert second.solved == 3 - solved
    assert not progress.exists()


def test_seconds_add_up_over_sessions(tmp_path: Path) -> None:
    first = RunFolder(tmp_path)
    first._began -= 100.0
    with first.training():
        assert first._training is not None
        first._training -= 40.0
        first.save_clock()  # killed here
    second = RunFolder(tmp_path)
    assert 100 < second.seconds()["wall_seconds"] < 110
    assert 40 < second.seconds()["train_seconds"] < 50


def test_a_clairvoyant_planner_may_not_enter_online() -> None:
    setting = Setting(track="online", observe="arrived")
    with pytest.raises(UserError, match="serial plans with the future known"):
        job(Serial(), setting=setting)
    rolling = Serial()
    rolling.clairvoyant = False  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"Serial.clairvoyant: a Solver is given the whole"):
        job(rolling, setting=setting)
    assert job(First(), "first", setting=setting).identity["track"] == "online"


def test_rows_are_reported_in_the_instances_own_sense(tmp_path: Path, go: Any) -> None:
    """Profits 7 and 3 as costs 10 - profit: the best assignment earns 14."""

    class Profits(Dataset):
        name = "profits"

        def instances(self, split: str) -> Iterator[Instance]:
            yield Instance(
                [[7, 3], [3, 3]],
                [[[1], [1]]] * 2,
                [[2], [1]],
                [0, 1],
                sharing="budget",
                sense="max",
                offset=10,
            )

    class Fixed(Solver):
        def solve(self, instance: Instance, *arguments: object) -> Result:
            return Result(Schedule.from_assignment(instance, [0, 1]), "feasible", 6.0)

    data = Profits()
    one = Job("fixed", Fixed(), data, tuple(data.instances("test")), Setting(track="assign"))
    References(tmp_path / "cache").improve(
        one.instances[0], "total_time", Reference(6.0, 6.0, "x", "x")
    )
    record = go(one)
    (row,) = RunFolder(folder(tmp_path, one)).rows()
    assert (row["objective"], row["lower_bound"], row["reference"], row["reference_bound"]) == (
        10.0,
        14.0,
        14.0,
        14.0,
    )
    assert record["gap_mean"] == pytest.approx(0.4)
    assert record["jct_mean"] is None


def test_a_run_in_mlflow_has_parameters_metrics_input_and_artifacts(tmp_path: Path) -> None:
    tracker = Mlflow(
        f"sqlite:///{tmp_path}/mlflow.db", "test", str(tmp_path / "artifacts"), system_metrics=False
    )
    claims = {
        "trajectory": ((0.1, 10.0, 6.0), (0.2, 8.0, 8.0)),
        "status": "optimal",
        "lower_bound": -math.inf,
    }
    good, bad = job(Serial((0, 1), **claims)), job(CountingLearner(1), "student")
    for one in (good, bad):
        run(one, tmp_path / "runs", References(tmp_path / "cache"), tracker)
    client = tracker._store.client
    found = {r.data.tags["solver"]: r for r in client.search_runs([tracker._store.experiment_id])}
    ours = found["serial"]
    assert ours.info.status == "FINISHED"
    assert ours.data.params["solver._target_"] == "serial"
    assert ours.data.params["track"] == "schedule"
    assert ours.data.params["budget.seconds"] == "60.0"
    assert (
        ours.data.tags.items()
        >= {"key": good.key, "set_hash": good.set_hash, "dataset": "pairs", "seed": "0"}.items()
    )
    assert "cores" in ours.data.tags["hardware"]
    assert ours.data.metrics["score"] == 100.0
    for i, value in enumerate((8.0, 8.0, 8.0)):
        points = client.get_metric_history(ours.info.run_id, f"search/bound/{i}")
        assert [(point.step, point.value) for point in points] == [(100, 6.0), (200, value)]
    assert ours.data.metrics["time_to_first"] == pytest.approx(0.1)
    assert ours.data.metrics["primal_integral"] > 0
    assert ours.inputs.dataset_inputs[0].dataset.name == "pairs"
    stored = {file.path for file in client.list_artifacts(ours.info.run_id)}
    assert stored == {
        "config.yaml",
        "curve.png",
        "gantt.png",
        "instances.json.gz",
        "instances.parquet",
        "result.json",
        "schedules.json.gz",
    }
    assert found["student"].info.status == "FAILED"
    assert found["student"].data.tags["error"].startswith("RuntimeError: stumbled")


def test_a_bound_with_a_proof_becomes_a_certificate_that_anyone_can_check(
    tmp_path: Path, go: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = {"kind": "trivial"}
    one = job(Serial((0, 1), lower_bound=6.0, info={"bound": "alone", "proof": proof, "nodes": 3}))
    go(one)
    where = folder(tmp_path, one)
    certificates = read_json(where / "certificates.json.gz")
    assert [data["instance"]["name"] for data in certificates] == ["pair-0", "pair-1", "pair-2"]
    first = certificates[0]
    facts = {
        "schema": 1,
        "kind": "certificate",
        "objective_name": "total_time",
        "objective": 8.0,
        "objective_internal": 8.0,
        "bound": 6.0,
        "bound_internal": 6.0,
        "status": "feasible",
        "bound_name": "alone",
        "proof": proof,
        "solver": "serial",
        "seed": 0,
        "threads": 2,
        "budget_seconds": 60.0,
    }
    assert first.items() >= facts.items()
    assert {"versions", "git_commit", "seconds", "schedule"} <= set(first)
    assert [entry["result"]["info"] for entry in read_json(where / "schedules.json.gz")] == [
        {"bound": "alone", "nodes": 3}
    ] * 3
    assert '"proof"' not in (where / "result.json").read_text()
    assert check_files([str(where / "certificates.json.gz")]) == 0
    assert (
        capsys.readouterr().out.count(
            "bound     checked: 6 claimed (internal), the proof (trivial) shows"
        )
        == 3
    )
    write_json(where / "alone.json", first)
    assert check_files([str(where / "alone.json")]) == 0


def test_without_a_proof_there_is_no_certificate(tmp_path: Path, go: Any) -> None:
    for i, claims in enumerate(({"lower_bound": 6.0}, {"info": {"proof": {"kind": "trivial"}}})):
        one = job(Serial((0, 1), **claims), f"serial{i}")
        go(one)
        assert not (folder(tmp_path, one) / "certificates.json.gz").exists()


def test_the_bound_of_an_infeasible_schedule_is_certified_alone(tmp_path: Path, go: Any) -> None:
    class Overlap(Solver):
        def solve(self, instance: Instance, *arguments: object) -> Result:
            claims: dict[str, Any] = {"lower_bound": 6.0, "info": {"proof": {"kind": "trivial"}}}
            return Result(Schedule.from_assignment(instance, [0, 0]), "feasible", **claims)

    one = job(Overlap())
    go(one)
    first = read_json(folder(tmp_path, one) / "certificates.json.gz")[0]
    assert (first["schedule"], first["objective"], first["status"]) == (None, None, "unknown")


def test_a_search_is_measured_over_time_against_the_best_known(tmp_path: Path, go: Any) -> None:
    one = job(Serial((0, 1), trajectory=SEARCH), budget=Budget(10.0))
    record = go(one)
    row = RunFolder(folder(tmp_path, one)).rows()[0]
    assert row["objective"] == row["reference"] == 8.0
    assert row["primal_integral"] == pytest.approx(1 + 2 * 0.2)
    assert row["primal_dual_integral"] == pytest.approx(1 + 2 * 0.4)
    assert (row["time_to_first"], row["time_to_best"], row["time_to_proof"]) == (1.0, 3.0, 3.0)
    assert record["time_to_first"] == 1.0
    last = RunFolder(folder(tmp_path, one)).rows()[
        2
    ]  # its schedule costs 12: what is better was never there
    assert (last["objective"], last["time_to_best"]) == (12.0, 1.0)
    assert go(job(Serial((0, 1)), "rule"))["primal_integral"] is None
    known = References(tmp_path / "cache")
    table = evaluate(
        Serial((0, 1), trajectory=SEARCH),
        Pairs().instances("test"),
        budget=Budget(10.0),
        references=known,
    )
    assert table["primal_integral"][0] == row["primal_integral"]


def test_an_infeasible_search_found_nothing(tmp_path: Path, go: Any) -> None:
    class Overlap(Solver):
        def solve(self, instance: Instance, *arguments: object) -> Result:
            return Result(Schedule.from_assignment(instance, [0, 0]), trajectory=SEARCH)

    one = job(Overlap(), budget=Budget(10.0))
    go(job(Serial((0, 1)), "good"))
    record = go(one)
    assert (record["primal_integral"], record["time_to_first"]) == (10.0, None)


def test_a_run_stored_before_these_columns_is_measured_when_it_is_shown(
    tmp_path: Path, go: Any
) -> None:
    one = job(Serial((0, 1), trajectory=SEARCH))
    new = go(one)
    where = folder(tmp_path, one)
    table = pandas.read_parquet(where / "instances.parquet")
    table.drop(columns=list(MEASURES)).to_parquet(where / "instances.parquet")
    write_json(
        where / "result.json", {key: value for key, value in new.items() if key not in MEASURES}
    )
    assert go(one) == new


def test_evaluate_in_python_needs_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = evaluate(First(), Pairs().instances("test"))
    assert list(table["name"]) == ["pair-0", "pair-1", "pair-2"]
    assert table["objective"].tolist() == [8.0, 10.0, 12.0]
    assert list(tmp_path.iterdir()) == []
    known = References(tmp_path / "cache")
    assert {"gap", "score", "reference"} <= set(
        evaluate(First(), Pairs().instances("test"), references=known)
    )


def test_records_of_one_problem_differ_from_others(go: Any) -> None:
    a, b = go(job(Serial())), go(job(First(), "first", setting=Setting(observe="arrived")))
    assert problem(a) == problem(b)
    assert problem(a) != problem(go(job(Serial(), setting=Setting(objective="makespan"))))
