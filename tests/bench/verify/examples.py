"""Small instances with certificates of each kind, random instances, and their true optima."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.instance import Instance
from bench.metrics import objective
from bench.schedule import Schedule
from bench.verify import verify
from bench.verify.problem import ExactObjective, ExactProblem, Number
from bench.verify.second_model import solve_second_model

CertificateForm = dict[str, Any]  # the JSON form
Proof = dict[str, Any]


def certificate(
    instance: Instance,
    schedule: Schedule,
    bound: float,
    proof: Proof,
    name: str = "total_time",
) -> CertificateForm:
    """Return a certificate whose objective is that of the schedule."""
    value = objective(instance, schedule, name)
    return {
        "schema": 1,
        "kind": "certificate",
        "instance": instance.to_dict(),
        "objective_name": name,
        "schedule": schedule.to_dict(),
        "objective": instance.original(value),
        "objective_internal": value,
        "bound": instance.original(bound),
        "bound_internal": bound,
        "status": "optimal" if value == bound else "feasible",
        "proof": proof,
        "solver": "by_hand",
        "seed": 0,
    }


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
    """Two tasks, an agent that takes one of them at cost 1, one that takes both at 3 each: 4."""
    fields = {
        "duration": [[1, 3]] * 2,
        "demand": [[[1], [1]]] * 2,
        "capacity": [[1], [2]],
        "agent_type": [0, 1],
        "sharing": "budget",
        "name": "packing",
    }
    return Instance(**{**fields, **changes})


def two_limits(**changes: Any) -> Instance:
    """Four tasks, an agent that takes some of them at cost 1, one that takes all at 3 each: 8.

    On the first agent, resource 1 suffices for one of the tasks 2 and 3, and a quota of resource 0
    for one of the tasks 0 and 1.
    """
    fields = {
        "duration": [[1, 3]] * 4,
        "demand": [[[1, 0], [0, 0]]] * 2 + [[[0, 1], [0, 0]]] * 2,
        "capacity": [[2, 1], [0, 0]],
        "agent_type": [0, 1],
        "tenant": [0, 0, 1, 1],
        "quota": [[1, 2], [2, 2]],
        "sharing": "budget",
        "name": "two_limits",
    }
    return Instance(**{**fields, **changes})


def trio(**changes: Any) -> Instance:
    """Three tasks of 2 ticks and 2 units on an agent of 3 units: total time 2 + 4 + 6 = 12."""
    fields = {
        "duration": [[2]] * 3,
        "demand": [[[2]]] * 3,
        "capacity": [[3]],
        "agent_type": [0],
        "name": "trio",
    }
    return Instance(**{**fields, **changes})


MULTIPLIERS: Proof = {
    "kind": "knapsack_multipliers",
    "scale": 2,
    "multipliers": [6, 6],
    "resource": [0, 0],
}
MULTIPLIERS_AND_DUALS: Proof = {
    **MULTIPLIERS,
    "scale": 1,
    "multipliers": [3] * 4,
    "prices": [[0, 2], [0, 0]],
    "quota_prices": [[2, 0], [0, 0]],
}
CAPACITY_DUALS: Proof = {
    "kind": "capacity_prices",
    "scale": 1,
    "grid": [0, 2, 6],
    "prices": [[[1, 0]]],
    "quota_prices": None,
}
QUOTA_DUALS: Proof = {**CAPACITY_DUALS, "prices": [[[0, 0]]], "quota_prices": [[[1, 0]]]}
SLOT_DUALS: Proof = {
    **CAPACITY_DUALS,
    "prices": [[[0, 0]]],
    "slot_prices": [[1, 0]],
    "slots": [1],
}
PACKING_DUALS: Proof = {
    "kind": "packing_prices",
    "scale": 1,
    "grid": [0, 2, 4],
    "prices": [[[0, 0]]],
    "pool": [0],
    "rents": [[[2, 1]] for _ in range(3)],
}
ASSIGNMENT_DUALS: Proof = {
    "kind": "assignment_duals",
    "task_duals": [4, 6],
    "column_duals": [[0, 1, -2]],
}
ENERGY_DUALS: Proof = {
    "kind": "energy_duals",
    "thresholds": [0],
    "prices": [[[1]]],
    "quota_prices": None,
    "task_duals": [0, 0],
}
SEARCH: Proof = {"kind": "search", "solver": "by hand", "root": {"kind": "trivial"}}


def _wide() -> CertificateForm:
    instance = machine(capacity=[[2]])
    schedule = Schedule.from_assignment(instance, [0, 0])
    return certificate(instance, schedule, 6.0, {"kind": "trivial"})


def _machine(proof: Proof, **changes: Any) -> CertificateForm:
    schedule = Schedule.from_assignment(machine(), [0, 0], [0, 2])
    return certificate(machine(**changes), schedule, 8.0, proof)


def _makespan(proof: Proof) -> CertificateForm:
    schedule = Schedule.from_assignment(machine(), [0, 0], [0, 2])
    return certificate(machine(), schedule, 6.0, proof, "makespan")


def _packing(proof: Proof) -> CertificateForm:
    return certificate(packing(), Schedule.from_assignment(packing(), [0, 1]), 4.0, proof)


def _two_limits(proof: Proof) -> CertificateForm:
    schedule = Schedule.from_assignment(two_limits(), [0, 1, 0, 1])
    return certificate(two_limits(), schedule, 8.0, proof)


def _trio(proof: Proof) -> CertificateForm:
    schedule = Schedule.from_assignment(trio(), [0] * 3, [0, 2, 4])
    return certificate(trio(), schedule, 12.0, proof)


QUOTA = {"capacity": [[2]], "tenant": [0, 0], "quota": [[1]]}
VALID = {
    "trivial": _wide,
    "knapsack_multipliers": lambda: _packing(MULTIPLIERS),
    "multipliers and duals": lambda: _two_limits(MULTIPLIERS_AND_DUALS),
    "capacity_prices": lambda: _machine(CAPACITY_DUALS),
    "quota_prices": lambda: _machine(QUOTA_DUALS, **QUOTA),
    "slot_prices": lambda: _machine(SLOT_DUALS),
    "packing_prices": lambda: _trio(PACKING_DUALS),
    "assignment_duals": lambda: _machine(ASSIGNMENT_DUALS),
    "energy_duals": lambda: _makespan(ENERGY_DUALS),
    "search": lambda: _machine(SEARCH),
    "search without a root": lambda: _machine({"kind": "search", "solver": "by hand"}),
    "search, budget": lambda: _packing({**SEARCH, "root": MULTIPLIERS}),
    "search, packing": lambda: _trio({**SEARCH, "root": PACKING_DUALS}),
    "search, makespan": lambda: _makespan(SEARCH),
}


def valid_certificate(kind: str) -> CertificateForm:
    """Return a certificate all of whose claims are valid and whose bound is the optimum."""
    return VALID[kind]()


# -- random instances ------------------------------------------------------------------------------


def random_instance(rng: np.random.Generator, budget: bool = False) -> Instance:
    """Return up to 5 tasks, 3 agents of 2 types, 2 resources; sometimes quotas and outages."""
    n, m = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    duration = rng.integers(1, 6, (n, 2))
    duration[rng.random((n, 2)) < 0.15] = -1
    duration[:, 0] = np.abs(duration[:, 0])
    factor = 2 if budget else 1
    fields: dict[str, Any] = {
        "duration": duration,
        "demand": rng.integers(0, 3, (n, 2, 2)),
        "capacity": rng.integers(2, 5, (m, 2)) * factor,
        "agent_type": [0, *rng.integers(0, 2, m - 1)],
        "weight": rng.integers(0, 4, n),
    }
    if rng.random() < 0.4:
        fields["tenant"] = rng.integers(0, 2, n)
        fields["quota"] = rng.integers(2, 5, (2, 2)) * factor
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


def optimum(instance: Instance, objective: ExactObjective) -> Number | None:
    """Return the optimum by the second model, with a verified schedule; None: infeasible."""
    found = solve_second_model(ExactProblem(instance), objective, 3600.0)
    if found.schedule is None:
        return None
    assert found.finished
    assert verify(instance, found.schedule) == []
    return objective.schedule_cost(found.schedule)


def feasible_optimum(instance: Instance, objective: ExactObjective) -> Number:
    """Return the optimum of an instance that has a feasible schedule."""
    value = optimum(instance, objective)
    assert value is not None
    return value


# -- schedules -------------------------------------------------------------------------------------

Piece = tuple[int, int, int, int]  # task, agent, start, end
GOOD: list[Piece] = [(0, 0, 0, 4), (1, 1, 1, 4), (2, 1, 4, 9)]  # feasible for `three_tasks`


def three_tasks(**changes: Any) -> Instance:
    """Three tasks on an agent with one GPU and one with three; the first cannot run task 2."""
    fields: dict[str, Any] = {
        "duration": [[4, 2], [6, 3], [-1, 5]],
        "demand": [[[1, 4], [1, 4]], [[1, 4], [2, 4]], [[1, 4], [2, 4]]],
        "capacity": [[1, 8], [3, 8]],
        "agent_type": [0, 1],
        "resources": ["gpu", "memory"],
        "release": [0, 1, 2],
        "tenant": [0, 1, 1],
        "quota": [[1, 100], [3, 100]],
        "outages": [(1, 20, 25)],
    }
    return Instance(**{**fields, **changes})


def schedule_of(*pieces: Piece) -> Schedule:
    """Return the schedule of these pieces."""
    task, agent, start, end = np.array(pieces, dtype=np.int64).reshape(-1, 4).T
    return Schedule(task, agent, start, end)


def changed(task: int, agent: int, start: int, end: int) -> Schedule:
    """Return GOOD with the piece of `task` replaced."""
    new = (task, agent, start, end)
    return schedule_of(*(new if piece[0] == task else piece for piece in GOOD))
