"""Objectives and metrics against hand calculations and the worked example."""

import itertools
import math

import numpy as np
import pytest

from bench.instance import Instance
from bench.metrics import horizon, latency_metrics, metrics, objective, penalty, trivial_bound
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, SettingError
from bench.verify import verify

# -- the worked example: compute 500 / 200 / 800, data 10 / 5 / 20 on agents with 1 / 2 / 4 GPUs and
# memory 16 / 32 / 64

DURATION = [[500, 250, 125], [200, 100, 50], [800, 400, 200]]
DATA = [10, 5, 20]
SLOT = [[[1]] * 3] * 3


def example(**fields):
    return Instance(
        **{
            "duration": DURATION,
            "demand": SLOT,
            "capacity": [[1]] * 3,
            "agent_type": [0, 1, 2],
            **fields,
        }
    )


def every_assignment(instance):
    """Return the total_time of each feasible choice of agents."""
    plans = {
        x: Schedule.from_assignment(instance, x) for x in itertools.product(range(3), repeat=3)
    }
    return {
        x: objective(instance, plan, "total_time")
        for x, plan in plans.items()
        if not verify(instance, plan)
    }


@pytest.mark.parametrize("counted", [True, False])
def test_worked_example_without_contention(counted):
    demand = [[[d * counted]] * 3 for d in DATA]
    values = every_assignment(example(sharing="budget", demand=demand, capacity=[[16], [32], [64]]))
    assert min(values.values()) == 375
    assert values[2, 2, 2] == 375


def test_worked_example_with_one_task_per_agent():
    values = every_assignment(example(sharing="budget"))
    assert len(values) == 6
    assert min(values.values()) == 650
    assert max(values.values()) == 1100
    assert np.mean(list(values.values())) == 875
    assert values[1, 0, 2] == 650


def test_worked_example_with_one_task_per_agent_and_memory():
    demand = [[[1, d]] * 3 for d in DATA]
    values = every_assignment(
        example(sharing="budget", demand=demand, capacity=[[1, 16], [1, 32], [1, 64]])
    )
    assert len(values) == 4
    assert min(values.values()) == 650
    assert max(values.values()) == 950
    assert np.mean(list(values.values())) == 781.25


def list_schedule(order, agents):
    """Return the schedule of tasks in `order`, each directly after the last one on its agent."""
    free = [0, 0, 0]
    start = [0, 0, 0]
    for task in order:
        agent = agents[task]
        start[task] = free[agent]
        free[agent] += DURATION[task][agent]
    return Schedule.from_assignment(example(), agents, start)


def test_worked_example_with_one_task_at_a_time():
    totals = {}
    spans = {}
    for order, x in itertools.product(
        itertools.permutations(range(3)), itertools.product(range(3), repeat=3)
    ):
        plan = list_schedule(order, x)
        assert verify(example(), plan) == []
        totals[x] = min(totals.get(x, math.inf), objective(example(), plan, "total_time"))
        spans[x] = min(spans.get(x, math.inf), objective(example(), plan, "makespan"))
    assert min(totals.values()) == totals[1, 2, 2] == totals[2, 1, 2] == 550
    assert min(spans.values()) == spans[1, 0, 2] == spans[1, 2, 2] == 250


@pytest.mark.parametrize(
    ("order", "total", "span"),
    [((0, 1, 2), 550, 325), ((1, 0, 2), 600, 375), ((2, 0, 1), 650, 250)],
    ids=["fifo", "shortest first", "longest first"],
)
def test_worked_example_by_earliest_finish_time(order, total, span):
    free = [0, 0, 0]
    agents = [0, 0, 0]
    for task in order:
        agents[task] = min(range(3), key=lambda a, task=task: free[a] + DURATION[task][a])
        free[agents[task]] += DURATION[task][agents[task]]
    plan = list_schedule(order, agents)
    assert objective(example(), plan, "total_time") == total
    assert objective(example(), plan, "makespan") == span


# -- every metric by hand: two agents of one type with 2 GPUs; ticks of 5 s

