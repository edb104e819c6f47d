"""The rolling horizon: optimal where all is known, within outages and quotas, and long queues."""

import itertools
import time

import numpy as np
import pytest

from bench.contracts import Budget
from bench.errors import UserError
from bench.instance import Instance
from bench.metrics import objective
from bench.rollout import PolicySolver
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, Setting
from bench.verify import verify
from solvers.exact.objective_terms import Terms
from solvers.matching import EFT, Sufferage
from solvers.rolling import RollingHorizon, improve_plan
from solvers.rules import WSPT

ONLINE = Setting(track="online", observe="arrived")
RULES = (Sufferage(), WSPT())


def roll_out(instance, setting=ONLINE, rules=RULES, **options):
    """Return the schedule of the policy, verified."""
    policy = RollingHorizon(rules, **options)
    result = PolicySolver(policy).solve(instance, setting, Budget(), np.random.default_rng(0))
    assert verify(instance, result.schedule) == []
    return result.schedule


def one_at_a_time(duration, agent_type=None, **other):
    """Return an instance whose agents run one task at a time; by default one agent per type."""
    n, t = np.shape(duration)
    agent_type = range(t) if agent_type is None else agent_type
    parts = {
        "duration": duration,
        "demand": np.ones((n, t, 1)),
        "capacity": np.ones((len(agent_type), 1)),
        "agent_type": agent_type,
    }
    return Instance.from_dict(parts | other)


def placement(schedule):
    """Return task -> (agent, start)."""
    columns = (schedule.task.tolist(), schedule.agent.tolist(), schedule.start.tolist())
    return {task: (agent, start) for task, agent, start in zip(*columns, strict=True)}


@pytest.mark.parametrize("mode", ["fit", "commit"])
def test_worked_example(mode):
    instance = one_at_a_time([[500, 250, 125], [200, 100, 50], [800, 400, 200]])
    for name, best in (("total_time", 550), ("makespan", 250)):
        setting = Setting(track="online", observe="arrived", objective=name, mode=mode)
        assert objective(instance, roll_out(instance, setting, objective=name), name) == best


def least_objective(instance, name):
    """Return the optimum by enumeration of all task sequences and agents, without idle time."""
    n, best = instance.n_tasks, np.inf
    for order in itertools.permutations(range(n)):
        for agents in itertools.product(range(instance.n_agents), repeat=n):
            free, ends = [0] * instance.n_agents, np.zeros(n, int)
            for task in order:
                agent = agents[task]
                ends[task] = free[agent] = free[agent] + instance.duration[task, agent]
            late = np.maximum(0, ends - instance.due)
            slow = np.maximum(1, ends / np.maximum(instance.duration.min(axis=1), 10))
            values = {
                "total_time": instance.weight @ ends,
                "makespan": ends.max(),
                "tardiness": instance.weight @ late,
            }
            best = min(best, values.get(name, slow.mean()))
    return best


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_schedule_is_optimal_where_all_tasks_arrive_at_once(name):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        instance = one_at_a_time(
            rng.integers(5, 40, (4, 2)), weight=rng.integers(1, 5, 4), due=rng.integers(5, 60, 4)
        )
        played = roll_out(
            instance, Setting(track="online", observe="arrived", objective=name), objective=name
        )
        assert objective(instance, played, name) == pytest.approx(
            least_objective(instance, name), rel=1e-9
        )


def test_the_wait_before_now_counts_in_slowdowns():
    # At 20, task 2 would run first if task 1 had just arrived. But task 1 has waited since 1, and
    # the slowdowns of the order 2, 1 are larger: 1 + 2.8 > 2.7 + 1.
    instance = one_at_a_time([[20], [8], [1]], release=[0, 1, 20])
    setting = Setting(track="online", observe="arrived", objective="bounded_slowdown")
    assert placement(roll_out(instance, setting, [WSPT()], objective="bounded_slowdown"))[1] == (
        0,
        20,
    )


