"""The values of the worked example, found by enumeration on the instances of the dataset."""

import itertools

import numpy as np
import pytest

from bench.errors import UserError
from bench.instance_set import set_hash
from datasets.seed_example import SeedExample

ASSIGNMENTS = list(itertools.product(range(3), repeat=3))


def readings(reading):
    return {instance.name: instance for instance in SeedExample(reading=reading).instances("test")}


def assignment_costs(instance):
    """Return the sum of execution times of every assignment x that fits the budgets."""
    costs = {}
    for x in ASSIGNMENTS:
        held = np.zeros_like(instance.capacity)
        for j, a in enumerate(x):
            held[a] += instance.demand[j, a]
        if (held <= instance.capacity).all():
            costs[x] = sum(int(instance.duration[j, a]) for j, a in enumerate(x))
    return costs


def sequences(instance):
    """Return (least sum of completions, least makespan) over the orders, for each assignment.

    One task at a time per agent, without idling.
    """
    out = {}
    for x, order in itertools.product(ASSIGNMENTS, itertools.permutations(range(3))):
        free = [0, 0, 0]
        total = 0
        for j in order:
            free[x[j]] += int(instance.duration[j, x[j]])
            total += free[x[j]]
        key = out.setdefault(x, (total, max(free)))
        out[x] = (min(key[0], total), min(key[1], max(free)))
    return out


@pytest.mark.parametrize("name", ["free", "memory"])
def test_sum_of_execution_times(name):
    costs = assignment_costs(readings("budget")[name])
    assert min(costs.values()) == costs[2, 2, 2] == 375


def test_at_most_one_task_per_agent():
    costs = assignment_costs(readings("budget")["one each"])
    assert len(costs) == 6
    assert min(costs.values()) == costs[1, 0, 2] == 650
    assert max(costs.values()) == 1100
    assert np.mean(list(costs.values())) == 875


def test_at_most_one_task_per_agent_with_memory():
    costs = assignment_costs(readings("budget")["one each, memory"])
    assert len(costs) == 4
    assert min(costs.values()) == costs[1, 0, 2] == 650
    assert max(costs.values()) == 950
    assert np.mean(list(costs.values())) == 781.25


def test_one_task_at_a_time():
    instance = readings("time")["one at a time"]
    assert (instance.demand == 1).all()
    assert (instance.capacity == 1).all()
    values = sequences(instance)
    assert min(total for total, _ in values.values()) == 550
    assert {x for x, (total, _) in values.items() if total == 550} >= {(1, 2, 2), (2, 1, 2)}
    assert min(makespan for _, makespan in values.values()) == 250
    assert {x for x, (_, makespan) in values.items() if makespan == 250} == {(1, 0, 2), (1, 2, 2)}


@pytest.mark.parametrize("reading", ["time", "budget"])
def test_splits_are_disjoint(reading):
    data = SeedExample(reading=reading, train=40, validation=20)
    hashes = {
        split: {i.hash() for i in data.instances(split)}
        for split in ("train", "validation", "test")
    }
    assert not hashes["train"] & hashes["validation"]
    assert not (hashes["train"] | hashes["validation"]) & hashes["test"]
    assert set_hash(data.instances("train")) == set_hash(data.instances("train"))


def test_unknown_reading_is_a_user_error():
    with pytest.raises(UserError, match=r"reading: value 'both': must be one of time, budget"):
        SeedExample(reading="both")