HAND = Instance(
    duration=[[4], [6], [2]],
    demand=[[[2]], [[2]], [[1]]],
    capacity=[[2], [2]],
    agent_type=[0, 0],
    resources=["gpu"],
    release=[0, 0, 2],
    weight=[1, 2, 3],
    due=[4, 5, 5],
    tenant=[0, 1, 1],
    kind=[1, 1, 2],
    outages=[(1, 8, 10)],
    tick_seconds=5.0,
)
PLAN = Schedule([0, 1, 2], [0, 1, 0], [0, 0, 4], [4, 6, 6])  # flow times 4, 6, 4


def test_every_metric_by_hand():
    got = metrics(HAND, PLAN)
    # Demanded: 4 over [0, 2), 5 over [2, 4), 3 over [4, 6); available: 4. Means over the
    # time that each task is in the system:
    contention_0 = (2 * 1 + 2 * 5 / 4) / 4
    contention_1 = (2 * 1 + 2 * 5 / 4 + 2 * 1) / 6
    contention_2 = (2 * 5 / 4 + 2 * 1) / 4
    expected = {
        "total_time": 1 * 4 + 2 * 6 + 3 * 4,
        "makespan": 6,
        "tardiness": 2 * 1 + 3 * 1,
        "bounded_slowdown": (1 + 1 + 2) / 3,
        "bounded_slowdown_p50": 1,
        "bounded_slowdown_p99": np.percentile([1, 1, 2], 99),
        "jct_mean": 5 * 14 / 3,
        "jct_p50": 20,
        "jct_p99": np.percentile([20, 20, 30], 99),
        "queueing_delay_mean": 10 / 3,
        "queueing_delay_p50": 0,
        "queueing_delay_p99": np.percentile([0, 0, 10], 99),
        "utilisation_gpu": (8 + 12 + 2) / 24,
        "qos_violation_rate": 2 / 3,
        "jain_index": (1 + 1.5) ** 2 / (2 * (1 + 1.5**2)),  # mean slowdowns: 4/4; (6/6 + 4/2) / 2
        "finish_time_fairness_worst": max(
            1 / contention_0, 1 / contention_1, 4 / (2 * contention_2)
        ),
        "jct_mean_train": 25,
        "jct_mean_inference": 20,
        "unassigned": 0,
    }
    missing = {"jct_mean_preprocess", "jct_mean_deploy"}
    assert set(got) == set(expected) | missing
    assert {key: got[key] for key in expected} == pytest.approx(expected, rel=1e-12)
    assert all(math.isnan(got[key]) for key in missing)


def test_slowdown_counts_short_tasks_as_ten_seconds():
    """p = 1 tick of 5 s, T = 3 ticks: 15 s / max(5 s, 10 s)."""
    case = Instance([[1]], [[[1]]], [[1]], [0], tick_seconds=5.0)
    assert objective(case, Schedule([0], [0], [2], [3]), "bounded_slowdown") == 1.5
    assert objective(case, Schedule([0], [0], [0], [1]), "bounded_slowdown") == 1.0


def test_slowdown_uses_the_fastest_type_of_capable_agents():
    case = Instance([[20, 40, 10]], [[[1], [1], [9]]], [[1], [1], [1]], [0, 1, 2])
    assert objective(case, Schedule([0], [1], [0], [40]), "bounded_slowdown") == 2.0


def test_lost_work_counts_as_busy_and_the_last_piece_ends_the_task():
    case = Instance(
        [[5], [2]], [[[1]], [[1]]], [[1], [1]], [0, 0], outages=[(0, 3, 5, False)], release=[1, 0]
    )
    plan = Schedule([0, 0, 1], [0, 0, 1], [1, 5, 0], [3, 10, 2])
    assert verify(case, plan) == []
    got = metrics(case, plan)
    assert got["total_time"] == 9 + 2
    assert got["queueing_delay_mean"] == 0
    assert got["utilisation_resource0"] == pytest.approx((2 + 5 + 2) / (20 - 2))


def test_fairness_divides_by_the_capacity_that_is_up():
    """Two GPUs, one of them down over [0, 4): contention 2 until 4, and 1 afterwards."""
    case = Instance([[4], [4]], [[[1]], [[1]]], [[1], [1]], [0, 0], outages=[(1, 0, 4)])
    got = metrics(case, Schedule([0, 1], [0, 0], [0, 4], [4, 8]))
    assert got["finish_time_fairness_worst"] == pytest.approx(8 / (4 * (2 * 4 + 1 * 4) / 8))


