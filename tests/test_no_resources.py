"""Without resources (R = 0) only outages and releases limit what runs when.

Such an instance is the same as one with a single resource that no task needs.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from bench import plugins
from bench.contracts import Budget
from bench.instance import Instance, Outage
from bench.metrics import metrics, objective
from bench.rollout import PolicySolver, setting_of
from bench.setting import OBJECTIVES, Setting
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator, layout_of, return_scale
from bench.verify import verify
from bench.verify.problem import ExactObjective, ExactProblem
from bench.verify.proofs import proven_bound
from solvers.allox import AlloX
from solvers.cpsat import CpSat
from solvers.exact.annealing import improve_schedule
from solvers.exact.objective_terms import Terms, completion_times
from solvers.local_search import LocalSearch
from solvers.networks.features import featurize
from solvers.networks.mlp import MLPNetwork
from solvers.ppo import PPO
from tests.solvers.brute_force import random_schedule
from tests.solvers.learning import FixedDataset, MemoryLogger, complex_fields, fit, small_learner
from tests.solvers.offline.logged import LEARNERS, SMALL, InMemoryLog, record_log

BUDGET = Budget(seconds=600, threads=1)  # never used up
ONE_OUTAGE = Instance(
    [[4], [6]],
    [[[]], [[]]],
    [[]],
    [0],
    outages=[Outage(0, 5, 9)],  # type: ignore[arg-type]
)


def many_tasks(rng: np.random.Generator, n: int = 40, quotas: bool = False) -> Instance:
    """Return n tasks on three agents of two types, with many outages."""
    fields = complex_fields(rng, n, np.sort(rng.integers(0, 3 * n, n)))
    if not quotas:
        del fields["tenant"]
    outages = [
        Outage(agent, start, start + int(rng.integers(2, 7)))
        for agent in range(3)
        for start in range(int(rng.integers(0, 15)), 4 * n, 12)
    ]
    return Instance(
        **fields | {"demand": np.zeros((n, 2, 0)), "estimate": None},
        capacity=np.zeros((3, 0)),
        agent_type=[0, 1, 0],
        quota=np.zeros((2, 0)) if quotas else None,
        outages=outages,  # type: ignore[arg-type]
    )


def with_unused_resource(instance: Instance) -> Instance:
    """Return the instance with one resource that no task needs."""
    n, m, t = instance.n_tasks, instance.n_agents, instance.n_types
    return replace(
        instance,
        demand=np.zeros((n, t, 1)),
        capacity=np.ones((m, 1)),
        quota=None if instance.quota is None else np.ones((instance.n_tenants, 1)),
        resources=(),
    )


def alone(instance: Instance) -> np.ndarray:
    """Return the earliest completion (N,) of each task, which no other task delays."""
    ends = []
    for j in range(instance.n_tasks):
        options = []
        for a, agent_type in enumerate(instance.agent_type):
            duration = instance.duration[j, agent_type]
            tick = int(instance.release[j])
            for outage in instance.outages:
                if outage.agent == a and tick < outage.end and tick + duration > outage.start:
                    tick = outage.end
            if duration > 0:
                options.append(tick + duration)
        ends.append(min(options))
    return np.array(ends)


SOLVERS = {
    "cpsat": CpSat(),
    "cpsat_plain": CpSat(bounds=False, local_search=False),
    "local_search": LocalSearch(patience=2),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_find_the_optimum_beside_an_outage(name: str) -> None:
    result = SOLVERS[name].solve(ONE_OUTAGE, Setting(), BUDGET, np.random.default_rng(0))
    assert verify(ONE_OUTAGE, result.schedule) == []
    assert objective(ONE_OUTAGE, result.schedule, "total_time") == 4 + 15
    assert result.lower_bound <= 19


@pytest.mark.parametrize("quotas", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_exact_and_local_search_agree_with_every_task_alone(name: str, quotas: bool) -> None:
    instance = many_tasks(np.random.default_rng(3), quotas=quotas)
    terms = Terms.of(instance, name)
    optimum = terms.value(alone(instance))
    found = CpSat().solve(instance, Setting(objective=name), BUDGET, np.random.default_rng(0))
    assert found.status == "optimal"
    assert verify(instance, found.schedule) == []
    assert terms.value(completion_times(found.schedule)) == pytest.approx(optimum, rel=1e-9)
    problem = ExactProblem(instance)
    proof = found.info["proof"].get("root") or found.info["proof"]
    assert Fraction(0) <= proven_bound(problem, ExactObjective(problem, name), proof) <= optimum

    first = random_schedule(instance, Setting(), np.random.default_rng(1))
    one, other = (
        improve_schedule(case, terms, first, 600.0, np.random.default_rng(2), patience=1)
        for case in (instance, with_unused_resource(instance))
    )
    assert verify(instance, one) == []
    assert one.to_dict() == other.to_dict()


@pytest.mark.parametrize("track", ["schedule", "online", "assign"])
def test_every_rule_makes_the_schedule_of_the_instance_with_an_unused_resource(track: str) -> None:
    instance = many_tasks(np.random.default_rng(4), 12, quotas=True)
    setting = Setting(track=track, observe="all" if track == "schedule" else "arrived")
    if track == "assign":
        bare = {"release": None, "due": None, "outages": (), "sharing": "budget"}
        instance = replace(instance, **bare)  # type: ignore[arg-type]
    for name, rule in {**plugins.rules(), "allox": AlloX()}.items():
        results = [
            PolicySolver(rule).solve(
                case, setting_of(rule, setting), BUDGET, np.random.default_rng(0)
            )
            for case in (instance, with_unused_resource(instance))
        ]
        assert verify(instance, results[0].schedule) == [], name
        assert results[0].schedule.to_dict() == results[1].schedule.to_dict(), name


def test_there_is_no_utilisation() -> None:
    schedule = random_schedule(ONE_OUTAGE, Setting(), np.random.default_rng(0))
    values = metrics(ONE_OUTAGE, schedule)
    assert not [name for name in values if name.startswith("utilisation")]
    assert values["unassigned"] == 0


@pytest.mark.parametrize("network", [featurize, MLPNetwork.featurize])
@pytest.mark.parametrize("quotas", [False, True])
def test_features_are_those_of_the_instance_with_an_unused_resource(network, quotas: bool) -> None:
    cases = [many_tasks(np.random.default_rng(k), 5 + k, quotas) for k in range(4)]
    setting = Setting(track="online", observe="arrived")
    one = TensorSimulator(cases, setting)
    other = TensorSimulator([with_unused_resource(case) for case in cases], setting)
    layout = layout_of(one)
    assert (layout.resources, layout_of(other).resources) == (0, 1)
    for step in range(20):
        view = from_simulator(one)
        features = network(view)
        for a, b in zip(features, network(from_simulator(other)), strict=True):
            torch.testing.assert_close(a, b)
        flat = layout.flat(view, return_scale(one))
        for a, b in zip(features, network(layout.view(flat)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        rewards = [
            simulator.play_random(np.random.default_rng(step), 1) for simulator in (one, other)
        ]
        assert torch.equal(*rewards)


def small_tasks(rng: np.random.Generator) -> Instance:
    """Return an instance to learn on."""
    return many_tasks(rng, 5)


def test_ppo_learns(tmp_path) -> None:
    policy = fit(
        small_learner(PPO, steps=4), FixedDataset(small_tasks, 4), MemoryLogger(tmp_path), 256
    )
    assert all(torch.isfinite(p).all() for p in policy.network.parameters())
    instance = small_tasks(np.random.default_rng(9))
    result = PolicySolver(policy).solve(instance, Setting(), BUDGET, np.random.default_rng(0))
    assert verify(instance, result.schedule) == []


@pytest.mark.parametrize("name", ["bc", "dqn", "decision_transformer"])
def test_offline_learners_learn(name: str, tmp_path) -> None:
    data = FixedDataset(small_tasks, 4)
    log = InMemoryLog(record_log(12, data=data), data)
    assert log.log.layout.resources == 0
    kind, options = LEARNERS[name]
    learner = kind(**{**SMALL, **options, "logs": log, "device": "cpu"})
    policy = fit(learner, data, MemoryLogger(tmp_path), 10**6)
    assert all(torch.isfinite(p).all() for p in policy.network.parameters())
