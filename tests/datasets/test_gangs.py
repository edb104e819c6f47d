"""Gangs with release dates: the pinned sets have the size and the load that their names state."""

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.errors import UserError
from bench.instance_set import check
from datasets.gangs import Gangs

CONF = Path(__file__).parents[2] / "conf" / "dataset"
SETS = {"gangs_20x3": (20, 3), "gangs_30x4": (30, 4), "gangs_50x5": (50, 5)}


@pytest.fixture(scope="module", params=SETS)
def pinned(request):
    return request.param, instantiate(OmegaConf.load(CONF / f"{request.param}.yaml").dataset)


def test_sets_are_pinned_and_names_state_size_and_load(pinned):
    name, data = pinned
    for split, size in (("train", 256), ("validation", 10), ("test", 10)):
        instances = list(data.instances(split))
        assert check(split, instances, data.hashes) == data.hashes[split]
        assert [i.name for i in instances] == [
            f"{name}-{split}-{i}-load{(1.05, 0.25)[i % 2]}" for i in range(size)
        ]
        assert {(i.n_tasks, i.n_agents) for i in instances} == {SETS[name]}


def test_loads_alternate(pinned):
    for i, instance in enumerate(pinned[1].instances("test")):
        work = instance.shortest() @ instance.demand[:, 0, 0]
        # The range of n uniform numbers is (n - 1) / (n + 1) of the interval in the mean.
        span = instance.release.max() * (instance.n_tasks + 1) / (instance.n_tasks - 1)
        assert work / instance.capacity[:, 0].sum() / span == pytest.approx(
            (1.05, 0.25)[i % 2], rel=0.4
        )


def test_tasks_have_the_documented_distributions():
    instances = list(Gangs("g", 50, [8, 4, 4, 4, 4], train=60).instances("train"))
    gang = np.concatenate([i.demand[:, 0, 0] for i in instances])
    assert [round(float((gang == gpus).mean()), 2) for gpus in (1, 2, 4, 8)] == pytest.approx(
        [0.7, 0.1, 0.15, 0.05], abs=0.03
    )
    duration = np.concatenate([i.duration for i in instances])
    eligible = duration > 0
    assert eligible[:, 0].all()
    assert 1 - eligible[:, 1:].mean() == pytest.approx(0.2, abs=0.02)
    assert duration[eligible].min() >= 10
    assert duration[eligible].max() <= 400
    assert np.median(duration[eligible]) == pytest.approx(63, rel=0.1)
    weight = np.concatenate([i.weight for i in instances])
    assert [float((weight == w).mean()) for w in (1, 2, 4)] == pytest.approx(
        [0.7, 0.2, 0.1], abs=0.03
    )
    assert all(i.release[0] == 0 and (np.diff(i.release) >= 0).all() for i in instances)


def test_memory_is_about_as_scarce_as_the_gpus():
    instances = Gangs("g", 50, [8, 4, 4, 4, 4], train=60).instances("train")
    load = [(i.shortest() @ i.demand[:, 0]) / i.capacity.sum(axis=0) for i in instances]
    scarcity = np.array([memory / gpu for gpu, memory in load])
    assert np.quantile(scarcity, [0.05, 0.95]) == pytest.approx([0.95, 1.6], abs=0.2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"tasks": 0}, "dataset.tasks: value 0: must be at least 1"),
        ({"gpus": []}, "dataset.gpus"),
        ({"gpus": [0]}, "dataset.gpus"),
        ({"loads": [0]}, "loads"),
    ],
)
def test_invalid_options_are_user_errors(option, message):
    with pytest.raises(UserError, match=message):
        Gangs(**({"name": "g", "tasks": 5, "gpus": [4]} | option))
