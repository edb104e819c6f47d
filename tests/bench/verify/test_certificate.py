"""The command on certificates: valid ones of each kind, and each claim made false once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.contracts import Budget
from bench.instance import write_json
from bench.metrics import objective, trivial_bound
from bench.schedule import Schedule
from bench.setting import Setting
from bench.verify import knapsack
from bench.verify.__main__ import main
from bench.verify.problem import ExactObjective, ExactProblem
from bench.verify.proofs import proven_bound
from datasets.gangs import Gangs
from solvers.cpsat import CpSat
from solvers.exact.annealing import greedy_schedule
from solvers.exact.bounds import relaxation_bounds
from solvers.exact.objective_terms import Terms
from tests.bench.verify.examples import (
    ASSIGNMENT_DUALS,
    CAPACITY_DUALS,
    MULTIPLIERS,
    PACKING_DUALS,
    SEARCH,
    VALID,
    CertificateForm,
    certificate,
    machine,
    packing,
    valid_certificate,
)

Command = Callable[..., tuple[int, str, str]]
Change = Callable[[CertificateForm], Any]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command: it takes certificates and options; it returns (status, output, errors)."""

    def run(data: Any, *options: str) -> tuple[int, str, str]:
        write_json(tmp_path / "certificates.json.gz", data)
        status = main([str(tmp_path / "certificates.json.gz"), *options])
        out, err = capsys.readouterr()
        return status, "\n".join(" ".join(line.split()) for line in out.splitlines()), err

    return run


# -- valid certificates ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VALID)
def test_valid_certificate_of_each_kind_passes(kind: str, command: Command) -> None:
    status, out, err = command(valid_certificate(kind))
    assert (status, err) == (0, "")
    assert "INVALID" not in out
    assert ("could not" in out) == (kind == "search without a root")
    assert ("confirmed by second model" in out) == (kind in ("search", "search without a root"))
    assert "objective and bound meet, the schedule is optimal" in out


def test_each_certificate_of_a_list_is_checked(command: Command) -> None:
    invalid = valid_certificate("capacity_prices") | {"bound": 9.0, "bound_internal": 9.0}
    valid = [valid_certificate(kind) for kind in VALID]
    status, out, err = command([*valid, invalid, {"kind": "certificate"}])
    assert status == 1
    assert out.count("certificate ") == len(VALID) + 1
    assert out.count("INVALID") == 2  # the bound and, with it, the claim of an optimum
    last = len(VALID) + 2
    assert err == (
        f"error: certificate {last} of {last}: "
        "schema: an integer of at least 1 is needed, got None\n"
    )


def test_empty_list_and_instance_alone_are_no_certificates(command: Command) -> None:
    assert command([]) == (2, "", "error: the list holds no certificate\n")
    assert "of an instance and a schedule, name both files" in command(machine().to_dict())[2]


def test_bound_without_schedule_can_be_checked(command: Command) -> None:
    alone = valid_certificate("capacity_prices") | {
        "schedule": None,
        "objective": None,
        "objective_internal": None,
        "status": "unknown",
    }
    status, out, _ = command(alone)
    assert status == 0
    assert "only a bound is claimed" in out


def test_own_sense_of_a_maximisation_is_checked(command: Command) -> None:
    profit = packing(sense="max", offset=10)
    form = certificate(profit, Schedule.from_assignment(profit, [0, 1]), 4.0, MULTIPLIERS)
    assert (form["objective"], form["bound"]) == (16.0, 16.0)
    assert command(form)[0] == 0
    status, out, _ = command(form | {"bound": 15.0})
    assert status == 1
    assert "bound INVALID: 15 claimed, 4 is 16 in the instance's own sense" in out


# -- false claims ----------------------------------------------------------------------------------


def _set(path: str, value: Any) -> Change:
    """Return a function that sets the field at `path`, such as `proof.prices.0`."""

    def change(data: CertificateForm) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        where: Any = data
        for key in parents:
            where = where[key]
        where[last] = value

    return change


def _raise_bound(data: CertificateForm) -> None:
    """Claim a bound that is 1 too high, without a schedule that would refute it."""
    data["bound"] += 1
    data["bound_internal"] += 1
    data.update(schedule=None, objective=None, objective_internal=None, status="unknown")


def _raise_objective(data: CertificateForm) -> None:
    data["objective"] += 1
    data["objective_internal"] += 1


