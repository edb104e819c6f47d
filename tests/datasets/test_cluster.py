"""Synthetic clusters: the standard sets equal their pinned hashes; every option has its effect."""

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.errors import UserError
from bench.instance_set import check, set_hash
from datasets.cluster import Cluster, pick

CONF = Path(__file__).parents[2] / "conf" / "dataset"
AGENTS = [
    {"type": "cpu", "gpus": 0, "cpus": 16, "memory": 65536},
    {"type": "v100", "gpus": 4, "cpus": 24, "memory": 458752, "count": 2},
]


def cluster(**options):
    return Cluster(
        **({"name": "c", "agents": AGENTS, "tasks": [10, 12], "longest": 7200} | options)
    )


def load(name):
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml").dataset)


@pytest.mark.parametrize(
    ("name", "sizes", "tasks", "agents"),
    [
        ("tiny", (1024, 32, 16), (5, 6), 3),
        ("small", (4096, 64, 32), (10, 12), 4),
        ("medium", (512, 16, 16), (45, 55), 8),
        ("large", (16, 2, 4), (480, 520), 32),
    ],
)
def test_standard_sets_equal_their_pinned_hashes(name, sizes, tasks, agents):
    data = load(name)
    assert tuple(data.sizes.values()) == sizes
    for split in ("validation", "test"):
        instances = list(data.instances(split))
        assert len(instances) == data.sizes[split]
        assert check(split, instances, data.hashes) == data.hashes[split]
        assert all(tasks[0] <= i.n_tasks <= tasks[1] and i.n_agents == agents for i in instances)
        assert all(i.due is not None and i.n_tenants == 3 and not i.outages for i in instances)


@pytest.mark.parametrize("name", ["tiny", pytest.param("small", marks=pytest.mark.slow)])
def test_small_train_sets_are_pinned_and_splits_are_disjoint(name):
    data = load(name)
    instances = {split: list(data.instances(split)) for split in ("train", "validation", "test")}
    assert check("train", instances["train"], data.hashes) == data.hashes["train"]
    everything = [i.hash() for split in instances.values() for i in split]
    assert len(set(everything)) == len(everything)


def test_tasks_have_the_calibrated_distributions():
    tasks = [
        task for i in range(300) for task in cluster(longest=1_047_865).workload("train", i).tasks
    ]
    kinds = [task.kind for task in tasks]
    assert {kind: round(kinds.count(kind) / len(kinds), 1) for kind in set(kinds)} == pytest.approx(
        {"train": 0.6, "inference": 0.15, "preprocess": 0.15, "deploy": 0.1}, abs=0.06
    )
    trained = [task for task in tasks if task.kind == "train"]
    assert np.mean([task.gpus == 1 for task in trained]) == pytest.approx(0.7, abs=0.04)
    seconds = sorted(task.compute for task in trained if task.gpus == 1)
    assert seconds[len(seconds) // 2] == pytest.approx(1684, rel=0.15)  # Philly's median
    assert np.mean(seconds) > 3 * seconds[len(seconds) // 2]  # heavy tail


def test_longest_limits_training_times():
    data = cluster(longest=600)
    compute = [task.compute for i in range(50) for task in data.workload("train", i).tasks]
    assert max(compute) <= 600 * 5.4  # 5.4: speedup on 8 GPUs


def test_arrival_span_is_inverse_to_load():
    spans = [
        sum(int(i.release.max()) for i in cluster(load=load, train=30).instances("train"))
        for load in (0.5, 2.0)
    ]
    assert spans[0] == pytest.approx(4 * spans[1], rel=0.05)


def test_bursty_gaps_vary_more_than_poisson_gaps():
    def variation(arrivals):
        data = cluster(arrivals=arrivals, tasks=[100, 100])
        gaps = np.concatenate(
            [np.diff([t.release for t in data.workload("train", i).tasks]) for i in range(5)]
        )
        return gaps.std() / gaps.mean()

    assert variation("poisson") == pytest.approx(1.0, abs=0.25)
    assert variation("bursty") > 1.8


def test_estimates_equal_durations_without_estimate_error():
    assert all(np.array_equal(i.estimate, i.duration) for i in cluster(train=5).instances("train"))
    estimated = list(cluster(train=20, estimate_error=0.5, tick_seconds=1.0).instances("train"))
    ratio = np.concatenate([(i.estimate / i.duration)[i.duration > 50] for i in estimated])
    assert ratio.min() < 0.9 < 1.1 < ratio.max()
    assert ratio.min() > 0.64
    assert ratio.max() < 1.52


def test_outages_are_announced_windows_on_different_agents():
    for instance in cluster(train=10, outages=2, outage_seconds=600, tick_seconds=60).instances(
        "train"
    ):
        assert len({o.agent for o in instance.outages}) == 2
        assert all(o.announced and 10 <= o.end - o.start <= 11 for o in instance.outages)


def test_quotas_cover_every_task_and_are_below_total_capacity():
    for instance in cluster(train=20, quota_share=0.1).instances("train"):
        assert (instance.demand.max(axis=(0, 1)) <= instance.quota).all()
        assert (instance.quota < instance.capacity.sum(axis=0)).all()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"agents": [{"type": "tpu", "gpus": 1, "cpus": 1, "memory": 1}]}, "agents: unknown type"),
        ({"agents": AGENTS[:1]}, "agents: at least one needs GPUs"),
        ({"arrivals": "daily"}, "arrivals: value 'daily': must be poisson, bursty or mixed"),
        ({"tasks": [5, 4]}, r"tasks: value \[5, 4\]: must be the smallest and the largest"),
        ({"load": 0}, "load: value 0: must be positive"),
        ({"tick_seconds": -1.0}, "tick_seconds: value -1.0: must be positive"),
        ({"outages": 9}, "outages: value 9: .*number of agents"),
        ({"slack": [0.5, 2.0]}, r"slack: value \[0.5, 2.0\]: must be"),
        ({"estimate_error": -0.1}, "estimate_error: value -0.1: must be at least 0"),
    ],
)
def test_invalid_options_are_user_errors(option, message):
    with pytest.raises(UserError, match=rf"^dataset\.{message}"):
        cluster(**option)


def test_another_seed_gives_another_set():
    assert set_hash(cluster(test=3).instances("test")) != set_hash(
        cluster(test=3, seed=1).instances("test")
    )


def test_pick_returns_the_value_of_the_interval():
    assert [
        pick({"a": 0.5, "b": 0.25, "c": 0.25}, u) for u in (0.0, 0.49, 0.5, 0.74, 0.75, 0.999)
    ] == list("aabbcc")
