"""Attempts to get a false bound or optimum into the references: none changes what is known."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.contracts import Result, Solver, no_progress
from bench.instance import Instance, read_json, write_json
from bench.references import CACHE_SCHEMA, Reference, References
from bench.references.own_solvers import is_own_exact_solver, patched
from bench.schedule import Schedule
from bench.setting import Setting
from solvers import cpsat, exact, lagrangian
from solvers.cpsat import CpSat
from solvers.lagrangian import Lagrangian
from tests.bench.verify.examples import CAPACITY_DUALS, machine

SHORT_FIRST = Schedule.from_assignment(machine(), [0, 0], [0, 2])  # total time 8, the optimum
LONG_FIRST = Schedule.from_assignment(machine(), [0, 0], [4, 0])  # 10
TRIVIAL = 6.0


class Liar(Solver):
    """Claims what it is not asked."""

    certifies = True

    def solve(self, *arguments: object) -> Result:
        return Result(LONG_FIRST, "optimal", 10.0)


class Subclass(CpSat):
    """Derives from the suite's own exact solver."""

    solve = Liar.solve


def renamed() -> Solver:
    """Return a plug-in whose class has the name and the module of the suite's own."""
    kind = type("CpSat", (Liar,), {"__module__": "solvers.cpsat", "certifies": True})
    kind.__qualname__ = "CpSat"
    plugin: Solver = kind()
    return plugin


def replaced() -> Solver:
    """Return the suite's own solver with another `solve` in the object."""
    plugin = CpSat()
    plugin.solve = Liar().solve  # type: ignore[method-assign]
    return plugin


PRETENDERS: dict[str, Callable[[], Solver]] = {
    "a plug-in that declares certifies": Liar,
    "a subclass of the exact solver": Subclass,
    "a class with the exact solver's name and module": renamed,
    "an object with its solve replaced": replaced,
}
CLAIMS = {
    "without a proof": {},
    "with a proof by search": {"proof": {"kind": "search", "solver": "cpsat"}},
    "with a proof that shows less": {"proof": {"kind": "trivial"}},
    "with a root that shows less": {"proof": {"kind": "search", "root": {"kind": "trivial"}}},
    "with an unknown kind": {"proof": {"kind": "magic"}},
    "with a proof of another form": {"proof": {**CAPACITY_DUALS, "prices": 10**400}},
    "with a proof that is no object": {"proof": "checked"},
}


def compare(folder: Path, plugin: Solver, result: Result) -> tuple[Reference, Result, str]:
    return References(folder).compare(machine(), "total_time", result, plugin, "someone")


@pytest.mark.parametrize("name", PRETENDERS)
def test_an_optimum_is_not_believed_of(name: str, tmp_path: Path) -> None:
    known, proven, wrong = compare(tmp_path, PRETENDERS[name](), Liar().solve())
    assert (known.objective, known.bound, wrong) == (10.0, TRIVIAL, "")
    assert proven.status == "feasible"
    # The honest solver is not refused afterwards.
    honest, _, wrong = compare(tmp_path, CpSat(), Result(SHORT_FIRST, "optimal", 8.0))
    assert (honest.objective, honest.bound, wrong) == (8.0, 8.0, "")


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_bound_is_not_believed(claim: str, tmp_path: Path) -> None:
    for status in ("optimal", "feasible"):
        result = Result(LONG_FIRST, status, 10.0, info=CLAIMS[claim])
        known, proven, _ = compare(tmp_path, Liar(), result)
        assert (known.bound, proven.status) == (TRIVIAL, "feasible")


def test_nothing_in_the_exact_library_as_it_is_counts_as_patched() -> None:
    for found in pkgutil.walk_packages(exact.__path__, "solvers.exact."):
        assert patched(importlib.import_module(found.name)) == [], found.name
    assert patched(cpsat) == patched(lagrangian) == []


def test_a_patched_function_of_the_exact_library_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert is_own_exact_solver(CpSat())
    assert is_own_exact_solver(Lagrangian())
    monkeypatch.setattr(cpsat, "relaxation_bounds", lambda *arguments: None)
    assert not is_own_exact_solver(CpSat())
    monkeypatch.undo()
    monkeypatch.setattr(cpsat._Solve, "run", Liar.solve)
    assert not is_own_exact_solver(CpSat())
    monkeypatch.undo()
    monkeypatch.setattr(CpSat, "solve", Liar.solve)
    assert not is_own_exact_solver(CpSat())
    monkeypatch.undo()
    assert is_own_exact_solver(CpSat())


def test_a_proof_that_holds_is_believed_of_anybody(tmp_path: Path) -> None:
    result = Result(SHORT_FIRST, "optimal", 8.0, info={"proof": CAPACITY_DUALS})
    known, proven, _ = compare(tmp_path, Liar(), result)
    assert (known.objective, known.bound, proven.status) == (8.0, 8.0, "optimal")