def test_fairness_uses_all_agents_while_none_is_up():
    case = Instance([[4], [4]], [[[1]], [[1]]], [[1]], [0], outages=[(0, 0, 4)])
    got = metrics(case, Schedule([0, 1], [0, 0], [4, 8], [8, 12]))
    assert got["finish_time_fairness_worst"] == pytest.approx(
        max(8 / (4 * 2), 12 / (4 * (2 * 8 + 1 * 4) / 12))
    )


def naive_fairness(case, plan):
    """Return rho of every task, computed tick by tick."""
    fastest = [
        int(np.argmin(np.where(row > 0, row, 10**9)))
        for row in np.where(case.runnable(), case.duration, -1)
    ]
    end = dict(zip(plan.task.tolist(), plan.end.tolist(), strict=True))
    out = []
    for j in range(case.n_tasks):
        levels = []
        for tick in range(case.release[j], end[j]):
            inside = [i for i in range(case.n_tasks) if case.release[i] <= tick < end[i]]
            up = [
                a
                for a in range(case.n_agents)
                if not any(o.agent == a and o.start <= tick < o.end for o in case.outages)
            ]
            need = sum(case.demand[i, fastest[i]] for i in inside)
            have = case.capacity[up].sum(axis=0)
            have = np.where(have > 0, have, case.capacity.sum(axis=0))
            levels.append(max(1.0, float((need / have).max())))
        out.append((end[j] - case.release[j]) / (case.duration[j, fastest[j]] * np.mean(levels)))
    return out


def test_fairness_equals_a_computation_tick_by_tick():
    rng = np.random.default_rng(3)
    for _ in range(60):
        n = int(rng.integers(1, 9))
        m = int(rng.integers(1, 4))
        release = rng.integers(0, 8, n)
        outages = [
            (a, s := int(rng.integers(0, 9)), s + int(rng.integers(1, 6)))
            for a in range(m)
            if rng.random() < 0.6
        ]
        case = Instance(
            duration=rng.integers(1, 7, (n, 2)),
            demand=rng.integers(0, 3, (n, 2, 2)),
            capacity=rng.integers(2, 5, (m, 2)),
            agent_type=rng.integers(2, size=m),
            release=release,
            outages=outages,
        )
        agents = rng.integers(m, size=n)
        plan = Schedule.from_assignment(case, agents, release + rng.integers(0, 12, n))
        assert metrics(case, plan)["finish_time_fairness_worst"] == pytest.approx(
            max(naive_fairness(case, plan))
        )


def test_clock_metrics_are_missing_with_budget_sharing():
    case = example(sharing="budget", tenant=[0, 1, 2])
    got = metrics(case, Schedule.from_assignment(case, [1, 0, 2]))
    assert {key for key, value in got.items() if not math.isnan(value)} == {
        "total_time",
        "unassigned",
    }
    assert set(got) == set(metrics(example(), list_schedule((0, 1, 2), (1, 0, 2))))


def test_total_time_is_reported_in_the_original_sense():
    """Profits 3 and 7, to be maximised, are internal costs K - c with K = 10."""
    case = Instance(
        [[7], [3]], [[[1]], [[1]]], [[2]], [0], sharing="budget", sense="max", offset=10
    )
    plan = Schedule.from_assignment(case, [0, 0])
    assert objective(case, plan, "total_time") == 10
    assert metrics(case, plan)["total_time"] == 10  # 3 + 7
    left_out = metrics(case, Schedule.from_assignment(case, [0, -1]))["total_time"]
    assert left_out == 20 - (7 + penalty(case, "total_time")) == 2


def test_metrics_without_due_dates_and_tenants_are_nan():
    got = metrics(example(), list_schedule((0, 1, 2), (1, 0, 2)))
    assert all(math.isnan(got[key]) for key in ("tardiness", "qos_violation_rate", "jain_index"))


def test_latency_percentiles():
    assert latency_metrics([0.1, 0.2, 0.3]) == pytest.approx(
        {"decision_latency_p50": 0.2, "decision_latency_p99": 0.298}
    )
    assert all(math.isnan(value) for value in latency_metrics([]).values())