_FALSE_CLAIMS: list[tuple[str, Change, str]] = [
    *[(kind, _raise_bound, "bound INVALID: ") for kind in VALID if not kind.startswith("search")],
    *[(kind, _raise_bound, "search INVALID: ") for kind in VALID if kind.startswith("search")],
    ("trivial", _set("bound_internal", 7.0), "bound INVALID: 6 claimed, 7 is 7 in"),
    ("trivial", _set("schedule.start", [0, 1]), "schedule INVALID: "),
    (
        "capacity_prices",
        _raise_objective,
        "objective INVALID: 9 claimed (internal), the schedule costs 8",
    ),
    ("capacity_prices", _set("objective", 7.0), "objective INVALID: 7 claimed, 8 is 8 in"),
    (
        "capacity_prices",
        _set("schedule.start", [0, 1]),
        "schedule INVALID: task 1 on agent 0 in ticks [1, 6) runs 5",
    ),
    (
        "capacity_prices",
        _set("schedule.agent", [0, 3]),
        "schedule INVALID: piece 1: task 1 on agent 3 does not exist",
    ),
]

# (kind, field of the proof or `instance.` field, value, text after "bound INVALID: ")
_FALSE_PROOFS: list[tuple[str, str, Any, str]] = [
    ("capacity_prices", "prices.0.0.0", 2, "8 claimed (internal), the proof (capacity_prices)"),
    ("capacity_prices", "prices.0.0.0", -1, "proof.prices[0][0][0]: -1 must be at least 0"),
    ("capacity_prices", "prices.0.0.0", 1.5, "proof.prices[0][0][0]: an integer is needed"),
    ("capacity_prices", "prices", [[[1]]], "proof.prices[0][0]: a list of 2 is needed"),
    ("capacity_prices", "scale", 0, "proof.scale: 0 must be at least 1"),
    ("capacity_prices", "grid", [0, 2, 2], "proof.grid: at least two increasing ticks"),
    ("capacity_prices", "quota_prices", [[[1, 1]]], "proof.quota_prices: a list of 0"),
    ("slot_prices", "slots", [0], "proof.slots[0]: 0, but 1 tasks may fit on the agent"),
    ("slot_prices", "slot_prices.0.0", 2, "8 claimed (internal), the proof (capacity_prices)"),
    ("knapsack_multipliers", "multipliers.0", 4, "4 claimed (internal), the proof"),
    ("knapsack_multipliers", "resource", [0, 1], "proof.resource[1]: 1 is not a resource"),
    ("knapsack_multipliers", "instance.capacity.0.0", 2, "4 claimed (internal), the proof"),
    ("knapsack_multipliers", "quota_prices", [[0]], "proof.quota_prices: a list of 0 is needed"),
    (
        "multipliers and duals",
        "prices.0.1",
        1,
        "8 claimed (internal), the proof (knapsack_multipliers) shows 7",
    ),
    (
        "multipliers and duals",
        "prices.0.1",
        3,
        "8 claimed (internal), the proof (knapsack_multipliers) shows 7",
    ),
    (
        "multipliers and duals",
        "prices",
        None,
        "8 claimed (internal), the proof (knapsack_multipliers) shows 6",
    ),
    (
        "multipliers and duals",
        "quota_prices.0.0",
        1,
        "8 claimed (internal), the proof (knapsack_multipliers) shows 7",
    ),
    ("multipliers and duals", "prices.0.1", -1, "proof.prices[0][1]: -1 must be at least 0"),
    ("multipliers and duals", "quota_prices.1.1", -1, "proof.quota_prices[1][1]: -1 must be"),
    ("multipliers and duals", "prices", [[0, 2]], "proof.prices: a list of 2 is needed"),
    ("packing_prices", "rents.0.0.1", -1, "proof.rents[0][0][1]: -1 must be at least 0"),
    ("packing_prices", "rents.0.0.1", 0.5, "proof.rents[0][0][1]: an integer is needed"),
    ("packing_prices", "rents.1.0", [2], "proof.rents[1][0]: a list of 2 is needed"),
    ("packing_prices", "rents.1", [], "proof.rents[1]: a list of 1 is needed"),
    ("packing_prices", "rents", [[[2, 1]]] * 2, "proof.rents: a list of 3 is needed"),
    ("packing_prices", "rents", 2, "proof.rents: a list is needed"),
    ("packing_prices", "rents", None, "proof.rents: missing"),
    ("packing_prices", "pool", None, "proof.pool: missing"),
    ("packing_prices", "pool", [1], "proof.pool[0]: 1 is not a pool of `rents` (0 to 0)"),
    ("packing_prices", "pool", [-1], "proof.pool[0]: -1 must be at least 0"),
    ("packing_prices", "rents.0.0.0", 3, "12 claimed (internal), the proof (packing_prices)"),
    (
        "packing_prices",
        "rents.2.0",
        [1, 1],
        "12 claimed (internal), the proof (packing_prices) shows 10",
    ),
    ("packing_prices", "scale", 2, "12 claimed (internal), the proof (packing_prices) shows 9"),
    (
        "packing_prices",
        "instance.capacity",
        [[4]],
        "12 claimed (internal), the proof (packing_prices) shows 6",
    ),
    ("assignment_duals", "task_duals.0", 5, "proof.task_duals[0]: 5 + -2 exceeds 1 * 2"),
    ("assignment_duals", "column_duals.0", [0, 1, 2], "proof.column_duals[0]: needs"),
    ("assignment_duals", "instance.capacity", [[2]], "proof.task_duals[0]: 4 + 0 exceeds 1 * 2"),
    (
        "assignment_duals",
        "column_duals",
        [[0, 1, -2]] * 2,
        "proof.column_duals[1]: more than 1",
    ),
    ("energy_duals", "prices.0.0.0", -1, "proof.prices[0][0][0]: -1 must be at least 0"),
    ("energy_duals", "prices.0.0.0", 0, "6 claimed (internal), the proof (energy_duals)"),
    ("energy_duals", "thresholds.0", 1, "proof.thresholds: none may lie after the last"),
    ("search, budget", "root.scale", -1, "proof.root.scale: -1 must be at least 1"),
    ("search, packing", "root.rents.0.0.1", -1, "proof.root.rents[0][0][1]: -1 must"),
    (
        "search",
        "",
        ASSIGNMENT_DUALS | {"kind": "knapsack_multipliers"},
        "proof.kind: knapsack_multipliers needs",
    ),
    ("search, makespan", "", CAPACITY_DUALS, "proof.kind: capacity_prices needs `time` sharing"),
    ("search, makespan", "", PACKING_DUALS, "proof.kind: packing_prices needs `time` sharing"),
]


