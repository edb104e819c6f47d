"""Every physical property of a task or an agent changes the instance that is computed from it."""

import math

import pytest

from bench.errors import UserError
from bench.instance import InstanceError
from bench.instance_set import check, set_hash
from bench.workload import Agent, AgentType, Task, Workload, interpolate

TYPES = (AgentType("cpu", 100.0, accelerated=False), AgentType("gpu", 400.0))
AGENTS = (Agent("cpu", 0, 8, 1000), Agent("gpu", 4, 16, 4000))
RATE = {"net": {"cpu": 0.1, "gpu": 2.0}, "gpu only": {"gpu": 1.0}}
SPEEDUP = {1: 1.0, 2: 1.8, 4: 3.0}
TASK = Task("net", compute=600.0, data=4000.0, gpus=1, cpus=2, memory=500)


def compiled(task=TASK, types=TYPES, agents=AGENTS, rate=RATE, **more):
    return Workload([task], agents, types, rate, SPEEDUP, tick_seconds=10.0, **more).compile()


def duration(*args, **kwargs):
    return compiled(*args, **kwargs).duration[0].tolist()


def test_durations_by_hand():
    assert duration() == [math.ceil((40 + 6000) / 10), math.ceil((10 + 300) / 10)]
    assert duration(TASK._replace(gpus=2)) == [604, math.ceil((10 + 600 / (2 * 1.8)) / 10)]
    assert duration(TASK._replace(gpus=3))[1] == math.ceil((10 + 600 / (2 * 2.4)) / 10)
    assert duration(TASK._replace(compute=0.0, data=0.0)) == [1, 1]
    assert duration(TASK._replace(model="gpu only")) == [-1, math.ceil(610 / 10)]


@pytest.mark.parametrize("change", [{"compute": 900.0}, {"data": 90_000.0}, {"gpus": 4}])
def test_every_property_of_a_task_changes_a_duration(change):
    assert duration(TASK._replace(**change)) != duration()


def test_bandwidth_and_rate_change_durations():
    assert duration(types=(TYPES[0], AgentType("gpu", 40.0)))[1] == 40
    assert duration(rate={"net": {"cpu": 0.1, "gpu": 4.0}})[1] == 16


@pytest.mark.parametrize(
    ("task", "agent"),
    [
        (TASK._replace(gpus=4), Agent("gpu", 2, 16, 4000)),
        (TASK._replace(cpus=16), Agent("gpu", 4, 8, 4000)),
        (TASK._replace(memory=3000), Agent("gpu", 4, 16, 2000)),
    ],
)
def test_every_quantity_of_an_agent_changes_feasibility(task, agent):
    other = Agent("cpu", 0, 16, 4000)
    assert compiled(task, agents=(other, AGENTS[1])).runnable().tolist() == [[True, True]]
    assert compiled(task, agents=(other, agent)).runnable().tolist() == [[True, False]]


def test_cpu_only_agents_hold_no_gpus_and_run_one_worker():
    instance = compiled(TASK._replace(gpus=4))
    assert instance.demand[0].tolist() == [[0, 2, 500], [4, 2, 500]]
    assert instance.duration[0, 0] == duration()[0]


def test_times_are_converted_to_ticks():
    instance = compiled(
        TASK._replace(release=25.0, due=900.0, estimate_ratio=1.5), outages=[(1, 100.0, 205.0)]
    )
    assert (instance.release[0], instance.due[0]) == (3, 90)
    assert instance.estimate[0].tolist() == [906, math.ceil(465 / 10)]
    assert instance.outages == ((1, 10, 21, True),)
    tenth = Workload([Task("net", 0.6)], AGENTS, TYPES, RATE, tick_seconds=0.1).compile()
    assert tenth.duration.tolist() == [[60, 3]]  # 0.3 / 0.1 exceeds 3 in floating point


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compiled(TASK._replace(compute=float("nan"))), r"tasks\[0\].compute"),
        (lambda: compiled(TASK._replace(release=1e300)), r"release\[0\]: value 1e\+300 s: must be"),
        (lambda: Workload([TASK], AGENTS, TYPES, RATE, tick_seconds=0.0).compile(), "tick_seconds"),
        (lambda: compiled(TASK._replace(data=-1.0)), r"tasks\[0\].data"),
        (lambda: compiled(TASK._replace(model="unknown")), r"tasks\[0\].model"),
        (lambda: compiled(TASK._replace(kind="dance")), r"tasks\[0\].kind"),
        (lambda: compiled(types=(TYPES[0], AgentType("gpu", 0.0))), r"types\[gpu\].bandwidth"),
        (lambda: compiled(agents=(Agent("tpu", 1, 1, 1),)), r"agents\[0\].type"),
        (lambda: compiled(rate={"net": {"gpu": -1.0}}), r"rate\[net\]\[gpu\]"),
        (lambda: compiled(TASK._replace(estimate_ratio=0.0)), r"tasks\[0\].estimate_ratio"),
        (
            lambda: Workload([TASK, TASK._replace(due=1.0)], AGENTS, TYPES, RATE).compile(),
            r"tasks\[1\].due",
        ),
        (lambda: compiled(TASK._replace(memory=9000)), r"no agent can run task 0"),
    ],
)
def test_errors_name_the_invalid_quantity(make, message):
    with pytest.raises(InstanceError, match=message):
        make()


def test_interpolate_is_linear_inside_and_constant_outside():
    table = {0.0: 10.0, 0.5: 20.0, 1.0: 100.0}
    assert [interpolate(table, x) for x in (-1, 0, 0.25, 0.5, 0.75, 2)] == [10, 10, 15, 20, 60, 100]


def test_set_hash_depends_on_order_and_content():
    a = compiled()
    b = compiled(TASK._replace(compute=900.0))
    assert set_hash([a, b]) == set_hash(iter([a, b])) != set_hash([b, a])
    assert check("test", [a], {}) == check("test", [a], {"test": set_hash([a])}) == set_hash([a])
    with pytest.raises(UserError, match=r"dataset\.hashes\.test: pinned 0000"):
        check("test", [a], {"test": "0" * 64})
