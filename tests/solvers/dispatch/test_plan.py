"""Policies that follow a plan: legal and repeatable in every kind of play; a new plan only at what is unforeseen."""

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import bench.__main__  # noqa: F401 - knows the resolvers of conf/
from bench.contracts import Budget, Policy
from bench.instance import Instance, Outage
from bench.rollout import PolicySolver
from bench.setting import Setting
from bench.verify import verify
from solvers.dispatch.plan import Planner

CONF = Path(__file__).parents[3] / "conf"


def planners():
    """Name -> every policy of conf/solver that plans."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        names = sorted(file.stem for file in (CONF / "solver").glob("*.yaml"))
        configs = {
            name: compose("config", [f"+solver={name}", "logs=cluster-tiny-random-v0"]).solver
            for name in names
        }
        plugins = {name: instantiate(config) for name, config in configs.items()}
    return {name: plugin for name, plugin in plugins.items() if isinstance(plugin, Planner)}


PLANNERS = planners()
SETTINGS = {
    "fit": Setting(track="online", observe="arrived"),
    "singly": Setting(track="online", observe="arrived", events="singly", objective="tardiness"),
    "commit": Setting(track="online", observe="arrived", mode="commit"),
    "easy": Setting(track="online", observe="arrived", mode="commit", backfill="easy"),
    "schedule": Setting(observe="arrived"),
    "clairvoyant": Setting(),
}


def play(policy, problem, setting=SETTINGS["fit"]):
    return PolicySolver(policy).solve(problem, setting, Budget(), np.random.default_rng(0))


def problem(seed, n=20):
    """Tasks on five agents, two of them alike, with outages, quotas and wrong estimates."""
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
    """One resource, one task at a time per agent, estimates exact."""
    n, t = np.shape(fields["duration"])
    plain = {"demand": np.ones((n, t, 1)), "capacity": np.ones((t, 1)), "agent_type": range(t)}
    return Instance.from_dict(plain | fields)


def test_there_are_planners():
    assert len(PLANNERS) >= 2
    assert all(
        isinstance(planner, Policy) and planner.observe == "arrived"
        for planner in PLANNERS.values()
    )


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", PLANNERS)
def test_play_is_legal_complete_and_repeatable(name, setting):
    for seed in range(3):
        first, second = (play(PLANNERS[name], problem(seed), SETTINGS[setting]) for _ in range(2))
        assert verify(problem(seed), first.schedule) == []
        assert first.schedule.to_dict() == second.schedule.to_dict()


@pytest.mark.parametrize("name", PLANNERS)
def test_budget_sharing_is_played_by_the_rule_to_fall_back_on(name):
    rng = np.random.default_rng(0)
    costs, use = rng.integers(1, 50, (12, 3)), rng.integers(1, 5, (12, 3, 1))
    gap = Instance(
        duration=costs,
        demand=use,
        capacity=[[14], [14], [14]],
        agent_type=[0, 1, 2],
        sharing="budget",
    )
    result = play(PLANNERS[name], gap, Setting(track="assign"))
    assert result.status == "feasible"
    assert verify(gap, result.schedule) == []


@pytest.fixture(params=PLANNERS)
def planned_at(request, monkeypatch):
    """A function that plays `certain(**fields)` and returns the ticks at which the policy made a plan."""
    planner, ticks = PLANNERS[request.param], []
    steps = planner.steps

    def noted(observation, keys):
        ticks.append(observation.time)
        return steps(observation, keys)

    def run(**fields):
        instance = certain(**fields)
        assert verify(instance, play(planner, instance).schedule) == []
        return ticks

    monkeypatch.setattr(planner, "steps", noted)
    return run


TASKS = [
    [3, 9],
    [4, 9],
    [9, 5],
    [2, 9],
    [9, 6],
]  # on agent 0: task 3, 0, 1, ending at 2, 5, 9; on agent 1: 2 and 4, at 5, 11


def test_one_plan_does_where_nothing_unforeseen_happens(planned_at):
    assert planned_at(duration=TASKS) == [0]


def test_tasks_that_look_alike_are_interchangeable(planned_at):
    assert planned_at(duration=[[3, 4]] * 6) == [0]


def test_an_arrival_needs_a_new_plan(planned_at):
    assert planned_at(duration=[*TASKS, [9, 1]], release=[0, 0, 0, 0, 0, 5]) == [0, 5]


@pytest.mark.parametrize(("actual", "ticks"), [(3, [0, 3]), (7, [0, 5, 7])], ids=["early", "late"])
def test_an_end_that_differs_from_its_estimate_needs_a_new_plan(planned_at, actual, ticks):
    duration = np.array(TASKS)
    duration[2, 1] = actual
    assert planned_at(duration=duration, estimate=TASKS) == ticks


def test_an_agent_that_goes_away_needs_a_new_plan(planned_at):
    assert planned_at(duration=TASKS, outages=[(1, 5, 6, False)]) == [0, 5, 6]
