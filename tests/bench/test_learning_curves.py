"""Learning curves over decisions and CPU seconds: made from runs, by hand-computed values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import __main__ as cli
from bench import learning_curves
from bench.errors import UserError
from bench.instance import read_json, write_json
from bench.learning_curves import best_so_far, cost_unit, curve, curves, main, merged
from bench.row_labels import label
from bench.setting import Setting
from bench.simulator import Simulator
from tests.bench.stored_runs import PROBLEMS, honest


def training(seed: int, decisions: list[int], cost: list[float], **changes: Any) -> dict[str, Any]:
    return {
        "solver": "ppo",
        "dataset": "small",
        "track": "schedule",
        "objective": "total_time",
        "mode": "fit",
        "backfill": "none",
        "event_order": "batched",
        "observe": "all",
        "seed": seed,
        "validation_hash": "ab",
        "hardware": {"gpu": ""},
        "options": {"solver.lr": 0.1},
        "decisions": decisions,
        "cpu_seconds": [x / 10 for x in decisions],
        "seconds": [x / 5 for x in decisions],
        "cost": cost,
        **changes,
    }


def test_a_curve_is_the_mean_of_the_best_so_far_where_every_seed_has_begun_and_not_ended() -> None:
    members = [training(0, [10, 20, 30], [3.0, 1.0, 2.0]), training(1, [10, 25, 40], [5.0, 3.0, 1])]
    found = curve(members, "ppo", None)
    assert found.seeds == 2
    assert found.decisions.tolist() == [10, 20, 25, 30]
    assert found.mean.tolist() == [4.0, 3.0, 2.0, 2.0]
    assert found.seconds.tolist() == [1.0, 2.0, 2.5, 3.0]
    # two seeds, one degree of freedom: the 97.5 % quantile of t is 12.706
    half = 12.706 * np.std([1.0, 3.0], ddof=1) / np.sqrt(2)
    assert found.high[2] - found.mean[2] == pytest.approx(half, rel=1e-3)


def test_with_a_reference_a_curve_is_in_percent_above_it() -> None:
    found = curve([training(0, [10, 20], [3.0, 1.2])], "ppo", {"cost": 1.0})
    assert found.mean.tolist() == pytest.approx([200.0, 20.0])
    assert np.isnan(found.low).all(), "one seed has no interval"


def test_a_reference_counts_for_its_own_instances_only() -> None:
    known = {"small total_time": {"solver": "cpsat", "set_hash": "ab", "cost": 1.0}}
    one = {"references": known, "trainings": [training(0, [10], [1.5])]}
    assert list(curves(one)) == ["small total_time, schedule: % above cpsat"]
    other = {"references": known, "trainings": [training(0, [10], [1.5], validation_hash=None)]}
    assert list(curves(other)) == ["small total_time, schedule: cost / trivial bound"]


def test_groups_of_one_solver_are_named_by_the_options_in_which_they_differ() -> None:
    options = [{"solver.lr": 0.1, "dataset.train": n} for n in (512, "endless")]
    assert label("ppo", options[1], options) == "ppo train=endless"
    assert label("ppo", options[1], options[1:]) == "ppo"
    data = {
        "references": {},
        "trainings": [training(s, [10], [1.5], options=one) for one in options for s in (0, 1)],
    }
    (drawn,) = curves(data).values()
    assert [(one.label, one.seeds) for one in drawn] == [
        ("ppo train=512", 2),
        ("ppo train=endless", 2),
    ]


def test_trainings_of_different_problems_are_never_averaged() -> None:
    """Other validation instances, another observation, a GPU: curves and names of their own."""
    others = [
        training(0, [10], [1.5]),
        training(0, [10], [2.5], validation_hash="cd"),
        training(0, [10], [3.5], observe="arrived"),
        training(0, [10], [4.5], hardware={"gpu": "H200"}),
    ]
    assert len(merged([], others)) == 4
    known = {"small total_time": {"solver": "cpsat", "set_hash": "ab", "cost": 1.0}}
    drawn = curves({"references": known, "trainings": others})
    found = [(title, one.label, one.mean[0]) for title, row in drawn.items() for one in row]
    assert sorted(found) == [
        ("small total_time, schedule, observe=all: % above cpsat", "ppo", 50.0),
        ("small total_time, schedule, observe=all: % above cpsat", "ppo on H200", 350.0),
        ("small total_time, schedule, observe=all: cost / trivial bound", "ppo", 2.5),
        ("small total_time, schedule, observe=arrived: % above cpsat", "ppo", 250.0),
    ]


def test_a_curve_begins_after_0_decisions() -> None:
    """The policy that a training begins with is the best one at first."""
    found = curve([training(0, [0, 10, 20], [1.0, 3.0, 0.5])], "ppo", None)
    assert found.decisions.tolist() == [10, 20]
    assert found.mean.tolist() == [1.0, 0.5]
    apart = [training(0, [10, 20], [3.0, 2.0]), training(1, [30], [1.0])]
    with pytest.raises(UserError, match="run: ppo: its seeds have no number of decisions"):
        curve(apart, "ppo", None)


def test_a_training_takes_the_place_of_the_same_one() -> None:
    old, other = training(0, [10], [1.5]), training(1, [10], [1.0])
    new = training(0, [10, 20], [1.5, 1.1])
    assert merged([old, other], [new]) == [new, other]


def test_the_best_so_far_never_rises() -> None:
    found = best_so_far(training(0, [1, 2, 3], [2.0, 3.0, 1.0]))
    assert found[:, 2].tolist() == [2.0, 2.0, 1.0]


def test_costs_have_the_unit_of_the_returns_that_trainings_log() -> None:
    for problem in PROBLEMS:
        assert cost_unit(problem) == Simulator([problem], Setting()).scale[0]


def test_data_and_picture_of_real_trainings(tmp_path: Path) -> None:
    runs, data, figure = (tmp_path / name for name in ("runs", "data.json", "curves.png"))
    options = ["dataset=tiny", "tracking=off", "baselines=[]", "reference.seconds=0"]
    training_options = ["+solver=ppo_greedy", "budget.decisions=3000", "seed=0"]
    assert cli.main([*training_options, *options, f"runs={runs}"]) == 0
    rule_options = ["+solver=sjf", "split=validation"]
    assert cli.main([*rule_options, *options, f"runs={tmp_path / 'sjf'}"]) == 0
    (reference,) = (tmp_path / "sjf").glob("tiny/*")
    arguments = ["--data", str(data), "--figure", str(figure)]
    assert main([str(runs), "--reference", str(reference), *arguments]) == 0
    stored = read_json(data)
    (one,) = stored["trainings"]
    assert one["cpu_seconds"] == sorted(one["cpu_seconds"])
    assert one["cpu_seconds"][-1] > 0
    assert stored["references"]["tiny total_time"]["set_hash"] == one["validation_hash"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    before = data.read_text()
    assert main([str(runs), *arguments]) == 0, "the same training again changes nothing"
    assert data.read_text() == before


def test_bad_input_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def message(*arguments: str) -> str:
        outputs = ["--data", str(tmp_path / "d.json"), "--figure", str(tmp_path / "f.png")]
        assert main([*arguments, *outputs]) == 2
        return capsys.readouterr().err

    assert "run: no training; name folders" in message()
    assert "holds no finished training" in message(str(tmp_path))
    assert "is no finished run" in message("--reference", str(tmp_path / "nowhere"))
    honest(tmp_path / "old")
    expected = "result.json has no event_order: an earlier version's"
    assert expected in message("--reference", str(tmp_path / "old"))
    run = tmp_path / "run"
    honest(run, split="test", observe="all", event_order="batched")
    assert "split=test" in message("--reference", str(run))
    (run / "history.jsonl").write_text('{"step": 3, "validation/return": -1.0}\n')
    assert "learning/cpu_seconds" in message(str(run))
    write_json(tmp_path / "d.json", [1])
    assert "was not written by this program" in message(str(run))


def test_the_program_is_named_as_its_module() -> None:
    assert learning_curves.__doc__ is not None
    assert "python -m bench.learning_curves" in learning_curves.__doc__
