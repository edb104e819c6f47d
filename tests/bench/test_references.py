"""References: best known values, contradictions, random play and the shipped files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import references
from bench.contracts import Budget, Result, Solver, no_progress
from bench.errors import UserError
from bench.instance import Instance, read_json
from bench.metrics import objective, trivial_bound
from bench.references import EPISODES, Reference, References, reference_of
from bench.references.__main__ import main, mismatch, recomputation
from bench.schedule import Schedule
from bench.setting import Setting
from tests.bench.verify.examples import CAPACITY_DUALS


def two_tasks(**changes: Any) -> Instance:
    """Tasks of 2 and 4 ticks, one at a time: total time 8 (short first) or 10; trivial bound 6."""
    fields: dict[str, Any] = {
        "duration": [[2], [4]],
        "demand": [[[1]], [[1]]],
        "capacity": [[1]],
        "agent_type": [0],
        "name": "two",
    }
    return Instance(**{**fields, **changes})


SHORT_FIRST = Schedule([0, 1], [0, 0], [0, 2], [2, 6])
LONG_FIRST = Schedule([0, 1], [0, 0], [4, 0], [6, 4])


class FixedSolver(Solver):
    """Returns a given result, or raises a given error, and counts its calls."""

    certifies = True

    def __init__(self, result: Result | Exception) -> None:
        self.result = result
        self.calls = 0

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        self.calls += 1
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


# -- looking up, computing and improving -----------------------------------------------------------


def test_unknown_reference_has_the_trivial_bound(tmp_path: Path) -> None:
    known = References(tmp_path).known(two_tasks(), "total_time")
    assert known.objective == math.inf
    assert known.bound == trivial_bound(two_tasks(), "total_time") == 6.0
    assert known.bound_solver == "trivial"
    assert not known.proved


def test_reference_solver_is_called_once(tmp_path: Path) -> None:
    solver = FixedSolver(Result(SHORT_FIRST, "optimal", 8.0, info={"proof": CAPACITY_DUALS}))
    for _ in range(2):
        known = References(tmp_path, solver, seconds=5, name="fixed")
        known.ensure([two_tasks()], Setting(), no_progress)
    found = known.known(two_tasks(), "total_time")
    assert (found.objective, found.bound) == (8.0, 8.0)
    assert (found.solver, found.seconds, found.proved) == ("fixed", 5, True)
    assert solver.calls == 1


def test_instance_without_a_proven_optimum_is_searched_again_only_with_more_time(
    tmp_path: Path,
) -> None:
    solver = FixedSolver(Result(LONG_FIRST, "feasible", 7.0))
    for seconds in (5, 5, 4, 6):
        References(tmp_path, solver, seconds).ensure([two_tasks()], Setting(), no_progress)
    assert solver.calls == 2


def test_solver_that_fails_is_not_called_again(tmp_path: Path) -> None:
    solver = FixedSolver(UserError("too large"))
    for _ in range(2):
        References(tmp_path, solver, 5).ensure([two_tasks()], Setting(), no_progress)
    assert solver.calls == 1
    assert References(tmp_path).known(two_tasks(), "total_time").objective == math.inf


def test_infeasible_schedule_is_no_reference() -> None:
    both_at_once = Result(Schedule([0, 1], [0, 0], [0, 0], [2, 4]), "optimal", 6.0)
    found = reference_of(two_tasks(), both_at_once, "total_time", "cheat", 1.0)
    assert (found.objective, found.bound) == (math.inf, 6.0)


def test_later_runs_improve_the_cached_reference_and_never_worsen_it(tmp_path: Path) -> None:
    known = References(tmp_path)
    for found in (
        Reference(10.0, 6.5, "a", "a"),
        Reference(8.0, 6.0, "b", "b"),
        Reference(9.0, 7.0, "c", "c"),
    ):
        known.improve(two_tasks(), "total_time", found)
    best = References(tmp_path).known(two_tasks(), "total_time")
    assert (best.objective, best.solver, best.bound, best.bound_solver) == (8.0, "b", 7.0, "c")
    # A reference of one objective is none of another.
    assert References(tmp_path).known(two_tasks(), "makespan").objective == math.inf


def test_merge_keeps_self_in_a_tie() -> None:
    mine = Reference(8.0, 6.0, "me", "me", 1.0)
    yours = replace(mine, solver="you", bound_solver="you", seconds=2.0)
    assert mine.merge(yours) == replace(mine, seconds=2.0)


def test_damaged_cache_file_is_computed_again(tmp_path: Path) -> None:
    known = References(tmp_path)
    known.improve(two_tasks(), "total_time", Reference(8.0, 8.0))
    (file,) = tmp_path.rglob("*.json")
    file.write_text(file.read_text()[:20])
    assert known.known(two_tasks(), "total_time").objective == math.inf
    known.improve(two_tasks(), "total_time", Reference(8.0, 8.0))
    assert known.known(two_tasks(), "total_time").proved


# -- contradictions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "feasible", "result", "expected"),
    [
        (8.0, True, Result(SHORT_FIRST, "optimal", 8.0), ""),
        (10.0, True, Result(LONG_FIRST, "feasible", 7.0), ""),
        (7.0, True, Result(SHORT_FIRST), "below the bound 8 proved by prover"),
        (7.0, False, Result(SHORT_FIRST), ""),  # an infeasible schedule may cost anything
        (
            10.0,
            True,
            Result(LONG_FIRST, "optimal"),
            "claimed optimal at 10, but a verified schedule by finder costs 8",
        ),
        (
            10.0,
            True,
            Result(LONG_FIRST, "feasible", 9.0),
            "bound 9 claimed, but a verified schedule by finder costs 8",
        ),
        (99.0, False, Result(LONG_FIRST, "optimal"), "claimed optimal at 99"),
    ],
)
def test_contradiction_in_words(
    value: float, feasible: bool, result: Result, expected: str
) -> None:
    known = Reference(8.0, 8.0, "finder", "prover")
    found = known.contradiction(value, feasible, result)
    assert expected in found
    assert bool(expected) == bool(found)


def test_bound_above_its_own_schedule_is_a_contradiction() -> None:
    result = Result(SHORT_FIRST, "feasible", 9.0)
    assert "its own schedule costs 8" in Reference().contradiction(8.0, True, result)


def test_rounding_is_no_contradiction() -> None:
    third = 1 / 3
    known = Reference(third, third)
    result = Result(SHORT_FIRST, "optimal", third)
    assert not known.contradiction(third * (1 - 1e-12), True, result)
    assert known.contradiction(third * (1 - 1e-6), True, result)


# -- random play -----------------------------------------------------------------------------------


def test_random_play_is_reproducible_and_cached(tmp_path: Path) -> None:
    first = References(tmp_path / "a").random(two_tasks(), Setting())
    assert first == References(tmp_path / "b").random(two_tasks(), Setting())
    assert 8.0 < first.mean < 10.0  # a mixture of the two orders
    assert (first.mean * EPISODES) % 1 == pytest.approx(0.0)
    assert first.dead_ends == 0.0
    (file,) = (tmp_path / "a").rglob("*.json")
    key = f"total_time-fit-none-together-{EPISODES}"
    assert read_json(file)["random"] == {key: [first.mean, 0.0]}


def test_random_play_does_not_depend_on_what_the_solver_observes(tmp_path: Path) -> None:
    online = Setting(track="online", observe="arrived")
    first = References(tmp_path / "a").random(two_tasks(), Setting())
    assert References(tmp_path / "b").random(two_tasks(), online) == first


def test_random_play_in_a_dead_end_is_penalised_and_counted(tmp_path: Path) -> None:
    """Agents of 1 and 2 units: a dead end wherever the small task takes the large agent first."""
    instance = two_tasks(
        duration=[[1], [1]],
        demand=[[[1]], [[2]]],
        capacity=[[1], [2]],
        agent_type=[0, 0],
        sharing="budget",
    )
    found = References(tmp_path).random(instance, Setting(track="assign"))
    assert 0.1 < found.dead_ends < 0.5
    penalised = objective(instance, Schedule([0], [1], [0], [1]), "total_time")
    assert found.mean == pytest.approx((1 - found.dead_ends) * 2 + found.dead_ends * penalised)


# -- the shipped files -----------------------------------------------------------------------------


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the shipped files, which is empty."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(references, "SHIPPED", folder)
    references._shipped_references.cache_clear()
    yield folder
    references._shipped_references.cache_clear()


def test_store_writes_the_known_references_with_the_command(
    tmp_path: Path, empty_folder: Path
) -> None:
    known = References(tmp_path / "cache")
    known.improve(two_tasks(), "total_time", Reference(8.0, 8.0, "x", "x", 3.0))
    command = "python -m bench ..."
    path = known.store("two", [two_tasks()], "total_time", command, empty_folder)
    assert read_json(path)["commands"] == {"total_time": command}
    elsewhere = References(tmp_path / "empty").known(two_tasks(), "total_time")
    assert (elsewhere.objective, elsewhere.bound, elsewhere.solver) == (8.0, 8.0, "x")
    without = References(tmp_path / "empty", shipped=False).known(two_tasks(), "total_time")
    assert without.objective == math.inf


@pytest.mark.parametrize(
    "path", sorted(references.SHIPPED.glob("*.json")), ids=lambda path: path.stem
)
def test_shipped_file_is_consistent_and_names_its_commands(path: Path) -> None:
    data = read_json(path)
    assert data["references"]
    for digest, objectives in data["references"].items():
        assert len(digest) == 64
        for name, fields in objectives.items():
            known = Reference(**fields)
            assert f"dataset={path.stem}" in data["commands"][name]
            assert known.bound <= known.objective < math.inf
            assert known.bound > 0 or name == "tardiness"
            assert known.solver
            assert known.bound_solver


# -- computing the shipped files again -------------------------------------------------------------


def test_mismatch_between_a_new_and_a_shipped_reference() -> None:
    proven = Reference(8.0, 8.0, "x", "x")
    feasible = Reference(10.0, 6.0, "x", "x")
    not_proven = "the file holds a proven optimum, which was not proven again"
    assert mismatch(proven, proven) == ""
    assert mismatch(feasible, proven) == ""
    assert mismatch(feasible, Reference(9.0, 7.0, "y", "y")) == ""
    assert mismatch(proven, feasible) == not_proven
    assert mismatch(proven, Reference()) == not_proven
    assert "CONTRADICTION" in mismatch(proven, Reference(7.0, 7.0, "y", "y"))
    assert "CONTRADICTION" in mismatch(proven, Reference(9.0, 9.0, "y", "y"))
    assert "CONTRADICTION" in mismatch(feasible, Reference(11.0, 10.5, "y", "y"))


@pytest.mark.parametrize("name", ["ship", "update_references"])
def test_recomputation_drops_the_options_that_it_replaces(name: str) -> None:
    recorded = (
        f"python -m bench +solver=cpsat dataset=tiny {name}=true cache=x runs=y rerun=true "
        "tracking=off reference.seconds=9 reference.shipped=true budget.seconds=60"
    )
    assert recomputation(recorded, Path("/f")) == [
        *("+solver=cpsat", "dataset=tiny", "tracking=off", "budget.seconds=60"),
        *("cache=/f/cache", "runs=/f/runs", "reference.shipped=false", "reference.seconds=0"),
    ]


@pytest.fixture
def shipped_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a shipped file, with the makespan of the worked example alone."""
    data = read_json(references.SHIPPED / "seed_example.json")
    data["commands"] = {"makespan": data["commands"]["makespan"]}
    path = tmp_path / "seed_example.json"
    path.write_text(json.dumps(data))
    monkeypatch.setattr("bench.references.__main__.SHIPPED", tmp_path)
    return path


@pytest.mark.slow
def test_recorded_command_proves_the_shipped_optimum_again(
    shipped_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = read_json(shipped_copy)
    (known,) = data["references"].values()
    known["makespan"]["bound"] = 1.0  # as if the optimum had not been proven
    shipped_copy.write_text(json.dumps(data))
    assert main(["seed_example", "--write"]) == 0
    out = capsys.readouterr().out.strip()
    assert out == "seed_example makespan: 1 of 1 optima proven (0 in the file)"
    (written,) = read_json(shipped_copy)["references"].values()
    assert written["makespan"]["objective"] == written["makespan"]["bound"] == 250.0
    known["makespan"] |= {"objective": 240.0, "bound": 240.0}
    shipped_copy.write_text(json.dumps(data))
    assert main([]) == 1
    assert "CONTRADICTION" in capsys.readouterr().out


def test_unknown_name_is_an_error(shipped_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert "'nothing' must be one of seed_example" in capsys.readouterr().err