def _invalid_lines(out: str) -> list[str]:
    return [line.strip() for line in out.splitlines() if "INVALID" in line]


@pytest.mark.parametrize(("kind", "change", "expected"), _FALSE_CLAIMS)
def test_false_claim_is_found(kind: str, change: Change, expected: str, command: Command) -> None:
    data = copy.deepcopy(valid_certificate(kind))
    change(data)
    status, out, err = command(data)
    assert status == 1
    assert any(line.startswith(expected) for line in _invalid_lines(out)), out
    assert err == ""


@pytest.mark.parametrize(("kind", "field", "value", "expected"), _FALSE_PROOFS)
def test_false_proof_is_found(
    kind: str, field: str, value: Any, expected: str, command: Command
) -> None:
    path = field if field.startswith("instance.") else f"proof.{field}".rstrip(".")
    data = copy.deepcopy(valid_certificate(kind))
    _set(path, value)(data)
    status, out, err = command(data)
    assert status == 1
    assert any(line.startswith(f"bound INVALID: {expected}") for line in _invalid_lines(out)), out
    assert err == ""


def test_schedule_that_costs_less_than_the_bound_refutes_it(command: Command) -> None:
    data = valid_certificate("search") | {"bound": 9.0, "bound_internal": 9.0}
    status, out, _ = command(data)
    assert status == 1
    assert "bound INVALID: 9 claimed (internal), but the schedule costs 8" in out


