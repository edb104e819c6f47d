"""Certificates: a right one of each kind, each claim tampered with once, and every bound against the true optimum."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.contracts import Budget
from bench.instance import Instance, write_json
from bench.metrics import objective, trivial_bound
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, Setting
from bench.verify import knapsack, verify
from bench.verify.__main__ import main
from bench.verify.fields import ProofError, UncheckableError
from bench.verify.knapsack import Knapsacks
from bench.verify.prices import Prices, packing_prices
from bench.verify.problem import Costs, Problem
from bench.verify.proofs import proved
from bench.verify.second_model import search
from datasets.gangs import Gangs
from solvers.cpsat import CpSat
from solvers.exact.annealing import greedy_schedule
from solvers.exact.bounds import relaxation_bounds
from solvers.exact.objective_terms import Terms

Certificate = dict[str, Any]


def certificate(
    problem: Instance,
    schedule: Schedule,
    bound: float,
    proof: dict[str, Any],
    name: str = "total_time",
) -> Certificate:
    value = objective(problem, schedule, name)
    return {
        "schema": 1, "kind": "certificate", "instance": problem.to_dict(), "objective_name": name,
        "schedule": schedule.to_dict(), "objective": problem.original(value), "objective_internal": value,
        "bound": problem.original(bound), "bound_internal": bound, "status": "optimal" if value == bound else "feasible",
        "proof": proof, "solver": "by_hand", "seed": 0,
    }  # fmt: skip


def machine(**changes: Any) -> Instance:
    """Tasks of 2 and 4 ticks on one agent that runs one at a time: total time 8, makespan 6."""
    fields = {
        "duration": [[2], [4]],
        "demand": [[[1]], [[1]]],
        "capacity": [[1]],
        "agent_type": [0],
        "name": "machine",
    }
    return Instance(**{**fields, **changes})


def packing(**changes: Any) -> Instance:
    """Two tasks, a cheap agent (cost 1) that takes one of them, a dear one (cost 3) that takes both: 4."""
    fields = {
        "duration": [[1, 3]] * 2,
        "demand": [[[1], [1]]] * 2,
        "capacity": [[1], [2]],
        "agent_type": [0, 1],
    }
    return Instance(**{**fields, "sharing": "budget", "name": "packing", **changes})


def shared(**changes: Any) -> Instance:
    """On a cheap agent (cost 1) resource 1 is there for one of tasks 2 and 3, and a quota of resource 0 leaves one of tasks 0
    and 1; a dear one (cost 3) takes all: 8."""
    fields = {
        "duration": [[1, 3]] * 4, "demand": [[[1, 0], [0, 0]]] * 2 + [[[0, 1], [0, 0]]] * 2, "capacity": [[2, 1], [0, 0]],
        "agent_type": [0, 1], "tenant": [0, 0, 1, 1], "quota": [[1, 2], [2, 2]],
    }  # fmt: skip
    return Instance(**{**fields, "sharing": "budget", "name": "shared", **changes})


def trio(**changes: Any) -> Instance:
    """Three tasks of 2 ticks and 2 units on one agent with 3 units: one at a time, total time 2 + 4 + 6 = 12."""
    fields = {
        "duration": [[2]] * 3,
        "demand": [[[2]]] * 3,
        "capacity": [[3]],
        "agent_type": [0],
        "name": "trio",
    }
    return Instance(**{**fields, **changes})


MULTIPLIERS = {
    "kind": "knapsack_multipliers",
    "scale": 2,
    "multipliers": [6, 6],
    "resource": [0, 0],
}
PRICED = {
    **MULTIPLIERS,
    "scale": 1,
    "multipliers": [3] * 4,
    "prices": [[0, 2], [0, 0]],
    "quota_prices": [[2, 0], [0, 0]],
}
PRICES = {
    "kind": "capacity_prices",
    "scale": 1,
    "grid": [0, 2, 6],
    "prices": [[[1, 0]]],
    "quota_prices": None,
}
RENTS = {"kind": "packing_prices", "scale": 1, "grid": [0, 2, 4], "prices": [[[0, 0]]], "pool": [0],
         "rents": [[[2, 1]] for _ in range(3)]}  # fmt: skip
DUALS = {"kind": "assignment_duals", "task_duals": [4, 6], "column_duals": [[0, 1, -2]]}
ENERGY = {
    "kind": "energy_duals",
    "thresholds": [0],
    "prices": [[[1]]],
    "quota_prices": None,
    "task_duals": [0, 0],
}
SLOTS = {**PRICES, "prices": [[[0, 0]]], "slot_prices": [[1, 0]], "slots": [1]}
TREE = {"kind": "search", "solver": "by hand", "root": {"kind": "trivial"}}


def right(kind: str) -> Certificate:
    """A certificate in which nothing is wrong."""
    one, both = (
        Schedule.from_assignment(machine(), [0, 0], [0, 2]),
        Schedule.from_assignment(packing(), [0, 1]),
    )
    half, queue = (
        Schedule.from_assignment(shared(), [0, 1, 0, 1]),
        Schedule.from_assignment(trio(), [0] * 3, [0, 2, 4]),
    )
    roomy = machine(capacity=[[2]])
    quoted = machine(capacity=[[2]], tenant=[0, 0], quota=[[1]])
    shop = {**PRICES, "prices": [[[0, 0]]], "quota_prices": [[[1, 0]]]}
    return {
        "trivial": lambda: certificate(
            roomy, Schedule.from_assignment(roomy, [0, 0]), 6.0, {"kind": "trivial"}
        ),
        "knapsack_multipliers": lambda: certificate(packing(), both, 4.0, MULTIPLIERS),
        "multipliers and prices": lambda: certificate(shared(), half, 8.0, PRICED),
        "capacity_prices": lambda: certificate(machine(), one, 8.0, PRICES),
        "quota_prices": lambda: certificate(quoted, one, 8.0, shop),
        "slot_prices": lambda: certificate(machine(), one, 8.0, SLOTS),
        "packing_prices": lambda: certificate(trio(), queue, 12.0, RENTS),
        "assignment_duals": lambda: certificate(machine(), one, 8.0, DUALS),
        "energy_duals": lambda: certificate(machine(), one, 6.0, ENERGY, "makespan"),
        "search": lambda: certificate(machine(), one, 8.0, TREE),
        "search without a root": lambda: certificate(
            machine(), one, 8.0, {"kind": "search", "solver": "by hand"}
        ),
        "search, budget": lambda: certificate(packing(), both, 4.0, {**TREE, "root": MULTIPLIERS}),
        "search, packing": lambda: certificate(trio(), queue, 12.0, {**TREE, "root": RENTS}),
        "search, makespan": lambda: certificate(machine(), one, 6.0, TREE, "makespan"),
    }[kind]()


KINDS = (
    "trivial", "knapsack_multipliers", "multipliers and prices", "capacity_prices", "quota_prices", "slot_prices",
    "packing_prices", "assignment_duals", "energy_duals",
    "search", "search without a root", "search, budget", "search, packing", "search, makespan",
)  # fmt: skip


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """(exit status, output, errors) of the command on certificates."""

    def tell(data: Any, *options: str) -> tuple[int, str, str]:
        write_json(tmp_path / "certificates.json.gz", data)
        status = main([str(tmp_path / "certificates.json.gz"), *options])
        out, err = capsys.readouterr()
        return status, "\n".join(" ".join(line.split()) for line in out.splitlines()), err

    return tell


# -- what is right ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_certificate_of_each_kind_passes(kind: str, told: Any) -> None:
    status, out, err = told(right(kind))
    assert (status, err) == (0, "")
    assert "WRONG" not in out
    assert "could not" not in out or kind == "search without a root"
    assert ("confirmed by second model" in out) == (kind in ("search", "search without a root"))
    assert "objective and bound meet, the plan is optimal" in out


def test_a_list_is_checked_one_by_one_and_each_stands_alone(tmp_path: Path, told: Any) -> None:
    wrong = right("capacity_prices") | {"bound": 9.0, "bound_internal": 9.0}
    status, out, err = told([right(kind) for kind in KINDS] + [wrong, {"kind": "certificate"}])
    assert status == 1
    assert out.count("certificate ") == len(KINDS) + 1
    assert out.count("WRONG") == 2  # the bound and, with it, the claim of an optimum
    last = len(KINDS) + 2
    assert (
        err
        == f"error: certificate {last} of {last}: schema: a whole number of at least 1 is needed, got None\n"
    )


def test_an_empty_list_and_an_instance_alone_are_no_certificates(told: Any) -> None:
    assert told([]) == (2, "", "error: the list holds no certificate\n")
    assert "of an instance and a schedule, name both files" in told(machine().to_dict())[2]


def test_a_bound_alone_can_be_checked(told: Any) -> None:
    alone = right("capacity_prices") | {
        "schedule": None,
        "objective": None,
        "objective_internal": None,
        "status": "unknown",
    }
    status, out, _ = told(alone)
    assert status == 0
    assert "only a bound is claimed" in out


def test_the_own_sense_of_a_maximisation_is_checked(told: Any) -> None:
    profit = packing(sense="max", offset=10)
    one = certificate(profit, Schedule.from_assignment(profit, [0, 1]), 4.0, MULTIPLIERS)
    assert (one["objective"], one["bound"]) == (16.0, 16.0)
    assert told(one)[0] == 0
    status, out, _ = told(one | {"bound": 15.0})
    assert status == 1
    assert "bound WRONG: 15 claimed, 4 is 16 in the instance's own sense" in out


# -- what is wrong ---------------------------------------------------------------------------------------------------


def _proof(path: str, value: Any) -> Callable[[Certificate], None]:
    def change(data: Certificate) -> None:
        *above, last = path.split(".")
        where = data
        for key in above:
            where = where[int(key) if key.isdigit() else key]
        where[int(last) if last.isdigit() else last] = value

    return change


def _raised(data: Certificate) -> None:
    data["bound"] += 1
    data["bound_internal"] += 1
    data.update(schedule=None, objective=None, objective_internal=None, status="unknown")


def _dearer(data: Certificate) -> None:
    data["objective"] += 1
    data["objective_internal"] += 1


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        *[(kind, _raised, "bound WRONG: ") for kind in KINDS if not kind.startswith("search")],
        *[(kind, _raised, "search WRONG: ") for kind in KINDS if kind.startswith("search")],
        ("trivial", _proof("bound_internal", 7.0), "bound WRONG: 6 claimed, 7 is 7 in"),
        ("capacity_prices", _dearer, "objective WRONG: 9 claimed (internal), the schedule costs 8"),
        ("capacity_prices", _proof("objective", 7.0), "objective WRONG: 7 claimed, 8 is 8 in"),
        ("capacity_prices", _proof("schedule.start", [0, 1]), "schedule WRONG: task 1 on agent 0 in ticks [1, 6) runs 5"),
        ("capacity_prices", _proof("schedule.agent", [0, 3]), "schedule WRONG: piece 1: task 1 on agent 3 does not exist"),
        ("capacity_prices", _proof("proof.prices.0.0.0", 2), "bound WRONG: 8 claimed (internal), the proof (capacity_prices)"),
        ("capacity_prices", _proof("proof.prices.0.0.0", -1), "bound WRONG: proof.prices[0][0][0]: -1 must be at least 0"),
        ("capacity_prices", _proof("proof.prices.0.0.0", 1.5), "bound WRONG: proof.prices[0][0][0]: a whole number"),
        ("capacity_prices", _proof("proof.prices", [[[1]]]), "bound WRONG: proof.prices[0][0]: a list of 2 is needed"),
        ("capacity_prices", _proof("proof.scale", 0), "bound WRONG: proof.scale: 0 must be at least 1"),
        ("capacity_prices", _proof("proof.grid", [0, 2, 2]), "bound WRONG: proof.grid: at least two increasing ticks"),
        ("capacity_prices", _proof("proof.quota_prices", [[[1, 1]]]), "bound WRONG: proof.quota_prices: a list of 0"),
        ("slot_prices", _proof("proof.slots", [0]), "bound WRONG: proof.slots[0]: 0, but 1 tasks may fit on the agent"),
        ("slot_prices", _proof("proof.slot_prices.0.0", 2), "bound WRONG: 8 claimed (internal), the proof (capacity_prices)"),
        ("knapsack_multipliers", _proof("proof.multipliers.0", 4), "bound WRONG: 4 claimed (internal), the proof"),
        ("knapsack_multipliers", _proof("proof.resource", [0, 1]), "bound WRONG: proof.resource[1]: 1 is not a resource"),
        ("knapsack_multipliers", _proof("instance.capacity.0.0", 2), "bound WRONG: 4 claimed (internal), the proof"),
        ("multipliers and prices", _proof("proof.prices.0.1", 1), "bound WRONG: 8 claimed (internal), the proof (knapsack_mu"),
        ("multipliers and prices", _proof("proof.prices.0.1", 3), "multipliers) shows 7"),
        ("multipliers and prices", _proof("proof.prices", None), "multipliers) shows 6"),
        ("multipliers and prices", _proof("proof.quota_prices.0.0", 1), "multipliers) shows 7"),
        ("multipliers and prices", _proof("proof.prices.0.1", -1), "bound WRONG: proof.prices[0][1]: -1 must be at least 0"),
        ("multipliers and prices", _proof("proof.quota_prices.1.1", -1), "bound WRONG: proof.quota_prices[1][1]: -1 must be"),
        ("multipliers and prices", _proof("proof.prices", [[0, 2]]), "bound WRONG: proof.prices: a list of 2 is needed"),
        ("knapsack_multipliers", _proof("proof.quota_prices", [[0]]), "bound WRONG: proof.quota_prices: a list of 0 is needed"),
        ("packing_prices", _proof("proof.rents.0.0.1", -1), "bound WRONG: proof.rents[0][0][1]: -1 must be at least 0"),
        ("packing_prices", _proof("proof.rents.0.0.1", 0.5), "bound WRONG: proof.rents[0][0][1]: a whole number is needed"),
        ("packing_prices", _proof("proof.rents.1.0", [2]), "bound WRONG: proof.rents[1][0]: a list of 2 is needed"),
        ("packing_prices", _proof("proof.rents.1", []), "bound WRONG: proof.rents[1]: a list of 1 is needed"),
        ("packing_prices", _proof("proof.rents", [[[2, 1]]] * 2), "bound WRONG: proof.rents: a list of 3 is needed"),
        ("packing_prices", _proof("proof.rents", 2), "bound WRONG: proof.rents: a list is needed"),
        ("packing_prices", _proof("proof.rents", None), "bound WRONG: proof.rents: missing"),
        ("packing_prices", _proof("proof.pool", None), "bound WRONG: proof.pool: missing"),
        ("packing_prices", _proof("proof.pool", [1]), "bound WRONG: proof.pool[0]: 1 is not a pool of `rents` (0 to 0)"),
        ("packing_prices", _proof("proof.pool", [-1]), "bound WRONG: proof.pool[0]: -1 must be at least 0"),
        ("packing_prices", _proof("proof.rents.0.0.0", 3), "bound WRONG: 12 claimed (internal), the proof (packing_prices)"),
        ("packing_prices", _proof("proof.rents.2.0", [1, 1]), "the proof (packing_prices) shows 10"),
        ("packing_prices", _proof("proof.scale", 2), "the proof (packing_prices) shows 9"),
        ("packing_prices", _proof("instance.capacity", [[4]]), "the proof (packing_prices) shows 6"),
        ("search, packing", _proof("proof.root.rents.0.0.1", -1), "bound WRONG: proof.root.rents[0][0][1]: -1 must"),
        ("search, makespan", _proof("proof", RENTS), "bound WRONG: proof.kind: packing_prices needs `time` sharing"),
        ("assignment_duals", _proof("proof.task_duals.0", 5), "bound WRONG: proof.task_duals[0]: 5 + -2 exceeds 1 * 2"),
        ("assignment_duals", _proof("proof.column_duals.0", [0, 1, 2]), "bound WRONG: proof.column_duals[0]: needs"),
        ("assignment_duals", _proof("instance.capacity", [[2]]), "bound WRONG: proof.task_duals[0]: 4 + 0 exceeds 1 * 2"),
        ("assignment_duals", _proof("proof.column_duals", [[0, 1, -2]] * 2), "bound WRONG: proof.column_duals[1]: more than 1"),
        ("energy_duals", _proof("proof.prices.0.0.0", -1), "bound WRONG: proof.prices[0][0][0]: -1 must be at least 0"),
        ("energy_duals", _proof("proof.prices.0.0.0", 0), "bound WRONG: 6 claimed (internal), the proof (energy_duals)"),
        ("energy_duals", _proof("proof.thresholds.0", 1), "bound WRONG: proof.thresholds: none may lie after the last"),
        ("search, budget", _proof("proof.root.scale", -1), "bound WRONG: proof.root.scale: -1 must be at least 1"),
        ("search", _proof("proof", DUALS | {"kind": "knapsack_multipliers"}), "WRONG: proof.kind: knapsack_multipliers needs"),
        ("search, makespan", _proof("proof", PRICES), "bound WRONG: proof.kind: capacity_prices needs `time` sharing"),
        ("trivial", _proof("schedule.start", [0, 1]), "schedule WRONG: "),
    ],
)  # fmt: skip
def test_each_claim_tampered_with_is_found(kind: str, change: Any, said: str, told: Any) -> None:
    data = copy.deepcopy(right(kind))
    change(data)
    status, out, err = told(data)
    assert status == 1
    assert any(
        line.strip().startswith(said) or said in line
        for line in out.splitlines()
        if "WRONG" in line
    ), out
    assert err == ""


def test_a_schedule_that_costs_less_than_the_bound_refutes_it(told: Any) -> None:
    data = right("search") | {"bound": 9.0, "bound_internal": 9.0}
    status, out, _ = told(data)
    assert status == 1
    assert "bound WRONG: 9 claimed (internal), but the schedule costs 8" in out


def test_an_optimum_that_is_none_is_found(told: Any) -> None:
    status, out, _ = told(right("capacity_prices") | {"bound": 7.0, "bound_internal": 7.0})
    assert status == 1
    assert "status WRONG: claimed optimal, but objective and bound do not meet" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_proof("schema", 2), "schema: 2 is newer than 1, the newest this version reads; upgrade"),
        (_proof("schema", True), "schema: a whole number of at least 1 is needed, got True"),
        (_proof("kind", "letter"), "kind: this is no certificate"),
        (
            _proof("proof.kind", "oracle"),
            "proof.kind: 'oracle' is unknown; this version checks trivial, ",
        ),
        (_proof("proof", None), "proof.kind: missing"),
        (
            _proof("proof", {"kind": "search", "root": {"kind": "search"}}),
            "proof.root.kind: 'search' is unknown",
        ),
        (
            _proof("objective_name", "tardiness"),
            "objective_name: tardiness needs due dates, and the instance has none",
        ),
        (_proof("objective_name", "profit"), "objective_name: 'profit' must be one of total_time"),
        (_proof("bound", None), "bound: a finite number is needed, got None"),
        (_proof("bound_internal", "8"), "bound_internal: a finite number is needed, got '8'"),
        (_proof("objective", None), "objective: a finite number is needed, got None"),
        (_proof("instance.duration", [[0], [4]]), "duration[0, 0]: 0 must be at least 1"),
        (_proof("schedule.task", [0]), "agent: 2 entries, expected 1"),
        (lambda data: data.pop("proof"), "proof: missing"),
        (lambda data: data.pop("schedule"), "schedule: missing"),
    ],
)
def test_an_unreadable_certificate_is_one_clear_line(change: Any, said: str, told: Any) -> None:
    data = copy.deepcopy(right("capacity_prices"))
    change(data)
    status, out, err = told(data)
    assert status == 2
    assert err.startswith(f"error: certificate 1 of 1: {said}")
    assert err.count("\n") == 1
    assert "checked" not in out


def test_a_file_cut_short_and_bad_options_are_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(right("search"))[:-20])
    assert main([str(path)]) == 2
    assert "may be cut short" in capsys.readouterr().err
    for options, said in (
        (["--seconds", "0"], "a positive number"),
        (["--objective", "makespan"], "a certificate names its own"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([str(path), *options])
        assert said in capsys.readouterr().err


# -- against the truth -----------------------------------------------------------------------------------------------


def random_problem(rng: np.random.Generator, budget: bool = False) -> Instance:
    """Up to 5 tasks, 3 agents of 2 types, 2 resources; sometimes quotas, outages, weights."""
    n, m = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    duration = rng.integers(1, 6, (n, 2))
    duration[rng.random((n, 2)) < 0.15] = -1
    duration[:, 0] = np.abs(duration[:, 0])
    fields: dict[str, Any] = {
        "duration": duration,
        "demand": rng.integers(0, 3, (n, 2, 2)),
        "capacity": rng.integers(2, 5, (m, 2)) * (2 if budget else 1),
        "agent_type": [0, *rng.integers(0, 2, m - 1)],
        "weight": rng.integers(0, 4, n),
    }
    if rng.random() < 0.4:
        fields |= {
            "tenant": rng.integers(0, 2, n),
            "quota": rng.integers(2, 5, (2, 2)) * (2 if budget else 1),
        }
    if budget:
        return Instance(**fields, sharing="budget")
    outages = [
        (a, start := int(rng.integers(0, 5)), start + 3) for a in range(m) if rng.random() < 0.3
    ]
    return Instance(
        **fields,
        release=rng.integers(0, 4, n),
        due=rng.integers(1, 12, n),
        outages=outages,
        tick_seconds=3.0,
    )


def optimum(problem: Instance, costs: Costs) -> Any:
    """By the second model, verified; None where it has none."""
    found = search(Problem(problem), costs, 60.0)
    if found.schedule is None:
        return None
    assert found.finished
    assert verify(problem, found.schedule) == []
    return costs.schedule(found.schedule, problem.n_tasks)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_costs_and_the_trivial_proof_agree_with_the_metrics(name: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        problem = random_problem(rng)
        costs = Costs(Problem(problem), name)
        schedule = search(Problem(problem), costs, 60.0).schedule
        assert schedule is not None
        assert float(costs.schedule(schedule, problem.n_tasks)) == pytest.approx(
            objective(problem, schedule, name)
        )
        assert float(proved(Problem(problem), costs, {"kind": "trivial"})) == pytest.approx(
            trivial_bound(problem, name)
        )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_second_model_agrees_with_cp_sat(name: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(6):
        problem = random_problem(rng)
        costs = Costs(Problem(problem), name)
        result = CpSat(threads=1).solve(problem, Setting(objective=name), Budget(20.0), rng)
        assert result.status == "optimal"
        value = objective(problem, result.schedule, name)
        assert float(optimum(problem, costs)) == pytest.approx(value)
        narrow = search(
            Problem(problem), costs, 60.0, costs.schedule(result.schedule, problem.n_tasks)
        )
        assert narrow.schedule is not None
        assert float(costs.schedule(narrow.schedule, problem.n_tasks)) == pytest.approx(value)
        assert narrow.bound == pytest.approx(value, rel=1e-5)


def test_a_model_that_is_too_large_is_said_to_be(told: Any) -> None:
    long = machine(duration=[[200_001], [400_001]])
    schedule = Schedule.from_assignment(long, [0, 0], [0, 200_001])
    status, out, _ = told(
        certificate(long, schedule, objective(long, schedule, "total_time"), TREE)
    )
    assert status == 0
    assert "search could not be checked: too large for the second model" in out


@pytest.mark.parametrize("priced", [False, True])
def test_multipliers_never_prove_too_much_and_can_prove_the_optimum(priced: bool) -> None:
    rng, tight = np.random.default_rng(3), 0
    for _ in range(60):
        problem = random_problem(rng, budget=True)
        costs = Costs(Problem(problem), "total_time")
        best = optimum(problem, costs)
        proof = {"kind": "knapsack_multipliers", "scale": 10, "multipliers": rng.integers(-20, 150, problem.n_tasks).tolist(),
                 "resource": rng.integers(0, 2, problem.n_agents).tolist()}  # fmt: skip
        if priced:
            proof["prices"] = rng.integers(0, 4, (problem.n_agents, 2)).tolist()
            proof["quota_prices"] = (
                rng.integers(0, 4, (2, 2)).tolist() if problem.quota is not None else None
            )
        if best is not None:
            shown = proved(Problem(problem), costs, proof)
            assert shown <= best
            tight += shown == best
    assert tight or priced


def test_a_knapsack_is_exact() -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        sizes, gains, capacity = (
            rng.integers(0, 9, 6).tolist(),
            rng.integers(-3, 12, 6).tolist(),
            int(rng.integers(0, 25)),
        )
        problem = Instance(
            [[100]] * 6, [[[s]] for s in sizes], [[max(capacity, *sizes)]], [0], sharing="budget"
        )
        proof = {
            "kind": "knapsack_multipliers",
            "scale": 1,
            "multipliers": [100 + g for g in gains],
            "resource": [0],
        }
        sets = (s for k in range(7) for s in itertools.combinations(range(6), k))
        fit = max(
            sum(gains[j] for j in s)
            for s in sets
            if sum(sizes[j] for j in s) <= problem.capacity[0, 0]
        )
        shown = proved(Problem(problem), Costs(Problem(problem), "total_time"), proof)
        assert shown == 600 + sum(gains) - fit


def test_prices_of_what_no_knapsack_sees_make_multipliers_prove_more() -> None:
    problem = Problem(shared())
    costs = Costs(problem, "total_time")
    bare = {key: PRICED[key] for key in MULTIPLIERS}
    assert proved(problem, costs, {"kind": "trivial"}) == proved(problem, costs, bare) == 4
    assert proved(problem, costs, {**bare, "prices": PRICED["prices"]}) == 6
    assert proved(problem, costs, {**bare, "quota_prices": PRICED["quota_prices"]}) == 6
    assert proved(problem, costs, PRICED) == optimum(shared(), costs) == 8


def test_a_knapsack_with_many_sizes_is_exact() -> None:
    rng = np.random.default_rng(8)
    for _ in range(300):
        n, r = int(rng.integers(1, 10)), int(rng.integers(1, 4))
        sizes, gains = rng.integers(0, rng.integers(1, 9, r) + 1, (n, r)), rng.integers(0, 12, n)
        gains = 3 * sizes[:, 0] if rng.random() < 0.2 else gains  # where many sets tie
        capacity = rng.integers(0, 20, r)
        sets = np.array(list(itertools.product([0, 1], repeat=n)), int).reshape(-1, n)
        fit = int((sets @ gains)[(sets @ sizes <= capacity).all(axis=1)].max())
        items = list(zip(map(tuple, sizes.tolist()), gains.tolist(), strict=True))
        assert Knapsacks().most(items, capacity.tolist()) == fit


@pytest.mark.parametrize("limit", ["LARGEST_TABLE", "LONGEST"])
def test_knapsacks_that_take_too_long_are_left_to_the_second_model(
    limit: str, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knapsack, limit, 0)
    status, out, _ = told(right("packing_prices"))
    assert status == 0
    assert (
        f"bound could not be checked: {'a knapsack takes' if limit == 'LARGEST_TABLE' else 'the knapsacks take'} more"
        in out
    )
    assert "search confirmed by second model" in out


@pytest.mark.parametrize("name", ["total_time", "tardiness", "bounded_slowdown"])
def test_rents_never_prove_too_much_and_are_added_up_right(name: str) -> None:
    rng = np.random.default_rng(9)
    for _ in range(25):
        instance = random_problem(rng)
        problem = Problem(instance)
        costs, pools, first = Costs(problem, name), int(rng.integers(1, 4)), int(rng.integers(0, 4))
        proof = {
            "kind": "packing_prices", "scale": 5, "grid": [first, first + 1, 5, 7, 12],
            "pool": rng.integers(0, pools, problem.m).tolist(), "prices": rng.integers(0, 3, (problem.m, 2, 4)).tolist(),
            "rents": (rng.integers(0, 9, (problem.n, pools, 4)) * (rng.random((problem.n, pools, 4)) < 0.7)).tolist(),
            "quota_prices": rng.integers(0, 3, (2, 2, 4)).tolist() if problem.quota else None,
            "slot_prices": np.zeros((problem.m, 4), int).tolist(),
        }  # fmt: skip
        shown = packing_prices(problem, costs, proof)
        assert shown <= optimum(instance, costs)
        places = list(itertools.product(range(problem.m), range(40)))
        paid = sum(
            Fraction(min(naive(problem, costs, proof, j, *place) for place in places))
            for j in range(problem.n)
        )
        assert (
            shown == (paid - sum(earnings(problem, proof, tick) for tick in range(first, 12))) / 5
        )


def earnings(problem: Problem, proof: dict[str, Any], tick: int) -> int:
    """What agents, each with the best of all sets of tasks, and quotas earn in a tick of the grid at most."""
    k = next(k for k in range(4) if proof["grid"][k] <= tick < proof["grid"][k + 1])
    total = sum(
        x * proof["quota_prices"][u][r][k]
        for u, row in enumerate(problem.quota)
        for r, x in enumerate(row)
    )
    for a, capacity in enumerate(problem.capacity):
        if any(start <= tick < end for start, end in problem.away[a]):
            continue
        total += sum(units * proof["prices"][a][r][k] for r, units in enumerate(capacity))
        able = [j for j in problem.runners(a) if problem.release[j] < proof["grid"][k + 1]]
        sets = (s for size in range(len(able) + 1) for s in itertools.combinations(able, size))
        fit = [
            s
            for s in sets
            if all(sum(problem.demand(j, a)[r] for j in s) <= capacity[r] for r in range(problem.r))
        ]
        total += max(sum(proof["rents"][j][proof["pool"][a]][k] for j in s) for s in fit)
    return total


def test_packing_by_our_relaxation_is_confirmed(told: Any) -> None:
    gangs = next(Gangs("gangs", 8, [4, 4], loads=[1.05]).instances("test"))
    result = CpSat(threads=1).solve(gangs, Setting(), Budget(4.0), np.random.default_rng(0))
    packing = relaxation_bounds(
        gangs, Terms.of(gangs, "total_time"), "total_time", greedy_schedule(gangs), 60.0
    ).bounds[-1]
    assert packing.name == "packing"
    root, bound = json.loads(json.dumps(packing.proof)), float(packing.value)
    assert root["kind"] == "packing_prices"
    assert (
        trivial_bound(gangs, "total_time")
        < bound
        <= proved(Problem(gangs), Costs(Problem(gangs), "total_time"), root)
    )
    data = certificate(gangs, result.schedule, bound, root) | {"bound_name": "packing"}
    status, out, err = told(data)
    assert (status, err) == (0, "")
    assert (
        f"bound checked: {bound:.10g} claimed (internal), the proof (packing_prices) shows" in out
    )
    _raised(data)
    assert told(data)[0] == 1
    searched = certificate(
        gangs,
        result.schedule,
        result.lower_bound,
        {"kind": "search", "solver": "cpsat", "root": root},
    )
    status, out, err = told(searched, "--seconds", "20")
    assert (status, err) == (0, "")
    assert "bound checked: the root (packing_prices) shows" in out


@pytest.mark.parametrize("name", ["total_time", "tardiness", "bounded_slowdown"])
def test_prices_never_prove_too_much_and_the_best_start_is_found(name: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(25):
        instance = random_problem(rng)
        problem = Problem(instance)
        costs, grid = Costs(problem, name), [0, 2, 3, 7, 12]
        proof = {
            "kind": "capacity_prices", "scale": 5, "grid": grid, "prices": rng.integers(0, 6, (problem.m, 2, 4)).tolist(),
            "quota_prices": rng.integers(0, 6, (2, 2, 4)).tolist() if problem.quota else None,
            "slot_prices": rng.integers(0, 6, (problem.m, 4)).tolist(), "slots": problem.slots,
        }  # fmt: skip
        assert proved(problem, costs, proof) <= optimum(instance, costs)
        prices = Prices(problem, proof)
        for j in range(problem.n):
            assert prices.cheapest(costs, j) == min(
                naive(problem, costs, proof, j, a, t) for a in range(problem.m) for t in range(40)
            )


def naive(
    problem: Problem, costs: Costs, proof: dict[str, Any], j: int, a: int, t: int
) -> Fraction | float:
    """What task j costs and pays on agent a from t on, tick by tick; infinite where it may not."""
    p = problem.length[j].get(a)
    if (
        p is None
        or t < problem.release[j]
        or any(t < end and t + p > start for start, end in problem.away[a])
    ):
        return math.inf
    total = Fraction(proof["scale"] * costs.of(j, t + p))
    for tick in range(t, t + p):
        k = next((k for k in range(4) if proof["grid"][k] <= tick < proof["grid"][k + 1]), None)
        if k is not None:
            total += proof["slot_prices"][a][k] + (
                proof["rents"][j][proof["pool"][a]][k] if "rents" in proof else 0
            )
            for r, units in enumerate(problem.demand(j, a)):
                total += units * proof["prices"][a][r][k]
                total += (
                    units * proof["quota_prices"][problem.tenant[j]][r][k] if problem.quota else 0
                )
    return total


def test_slots_are_how_many_tasks_fit_at_most() -> None:
    problem = Problem(
        Instance([[1]] * 4, [[[2, 1]], [[3, 0]], [[3, 0]], [[6, 1]]], [[6, 9], [5, 1]], [0, 0])
    )
    assert problem.slots == [2, 2]


def test_energy_duals_never_prove_too_much() -> None:
    rng = np.random.default_rng(7)
    for _ in range(25):
        instance = random_problem(rng)
        problem = Problem(instance)
        costs, thresholds = Costs(problem, "makespan"), sorted(set(problem.release))
        size = len(thresholds)
        proof = {
            "kind": "energy_duals", "thresholds": thresholds, "prices": rng.integers(0, 6, (problem.m, 2, size)).tolist(),
            "quota_prices": rng.integers(0, 3, (2, 2, size)).tolist() if problem.quota else None,
            "task_duals": rng.integers(0, 6, problem.n).tolist(),
        }  # fmt: skip
        assert 0 < proved(problem, costs, proof) <= optimum(instance, costs)
        nothing = {**proof, "prices": np.zeros((problem.m, 2, size), int).tolist(), "quota_prices": None,
                   "task_duals": [0] * problem.n}  # fmt: skip
        assert proved(problem, costs, nothing) == 0


@pytest.mark.parametrize("units", [1, 2])
def test_assignment_duals_hold_with_weights_releases_and_queues(units: int) -> None:
    rng = np.random.default_rng(6)
    for _ in range(15):
        duration, release, weight = (
            rng.integers(1, 6, (4, 2)),
            rng.integers(0, 5, 4),
            rng.integers(0, 4, 4),
        )
        instance = Instance(
            duration,
            np.ones((4, 2, 1)),
            [[units], [1]],
            [0, 1],
            release=release,
            weight=weight,
            outages=[(0, 3, 5)],
        )
        problem = Problem(instance)
        assert problem.slots == [units, 1]
        costs = Costs(problem, "total_time")
        task, column = best_duals(problem)
        proof = {"kind": "assignment_duals", "task_duals": task, "column_duals": column}
        assert proved(problem, costs, proof) <= optimum(instance, costs)


def best_duals(problem: Problem) -> tuple[list[int], list[list[int]]]:
    """Whole duals of the assignment of tasks to positions, from scipy's linear program."""
    from scipy.optimize import linprog

    n = problem.n
    places = [
        (a, k) for a in range(problem.m) for k in range(1, n + 1) for _ in range(problem.slots[a])
    ]
    cost, rows, limits = [-1.0] * (n + len(places)), [], []
    for j in range(n):
        for i, (a, k) in enumerate(places):
            row = np.zeros(n + len(places))
            row[j] = row[n + i] = 1
            rows.append(row)
            limits.append(k * problem.length[j][a])
    bounds = [(None, None)] * n + [(None, 0)] * len(places)
    v = [
        math.floor(value + 1e-9)
        for value in linprog(cost, np.array(rows), limits, bounds=bounds).x[n:]
    ]
    u = [min(k * problem.length[j][a] - v[i] for i, (a, k) in enumerate(places)) for j in range(n)]
    u = [min(u[j], *((n + 1) * p for p in problem.length[j].values())) for j in range(n)]
    return u, [[a, k, dual] for (a, k), dual in zip(places, v, strict=True) if dual]


def test_what_a_proof_is_not_for_is_said() -> None:
    problem = Problem(machine())
    with pytest.raises(ProofError, match="needs `budget` sharing"):
        proved(problem, Costs(problem, "total_time"), MULTIPLIERS)
    with pytest.raises(UncheckableError, match="cannot be checked"):
        proved(problem, Costs(problem, "total_time"), {"kind": "search"})
