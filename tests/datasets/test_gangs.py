"""Gangs with release dates: the pinned sets hold what their names say, and the load is the one asked for."""

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.errors import UserError
from bench.run.instance_set import check
from datasets.gangs import Gangs

CONF = Path(__file__).parents[2] / "conf" / "dataset"
SETS = {"gangs_20x3": (20, 3), "gangs_30x4": (30, 4), "gangs_50x5": (50, 5)}


@pytest.fixture(scope="module", params=SETS)
def pinned(request):
    return request.param, instantiate(OmegaConf.load(CONF / f"{request.param}.yaml").dataset)


def test_the_sets_are_pinned_and_their_names_say_size_and_load(pinned):
    name, data = pinned
    for split, size in (("train", 256), ("validation", 10), ("test", 10)):
        instances = list(data.instances(split))
        assert check(split, instances, data.hashes) == data.hashes[split]
        assert [i.name for i in instances] == [
            f"{name}-{split}-{i}-load{(1.05, 0.25)[i % 2]}" for i in range(size)
        ]
        assert {(i.n_tasks, i.n_agents) for i in instances} == {SETS[name]}


def test_half_are_loaded_and_half_are_light(pinned):
    for i, instance in enumerate(pinned[1].instances("test")):
        work = instance.shortest() @ instance.demand[:, 0, 0]
        span = (
            instance.release.max() * (instance.n_tasks + 1) / (instance.n_tasks - 1)
        )  # a range of uniforms falls short
        assert work / instance.capacity[:, 0].sum() / span == pytest.approx(
            (1.05, 0.25)[i % 2], rel=0.4
        )


def test_tasks_are_what_the_docstring_says():
    instances = list(Gangs("g", 50, [8, 4, 4, 4, 4], train=60).instances("train"))
    gang = np.concatenate([i.demand[:, 0, 0] for i in instances])
    assert [round(float((gang == gpus).mean()), 2) for gpus in (1, 2, 4, 8)] == pytest.approx(
        [0.7, 0.1, 0.15, 0.05], abs=0.03
    )
    duration = np.concatenate([i.duration for i in instances])
    there = duration > 0
    assert (there[:, 0].all(), 1 - there[:, 1:].mean()) == (True, pytest.approx(0.2, abs=0.02))
    assert (duration[there].min() >= 10, duration[there].max() <= 400) == (True, True)
    assert np.median(duration[there]) == pytest.approx(63, rel=0.1)
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
        ({"tasks": 0}, "dataset.tasks"),
        ({"gpus": []}, "dataset.gpus"),
        ({"gpus": [0]}, "dataset.gpus"),
        ({"loads": [0]}, "loads"),
    ],
)
def test_options_that_mean_nothing(option, message):
    with pytest.raises(UserError, match=message):
        Gangs(**({"name": "g", "tasks": 5, "gpus": [4]} | option))