def test_the_policy_waits_for_a_faster_agent_that_is_busy():
    instance = one_at_a_time([[3, 30], [2, 9]], release=[0, 1])
    assert placement(roll_out(instance)) == {0: (0, 0), 1: (0, 3)}


def test_running_tasks_stay_on_their_agents_among_identical_agents():
    instance = one_at_a_time(
        [[9], [5], [7], [2], [2], [4]], agent_type=[0, 0, 0], release=[0, 0, 0, 1, 6, 6]
    )
    placed = placement(roll_out(instance))
    assert placed[3] == (placed[1][0], 5)  # behind the shortest
    assert {placed[4], placed[5]} == {(placed[1][0], 7), (placed[2][0], 7)}


def test_plans_are_improved_wherever_tasks_run_on_identical_agents():
    instance = Instance(
        duration=[[5], [5], [1], [10]],
        demand=[[[1]], [[2]], [[3]], [[3]]],
        weight=[0, 0, 1, 1],
        capacity=[[3], [3]],
        agent_type=[0, 0],
    )
    running = np.array([1, 0])  # not in the order that breaks the symmetry of identical agents
    terms = Terms.of(instance, "total_time")
    first = Schedule.from_assignment(instance, [1, 0, 0, 0], [0, 0, 15, 5])
    plan = improve_plan(instance, terms, first, running, time.perf_counter() + 60, 1.0)
    assert objective(instance, plan, "total_time") == 6 + 15
    assert placement(plan)[0] == (1, 0)
    assert placement(plan)[1] == (0, 0)


def test_a_task_that_does_not_end_before_an_outage_goes_elsewhere_or_waits():
    outage = {"agent": 0, "start": 4, "end": 6, "announced": True}
    assert placement(roll_out(one_at_a_time([[5, 20]], outages=[outage]))) == {0: (1, 0)}
    assert placement(roll_out(one_at_a_time([[5, -1]], outages=[outage]))) == {0: (0, 6)}
    assert placement(
        roll_out(one_at_a_time([[3, -1], [2, -1]], weight=[1, 5], outages=[outage]))
    ) == {
        1: (0, 0),
        0: (0, 6),
    }


def test_a_task_that_outlives_its_estimate_is_assumed_to_end_at_the_next_tick():
    instance = one_at_a_time([[10, 99], [4, 8]], estimate=[[3, 99], [4, 8]], release=[0, 5])
    assert placement(roll_out(instance))[1] == (0, 10)  # at 5: 6 + 4 < 5 + 8


def test_quotas_hold_in_plans():
    instance = one_at_a_time([[5, 5], [5, 5], [6, 6]], tenant=[0, 0, 1], quota=[[1], [1]])
    assert sorted(start for _, start in placement(roll_out(instance)).values()) == [0, 0, 5]


def test_a_plan_of_a_long_queue_has_the_first_ranked_tasks_of_each_agent():
    # all but one run on agent 0 only, and each of them ranks before the one that agent 1 can take
    duration = [[1 + j, -1] for j in range(30)] + [[-1, 500]]
    placed = placement(roll_out(one_at_a_time(duration), horizon_tasks=4))
    assert placed[30] == (1, 0)
    assert [placed[j][1] for j in range(30)] == [sum(range(1, j + 1)) for j in range(30)]


def test_tardiness_is_total_time_without_due_dates():
    assert placement(roll_out(one_at_a_time([[9], [1]]), objective="tardiness"))[1] == (0, 0)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"rules": []}, "rules"),
        ({"rules": [EFT()], "objective": "speed"}, "objective"),
        ({"rules": [EFT()], "seconds": 0}, "seconds"),
        ({"rules": [EFT()], "horizon_tasks": 0}, "horizon_tasks"),
    ],
)
def test_invalid_options_are_errors_that_name_the_field(options, field):
    with pytest.raises(UserError, match=rf"^solver\.{field}: value "):
        RollingHorizon(**options)