def test_a_proof_shows_no_more_than_it_proves(tmp_path: Path) -> None:
    result = Result(SHORT_FIRST, "optimal", 7.5, info={"proof": {"kind": "trivial"}})
    known, proven, _ = compare(tmp_path, Liar(), result)
    assert (known.bound, proven.lower_bound, proven.status) == (TRIVIAL, TRIVIAL, "feasible")


def test_a_contradiction_names_both_sides_and_changes_nothing(tmp_path: Path) -> None:
    compare(tmp_path, CpSat(), Result(SHORT_FIRST, "optimal", 8.0))
    (file,) = tmp_path.rglob("*.json")
    before = file.read_text()
    _, _, wrong = compare(tmp_path, Liar(), Liar().solve())
    assert wrong == (
        "bound 10 claimed, but a verified schedule by someone costs 8 "
        f"(by someone; known from {file})"
    )
    assert file.read_text() == before


def test_the_reference_solver_is_not_believed_either(tmp_path: Path) -> None:
    References(tmp_path, Liar(), 1.0, name="cpsat").ensure([machine()], Setting(), no_progress)
    known = References(tmp_path).known(machine(), "total_time")
    assert (known.objective, known.bound) == (10.0, TRIVIAL)


# -- caches that were received ---------------------------------------------------------------------

GOOD = {"objective": 8.0, "bound": 8.0, "solver": "x", "bound_solver": "x", "seconds": 1.0}
FORGED: dict[str, Any] = {
    "a bound above its objective": {**GOOD, "bound": 9.0},
    "an objective that no schedule has": {**GOOD, "objective": 1.0, "bound": 1.0},
    "a text as a bound": {**GOOD, "bound": "8"},
    "an infinite number": {**GOOD, "objective": math.inf, "bound": 1e400},
    "NaN": {**GOOD, "objective": math.nan},
    "a number beyond all floats": {**GOOD, "bound": 10**400},
    "a boolean": {**GOOD, "bound": True},
    "an unknown field": {**GOOD, "proved": True},
    "a name with control characters": {**GOOD, "solver": "\x1b[2J"},
    "negative seconds": {**GOOD, "seconds": -1.0},
    "a list": [8.0, 8.0],
}


def forge(folder: Path, instance: Instance, **data: Any) -> Path:
    digest = instance.hash()
    file = folder / "references" / digest[:2] / f"{digest}.json"
    file.parent.mkdir(parents=True)
    text = {"schema": CACHE_SCHEMA, "references": {}, "random": {}, **data}
    file.write_text(json.dumps(text))
    return file


@pytest.mark.parametrize("name", FORGED)
def test_a_cached_reference_does_not_count_with(name: str, tmp_path: Path) -> None:
    forge(tmp_path, machine(), references={"total_time": FORGED[name]})
    known = References(tmp_path).known(machine(), "total_time")
    assert (known.objective, known.bound) == (math.inf, TRIVIAL)


def test_bounds_cached_before_they_were_checked_do_not_count(tmp_path: Path) -> None:
    file = forge(tmp_path, machine(), schema=1, references={"total_time": GOOD})
    known = References(tmp_path).known(machine(), "total_time")
    assert (known.objective, known.bound, known.seconds) == (8.0, TRIVIAL, 0.0)
    compare(tmp_path, CpSat(), Result(SHORT_FIRST, "optimal", 8.0))
    assert read_json(file)["schema"] == CACHE_SCHEMA
    assert References(tmp_path).known(machine(), "total_time").proved


@pytest.mark.parametrize("data", [[1, 2], {"schema": "2"}, {"schema": 2, "references": [GOOD]}])
def test_a_cache_file_of_another_form_counts_as_empty(data: Any, tmp_path: Path) -> None:
    file = forge(tmp_path, machine())
    write_json(file, data)
    assert References(tmp_path).known(machine(), "total_time").objective == math.inf


@pytest.mark.parametrize("mean", [[1.0], ["9", 0.0], [math.nan, 0.0], [9.0, 2.0], None])
def test_a_forged_mean_of_random_play_is_played_again(mean: Any, tmp_path: Path) -> None:
    honest = References(tmp_path / "honest").random(machine(), Setting())
    (key,) = read_json(next((tmp_path / "honest").rglob("*.json")))["random"]
    forge(tmp_path / "forged", machine(), random={key: mean})
    assert References(tmp_path / "forged").random(machine(), Setting()) == honest


def test_a_cached_bound_above_a_verified_schedule_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = forge(
        tmp_path, machine(), references={"total_time": {"bound": 9.0, "bound_solver": "x"}}
    )
    for _ in range(2):
        known, _, wrong = compare(tmp_path, CpSat(), Result(SHORT_FIRST, "feasible", 7.0))
        assert (known.objective, known.bound, wrong) == (8.0, 7.0, "")
    assert caplog.messages == [
        f"{file}: a schedule of someone costs 8, below the bound 9 of x: one of them is wrong; "
        "the bound is removed"
    ]
