"""Replanning policies: legal and reproducible in every setting; they replan only when needed."""

import numpy as np
import pytest

from bench.contracts import Budget, Policy
from bench.instance import Instance, Outage
from bench.rollout import PolicySolver
from bench.setting import Setting
from bench.verify import verify
from solvers.dispatch.plan import ReplanningPolicy
from tests.configured import solvers

POLICIES = solvers(ReplanningPolicy)
ONLINE = {"track": "online", "observe": "arrived"}
SETTINGS = {
    "fit": Setting(track="online", observe="arrived"),
    "sequential": Setting(
        track="online", observe="arrived", event_order="sequential", objective="tardiness"
    ),
    "commit": Setting(track="online", observe="arrived", mode="commit"),
    "easy": Setting(track="online", observe="arrived", mode="commit", backfill="easy"),
    "schedule": Setting(observe="arrived"),
    "clairvoyant": Setting(),
}


def play(policy, problem, setting=SETTINGS["fit"]):
    return PolicySolver(policy).solve(problem, setting, Budget(), np.random.default_rng(0))


def problem(seed, n=20):
    """Return tasks on five agents of two types, with outages, quotas and wrong estimates."""
    rng = np.random.default_rng(seed)
    duration = rng.integers(1, 15, (n, 2))
    duration[rng.random(n) < 0.2, 1] = -1
    release = np.sort(rng.integers(0, 30, n))
    return Instance(
        duration=duration,
        estimate=np.where(
            duration == -1, -1, np.maximum(1, duration + rng.integers(-3, 4, (n, 2)))
        ),
        demand=np.repeat(rng.integers(0, 4, (n, 1, 2)), 2, axis=1),
        capacity=[[4, 6], [3, 3], [3, 3], [5, 4], [3, 3]],
        agent_type=[0, 0, 0, 1, 1],
        release=release,
        due=release + rng.integers(0, 30, n),
        weight=rng.integers(0, 5, n),
        tenant=rng.integers(0, 2, n),
        quota=[[9, 9], [8, 8]],
        outages=(Outage(0, 9, 12), Outage(3, 12, 19, announced=False), Outage(4, 25, 30)),
    )


def certain(**fields):
    """Return an instance with one task at a time per agent and, by default, exact estimates."""
    n, t = np.shape(fields["duration"])
    plain = {"demand": np.ones((n, t, 1)), "capacity": np.ones((t, 1)), "agent_type": range(t)}
    return Instance.from_dict(plain | fields)


def test_replanning_policies_are_online_policies_and_no_baselines():
    assert len(POLICIES) >= 2
    for policy in POLICIES.values():
        assert isinstance(policy, Policy)
        assert policy.observe == "arrived"
        assert not policy.baseline


@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2))])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", POLICIES)
def test_rollouts_are_legal_complete_and_reproducible(name, setting, seed):
    first, second = (play(POLICIES[name], problem(seed), SETTINGS[setting]) for _ in range(2))
    assert verify(problem(seed), first.schedule) == []
    assert first.schedule.to_dict() == second.schedule.to_dict()


@pytest.mark.parametrize("name", POLICIES)
def test_budget_sharing_is_decided_by_the_fallback_rule(name):
    rng = np.random.default_rng(0)
    costs = rng.integers(1, 50, (12, 3))
    use = rng.integers(1, 5, (12, 3, 1))
    gap = Instance(
        duration=costs,
        demand=use,
        capacity=[[14], [14], [14]],
        agent_type=[0, 1, 2],
        sharing="budget",
    )
    result = play(POLICIES[name], gap, Setting(track="assign"))
    expected = play(POLICIES[name].fallback, gap, Setting(track="assign"))
    assert result.status == "feasible"
    assert result.schedule.to_dict() == expected.schedule.to_dict()
    assert verify(gap, result.schedule) == []


@pytest.fixture(params=POLICIES)
def planned_at(request, monkeypatch):
    """Return a function that plays `certain(**fields)` and returns the ticks of replanning."""
    policy = POLICIES[request.param]
    plan_tasks = policy.plan_tasks
    ticks = []

    def recorded(observation, keys):
        ticks.append(observation.time)
        return plan_tasks(observation, keys)

    def run(**fields):
        instance = certain(**fields)
        assert verify(instance, play(policy, instance).schedule) == []
        return ticks

    monkeypatch.setattr(policy, "plan_tasks", recorded)
    return run


# Optimal: tasks 3, 0, 1 on agent 0, which end at 2, 5, 9; tasks 2 and 4 on agent 1, at 5 and 11.
TASKS = [[3, 9], [4, 9], [9, 5], [2, 9], [9, 6]]


def test_one_plan_suffices_without_unforeseen_events(planned_at):
    assert planned_at(duration=TASKS) == [0]


def test_tasks_of_equal_features_are_interchangeable(planned_at):
    assert planned_at(duration=[[3, 4]] * 6) == [0]


def test_an_arrival_causes_replanning(planned_at):
    assert planned_at(duration=[*TASKS, [9, 1]], release=[0, 0, 0, 0, 0, 5]) == [0, 5]


@pytest.mark.parametrize(("actual", "ticks"), [(3, [0, 3]), (7, [0, 5, 7])], ids=["early", "late"])
def test_an_end_that_differs_from_its_estimate_causes_replanning(planned_at, actual, ticks):
    duration = np.array(TASKS)
    duration[2, 1] = actual
    assert planned_at(duration=duration, estimate=TASKS) == ticks


def test_an_unannounced_outage_causes_replanning(planned_at):
    assert planned_at(duration=TASKS, outages=[(1, 5, 6, False)]) == [0, 5, 6]