# -- the penalty of unassigned tasks ---------------------------------------------------------------


def test_penalty_with_budget_sharing():
    case = example(sharing="budget", weight=[1, 2, 3])
    assert penalty(case, "total_time") == 1 + 500 + 2 * 200 + 3 * 800
    left_out = Schedule.from_assignment(case, [1, -1, -1])
    assert objective(case, left_out, "total_time") == 250 + 2 * penalty(case, "total_time")
    assert objective(case, left_out, "total_time") > max(every_assignment(case).values())


def test_penalty_with_time_sharing_of_every_objective():
    assert horizon(HAND) == 10 + 12
    assert penalty(HAND, "total_time") == 1 + 22 + 2 * 22 + 3 * 20
    assert penalty(HAND, "makespan") == 1 + 22
    assert penalty(HAND, "tardiness") == 1 + 18 + 2 * 17 + 3 * 17
    assert penalty(HAND, "bounded_slowdown") == pytest.approx(1 + (22 / 4 + 22 / 6 + 20 / 2) / 3)
    empty = Schedule([], [], [], [])
    for name in OBJECTIVES:
        assert objective(HAND, empty, name) == pytest.approx(3 * penalty(HAND, name))
        one_left_out = Schedule([0, 1], [0, 1], [0, 0], [4, 6])
        assert objective(HAND, one_left_out, name) > penalty(HAND, name) - 1
    got = metrics(HAND, empty)
    assert got["unassigned"] == 3
    assert got["qos_violation_rate"] == 1
    assert math.isnan(got["jct_mean"])


def test_a_task_with_a_short_piece_or_an_invalid_agent_is_not_done():
    case = Instance([[4, -1]], [[[1], [1]]], [[1], [1]], [0, 1])
    for piece in ([0], [0], [0], [3]), ([0], [1], [0], [1]), ([0], [5], [0], [4]):
        assert objective(case, Schedule(*piece), "total_time") == penalty(case, "total_time")


def test_objectives_that_an_instance_does_not_have_are_errors():
    with pytest.raises(SettingError, match="due dates"):
        objective(example(), list_schedule((0, 1, 2), (1, 0, 2)), "tardiness")
    with pytest.raises(SettingError, match="no clock"):
        penalty(example(sharing="budget"), "makespan")
    with pytest.raises(SettingError, match="objective"):
        trivial_bound(example(), "speed")


# -- bounds ----------------------------------------------------------------------------------------


def test_trivial_bounds_by_hand():
    assert trivial_bound(HAND, "total_time") == 4 + 2 * 6 + 3 * 2
    assert trivial_bound(HAND, "makespan") == 6  # ceil(22 / 4), and 0 + 6
    assert trivial_bound(HAND, "tardiness") == 2 * 1
    assert trivial_bound(HAND, "bounded_slowdown") == 1
    packed = Instance([[3]] * 5, [[[1]]] * 5, [[1], [1]], [0, 0], release=[0, 0, 4, 4, 4])
    assert trivial_bound(packed, "makespan") == 4 + math.ceil(9 / 2)


def test_trivial_bounds_lie_below_serial_schedules():
    rng = np.random.default_rng(5)
    for _ in range(50):
        n = int(rng.integers(1, 7))
        m = int(rng.integers(1, 4))
        case = Instance(
            duration=rng.integers(1, 9, (n, 2)),
            demand=rng.integers(1, 3, (n, 2, 1)),
            capacity=np.full((m, 1), 2),
            agent_type=rng.integers(2, size=m),
            release=np.sort(rng.integers(0, 9, n)),
            due=rng.integers(0, 20, n),
            weight=rng.integers(0, 4, n),
        )
        free = [0] * m
        start = []
        agents = rng.integers(m, size=n)
        for j, a in enumerate(agents):
            start.append(max(free[a], int(case.release[j])))
            free[a] = start[-1] + int(case.duration[j, case.agent_type[a]])
        plan = Schedule.from_assignment(case, agents, start)
        assert verify(case, plan) == []
        for name in OBJECTIVES:
            assert trivial_bound(case, name) <= objective(case, plan, name) < penalty(case, name)