def test_false_claim_of_an_optimum_is_found(command: Command) -> None:
    data = valid_certificate("capacity_prices") | {"bound": 7.0, "bound_internal": 7.0}
    status, out, _ = command(data)
    assert status == 1
    assert "status INVALID: claimed optimal, but objective and bound do not meet" in out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_set("schema", 2), "schema: 2 is newer than 1, the newest this version reads; upgrade"),
        (_set("schema", True), "schema: an integer of at least 1 is needed, got True"),
        (_set("kind", "letter"), "kind: this is no certificate"),
        (
            _set("proof.kind", "oracle"),
            "proof.kind: 'oracle' is unknown; this version checks trivial, ",
        ),
        (_set("proof", None), "proof.kind: missing"),
        (
            _set("proof", {"kind": "search", "root": {"kind": "search"}}),
            "proof.root.kind: 'search' is unknown",
        ),
        (
            _set("objective_name", "tardiness"),
            "objective_name: tardiness needs due dates, and the instance has none",
        ),
        (_set("objective_name", "profit"), "objective_name: 'profit' must be one of total_time"),
        (_set("bound", None), "bound: a finite number is needed, got None"),
        (_set("bound_internal", "8"), "bound_internal: a finite number is needed, got '8'"),
        (_set("objective", None), "objective: a finite number is needed, got None"),
        (_set("instance.duration", [[0], [4]]), "duration[0, 0]: 0 must be at least 1"),
        (_set("schedule.task", [0]), "agent: 2 entries, expected 1"),
        (lambda data: data.pop("proof"), "proof: missing"),
        (lambda data: data.pop("schedule"), "schedule: missing"),
    ],
)
def test_unreadable_certificate_is_a_one_line_error(
    change: Change, expected: str, command: Command
) -> None:
    data = copy.deepcopy(valid_certificate("capacity_prices"))
    change(data)
    status, out, err = command(data)
    assert status == 2
    assert err.startswith(f"error: certificate 1 of 1: {expected}")
    assert err.count("\n") == 1
    assert "checked" not in out


def test_truncated_file_and_bad_options_are_one_line_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "truncated.json"
    path.write_text(json.dumps(valid_certificate("search"))[:-20])
    assert main([str(path)]) == 2
    assert "may be cut short" in capsys.readouterr().err
    for options, expected in (
        (["--seconds", "0"], "a positive number"),
        (["--objective", "makespan"], "a certificate names its own"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([str(path), *options])
        assert expected in capsys.readouterr().err


# -- proofs that cannot be checked -----------------------------------------------------------------


def test_second_model_that_is_too_large_is_reported(command: Command) -> None:
    long = machine(duration=[[200_001], [400_001]])
    schedule = Schedule.from_assignment(long, [0, 0], [0, 200_001])
    bound = objective(long, schedule, "total_time")
    status, out, _ = command(certificate(long, schedule, bound, SEARCH))
    assert status == 3
    assert "search could not be checked: too large for the second model" in out
    assert "status not proven: claimed optimal; objective and bound meet, but" in out


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("MAX_STATES", "a knapsack takes more"), ("MAX_EXTENSIONS", "the knapsacks take more")],
)
def test_bound_with_too_large_knapsacks_is_left_to_the_second_model(
    limit: str, expected: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knapsack, limit, 0)
    status, out, _ = command(valid_certificate("packing_prices"))
    assert status == 0
    assert f"bound could not be checked: {expected}" in out
    assert "search confirmed by second model" in out


# -- a proof by a solver ---------------------------------------------------------------------------


def test_packing_proof_of_the_relaxation_is_valid(command: Command) -> None:
    gangs = next(Gangs("gangs", 8, [4, 4], loads=[1.05]).instances("test"))
    result = CpSat(threads=1).solve(gangs, Setting(), Budget(3600.0), np.random.default_rng(0))
    terms = Terms.of(gangs, "total_time")
    relaxation = relaxation_bounds(gangs, terms, "total_time", greedy_schedule(gangs), 3600.0)
    best = relaxation.bounds[-1]
    assert best.name == "packing"
    root = json.loads(json.dumps(best.proof))
    bound = float(best.value)
    assert root["kind"] == "packing_prices"
    problem = ExactProblem(gangs)
    shown = proven_bound(problem, ExactObjective(problem, "total_time"), root)
    assert trivial_bound(gangs, "total_time") < bound <= shown
    data = certificate(gangs, result.schedule, bound, root) | {"bound_name": "packing"}
    status, out, err = command(data)
    assert (status, err) == (0, "")
    claim = f"bound checked: {bound:.10g} claimed (internal)"
    assert f"{claim}, the proof (packing_prices) shows" in out
    _raise_bound(data)
    assert command(data)[0] == 1
    proof = {"kind": "search", "solver": "cpsat", "root": root}
    searched = certificate(gangs, result.schedule, result.lower_bound, proof)
    status, out, err = command(searched, "--seconds", "3600")
    assert (status, err) == (0, "")
    assert "bound checked: the root (packing_prices) shows" in out
