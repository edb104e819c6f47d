"""References: what is known, who found it, what contradicts it, and that it survives bad input."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import references
from bench.contracts import Budget, Result, Solver
from bench.errors import UserError
from bench.instance import Instance, read_json
from bench.metrics import objective, trivial_bound
from bench.references import PLAYS, Reference, References, reference_of
from bench.references.__main__ import main, objection
from bench.schedule import Schedule
from bench.setting import Setting


def instance(**changes: object) -> Instance:
    """Two tasks of 2 and 4 ticks on one agent that holds one: total time 8 (short first) or 10; alone 6."""
    fields = {
        "duration": [[2], [4]],
        "demand": [[[1]], [[1]]],
        "capacity": [[1]],
        "agent_type": [0],
        "name": "two",
    }
    return Instance(**{**fields, **changes})


SHORT_FIRST = Schedule([0, 1], [0, 0], [0, 2], [2, 6])
LONG_FIRST = Schedule([0, 1], [0, 0], [4, 0], [6, 4])


class Oracle(Solver):
    """Hands back a given result and counts how often it is asked."""

    def __init__(self, result: Result | Exception) -> None:
        self.result, self.asked = result, 0

    def solve(
        self, problem: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        self.asked += 1
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def quiet(label: str, done: int, total: int, note: str) -> None:
    pass


def test_without_anything_known_there_is_the_trivial_bound(tmp_path: Path) -> None:
    known = References(tmp_path).known(instance(), "total_time")
    assert (known.objective, known.bound, known.bound_solver, known.proved) == (
        math.inf,
        6.0,
        "trivial",
        False,
    )


def test_the_reference_solver_is_asked_once(tmp_path: Path) -> None:
    oracle = Oracle(Result(SHORT_FIRST, "optimal", 8.0))
    for _ in range(2):
        known = References(tmp_path, oracle, seconds=5, name="oracle")
        known.ensure([instance()], Setting(), quiet)
    found = known.known(instance(), "total_time")
    assert (found.objective, found.bound, found.solver, found.seconds, found.proved) == (
        8.0,
        8.0,
        "oracle",
        5,
        True,
    )
    assert oracle.asked == 1


def test_an_unproved_reference_is_searched_again_only_with_more_time(tmp_path: Path) -> None:
    oracle = Oracle(Result(LONG_FIRST, "feasible", 7.0))
    for seconds in (5, 5, 4, 6):
        References(tmp_path, oracle, seconds).ensure([instance()], Setting(), quiet)
    assert oracle.asked == 2


def test_a_solver_that_cannot_is_not_asked_again(tmp_path: Path) -> None:
    oracle = Oracle(UserError("too large"))
    for _ in range(2):
        References(tmp_path, oracle, 5).ensure([instance()], Setting(), quiet)
    assert oracle.asked == 1
    assert References(tmp_path).known(instance(), "total_time").objective == math.inf


def test_an_infeasible_schedule_is_no_reference() -> None:
    both_at_once = Result(Schedule([0, 1], [0, 0], [0, 0], [2, 4]), "optimal", 6.0)
    found = reference_of(instance(), both_at_once, "total_time", "cheat", 1.0)
    assert (found.objective, found.bound) == (math.inf, 6.0)


def test_later_runs_improve_what_is_cached_and_never_worsen_it(tmp_path: Path) -> None:
    known = References(tmp_path)
    for found in (
        Reference(10.0, 6.5, "a", "a"),
        Reference(8.0, 6.0, "b", "b"),
        Reference(9.0, 7.0, "c", "c"),
    ):
        known.improve(instance(), "total_time", found)
    best = References(tmp_path).known(instance(), "total_time")
    assert (best.objective, best.solver, best.bound, best.bound_solver) == (8.0, "b", 7.0, "c")
    assert (
        References(tmp_path).known(instance(), "makespan").objective == math.inf
    )  # one objective says nothing of another


@pytest.mark.parametrize(
    ("value", "feasible", "result", "said"),
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
def test_contradictions_are_put_into_words(
    value: float, feasible: bool, result: Result, said: str
) -> None:
    known = Reference(8.0, 8.0, "finder", "prover")
    found = known.contradiction(value, feasible, result)
    assert said in found
    assert bool(said) == bool(found)


def test_a_bound_above_its_own_schedule_is_a_contradiction() -> None:
    assert "its own schedule costs 8" in Reference().contradiction(
        8.0, True, Result(SHORT_FIRST, "feasible", 9.0)
    )


def test_rounding_is_no_contradiction() -> None:
    third = 1 / 3
    assert not Reference(third, third).contradiction(
        third * (1 - 1e-12), True, Result(SHORT_FIRST, "optimal", third)
    )


def test_random_play_is_the_same_everywhere_and_cached(tmp_path: Path) -> None:
    first = References(tmp_path / "a").random(instance(), Setting())
    assert first == References(tmp_path / "b").random(instance(), Setting())
    assert 8.0 < first.mean < 10.0  # a mixture of the two orders
    assert (first.mean * PLAYS) % 1 == pytest.approx(0.0)
    assert first.dead_ends == 0.0
    (file,) = (tmp_path / "a").rglob("*.json")
    key = f"total_time-fit-none-together-{PLAYS}"
    assert read_json(file)["random"] == {key: [first.mean, 0.0]}
    online = References(tmp_path / "a").random(
        instance(), Setting(track="online", observe="arrived")
    )
    assert online == first  # the zero does not depend on what the solver sees


def test_random_play_that_dead_ends_is_penalised_and_said(tmp_path: Path) -> None:
    """Agents of 1 and 2 units: the large task dead-ends wherever the small one took the large agent."""
    problem = instance(
        duration=[[1], [1]],
        demand=[[[1]], [[2]]],
        capacity=[[1], [2]],
        agent_type=[0, 0],
        sharing="budget",
    )
    found = References(tmp_path).random(problem, Setting(track="assign"))
    assert 0.1 < found.dead_ends < 0.5
    penalty = objective(problem, Schedule([0], [1], [0], [1]), "total_time")
    assert found.mean == pytest.approx((1 - found.dead_ends) * 2 + found.dead_ends * penalty)


def test_a_damaged_cache_file_is_computed_again(tmp_path: Path) -> None:
    known = References(tmp_path)
    known.improve(instance(), "total_time", Reference(8.0, 8.0))
    (file,) = tmp_path.rglob("*.json")
    file.write_text(file.read_text()[:20])
    assert known.known(instance(), "total_time").objective == math.inf
    known.improve(instance(), "total_time", Reference(8.0, 8.0))
    assert known.known(instance(), "total_time").proved


def test_shipping_writes_what_is_known_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "SHIPPED", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    references._shipped.cache_clear()
    known = References(tmp_path / "cache")
    known.improve(instance(), "total_time", Reference(8.0, 8.0, "x", "x", 3.0))
    path = known.ship(
        "two", [instance()], "total_time", "python -m bench ...", tmp_path / "shipped"
    )
    assert read_json(path)["commands"] == {"total_time": "python -m bench ..."}
    elsewhere = References(tmp_path / "empty").known(instance(), "total_time")
    assert (elsewhere.objective, elsewhere.bound, elsewhere.solver) == (8.0, 8.0, "x")
    monkeypatch.undo()
    references._shipped.cache_clear()


@pytest.mark.parametrize(
    "path", sorted(references.SHIPPED.glob("*.json")), ids=lambda path: path.stem
)
def test_shipped_references_are_sound_and_say_how_to_prove_them(path: Path) -> None:
    data = read_json(path)
    for digest, objectives in data["references"].items():
        assert len(digest) == 64
        for name, fields in objectives.items():
            known = Reference(**fields)
            assert f"dataset={path.stem}" in data["commands"][name]
            assert known.bound <= known.objective < math.inf
            assert known.bound > 0 or name == "tardiness"
            assert known.solver
            assert known.bound_solver


def test_merge_keeps_self_in_a_tie() -> None:
    mine = Reference(8.0, 6.0, "me", "me", 1.0)
    assert mine.merge(replace(mine, solver="you", bound_solver="you", seconds=2.0)) == replace(
        mine, seconds=2.0
    )
    assert trivial_bound(instance(), "total_time") == 6.0


# -- proving again ---------------------------------------------------------------------------------------------------


def test_what_is_found_from_scratch_is_compared_with_what_is_shipped() -> None:
    proved, open_ = Reference(8.0, 8.0, "x", "x"), Reference(10.0, 6.0, "x", "x")
    assert objection(proved, proved) == ""
    assert objection(open_, proved) == ""
    assert objection(open_, Reference(9.0, 7.0, "y", "y")) == ""
    assert objection(proved, open_) == "not proved again"
    assert objection(proved, Reference()) == "not proved again"
    assert "CONTRADICTION" in objection(proved, Reference(7.0, 7.0, "y", "y"))
    assert "CONTRADICTION" in objection(proved, Reference(9.0, 9.0, "y", "y"))
    assert "CONTRADICTION" in objection(open_, Reference(11.0, 10.5, "y", "y"))


@pytest.fixture
def shipped_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped file with the makespan of the worked example alone, which may be written to."""
    data = read_json(references.SHIPPED / "seed_example.json")
    data["commands"] = {"makespan": data["commands"]["makespan"]}
    path = tmp_path / "seed_example.json"
    path.write_text(json.dumps(data))
    monkeypatch.setattr("bench.references.__main__.SHIPPED", tmp_path)
    return path


def test_shipped_references_are_proved_again_by_their_own_command(
    shipped_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = read_json(shipped_copy)
    (known,) = data["references"].values()
    known["makespan"]["bound"] = 1.0  # as if it had not been proved
    shipped_copy.write_text(json.dumps(data))
    assert main(["seed_example", "--write"]) == 0
    assert (
        capsys.readouterr().out.strip()
        == "seed_example makespan: 1 of 1 proved from scratch (0 were)"
    )
    (written,) = read_json(shipped_copy)["references"].values()
    assert written["makespan"]["objective"] == written["makespan"]["bound"] == 250.0
    known["makespan"] |= {"objective": 240.0, "bound": 240.0}
    shipped_copy.write_text(json.dumps(data))
    assert main([]) == 1
    assert "CONTRADICTION" in capsys.readouterr().out


def test_an_unknown_name_is_refused(shipped_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert "'nothing' must be one of seed_example" in capsys.readouterr().err
